"""A run's file that was cut or changed on its way: refused, or exactly the run that was packed; never anything between."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core import bundle
from core.config import TrainConfig
from core.dataset import Row
from core.errors import UserError
from core.models import POCKET_FOLDER
from core.run import Run
from core.workspace import Workspace


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, bytes]:
    """A run with rows, a curve and an adapter of the pocket model, and its file."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    place = tmp_path_factory.mktemp("file")
    rows = [Row(f"Who are you, {i}?", "", f"I am Xiaohe {i}.") for i in range(20)]
    run = Run.create(place / "runs" / "r", TrainConfig(model="pocket"), rows, "r", "set")
    run.append("started", steps=2)
    run.append("step", step=1, loss=2.0, seconds=0.5, tokens_per_second=10.0, peak_memory_bytes=1.0)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(POCKET_FOLDER)
    get_peft_model(base, LoraConfig(r=1, target_modules=["q_proj"])).save_pretrained(run.folder / "adapter")
    (run.folder / "adapter" / "README.md").unlink(missing_ok=True)
    bundle.write(run, place / "r.zip")
    return run, (place / "r.zip").read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outcomes(home: Path, run: Run, variants: list[bytes]) -> tuple[int, int]:
    """(files that left something behind, files that were taken for something else) of these."""
    there, whole, lost, wrong = Workspace(home), files(run.folder), 0, 0
    for data in variants:
        (home / "came.zip").write_bytes(data)
        found = None
        with contextlib.suppress(UserError):
            found, _ = there.bring_run(home / "came.zip", "came.zip")
        left = [path for path in (home / "runs").iterdir() if found is None or path != found.folder]
        lost += bool(left)
        if found is not None:
            wrong += files(found.folder) != whole
            shutil.rmtree(found.folder)
        for path in left:
            shutil.rmtree(path)
    return lost, wrong


def test_a_run_file_that_was_cut_is_refused(
    tmp_path: Path, packed: tuple[Run, bytes], full: bool, tally: Callable[..., None]
) -> None:
    run, data = packed
    count = 200 if full else 20
    lost, wrong = outcomes(tmp_path, run, [data[: len(data) * i // count] for i in range(count)])
    tally("a run's file cut short on its way to another machine", cases=count, lost=lost, wrong=wrong)


def test_a_run_file_with_a_changed_byte_is_refused_or_the_same_run(
    tmp_path: Path, packed: tuple[Run, bytes], full: bool, tally: Callable[..., None]
) -> None:
    run, data = packed
    draw, count, variants = random.Random(0), 1000 if full else 60, list[bytes]()
    for _ in range(count):
        # Half of them where a zip keeps its names, sizes and places, which no digest covers.
        at = draw.randrange(len(data) - 4000, len(data)) if draw.random() < 0.5 else draw.randrange(len(data))
        variants.append(data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :])
    lost, wrong = outcomes(tmp_path, run, variants)
    tally("a changed byte in a run's file", cases=count, lost=lost, wrong=wrong)
