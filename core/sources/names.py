"""How a set of a hub is written, `[hf::|ms::]owner/name[:subset]` as in ms-swift, and which ids are the same set."""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.hub import HubName

_SHAPE = re.compile(r"(?:(hf|ms)::)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w.+/-]+))?")
_BARE = re.compile(r"(?:(hf|ms)::)?([\w.-]+)(?::([\w.+/-]+))?")
_HUBS: dict[str, HubName] = {"hf": "hf", "ms": "modelscope"}

# Sets that are on both hubs under different ids, after ms-swift's register. The first word is what articles call them.
_PAIRS: tuple[tuple[str, str, str], ...] = (
    ("alpaca-gpt4-data-zh", "llm-wizard/alpaca-gpt4-data-zh", "AI-ModelScope/alpaca-gpt4-data-zh"),
    ("alpaca-gpt4-data-en", "vicgalle/alpaca-gpt4", "AI-ModelScope/alpaca-gpt4-data-en"),
    ("self-cognition", "modelscope/self-cognition", "swift/self-cognition"),
)


@dataclass(frozen=True)
class HubSet:
    """A set of a hub: its id, the subset or split asked for ("" for the main one), and the hub where one is named."""

    id: str
    subset: str = ""
    hub: HubName | None = None

    def on(self, hub: HubName) -> HubSet:
        """The same set as `hub` calls it."""
        for _, huggingface, modelscope in _PAIRS:
            if self.id in (huggingface, modelscope):
                return HubSet(huggingface if hub == "hf" else modelscope, self.subset, hub)
        return HubSet(self.id, self.subset, hub)

    def __str__(self) -> str:
        prefix = {None: "", "hf": "hf::", "modelscope": "ms::"}[self.hub]
        return f"{prefix}{self.id}{':' + self.subset if self.subset else ''}"


def hub_set(name: str) -> HubSet | None:
    """The hub's set that `name` writes, or None if it is no such name."""
    if (shape := _SHAPE.fullmatch(name)) is not None:
        prefix, asked, subset = shape.groups()
        return HubSet(asked, subset or "", _HUBS.get(prefix or ""))
    if (shape := _BARE.fullmatch(name)) is not None:
        prefix, asked, subset = shape.groups()
        known = next((pair for pair in _PAIRS if pair[0] == asked), None)
        return HubSet(known[2], subset or "", _HUBS.get(prefix or "")) if known else None
    return None
