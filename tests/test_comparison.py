"""Comparing columns: votes without names, what differs, tokens as html, and files that nothing said in them can break."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from core import comparison, comparison_file, token_view
from core.comparison import Answer, Round, Session, Setup
from core.dataset import Identity, Message
from core.engine import Engine
from core.generate import Column, Sampling, Token, stream
from core.text import Language

EVIL = 'a ``` b | c <img src=x onerror="alert(1)"> *d* [e](javascript:f) \\ # g\n````\n# not a heading\n</pre>'


def setups(*labels: str) -> tuple[Setup, ...]:
    return tuple(Setup(adapter=None if i == 0 else f"run-{i}", label=label) for i, label in enumerate(labels))


def round_of(*texts: str, **more: object) -> Round:
    columns = setups(*(f"column {i}" for i in range(len(texts))))
    answers = tuple(Answer(text) for text in texts)
    return replace(Round("q", columns, answers, Sampling(), "tiny", 0.0), **more)  # type: ignore[arg-type]


# Rounds and votes


def test_a_column_asks_under_its_own_system_prompt_and_strength() -> None:
    turns = (Message("user", "hi"),)
    column = Setup("run-1", 0.5, "Be X.").column(turns)
    assert column == Column((Message("system", "Be X."), *turns), "run-1", 0.5)
    assert Setup(system="").column(turns) == Column(turns)


def test_a_blind_round_waits_for_its_vote_and_the_vote_counts_for_the_column_not_for_the_place() -> None:
    session, blind = Session(), round_of("x", "y", "z", order=(2, 0, 1), blind=True)
    session.add(blind)
    assert session.latest == blind and session.told == [] and session.votes() == {}
    voted = session.vote(0)  # the first place shows the third column
    assert voted is not None and voted.best == 2 and session.pending is None
    assert session.votes()[blind.columns[2]] == (1, 1) and session.votes()[blind.columns[0]] == (0, 1)
    assert session.vote(0) is None  # once
    session.add(blind)
    assert session.vote(3) is None and session.vote(-1) is None and session.pending == blind
    tie = session.vote(None)
    assert tie is not None and tie.voted and tie.best is None
    assert session.votes()[blind.columns[2]] == (1, 2)


def test_a_round_nobody_voted_on_is_kept_and_counts_for_nobody() -> None:
    session = Session()
    session.add(round_of("x", "y", order=(1, 0), blind=True))
    session.add(round_of("x", "y", order=(1, 0), blind=True))
    assert len(session.rounds) == 1 and session.pending is not None and session.votes() == {}


def test_shuffling_reaches_every_order_and_can_be_repeated() -> None:
    chance = random.Random(0)
    seen = {comparison.shuffled(3, chance) for _ in range(200)}
    assert len(seen) == 6
    assert comparison.shuffled(6, random.Random(3)) == comparison.shuffled(6, random.Random(3))
    assert sorted(comparison.shuffled(6)) == list(range(6))


def test_answers_differ_by_their_words_not_by_their_spaces() -> None:
    assert not round_of("a b", "a  b\n").differs and round_of("a b", "a c").differs and not round_of("a").differs


def test_a_question_that_names_the_old_identity_does_not_count_against_the_answer() -> None:
    words = (("小禾",), ("Qwen",))
    assert comparison.judge("Are you Qwen?", "No, I am not Qwen, I am 小禾.", words) == "hit"
    assert comparison.judge("Who are you?", "I am Qwen.", words) == "old"
    assert comparison.judge("2+2?", "4", words) == "miss" and comparison.judge("2+2?", "", words) == ""
    rounds = [
        replace(round_of("x", "y"), answers=(Answer("x", verdict), Answer("y"))) for verdict in ("hit", "old", "hit")
    ]
    assert comparison.counts(rounds, 0) == {"hit": 2, "old": 1} and comparison.counts(rounds, 1) == {}


def test_the_control_prompt_says_the_identity_in_both_languages() -> None:
    prompt = comparison.control_prompt(Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI"))
    assert prompt == "你是小禾，由青禾智能开发。\nYou are Xiaohe, developed by Qinghe AI."
    assert comparison.control_prompt(Identity(name_en="Xiaohe")) == "你是Xiaohe。\nYou are Xiaohe."
    assert comparison.control_prompt(Identity(author_zh="青禾")) == ""


def test_a_list_of_questions_is_one_a_line_without_repeats() -> None:
    assert comparison.questions_of(" a \n\n b\r\na\n") == ["a", "b"]


# Tokens


class _Shown(HTMLParser):
    """What a browser makes of it: tags with attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def tokens(self) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == "span"]


def token(own: bytes, logprob: float = -0.01, id: int | None = None, **top: float) -> Token:
    likely = tuple((text, text.encode(), value) for text, value in top.items())
    return Token(hash(own) if id is None else id, own.decode("utf-8", "replace"), own, logprob, likely)


def test_tokens_that_make_up_one_character_share_a_span_and_no_character_is_broken() -> None:
    first, second = "青".encode(), "👍".encode()
    tokens = [token(b"I "), token(first[:1]), token(first[1:]), *(token(bytes([b])) for b in second), token(b"!")]
    shown = _Shown(token_view.draw(tokens))
    assert shown.text == "I 青👍!"
    assert len(shown.tokens) == 4
    assert [part["s"] for part in json.loads(shown.tokens[1]["data-t"])] == ["E9", "9D 92"]
    # An answer that was cut within a character ends in one replacement, and nothing before it is lost.
    assert _Shown(token_view.draw([token(b"a"), token(first[:2])])).text == "a\ufffd"
    assert token_view.characters([]) == []


def test_what_a_model_wrote_is_never_markup() -> None:
    evil = b'<script>alert("1")</script>\'&'
    drawn = token_view.draw([token(evil, **{'"><b>x': -1.0})], label='"><i>', name='"><u>')
    shown = _Shown(drawn)
    assert [tag for tag, _ in shown.tags] == ["div", "span"] and shown.text == evil.decode()
    (card,) = json.loads(shown.tokens[0]["data-t"])
    assert card["top"][0][0] == '"><b>x' and card["s"] == evil.decode()


def test_a_token_is_compared_as_far_as_the_texts_agree_and_with_the_one_that_parts_them() -> None:
    here = [token(b"I", -0.1, 1), token(b" am", -0.2, 2), token(b" X", -0.1, 3), token(b"!", -3.0, 4)]
    there = [token(b"I", -0.1, 1), token(b" am", -2.5, 2), token(b" Y", -0.1, 5, **{" Y": -0.1, " X": -4.0})]
    seen = token_view.compare(here, there)
    assert [one and one.logprob for one in seen] == [-0.1, -2.5, -4.0, None]
    kinds = [one["class"].split()[1] for one in _Shown(token_view.draw(here, there)).tokens]
    # e^2.3 and e^3.9 times as likely as there; after the texts have parted only its own 5 % count.
    assert kinds == ["same", "more-3", "more-3", "rare-3"]
    # Not among the likeliest over there: at most as likely as the last of those.
    there[2] = token(b" Y", -0.1, 5, **{" Y": -0.1, " Z": -6.0})
    assert token_view.compare(here, there)[2] == token_view.Compared(-6.0, bound=True)
    card = json.loads(_Shown(token_view.draw(here, there)).tokens[2]["data-t"])[0]
    assert card["q"].startswith("< ")
    assert [one["class"].split()[1] for one in _Shown(token_view.draw(there, here)).tokens][1] == "less-3"


def test_a_real_models_tokens_are_drawn_and_spell_its_answer(tiny_engine: Engine) -> None:
    columns = [Column((Message("user", question),)) for question in ("hi", "你好")]
    sampling = Sampling(max_new_tokens=24, temperature=1.5, seed=1, logprobs=token_view.LOGPROBS)
    *_, replies = stream(tiny_engine, columns, sampling)
    a, b = (tuple(reply.token_list) for reply in replies)
    assert len(a) > 3
    shown = _Shown(token_view.draw(a, b, "A", "B"))
    assert shown.text.replace("↵", "") == b"".join(t.bytes for t in a).decode("utf-8", "replace")
    for one in shown.tokens:
        for card in json.loads(one["data-t"]):
            assert len(card["top"]) == 5 and card["p"].endswith("%")
    assert [t.get("tabindex") for t in shown.tokens[:2]] == ["0", "-1"]


# Files


def _session() -> Session:
    session = Session()
    columns = (Setup(label="base | `x` <b>"), Setup("run|1", 0.5, EVIL, EVIL))
    timed = Answer(EVIL, "old", 7, 30, 0.21, 47.0, "length", (token(b"\xe9"), token(b"<b>", top=-1.0)))
    one = Round(EVIL, columns, (timed, Answer("`", "hit")), Sampling(temperature=0.7, seed=5), "tiny|model", 0.0)
    session.add(one)
    session.add(replace(one, blind=True, order=(1, 0)))
    session.vote(0)
    session.questions = [replace(one, kind="questions", question="你是谁？")]
    return session


@pytest.mark.parametrize("language", ["zh", "en"])
def test_markdown_stays_text_whatever_was_said(language: Language) -> None:
    written, name = comparison_file.write(_session(), "md", language)
    assert re.fullmatch(r"onecard-comparison-\d{8}-\d{6}\.md", name)
    outside, blocks, fence = [], [], ""
    for line in written.split("\n"):
        if not fence and (opened := re.match(r"(`{3,})text$", line)):
            fence = opened[1]
            blocks.append([])
        elif fence and re.fullmatch(rf"{fence}`*\s*", line):
            fence = ""
        elif fence:
            blocks[-1].append(line)
        else:
            outside.append(line)
    assert not fence  # every block was closed, by its own fence
    assert "\n".join(blocks[0]) == EVIL and "\n".join(blocks[1]) == EVIL
    page = "\n".join(outside)
    assert "<" not in page and re.search(r"(?<!\\)`", page) is None
    for row in (line for line in outside if line.startswith("|")):
        assert len(re.findall(r"(?<!\\)\|", row)) == 8, row  # seven cells
    assert page.count("\n# ") == 0 and page.startswith("# OneCard")
    assert ("得票" if language == "zh" else "Blind votes") in page and "1 / 1" in page and "0.21" in page


def test_json_has_columns_sampling_answers_verdicts_votes_and_timings() -> None:
    written, name = comparison_file.write(_session(), "json", "zh")
    value = json.loads(written)
    assert name.endswith(".json") and value["format"] == comparison_file.FORMAT and len(value["rounds"]) == 3
    first, blind, last = value["rounds"]
    assert first["question"] == EVIL and first["model"] == "tiny|model" and first["sampling"]["temperature"] == 0.7
    assert first["columns"][1] == {"letter": "B", "adapter": "run|1", "strength": 0.5, "system": EVIL, "label": EVIL}
    assert first["answers"][0]["verdict"] == "old" and first["answers"][0]["first_token_seconds"] == 0.21
    assert first["answers"][0]["token_list"][0]["bytes"] == [0xE9] and first["differs"]
    assert blind["blind"] and blind["best"] == "B" and blind["shown_order"] == ["B", "A"]
    assert last["kind"] == "questions" and [vote["votes"] for vote in value["votes"]] == [0, 1]


def test_a_file_written_before_the_vote_does_not_tell_who_is_who() -> None:
    session = Session()
    session.add(round_of("first answer", "second answer", order=(1, 0), blind=True))
    for kind in ("md", "json"):
        assert "answer" not in comparison_file.write(session, kind, "en")[0].replace('"answers"', "")


def test_a_fence_is_longer_than_any_run_inside() -> None:
    assert comparison_file.fenced("a") == ["```text", "a", "```"]
    assert comparison_file.fenced("``````")[0] == "```````text"
