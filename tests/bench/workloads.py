"""The three training jobs that are measured, as rows made anew each time from the shipped texts by a fixed seed.

headline: the 50 starter rows, 10 epochs. long: rows of exactly N tokens. mixed: 1,000 ragged rows in both languages,
lengths log-normal (about 210 tokens on average with the template), and the 50 identity rows among them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core import dataset, presets, storage
from core.dataset import Identity, Message, Row
from core.encode import Encoder
from core.text import Language

IDENTITY = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
NAMES = ("headline", "long", "mixed")
_SEED = 20261122


@dataclass(frozen=True)
class Workload:
    """A job: its rows, and how far to train. `steps` 0 means whole epochs."""

    name: str
    rows: tuple[Row, ...]
    epochs: float
    steps: int = 0


def build(
    name: str, encoder: Encoder, system: str, *, length: int = 2048, ragged: int = 1000, file: Path | None = None
) -> Workload:
    """The workload called `name`, its rows from `file` if given. `length`: tokens of a long row; `ragged`: mixed rows."""
    given = read_rows(file) if file else None
    if name == "headline":
        return Workload(name, tuple(given or identity_rows()), 10)
    if name == "long":
        return Workload(name, tuple(given or exact_rows(encoder, system, 48, length)), 1, 3)
    if name == "mixed":
        return Workload(name, tuple(given or ragged_rows(encoder, ragged)), 1)
    raise ValueError(f"there is no workload {name}; known: {', '.join(NAMES)}")


def read_rows(path: Path) -> list[Row]:
    """Rows of a .json list or a .jsonl file in the program's own format, placeholders replaced."""
    values = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else storage.read_json_lines(path)
    return [dataset.from_json(value, index).resolved(IDENTITY) for index, value in enumerate(values)]


def identity_rows() -> list[Row]:
    """The 50 starter rows."""
    return read_rows(presets.FOLDER / "starter" / "identity-50.jsonl")


def exact_rows(encoder: Encoder, system: str, count: int, length: int, answer_share: float = 0.95) -> list[Row]:
    """`count` rows of exactly `length` tokens each, template and system prompt included."""
    return [_exact_row(encoder, system, length, answer_share, random.Random(f"{_SEED}-{i}")) for i in range(count)]


def ragged_rows(encoder: Encoder, count: int) -> list[Row]:
    """`count` rows of random length, half of them Chinese, and the 50 identity rows, in random order."""
    draw = random.Random(_SEED)
    texts = {language: _text(language) for language in ("zh", "en")}
    width = {language: len(text) / _tokens(encoder, text) for language, text in texts.items()}
    rows = identity_rows()
    for index in range(count):
        language = "zh" if index % 2 == 0 else "en"
        sizes = [
            min(most, max(least, int(draw.lognormvariate(mean, spread))))
            for mean, spread, least, most in ((2.9, 0.6, 4, 120), (4.9, 0.75, 3, 1200))
        ]
        question, answer = (_piece(texts[language], max(1, int(n * width[language])), draw) for n in sizes)
        rows.append(Row(question, "", answer))
    draw.shuffle(rows)
    return rows


def _exact_row(encoder: Encoder, system: str, length: int, answer_share: float, draw: random.Random) -> Row:
    def tokens(question: str, answer: str) -> int:
        return len(encoder.example(Row(question, "", answer).messages(system)))

    room = length - tokens("a", "a") + 2
    if room < 2:
        raise ValueError(f"{length} tokens are too few for a row with this template")
    words = _text("en").split()
    body = [draw.choice(words) for _ in range(length)]
    allowed = length - int(room * answer_share)
    question = " ".join(body[: _most(length, lambda count: tokens(" ".join(body[:count]), "a") <= allowed)]) or "a"
    answer = " ".join(body[: _most(length, lambda count: tokens(question, " ".join(body[:count])) <= length)])
    while (now := tokens(question, answer)) < length:
        longer = (answer + piece for piece in (" of", " a", "!", "?", "x"))
        grown = next((text for text in longer if now < tokens(question, text) <= length), None)
        if grown is None:
            raise ValueError(f"no row of exactly {length} tokens could be made with this tokenizer")
        answer = grown
    return Row(question, "", answer)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest count up to `limit` that fits; 0 if none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _text(language: Language) -> str:
    """All shipped general answers of a language, end to end."""
    rows = read_rows(presets.FOLDER / "general" / "general.jsonl")
    return " ".join(" ".join(row.output.split()) for row in rows if row.language == language)


def _piece(text: str, characters: int, draw: random.Random) -> str:
    """`characters` of `text` from a random place, repeated from its start where it is too short."""
    start = draw.randrange(len(text))
    repeated = text[start:] + " " + text * (characters // len(text) + 1)
    return repeated[:characters].strip() or text[0]


def _tokens(encoder: Encoder, text: str) -> int:
    ask: Callable[[str], Sequence[int]] = lambda content: encoder.prompt((Message("user", content),))  # noqa: E731
    return max(1, len(ask(text)) - len(ask("")))
