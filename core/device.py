"""The card or the processor this machine has, and its memory. Imports torch only where it is already loaded.

Before torch is loaded the card is asked through nvidia-smi, so that the page can open without torch's seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GB = 1_000_000_000


@dataclass(frozen=True)
class Device:
    """Where the model lives. `memory_total` in bytes: the card's, or the machine's RAM for a processor.

    `ampere`: a card of that generation or later, which bfloat16 and flash attention need; True where it is not known.
    """

    kind: Literal["cuda", "cpu"]
    name: str
    memory_total: int
    ampere: bool = True


CONTEXT_BYTES = 700_000_000
"""What CUDA itself takes for a process that has loaded our kernels: 0.67 GiB read on one card."""

BESIDE_EMBEDDING = 512 * 2**20
"""Bytes that must be left on a card beside an embedding matrix that could lie in host memory: what answers take."""


@functools.cache
def find_device() -> Device:
    """The first CUDA card, else the processor. Asked once; CUDA_VISIBLE_DEVICES="" hides the cards.

    With a card, torch is told to give back memory page by page: transformers loads a model into one allocation, of
    which nothing could be returned otherwise (an embedding moved to the host left 1 GB behind). Before torch is loaded.
    """
    card = _card()
    if card is not None:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    return card or Device("cpu", _processor(), _ram_total())


def memory_used(device: Device) -> int:
    """Bytes in use now: on the card by everybody, or by this process on a processor."""
    torch = sys.modules.get("torch")
    if device.kind == "cpu":
        import psutil

        return int(psutil.Process().memory_info().rss)
    if torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        return int(total - free)
    return _used_before_torch(int(time.monotonic() / 2))


@functools.lru_cache(maxsize=1)
def _used_before_torch(moment: int) -> int:
    """Asked at most every two seconds: each asking starts a process."""
    row = visible_row(nvidia_smi("memory.used"))
    return int((_megabytes(row[0]) or 0) * 2**20) if row else 0


def memory_free(device: Device) -> int:
    """Bytes that nobody uses."""
    if device.kind == "cuda":
        return device.memory_total - memory_used(device)
    import psutil

    return int(psutil.virtual_memory().available)


def give_back() -> None:
    """Let other programs have the card's memory that torch holds and nothing uses."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def give_back_host() -> None:
    """Let other programs have the host's memory that was freed here and that glibc keeps; nothing where it is another library.

    Threads leave it in pieces: after five runs beside chats on the processor 661 of 798 MB were in use.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def has_room(needed: int) -> bool:
    """Whether torch could take `needed` bytes more of the card now, its own limit (a share of the card) included."""
    import torch

    free, total = torch.cuda.mem_get_info()
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    share = torch.cuda.get_per_process_memory_fraction()
    return needed < min(free + unused, share * total - torch.cuda.memory_allocated())


def memory_allowed(device: Device, base_bytes: int) -> int:
    """Bytes that a run may take, a resident base of `base_bytes` included: what is free and what is ours already."""
    if device.kind == "cpu":
        return memory_free(device) + base_bytes
    torch = sys.modules.get("torch")
    ours = torch.cuda.memory_reserved() + CONTEXT_BYTES if torch is not None and torch.cuda.is_initialized() else 0
    return memory_free(device) + int(ours)


def _card() -> Device | None:
    row = visible_row(nvidia_smi("name,memory.total"))
    total = _megabytes(row[1]) if row and len(row) > 1 else None
    if row is None or total is None:
        return None
    capability = visible_row(nvidia_smi("compute_cap"))  # asked alone: old drivers do not know the word
    generation = _megabytes(capability[0]) if capability else None
    name = row[0].removeprefix("NVIDIA ").removeprefix("GeForce ")
    return Device("cuda", name, int(total * 2**20), ampere=generation is None or generation >= 8)


def visible_row(rows: list[list[str]]) -> list[str] | None:
    """The row of the card torch will call cuda:0; CUDA_VISIBLE_DEVICES may hide or reorder cards."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not rows or (visible is not None and (not visible.strip() or visible.split(",")[0].strip() == "-1")):
        return None
    first = visible.split(",")[0].strip() if visible else "0"
    return rows[int(first)] if first.isdigit() and int(first) < len(rows) else rows[0]


def _megabytes(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # cards that share the machine's memory answer [N/A]


def nvidia_smi(query: str, of: str = "gpu") -> list[list[str]]:
    """What the driver says, a row of cells for each card or, of "compute-apps", program; nothing without a driver."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-{of}={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []  # a driver that does not answer is no card
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def _processor() -> str:
    cores = os.cpu_count() or 1
    name = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name or platform.processor() or platform.machine()} · {cores} cores"


def _ram_total() -> int:
    import psutil

    return int(psutil.virtual_memory().total)
