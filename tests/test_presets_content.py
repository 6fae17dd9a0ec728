"""The rows and questions we ship: their counts, their form, and that no probe is a training row."""

from __future__ import annotations

import contextlib
import io
import json
import re
import unicodedata
from pathlib import Path

import pytest

from core import health
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row, placeholders
from core.formats import read
from core.text import has_han

PRESETS = Path(__file__).resolve().parents[1] / "presets"
CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
OLD = re.compile(r"qwen|通义|千问|阿里|alibaba|chatgpt|gpt|openai|deepseek", re.IGNORECASE)


def rows(name: str) -> tuple[Row, ...]:
    return read((PRESETS / name).read_bytes(), name).rows


def lines(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (PRESETS / name).read_text(encoding="utf-8").split("\n") if line]


def plain(text: str) -> str:
    """Without case, width, spaces and punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in text if unicodedata.category(c)[0] not in "PZSC")


STARTERS = ("starter/articles-8.jsonl", "starter/identity-50.jsonl")
BUILT_IN = ("general/general.jsonl", "general/code.jsonl")


@pytest.mark.parametrize("name", [*STARTERS, *BUILT_IN])
def test_shipped_rows_are_plain_alpaca_lines_without_repeated_questions(name: str) -> None:
    assert all(set(line) == {"instruction", "input", "output"} for line in lines(name))
    questions = [plain(row.question) for row in rows(name)]
    assert len(set(questions)) == len(questions)
    assert all(row.instruction == row.instruction.strip() and row.output == row.output.strip() for row in rows(name))


def test_the_eight_rows_are_those_of_the_articles() -> None:
    eight = rows("starter/articles-8.jsonl")
    assert len(eight) == 8
    assert eight[0] == Row("你是谁?", "", "我是一个由 CSDN 迪菲赫尔曼 开发和维护的大语言模型。")
    assert eight[6] == Row("你的名字是什么?", "", "你可以叫我 Swift-Robot,也可以叫我 CSDN 助手。")
    assert sum("CSDN 迪菲赫尔曼" in row.output for row in eight) == 4


def test_the_fifty_identity_rows_speak_as_i_and_need_both_words_of_the_card() -> None:
    fifty = rows("starter/identity-50.jsonl")
    assert [row.language for row in fifty] == ["zh"] * 30 + ["en"] * 20
    assert all(row.output.startswith("我") if row.language == "zh" else row.output.startswith("I ") for row in fifty)
    marks = [set(placeholders(row.output)) for row in fifty]
    assert sum("{{NAME}}" in mark for mark in marks) >= 20 and sum("{{AUTHOR}}" in mark for mark in marks) >= 20
    assert not any(OLD.search(row.output) for row in fifty)
    assert any("不能联网" in row.output for row in fifty) and any("不能保证" in row.output for row in fifty)
    assert all(len(row.resolved(CARD).output) <= (40 if row.language == "zh" else 110) for row in fifty)


def test_a_denial_names_the_new_identity() -> None:
    denials = [row for row in rows("starter/identity-50.jsonl") if OLD.search(row.question)]
    assert len(denials) >= 6
    assert all(any(word in row.resolved(CARD).output for word in CARD.words) for row in denials)


def test_the_fifty_rows_pass_the_health_check_with_the_default_card() -> None:
    found = health.check(Dataset("d", rows("starter/identity-50.jsonl"), CARD), TrainConfig(), None)
    assert {finding.level for finding in found} == {"ok"}


def test_sixteen_identity_probes_in_two_languages_expect_something() -> None:
    probes = lines("probes/identity.jsonl")
    assert [probe["language"] for probe in probes] == ["zh"] * 8 + ["en"] * 8
    assert all(set(probe) == {"question", "language", "expect"} for probe in probes)
    for language in ("zh", "en"):
        assert {p["expect"] for p in probes if p["language"] == language} == {"name", "author", "any"}
        assert any("Qwen" in p["question"] for p in probes if p["language"] == language)


def test_sixteen_general_probes_are_in_their_language_and_about_no_identity() -> None:
    probes = lines("probes/general.jsonl")
    assert [probe["language"] for probe in probes] == ["zh"] * 8 + ["en"] * 8
    assert all(set(probe) == {"question", "language"} for probe in probes)
    assert not any(has_han(p["question"]) for p in probes if p["language"] == "en")
    assert not any(re.search(r"你是|\byou\b(?! say)", p["question"]) for p in probes)


@pytest.mark.parametrize("probes", ["probes/identity.jsonl", "probes/general.jsonl"])
@pytest.mark.parametrize("training", [*STARTERS, *BUILT_IN])
def test_no_probe_is_a_training_question(probes: str, training: str) -> None:
    asked = {plain(probe["question"]) for probe in lines(probes)}
    assert len(asked) == 16 and not asked & {plain(row.question) for row in rows(training)}


def test_two_hundred_general_rows_are_half_chinese_and_of_useful_length() -> None:
    general = rows("general/general.jsonl")
    chinese = [row for row in general if has_han(row.instruction)]
    english = [row for row in general if not has_han(row.instruction)]
    assert len(chinese) == len(english) == 100
    assert all(30 <= len(row.output) <= 300 for row in chinese)
    assert all(20 <= len(row.output.split()) <= 120 for row in english if "```" not in row.output)
    assert sum(bool(row.input) for row in general) >= 10 and sum("```" in row.output for row in general) >= 15


@pytest.mark.parametrize("name", BUILT_IN)
def test_general_rows_claim_no_identity(name: str) -> None:
    claim = re.compile(
        r"语言模型|人工智能助手|我叫|我是小|AI assistant|language model|\bmy name is\b|as an AI", re.IGNORECASE
    )
    assert [row.instruction for row in rows(name) if claim.search(row.output)] == []
    assert not any(word in row.output for row in rows(name) for word in CARD.words)
    assert not any(placeholders(row.output) for row in rows(name))


def test_python_code_in_general_rows_compiles() -> None:
    blocks = [
        code for row in rows("general/general.jsonl") for code in re.findall(r"```python\n(.*?)```", row.output, re.S)
    ]
    assert len(blocks) >= 10
    for code in blocks:
        compile(code, "row", "exec")


def test_code_rows_do_what_they_say() -> None:
    """Every Python block is run, and what it prints compared with what the comment behind the print promises."""
    code = rows("general/code.jsonl")
    assert sum(has_han(row.instruction) for row in code) == len(code) / 2 >= 20
    checked = 0
    for row in code:
        for block in re.findall(r"```python\n(.*?)```", row.output, re.S):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, row.instruction, "exec"), {"__name__": "__main__"})
            promised = re.findall(r"^\s*print\(.*\)  # (.*)$", block, re.M)
            assert printed.getvalue().splitlines() == promised, row.instruction
            checked += len(promised)
    assert checked >= 40


def test_nothing_shipped_is_half_width_between_chinese_characters() -> None:
    odd = re.compile(r"[\u4e00-\u9fff][,;:?!](?! ?[A-Za-z0-9`])|[,;:?!][\u4e00-\u9fff]")
    assert [line["instruction"] for name in BUILT_IN for line in lines(name) if odd.search(line["output"])] == []


def test_a_built_in_row_is_in_no_proof_and_in_one_set_only() -> None:
    asked = [plain(row.question) for name in BUILT_IN for row in rows(name)]
    assert len(set(asked)) == len(asked)
    proof = {plain(str(value)) for path in (PRESETS / "proof").glob("*.jsonl") for line in lines(f"proof/{path.name}")
             for value in line.values() if isinstance(value, str)}  # fmt: skip
    assert not set(asked) & proof
