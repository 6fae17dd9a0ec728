"""Template text -> one concrete wording. Knows no skill and no fact.

Two marks: `[a|b|]` picks one alternative (they nest), `{slot}` is filled in later, so that typing noise
and changes of width or case never touch what a slot carries.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product

Node = str | tuple["Nodes", ...]
Nodes = tuple[Node, ...]

_SLOT = re.compile(r"(\{\w+\})")
_TO_FULL_WIDTH = {
    ord(half): full for half, full in zip("?,:!;()", "\uff1f\uff0c\uff1a\uff01\uff1b\uff08\uff09", strict=True)
}


def expand(template: str, rng: random.Random) -> str:
    """Resolve every `[a|b|]`; slots stay as they are."""
    return _draw(_parse(template), rng)


def expand_all(template: str) -> list[str]:
    """Every text that `expand` can return for this template."""
    return ["".join(parts) for parts in product(*(_alternatives(node) for node in _parse(template)))]


def fill(text: str, slots: Mapping[str, str]) -> str:
    """Put the slot values in, once: a value that itself looks like a slot is left alone."""
    return "".join(slots[part[1:-1]] if part.startswith("{") else part for part in split_slots(text))


def split_slots(text: str) -> list[str]:
    """`the {a} of {b}` -> ["the ", "{a}", " of ", "{b}"]; empty parts are dropped."""
    return [part for part in _SLOT.split(text) if part]


def full_width(text: str) -> str:
    """ASCII punctuation -> the full-width forms of Chinese typography."""
    return text.translate(_TO_FULL_WIDTH)


def normalise(text: str) -> str:
    """Fold case, width, punctuation, symbols and spaces away, so that two spellings of one wording compare equal."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if char.isalnum())


def pick(options: Sequence[str], rng: random.Random) -> str:
    """One of the options, expanded."""
    return expand(options[int(rng.random() * len(options))], rng)


@cache
def _parse(template: str) -> Nodes:
    nodes, end = _read(template, 0)
    if end != len(template):
        raise ValueError(f"Unbalanced bracket at character {end} of {template!r}.")
    return nodes


def _read(template: str, start: int) -> tuple[Nodes, int]:
    """Nodes up to the end or to an unmatched `|` or `]`, and where that is."""
    nodes: list[Node] = []
    at = start
    while at < len(template) and template[at] not in "|]":
        if template[at] == "[":
            options: list[Nodes] = []
            while template[at] != "]":
                option, at = _read(template, at + 1)
                if at >= len(template):
                    raise ValueError(f"Missing ] in {template!r}.")
                options.append(option)
            nodes.append(tuple(options))
            at += 1
        else:
            end = at
            while end < len(template) and template[end] not in "[|]":
                end += 1
            nodes.append(template[at:end])
            at = end
    return tuple(nodes), at


def _draw(nodes: Nodes, rng: random.Random) -> str:
    return "".join(node if isinstance(node, str) else _draw(node[int(rng.random() * len(node))], rng) for node in nodes)


def _alternatives(node: Node) -> list[str]:
    if isinstance(node, str):
        return [node]
    return [text for option in node for text in map("".join, product(*(_alternatives(part) for part in option)))]
