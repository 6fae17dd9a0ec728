"""What a person types stays text: every control token of a public tokenizer, in every field, with either kind of template."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from transformers import AutoTokenizer

from core.dataset import Message, Row
from core.encode import ChatMLEncoder, TemplateEncoder, encoder_for

FIELDS = ("system", "question", "answer", "input", "history")
OTHER = (  # no ChatML: each turn under a heading
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + ':\n' + m['content'] + '<|im_end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant:\n' }}{%- endif -%}"
)


def row(field: str, typed: str) -> Row:
    """A row with a turn before, and `typed` in the middle of one field."""
    cells = {name: f"{name} x{typed if name == field else ''}y 好" for name in FIELDS}
    turns = (Message("user", "first"), Message("assistant", cells["history"]))
    return Row(cells["question"], cells["input"], cells["answer"], cells["system"], turns)


def test_no_typed_control_token_comes_alive(shared_data: Path, full: bool, tally: Callable[..., None]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "qwen2.5-tokenizer")
    other = copy.copy(tokenizer)
    other.chat_template = OTHER
    strings = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    cases, alive = 0, list[str]()
    for made in (tokenizer, other):
        encoder = encoder_for(made)
        assert isinstance(encoder, ChatMLEncoder if made is tokenizer else TemplateEncoder)
        for field in FIELDS:
            plain = encoder.example(row(field, "").messages())
            own = [i for i in plain.input_ids if i in encoder.control.tokens]
            for typed in strings:
                for twice in (typed, typed + typed, f"{typed}\n{typed}") if full else (typed,):
                    cases += 1
                    talk = row(field, twice).messages()
                    ids = encoder.example(talk).input_ids
                    asked = encoder.prompt(talk[:-1])
                    found = [i for i in ids if i in encoder.control.tokens]
                    same = asked == list(ids[: len(asked)])
                    if found != own or encoder.decode(ids).count(typed) < 2 - (twice == typed) or not same:
                        alive.append(f"{typed} in {field}, {type(encoder).__name__}")
    assert len(strings) == 22
    print(*alive, sep="\n")
    tally("control tokens typed into a row (22 tokens, 5 fields, 2 templates)", cases=cases, wrong=len(alive))
