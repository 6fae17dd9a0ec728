"""The adapters a run was asked with, each kept as a plain PEFT folder: few of them, and within bounds on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from core import adapters, storage

FOLDER = "probed"
MOST = 8
MOST_BYTES = 2_000_000_000


def name(step: int) -> str:
    """The folder of one step, inside the run."""
    return f"{FOLDER}/step-{step:06d}"


def saved(run_folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of those there are, oldest first, by their names."""
    found = (path for path in (run_folder / FOLDER).glob("step-*") if path.name[5:].isdigit())
    return sorted((int(path.name[5:]), path) for path in found if (path / adapters.WEIGHTS).is_file())


def link(source: Path, target: Path) -> None:
    """The adapter of `source` in folder `target` too, whole or absent; one that is there is replaced.

    Without a second copy of the weights, where the file system allows it: an adapter's files are never written into.
    """
    with storage.staged_folder(target) as staged:
        for file in (adapters.CONFIG, adapters.WEIGHTS, adapters.CARD):
            if (source / file).is_file():
                _link(source / file, staged / file)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def room(adapter_bytes: int) -> int:
    """How many may be kept, two at least: the best and the newest."""
    return max(2, min(MOST, MOST_BYTES // max(1, adapter_bytes)))


def remove(run_folder: Path, steps: Collection[int]) -> None:
    """Take these away."""
    for step in steps:
        if (run_folder / name(step)).is_dir():
            storage.remove_folder(run_folder / name(step))


def tidy(run_folder: Path) -> None:
    """Take away what a kill left half written."""
    storage.sweep(run_folder / FOLDER)
