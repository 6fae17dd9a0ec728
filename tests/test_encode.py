"""Conversation -> tokens: parity with the model's own template, inert control text, what is in the loss."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from core import formats
from core.config import TrainConfig
from core.dataset import Message, Row
from core.encode import IGNORE, ChatMLEncoder, Encoder, TemplateEncoder, encoder_for
from core.errors import DatasetError, ModelError
from core.files_choices import Choices
from core.truncation import fit_rows

CONVERSATIONS = [
    [("system", "You are a helpful assistant."), ("user", "你是谁?"), ("assistant", "我是小禾。")],
    [("user", "Hello"), ("assistant", "Hi!\n\n- one\n- two")],
    [("system", ""), ("user", "\n\nleading newlines"), ("assistant", "ok")],
    [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "  tabs\tand 😀 emoji"), ("assistant", "ünï 龘靐")],
]


@cache
def qwen(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


@cache
def encoder_of(folder: Path) -> Encoder:
    return encoder_for(qwen(folder))


def messages(turns: list[tuple[str, str]]) -> list[Message]:
    return [Message(role, content) for role, content in turns]  # type: ignore[arg-type]


def rendered(tokenizer: object, turns: list[tuple[str, str]], generation: bool = False) -> list[int]:
    plain = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(plain, tokenize=True, add_generation_prompt=generation, return_dict=False)  # type: ignore


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_chatml_ids_equal_the_templates_own(tiny_model: Path, turns: list[tuple[str, str]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    encoder = encoder_for(tokenizer)
    assert isinstance(encoder, ChatMLEncoder)
    assert list(encoder.example(messages(turns)).input_ids) == rendered(tokenizer, turns)
    assert encoder.prompt(messages(turns[:-1])) == rendered(tokenizer, turns[:-1], generation=True)


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_real_qwen_ids_equal_the_templates_own(shared_data: Path, turns: list[tuple[str, str]]) -> None:
    tokenizer, encoder = qwen(shared_data / "qwen2.5-tokenizer"), encoder_of(shared_data / "qwen2.5-tokenizer")
    assert list(encoder.example(messages(turns)).input_ids) == rendered(tokenizer, turns)


def test_only_answers_and_their_end_of_turn_are_in_the_loss(tiny_model: Path) -> None:
    encoder = encoder_for(AutoTokenizer.from_pretrained(tiny_model))
    example = encoder.example(messages(CONVERSATIONS[3]))
    learned = [label for label in example.labels if label != IGNORE]
    ends = [i for i in learned if i == encoder.stop_ids[0]]
    assert encoder.decode(learned) == "bünï 龘靐" and len(ends) == 2
    assert len(example.labels) == len(example.input_ids)


@pytest.mark.parametrize("place", ["system", "history", "question", "input", "answer"])
def test_control_strings_stay_text_in_every_field_of_a_qwen_row(shared_data: Path, place: str) -> None:
    tokenizer = qwen(shared_data / "qwen2.5-tokenizer")
    encoder, ends = encoder_of(shared_data / "qwen2.5-tokenizer"), ["<|im_start|>", "<|im_end|>"]
    strings = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    assert len(strings) == 22
    for text in strings:
        ids = encoder.example(typed_row(place, text).messages("")).input_ids
        live = [encoder.control.tokens[i] for i in ids if i in encoder.control.tokens]
        assert live == ends * 5 and text in encoder.decode(ids)


def typed_row(place: str, text: str) -> Row:
    """A row with an extra input, a system prompt and a turn before, and `text` typed in one of them."""
    cells = {
        name: f"{name} x{text if name == place else ''}y 好"
        for name in ("system", "history", "question", "input", "answer")
    }
    turns = (Message("user", "first"), Message("assistant", cells["history"]))
    return Row(cells["question"], cells["input"], cells["answer"], cells["system"], turns)


def test_another_template_marks_the_same_answer(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    encoder = encoder_for(tokenizer)
    assert isinstance(encoder, TemplateEncoder)
    example = encoder.example(messages(CONVERSATIONS[3]))
    learned = [label for label in example.labels if label != IGNORE]
    assert encoder.decode(learned).replace("\n", "") == "bünï 龘靐"


def test_a_row_over_the_limit_is_refused_by_name(tiny_model: Path) -> None:
    encoder: Encoder = encoder_for(AutoTokenizer.from_pretrained(tiny_model))
    rows = [messages(CONVERSATIONS[0]), messages([("user", "long " * 50), ("assistant", "a")])]
    with pytest.raises(DatasetError) as caught:
        fit_rows(encoder, rows, TrainConfig(max_length=120))
    assert caught.value.row == 1 and "120" in caught.value.of("zh") and "第 2 行" in caught.value.of("zh")


def test_a_model_without_a_template_is_refused(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        encoder_for(tokenizer)


@pytest.mark.parametrize(
    "file",
    [
        "general/alpaca_en_demo_300.json", "general/alpaca_zh_demo_300.json", "identity/llamafactory_identity.json",
        "identity/personalitychat_friendly_qna.tsv", "messages/openai_toy_chat_fine_tuning.jsonl",
        "ms-swift-fixtures/alpaca.csv", "ms-swift-fixtures/chatml.jsonl", "csv/medical_qa_gb18030_100.csv",
    ],
)  # fmt: skip
def test_every_clean_row_of_real_files_has_the_templates_own_ids(shared_data: Path, file: str) -> None:
    path = shared_data / file
    rows = formats.read(path.read_bytes(), path.name, Choices(encoding="gb18030" if "gb18030" in file else "")).rows
    tokenizer = qwen(shared_data / "qwen2.5-tokenizer")
    encoder, compared = encoder_of(shared_data / "qwen2.5-tokenizer"), 0
    for row in rows:
        for system in ("You are a helpful assistant.", ""):
            turns = [(m.role, m.content) for m in row.messages(system)]
            if not any(encoder.control.typed(content) for _, content in turns):
                assert list(encoder.example(row.messages(system)).input_ids) == rendered(tokenizer, turns)
                compared += 1
    assert compared == 2 * len(rows) > 0
