"""The base half of a proof: what the base itself answers, asked once and kept on disk. Trains nothing, judges nothing.

An answer is found again by the prompt's tokens and its limit; a file belongs to one base in one precision on one kind of
device, so that another quantisation, template or card asks anew.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from core import storage
from core.dataset import Message
from core.errors import ModelError, StorageError
from core.generate import Column, Sampling, stream
from core.text import Text

if TYPE_CHECKING:
    from core.engine import Engine, Resident

VERSION = 1
MOST_KEPT = 5000
_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.txt", "*.model")
_EXCHANGED = Text("途中换了模型，请再试一次。", "The model was exchanged meanwhile; try again.")
Counted = Callable[[int], None]
"""Told how many of what was asked are done."""


@dataclass(frozen=True)
class Said:
    """An answer as text and tokens. `ended`: by itself, not at the limit."""

    text: str
    ids: tuple[int, ...]
    ended: bool


def asked(
    engine: Engine,
    adapter: str | None,
    conversations: Sequence[Sequence[Message]],
    limits: Sequence[int],
    counted: Counted,
    stop: threading.Event,
) -> list[Said] | None:
    """Greedy answers of up to `limits` tokens, one a conversation; None if `stop` was set meanwhile."""
    columns = [Column(tuple(messages), adapter) for messages in conversations]
    replies = []
    for replies in stream(engine, columns, [Sampling(max_new_tokens=limit) for limit in limits], stop):
        counted(sum(reply.done for reply in replies))
    if stop.is_set():
        return None
    return [Said(reply.text, tuple(reply.ids), reply.finish == "stop") for reply in replies]


class BaseAnswers:
    """The answers of the base that `engine` has loaded, kept in `folder` (None: nowhere)."""

    def __init__(self, engine: Engine, folder: Path | None) -> None:
        assert engine.resident is not None
        self._engine, self._resident = engine, engine.resident
        self._path = (
            None if folder is None else folder / f"base-{fingerprint(engine.resident, engine.device.name)}.json"
        )
        self._kept = self._read()

    def missing(self, conversations: Sequence[Sequence[Message]], limits: Sequence[int]) -> int:
        """How many of them `ask` would have to ask."""
        return sum(key not in self._kept for key in self._keys(conversations, limits))

    def ask(
        self,
        conversations: Sequence[Sequence[Message]],
        limits: Sequence[int],
        counted: Counted,
        stop: threading.Event,
    ) -> list[Said] | None:
        """As `asked`, of the base; only what is not on disk is asked. Raises ModelError if that is exchanged meanwhile."""
        keys = self._keys(conversations, limits)
        new = [i for i, key in enumerate(keys) if key not in self._kept]
        if new:
            chosen = [conversations[i] for i in new], [limits[i] for i in new]
            said = asked(self._engine, None, *chosen, counted, stop)
            if said is None:
                return None
            if self._engine.resident is not self._resident:
                # Between two questions: these may be the answers of another base, and must not be kept as this one's.
                raise ModelError(_EXCHANGED)
            self._kept |= {keys[i]: answer for i, answer in zip(new, said, strict=True)}
            self._write()
        return [self._kept[key] for key in keys]

    def _keys(self, conversations: Sequence[Sequence[Message]], limits: Sequence[int]) -> list[str]:
        prompts = (self._resident.encoder.prompt(messages) for messages in conversations)
        return [
            hashlib.sha256(json.dumps([prompt, limit]).encode()).hexdigest()[:24]
            for prompt, limit in zip(prompts, limits, strict=True)
        ]

    def _read(self) -> dict[str, Said]:
        try:
            value = cast("dict[str, list[object]]", storage.read_json(self._path)) if self._path else {}
            decode = self._resident.encoder.decode
            found = {key: (tuple(int(str(i)) for i in ids), bool(ended)) for key, (ids, ended) in value.items()}  # type: ignore[attr-defined]
            return {key: Said(decode(ids), ids, ended) for key, (ids, ended) in found.items()}
        except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return {}  # asked again, and written anew

    def _write(self) -> None:
        if self._path is None:
            return
        # What another thread or process has asked meanwhile is kept, too.
        self._kept = {**self._read(), **self._kept}
        newest = list(self._kept.items())[-MOST_KEPT:]
        try:
            storage.write_bytes(self._path, json.dumps({key: [said.ids, said.ended] for key, said in newest}).encode())
        except (OSError, StorageError):
            self._path = None  # a full disk costs the next proof some seconds, not this one its result


def fingerprint(resident: Resident, device: str) -> str:
    """What the base's answers depend on beside the prompt: files, precision, device, arithmetic."""
    folder = resident.info.folder
    files = sorted({path for pattern in _FILES for path in folder.glob(pattern)})
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    how = (resident.quant_method, resident.dtype, device, type(resident.backend).__name__)
    return hashlib.sha256(json.dumps([VERSION, stats, how]).encode()).hexdigest()[:16]
