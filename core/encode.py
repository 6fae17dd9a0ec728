"""Conversation -> tokens, and which of them are in the loss. Knows no model weights and no thread.

What a person typed is always text: content is tokenised by a second encoder that has no control tokens, so a cell
holding `<|im_end|>` cannot end a turn. Only this module writes control tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from core.dataset import Message
from core.errors import DatasetError, ModelError
from core.text import Text
from core.token_bytes import TokenBytes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORE = -100  # the label torch's cross entropy leaves out


@dataclass(frozen=True)
class Example:
    """One tokenised row. `labels` has `input_ids`' length and is IGNORE wherever a token is not in the loss.

    teacher: (labelled positions, H) in host memory, the base's last hidden states where the labels are predicted. With
    it the loss of a position is `weight` * KL(base || tuned) there, instead of the label's cross entropy.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    teacher: torch.Tensor | None = field(default=None, compare=False, repr=False)
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def answer_tokens(self) -> int:
        """Tokens in the loss."""
        return sum(label != IGNORE for label in self.labels)


class Encoder(Protocol):
    """Conversation -> token ids, for one model's tokenizer and template."""

    stop_ids: tuple[int, ...]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation, ready for the assistant's next words."""

    def example(self, messages: Sequence[Message]) -> Example:
        """Ids and labels of a conversation that ends with the assistant; every assistant turn is in the loss."""

    def plain(self, text: str) -> list[int]:
        """Ids of a text by itself, after the token that the model expects first; nothing in it is a control token."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, control tokens left out."""

    @property
    def token_bytes(self) -> Callable[[int], bytes]:
        """What gives the bytes of a single token; a control token's are its name."""


def encoder_for(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The ChatML encoder where the model's template is ChatML (Qwen2, Qwen2.5, the pocket model), else the general one."""
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            Text(
                zh="这个模型没有对话模板(chat_template),是基础模型而不是对话模型。请换它的 Instruct / Chat 版本。",
                en="This model has no chat template: it is a plain base model. Choose its Instruct or Chat version.",
            )
        )
    turns = [("system", "S"), ("user", "U"), ("assistant", "A")]
    rendered = _render(tokenizer, [Message(r, c) for r, c in turns], False)  # type: ignore[arg-type]
    if rendered == "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns):
        return ChatMLEncoder(tokenizer)
    return TemplateEncoder(tokenizer)


class ChatMLEncoder:
    """Writes `<|im_start|>role\\ncontent<|im_end|>\\n` segment by segment, content always inert."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._plain = _without_control_tokens(tokenizer)
        self._first = _first_ids(tokenizer)
        self._start, self._end = (int(i) for i in tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]))
        self._newline = self._plain("\n")
        self._assistant = self._plain("assistant\n")
        self._default_head = self._find_default_head()
        self.stop_ids = _stop_ids(tokenizer, self._end)

    def _find_default_head(self) -> list[int]:
        """What the template puts before a conversation that has no system message."""
        tail = "<|im_start|>user\nU<|im_end|>\n"
        head = _render(self._tokenizer, [Message("user", "U")], False).removesuffix(tail)
        ids: list[int] = self._tokenizer(head, add_special_tokens=False)["input_ids"]
        return ids

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids ending with the assistant's header."""
        ids, _ = self._segments(messages)
        return [*ids, self._start, *self._assistant]

    def example(self, messages: Sequence[Message]) -> Example:
        """In the loss: each answer's tokens and its `<|im_end|>`."""
        ids, labels = self._segments(messages)
        return Example(tuple(ids), tuple(labels))

    def _segments(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        ids = [] if messages and messages[0].role == "system" else list(self._default_head)
        labels = [IGNORE] * len(ids)
        for message in messages:
            if message.role == "assistant":
                # Header and answer apart: at answering time the model sees the header end before its first token.
                head, body = [self._start, *self._assistant], [*self._plain(message.content), self._end]
            else:
                # Role and content together: apart, three of eleven cases with leading newlines tokenise differently
                # from the model's own template.
                head, body = [self._start, *self._plain(f"{message.role}\n{message.content}"), self._end], []
            ids += [*head, *body, *self._newline]
            labels += [IGNORE] * len(head) + body + [IGNORE] * len(self._newline)
        return ids, labels

    def plain(self, text: str) -> list[int]:
        """Ids of a text by itself."""
        return [*self._first, *self._plain(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @functools.cached_property
    def token_bytes(self) -> Callable[[int], bytes]:
        """What gives the bytes of a single token."""
        return TokenBytes(self._tokenizer)


class TemplateEncoder:
    """Any other template, through the tokenizer's own renderer; what is in the loss is found by comparing prefixes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        end = tokenizer.eos_token_id
        self.stop_ids = _stop_ids(tokenizer, end if isinstance(end, int) else None)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids ending where the template lets the assistant begin."""
        return self._ids(_render(self._tokenizer, messages, True))

    def example(self, messages: Sequence[Message]) -> Example:
        """Raises DatasetError where the template rewrites earlier turns, so that a turn cannot be found again."""
        ids = self._ids(_render(self._tokenizer, messages, False))
        labels = [IGNORE] * len(ids)
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.prompt(messages[:index])
            after = self._ids(_render(self._tokenizer, messages[: index + 1], False))
            if ids[: len(before)] != before or ids[: len(after)] != after:
                raise DatasetError(
                    Text(
                        zh="这个模型的对话模板会改写前面的轮次,这一行无法逐轮训练。请把它拆成单轮的行。",
                        en="This model's template rewrites earlier turns, so this row cannot be trained turn by turn. "
                        "Split it into single-turn rows.",
                    )
                )
            labels[len(before) : len(after)] = ids[len(before) : len(after)]
        return Example(tuple(ids), tuple(labels))

    def plain(self, text: str) -> list[int]:
        """Ids of a text by itself."""
        return [*_first_ids(self._tokenizer), *_without_control_tokens(self._tokenizer)(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @functools.cached_property
    def token_bytes(self) -> Callable[[int], bytes]:
        """What gives the bytes of a single token."""
        return TokenBytes(self._tokenizer)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def encode_rows(
    encoder: Encoder, conversations: Sequence[Sequence[Message]], max_length: int, workers: int = 1
) -> list[Example]:
    """Tokenise conversations in order. Raises DatasetError for one over `max_length` or with nothing in the loss."""
    with ThreadPoolExecutor(workers) as pool:
        examples = list(pool.map(encoder.example, conversations))
    for index, example in enumerate(examples):
        if len(example) > max_length:
            raise DatasetError(too_long(index, len(example), max_length), row=index)
        if not example.answer_tokens:
            raise DatasetError(
                Text(
                    zh=f"第 {index + 1} 行没有可学习的回答。请填写回答或删除这一行。",
                    en=f"Row {index + 1} has no answer to learn. Write one or delete the row.",
                ),
                row=index,
            )
    return examples


def too_long(row: int, tokens: int, limit: int) -> Text:
    """The sentence for a row over the limit. `row` counts from 0."""
    return Text(
        zh=f"第 {row + 1} 行有 {tokens} 个词元,上限是 {limit}。请缩短它,或调高“最大长度”。",
        en=f"Row {row + 1} has {tokens} tokens; the limit is {limit}. Shorten it or raise Maximum length.",
    )


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generation: bool) -> str:
    from jinja2 import TemplateError

    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation))
    except (
        TemplateError
    ) as error:  # templates refuse what their model was not made for: a system turn, two users in a row
        raise DatasetError(
            Text(
                zh=f"这个模型的对话模板不接受这段对话：{error}。请改变消息的角色或顺序。",
                en=f"This model's chat template refuses the conversation: {error}. Change the roles or their order.",
            )
        ) from error


def _without_control_tokens(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """The tokenizer's own merges without any added token: 22 of 22 Qwen control strings come out as plain text."""
    from tokenizers import Tokenizer

    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    definition["added_tokens"] = []
    definition["post_processor"] = None
    plain = Tokenizer.from_str(json.dumps(definition))

    def encode(text: str) -> list[int]:
        # In a batch of one: `encode` keeps every other thread of the process waiting, a second for a million characters.
        ids: list[int] = plain.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    return encode


def _first_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before every text: nothing, or the token that begins a sequence."""
    found: list[int] = tokenizer("")["input_ids"]
    return [i for i in found if i != tokenizer.eos_token_id]


def _stop_ids(tokenizer: PreTrainedTokenizerBase, end: int | None) -> tuple[int, ...]:
    found = [end, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    return tuple(dict.fromkeys(i for i in found if isinstance(i, int) and i != tokenizer.unk_token_id))
