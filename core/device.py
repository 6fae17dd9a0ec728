"""The card or the processor this machine has, and its memory. Imports torch only where it is already loaded.

Before torch is loaded the card is asked through nvidia-smi, so that the page can open without torch's seconds.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GB = 1_000_000_000


@dataclass(frozen=True)
class Device:
    """Where the model lives. `memory_total` in bytes: the card's, or the machine's RAM for a processor."""

    kind: Literal["cuda", "cpu"]
    name: str
    memory_total: int


@functools.cache
def find_device() -> Device:
    """The first CUDA card, else the processor. Asked once; CUDA_VISIBLE_DEVICES="" hides the cards."""
    return _card() or Device("cpu", _processor(), _ram_total())


def memory_used(device: Device) -> int:
    """Bytes in use now: on the card by everybody, or by this process on a processor."""
    torch = sys.modules.get("torch")
    if device.kind == "cpu":
        import psutil

        return int(psutil.Process().memory_info().rss)
    if torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        return int(total - free)
    rows = _nvidia_smi("memory.used")
    return int(float(rows[0][0]) * 2**20) if rows else 0


def memory_free(device: Device) -> int:
    """Bytes that a run could still take."""
    if device.kind == "cuda":
        return device.memory_total - memory_used(device)
    import psutil

    return int(psutil.virtual_memory().available)


def _card() -> Device | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or visible.split(",")[0].strip() == "-1"):
        return None
    rows = _nvidia_smi("name,memory.total")
    if not rows:
        return None
    first = visible.split(",")[0].strip() if visible else "0"
    row = rows[int(first)] if first.isdigit() and int(first) < len(rows) else rows[0]
    return Device("cuda", row[0].removeprefix("NVIDIA ").removeprefix("GeForce "), int(float(row[1]) * 2**20))


def _nvidia_smi(query: str) -> list[list[str]]:
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
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
