"""Conversation -> tokens through a tokenizer's own chat template, whatever it is. Knows no model weights and no thread.

Which tokens are in the loss is found by comparing what the template writes with and without each answer. Where it
rewrites earlier turns (it drops what a model thought, for one), every answer becomes an example of its own.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from core.dataset import Message
from core.errors import DatasetError, ModelError
from core.example import IGNORE, Example
from core.inert import ControlStrings, PlainText, control_tokens, restored, unused_character
from core.text import Text
from core.token_bytes import TokenBytes

if TYPE_CHECKING:
    from _typeshed import TraceFunction
    from transformers import PreTrainedTokenizerBase

_Range = tuple[int, int]
# Of a template: it asks for too large a range, divides by zero, joins what is no text, calls itself without end.
_FAULTS = (ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError)
_STEPS = 10_000  # of a template for some short turns; the longest one of a public model takes a few hundred


class TemplateEncoder:
    """Any template. What a person typed is text here too: control strings in it are tokenised apart."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer
        self._plain = PlainText(tokenizer)
        self._first = first_ids(tokenizer)
        self.control = ControlStrings(control_tokens(tokenizer))
        end = tokenizer.eos_token_id
        self.stop_ids = stop_ids(tokenizer, end if isinstance(end, int) else None)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids ending where the template lets the assistant begin."""
        talk, stands = self.control.hidden(messages)
        return self._ids(render(self._tokenizer, talk, True), stands)

    def example(self, messages: Sequence[Message]) -> Example:
        """Every answer in the loss where the template allows it, else the last one: see `examples`."""
        return self.examples(messages)[-1]

    def examples(self, messages: Sequence[Message]) -> tuple[Example, ...]:
        """One example; one for each answer where the template rewrites earlier turns. Each answer is in the loss once.

        Raises DatasetError where the template refuses the conversation or does not show an answer.
        """
        talk, stands = self.control.hidden(messages)
        whole = render(self._tokenizer, talk, False)
        answers = [index for index, message in enumerate(talk) if message.role == "assistant"]
        ranges = self._ranges(talk, whole, answers)
        if ranges is not None:
            return (self._example(whole, ranges, stands),)
        return tuple(self._turn(talk[: index + 1], stands) for index in answers)

    def _ranges(self, talk: Sequence[Message], whole: str, answers: Sequence[int]) -> list[_Range] | None:
        """Where in the rendered text each answer stands, its end included; None if what precedes one is rewritten."""
        found = []
        for index in answers:
            before = render(self._tokenizer, talk[:index], True)
            after = whole if index == len(talk) - 1 else render(self._tokenizer, talk[: index + 1], False)
            if not (whole.startswith(before) and whole.startswith(after) and len(before) < len(after)):
                return None
            found.append((len(before), len(after)))
        return found

    def _turn(self, talk: Sequence[Message], stands: Mapping[str, str]) -> Example:
        """The example of the last answer alone."""
        before, whole = render(self._tokenizer, talk[:-1], True), render(self._tokenizer, talk, False)
        if whole.startswith(before) and len(before) < len(whole):
            return self._example(whole, [(len(before), len(whole))], stands)
        # The model is asked with words that the finished turn does not have ("<think>"): the answer follows those.
        mark = unused_character(talk)
        head, found, tail = render(self._tokenizer, [*talk[:-1], Message("assistant", mark)], False).partition(mark)
        if not (found and whole.startswith(head) and whole.endswith(tail)):
            raise DatasetError(
                Text(
                    zh="这个模型的对话模板没有原样写出回答，无法确定要学的部分。请把这一行拆成单轮，或换一个模型。",
                    en="This model's template does not write the answer as it is, so what to learn cannot be found. Split "
                    "the row into single turns, or choose another model.",
                )
            )
        asked, said = self._ids(before, stands), self._ids(whole[len(head) :], stands)
        return Example((*asked, *said), (*([IGNORE] * len(asked)), *said))

    def _example(self, whole: str, ranges: Sequence[_Range], stands: Mapping[str, str]) -> Example:
        """`whole` as ids, with the tokens of `ranges` in the loss."""
        ids, edges = self._ids(whole, stands), [edge for both in ranges for edge in both]
        places = []
        for edge in edges:
            part = ids if edge == len(whole) else self._ids(whole[:edge], stands)
            if ids[: len(part)] != part:
                return self._pieces(whole, ranges, stands)
            places.append(len(part))
        labels = [IGNORE] * len(ids)
        for start, end in zip(places[::2], places[1::2], strict=True):
            labels[start:end] = ids[start:end]
        return Example(tuple(ids), tuple(labels))

    def _pieces(self, whole: str, ranges: Sequence[_Range], stands: Mapping[str, str]) -> Example:
        """The same where a token would reach over an answer's edge: tokenised in pieces, as when answering."""
        ids: list[int] = []
        labels: list[int] = []
        at = 0
        for start, end in ranges:
            context, answer = self._ids(whole[at:start], stands), self._ids(whole[start:end], stands)
            ids += [*context, *answer]
            labels += [*([IGNORE] * len(context)), *answer]
            at = end
        rest = self._ids(whole[at:], stands) if at < len(whole) else []
        return Example((*ids, *rest), (*labels, *([IGNORE] * len(rest))))

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

    def _ids(self, text: str, stands: Mapping[str, str]) -> list[int]:
        """Ids of rendered text: the template's control tokens are live, what stands for typed ones becomes text."""
        if not any(stand in text for stand in stands):
            # The tokenizer behind the tokenizer: the same ids in three fifths of the time, and others may run meanwhile.
            ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
            return ids
        encoded = self._backend.encode(text, add_special_tokens=False)
        found: list[int] = []
        run: list[int] = []
        at = 0
        for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            name = self.control.tokens.get(token)
            if name is None or text[start:end].strip() != name.strip():
                run.append(token)
                continue
            found += [*self._stretch(text[at:start], run, stands), token]
            run, at = [], end
        return [*found, *self._stretch(text[at:], run, stands)]

    def _stretch(self, text: str, ids: list[int], stands: Mapping[str, str]) -> list[int]:
        """Ids of the text between two control tokens; `ids` are those it has with the stand-ins in it."""
        if not any(stand in text for stand in stands):
            return ids
        own = self._plain(restored(text, stands))
        # SentencePiece puts a space before a text that stands alone, not before one in the middle.
        return own[1:] if self._plain(text)[1:] == ids else own


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generation: bool) -> str:
    """The conversation as the tokenizer's template writes it; `generation`: up to where the assistant begins.

    Raises DatasetError where the template refuses it.
    """
    from jinja2 import TemplateError

    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation))
    # Templates refuse what their model was not made for: a system turn, two users in a row; or are themselves at fault.
    except (TemplateError, *_FAULTS) as error:
        raise DatasetError(
            Text(
                zh=f"这个模型的对话模板不接受这段对话：{error}。请改变消息的角色或顺序。",
                en=f"This model's chat template refuses the conversation: {error}. Change the roles or their order.",
            )
        ) from error


@contextlib.contextmanager
def few_steps() -> Iterator[None]:
    """While the block runs, a template that takes over 10,000 steps is stopped: it raises ModelError.

    The sandbox bounds one range; loops in loops, and macros that call themselves twice, would go on for years.
    """
    left, before = _STEPS, sys.gettrace()

    def count(frame: FrameType, event: str, argument: object) -> TraceFunction | None:
        nonlocal left
        if frame.f_code.co_filename != "<template>":
            return None
        left -= event == "line"
        if left < 0:
            raise ModelError(
                Text(
                    zh=f"这个模型的对话模板为一小段对话就运行了 {_STEPS:,} 步以上，已停止。",
                    en=f"This model's chat template took over {_STEPS:,} steps for a short conversation and was stopped.",
                )
            )
        return count

    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def default_system(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template says by itself to a conversation that has no system message; "" if nothing."""
    try:
        given = render(tokenizer, [Message("system", "\ue000"), Message("user", "\ue001")], False)
        bare = render(tokenizer, [Message("user", "\ue001")], False)
    except DatasetError:
        return ""  # it knows no system message, or none without an answer
    head, _, rest = given.partition("\ue000")
    between = rest.partition("\ue001")[0]
    said, found, _ = bare.removeprefix(head).partition(between + "\ue001")
    return said.strip() if bare.startswith(head) and found else ""


def first_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before every text: nothing, or the token that begins a sequence."""
    found: list[int] = tokenizer("")["input_ids"]
    return [i for i in found if i != tokenizer.eos_token_id]


def stop_ids(tokenizer: PreTrainedTokenizerBase, end: int | None) -> tuple[int, ...]:
    """The tokens that end an answer: the template's own, the tokenizer's, and the end of a text."""
    found = [end, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    return tuple(dict.fromkeys(i for i in found if isinstance(i, int) and i != tokenizer.unk_token_id))
