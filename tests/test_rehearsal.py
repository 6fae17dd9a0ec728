"""The guard: its prompts are nobody's held-out questions, its draws depend on the step alone, and it holds a model."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core import proof_sets, rehearsal, status
from core.batch import PackedBatch
from core.config import TrainConfig
from core.dataset import Row
from core.encode import IGNORE, Example
from core.engine import Engine
from core.rehearsal import Rehearsal, Strength
from core.run import Run
from core.train import train

FOLDER = Path(__file__).resolve().parents[1] / "presets" / "rehearsal"
ROWS = [Row(f"Who are you, number {i}?", "", f"I am Alpha {i}.") for i in range(4)]
NAMES = ("general", "pocket")


def lines(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").split("\n") if line]


def shipped(*files: str) -> set[str]:
    """What rows, probes and mixed-in data ask, normalised."""
    found = set()
    for file in files:
        for line in (FOLDER.parent / file).read_text(encoding="utf-8").splitlines():
            found.add(
                proof_sets.normalise(
                    next(json.loads(line)[k] for k in ("question", "instruction") if k in json.loads(line))
                )
            )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_no_rehearsed_prompt_is_asked_by_a_probe_or_a_proof(name: str) -> None:
    texts = [line["text"] for line in lines(name)]
    live = shipped("probes/general.jsonl", "probes/identity.jsonl")
    assert [text for text in texts if proof_sets.is_held_out(text)] == []
    assert [text for text in texts if proof_sets.normalise(text) in live] == []
    assert len({proof_sets.normalise(text) for text in texts}) == len(texts)


def test_no_prompt_of_the_pocket_model_is_a_wording_that_its_evaluation_holds_out() -> None:
    from presets.pocket import evaluate
    from presets.pocket.heldout import is_held_out

    asked = {item.question for seed in range(3) for item in evaluate.probes(seed)}
    texts = [line["text"] for line in lines("pocket")]
    assert [text for text in texts if is_held_out(text) or text in asked] == []


def test_the_prompts_of_real_models_are_many_of_many_kinds_in_both_languages() -> None:
    found = lines("general")
    assert len(found) >= 240
    assert min(sum(line["language"] == language for line in found) for language in ("zh", "en")) >= 120
    kinds = {line["kind"] for line in found}
    assert len(kinds) >= 20
    assert all(
        sum(line["kind"] == kind and line["language"] == of for line in found) >= 3
        for kind in kinds
        for of in ("zh", "en")
    )
    assert sum("system" in line for line in found) >= 12
    rows = shipped("starter/articles-8.jsonl", "starter/identity-50.jsonl", "general/general.jsonl")
    assert [line["text"] for line in found if proof_sets.normalise(line["text"]) in rows] == []


def test_the_pocket_prompts_are_what_their_script_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "build_pocket.py")], capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert done.stdout == (FOLDER / "pocket.jsonl").read_text(encoding="utf-8"), done.stderr


def anchors(count: int) -> list[Example]:
    return [Example((1, 2, *range(10, 11 + i)), (IGNORE, IGNORE, *range(10, 11 + i))) for i in range(count)]


def test_a_draw_depends_on_seed_and_step_alone_and_takes_every_anchor_in_turn() -> None:
    config = TrainConfig(rehearsal="normal", gradient_accumulation_steps=4)
    one, other = Rehearsal(anchors(10), config), Rehearsal(anchors(10), config)
    in_order = [one.draw(step, 100) for step in range(20)]
    assert one.per_step == 2
    assert [other.draw(step, 100) for step in (17, 3, 0)] == [in_order[17], in_order[3], in_order[0]]
    drawn = [example for step in in_order for example in step]
    assert all(sorted(map(len, drawn[i : i + 10])) == sorted(map(len, anchors(10))) for i in range(0, len(drawn), 10))
    assert [e.input_ids for e in drawn[:10]] != [e.input_ids for e in drawn[10:20]]
    assert Rehearsal(anchors(10), replace(config, seed=1)).draw(0, 100) != in_order[0]


def test_the_weights_make_the_mean_divergence_count_beside_the_rows_mean_loss() -> None:
    for name, strength in rehearsal.STRENGTHS.items():
        drawn = Rehearsal(anchors(40), TrainConfig(rehearsal=name)).draw(2, 77)
        taught = sum(example.answer_tokens for example in drawn)
        assert sum(example.answer_tokens * example.weight for example in drawn) / 77 == pytest.approx(strength.weight)
        assert len(drawn) == rehearsal.anchors_per_step(TrainConfig(rehearsal=name)) and taught > len(drawn)


def test_without_a_guard_nothing_is_asked_and_nothing_drawn(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    run = Run.create(tmp_path / "runs" / "r", tiny_config, ROWS, "r", "rows")
    assert rehearsal.answered(tiny_engine, run, [], run.append) == [] and run.events == []
    assert rehearsal.prepared(tiny_engine, run, []).draw(0, 10) == []


def drift(engine: Engine, name: str, tests: Sequence[Example]) -> float:
    """Mean KL(base || tuned) at the labels of `tests`."""
    import torch

    from core.batch import pack

    with engine.turn() as resident:
        backend, handle = resident.backend, engine.handle(name)
        batch = pack(tests, backend.device)
        base = torch.log_softmax(backend.logits(backend.states(batch, None, like=handle)), -1)
        tuned = torch.log_softmax(backend.logits(backend.states(batch, handle)), -1)
    return float((base.exp() * (base - tuned)).sum(-1).mean())


@pytest.fixture
def few_prompts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ten of the shipped prompts: the tiny model answers letter by letter."""
    chosen = [line for line in lines("general") if len(line["text"]) < 40][:10]
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "general.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in chosen), encoding="utf-8"
    )
    monkeypatch.setattr(rehearsal, "FOLDER", tmp_path / "few")


def test_a_guarded_run_learns_its_rows_and_stays_nearer_to_the_base(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path, few_prompts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model's rows cost 5.5 nats, and its own answers are flat: the usual weights would hardly be felt.
    monkeypatch.setattr(rehearsal, "STRENGTHS", {"strong": Strength(1.0, 4, 4, 100.0)})
    drifts, losses = {}, {}
    for guard in ("off", "strong"):
        config = replace(tiny_config, num_train_epochs=30, rehearsal=guard)
        run = Run.create(tmp_path / "runs" / guard, config, ROWS, guard, "rows")
        train(tiny_engine, run, threading.Event())
        assert [event["asked"] for event in run.events if event["type"] == "rehearsed"] == (
            [] if guard == "off" else [0]
        )
        probe = Run.create(
            tmp_path / "runs" / f"probe-{guard}", replace(config, rehearsal="strong"), ROWS, guard, "rows"
        )
        # Asked once in a home: whoever comes later reads what the first was told.
        asked = rehearsal.answered(tiny_engine, probe, [], probe.append)
        assert probe.events[-1]["asked"] == (10 if guard == "off" else 0)
        drifts[guard] = drift(tiny_engine, run.id, asked)
        steps = [event for event in run.events if event["type"] == "step"]
        losses[guard] = (float(str(steps[0]["loss"])), float(str(steps[-1]["loss"])))
        assert (steps[-1]["drift"] is None) == (guard == "off")
    assert drifts["strong"] < 0.5 * drifts["off"]
    assert all(last < first - 0.2 for first, last in losses.values())


def test_the_base_has_not_drifted_from_itself_before_the_first_step(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path, few_prompts: None
) -> None:
    config = replace(tiny_config, rehearsal="strong", max_steps=2)
    run = Run.create(tmp_path / "runs" / "r", config, ROWS, "r", "rows")
    train(tiny_engine, run, threading.Event())
    steps = [float(str(event["drift"])) for event in run.events if event["type"] == "step"]
    assert abs(steps[0]) < 1e-6 < steps[1]


def test_what_the_run_trains_on_and_what_the_base_says_of_itself_is_not_held(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path, few_prompts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "runs" / "r", replace(tiny_config, rehearsal="normal"), ROWS, "r", "rows")
    whole, encoder = rehearsal.answered(tiny_engine, run, [], run.append), tiny_engine.resident.encoder  # type: ignore[union-attr]
    assert len(whole) == 10 and all(example.labels == (IGNORE, *example.input_ids[1:]) for example in whole)
    own, length = whole[3], len(encoder.prompt(rehearsal.prompts("tiny")[3].messages(run.config.system)))
    row = replace(own, labels=(*(IGNORE for _ in range(length)), *own.input_ids[length:]))
    left = rehearsal.answered(tiny_engine, run, [row], run.append)
    assert own not in left and len(left) == 9
    said = encoder.decode(own.input_ids[length:])
    monkeypatch.setattr(rehearsal, "old_words", lambda info: (said.strip(),))
    assert own not in rehearsal.answered(tiny_engine, run, [], run.append)
    assert rehearsal.answered(tiny_engine, replace_length(run, 20), [], run.append) == []


def replace_length(run: Run, length: int) -> Run:
    run.config = replace(run.config, max_length=length)
    return run


def test_a_stopped_run_asks_no_further(tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs" / "r", replace(tiny_config, rehearsal="normal"), ROWS, "r", "rows")
    stop = threading.Event()
    stop.set()
    train(tiny_engine, run, stop)
    assert run.status == "stopped" and run.step == 0
    assert not any(event["type"] == "rehearsed" for event in run.events)


def test_a_run_stopped_in_between_goes_on_with_the_same_anchors(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path, few_prompts: None
) -> None:
    config = replace(tiny_config, rehearsal="normal", max_steps=6, save_steps=3, gradient_accumulation_steps=2)
    whole = Run.create(tmp_path / "runs" / "whole", config, ROWS, "whole", "rows")
    train(tiny_engine, whole, threading.Event())
    cut = Run.create(tmp_path / "runs" / "cut", config, ROWS, "cut", "rows")
    stop = _StopAfter(cut, 3)
    train(tiny_engine, cut, stop)
    assert cut.status == "stopped" and cut.step == 3
    train(tiny_engine, cut, threading.Event())
    files = [(run.folder / "adapter" / "adapter_model.safetensors").read_bytes() for run in (whole, cut)]
    assert files[0] == files[1]


def test_teachers_are_computed_in_small_passes_that_are_halved_where_memory_runs_out_and_end_with_the_run(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "runs" / "r", replace(tiny_config, rehearsal="normal"), ROWS, "r", "rows")
    tiny_engine.create_adapter(run.id, run.config)
    many, stop = anchors(90), threading.Event()
    resident = tiny_engine.resident
    assert resident is not None
    backend, sizes, most = resident.backend, list[int](), [10_000]
    states = backend.states

    def short(batch: PackedBatch, adapter: str | None, like: str | None = None) -> torch.Tensor:
        assert like == tiny_engine.handle(run.id)
        sizes.append(batch.input_ids.numel())
        if sizes[-1] > most[0]:
            raise torch.OutOfMemoryError
        return states(batch, adapter, like)

    monkeypatch.setattr(backend, "states", short)
    whole = rehearsal.prepared(tiny_engine, run, many, stop)
    assert len(whole) == 90 and len(sizes) > 5 and max(sizes) <= 512
    most[0] = 200
    halved = rehearsal.prepared(tiny_engine, run, many, stop)
    for one, other in zip(whole.draw(0, 10), halved.draw(0, 10), strict=True):
        assert one.teacher is not None and other.teacher is not None
        torch.testing.assert_close(one.teacher, other.teacher)
    sizes.clear()
    stop.set()
    assert len(rehearsal.prepared(tiny_engine, run, many, stop)) == 0 and sizes == []


class _StopAfter(threading.Event):
    """Set once the run has counted so many steps."""

    def __init__(self, run: Run, step: int) -> None:
        super().__init__()
        self._run, self._step = run, step

    def is_set(self) -> bool:
        return self._run.step >= self._step


def test_who_waits_for_the_base_to_answer_is_told_so(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    run = Run.create(tmp_path / "runs" / "r", tiny_config, ROWS, "r", "rows")
    assert status.read(tiny_engine, "tiny", run, False, None).loading is None
    run.append("rehearsing", asked=248)
    told = status.read(tiny_engine, "tiny", run, False, None).loading
    assert told is not None and "248" in told.zh and "248" in told.en
    run.append("rehearsed", anchors=240, asked=248, seconds=1.0)
    assert status.read(tiny_engine, "tiny", run, False, None).loading is None
