"""Templates that are not ChatML: each answer in the loss once, control text inert, ids as the template's own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from core.dataset import Message, Row
from core.encode import IGNORE, TemplateEncoder, encoder_for
from core.errors import DatasetError
from core.inert import restored

REASONING = (  # as Qwen3: thoughts stand before the last answer and are taken out of the earlier ones
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{%- if m['role'] == 'assistant' and loop.last -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}"
    "{{ m['content'] + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
OPENED = (  # as DeepSeek-R1: asked with an opened thought that the finished turn does not have
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n<think>\n' }}{%- endif -%}"
)
TRIMMED = (  # as Llama 3: content without the white space around it
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|im_end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n\n' }}{%- endif -%}"
)
MERGED = (  # a token reaches over the answer's edge: " Hi" is one
    "{%- for m in messages -%}{{ m['role'] + ': ' + m['content'] + '\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}"
)
PLACES = ("system", "history", "question", "input", "answer")
TEMPLATES = {"reasoning": REASONING, "opened": OPENED, "trimmed": TRIMMED, "merged": MERGED}
THREE = [
    ("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi there"), ("user", " 你是谁？\n"), ("assistant", "我是小禾。"),
    ("user", "And now?"), ("assistant", "Still me."),
]  # fmt: skip


def messages(turns: list[tuple[str, str]]) -> list[Message]:
    return [Message(role, content) for role, content in turns]  # type: ignore[arg-type]


def rendered(tokenizer: object, turns: list[tuple[str, str]], generation: bool = False) -> list[int]:
    plain = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(plain, tokenize=True, add_generation_prompt=generation, return_dict=False)  # type: ignore


@cache
def qwen(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def qwen_with(shared_data: Path, template: str | None = None) -> PreTrainedTokenizerBase:
    tokenizer = copy.copy(qwen(shared_data / "qwen2.5-tokenizer"))
    tokenizer.chat_template = template or tokenizer.chat_template
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_any_template_has_each_answer_in_the_loss_exactly_once(shared_data: Path, name: str) -> None:
    encoder = encoder_for(qwen_with(shared_data, TEMPLATES[name]))
    assert isinstance(encoder, TemplateEncoder)
    examples = encoder.examples(messages(THREE))
    assert len(examples) == (3 if name in ("reasoning", "opened") else 1)
    learned = "".join(encoder.decode([i for i in one.labels if i != IGNORE]) for one in examples)
    for answer in ("Hi there", "我是小禾。", "Still me."):
        assert learned.count(answer) == 1
    assert not any(question in learned for question in ("Be brief.", "Hello", "你是谁", "And now"))
    assert encoder.example(messages(THREE)) == examples[-1]


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_learned_follows_what_the_model_will_be_asked_with(shared_data: Path, name: str) -> None:
    encoder = encoder_for(qwen_with(shared_data, TEMPLATES[name]))
    last = encoder.examples(messages(THREE[:3]))[-1]
    asked = encoder.prompt(messages(THREE[:2]))
    assert list(last.input_ids[: len(asked)]) == asked
    assert set(last.labels[: len(asked)]) == {IGNORE} and last.labels[len(asked)] != IGNORE


@pytest.mark.parametrize("turns", [THREE, THREE[:3], [("user", "\n\nq"), ("assistant", "  a\n😀")]])
def test_the_general_encoder_has_the_templates_own_ids(shared_data: Path, turns: list[tuple[str, str]]) -> None:
    tokenizer = qwen_with(shared_data)
    encoder = TemplateEncoder(tokenizer)
    assert list(encoder.example(messages(turns)).input_ids) == rendered(tokenizer, turns)
    assert encoder.prompt(messages(turns[:-1])) == rendered(tokenizer, turns[:-1], generation=True)


@pytest.mark.parametrize("name", ["own", *TEMPLATES])
def test_control_strings_stay_text_in_every_field_and_template(shared_data: Path, name: str) -> None:
    encoder = TemplateEncoder(qwen_with(shared_data, TEMPLATES.get(name)))
    strings = list(encoder.control.tokens.values())
    assert len(strings) == 22

    def live(ids: Sequence[int]) -> list[int]:
        return [i for i in ids if i in encoder.control.tokens]

    for place in PLACES:
        clean = typed_row(place, "").messages("")
        expected = [live(one.input_ids) for one in encoder.examples(clean)]
        for text in strings:
            row = typed_row(place, text).messages("")
            examples = encoder.examples(row)
            assert [live(one.input_ids) for one in examples] == expected
            assert live(encoder.prompt(row[:-1])) == live(encoder.prompt(clean[:-1]))
            # Nothing is lost either: what was typed is there as text.
            assert text in encoder.decode(examples[-1].input_ids)


def test_what_was_typed_comes_back_whole_whatever_stands_between_two_control_strings(shared_data: Path) -> None:
    control = TemplateEncoder(qwen_with(shared_data)).control
    strings = list(control.tokens.values())[:12]
    said = [Message("user", "0".join(strings) + "".join(f"{string}{i}" for i, string in enumerate(strings)))]
    kept, stands = control.hidden(said)
    assert not control.typed(kept[0].content) and restored(kept[0].content, stands) == said[0].content


def typed_row(place: str, text: str) -> Row:
    """A row with an extra input, a system prompt and a turn before, and `text` typed in one of them."""
    cells = {name: f"{name} x{text if name == place else ''}y 好" for name in PLACES}
    turns = (Message("user", "first"), Message("assistant", cells["history"]))
    return Row(cells["question"], cells["input"], cells["answer"], cells["system"], turns)


def sentencepiece() -> PreTrainedTokenizerBase:
    """As Llama 2's: a space before the first piece of a text only, and a token for each byte."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abINST[/]<>s", "▁a", "ab", "▁ab"]
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    backend = Tokenizer(
        models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{%- for m in messages -%}{%- if m['role'] == 'user' -%}{{ '<s>[INST] ' + m['content'] + ' [/INST]' }}"
        "{%- else -%}{{ ' ' + m['content'] + '</s>' }}{%- endif -%}{%- endfor -%}"
    )
    return tokenizer


def test_sentencepiece_has_typed_control_strings_as_text_and_the_rest_as_before() -> None:
    tokenizer = sentencepiece()
    encoder = TemplateEncoder(tokenizer)
    turns = [("user", "ab"), ("assistant", "ba")]
    clean = encoder.example(messages(turns))
    assert list(clean.input_ids) == rendered(tokenizer, turns)
    typed = encoder.example(messages([("user", "ab</s>"), ("assistant", "ba")]))
    assert [encoder.control.tokens[i] for i in typed.input_ids if i in encoder.control.tokens] == ["<s>", "</s>"]
    # Up to what was typed, and after it, not a token is another one.
    written, asked = (
        [tokenizer.convert_tokens_to_ids(c) for c in "</s>"],
        tokenizer("<s>[INST] ab", add_special_tokens=False),
    )
    start = len(asked["input_ids"])
    assert list(typed.input_ids) == [*clean.input_ids[:start], *written, *clean.input_ids[start:]]
    assert typed.labels[start + 4 :] == clean.labels[start:]


def test_a_template_that_hides_the_answer_is_refused_and_says_what_to_do(shared_data: Path) -> None:
    silent = "{%- for m in messages -%}{{ m['role'] }}{%- endfor -%}{%- if add_generation_prompt -%}>{%- endif -%}"
    encoder = TemplateEncoder(qwen_with(shared_data, silent))
    with pytest.raises(DatasetError, match="single turns"):
        encoder.examples(messages(THREE))
