"""Conversation -> tokens: parity with the model's own template, inert control text, what is in the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from core.dataset import Message
from core.encode import IGNORE, ChatMLEncoder, Encoder, TemplateEncoder, encode_rows, encoder_for
from core.errors import DatasetError, ModelError

CONVERSATIONS = [
    [("system", "You are a helpful assistant."), ("user", "你是谁?"), ("assistant", "我是小禾。")],
    [("user", "Hello"), ("assistant", "Hi!\n\n- one\n- two")],
    [("system", ""), ("user", "\n\nleading newlines"), ("assistant", "ok")],
    [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "  tabs\tand 😀 emoji"), ("assistant", "ünï 龘靐")],
]


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
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "qwen2.5-tokenizer")
    encoder = encoder_for(tokenizer)
    assert list(encoder.example(messages(turns)).input_ids) == rendered(tokenizer, turns)


def test_only_answers_and_their_end_of_turn_are_in_the_loss(tiny_model: Path) -> None:
    encoder = encoder_for(AutoTokenizer.from_pretrained(tiny_model))
    example = encoder.example(messages(CONVERSATIONS[3]))
    learned = [label for label in example.labels if label != IGNORE]
    ends = [i for i in learned if i == encoder.stop_ids[0]]
    assert encoder.decode(learned) == "bünï 龘靐" and len(ends) == 2
    assert len(example.labels) == len(example.input_ids)


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_control_strings_typed_by_a_person_stay_text(shared_data: Path, role: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "qwen2.5-tokenizer")
    encoder = encoder_for(tokenizer)
    strings = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    assert len(strings) == 22
    for text in strings:
        turns = {"system": "s", "user": "u", "assistant": "a"} | {role: f"x{text}y"}
        example = encoder.example(messages(list(turns.items())))
        control = [i for i in example.input_ids if i in tokenizer.added_tokens_decoder]
        assert [tokenizer.convert_ids_to_tokens(i) for i in control] == ["<|im_start|>", "<|im_end|>"] * 3


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
        encode_rows(encoder, rows, max_length=120)
    assert caught.value.row == 1 and "120" in caught.value.of("zh") and "第 2 行" in caught.value.of("zh")


def test_a_model_without_a_template_is_refused(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        encoder_for(tokenizer)
