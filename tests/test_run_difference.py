"""What makes two runs different: settings with their defaults, rows, libraries, ends and speeds; and the page's words for it."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from core import proof, proof_subject, run_difference, storage
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row
from core.proof import Proof, Test
from core.proof_stats import Light, wilson
from core.run import Run
from core.text import Text
from core.workspace import Workspace
from ui import prepare_environment

prepare_environment()

from ui import run_compare  # noqa: E402
from ui.edits import Edits  # noqa: E402
from ui.page import Page  # noqa: E402

ROWS = (Row("Who are you?", "", "I am {{NAME}}."), Row("1+1?", "", "2."), Row("2+2?", "", "4."))
ATTACK = "<img src=x onerror=alert(1)>"


def make(
    home: Path, name: str, config: TrainConfig, rows: tuple[Row, ...], losses: list[float], **started: object
) -> Run:
    table = Dataset("set", rows, Identity.parse(config.model_name, config.model_author))
    run = Run.create(home / "runs" / name, config, table.resolved(), name, "set")
    run.append("started", steps=len(losses), device="card A", versions={"torch": "2.13.0", "peft": "0.21"} | started)
    for step, loss in enumerate(losses, 1):
        pace = 1.0 if step == 1 else 0.25  # the first step warms up
        run.append(
            "step", step=step, loss=loss, seconds=pace, tokens_per_second=100 / pace, peak_memory_bytes=1e9, learning_rate=1e-4
        )  # fmt: skip
    return run


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Run, Run]:
    usual = TrainConfig(model="pocket", model_name="小禾")
    first = make(tmp_path, "one", usual, ROWS, [4.0, 2.0, 1.0])
    first.append("finished", step=3, seconds=12.5)
    other = replace(usual, lora_rank=16, learning_rate=2e-4, split_dataset_ratio=0.25, mix="general#5")
    changed = (ROWS[0], Row("1+1?", "", "Two."), Row("Name a river that flows north.", "", "The Nile."))
    second = make(tmp_path, f"two {ATTACK}".replace("/", ""), other, changed, [4.0, 3.0], torch="2.11.0")
    second.append("evaluated", step=1, loss=3.5, best=True)
    second.append("evaluated", step=2, loss=3.25, best=True)
    second.append("failed", step=2, message_zh="显存不够。", message_en="Out of memory.")
    return first, second


def test_settings_that_differ_come_with_the_default_and_in_the_order_of_declaration(pair: tuple[Run, Run]) -> None:
    usual = TrainConfig()
    found = run_difference.changed_settings(*pair)
    assert [(one.name, one.first, one.second) for one in found] == [
        ("learning_rate", usual.learning_rate, 2e-4), ("lora_rank", 8, 16), ("mix", "", "general#5"),
        ("split_dataset_ratio", 0.0, 0.25),
    ]  # fmt: skip
    assert all(one.default == one.first for one in found)
    assert run_difference.changed_settings(pair[0], pair[0]) == []


def test_an_outcome_is_read_from_the_events_that_count(pair: tuple[Run, Run]) -> None:
    one, two = (run_difference.outcome(run) for run in pair)
    assert (one.status, one.step, one.steps, one.seconds, one.reason) == ("finished", 3, 3, 12.5, None)
    assert (one.first_loss, one.last_loss, one.best_evaluation) == (4.0, 1.0, None)
    assert (one.seconds_per_step, one.tokens_per_second, one.peak_memory_bytes) == (0.25, 400.0, 1e9)
    assert two.status == "failed" and two.reason == Text("显存不够。", "Out of memory.") and two.seconds is None
    assert two.best_evaluation == (2, 3.25)
    assert run_difference.changed_versions(one, two) == [("torch", "2.13.0", "2.11.0")]
    pair[1].append("resumed", step=1, damaged=[])
    again = run_difference.outcome(pair[1])
    assert (again.status, again.last_loss, again.best_evaluation) == ("interrupted", 4.0, (1, 3.5))


def test_rows_are_compared_as_the_history_compares_them(pair: tuple[Run, Run]) -> None:
    found = run_difference.data(*pair)
    assert not found.same and found.rows == (3, 3)
    assert (len(found.own.changed), len(found.own.added), len(found.own.removed)) == (1, 1, 1)
    assert run_difference.data(pair[0], pair[0]).same


def test_the_csv_has_every_point_and_no_formula(pair: tuple[Run, Run]) -> None:
    pair[0].describe("=1+1", "")
    read = list(csv.DictReader(io.StringIO(run_difference.losses_csv(pair))))
    kinds = [(row["title"], row["kind"], int(row["step"]), float(row["loss"])) for row in read]
    assert kinds[:3] == [("'=1+1", "training", step, loss) for step, loss in ((1, 4.0), (2, 2.0), (3, 1.0))]
    assert kinds[-1][1:] == ("evaluation", 2, 3.25) and len(read) == 7


def prove(run: Run, hits: int, light: Light) -> None:
    """A proof of an adapter that is nothing but a file."""
    folder = run.folder / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(run.id.encode())
    share = wilson(hits, 8)
    test = Test("took", Text("学会", "Took"), light, hits, 8, share.low, share.high, 1, Text("句", "S"))
    made = Proof(
        created=1.0, adapter=run.title, run=run.id, step=3, model="pocket", quantisation="none", dtype="float32", system="",
        suite="pocket", seconds=1.0, base_seconds=0.0, tests=(test,), light=light, headline=Text("一行", ATTACK),
        ruler=Text("", ""), weights=proof_subject.digest(folder),
    )  # fmt: skip
    storage.write_json(run.folder / "proof.json", proof.to_json(made))


def test_the_dialog_says_all_of_it_and_what_somebody_wrote_stays_text(pair: tuple[Run, Run]) -> None:
    workspace = Workspace(pair[0].folder.parents[1])
    for run, hits, light in ((pair[0], 7, "green"), (pair[1], 2, "red")):
        prove(run, hits, light)  # type: ignore[arg-type]
    pages = {language: Page(workspace, language, Edits(workspace)) for language in ("zh", "en")}  # type: ignore[arg-type]
    told = {language: run_compare.answer(page, {"run": "one", "dark": False}) for language, page in pages.items()}
    english = str(told["en"]["head"]) + str(told["en"]["body"])
    assert told["en"]["pick"] == pair[1].id and "<img" not in english and "&lt;img" in english
    for said in (
        "Adapter width (LoRA rank)<small>lora_rank</small></th><td>8 <span class=\"oc-tag \">default</span></td><td>16</td>",
        "general#5", "Rows: 3 and 3.", "7 of 8", "2 of 8", "base 1 of 8", "failed: Out of memory.", "400 tok/s, 0.25 s/step",
        "3.2500 · step 2", "<th scope=\"row\">torch</th><td>2.13.0</td><td>2.11.0</td>", "Peak memory",
    ):  # fmt: skip
        assert said in english, said
    assert all(said in str(told["zh"]["body"]) for said in ("LoRA 秩", "默认", "失败", "显存不够。", "第 2 步"))
    figure = told["en"]["chart"]
    assert isinstance(figure, dict)
    assert [trace["name"] for trace in figure["data"] if trace.get("showlegend", True)] == [
        "one", "two &lt;img src=x onerror=alert(1)&gt;", "two &lt;img src=x onerror=alert(1)&gt;: eval",
    ]  # fmt: skip
    assert (
        figure["layout"]["xaxis"]["title"]["text"] == "step"
        and told["zh"]["chart"]["layout"]["yaxis"]["title"]["text"] == "损失"
    )  # type: ignore[index]


def test_a_run_alone_one_that_is_gone_and_runs_without_points_are_said(tmp_path: Path) -> None:
    make(tmp_path, "one", TrainConfig(model="pocket"), ROWS, [])
    workspace = Workspace(tmp_path)
    page = Page(workspace, "en", Edits(workspace))
    alone = run_compare.answer(page, {"run": "one"})
    assert "no other run" in str(alone["head"]) and alone["chart"] is None and "data-rows" in str(alone["head"])
    functions = {function.__name__: function for function in run_compare._reading_functions(page)}
    assert "There is no run x" in str(functions["two"]({"run": "x"})["head"]) and functions["points"]({"run": "x"}) == {
        "csv": ""
    }
    make(tmp_path, "two", TrainConfig(model="pocket"), ROWS, [])
    both = run_compare.answer(page, {"run": "one", "pick": "nobody"})
    assert both["pick"] == "two" and both["chart"] is None
    assert "All settings are the same" in str(both["body"]) and "The same data" in str(both["body"])
