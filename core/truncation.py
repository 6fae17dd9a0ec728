"""A row that is longer than the limit: refused, cut at its beginning, or left out. The one place where that is decided.

Preview, run, row report and the view of a row all ask here, so that what is said beforehand is what is trained. Nothing
is ever taken from the system prompt or from the last answer, whose end teaches the model to stop.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core.config import TrainConfig
from core.dataset import Message
from core.encode import Encoder
from core.errors import DatasetError
from core.example import Example
from core.text import Text

_MOST_LISTED = 1000


@dataclass(frozen=True)
class Fitted:
    """What is trained of one conversation; `examples` is empty where it is left out.

    messages: what is left of it. tokens: of its longest example before anything was cut. turns_cut: messages taken from
    its beginning; tokens_cut: what that and the cut of the question's beginning took away.
    """

    messages: tuple[Message, ...]
    examples: tuple[Example, ...]
    tokens: int
    turns_cut: int = 0
    tokens_cut: int = 0


def fit(encoder: Encoder, messages: Sequence[Message], config: TrainConfig) -> Fitted:
    """The conversation under `max_length` by `truncation_strategy`.

    Raises DatasetError for one that is too long and may not, or cannot, be cut, and for one with nothing to learn.
    """
    whole = tuple(messages)
    examples = encoder.examples(whole)
    tokens = longest(examples)
    if not any(example.answer_tokens for example in examples):
        raise DatasetError(
            Text(
                zh="没有可学习的回答。请填写回答或删除这一行。",
                en="There is no answer to learn. Write one or delete the row.",
            )
        )
    if tokens <= config.max_length:
        return Fitted(whole, examples, tokens)
    if config.truncation_strategy == "delete":
        return Fitted(whole, (), tokens)
    if config.truncation_strategy == "left":
        return _cut(encoder, whole, tokens, config.max_length)
    raise DatasetError(
        Text(
            zh=f"{tokens:,} 个词元，上限是 {config.max_length:,}。请缩短它，调高“最大长度”，或在“过长的行”里选择截断或略去。",
            en=f"{tokens:,} tokens; the limit is {config.max_length:,}. Shorten it, raise Maximum length, or choose under "
            "Rows too long to cut or leave out such rows.",
        )
    )


def fit_rows(encoder: Encoder, conversations: Sequence[Sequence[Message]], config: TrainConfig) -> list[Fitted]:
    """`fit` of each, in order, on `dataloader_num_workers` threads. Raises DatasetError with the first bad row."""

    def one(place: int) -> Fitted:
        try:
            return fit(encoder, conversations[place], config)
        except DatasetError as error:
            raise DatasetError(named(error.text, place), row=place) from error

    with ThreadPoolExecutor(config.dataloader_num_workers) as pool:
        return list(pool.map(one, range(len(conversations))))


def kept(parts: Sequence[Sequence[object]]) -> list[int]:
    """The indices of the rows that are not left out, of whose examples `parts` tells. Raises DatasetError if none is."""
    found = [index for index, examples in enumerate(parts) if examples]
    if parts and not found:
        raise DatasetError(
            Text(
                zh="每一行都超过“最大长度”，全部略去后没有可以训练的行。请调高“最大长度”，或缩短这些行。",
                en="Every row is over the Maximum length and left out, so nothing remains to train on. Raise Maximum "
                "length or shorten the rows.",
            )
        )
    return found


def what_was_cut(fitted: Sequence[Fitted]) -> dict[str, object]:
    """Of a run's rows: how many are `left_out`, how many `cut` and by how many tokens, and which (from 0, the first 1000).

    Nothing where every row is as it was.
    """
    left_out = [index for index, one in enumerate(fitted) if not one.examples]
    cut = [index for index, one in enumerate(fitted) if one.tokens_cut]
    if not left_out and not cut:
        return {}
    tokens = sum(one.tokens_cut for one in fitted)
    return {"left_out": len(left_out), "cut": len(cut), "tokens_cut": tokens, "rows": [*left_out, *cut][:_MOST_LISTED]}


def named(text: Text, row: int) -> Text:
    """What is wrong, with the row's number. `row` counts from 0."""
    return Text(zh=f"第 {row + 1} 行：{text.zh}", en=f"Row {row + 1}: {text.en}")


def longest(examples: Sequence[Example]) -> int:
    """Tokens of the longest."""
    return max(map(len, examples), default=0)


def _cut(encoder: Encoder, whole: tuple[Message, ...], tokens: int, limit: int) -> Fitted:
    """Without its oldest turns, as few as will do; then without the beginning of its last question."""
    head = whole[:1] if whole[0].role == "system" else ()
    body = whole[len(head) :]

    def fits(left: Sequence[Message]) -> bool:
        return longest(encoder.examples((*head, *left))) <= limit

    # A conversation begins with a question: many templates refuse another one.
    starts = [i for i, message in enumerate(body) if i and message.role == "user"]
    first = _first(0, len(starts), lambda place: fits(body[starts[place] :]))
    start = starts[min(first, len(starts) - 1)] if starts else 0
    left = list(body[start:])
    if first == len(starts):
        question = left[0].content if left[0].role == "user" else ""
        gone = _first(1, len(question), lambda place: fits([Message("user", question[place:]), *left[1:]]))
        while gone < len(question) and unicodedata.combining(question[gone]):
            gone += 1  # an accent stays with its letter
        if gone >= len(question):
            raise DatasetError(_uncuttable(tokens, limit))
        left[0] = Message("user", question[gone:])
    examples = encoder.examples((*head, *left))
    return Fitted((*head, *left), examples, tokens, start, tokens - longest(examples))


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest number from `low` on that `holds`, which stays true from there on; `high` if none below it does."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _uncuttable(tokens: int, limit: int) -> Text:
    return Text(
        zh=f"{tokens:,} 个词元，上限是 {limit:,}：系统提示词和回答本身就放不下，而这两部分不会被截断。请缩短它们，或调高“最大长度”。",
        en=f"{tokens:,} tokens; the limit is {limit:,}. Its system prompt and answer alone do not fit, and these are never "
        "cut. Shorten them, or raise Maximum length.",
    )
