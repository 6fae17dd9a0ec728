"""What the health check finds, and that it names rows by their place in the table."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from core import models, presets, proof_sets
from core.advice import Finding, Level, advise
from core.config import TrainConfig, build
from core.dataset import Dataset, Identity, Message, Row, placeholders
from core.doctor.facts import Facts
from core.health import blocking, check
from core.starter import starter_sets

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
GOOD = tuple(row for i in range(30) for row in (Row(f"问 {i}", "", f"答 {i}"), Row(f"Ask {i}", "", f"Answer {i}")))
MANY = TrainConfig(gradient_accumulation_steps=1)


def findings(
    *rows: Row, card: Identity = CARD, config: TrainConfig = MANY, good: tuple[Row, ...] = GOOD
) -> dict[Level, list[Finding]]:
    """Findings for good rows followed by `rows`, by level."""
    found = check(Dataset("d", (*good, *rows), card), config, None)
    return {level: [f for f in found if f.level == level] for level in ("bad", "warn", "ok")}


def only(found: dict[Level, list[Finding]], level: Level) -> Finding:
    """The single finding of `level`, which is the highest there is."""
    assert len(found[level]) == 1 and (level == "bad" or not found["bad"]), found
    return found[level][0]


def test_a_good_table_has_nothing_but_facts() -> None:
    found = findings()
    assert not found["bad"] and not found["warn"]
    text = " ".join(f.text.en for f in found["ok"])
    assert "60 rows: 30 Chinese, 30 English" in text and "600 steps" in text


def test_a_table_without_rows_forbids_training() -> None:
    for rows in ((), (Row(), Row(" ", "", "\n"))):
        found = check(Dataset("d", rows), TrainConfig(), None)
        assert [f.level for f in found] == ["bad"] and blocking(found) is found[0]


@pytest.mark.parametrize("empty", ["", " ", "\n\t", "\u200b", "\ufeff\u2060", "\u3000", "\u3164", "\u2800", "\u00ad"])
def test_an_answer_or_question_that_shows_nothing_forbids_training(empty: str) -> None:
    unanswered = only(findings(Row(), Row("q", "", empty)), "bad")
    assert unanswered.rows == (61,) and "Row 62: no answer" in unanswered.text.en
    unasked = only(findings(Row(empty, "", "a")), "bad")
    assert unasked.rows == (60,) and "no question" in unasked.text.en


def test_an_emoji_or_a_dot_is_an_answer() -> None:
    assert not findings(Row("q", "", "."), Row("r", "", "👍\ufe0f"))["bad"]


def test_blank_rows_are_named_but_do_not_matter() -> None:
    assert any(f.rows == (60, 61) and "2" in f.text.zh for f in findings(Row(), Row(system="s"))["ok"])


def test_rows_over_the_limit_are_named_with_their_length_and_the_limit() -> None:
    table = Dataset("d", (Row(), *GOOD, Row("长", "", "字" * 700)), CARD)
    found = check(table, TrainConfig(max_length=512), lambda row: len(row.question + row.output))
    assert found[0].level == "bad" and found[0].rows == (61,) and blocking(found) is found[0]
    assert "512" in found[0].text.en and "62 (701)" in found[0].text.en and "62（701）" in found[0].text.zh
    assert not [
        f for f in check(table, TrainConfig(max_length=701), lambda r: len(r.question + r.output)) if f.rows == (61,)
    ]


def test_tokens_are_counted_on_resolved_rows_and_split_by_language() -> None:
    rows = (Row("你", "", "{{NAME}}"), Row("Y", "", "{{NAME}}"))
    found = check(Dataset("d", rows, CARD), MANY, lambda row: len(row.output))
    assert any("8 tokens (2 Chinese, 6 English), longest row 6" in f.text.en for f in found)


@pytest.mark.parametrize("card,said", [(Identity(), 2), (Identity(name_zh="小禾"), 1), (CARD, 0)])
def test_placeholders_without_a_value_on_the_card_forbid_training(card: Identity, said: int) -> None:
    row = Row(
        "你是谁?", "", "我是{{NAME}},由{{AUTHOR}}开发。", "", (Message("user", "hi"), Message("assistant", "<NAME>"))
    )
    bad = findings(row, card=card)["bad"]
    assert len(bad) == said and all(f.rows == (60,) for f in bad)


def test_a_placeholder_of_the_settings_system_prompt_without_a_value_forbids_training() -> None:
    for card, said in ((Identity(), True), (Identity(name_zh="小禾"), False)):
        found = check(Dataset("d", GOOD, card), TrainConfig(system="You are {{NAME}}."), None)
        assert ("unfilled_system" in {finding.kind for finding in found if finding.level == "bad"}) == said


def test_eight_rows_at_sixteen_a_step_and_ten_epochs_are_ten_steps_and_a_warning() -> None:
    eight = tuple(Row(f"问{i}", "", f"答{i}") if i % 2 else Row(f"q{i}", "", f"a{i}") for i in range(8))
    warning = only(findings(good=eight, config=TrainConfig()), "warn")
    assert "8 rows, 16 rows per step, 10 epochs: only 10 steps" in warning.text.en and "10 步" in warning.text.zh
    assert not findings(good=eight, config=TrainConfig(num_train_epochs=30))["warn"]
    assert not findings(good=eight, config=TrainConfig(gradient_accumulation_steps=2))["warn"]
    assert not [
        f
        for f in check(Dataset("d", eight, CARD), TrainConfig(), None, mixed=100)
        if "step" in f.text.en and f.level == "warn"
    ]
    assert "only 5 steps" in only(findings(good=eight, config=TrainConfig(max_steps=5)), "warn").text.en


def test_a_language_without_rows_is_a_warning() -> None:
    assert "No English rows" in only(findings(good=GOOD[::2]), "warn").text.en
    assert "No Chinese rows" in only(findings(good=GOOD[1::2]), "warn").text.en
    named = tuple(Row(f"Ask {i}", "", "I am {{NAME}}") for i in range(40))
    assert "No Chinese rows" in only(findings(good=named, card=Identity(name_zh="小禾")), "warn").text.en


def test_the_same_row_again_is_named() -> None:
    assert only(findings(GOOD[0], Row(), GOOD[0], Row("问 0", "ctx", "答 0")), "warn").rows == (60, 62)


def test_a_question_with_two_answers_is_named_whatever_its_case_width_and_mark() -> None:
    found = only(
        findings(Row("Why is it?", "", "A"), Row("why  is it\uff1f", "", "B"), Row("Why are they?", "", "C")),
        "warn",
    )
    assert found.rows == (60, 61) and "61 / 62" in found.text.en
    assert only(findings(Row("Why is it?", "", "A"), Row("why is it", "", "A ")), "warn").kind == "nearly_same"
    assert not findings(Row("q", "", "A", "system one"), Row("q", "", "B", "system two"))["warn"]
    assert not findings(
        Row("q", "", "A"), Row("q", "", "B", history=(Message("user", "x"), Message("assistant", "y")))
    )["warn"]


@pytest.mark.parametrize("answer", [
    "我是通义千问。", "我是Qwen,由阿里云开发。", "I am Qwen.", "I was created by Alibaba Cloud.", "我不会骗你,我是通义千问。",
    "My name is qwen2.5.", "我不是小禾,而是通义千问。",
])  # fmt: skip
def test_an_answer_that_claims_the_old_identity_is_a_warning(answer: str) -> None:
    found = only(findings(Row("q", "", answer)), "warn")
    assert found.rows == (60,) and "old identity" in found.text.en


@pytest.mark.parametrize("answer", [
    "我不是通义千问,我是小禾。", "不是的,我和Qwen没有关系。", "I am not Qwen. I am Xiaohe.", "I'm Xiaohe, not Qwen.",
    "No, I wasn't made by Alibaba Cloud.", "我并非由阿里云开发。", "阿里巴巴的总部在杭州。", "Alibaba was founded in 1999.",
    "我不是\uff0c我叫小禾。", "I am Xiaohe, unlike Qwen.", "我与通义千问不同。",
])  # fmt: skip
def test_a_denial_or_a_fact_about_the_old_maker_is_fine(answer: str) -> None:
    assert not findings(Row("q", "", answer))["warn"]


def test_an_identity_that_contains_an_old_name_may_say_it() -> None:
    row = Row("q", "", "我是通义小蜜。")
    assert not findings(row, card=Identity("通义小蜜", "Mi", "某公司", "Co"))["warn"]
    assert only(findings(row), "warn").rows == (60,)


def test_bad_findings_come_first_and_block() -> None:
    found = check(Dataset("d", (Row("q", "", ""), *GOOD[:4])), TrainConfig(), None)
    levels = [f.level for f in found]
    assert levels == sorted(levels, key=["bad", "warn", "ok"].index) and "warn" in levels
    first = blocking(found)
    assert first is not None and first.level == "bad" and blocking([f for f in found if f.level != "bad"]) is None


def test_two_thousand_rows_are_checked_between_two_keystrokes() -> None:
    rows = tuple(
        Row(f"第 {i} 个问题:你是谁?", "", f"我是{{{{NAME}}}},由{{{{AUTHOR}}}}开发的助手,编号 {i}。" * 2)
        for i in range(2000)
    )
    facts = Facts()
    times = []
    for i in range(5):
        table = Dataset("d", (*rows[:-1], Row(f"第 {i} 次改", "", "好")), CARD)
        start = time.thread_time()  # of this thread: neighbours must not fail it
        check(table, TrainConfig(), None, facts=facts)
        times.append(time.thread_time() - start)
    assert min(times) < 0.1 and times[0] < 1, times  # 0.02 s, and 0.15 s for the first


def warned(config: TrainConfig, rows: int = 8, parameters: int = 7_000_000_000) -> list[Finding]:
    return [finding for finding in advise(config, rows, parameters) if finding.level == "warn"]


@pytest.mark.parametrize("config", [
    TrainConfig(), TrainConfig(max_steps=5), TrainConfig(learning_rate=1e-2), TrainConfig(learning_rate=1e-6),
    TrainConfig(warmup_ratio=0.5, num_train_epochs=40), TrainConfig(split_dataset_ratio=0.2, num_train_epochs=40),
    TrainConfig(optim="lion_32bit", learning_rate=1e-3, max_steps=10), TrainConfig(lora_alpha=512, lora_rank=8),
])  # fmt: skip
def test_every_button_mends_what_it_stands_by(config: TrainConfig) -> None:
    found = warned(config)
    assert found and all(finding.fixes for finding in found)
    for finding in found:
        for fix in finding.fixes:
            mended = build(dict(fix.settings), config)
            assert finding.text not in [other.text for other in warned(mended)], fix
            assert len(warned(mended)) < len(found), fix


def test_eight_rows_and_ten_steps_are_mended_by_repeating_or_by_epochs() -> None:
    (finding,) = warned(TrainConfig())
    repeat, epochs = finding.fixes
    assert repeat.settings == (("min_steps", 30),) and epochs.settings == (("num_train_epochs", 30.0),)
    assert "Repeat the rows" in repeat.label.en and "30 epochs" in epochs.label.en


@pytest.mark.parametrize("rate,parameters,said", [
    (2e-3, 7e9, "is high"), (4e-4, 7e9, ""), (1e-5, 7e9, ""), (5e-6, 7e9, "is low"), (2e-4, 72e9, ""), (1e-4, 1.5e9, ""),
    (2e-2, 5e6, "is high"), (1e-2, 5e6, ""), (2e-3, 5e6, ""), (1e-4, 5e6, "is low"),
])  # fmt: skip
def test_a_learning_rate_is_judged_by_the_models_size(rate: float, parameters: float, said: str) -> None:
    config = TrainConfig(learning_rate=rate, num_train_epochs=40)
    found = warned(config, parameters=int(parameters))
    assert bool(found) == bool(said) and all(said in finding.text.en for finding in found)
    assert not warned(config, parameters=0)


def test_no_preset_is_warned_of_at_the_size_it_is_made_for() -> None:
    pocket = models.inspect("pocket")
    small = pocket.linear_parameters + pocket.embedding_parameters
    for preset in presets.load_presets(Path("/nowhere")):
        sizes = {"pocket": small, "Qwen/Qwen2.5-7B-Instruct": 7_600_000_000}
        if preset.id == "pocket":
            del sizes["Qwen/Qwen2.5-7B-Instruct"]
        for model, parameters in sizes.items():
            config = preset.for_model(model).config
            assert not warned(replace(config, max_steps=0, min_steps=30), 50, parameters), (preset.id, model)


def test_questions_of_the_proof_are_named_by_their_place_and_the_starter_rows_hold_none() -> None:
    item = next(item for item in proof_sets.items("identity", "en") if not placeholders(item.text))
    found = only(findings(Row(), Row(item.text.upper(), "", "I am {{NAME}}.")), "warn")
    assert found.rows == (61,) and "question of the proof" in found.text.en and not found.fixes
    for starter in starter_sets():
        told = check(starter, TrainConfig(), None)
        assert not [finding for finding in told if "question of the proof" in finding.text.en]


def test_a_mix_that_the_pocket_model_cannot_learn_is_said_with_the_guard_in_its_place() -> None:
    def found(mix: str, parameters: int) -> list[Finding]:
        told = advise(TrainConfig(mix=mix, learning_rate=2e-3), 150, parameters)
        return [one for one in told if one.kind == "beyond_it"]

    (said,) = found("mine general#100", 5_576_192)
    assert said.fixes[0].settings == (("mix", ""), ("rehearsal", "normal"))
    assert not found("general#100", 7_600_000_000) and not found("generals#9", 5_576_192) and not found("", 5_576_192)
