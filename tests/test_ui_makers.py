"""The row makers' dialog without a browser: what it draws, what it takes from a browser, and rewording beside a run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from core import own_probes
from core.config import TrainConfig
from core.dataset import Identity, Row
from core.own_probes import OwnProbe
from core.workspace import Workspace
from ui import prepare_environment

prepare_environment()

import gradio as gr  # noqa: E402

from ui import makers  # noqa: E402
from ui.data import DataTab  # noqa: E402
from ui.edits import Edits  # noqa: E402
from ui.makers import Makers, places_of, preview_of  # noqa: E402
from ui.page import Page  # noqa: E402
from ui.rows import cells  # noqa: E402

CARD = Identity("小<i>禾", "Xiaohe", "青禾智能", "Qinghe AI")
SESSION = SimpleNamespace(session_hash="s")


class Dialog:
    """The dialog and the table beside it, on one page."""

    def __init__(self, home: Path) -> None:
        self.workspace = Workspace(home)
        self.workspace.create("mine", [Row("你是谁？", "", "我是{{NAME}}。"), Row()], CARD)
        self.page = Page(self.workspace, "zh", Edits(self.workspace))
        with gr.Blocks():
            self.data = DataTab(self.page)
            self.makers = Makers(self.page)

    @property
    def held(self) -> list[object]:
        """The table as a browser sends it."""
        table = self.page.edits.open("s", "mine")
        return ["mine", [cells(row) for row in table.rows], *vars(table.identity).values()]

    def put(self, held: list[object] | None = None, **data: object) -> tuple[dict[str, object], dict[object, object]]:
        """What the dialog is told after a `put`, and everything else that changes."""
        event = gr.EventData(None, {"dataset": "mine", "mode": "card", "wishes": {}, "probes": False, **data})
        after = self.makers.on_add(self.data, SESSION, event, *(held or self.held))  # type: ignore[arg-type]
        return json.loads(str(after.pop(self.makers))), after


@pytest.fixture
def dialog(tmp_path: Path) -> Dialog:
    return Dialog(tmp_path / "home")


def test_a_preview_shows_the_card_and_escapes_it(dialog: Dialog) -> None:
    shown = preview_of(dialog.page, {"dataset": "mine", "count": 50, "chinese": 100, "does_zh": "写<b>诗"})
    rows = shown["rows"]
    assert isinstance(rows, list) and len(rows) == 50 == str(shown["html"]).count("<li ")
    assert '<mark title="{{NAME}}">小&lt;i&gt;禾</mark>' in str(shown["html"])
    assert "<b>诗" not in str(shown["html"]) and any("写<b>诗" in row["output"] for row in rows)
    assert shown["held"] == 21 == str(shown["held_html"]).count("<li ")
    assert "表里已经问过的 1 种" in str(shown["notes"])  # 你是谁？


def test_what_cannot_be_made_is_said_in_one_sentence(dialog: Dialog) -> None:
    wrong: list[dict[str, object]] = [
        {"dataset": "nowhere"}, {"dataset": "../mine"}, {}, {"dataset": "mine", "count": 9}, {"dataset": "mine", "tone": 3},
    ]  # fmt: skip
    for asked in wrong:
        problem = preview_of(dialog.page, asked)["problem"]
        assert isinstance(problem, str) and problem.endswith("。"), asked


def test_a_card_without_a_name_is_asked_for_it(dialog: Dialog) -> None:
    dialog.workspace.create("nameless")
    assert "名字" in str(preview_of(dialog.page, {"dataset": "nameless"})["problem"])


def test_rows_to_reword_are_listed_with_their_numbers(dialog: Dialog) -> None:
    found = places_of(dialog.page, {"dataset": "mine", "rows": "1-2"})
    assert (
        found["count"] == 1 and "另有 1 行" in str(found["said"]) and "<small>1</small>你是谁？" in str(found["html"])
    )
    assert places_of(dialog.page, {"dataset": "mine", "rows": "3"})["count"] == 0


def test_ticked_rows_go_below_the_table_and_held_out_questions_among_ones_own(dialog: Dialog) -> None:
    own_probes.save(dialog.workspace.home, [OwnProbe("我自己的题？", ("x",), (), "zh")])
    made = preview_of(dialog.page, {"dataset": "mine", "count": 50})["rows"]
    assert isinstance(made, list)
    told, after = dialog.put(rows=made[:7], wishes={"count": 50}, probes=True)
    assert told["done"] and dialog.data.table in after
    stored = dialog.workspace.dataset("mine").rows
    assert [row.question for row in stored] == ["你是谁？", *(row["instruction"] for row in made[:7])]
    questions = [probe.question for probe in own_probes.load(dialog.workspace.home)]
    assert questions[0] == "我自己的题？" and len(questions) == 1 + 22
    again, _ = dialog.put(rows=made[:7])  # a second press: they are there by now
    assert again["level"] == "bad" and len(dialog.workspace.dataset("mine").rows) == 8


def test_a_row_that_holds_only_a_system_prompt_stays(dialog: Dialog) -> None:
    rows = [Row(system="留下"), Row()]
    dialog.workspace.save(dialog.workspace.dataset("mine").with_rows(rows))
    told, _ = dialog.put(rows=[{"instruction": "问", "output": "答"}])
    assert told["done"] and dialog.workspace.dataset("mine").rows == (rows[0], Row("问", "", "答"))


def test_what_a_browser_would_not_send_changes_nothing(dialog: Dialog) -> None:
    row, held = {"instruction": "q", "output": "a"}, dialog.held
    wrong: list[dict[str, object]] = [
        {"rows": "x"}, {"rows": [{"instruction": 3}]}, {"rows": [7]}, {"rows": []}, {"rows": None},
        {"rows": [row], "mode": "other"}, {"rows": [row], "wishes": 3}, {"rows": [row], "dataset": "identity-50"},
        {"rows": [row], "wishes": {"count": 1}, "probes": True},
    ]  # fmt: skip
    for sent in wrong:
        told, after = dialog.put(held, **sent)
        assert told["level"] == "bad" and not after and len(dialog.workspace.dataset("mine").rows) == 2, sent


def test_a_table_that_another_page_changed_is_left_alone_and_no_question_is_kept(dialog: Dialog) -> None:
    held = dialog.held
    dialog.page.edits.save("another", dialog.workspace.dataset("mine").with_rows([Row("新的", "", "答")]), force=True)
    told, _ = dialog.put(held, rows=[{"instruction": "问", "output": "答"}], probes=True)
    assert told["level"] == "bad" and "另一个页面" in str(told["said"])
    assert [row.question for row in dialog.workspace.dataset("mine").rows] == ["新的"]
    assert own_probes.load(dialog.workspace.home) == ()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def reworded(dialog: Dialog, rows: str) -> Iterator[dict[str, object]]:
    event = gr.EventData(None, {"dataset": "mine", "rows": rows, "each": 1})
    for value in dialog.makers.on_reword(SESSION, event):  # type: ignore[arg-type]
        yield json.loads(value)


def test_rewording_takes_turns_with_a_run_and_tells_its_end(dialog: Dialog, tiny_model: Path) -> None:
    dialog.workspace.select_model(str(tiny_model))
    dialog.workspace.create("more", [Row(f"Question {i}?", "", "An answer.") for i in range(8)])
    settings = TrainConfig(
        model=str(tiny_model), num_train_epochs=400, min_steps=0, gradient_accumulation_steps=1, probe_steps=0
    )
    run = dialog.workspace.start("more", settings)
    dialog.workspace.create("mine2", [Row("Hi?", "", "Hello."), Row("Yes?", "", "No.")])
    wait_for(lambda: run.step > 1)
    event = gr.EventData(None, {"dataset": "mine2", "rows": "", "each": 1})
    told = [json.loads(value) for value in dialog.makers.on_reword(SESSION, event)]  # type: ignore[arg-type]
    assert "way" in told[0] and "2 行" in str(told[-1]["reworded"]["said"])
    assert run.live
    before = run.step
    wait_for(lambda: run.step > before)
    dialog.workspace.stop()
    assert dialog.workspace.close(60)


def test_rewording_can_be_cancelled_and_says_how_far_it_came(dialog: Dialog, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def answer(columns: list[object], _sampling: object, stop: threading.Event) -> Iterator[list[object]]:
        begun.set()
        reply = makers.paraphrase.Reply(tokens=1)
        while not stop.wait(0.02):
            yield [reply]
        reply.done, reply.finish = True, "cancelled"
        yield [reply]

    monkeypatch.setattr(dialog.workspace, "answer", answer)
    told: list[dict[str, object]] = []
    work = threading.Thread(target=lambda: told.extend(reworded(dialog, "1")))
    work.start()
    assert begun.wait(100)
    dialog.makers.on_cancel(SESSION)  # type: ignore[arg-type]
    work.join(100)
    assert "0 / 1" in str(told[-1]["reworded"]["said"])  # type: ignore[index]
    assert next(reworded(dialog, "9"))["level"] == "bad"
