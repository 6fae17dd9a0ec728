"""Checkpoints: an adapter folder that also holds all that going on with the run takes. Written whole, read if whole.

A checkpoint is a plain PEFT folder with two files more: the optimizer's tensors, and a record of where the run was with
the digests of the other files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from core import adapters, storage
from core.engine import Engine
from core.errors import ConfigError
from core.run import Run
from core.text import Text

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
    `points`: fields of the taken.Point of each probing. `cards`: how many the plan is for.
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
    cards: int = 1


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
        engine.write_adapter(run.id, staged, card)
        adapters.write_tensors(staged / TENSORS, tensors)
        # Not the card's: it is rewritten as the run goes on, and nothing is computed with it.
        files = {name: _digest(staged / name) for name in (adapters.CONFIG, adapters.WEIGHTS, TENSORS)}
        record = {
            "state": asdict(state), "layout": layout, "numbers": dict(numbers), "files": files,
            "settings": run.config.as_dict(),
        }  # fmt: skip
        storage.write_json(staged / RECORD, {**record, "digest": _digest_of(record)})
    return path


def prune(run: Run, limit: int, best_step: int, best_loss: float) -> None:
    """Keep the newest `limit` and the best one, whose card alone says that it is the best, and by which loss."""
    # By step number, never by file time: a clock that steps back would delete the newest.
    folders = _folders(run)
    for folder in folders:
        best = _step_of(folder) == best_step
        if folder in folders[:-limit] and not best:
            storage.remove_folder(folder)
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
    storage.sweep(run.folder)
    damaged: list[str] = []
    for folder in reversed(_folders(run)):
        found = _read(folder)
        if found is not None:
            return found, damaged
        damaged.append(folder.name)
        folder.rename(place / storage.unused(place, f"damaged-{folder.name}"))
    return None, damaged


def check_settings(run: Run) -> None:
    """Raise ConfigError if the run's settings are not those of its newest checkpoint: it would not be the same run.

    A checkpoint from before settings were kept in it passes, and so does one that cannot be read.
    """
    for _, folder in saved(run)[-1:]:
        with contextlib.suppress(OSError, ValueError):
            record = storage.read_json(folder / RECORD)
            then = record.get("settings") if isinstance(record, dict) else None
            now = run.config.as_dict()
            changed = [name for name in now if isinstance(then, dict) and then.get(name, now[name]) != now[name]]
            if isinstance(then, dict) and changed:
                raise ConfigError(_other_settings(run, {name: (then[name], now[name]) for name in changed}), changed[0])


def _other_settings(run: Run, changed: Mapping[str, tuple[object, object]]) -> Text:
    zh = "；".join(f"{name} 原为 {then!r}，现为 {now!r}" for name, (then, now) in changed.items())
    en = "; ".join(f"{name} was {then!r}, is {now!r}" for name, (then, now) in changed.items())
    path = run.folder / "config.json"
    return Text(
        zh=f"{path} 里的设置在训练开始之后被改动过（{zh}），不能继续训练。请改回原值，或用新的设置重新开始一次训练。",
        en=f"The settings in {path} were changed after the run began ({en}), so the run cannot go on. Put them back, or "
        "start a new run with the new ones.",
    )


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
