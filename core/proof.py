"""What a proof found, as values, and as JSON, Markdown, a model card and a picture. Knows no model; measures nothing.

A proof is a few tests of one adapter against its base. Each has a light, a count with its interval, a sentence, and the
answers it was counted from.
"""

from __future__ import annotations

import html
import json
import math
import re
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from core import __version__
from core.comparison_file import fenced
from core.dataset import Message, Role
from core.probes import Mark
from core.proof_stats import Light
from core.proof_words import LIGHTS as LIGHTS
from core.proof_words import NUMBERS as NUMBERS
from core.proof_words import WORDS
from core.text import Language, Text

FORMAT = "onecard-proof-1"
Kind = Literal["took", "generalises", "lane", "drift", "text", "choice", "refuses", "own"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Reading:
    """One answer behind a number. `messages` is what was asked, `before` the base's answer, `after` the adapter's.

    `ok` is None where it decides nothing. `marks` are places in `after`.
    """

    item: str
    language: Language
    tags: tuple[str, ...]
    messages: tuple[Message, ...]
    before: str
    after: str
    verdict: str
    ok: bool | None
    marks: tuple[Mark, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Test:
    """`hits` of `n` with the 95 % interval [low, high] of the share; `before`: the base's hits where it was counted.

    A test that was not made has n = 0 and no light; its sentence says why.
    """

    __test__ = False  # for pytest, which takes the name for one of its own

    id: Kind
    name: Text
    light: Light
    hits: int
    n: int
    low: float
    high: float
    before: int | None
    sentence: Text
    numbers: Mapping[str, float] = field(default_factory=dict)
    readings: tuple[Reading, ...] = ()

    @property
    def share(self) -> float:
        """hits / n; 0 where nothing was counted."""
        return self.hits / self.n if self.n else 0.0

    @property
    def count(self) -> Text:
        """“70 of 72 (90 to 99 %)”, for people; empty where nothing was counted."""
        if not self.n:
            return Text("", "")
        # Outwards, but never to a whole 100 % that was not reached.
        low, high = (
            math.floor(100 * self.low + 1e-9),
            min(math.ceil(100 * self.high - 1e-9), 100 if self.high == 1 else 99),
        )
        ends = f"{low}–{high}%"
        return Text(f"{self.hits} / {self.n}（{ends}）", f"{self.hits} of {self.n} ({ends})")


@dataclass(frozen=True)
class Proof:
    """All tests of one adapter. `weights` is the sha256 of its file: a proof of other weights counts for nothing.

    `seconds` is the whole time, of which `base_seconds` went into the base's answers; those are kept for the next proof.
    """

    created: float
    adapter: str
    run: str
    step: int | None
    model: str
    quantisation: str
    dtype: str
    system: str
    suite: str
    seconds: float
    base_seconds: float
    tests: tuple[Test, ...]
    light: Light
    headline: Text
    ruler: Text
    weights: str

    def test(self, kind: Kind) -> Test | None:
        """The test of this kind, if it is there."""
        return next((test for test in self.tests if test.id == kind), None)


# -- JSON --


def to_json(proof: Proof) -> dict[str, object]:
    """The proof as `from_json` reads it. Numbers that are none (nan, infinite) are left out."""
    value = {key: getattr(proof, key) for key in Proof.__dataclass_fields__}
    return {
        "format": FORMAT,
        "version": __version__,
        **value,
        "headline": vars(proof.headline),
        "ruler": vars(proof.ruler),
        "tests": [_test_json(test) for test in proof.tests],
    }


def _test_json(test: Test) -> dict[str, object]:
    value = {key: getattr(test, key) for key in Test.__dataclass_fields__}
    return {
        **value,
        "name": vars(test.name),
        "sentence": vars(test.sentence),
        "numbers": _finite(test.numbers),
        "readings": [_reading_json(reading) for reading in test.readings],
    }


def _reading_json(reading: Reading) -> dict[str, object]:
    value = {key: getattr(reading, key) for key in Reading.__dataclass_fields__}
    return {
        **value,
        "tags": list(reading.tags),
        "messages": [vars(message) for message in reading.messages],
        "marks": [vars(mark) for mark in reading.marks],
        "numbers": _finite(reading.numbers),
    }


def from_json(value: object) -> Proof:
    """The proof that `to_json` wrote. Raises ValueError for any other shape."""
    try:
        given = cast("dict[str, object]", value)
        if given["format"] != FORMAT:
            raise ValueError(f"format {given['format']!r}")
        cells = {key: given[key] for key in Proof.__dataclass_fields__}
        cells["tests"] = tuple(_test(test) for test in cast("list[dict[str, object]]", given["tests"]))
        cells |= {key: _words(given[key]) for key in ("headline", "ruler")}
        proof = Proof(**cells)  # type: ignore[arg-type]
        if proof.light not in LIGHTS or not all(
            isinstance(number, int | float) for number in (proof.created, proof.seconds)
        ):
            raise ValueError("no light or no time")
        return proof
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a proof ({error!r})") from error


def _test(value: dict[str, object]) -> Test:
    cells = {key: value[key] for key in Test.__dataclass_fields__}
    cells |= {key: _words(value[key]) for key in ("name", "sentence")}
    cells["numbers"] = dict(cast("dict[str, float]", value["numbers"]))
    cells["readings"] = tuple(_reading(reading) for reading in cast("list[dict[str, object]]", value["readings"]))
    if cells["id"] not in KINDS or cells["light"] not in LIGHTS:
        raise ValueError(f"unknown test {cells['id']!r} or light {cells['light']!r}")
    return Test(**cells)  # type: ignore[arg-type]


def _reading(value: dict[str, object]) -> Reading:
    cells = {key: value[key] for key in Reading.__dataclass_fields__}
    cells["tags"] = tuple(cast("list[str]", value["tags"]))
    turns, marks = (cast("list[dict[str, object]]", value[key]) for key in ("messages", "marks"))
    cells["messages"] = tuple(Message(cast(Role, turn["role"]), str(turn["content"])) for turn in turns)
    cells["marks"] = tuple(Mark(**mark) for mark in marks)  # type: ignore[arg-type]
    cells["numbers"] = dict(cast("dict[str, float]", value["numbers"]))
    return Reading(**cells)  # type: ignore[arg-type]


def _words(value: object) -> Text:
    found = cast("dict[str, str]", value)
    return Text(str(found["zh"]), str(found["en"]))


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    return {key: number for key, number in numbers.items() if math.isfinite(number)}


# -- Markdown and the model card --

_SIGNS: dict[Light, str] = {"green": "🟢", "yellow": "🟡", "red": "🔴", "none": "⚪"}
_MOST_SHOWN = 8


def markdown(proof: Proof, language: Language) -> str:
    """The proof as a Markdown document. Whatever a model wrote stays text in it."""
    lines = [
        f"# {_w('title', language)} · {_flat(proof.adapter)}",
        "",
        f"{_SIGNS[proof.light]} **{LIGHTS[proof.light].of(language)}** · {_flat(proof.headline.of(language))}",
        "",
        _flat(proof.ruler.of(language)),
        "",
        *_table(proof, language),
        "",
        *_facts(proof, language),
        "",
        _w("method", language),
    ]
    for test in proof.tests:
        lines += _details(test, language)
    return "\n".join(lines).rstrip() + "\n"


def model_card(proof: Proof) -> str:
    """A README.md for the adapter's page on a hub: front matter, then the proof in English and in Chinese."""
    # A hub refuses what is no id of its own, and a folder's path is nobody's business.
    base = {"base_model": proof.model} if re.fullmatch(r"[\w.-]+/[\w.-]+", proof.model) else {}
    front = {
        **base,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "onecard"],
        "language": ["zh", "en"],
    }
    # JSON is YAML: nothing in a name can end its line or begin another key.
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    lines += [f"# {_flat(proof.adapter)}", ""]
    heads: tuple[tuple[Language, str], ...] = (("en", "Proof"), ("zh", "检验"))
    for language, head in heads:
        lines += [
            f"## {head}",
            "",
            f"{_SIGNS[proof.light]} {_flat(proof.headline.of(language))}",
            "",
            _flat(proof.ruler.of(language)),
            "",
            *_table(proof, language),
            "",
            *_facts(proof, language),
            "",
            _w("method", language),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _table(proof: Proof, language: Language) -> list[str]:
    names = ("test", "result", "base", "said")
    lines = [f"| | {' | '.join(_w(name, language) for name in names)} |", f"|{' --- |' * (len(names) + 1)}"]
    for test in proof.tests:
        base = "" if test.before is None else f"{test.before} / {test.n}"
        cells = (_SIGNS[test.light], test.name.of(language), test.count.of(language), base, test.sentence.of(language))
        lines.append(f"| {' | '.join(_flat(cell) for cell in cells)} |")
    return lines


def _facts(proof: Proof, language: Language) -> list[str]:
    how = " · ".join(part for part in (proof.quantisation, proof.dtype) if part and part != "none")
    facts = {
        "adapter": proof.adapter if proof.step is None else f"{proof.adapter} @ {proof.step}",
        "model": f"{_model_name(proof.model)} ({how})",
        "system": proof.system,
        "suite": _w(proof.suite, language) if proof.suite in WORDS else proof.suite,
        "weights": proof.weights,
        "date": time.strftime("%Y-%m-%d %H:%M", time.localtime(proof.created)),
        "time": f"{proof.seconds:.1f} s",
    }
    return [f"- {_w(key, language)}: {_flat(value)}" for key, value in facts.items() if value]


def _details(test: Test, language: Language) -> list[str]:
    lines = ["", f"## {_SIGNS[test.light]} {test.name.of(language)}", "", _flat(test.sentence.of(language))]
    said = [
        f"- {NUMBERS[key].of(language)}: {_short(value)}"
        for key, value in _finite(test.numbers).items()
        if key in NUMBERS
    ]
    lines += ["", *said] if said else []
    failed = [reading for reading in test.readings if reading.ok is False][:_MOST_SHOWN]
    if failed:
        lines += ["", _w("look", language).format(n=_MOST_SHOWN) + ("：" if language == "zh" else ":"), ""]
    for reading in failed:
        lines += [*fenced("\n".join(f"{turn.role}: {turn.content}" for turn in reading.messages)), ""]
        for when, answer in (("before", reading.before), ("after", reading.after)):
            lines += [f"{_w(when, language)}:", "", *fenced(answer), ""] if answer else []
    return lines


def _short(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:.3g}"


def _flat(text: str) -> str:
    """`text` on one line, in a table too: no markup, no html, no new cell."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", flat)


def _w(key: str, language: Language) -> str:
    return WORDS[key].of(language)


# -- the picture --

_COLOURS: dict[Light, str] = {"green": "#1a7f4b", "yellow": "#b7791f", "red": "#c53030", "none": "#8a8f98"}
_SHAPES: dict[Light, str] = {
    "green": "M-6 0l4 5 8-9",
    "yellow": "M0-6v7M0 5v1",
    "red": "M-5-5l10 10M5-5l-10 10",
    "none": "M-5 0h10",
}
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'PingFang SC','Microsoft YaHei','Noto Sans CJK SC',sans-serif"
_BAR_X, _BAR_WIDTH = 350, 330


def picture(proof: Proof, language: Language) -> str:
    """An SVG of 1200 x 630 with the fonts of whoever looks at it: lights, counts, and bars with their intervals."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="1200" height="630" viewBox="0 0 1200 630">',
        '<rect width="1200" height="630" fill="#ffffff"/>',
        f'<rect width="1200" height="12" fill="{_COLOURS[proof.light]}"/>',
        f'<g font-family="{_FONT}" fill="#1c2128">',
        _line(60, 62, 22, f"{_w('title', language)} · {_model_name(proof.model)}", colour="#57606a"),
        _line(60, 112, 40, proof.adapter, 1080, bold=True),
        _line(60, 156, 24, proof.headline.of(language), 1080),
    ]
    for place, test in enumerate(proof.tests):
        parts.append(_row(test, 206 + 47 * place, language))
    date = time.strftime("%Y-%m-%d", time.localtime(proof.created))
    parts += [
        _line(60, 606, 20, proof.ruler.of(language), 880, colour="#57606a"),
        _line(1140, 606, 18, date, colour="#57606a", end=True),
        "</g></svg>",
    ]
    return "".join(parts)


def _row(test: Test, y: int, language: Language) -> str:
    colour = _COLOURS[test.light]
    parts = [
        f'<circle cx="74" cy="{y}" r="14" fill="{colour}"/>',
        f'<path transform="translate(74 {y})" d="{_SHAPES[test.light]}" stroke="#ffffff" stroke-width="3" fill="none" '
        'stroke-linecap="round" stroke-linejoin="round"/>',
        _line(102, y + 8, 23, test.name.of(language), 235),
    ]
    if not test.n:
        return "".join([*parts, _line(_BAR_X, y + 8, 21, LIGHTS["none"].of(language), colour="#57606a")])
    low, share, high = (_BAR_X + _BAR_WIDTH * value for value in (test.low, test.share, test.high))
    base = "" if test.before is None else f"{_w('base', language)} {test.before} / {test.n}"
    parts += [
        f'<rect x="{_BAR_X}" y="{y - 6}" width="{_BAR_WIDTH}" height="12" rx="6" fill="#e6e8eb"/>',
        f'<rect x="{_BAR_X}" y="{y - 6}" width="{share - _BAR_X:.1f}" height="12" rx="6" fill="{colour}"/>',
        f'<path d="M{low:.1f} {y - 11}v22M{low:.1f} {y}H{high:.1f}M{high:.1f} {y - 11}v22" stroke="#1c2128" '
        'stroke-width="2" fill="none"/>',
        _line(_BAR_X + _BAR_WIDTH + 24, y + 8, 23, test.count.of(language), 260),
        _line(1140, y + 8, 20, base, 190, colour="#57606a", end=True),
    ]
    return "".join(parts)


def _line(
    x: int, y: int, size: int, text: str, width: int = 0, *, colour: str = "", bold: bool = False, end: bool = False
) -> str:
    """One line of text; too long for `width` pixels, its letters become smaller, and at 60 % of the size it is cut."""
    clean = " ".join("".join(char for char in text if char.isprintable() or char.isspace()).split())
    needed = size * _ems(clean)
    if width and needed > width:
        size = max(round(size * 0.6), math.floor(size * width / needed))
        while size * _ems(clean) > width and len(clean) > 1:
            clean = clean.removesuffix("…")[:-1] + "…"
    style = (f' fill="{colour}"' if colour else "") + (' font-weight="700"' if bold else "")
    style += ' text-anchor="end"' if end else ""
    return f'<text x="{x}" y="{y}" font-size="{size}"{style}>{html.escape(clean)}</text>'


def _ems(text: str) -> float:
    """Width in font sizes, by the two widths that letters have."""
    return sum(1.0 if unicodedata.east_asian_width(char) in "WF" else 0.56 for char in text)


def _model_name(model: str) -> str:
    """A hub's name for it; of a folder only the last part."""
    return Path(model).name or model if Path(model).expanduser().is_absolute() else model
