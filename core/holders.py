"""Which programs hold a card's memory: their process ids, names and bytes. Asks nvidia-smi; starts nothing else."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from core.device import CONTEXT_BYTES, Device, memory_used, nvidia_smi, visible_row
from core.text import Text

_MIB = 2**20
# What a card keeps for its driver and the screens, and what the sum of the processes misses: not worth a word.
_UNSAID = 600_000_000
_MOST_NAMED = 3


@dataclass(frozen=True)
class Holder:
    """A program with memory on the card. `name` is "" and `memory_bytes` 0 where the driver does not tell."""

    pid: int
    name: str
    memory_bytes: int

    @property
    def ours(self) -> bool:
        """Whether it is this process."""
        return self.pid == os.getpid()

    @property
    def said(self) -> str:
        """Name, process and size in one phrase, the same in every language."""
        who = f"{self.name} (pid {self.pid})" if self.name else f"pid {self.pid}"
        return f"{who} {_gb(self.memory_bytes)}" if self.memory_bytes else who


@dataclass(frozen=True)
class Held:
    """What is held of a card by others: programs that can be seen, and bytes of those that cannot."""

    holders: tuple[Holder, ...] = ()
    unseen_bytes: int = 0

    @property
    def others(self) -> tuple[Holder, ...]:
        """Every program but this one, the largest first."""
        return tuple(sorted((h for h in self.holders if not h.ours), key=lambda h: -h.memory_bytes))

    @property
    def others_bytes(self) -> int:
        """Bytes that other programs hold."""
        return sum(holder.memory_bytes for holder in self.others) + self.unseen_bytes

    @property
    def said(self) -> Text | None:
        """Who holds how much, as a sentence; None where nobody else holds anything worth a word."""
        if self.others_bytes < _UNSAID:
            return None
        named = self.others[:_MOST_NAMED]
        parts = [(holder.said, holder.said) for holder in named]
        if rest := len(self.others) - len(named):
            parts.append((f"另有 {rest} 个程序", f"{rest} more"))
        if self.unseen_bytes and all(holder.memory_bytes for holder in self.others):
            size = _gb(self.unseen_bytes)
            parts.append((f"看不到的程序（别的用户或容器）{size}", f"programs of other users or containers {size}"))
        zh, en = (sep.join(part[i] for part in parts) for i, sep in enumerate(("、", ", ")))
        size = _gb(self.others_bytes)
        return Text(zh=f"其他程序占着 {size} 显存：{zh}。", en=f"Other programs hold {size} of the card: {en}.")


def held(device: Device) -> Held:
    """Who holds memory of the card, asked at most every three seconds; nothing for a processor."""
    return _held(device, int(time.monotonic() / 3)) if device.kind == "cuda" else Held()


@functools.lru_cache(maxsize=1)
def _held(device: Device, moment: int) -> Held:
    """`moment` limits the asking: each starts a process."""
    card = visible_row(nvidia_smi("uuid"))
    rows = nvidia_smi("gpu_uuid,pid,process_name,used_memory", of="compute-apps")
    found = tuple(_holder(row) for row in rows if len(row) >= 4 and row[1].isdigit() and card and row[0] == card[0])
    # Listed, but "[N/A]" for a size, as in a container: then ours is what torch knows of it.
    ours = max((holder.memory_bytes for holder in found if holder.ours), default=0) or _own_bytes()
    known = sum(holder.memory_bytes for holder in found if not holder.ours)
    rest = memory_used(device) - ours - known - _UNSAID
    return Held(found, rest if rest >= _UNSAID else 0)


def _holder(row: Sequence[str]) -> Holder:
    # A name may hold commas: it is whatever stands between the second column and the last.
    name, size = ", ".join(row[2:-1]), row[-1]
    pid = int(row[1])
    return Holder(pid, _named(pid, name), int(size) * _MIB if size.isdigit() else 0)


def _named(pid: int, name: str) -> str:
    """The program as people know it: its script rather than "python", without the path."""
    import psutil

    try:
        line = psutil.Process(pid).cmdline()
    except psutil.Error:
        line = []  # of another user, or in another container
    short = "" if name.startswith("[") else os.path.basename(name.replace("\\", "/"))
    script = next((os.path.basename(part) for part in line[1:] if part.endswith(".py")), "")
    return f"{short} {script}".strip() if short.startswith("python") else short


def _own_bytes() -> int:
    """What this process holds where the driver does not list it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_reserved()) + CONTEXT_BYTES


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 50_000_000 else f"{max(1, round(count / 1e6))} MB"
