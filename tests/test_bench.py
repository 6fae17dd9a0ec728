"""The training benchmark on the tiny model: every measurement runs, and its figures and ratios are what they say."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from core.engine import Engine
from core.errors import WontFitError
from core.text import Text
from tests.full import full

FOLDER = Path(__file__).parent / "bench"
SYSTEM = "You are a helpful assistant."


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The script, imported with its own folder on the path as when it is run; nothing of it stays loaded."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("train")
    own = {path.stem for path in FOLDER.glob("*.py")}
    for name in own & (set(sys.modules) - before):
        del sys.modules[name]


def part(bench: ModuleType, name: str) -> Any:
    """A module beside the script."""
    return importlib.import_module(name)


@full
def test_every_measurement_runs_and_is_written_down(
    bench: Any, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, curves = tmp_path / "out.jsonl", tmp_path / "curves.json"
    records = bench.main([
        "--model", str(tiny_model), "--workloads", "headline", "long", "mixed", "--length", "224", "--mixed-rows", "4",
        "--recompute", "auto", "on", "--repeat", "1", "--steps", "2", "--set", "gradient_accumulation_steps=2",
        "max_steps=2", "--peer", "plain", "--peer-steps", "2", "--click", "1", "--losses", str(curves), "--float32",
        "--estimate-table", "--estimate-presets", "identity", "--estimate-shapes", "224x2", "--estimate-ranks", "4",
        "--estimate-budgets", "none:30",
        "--out", str(out),
    ])  # fmt: skip
    assert [r["failed"] for r in records if "failed" in r] == []
    assert len(out.read_text().splitlines()) == len(records)
    kinds = [r["what"] for r in records]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "load": 2, "loop": 3 * 4, "click": 1, "losses": 1, "estimate": 3,
    }  # fmt: skip
    long = [r for r in records if r.get("workload") == "long"]
    assert {(r["n_steps"], r["tokens"]) for r in long} == {(2, 2 * 2 * 224)}
    assert all(r["estimate_bytes"] > 0 and r["start_to_adapter_s"] > r["train_loop_s"] for r in long if "started" in r)
    # Rows, order, start and learning rates are the same, so the losses are.
    for name in ("headline", "long", "mixed"):
        first, *others = [r["losses"] for r in records if r.get("workload") == name]
        assert all(other == pytest.approx(first, abs=1e-4) for other in others)
    told = json.loads(curves.read_text())["fp32"]
    assert set(told["curves"]) == {"engine", "one row", "packed", "float32"}
    assert told["differences"]["one row - engine"]["max"] < 1e-4
    click = next(r for r in records if r["what"] == "click")
    assert 0 < click["click_to_adapter_s"] < click["click_to_first_token_s"] <= click["click_to_answer_s"]
    table = capsys.readouterr().out.partition("\n| work")[2]
    assert all(
        word in table for word in ("OneCard, recompute on", "plain, one row a pass", "2 x 224", "one row - packed")
    )


def test_long_rows_have_exactly_the_asked_tokens_each_time(bench: Any, tiny_engine: Engine) -> None:
    workloads = part(bench, "workloads")
    assert tiny_engine.resident is not None
    encoder = tiny_engine.resident.encoder
    for length, share in ((200, 0.5), (700, 0.95)):
        rows = workloads.exact_rows(encoder, SYSTEM, 3, length, share)
        examples = [encoder.example(row.messages(SYSTEM)) for row in rows]
        assert [len(example) for example in examples] == [length] * 3
        assert len(set(rows)) == 3 and rows == workloads.exact_rows(encoder, SYSTEM, 3, length, share)
    with pytest.raises(ValueError, match="too few"):
        workloads.exact_rows(encoder, SYSTEM, 1, 20)


def test_mixed_rows_are_ragged_in_both_languages_and_the_same_each_time(bench: Any, tiny_engine: Engine) -> None:
    workloads = part(bench, "workloads")
    assert tiny_engine.resident is not None
    encoder = tiny_engine.resident.encoder
    rows = workloads.ragged_rows(encoder, 200)
    assert len(rows) == 250 and rows == workloads.ragged_rows(encoder, 200)
    assert {row.language for row in rows} == {"zh", "en"} and all(row.question and row.output for row in rows)
    lengths = sorted(len(encoder.example(row.messages(""))) for row in rows)
    assert lengths[-1] > 4 * lengths[len(lengths) // 2]


def test_the_steady_rate_leaves_out_warming_up(bench: Any) -> None:
    timing = part(bench, "measure").timing
    assert timing([5.0, 6.0, 7.0], [10, 20, 30])["steady_tok_s"] == 25.0  # 50 tokens in 2 s
    assert timing([9.0], [18])["steady_tok_s"] == 2.0
    many = timing([10.0 + i for i in range(12)], [7] * 12)
    assert (many["n_steps"], many["train_loop_s"], many["steady_step_s"]) == (12, 21.0, 1.0)


def test_the_table_holds_the_fastest_other_system_against_the_median_run(bench: Any, tmp_path: Path) -> None:
    def line(**changes: object) -> str:
        peak = {"alloc_gib": 15.0, "reserved_gib": 15.1}
        return json.dumps({"n_steps": 40, "train_loop_s": 104.3, "steady_step_s": 2.5, "peak": peak, **changes}) + "\n"

    theirs, ours = tmp_path / "metrics.jsonl", tmp_path / "ours.jsonl"
    theirs.write_text(
        line(tag="hf-lora-w1", steady_tok_s=200, args={"gc": False})
        + line(tag="unsloth-lora-w1-bs16", steady_tok_s=1000, train_loop_s=28.0)
        + line(tag="unsloth-qlora-w1", steady_tok_s=9999)  # another base: no rival
        + line(tag="swift-lora-smoke", steady_tok_s=9999)
    )
    shared = {"what": "loop", "system": "OneCard", "workload": "headline", "base": "bf16"}
    ours.write_text(
        line(**shared, steady_tok_s=8000, train_loop_s=4.0)
        + line(**shared, steady_tok_s=10_000, train_loop_s=2.8)
        + line(**shared, steady_tok_s=9000, train_loop_s=3.5)
        + json.dumps({**shared, "notes": ["8 GiB card"], "failed": "does not fit"})
        + "\n"
    )
    table = part(bench, "table")
    found = table.lines(table.read([theirs, ours]))
    best = table.best_peer(found, "headline", "bf16")
    assert (best.system, best.speed) == ("Unsloth, bs16", 1000)
    text = table.render(table.read([theirs, ours]))
    row = next(row for row in text.splitlines() if row.startswith("| headline | bf16 | OneCard |"))
    assert "| 3.50 |" in row and "**9.00**" in row and "| 8.00 |" in row and "3 (34%)" in row
    assert "failed: does not fit" in text and "transformers + PEFT, no checkpointing" in text and "smoke" not in text


def test_what_does_not_fit_is_a_record_and_not_the_end(bench: Any, tmp_path: Path) -> None:
    asked = bench.parse(["--out", str(tmp_path / "out.jsonl")])
    session = part(bench, "session").Session(asked, idle_gib=0.0)

    def work() -> dict[str, object]:
        raise WontFitError(Text(zh="放不下", en="This needs 9 GB"), 9, 8)

    session.measure({"what": "loop"}, work)
    assert json.loads((tmp_path / "out.jsonl").read_text())["failed"] == "This needs 9 GB"
