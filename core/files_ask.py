"""Records whose keys say nothing -> the question which key is what, with a guess that is never applied by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

from core.columns import ANSWER, HISTORY, INPUT, MESSAGES, QUESTION, SYSTEM, recognise
from core.errors import DatasetError
from core.files_choices import PARTS, Asked
from core.json_records import Listing, Number, shorten
from core.text import Text

_RECORDS, _CHARACTERS = 5, 300
_POSITION = re.compile(r"\(\d+\)")
# What a header cell does not end with, and how long none is.
_SENTENCE_END = re.compile(r"[.。!！?？…]\s*$")
_HEADER_CHARACTERS = 40
_ASKS = re.compile(r"[?？]\s*$")
# Parts of names that people give columns; whole names are in core.columns.
_HINTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("messages", (*MESSAGES, "dialog", "turns", "对话", "消息")),
    ("system", (*SYSTEM, "persona", "人设")),
    ("history", HISTORY),
    ("question", (*QUESTION, "ask", "user", "human", "input", "title", "q", "提示", "标题", "用户")),
    ("answer", (*ANSWER, "reply", "assistant", "gpt", "bot", "chosen", "a", "客服", "助手")),
    ("input", (*INPUT, "context", "passage", "背景", "上下文")),
)


def ask(listing: Listing) -> Asked | None:
    """Which key is what, with a header, up to 5 records and a guess; None if no choice of keys could make rows."""
    records = [record.value for record in listing.records[:_RECORDS] if isinstance(record.value, dict)]
    keys = list(dict.fromkeys(key for record in records for key in record))
    usable = [key for key in keys if any(isinstance(record.get(key), str | list) for record in records)]
    bare = listing.form == "jsonl" and len(listing.records) == 1  # a settings file rather than a table of one row
    if bare or not (len(usable) > 1 or any(isinstance(record.get(key), list) for record in records for key in usable)):
        return None
    shown = shorten(keys)
    text = Text(
        f"看不出哪一列是问题、哪一列是回答，请指出。这里有的是：{shown.zh}。",
        f"Which column is the question and which the answer cannot be told; choose them. Found: {shown.en}.",
    )
    if listing.form in ("csv", "tsv", "xlsx") and looks_like_data(keys) and not _numbered(keys, records):
        first = {f"({number + 1})": key for number, key in enumerate(keys)}
        values = [dict(zip(first, record.values(), strict=True)) for record in records]
        records, keys = [cast(dict[str, object], first), *values][:_RECORDS], list(first)
        text = Text(
            "第一行看起来已经是数据，没有表头。请指出第几列是问题、第几列是回答。",
            "The first line looks like data, not a header. Choose which column is the question, which the answer.",
        )
    guess = _guess(keys, records)
    preview = (tuple(keys), *(tuple(_cell(record.get(key)) for key in keys) for record in records))
    return Asked("columns", text, preview, {part: guess[part] for part in PARTS if part in guess})


def looks_like_data(header: Sequence[str]) -> bool:
    """Whether the first line of a table holds sentences or numbers rather than names."""
    return any(
        len(cell) > _HEADER_CHARACTERS or _SENTENCE_END.search(cell) or cell.replace(".", "", 1).isdigit()
        for cell in header
    )


def _numbered(header: Sequence[str], records: Sequence[Mapping[str, object]]) -> bool:
    """Whether a column counts its records under a word, as in "No.", 1, 2, 3: then the first line is a header."""
    return len(records) > 1 and any(
        not _digits(name) and all(_digits(record.get(name)) for record in records) for name in header
    )


def _digits(cell: object) -> bool:
    return isinstance(cell, str) and cell.strip().isdigit()


def positions(parts: Mapping[str, str] | None) -> bool:
    """Whether the columns were chosen by position, (1), (2), ..., so that the first line is a row too."""
    return bool(parts) and all(_POSITION.fullmatch(key) for key in cast(Mapping[str, str], parts).values())


def parse_columns(text: str) -> dict[str, str]:
    """Part -> key from `question=ask,answer=reply`, from JSON of the same, or from ms-swift's {"ask": "query", ...}.

    Raises DatasetError for anything else.
    """
    if text.lstrip().startswith("{"):
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = None
        if isinstance(given, dict) and all(isinstance(value, str) for value in given.values()):
            if given.keys() <= set(PARTS):
                return given
            named = recognise(given.values())
            keys = {value: key for key, value in given.items()}
            return {part: keys[name] for part, name in named.parts.items()}
    elif all(pair.count("=") == 1 for pair in text.split(",")):
        return {part.strip(): key.strip() for part, key in (pair.split("=") for pair in text.split(","))}
    raise DatasetError(
        Text(
            f"看不懂列的对应“{text}”，应写成 question=列名,answer=列名。",
            f"The columns “{text}” cannot be read. Write question=COLUMN,answer=COLUMN.",
        )
    )


def check_parts(parts: Mapping[str, str], listing: Listing) -> None:
    """Raise DatasetError for a part that does not exist, a key that no record has, or a choice that makes no rows."""
    keys = list(dict.fromkeys(key for r in listing.records if isinstance(r.value, dict) for key in r.value))
    for part, key in parts.items():
        if part not in PARTS:
            raise DatasetError(
                Text(
                    f"没有“{part}”这个部分，可以用的是：{shorten(list(PARTS)).zh}。",
                    f"There is no part “{part}”; the parts are: {shorten(list(PARTS)).en}.",
                )
            )
        if key and key not in keys:
            raise DatasetError(
                Text(
                    f"文件里没有“{key}”这一列，有的是：{shorten(keys).zh}。",
                    f"The file has no column “{key}”. It has: {shorten(keys).en}.",
                )
            )
    if not (parts.get("messages") or (parts.get("question") and parts.get("answer"))):
        raise DatasetError(
            Text(
                f"请指出问题和回答两列，或 messages 一列。有的是：{shorten(keys).zh}。",
                f"Name the columns of question and answer, or of messages. There are: {shorten(keys).en}.",
            )
        )


def _guess(keys: Sequence[str], records: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Part -> key: what the names say, then what ends in a question mark, then the longest texts."""
    guess = recognise(keys).parts
    free = [key for key in keys if key not in guess.values()]
    for part, hints in _HINTS:
        fits = [key for key in free if part not in guess and _hinted(key, hints) and _fits(part, key, records)]
        if fits:
            guess[part] = fits[0]
            free.remove(fits[0])
    if "messages" in guess:
        return {part: key for part, key in guess.items() if part in ("messages", "system")}
    if "question" not in guess and free and len(records) > 1:
        asked = {key: sum(bool(_ASKS.search(str(record.get(key)))) for record in records) for key in free}
        if 2 * asked[most := max(free, key=lambda key: asked[key])] >= len(records):
            guess["question"] = most
            free.remove(most)
    lengths = {key: sum(len(cell) for r in records if isinstance(cell := r.get(key), str)) for key in free}
    texts = [key for key in free if lengths[key]]
    if len(texts) == 2 and not guess.keys() & {"question", "answer"}:
        return guess | dict(zip(("question", "answer"), texts, strict=True))
    if "answer" not in guess and texts:
        after = texts[texts.index(guess["question"]) + 1 :] if guess.get("question") in texts else texts
        guess["answer"] = max(after or texts, key=lambda key: lengths[key])
        texts.remove(guess["answer"])
    if "question" not in guess and texts:
        guess["question"] = max(texts, key=lambda key: lengths[key])
    return guess


def _hinted(key: str, hints: Sequence[str]) -> bool:
    words = [word for word in re.split(r"[\s_\-.]+", key.casefold()) if word]
    return any(hint in words or (len(hint) > 1 and not hint.isascii() and hint in key) for hint in hints)


def _fits(part: str, key: str, records: Sequence[Mapping[str, object]]) -> bool:
    kind = list if part == "messages" else (str, list) if part == "history" else str
    return any(isinstance(record.get(key), kind) for record in records)


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else value.text if isinstance(value, Number) else _json(value)
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=lambda other: getattr(other, "text", str(other)))
