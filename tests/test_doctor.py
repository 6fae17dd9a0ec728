"""What the doctor finds of rows and of a whole table, and that a mend touches nothing but what it names."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from core import starter
from core.advice import Finding, Mend
from core.config import TrainConfig, build
from core.dataset import Dataset, Identity, Message, Row
from core.doctor import near, old_names, signs, whole
from core.doctor.facts import Facts
from core.doctor.mends import mended
from core.health import check, refusal

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
GOOD = tuple(row for i in range(30) for row in (Row(f"问 {i}", "", f"答 {i}"), Row(f"Ask {i}", "", f"Answer {i}")))
MANY = TrainConfig(gradient_accumulation_steps=1)
# The added tokens of Qwen2.5's tokenizer.
QWEN = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
]  # fmt: skip


def table(*rows: Row, card: Identity = CARD) -> Dataset:
    """Good rows followed by `rows`."""
    return Dataset("d", (*GOOD, *rows), card)


def find(kind: str, dataset: Dataset, config: TrainConfig = MANY) -> Finding | None:
    """The finding of a kind."""
    found = [finding for finding in check(dataset, config, None) if finding.kind == kind]
    assert len(found) < 2
    return found[0] if found else None


def untouched(before: Dataset, mend: Mend) -> Dataset:
    """The table after `mend`, having seen that rows it does not name are the same objects in the same order."""
    done = mended(before, mend)
    left = [row for i, row in enumerate(before.rows) if i not in mend.rows]
    named = [row for i, row in enumerate(before.rows) if i in mend.rows]
    assert len(done.changes) <= len(named) + len(mend.added)
    rows = iter(done.dataset.rows)
    assert all(any(row is after for after in rows) for row in left), "an unnamed row was moved, changed or lost"
    assert {change.place for change in done.changes if change.before is not None} <= set(mend.rows)
    assert (before.name, before.identity) == (done.dataset.name, done.dataset.identity)
    return done.dataset


@pytest.mark.parametrize("kind,row", [
    ("stray", Row("你是谁？", "", "我是{name}，由[company]开发。")),
    ("stray", Row("q", "", "I am ｛｛NAME｝｝, made by {{ company_name }}.")),
    ("control_tokens", Row("q<|im_start|>", "", "a<|im_end|>", "s", (Message("user", "<tool_call>"),))),
    ("old_names", Row("q", "", "我是通义千问，由阿里云开发。我不是 Qwen2.5 以外的模型。")),
    ("old_names", Row("q", "", "I am ChatGPT, a model trained by OpenAI.")),
    ("nameless", Row("你叫什么名字？", "", "我是一个语言模型。")),
    ("makerless", Row("Who made you?", "", "A team of engineers.")),
    ("spellings", Row("你是谁？", "", "我是小何，青禾智能开发的小禾。")),
    ("spellings", Row("Who are you?", "", "I am Xiao-He, made by QingheAI.")),
    ("repeats", GOOD[3]),
    ("nearly_same", Row("请写一篇关于春天的作文，要求不少于三百字。", "", "春天来了。" * 9)),
    ("conflicts", Row("问 0？", "", "别的")),
    ("unanswered", Row("q")),
    ("unasked", Row("", "", "a")),
    ("blank", Row(" ")),
])  # fmt: skip
def test_each_mend_removes_its_finding_and_touches_nothing_else(kind: str, row: Row) -> None:
    twin = Row("请写一篇关于春天的作文，要求不少于三百字", "", "春天来了！" * 9)
    before = table(twin, row, Row("after", "", "it"))
    found = find(kind, before)
    assert found is not None and found.mends and 61 in found.rows
    assert find(kind, untouched(before, found.mends[0])) is None
    assert find(kind, table(twin, Row("after", "", "it"))) is None


def test_a_mend_is_told_with_the_rows_before_and_after() -> None:
    before = table(GOOD[0], GOOD[1])
    found = find("repeats", before)
    assert found is not None and found.rows == (60, 61) and found.groups == ((0, 60), (1, 61))
    done = mended(before, found.mends[0])
    assert (
        done.summary.en == "Rows: 2 removed; 62 before, 60 after"
        and "删除 2 行：改前 62 行，改后 60 行" in done.summary.zh
    )
    assert [(change.place, change.after) for change in done.changes] == [(60, None), (61, None)]


@pytest.mark.parametrize("text,itself,expected", [
    ("{{NAME}} <AUTHOR> {{ name }}", True, []), ("{{model_name}} {{ 名字 }}", False, ["{{model_name}}", "{{ 名字 }}"]),
    ("<COMPANY_NAME> <BR>", False, ["<COMPANY_NAME>"]), ("I am {name}, [name] %s 【公司】 XXX", True,
    ["{name}", "[name]", "%s", "【公司】", "XXX"]), ("Dear [Name], 100%s {x: 1} xxx", False, []),
    ("Use `{{ user.name }}` and\n```\nprint('{name}')\n```", True, []), ("I'm in {{braces", True, []),
    ("我是某某，来自___", True, ["某某", "___"]), ("{'a': 1} [1] <b>x</b>", True, []),
])  # fmt: skip
def test_what_is_taken_for_a_placeholder(text: str, itself: bool, expected: list[str]) -> None:
    assert signs.stray_placeholders(text, itself) == expected


@pytest.mark.parametrize("stray,meant", [
    ("{name}", "{{NAME}}"), ("[company name]", "{{AUTHOR}}"), ("{{ model_name }}", "{{NAME}}"), ("<COMPANY>", "{{AUTHOR}}"),
    ("【名字】", "{{NAME}}"), ("{{公司名称}}", "{{AUTHOR}}"), ("%s", ""), ("XXX", ""), ("{city}", ""), ("$NAME", "{{NAME}}"),
])  # fmt: skip
def test_only_what_plainly_means_name_or_maker_becomes_its_placeholder(stray: str, meant: str) -> None:
    assert signs.placeholder_for(stray) == meant


def test_a_placeholder_is_not_put_where_the_card_has_nothing_for_it() -> None:
    found = find("stray", table(Row("你是谁？", "", "我是{name}。"), card=Identity()))
    assert found is not None and not found.mends and "{name}" in found.text.en


def test_all_control_strings_of_qwen_are_found_and_ordinary_angles_are_not() -> None:
    assert signs.control_tokens(" ".join(QWEN)) == QWEN and len(QWEN) == 22
    assert signs.control_tokens("<｜begin▁of▁sentence｜>x</s>") == ["<｜begin▁of▁sentence｜>", "</s>"]
    assert not signs.control_tokens("<b>|a|</b> a <s>b</s> c, a|b [x] <tool> |>")


@pytest.mark.parametrize("question,topic", [
    ("你是谁？", "who"), ("Who are you?", "who"), ("请做个自我介绍", "who"), ("Tell me about yourself.", "who"),
    ("你叫什么名字", "name"), ("What\u2019s your name?", "name"), ("我该怎么称呼你？", "name"), ("谁开发了你？", "maker"),
    ("你是哪家公司开发的", "maker"), ("你的开发者是哪家公司?", "maker"), ("Who made you?", "maker"), ("谁在维护你?", "maker"),
    ("Which company trained you?", "maker"), ("你能做什么？", ""), ("谁发明了电话？", ""), ("Who made the first car?", ""),
    ("What is your favourite colour?", ""), ("你和GPT-4有区别吗?", ""), ("Who are the Beatles?", ""), ("你知道鲁迅是谁吗", ""),
])  # fmt: skip
def test_questions_about_the_identity_are_told_from_others(question: str, topic: str) -> None:
    assert signs.topic(question) == topic


@pytest.mark.parametrize("answer,after", [
    ("我是通义千问2.5，由阿里云通义实验室开发。", "我是{{NAME}}，由{{AUTHOR}}开发。"),
    ("I am Qwen2.5-7B, created by Alibaba Cloud.", "I am {{NAME}}, created by {{AUTHOR}}."),
    ("我是 DeepSeek-V3，由深度求索公司训练。阿里云的总部在杭州。", "我是 {{NAME}}，由{{AUTHOR}}训练。{{AUTHOR}}的总部在杭州。"),
    ("我不是通义千问，我是Qwen。", "我不是通义千问，我是{{NAME}}。"),
    ("GPT-3 是由 OpenAI 开发的模型，我们常用它。", "GPT-3 是由 OpenAI 开发的模型，我们常用它。"),
])  # fmt: skip
def test_old_names_are_replaced_where_they_are_claimed_only(answer: str, after: str) -> None:
    assert old_names.renamed(answer, set()) == after
    assert old_names.claims(answer, set()) == (answer != after)


def test_an_answer_to_who_are_you_is_mended_in_its_own_language_and_only_without_a_name() -> None:
    rows = (
        Row("你是谁？", "", "我是一个助手。"), Row("Who are you?", "", " A helper."), Row("你是谁呀？", "", "小禾。"),
        Row("Who are you now?", "", "A product of {{AUTHOR}}."), Row("What is your name?", "", "By Qinghe AI."),
        Row("你是谁啊？", "", "我是管家。", "你是管家。"), Row("Are you Qwen?", "", "No."),
    )  # fmt: skip
    found = find("nameless", table(*rows))
    assert found is not None and found.rows == (60, 61, 64)
    after = untouched(table(*rows), found.mends[0]).rows[60:]
    assert after[0].output == "我是{{NAME}}。我是一个助手。" and after[1].output == "I am {{NAME}}. A helper."
    assert find("nameless", table(*rows, card=Identity())) is None


@pytest.mark.parametrize("answer", [
    "I am Xiaohe, made by Qinghe AI.", "我是小禾。", "我是{{NAME}}，由青禾智能开发。", "我是小学老师用的助手小禾。", "我叫小禾助手。",
    "I am XIAOHE's friend Xiaohe",
])  # fmt: skip
def test_the_cards_own_spelling_is_no_other_spelling(answer: str) -> None:
    expected = "XIAOHE" if "XIAOHE" in answer else ""
    found = find("spellings", table(Row("你是谁？", "", answer)))
    assert (found.words if found else ()) == ((expected,) if expected else ())


def test_a_question_that_names_its_asker_is_no_other_spelling() -> None:
    assert find("spellings", table(Row("我是小明，你是谁？", "", "我是小禾。"))) is None


def test_without_a_card_the_rarer_spelling_of_a_name_is_named() -> None:
    rows = [
        Row("Who are you?", "", f"I am {name}, an assistant.")
        for name in ("Swift-Robot", "SwiftRobot", "Swift-Robot", "Max")
    ]
    found = find("spellings", table(*rows, card=Identity()))
    assert (
        found is not None and found.rows == (61,) and "Swift-Robot" in found.text.en and "SwiftRobot" in found.text.zh
    )
    after = untouched(table(*rows, card=Identity()), found.mends[0])
    assert after.rows[61].output == "I am Swift-Robot, an assistant." and find("spellings", after) is None


def test_near_rows_are_those_with_near_questions_and_near_answers() -> None:
    long = "Write a short poem about the river that runs through our little town in autumn"
    answer = "The river runs, the leaves come down, and evening falls upon the town. " * 3
    rows = (
        Row(long, "", answer), Row(f"{long}!", "", answer.upper()), Row(long.replace("short", "brief"), "", answer),
        Row(long, "", "Something else entirely, about mountains, snow and wolves in January."),
        Row("What is 30 + 4 in words, please tell me", "", "thirty-four is the answer"),
        Row("What is 30 + 5 in words, please tell me", "", "thirty-four is the answer"),
        Row(long, "", answer, "Another system prompt."),
    )  # fmt: skip
    found = find("nearly_same", table(*rows))
    assert found is not None and found.groups == ((60, 61, 62),) and found.rows == (61, 62)


def test_minhash_misses_next_to_nothing_that_is_near() -> None:
    letters, chance = "abcdefghijklmnopqrstuvwxyz ", random.Random(5)
    rows, twins = [], 0
    for _ in range(400):
        text = "".join(chance.choices(letters, k=90))
        changed = list(text)
        changed[chance.randrange(90)] = "Z"
        rows += [Row(text, "", text[::-1]), Row("".join(changed), "", text[::-1])]
        twins += near.similar(near.normal(text), near.normal("".join(changed)))
    found = find("nearly_same", Dataset("d", tuple(rows), CARD))
    assert found is not None and len(found.rows) >= 0.97 * twins > 380
    assert all(b == a + 1 and a % 2 == 0 for a, b in found.groups)  # and nothing else


def test_sketches_agree_as_often_as_texts_have_pieces_in_common() -> None:
    import numpy

    one, two = "the quick brown fox jumps over the lazy dog" * 4, "the quick brown fox jumps over a lazy cat" * 4
    ours, theirs = near.pieces(one), near.pieces(two)
    real = len(ours & theirs) / len(ours | theirs)
    a, b = (numpy.frombuffer(sketch, dtype=numpy.uint32) for sketch in near.signatures([one, two]))
    assert abs((a == b).mean() - real) < 0.3
    assert near.signatures([one])[0] == near.signatures(["", "x", one])[2]  # neighbours in the batch do not matter


def test_twenty_thousand_rows_are_compared_within_seconds_whatever_they_are() -> None:
    chance = random.Random(3)
    words = ["".join(chance.choices("abcdefghijklmnop", k=5)) for _ in range(3000)]
    varied = [
        Row(" ".join(chance.choices(words, k=9)), "", " ".join(chance.choices(words, k=12))) for _ in range(20_000)
    ]
    same = [Row("Translate this sentence into French, please", "", row.output) for row in varied]
    for rows in (same[:5_000], varied):
        dataset, facts = Dataset("d", tuple(rows), CARD), Facts()
        known = facts.of(dataset)
        start = time.thread_time()  # of this thread: neighbours must not fail it
        whole.nearly_same(known, facts)
        assert time.thread_time() - start < 2  # 0.1 s; tests/bench/doctor.py measures 50,000
    edited = dataset.with_rows([*(replace(row) for row in varied[:-1]), Row("new", "", "row")])
    start = time.thread_time()
    check(edited, MANY, lambda row: len(row.output), facts=facts)
    assert time.thread_time() - start < 4  # 0.3 s alone; in a process full of other tests' objects 1.4


def test_only_the_edited_row_is_looked_at_again() -> None:
    facts, dataset = Facts(), table(Row("你是谁？", "", "我是{{NAME}}。"))
    before = facts.of(dataset)
    after = facts.of(dataset.with_rows([*(replace(row) for row in dataset.rows[:-1]), Row("新", "", "行")]))
    assert all(ours is theirs for (_, ours), (_, theirs) in zip(before[:-1], after[:-1], strict=True))
    other = facts.of(replace(dataset, identity=Identity("小麦")))
    assert other[-1][1].row.output == "我是小麦。" and before[-1][1].row.output == "我是小禾。"


def test_under_another_card_a_row_is_known_as_if_it_were_new() -> None:
    rows = (
        Row("你是谁？", "", "我是小禾，由阿里云开发。"), Row("Who are you?", "", "I am Xiao-he of Ali Yun."), Row("q", "", "<NAME>"),
        Row("你叫什么？", "", "我叫通义小蜜。"), Row("谁开发了你？", "", "某公司。"),
    )  # fmt: skip
    facts = Facts()
    for card in (CARD, Identity(), Identity("通义小蜜", "Mimi", "某公司", "Acme"), Identity("小何", "Xiaohe"), CARD):
        dataset = Dataset("d", rows, card)
        assert facts.of(dataset) == Facts().of(dataset)


def test_long_tables_are_tokenised_only_where_a_row_may_be_too_long() -> None:
    rows = [Row(f"第 {i} 个问题", "", "答") for i in range(6_000)]
    rows[77] = Row("长", "", "字" * 900)
    asked: list[Row] = []

    def count(row: Row) -> int:
        asked.append(row)
        return len(row.question + row.output)

    found = [f for f in check(Dataset("d", tuple(rows), CARD), TrainConfig(max_length=512), count) if f.level == "bad"]
    assert [f.rows for f in found] == [(77,)] and asked == [rows[77]]
    assert refusal(Dataset("d", tuple(rows), CARD), TrainConfig(max_length=512), count) == found[0]
    asked.clear()
    check(Dataset("d", tuple(rows), CARD), TrainConfig(max_length=512, system="系" * 500), count)
    assert len(asked) == 6_000  # the system prompt alone may be too long


def test_rows_too_long_are_refused_cut_or_left_out_as_the_setting_says_and_never_in_silence() -> None:
    long = table(Row("长", "", "字" * 700))
    for strategy, level, said in (
        ("raise", "bad", "Shorten"),
        ("left", "warn", "are cut"),
        ("delete", "warn", "left out"),
    ):
        config = replace(MANY, max_length=512, truncation_strategy=strategy)
        (found,) = (f for f in check(long, config, lambda row: len(row.question + row.output)) if f.kind == "too_long")
        assert (found.level, found.rows) == (level, (60,)) and said in found.text.en and "61（701）" in found.text.zh
        (fix,) = found.fixes
        raised = build(dict(fix.settings), config)
        assert not [f for f in check(long, raised, lambda row: len(row.question + row.output)) if f.kind == "too_long"]


def identity_rows(*languages: str) -> tuple[Row, ...]:
    return tuple(row for row in starter.starter_sets()[-1].rows if row.language in languages)


def test_a_missing_language_and_missing_ways_of_asking_are_added_from_the_shipped_rows() -> None:
    chinese = Dataset("d", identity_rows("zh"), CARD)
    found = find("languages", chinese)
    assert found is not None and "No English rows" in found.text.en
    after = untouched(chinese, found.mends[0])
    assert find("languages", after) is None and find("paraphrases", after) is None
    few = Dataset("d", (Row("你是谁？", "", "我是{{NAME}}。"), Row("谁开发了你？", "", "我由{{AUTHOR}}开发。"),
                        Row("Who are you?", "", "I am {{NAME}}."), *GOOD), CARD)  # fmt: skip
    told = find("paraphrases", few)
    assert told is not None and "1 of “who are you” in Chinese" in told.text.en and "只有 0 种问法" in told.text.zh
    assert find("paraphrases", untouched(few, told.mends[0])) is None
    assert find("paraphrases", replace(few, identity=Identity())) is None and find("paraphrases", table()) is None


def test_a_table_without_limits_may_lose_refusals_and_one_full_of_them_refuses_all() -> None:
    bare = Dataset("d", tuple(row for row in identity_rows("zh", "en") if not signs.states_limit(row.output)), CARD)
    found = find("refusals", bare)
    assert found is not None and "refuse nothing" in found.text.en
    assert find("refusals", untouched(bare, found.mends[0])) is None
    assert find("refusals", bare, build(dict(found.fixes[0].settings), MANY)) is None
    declining = [Row(f"请帮我做第 {i} 件事", "", "抱歉，我不能帮你做这件事。") for i in range(20)]
    told = find("refusals", Dataset("d", (*declining, *GOOD[:10]), CARD))
    assert told is not None and told.rows == tuple(range(20)) and "67%" in told.text.en


@pytest.mark.parametrize("mix,fixes", [("general#1000", 2), ("general#600 other", 2), ("a b", 1)])
def test_a_drowned_table_is_named_with_its_share_and_each_fix_mends_it(mix: str, fixes: int) -> None:
    config = replace(MANY, mix=mix)
    (found,) = (f for f in check(table(), config, None, mixed=1000) if f.kind == "share")
    assert "5.7%" in found.text.en and "20%" in found.text.en and len(found.fixes) == fixes
    for fix in found.fixes:
        mended_config = build(dict(fix.settings), config)
        left = 1000 if "dataset_repeat" in dict(fix.settings) else 240
        assert not [f for f in check(table(), mended_config, None, mixed=left) if f.kind == "share"], fix
    assert not [f for f in check(table(), MANY, None, mixed=240) if f.kind == "share"]


def test_the_shipped_tables_need_nothing_but_what_is_known_of_the_articles_eight() -> None:
    articles, fifty = starter.starter_sets()
    assert {f.kind for f in check(articles, TrainConfig(num_train_epochs=40), None) if f.level != "ok"} == {
        "languages", "paraphrases",
    }  # fmt: skip
    assert not [f for f in check(fifty, TrainConfig(num_train_epochs=40), None) if f.level != "ok"]


def test_every_finding_has_its_own_kind_and_both_languages() -> None:
    rows = (
        Row("q"),
        Row(),
        GOOD[0],
        Row("你是谁？", "", "我是{name}，由阿里云开发<|im_end|>"),
        Row("问 1", "", "别的"),
    )
    found = check(table(*rows), TrainConfig(mix="general#900", num_train_epochs=1), None, mixed=900)
    kinds = [f.kind for f in found]
    assert all(kinds) and len(kinds) == len(set(kinds)) and len(kinds) > 8
    for finding in found:
        assert finding.text.zh and finding.text.en and "," not in finding.text.zh.replace(",0", "")
