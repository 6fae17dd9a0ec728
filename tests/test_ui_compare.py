"""The Compare tab's handlers: what a blind round sends to the page, and how columns come and go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
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
    shown = compare._remover(1)(_Visit, Session(), 4, *(value for side in sides for value in side))
    a, b, c, d = compare.sides[:4]
    assert shown[compare.count] == 3 and shown[d.box]["visible"] is False and a.pick not in shown
    assert shown[b.pick]["value"] == "run-2" and shown[b.prompt]["value"] == "p2" and shown[b.own] is True
    assert shown[b.meter] == "meter 2" and shown[c.pick]["value"] == "run-3" and shown[c.verdict] == "verdict 3"
    assert "×1.5" in shown[c.tag] and shown[d.pick]["value"] == ""


def test_no_seventh_column_and_no_fewer_than_two(workspace: Workspace) -> None:
    import gradio as gr

    compare = tab(workspace)
    assert compare.on_add(6, *([""] * 24)) == gr.skip()
    assert compare._remover(0)(_Visit, Session(), 2, *([""] * 42)) == gr.skip()
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


def heads(compare: object, session: Session, b: str, chosen: bool = False, blind: bool = False) -> tuple[object, ...]:
    """What the page sends of its heads: the base in A, `b` in B."""
    sides = [[pick, 1.0, False, ""] for pick in ("", b, "", "", "", "")]
    return (session, 2, "", chosen, blind, *(value for side in sides for value in side))


def followed(compare: object, session: Session, b: str, chosen: bool = False) -> tuple[object, str]:
    """(who B is made, None if it stays; what stands above B's conversation) when runs came or went."""
    shown = compare.heads.on_changed(_Visit, *heads(compare, session, b, chosen))
    return shown[compare.pick_b].get("value"), shown[compare.sides[1].note]


@pytest.fixture
def two_runs(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A second run has ended just now: it is the newest."""
    from ui import talk

    monkeypatch.setattr(talk, "choices", lambda page: [("the base", ""), ("my run", "run-1"), ("next <run>", "run-2")])
    monkeypatch.setattr(talk, "newest", lambda page: "run-2")
    return workspace


def test_b_follows_the_newest_run_until_it_has_answered_and_again_once_that_is_cleared(two_runs: Workspace) -> None:
    compare, session = tab(two_runs), Session()
    assert followed(compare, session, "run-1") == ("run-2", "")
    assert followed(compare, session, "run-1", chosen=True) == (None, "")
    list(compare.on_ask(_Visit, None, "q", False, False, *situation(session, "", "run-1")))
    compare.on_done(_Visit)
    kept, note = followed(compare, session, "run-1")
    assert kept is None and "next &lt;run&gt;" in note and "<button" in note
    assert followed(compare, session, "gone")[0] == "run-2"  # what is picked stays no longer than it exists
    assert "my run" in followed(compare, session, "gone")[1]
    compare.on_clear(_Visit, session)
    assert followed(compare, session, "run-1") == ("run-2", "")


def test_while_b_answers_its_head_stays_and_is_told_with_the_answer(two_runs: Workspace) -> None:
    compare, session = tab(two_runs), Session()
    answering = compare.on_ask(_Visit, None, "q", False, False, *situation(session, "", "run-1"))
    begun = next(answering)
    assert begun[compare.pick_b]["value"] == "run-1" and "B" in begun[compare.sides[1].tag]
    assert followed(compare, session, "run-1")[0] is None
    *_, last = answering
    assert last[compare.sides[1].chat][-1]["content"] == TEXTS["tuned"]
    assert [column.label for column in session.rounds[-1].columns] == ["the base", "my run"]
    blind = next(compare.on_ask(_Visit, None, "q", True, False, *situation(session, "", "run-1")))
    assert compare.pick_b not in blind


def test_a_head_that_names_another_says_who_gave_the_answers(
    two_runs: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ui import talk

    compare, session = tab(two_runs), Session()
    for pick in ("run-1", "run-1", "run-2"):
        list(compare.on_ask(_Visit, None, "q", False, False, *situation(session, "", pick)))
        compare.on_done(_Visit)
        named = compare.heads.on_heads(*heads(compare, session, pick, chosen=True))
        assert ("my run" in named[compare.sides[1].note]) == (pick == "run-2")
        assert named[compare.sides[0].note] == ""
    assert "my run (2), next &lt;run&gt; (1)" in named[compare.sides[1].note]
    other = compare.heads.on_heads(*heads(compare, session, "", chosen=True))[compare.sides[1].note]
    assert "my run (2)" in other
    monkeypatch.setattr(talk, "choices", lambda page: [("the base", ""), ("my run · 39/40", "run-1")])
    session.speakers = session.speakers[:2]  # its run was proved since: still the same one
    assert compare.heads.on_heads(*heads(compare, session, "run-1", chosen=True))[compare.sides[1].note] == ""
    hidden = compare.heads.on_heads(*heads(compare, session, "", chosen=True, blind=True))
    assert set(hidden.values()) == {""}


def test_the_newer_adapter_that_is_taken_begins_anew_with_the_last_question(two_runs: Workspace) -> None:
    compare, session = tab(two_runs), Session()
    list(compare.on_ask(_Visit, None, "who?", False, False, *situation(session, "", "run-1")))
    shown = compare.heads.on_newer(_Visit, *heads(compare, session, "run-1"))
    assert shown[compare.pick_b]["value"] == "run-2" and shown[compare.question] == "who?"
    assert shown[compare.sides[0].chat] == shown[compare.sides[1].chat] == [] and session.spoke(1) == []
    assert len(session.rounds) == 1  # for the file


def test_after_further_training_b_follows_the_new_run_and_says_whose_the_answers_are(two_runs: Workspace) -> None:
    compare, session = tab(two_runs), Session()
    list(compare.on_ask(_Visit, None, "q", False, False, *situation(session, "", "run-1")))
    compare.on_done(_Visit)
    compare.heads.on_more(session)
    now, note = followed(compare, session, "run-1")
    assert now == "run-2" and "my run" in note and "<button" not in note


def test_rounds_of_before_a_reload_are_in_the_file_again(workspace: Workspace) -> None:
    import gradio as gr

    from core import comparison_file, comparison_kept
    from ui.compare_place import Place

    compare, session = tab(workspace), Session()
    with gr.Blocks():
        place = Place(compare.page, compare)
    kept, link = [], "column=&column=run-1"
    for question in ("one", "two"):
        list(compare.on_ask(_Visit, None, question, False, False, *situation(session, "", "run-1")))
        kept.append(place.on_rounds(session))
        compare.on_done(_Visit)
    assert place.on_rounds(session) == gr.skip()  # nothing new
    chats = [[{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}], *([[]] * 5)]
    before = json.dumps([link, "", False, 0, 1, 0, 1, 512, 0, *chats])
    again = Session()
    shown = place.on_load(json.dumps(["", before, json.dumps(["rubbish", [], '[{"columns": 3}]', *kept]), ""]), again)
    assert [one.question for one in again.rounds] == ["one", "two"] and again.held
    assert again.rounds == [comparison_kept.unpack([comparison_kept.pack([one])])[0] for one in session.rounds]
    assert shown[compare.sides[0].chat] == chats[0] and shown[compare.pick_b]["value"] == "run-1"
    assert [(one.label, count) for one, count in again.spoke(1)] == [("my run", 1)]
    text, _ = comparison_file.write(again, "md", "en")
    assert "one" in text and "two" in text and TEXTS["tuned"] in text


def test_the_question_set_of_before_a_reload_is_there_again(workspace: Workspace) -> None:
    import gradio as gr

    from core import comparison_kept
    from ui.compare_place import Place

    compare, session = tab(workspace), Session()
    with gr.Blocks():
        place = Place(compare.page, compare)
    compare.set._read = compare._read_set  # type: ignore[method-assign]  # as `wire` does
    assert place.on_set(session) == "[]"
    list(compare.set.on_run(_Visit, "first\nsecond", False, *situation(session, "", "run-1")))
    kept = str(place.on_set(session))
    (other,) = comparison_kept.unpack([comparison_kept.pack(session.questions[:1])])
    ragged = comparison_kept.pack([replace(other, columns=other.columns[:1], answers=other.answers[:1])])
    again = Session()
    shown = place.on_load(json.dumps(["", "", "", json.dumps([kept, ragged, "rubbish"])]), again)
    assert again.questions == comparison_kept.unpack([kept]) and {one.kind for one in again.questions} == {"questions"}
    assert "first" in shown[compare.set.table] and "second" in shown[compare.set.table]
    assert place.on_load(json.dumps(["", "", "", ""]), Session())[compare.set.table] == ""
    # Written by hand: a number beyond any float, and half of a surrogate pair, which cannot be sent to the page.
    huge = f'"asked": {"1" * 400}, "was": '
    for text in (kept.replace('"asked": ', huge), kept.replace('"first"', '"\\ud800"')):
        assert text != kept
        strange = Session()
        place.on_load(json.dumps(["", "", "", json.dumps([text])]), strange)
        assert [one.question for one in strange.questions] == ["second"] * ("ud800" in text)


def test_a_question_set_that_broke_off_leaves_no_older_one_in_its_place(workspace: Workspace) -> None:
    from core import comparison_file

    compare, session = tab(workspace), Session()
    compare.set._read = compare._read_set  # type: ignore[method-assign]  # as `wire` does
    many = "\n".join(f"question {number}" for number in range(20))
    list(compare.set.on_run(_Visit, "older", False, *situation(session, "", "run-1")))
    answer, asked = workspace.answer, list[int]()

    def breaks(columns: list[Column], *rest: object) -> Iterator[list[Reply]]:
        asked.append(len(columns))
        if len(asked) > 1:
            raise MemoryError
        return answer(columns, *rest)  # type: ignore[arg-type]

    workspace.answer = breaks  # type: ignore[method-assign, assignment]
    with pytest.raises(MemoryError):
        list(compare.set.on_run(_Visit, many, False, *situation(session, "", "run-1")))
    assert [one.question for one in session.questions] == [f"question {number}" for number in range(12)]
    assert "older" not in comparison_file.write(session, "md", "en")[0]


def test_a_long_question_set_is_kept_with_its_columns_written_once_and_a_longer_one_is_told(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gradio as gr

    from core import comparison_kept
    from core.comparison import Answer, Round, Setup
    from ui import notify
    from ui.compare_place import Place

    compare, session, told = tab(workspace), Session(), list[str]()
    with gr.Blocks():
        place = Place(compare.page, compare)
    monkeypatch.setattr(notify, "warn", told.append)
    columns = tuple(Setup(f"run-{i}", 1.0, "told who to be " * 14, f"name {i}") for i in range(6))

    def rounds(length: int) -> list[Round]:
        answers = tuple(Answer("a" * length, "", 50, 20, 0.1, 40.0, "stop") for _ in columns)
        return [Round(f"question {i}", columns, answers, Sampling(), "model", 1.0, "questions") for i in range(500)]

    session.questions = rounds(150)
    kept = str(place.on_set(session))
    assert len(kept) < 1_500_000 and comparison_kept.unpack([kept]) == session.questions and not told
    session.questions = rounds(1500)
    assert place.on_set(session) == "[]" and "too many" in told[0]


def test_the_question_set_tells_how_far_it_is_how_fast_and_how_long_it_will_take() -> None:
    from ui.compare_set import Way

    assert Way(0, 40, 2, 9.0).seconds_left is None and Way(4, 40, 2, 1.0).per_minute is None  # too early to say
    way = Way(10, 40, 2, 20.0)
    assert (way.share, way.per_minute, way.seconds_left) == (0.25, 15.0, 60.0)


def test_a_question_set_that_is_stopped_shows_its_way_and_where_it_stopped(workspace: Workspace) -> None:
    compare, session = tab(workspace), Session()
    compare.set._read = compare._read_set
    asked = "\n".join(f"q{i}" for i in range(30))  # 12 questions of two columns a batch
    running = compare.set.on_run(_Visit, asked, False, *situation(session, "", "run-1"))
    assert "0 / 60 answers" in next(running)[compare.set.table]
    way = next(running)[compare.set.table]
    assert "0 / 60 answers" in way and 'role="progressbar"' in way
    compare.set.on_stop(_Visit)
    *_, last = running
    assert (
        "Stopped after 12 of 30 questions" in last[compare.set.table] and "progressbar" not in last[compare.set.table]
    )
    assert len(session.questions) == 12
