"""Checkpoints: an adapter folder that also holds all that going on with the run takes. Written whole, read if whole.

A checkpoint is a plain PEFT folder with two files more: the optimizer's tensors, and a record of where the run was with
the digests of the other files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from core import adapters, storage
from core.engine import Engine
from core.run import Run

if TYPE_CHECKING:
    import torch

RECORD, TENSORS = "trainer.json", "trainer.safetensors"
_FOLDER = "checkpoints"


@dataclass
class TrainerState:
    """Where a run is. Steps count from 1, 0 is none; seconds are those the run has taken so far.

    `scale`, `clean_steps`: float16's, see step.Stepper. `plan`: the fields of the estimate.Plan that steps were run by.
    `probe_seconds`: what asking the fixed questions took so far, `live_seconds` of it between steps, `pinned_seconds` of that
    for the pinned ones; `probe_cost`, `pinned_cost`: what it took the last time, of all and of the pinned ones.
    `points`: fields of the taken.Point of each probing.
    """

    step: int = 0
    seconds: float = 0.0
    scale: float = 1.0
    clean_steps: int = 0
    plan: dict[str, object] = field(default_factory=dict)
    evaluated_step: int = 0
    evaluation_loss: float | None = None
    best_step: int = 0
    best_loss: float = 0.0
    evaluations_without_improvement: int = 0
    base_answers: list[str] = field(default_factory=list)
    probed_step: int = 0
    probe_seconds: float = 0.0
    live_seconds: float = 0.0
    pinned_seconds: float = 0.0
    probe_cost: float = 0.0
    pinned_cost: float = 0.0
    points: list[list[float | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """One read from disk: where the run was, and the optimizer's tensors and numbers. `layout` says of what adapter."""

    folder: Path
    state: TrainerState
    layout: str
    tensors: Mapping[str, torch.Tensor]
    numbers: Mapping[str, int]


def save(
    engine: Engine,
    run: Run,
    state: TrainerState,
    layout: str,
    tensors: Mapping[str, torch.Tensor],
    numbers: Mapping[str, int],
    card: Mapping[str, object],
) -> str:
    """Write the checkpoint of step `state.step`; one of the same step is replaced. Returns its path inside the run."""
    path = f"{_FOLDER}/step-{state.step:06d}"
    with storage.staged_folder(run.folder / path) as staged:
        engine.save_adapter(run.id, staged, card)  # takes the empty folder's place
        adapters.write_tensors(staged / TENSORS, tensors)
        files = {name: _digest(staged / name) for name in (adapters.WEIGHTS, TENSORS)}
        record = {"state": asdict(state), "layout": layout, "numbers": dict(numbers), "files": files}
        storage.write_json(staged / RECORD, {**record, "digest": _digest_of(record)})
    return path


def prune(run: Run, limit: int, best_step: int, best_loss: float) -> None:
    """Keep the newest `limit` and the best one, whose card alone says that it is the best, and by which loss."""
    # By step number, never by file time: a clock that steps back would delete the newest.
    folders = _folders(run)
    for folder in folders:
        best = _step_of(folder) == best_step
        if folder in folders[:-limit] and not best:
            shutil.rmtree(folder)
            continue
        card = _card(folder)
        if card is None:
            continue
        true = {**card, "best": best, **({"evaluation_loss": best_loss} if best else {})}
        if true != card:
            storage.write_json(folder / adapters.CARD, true)


def newest(run: Run) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and the names of newer ones that are not.

    These are put aside as damaged-NAME, and what a kill left half written is removed: neither may count when old
    checkpoints make room for new ones. For whoever trains the run, nobody else.
    """
    place = run.folder / _FOLDER
    # Folders that were being filled; one inside another's staging has a dot more.
    for leftover in (*place.glob(".*"), *run.folder.glob(".adapter.*")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
    damaged: list[str] = []
    for folder in reversed(_folders(run)):
        found = _read(folder)
        if found is not None:
            return found, damaged
        damaged.append(folder.name)
        folder.rename(place / storage.unused(place, f"damaged-{folder.name}"))
    return None, damaged


def newest_step(run: Run) -> int:
    """The step that the run would go on from, by the names of its checkpoints; 0 means from the beginning."""
    return max((step for step, _ in saved(run)), default=0)


def saved(run: Run) -> list[tuple[int, Path]]:
    """(step, folder) of the run's checkpoints, oldest first, by their names."""
    return [(_step_of(folder), folder) for folder in _folders(run) if (folder / RECORD).is_file()]


def _folders(run: Run) -> list[Path]:
    found = (run.folder / _FOLDER).glob("step-*")
    return sorted((path for path in found if path.name[5:].isdigit()), key=_step_of)


def _step_of(folder: Path) -> int:
    return int(folder.name[5:])


def _read(folder: Path) -> Checkpoint | None:
    """The checkpoint, or None if anything of it is missing or not as it was written."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        record = storage.read_json(folder / RECORD)
        if not isinstance(record, dict) or record.pop("digest", None) != _digest_of(record):
            return None
        if any(_digest(folder / name) != digest for name, digest in record["files"].items()):
            return None
        # One of an older version lacks what came later; what is not known here is of a newer one.
        if _card(folder) is None or not record["state"].keys() <= {item.name for item in fields(TrainerState)}:
            return None
        tensors: dict[str, torch.Tensor] = load_file(str(folder / TENSORS), device="cpu")
    except (OSError, ValueError, SafetensorError):
        return None
    return Checkpoint(folder, TrainerState(**record["state"]), record["layout"], tensors, record["numbers"])


def _card(folder: Path) -> dict[str, object] | None:
    try:
        card = storage.read_json(folder / adapters.CARD)
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(record: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
