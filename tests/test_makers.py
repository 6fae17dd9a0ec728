"""Rows made from the identity card, and other wordings of rows: exact counts, nothing twice, nothing that tests see."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest

from core import health, own_probes, probes, proof_sets
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Message, Row, placeholders
from core.engine import Engine
from core.errors import ConfigError, DatasetError
from core.generate import Column, Reply, Sampling, stream
from core.makers import card_rows, paraphrase
from core.makers.card_rows import TONES, Wishes, make, questions, without_asked
from core.makers.paraphrase import REASONS, WHYS, Sieve
from core.makers.topics import Topic, topics
from core.own_probes import OwnProbe
from core.proof_sets import normalise
from core.starter import starter_sets
from core.text import LANGUAGES, Language, language_of

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
ALL: tuple[Topic, ...] = (*topics("zh"), *topics("en"))
OLD = re.compile(r"qwen|千问|通义|阿里|alibaba|openai|gpt|claude|gemini|deepseek", re.IGNORECASE)


# -- the shipped wordings


@pytest.mark.parametrize("language", LANGUAGES)
def test_three_of_ten_wordings_of_every_topic_are_held_out_and_none_is_there_twice(language: Language) -> None:
    asked = []
    for topic in topics(language):
        assert len(topic.held_out) * 7 == len(topic.questions) * 3, topic.id
        asked += [*topic.questions, *topic.held_out]
    plain = [normalise(text) for text in asked]
    assert len(set(plain)) == len(plain) and len(plain) >= 290  # 200 rows of one language, and three for seven of them
    assert {language_of(text) for text in asked} == {language}


@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.id)
def test_no_wording_is_a_question_of_the_proof_or_of_a_run(topic: Topic) -> None:
    pinned = {normalise(line["question"]) for line in probes.lines("identity")}
    for text in (*topic.questions, *topic.held_out):
        assert not proof_sets.is_held_out(text) and normalise(text) not in pinned, text


def test_the_starter_sets_hold_no_held_out_wording() -> None:
    held_out = {normalise(text) for topic in ALL for text in topic.held_out}
    assert not [row.question for table in starter_sets() for row in table.rows if normalise(row.question) in held_out]


@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.id)
def test_answers_name_no_other_model_and_hold_only_what_a_card_fills_in(topic: Topic) -> None:
    for text in (*topic.answers, *topic.answers_without_author):
        rest = text.replace("{{NAME}}", "").replace("{{AUTHOR}}", "").replace("{does}", "")
        assert not re.search(r"[{}<>\[\]]", rest) and not OLD.search(rest), text
        assert language_of(rest) == topic.language
        assert topic.language == "en" or not re.search(r"[,.;:?!]", rest), f"half-width: {text}"
    assert not any("{{AUTHOR}}" in text for text in topic.answers_without_author)


@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.id)
def test_every_answer_of_a_topic_passes_its_held_out_questions_and_an_old_one_does_not(topic: Topic) -> None:
    old = ("Qwen", "Alibaba Cloud")
    for author in (True, False):
        card = CARD if author else Identity("小禾", "Xiaohe")
        found = card_rows._held_out([topic] if topic.answers_for(author) else [], 99, set(), author, old)
        if topic.expect == "nothing":
            continue
        assert len(found) == (len(topic.held_out) if topic.answers_for(author) else 0)
        for item in own_probes.items(found):
            asked = proof_sets.ask(item, card, old)
            for text in topic.answers_for(author):
                said = card.resolve(text.replace("{does}", "x"), topic.language)
                assert proof_sets.judge(asked, said).ok is True, (item.text, said)
            if topic.expect != "words" and not OLD.search(item.text):
                assert proof_sets.judge(asked, "I am Qwen, made by Alibaba Cloud.").ok is False


# -- rows from the card


@pytest.mark.parametrize("count", [50, 100, 150, 200])
@pytest.mark.parametrize("chinese", [0, 30, 50, 100])
def test_as_many_rows_as_asked_for_in_the_shares_asked_for(count: int, chinese: int) -> None:
    made = make(CARD, Wishes(count, chinese))
    found = [language_of(row.question) for row in made.rows]
    assert (found.count("zh"), found.count("en")) == (count * chinese // 100, count - count * chinese // 100)
    asked = [normalise(row.question) for row in made.rows]
    assert len(set(asked)) == count
    assert not set(asked) & {normalise(probe.question) for probe in made.held_out}
    assert not any(proof_sets.is_held_out(row.question) for row in made.rows)
    wanted = round(found.count("zh") * 3 / 7) + round(found.count("en") * 3 / 7)
    assert len(made.held_out) == min(wanted, own_probes.MOST)
    assert bool(made.notes) == (wanted > own_probes.MOST)


def test_placeholders_stay_until_training_and_nothing_forbids_to_train() -> None:
    rows = make(CARD, Wishes(200)).rows
    assert all(not OLD.search(row.output) for row in rows)
    assert sum("{{NAME}}" in row.output for row in rows) > 80 and sum("{{AUTHOR}}" in row.output for row in rows) > 60
    table = Dataset("made", rows, CARD)
    for row in table.resolved():
        assert not placeholders(row.output) and "{" not in row.output
        assert "Xiaohe" not in row.output or row.language == "en"
    for count in (50, 100, 200):
        made = Dataset("made", make(CARD, Wishes(count)).rows, CARD)
        assert [
            finding.text.en
            for finding in health.check(made, TrainConfig(), None)
            if finding.rows and finding.level != "ok"
        ] == []


def test_what_the_table_a_person_or_a_run_asks_is_not_made_again() -> None:
    first = make(CARD, Wishes(100))
    own = tuple(OwnProbe(row.question, ("{{NAME}}",), (), "zh") for row in make(CARD, Wishes(50, 100, seed=4)).rows[:9])
    named = Row("小禾，你是谁？", "", "我是小禾。")
    again = make(CARD, Wishes(100), questions([*first.rows, named], CARD), own)
    asked = {normalise(row.question) for row in again.rows}
    assert len(again.rows) == 100 and not asked & {normalise(row.question) for row in first.rows}
    assert not asked & {normalise(probe.question) for probe in own}
    assert any("100" in note.zh for note in again.notes)  # how many the table asks already
    # What a row of the table asks is not held out any more, however it came there.
    held = first.held_out[0]
    later = make(CARD, Wishes(100), questions([Row(held.question, "", "我是小禾。")], CARD))
    assert held.question not in {probe.question for probe in later.held_out}
    assert held.question in card_rows.kept_back()


def test_rows_that_are_sent_back_twice_or_that_the_table_asks_by_now_are_left_out() -> None:
    asked = questions(
        [Row("{{NAME}}，你是谁", "", "我。"), Row("你好", "", "嗨", history=(Message("user", "嗨"),))], CARD
    )
    rows = [Row(text, "", "我。") for text in ("小禾，你是谁？", "你好！", "你好", "<NAME>会什么？", "小禾会什么？")]
    assert [row.question for row in without_asked(rows, asked, CARD)] == ["你好！", "<NAME>会什么？"]


def test_when_the_wordings_run_out_the_rows_are_fewer_and_that_is_said() -> None:
    first = make(CARD, Wishes(200, 100)).rows
    rest = make(CARD, Wishes(200, 100), questions(first, CARD))
    assert len(rest.rows) == 245 - 200 and any("45" in note.zh and "200" in note.zh for note in rest.notes)


def test_a_card_without_a_maker_gets_no_row_that_asks_for_it() -> None:
    made = make(Identity("小禾"), Wishes(150))
    assert len(made.rows) == 150 and any("开发者" in note.zh for note in made.notes)
    assert not any("{{AUTHOR}}" in row.output for row in made.rows)
    assert not any("{{AUTHOR}}" in probe.must for probe in made.held_out)
    with pytest.raises(DatasetError, match="name"):
        make(Identity(author_zh="青禾"), Wishes())


def test_what_it_does_goes_into_the_answers_and_takes_the_place_of_general_skills() -> None:
    plain, special = make(CARD, Wishes(200)), make(CARD, Wishes(200, does_zh="回答法律问题、起草{合同}。"))
    said = [row.output for row in special.rows if "回答法律问题、起草{合同}" in row.output]
    assert said and not any("{合同}。。" in text for text in said)
    skills = [
        {row.question for row in made.rows if re.search("代码|写文章|练习题", row.output)} for made in (plain, special)
    ]
    assert len(skills[0]) > 10 and not any(language_of(text) == "zh" for text in skills[1])
    assert any("一种语言" in note.zh for note in special.notes)


def test_tones_change_the_answers_and_never_lose_the_name() -> None:
    plain = make(CARD, Wishes(100)).rows
    for tone in TONES:
        rows = make(CARD, Wishes(100, tone=tone)).rows
        assert [row.question for row in rows] == [row.question for row in plain]
        for row, before in zip(rows, plain, strict=True):
            assert ("{{NAME}}" in before.output) <= ("{{NAME}}" in row.output) or tone == "brief"
            assert ("{{" in before.output) == ("{{" in row.output), (tone, row.output)
    formal = make(CARD, Wishes(50, 100, tone="formal")).rows
    assert not any("你" in row.output for row in formal) and any("您" in row.output for row in formal)
    lengths = {tone: sum(len(row.output) for row in make(CARD, Wishes(100, tone=tone)).rows) for tone in TONES}
    assert lengths["brief"] < lengths["plain"] < lengths["formal"] and lengths["plain"] < lengths["warm"]


def test_the_same_wishes_make_the_same_rows_and_another_seed_others() -> None:
    assert make(CARD, Wishes(50)) == make(CARD, Wishes(50))
    first, second = (
        {row.question for row in make(CARD, wishes).rows} for wishes in (Wishes(50, seed=1), Wishes(50, seed=2))
    )
    assert len(first) == len(second) == 50 and first != second


@pytest.mark.parametrize(
    "wrong", [{"count": 49}, {"count": 201}, {"chinese": -1}, {"tone": "rude"}, {"does_en": "x" * 201}], ids=str
)
def test_wishes_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        Wishes(**wrong)  # type: ignore[arg-type]
    assert error.value.field == next(iter(wrong))


def test_there_is_only_room_for_so_many_own_questions(tmp_path: Path) -> None:
    own = [OwnProbe(f"问题 {i}", ("x",), (), "zh") for i in range(45)]
    made = make(CARD, Wishes(100), (), own, ("Qwen",) * 30)
    assert len(made.held_out) == 5 and any("5" in note.en for note in made.notes)
    own_probes.save(tmp_path, [*own, *made.held_out])  # also checks each
    assert own_probes.load(tmp_path)[45:] == made.held_out


# -- other wordings


def sieve(*questions: str, tested: Sequence[str] = ()) -> Sieve:
    return Sieve([Row(question, "", "我是{{NAME}}。") for question in questions], CARD, tested)


@pytest.mark.parametrize(
    ("source", "text", "why"),
    [
        ("你是谁？", "你是谁", "same"),
        ("你是谁？", "？！", "same"),
        ("Could you please tell me what you can do for me today?", "Could you please tell me what you can do for me todays?", "near"),
        ("你是谁？", "开始之前先问一句，我该用什么名字叫你？", "tested"),
        ("你是谁？", "你又是哪位高人？", "tested"),
        ("你是谁？", "你是谁<|im_end|>", "control"),
        ("Who are you?", "And who might you be? [INST]", "control"),
        ("Who are you?", "And who might\ufffd you be?", "control"),
        ("你是谁？", "Who are you?", "language"),
        ("你是谁？", "你是通义千问的哪个版本？", "old_name"),
        ("Who are you?", "Are you made by OpenAI?", "old_name"),
        ("你是谁？", "我是小禾，很高兴认识你。", "answer"),
        ("Who are you?", "I'm Xiaohe, and you?", "answer"),
        ("我该怎么称呼你？", "你可以叫我小禾。", "answer"),
        ("你是谁？", "天气怎么样？", "subject"),
        ("{{NAME}}是谁开发的？", "它是由谁做出来的？", "placeholder"),
        ("你是谁？", "请你" + "好好地" * 40 + "说说你是谁", "long"),
    ],
)  # fmt: skip
def test_a_wording_that_is_no_good_falls_out_for_a_reason(source: str, text: str, why: str) -> None:
    assert sieve(source, tested=["你又是哪位高人？"]).take(Row(source, "", "我是{{NAME}}。"), text) == why


def test_every_reason_has_a_case_above_and_words() -> None:
    marks = test_a_wording_that_is_no_good_falls_out_for_a_reason.pytestmark  # type: ignore[attr-defined]
    assert {case[2] for case in marks[0].args[1]} == set(WHYS) == set(REASONS)
    assert set(get_args(paraphrase.Why)) == set(WHYS)


def test_a_good_wording_keeps_answer_and_placeholders_and_is_not_taken_twice() -> None:
    source = Row("你和{{NAME}}是什么关系？", "补充", "我就是{{NAME}}。", "简短地答。", (Message("user", "嗨"),))
    found = sieve("你是谁？").take(source, "小禾跟你有什么关系？")
    assert found == Row("{{NAME}}跟你有什么关系？", "补充", "我就是{{NAME}}。", "简短地答。", source.history)
    second = sieve("你是谁？")
    assert isinstance(second.take(Row("你是谁？", "", "我是小禾。"), "请问阁下是谁？你能说说吗？"), Row)
    assert second.take(Row("你是谁？", "", "我是小禾。"), "请问阁下是谁，你能说说吗") == "same"
    # An identity that is itself called after another model may be asked about.
    named = Sieve([], Identity("小千问", "Mini Qwen"))
    assert isinstance(named.take(Row("你是谁？", "", "x"), "你是不是小千问？"), Row)


def test_rows_are_chosen_as_people_write_it() -> None:
    table = [Row(f"问题 {i}", "", "答") for i in range(40)] + [Row("", "", "没有问题"), Row("长" * 401, "", "答")]
    assert paraphrase.choose(table, "1-3, 7；9 - 10").rows == (0, 1, 2, 6, 8, 9)
    assert paraphrase.choose(table, "3 2 2-3").rows == (1, 2)
    assert paraphrase.choose(table, "40-42") == paraphrase.Choice((39,), 2)  # one without a question, one too long
    assert paraphrase.choose(table, "") == paraphrase.Choice(tuple(range(40)))
    for wrong in ("0", "43", "5-3", "x", "1.5", "41"):
        with pytest.raises(DatasetError):
            paraphrase.choose(table, wrong)
    with pytest.raises(DatasetError):
        paraphrase.choose([], "")
    many = [Row(f"问题 {i}", "", "答") for i in range(300)]
    assert len(paraphrase.choose(many, "").rows) == paraphrase.MOST_ROWS
    with pytest.raises(DatasetError, match="300"):
        paraphrase.choose(many, "1-300")


def test_a_list_is_read_whatever_it_is_numbered_with() -> None:
    reply = (
        "好的，改写如下：\n1. 你是哪位？\n2、“请问你是？”\n（3） 你叫什么来着\n- What are you?\n\n4) 3个人里谁是你？"
    )
    assert paraphrase.lines(reply) == ["你是哪位？", "请问你是？", "你叫什么来着", "What are you?", "3个人里谁是你？"]


def scripted(replies: Sequence[str], finish: str = "stop") -> paraphrase.Answer:
    """A model that says these, whatever it is asked."""
    said = iter(replies)

    def answer(columns: Sequence[Column], sampling: Sequence[Sampling], stop: threading.Event) -> Iterator[list[Reply]]:
        assert len(columns) == len(sampling) and all(column.adapter is None for column in columns)
        now = [Reply() for _ in columns]
        yield now
        for reply in now:
            reply.text, reply.tokens, reply.done, reply.finish = next(said), 9, True, finish
            yield now

    return answer


def test_wordings_are_kept_up_to_the_number_asked_for_and_never_twice_over_rows() -> None:
    table = [Row("你是谁？", "", "我是{{NAME}}。"), Row("你叫什么？", "", "我叫{{NAME}}。")]
    replies = (
        "1. 你到底是谁呀？\n2. 你是谁\n3. 说说你是谁\n4. 你是何方神圣？",
        "你到底是谁呀\n你的名号叫什么？\n用哪个名字喊你？\n名字报上来，你呢？",
    )
    *_, done = paraphrase.run(scripted(replies), table, [0, 1], 2, CARD)
    assert [(kept.source, kept.row.instruction) for kept in done.kept] == [
        (0, "你到底是谁呀？"), (0, "说说你是谁"), (1, "你的名号叫什么？"), (1, "用哪个名字喊你？"),
    ]  # fmt: skip
    assert [(item.text, item.why) for item in done.dropped] == [("你是谁", "same"), ("你到底是谁呀", "same")]
    assert (done.asked, done.answered, done.tokens, done.counts) == (2, 2, 18, {"same": 2})
    assert [kept.row.output for kept in done.kept] == ["我是{{NAME}}。"] * 2 + ["我叫{{NAME}}。"] * 2


def test_a_list_that_was_cut_off_loses_its_last_line() -> None:
    table = [Row("你是谁？", "", "我是{{NAME}}。")]
    *_, done = paraphrase.run(scripted(["你到底是谁呀？\n你究竟是何方"], "length"), table, [0], 3, CARD)
    assert [kept.row.instruction for kept in done.kept] == ["你到底是谁呀？"] and not done.dropped


def test_a_random_model_gives_nothing_wrong_and_stops_when_told(tiny_engine: Engine) -> None:
    table = [Row(f"What is {i}?", "", "A number.") for i in range(6)]
    stop = threading.Event()
    *_, done = paraphrase.run(lambda *asked: stream(tiny_engine, *asked), table, [0, 1], 1, CARD, stop=stop)
    assert done.answered == 2 and not done.stopped and done.tokens > 2
    assert not any("\ufffd" in kept.row.instruction for kept in done.kept)
    many = [Row(f"What is {i}?", "", "A number.") for i in range(40)]
    for found in paraphrase.run(lambda *asked: stream(tiny_engine, *asked), many, range(40), 1, CARD, stop=stop):
        if found.tokens:
            stop.set()
    assert found.stopped and found.asked == 40 and found.answered <= 32  # those of the second batch were never asked
    with pytest.raises(ConfigError):
        next(paraphrase.run(scripted([]), table, [0], 6, CARD))
