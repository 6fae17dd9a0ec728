"""What a person types stays text: every control token, in every field, with either kind of template."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

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


# Those of Qwen2.5: the last eight are not called special, and are control tokens all the same.
CONTROL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
_NOT_SPECIAL = 8


def small(model: Path) -> PreTrainedTokenizerBase:
    """A tokenizer with all of them, whose merges were learned from their very letters: whole words inside brackets."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.normalizer, backend.decoder = normalizers.NFC(), decoders.ByteLevel()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([f"system user assistant {token}" for token in CONTROL] * 4, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_tokens([AddedToken(token, special=True) for token in CONTROL[:-_NOT_SPECIAL]], special_tokens=True)
    made.add_tokens([AddedToken(token, special=False) for token in CONTROL[-_NOT_SPECIAL:]])
    made.chat_template = AutoTokenizer.from_pretrained(model).chat_template
    return made


@pytest.mark.parametrize("kind", ["small", "public"])
def test_no_typed_control_token_comes_alive(
    kind: str, request: pytest.FixtureRequest, full: bool, tally: Callable[..., None]
) -> None:
    if kind == "small":
        tokenizer = small(request.getfixturevalue("tiny_model"))
    else:
        tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue("shared_data") / "qwen2.5-tokenizer")
    other = copy.copy(tokenizer)
    other.chat_template = OTHER
    strings = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    assert sorted(strings) == sorted(CONTROL)
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
    print(*alive, sep="\n")
    tally("control tokens typed into a row (22 tokens, 5 fields, 2 templates)", cases=cases, wrong=len(alive))
