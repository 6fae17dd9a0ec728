"""Checkpoints that were damaged, clocks that were set, settings that were changed: told, and never trained on from."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from core import adapters, checkpoints, storage
from core.config import TrainConfig, build
from core.dataset import Row
from core.device import find_device
from core.engine import Engine
from core.errors import ConfigError
from core.run import Event, Run
from core.train import check_again, train

ROWS = [Row(f"question {i} " + "x" * (3 * i), "", f"answer {i}" * (1 + i % 3)) for i in range(10)]
NEWEST, OLDER = "step-000006", "step-000004"
FILES = (adapters.CONFIG, adapters.WEIGHTS, adapters.CARD, checkpoints.RECORD, checkpoints.TENSORS)
SETTINGS: dict[str, dict[str, object]] = {
    "adamw": {},
    "lion": {"optim": "lion_32bit", "learning_rate": 1e-3},
    "dropout": {"lora_dropout": 0.3},
    "LoRA+": {"lorap_lr_ratio": 4},
    "DoRA": {"use_dora": "true"},
    "PiSSA and noise": {"init_weights": "pissa", "neftune_noise_alpha": 5, "learning_rate": 1e-3},
    "evaluation": {"split_dataset_ratio": 0.2, "eval_steps": 2},
    "float16": {"torch_dtype": "float16", "learning_rate": 1e-3},
}


class Killed(BaseException):
    """Ends a run the way a kill does: nothing is saved on the way out."""


def carry_out(folder: Path, config: TrainConfig, kill_at: int = 0, stop_at: int = 0) -> Run:
    """A new run in `folder`, or what is left of it, by an engine that knows nothing of what was before."""
    run = Run.open(folder) if folder.exists() else Run.create(folder, config, ROWS, "test", "test")
    stop, original = threading.Event(), run.append

    def append(kind: str, **fields: object) -> Event:
        event = original(kind, **fields)
        if kind == "step" and fields["step"] == stop_at:
            stop.set()
        if kind == "step" and fields["step"] == kill_at:
            raise Killed
        return event

    run.append = append  # type: ignore[method-assign]
    if kill_at:
        with pytest.raises(Killed):
            train(Engine(), run, stop)
    else:
        train(Engine(), run, stop)
    return Run.open(folder)


def weights(run: Run) -> bytes:
    return (run.folder / "adapter" / adapters.WEIGHTS).read_bytes()


def flipped(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 9),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "first bit flipped": flipped(0),
    "a bit flipped": flipped(0.7),
    "of another step": lambda path: shutil.copyfile(path.parent.parent / OLDER / path.name, path),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


def test_a_damaged_checkpoint_is_found_or_changes_nothing(
    tmp_path: Path, tiny_config: TrainConfig, tally: Callable[..., None], full: bool
) -> None:
    config = build({"max_steps": 8, "save_steps": 2, "save_total_limit": 9}, tiny_config)
    straight = weights(carry_out(tmp_path / "straight", config))
    carry_out(tmp_path / "whole", config, kill_at=7)
    cases = [(name, damage) for name in FILES for damage in DAMAGES]
    lost = wrong = 0
    for number, (name, damage) in enumerate(cases):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
        path = folder / "checkpoints" / NEWEST / name
        before = path.read_bytes()
        DAMAGES[damage](path)
        same = path.is_file() and path.read_bytes() == before
        found, damaged = checkpoints.newest(Run.open(folder))
        told = damaged == [NEWEST] and found is not None and found.state.step == 4
        # The card is no part of what is computed, and may be edited; one that is no JSON is told.
        if not told and not same and name != adapters.CARD:
            print(f"{name} {damage}: {damaged}")
            wrong += 1
        if full or number % 16 == 3:
            lost += weights(carry_out(folder, config)) != straight
        shutil.rmtree(folder)
    tally("one file of the newest checkpoint missing, cut, flipped, zeroed or of another step", cases=len(cases), lost=lost,
          wrong=wrong)  # fmt: skip


@pytest.mark.timeout(1800)
def test_a_run_goes_on_from_every_step_to_the_same_bytes(
    tmp_path: Path, tiny_config: TrainConfig, tally: Callable[..., None], full: bool
) -> None:
    cases = lost = 0
    for name in SETTINGS if full else ("dropout",):
        config = build({"max_steps": 11, "logging_steps": 1, **SETTINGS[name]}, tiny_config)
        straight = carry_out(tmp_path / f"{name}-straight", config)
        for step in range(1, 11) if full else (5,):
            folder = tmp_path / f"{name}-{step}"
            stopped = carry_out(folder, config, stop_at=step)
            assert stopped.status == "stopped" and stopped.step == step
            run = carry_out(folder, config)
            losses = [[e["loss"] for e in one.history if e["type"] == "step"] for one in (straight, run)]
            cases += 1
            if weights(run) != weights(straight) or losses[0] != losses[1]:
                print(f"{name}, step {step}: other weights or losses")
                lost += 1
    tally("resumed from every step, eight kinds of settings: weights and losses against the uninterrupted run", cases=cases,
          lost=lost)  # fmt: skip


def test_a_clock_that_is_set_back_or_on_takes_no_checkpoint_away(
    tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tally: Callable[..., None]
) -> None:
    import time

    config = build({"max_steps": 6, "save_steps": 1, "save_total_limit": 2}, tiny_config)
    straight = weights(carry_out(tmp_path / "straight", config))
    jumps = iter([0, -3600, 365 * 86_400, -7200, 3600, -86_400] * 99)
    real, shift = time.time, [0.0]
    monkeypatch.setattr("time.time", lambda: real() + shift[0])
    save = checkpoints.save

    def saved_at_another_time(*given: object) -> str:
        shift[0] = float(next(jumps))
        path = save(*given)  # type: ignore[arg-type]
        os.utime(tmp_path / "run" / path, (real() + shift[0],) * 2)
        return path

    monkeypatch.setattr("core.checkpoints.save", saved_at_another_time)
    killed = carry_out(tmp_path / "run", config, kill_at=5)
    kept = [step for step, _ in checkpoints.saved(killed)]
    run = carry_out(tmp_path / "run", config)
    good = weights(run) == straight and [e["step"] for e in run.history if e["type"] == "step"] == [1, 2, 3, 4, 5, 6]
    ending = run.ending
    assert ending is not None and 0 <= float(str(ending["seconds"])) < 600
    tally("the clock set between saves (an hour back, a year on, a day back, ...)", cases=6, lost=int(kept != [3, 4]),
          wrong=int(not good))  # fmt: skip


def test_a_run_whose_settings_were_changed_is_not_gone_on_with(tmp_path: Path, tiny_config: TrainConfig) -> None:
    run = carry_out(tmp_path / "run", build({"max_steps": 6, "save_steps": 2}, tiny_config), kill_at=3)
    check_again(run, find_device())
    record = storage.read_json(run.folder / "config.json")
    assert isinstance(record, dict)
    record["settings"]["learning_rate"] = 5e-3
    storage.write_json(run.folder / "config.json", record)
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.01, is 0\.005") as refused:
        check_again(Run.open(run.folder), find_device())
    assert refused.value.field == "learning_rate" and "learning_rate 原为 0.01" in refused.value.text.zh


def test_by_default_no_more_than_a_minute_of_training_is_lost(tiny_config: TrainConfig) -> None:
    assert 0 < TrainConfig().save_seconds <= 60  # followed by the clock: see test_train
    from core.presets import load_presets

    assert {preset.config.save_seconds for preset in load_presets()} == {60}
