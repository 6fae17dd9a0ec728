"""The Compare tab's handlers: what a blind round sends to the page, and how columns come and go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.comparison import Session
from core.generate import Column, Reply, Sampling
from core.workspace import Workspace
from ui.edits import Edits

TEXTS = {"base": "I am the old one.", "tuned": "I am the new one."}


class _Visit:
    """As much of a gradio request as the handlers read."""

    session_hash = "visit"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose answers are known, with one adapter to choose."""
    from ui import talk

    made = Workspace(tmp_path / "home")

    def answer(columns: list[Column], _: Sampling, __: threading.Event) -> Iterator[list[Reply]]:
        for done in (False, True):
            yield [
                Reply(TEXTS["tuned" if column.adapter else "base"], 9, 5, 0.25, 33.0, done, "stop" if done else "")
                for column in columns
            ]

    made.answer = answer  # type: ignore[method-assign, assignment]
    made.identity_words = lambda asked: (("new one",), ("old one",))  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(talk, "choices", lambda page: [("the base", ""), ("my run", "run-1")])
    monkeypatch.setattr(talk, "newest", lambda page: "run-1")
    return made


def tab(workspace: Workspace) -> object:
    import gradio as gr

    from ui.compare import CompareTab
    from ui.page import Page

    with gr.Blocks():
        return CompareTab(Page(workspace, "en", Edits(workspace)))


def situation(session: Session, *picks: str) -> list[object]:
    """What the page sends of `picks`: session, count, system prompt, sampling, and five values a column."""
    sides = [[pick, 1.0, False, "", []] for pick in (*picks, *[""] * (6 - len(picks)))]
    return [session, len(picks), "", 0, 1, 0, 1, 512, 0, *(value for side in sides for value in side)]


def sent(update: dict[object, object]) -> str:
    """An update as it goes over the wire, the conversations left out: what was said is shown, after all."""
    return json.dumps([str(value) for part, value in update.items() if type(part).__name__ != "Chatbot"])


def test_a_question_that_comes_before_the_columns_are_set_is_answered_by_whom_they_will_name(
    workspace: Workspace,
) -> None:
    compare = tab(workspace)
    early = situation(Session(), "", "")
    early[-30], early[-25] = None, None  # as the page sends a picker that has no choices yet
    last = list(compare.on_ask(_Visit, None, "q", False, False, *early))[-1]
    said = [last[side.chat][-1]["content"] for side in compare.sides[:2]]
    assert said == [TEXTS["base"], TEXTS["tuned"]]


def test_before_the_vote_nothing_that_is_sent_depends_on_who_stands_where(workspace: Workspace) -> None:
    compare = tab(workspace)
    seen: dict[str, list[str]] = {}
    for _ in range(40):
        session = Session()
        updates = list(compare.on_ask(_Visit, None, "q", True, False, *situation(session, "", "run-1")))
        first = updates[-1][compare.sides[0].chat][-1]["content"]
        wire = [sent(update) for update in updates]
        assert seen.setdefault(first, wire) == wire
        compare.on_done(_Visit)
        assert session.told == [] and session.pending is not None
        named = compare._voter(0)(session)
        assert ("my run" in named[compare.sides[0].name]) == (first == TEXTS["tuned"])
        if len(seen) == 2:
            break
    one, other = seen.values()
    assert one == other  # both orders were seen, and but for the answers they are the same
    text = "".join(one)
    assert not any(word in text for word in ("run-1", "my run", "the base", "identity", "33.0", "0.25", "tuned"))


def test_a_vote_without_a_round_changes_nothing_and_a_blind_question_stands_alone(workspace: Workspace) -> None:
    import gradio as gr

    compare, session = tab(workspace), Session()
    assert compare._voter(0)(session) == gr.skip()
    sent_before = situation(session, "", "run-1")
    sent_before[13] = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "then"}]
    blind = next(compare.on_ask(_Visit, None, "q", True, False, *sent_before))
    assert [turn["content"] for turn in blind[compare.sides[0].chat]] == ["q"]
    plain = next(compare.on_ask(_Visit, None, "q", False, False, *sent_before))
    assert [turn["content"] for turn in plain[compare.sides[0].chat]] == ["before", "then", "q"]


def test_a_column_that_is_removed_takes_only_its_own_along(workspace: Workspace) -> None:
    compare = tab(workspace)
    sides = [[f"run-{i}", 0.5 * i, i == 2, f"p{i}", [], f"meter {i}", f"verdict {i}"] for i in range(6)]
    shown = compare._remover(1)(_Visit, 4, *(value for side in sides for value in side))
    a, b, c, d = compare.sides[:4]
    assert shown[compare.count] == 3 and shown[d.box]["visible"] is False and a.pick not in shown
    assert shown[b.pick]["value"] == "run-2" and shown[b.prompt]["value"] == "p2" and shown[b.own] is True
    assert shown[b.meter] == "meter 2" and shown[c.pick]["value"] == "run-3" and shown[c.verdict] == "verdict 3"
    assert "×1.5" in shown[c.tag] and shown[d.pick]["value"] == ""


def test_no_seventh_column_and_no_fewer_than_two(workspace: Workspace) -> None:
    import gradio as gr

    compare = tab(workspace)
    assert compare.on_add(6, *([""] * 24)) == gr.skip()
    assert compare._remover(0)(_Visit, 2, *([""] * 42)) == gr.skip()
    added = compare.on_add(5, *([""] * 24))
    assert added[compare.count] == 6 and added[compare.add]["interactive"] is False


def test_the_question_set_counts_verdicts_and_keeps_its_rounds_for_the_file(workspace: Workspace) -> None:
    compare, session = tab(workspace), Session()
    compare.set._read = compare._read_set
    asked = situation(session, "", "run-1")
    *_, last = compare.set.on_run(_Visit, "who?\n<b>what?\nwho?", False, *asked)
    table = last[compare.set.table]
    assert "2 questions, 2 answered differently" in table and "<b>what" not in table
    assert "old identity 2" in table and "identity hit 2" in table
    assert [one.question for one in session.questions] == ["who?", "<b>what?"]
