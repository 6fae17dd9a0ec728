"""Conversation -> tokens, and which of them are in the loss. Knows no model weights and no thread.

What a person typed is always text: content is tokenised by a second encoder that has no control tokens, so a cell
holding `<|im_end|>` cannot end a turn. Only templates write control tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from core.dataset import Message, Role
from core.errors import DatasetError, ModelError
from core.example import IGNORE as IGNORE
from core.example import Example as Example
from core.inert import ControlStrings, PlainText, control_tokens
from core.template_encode import TemplateEncoder as TemplateEncoder
from core.template_encode import default_system, few_steps, first_ids, render, stop_ids
from core.text import Text
from core.token_bytes import TokenBytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REMEMBERED, _SHORT = 256, 4000  # questions and system prompts that many rows share; characters of one


class Encoder(Protocol):
    """Conversation -> token ids, for one model's tokenizer and template.

    control: the strings that are control tokens when the template writes them.
    """

    stop_ids: tuple[int, ...]
    control: ControlStrings

    @property
    def default_system(self) -> str:
        """What the template says by itself to a conversation without a system message, "" if nothing."""

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation, ready for the assistant's next words."""

    def example(self, messages: Sequence[Message]) -> Example:
        """The last of `examples`: of a conversation with one answer, all there is."""

    def examples(self, messages: Sequence[Message]) -> tuple[Example, ...]:
        """Ids and labels of a conversation that ends with the assistant; each answer is in the loss of one of them."""

    def plain(self, text: str) -> list[int]:
        """Ids of a text by itself, after the token that the model expects first; nothing in it is a control token."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, control tokens left out."""

    @property
    def token_bytes(self) -> Callable[[int], bytes]:
        """What gives the bytes of a single token; a control token's are its name."""


def encoder_for(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The ChatML encoder where the model's template is ChatML (Qwen2, Qwen2.5, the pocket model), else the general one.

    Raises ModelError for a model without a template, or with one that is broken or means harm.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            Text(
                zh="这个模型没有对话模板（chat_template），是基础模型而不是对话模型。请换它的 Instruct / Chat 版本。",
                en="This model has no chat template: it is a plain base model. Choose its Instruct or Chat version.",
            )
        )
    try:
        with few_steps():
            render(tokenizer, [Message("user", "U")], True)
            chatml = _is_chatml(tokenizer)
    except (DatasetError, ModelError) as error:
        where = getattr(tokenizer, "name_or_path", "")
        reason = Text(str(error.__cause__), str(error.__cause__)) if error.__cause__ else error.text
        raise ModelError(
            Text(
                zh=f"{where} 的对话模板（chat_template）写不出一小段对话：{reason.zh.rstrip('.。')}。请换一个模型。",
                en=f"The chat template (chat_template) of {where} cannot write a short conversation: {reason.en.rstrip('.')}. "
                "Choose another model.",
            )
        ) from error
    return ChatMLEncoder(tokenizer) if chatml else TemplateEncoder(tokenizer)


def _is_chatml(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template writes every turn as it is, the earlier ones too, and adds nothing before an answer."""
    roles: list[Role] = ["system", "user", "assistant", "user", "assistant"]
    turns = [Message(role, f" {index}\n") for index, role in enumerate(roles)]
    written = [f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in turns]
    try:
        whole, asked = render(tokenizer, turns, False), render(tokenizer, turns[:4], True)
    except DatasetError:  # it knows no system message
        return False
    return whole == "".join(written) and asked == "".join(written[:4]) + "<|im_start|>assistant\n"


class ChatMLEncoder:
    """Writes `<|im_start|>role\\ncontent<|im_end|>\\n` segment by segment, content always inert."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._plain = PlainText(tokenizer)
        self._known = functools.lru_cache(_REMEMBERED)(self._plain)
        self._first = first_ids(tokenizer)
        self.control = ControlStrings(control_tokens(tokenizer))
        self._start, self._end = (int(i) for i in tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]))
        self._newline = self._plain("\n")
        self._assistant = self._plain("assistant\n")
        self._default_head = self._find_default_head()
        self.stop_ids = stop_ids(tokenizer, self._end)

    def _find_default_head(self) -> list[int]:
        """What the template puts before a conversation that has no system message."""
        tail = "<|im_start|>user\nU<|im_end|>\n"
        head = render(self._tokenizer, [Message("user", "U")], False).removesuffix(tail)
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

    def examples(self, messages: Sequence[Message]) -> tuple[Example, ...]:
        """One: an earlier turn reads the same when more follow."""
        return (self.example(messages),)

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
                said = f"{message.role}\n{message.content}"
                known = self._known if len(said) < _SHORT else self._plain
                head, body = [self._start, *known(said), self._end], []
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
    def default_system(self) -> str:
        """What the template says by itself to a conversation without a system message."""
        return default_system(self._tokenizer)

    @functools.cached_property
    def token_bytes(self) -> Callable[[int], bytes]:
        """What gives the bytes of a single token."""
        return TokenBytes(self._tokenizer)
