"""What tests/test_ranks.py has two processes do: each case once together and once alone, told as one JSON file.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.ranks_work MODEL FOLDER CASE...

Both processes go through the cases in the same order. In the last one the second process dies.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from core import pinned, rehearsal, seal
from core import ranks as launched
from core.config import TrainConfig, build
from core.dataset import Row
from core.engine import Engine
from core.errors import ConfigError
from core.fused import reference
from core.fused.backend import FusedBackend
from core.fused.nf4 import by_bitsandbytes
from core.job import Job
from core.member import follow
from core.orders import End
from core.plain import PlainBackend
from core.ranks import ALONE, Ranks
from core.run import Event, Run
from core.train import train

CPU = torch.device("cpu")
ROWS = [Row(f"question {i} " + "x" * (7 * i), "", f"answer {i}" * (1 + i % 4)) for i in range(11)]
SHARED = {
    "learning_rate": 1e-2,
    "gradient_accumulation_steps": 5,
    "max_steps": 5,
    "probe_steps": 0,
    "weight_decay": 0.1,
}


class Exact(PlainBackend):
    """A backend whose adapters are in float64, as its base is."""

    def add_adapter(self, name: str, *args: object, **kwargs: object) -> None:
        super().add_adapter(name, *args, **kwargs)  # type: ignore[arg-type]
        for parameter in self.adapter_parameters(name):
            parameter.data = parameter.data.double()


class ExactPlain(Exact):
    """By autograd."""


class ExactFused(Exact, FusedBackend):
    """By the fused pass."""


class Short(ExactPlain):
    """Runs out of memory once, in its third pass."""

    passes = 0

    def loss_and_grads(self, *args: object, **kwargs: object) -> torch.Tensor:
        self.passes += 1
        if self.passes == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().loss_and_grads(*args, **kwargs)  # type: ignore[arg-type]


class Dies(PlainBackend):
    """Ends its process in its third pass, as a kill would."""

    passes = 0

    def loss_and_grads(self, *args: object, **kwargs: object) -> torch.Tensor:
        self.passes += 1
        if self.passes == 3:
            os._exit(9)
        return super().loss_and_grads(*args, **kwargs)  # type: ignore[arg-type]


def engine_of(model: str, kind: type[PlainBackend] | None = None, spread_out: bool = False) -> Engine:
    """An engine with the tiny model; `kind`: the backend, in float64 for the exact ones."""
    engine = Engine(spread_out=spread_out)
    if kind is None:
        return engine
    engine.load(model)
    exact = torch.float64 if issubclass(kind, Exact) else torch.float32
    base = AutoModelForCausalLM.from_pretrained(model, dtype=exact, attn_implementation="sdpa")
    beside = (reference, by_bitsandbytes, False) if issubclass(kind, FusedBackend) else ()
    assert engine.resident is not None
    engine._resident = replace(engine.resident, backend=kind(base, CPU, None, *beside))
    engine._seal = seal.take(engine._resident)
    return engine


class Cases:
    """The cases, for the process that leads and for the other one."""

    def __init__(self, model: str, folder: Path, ranks: Ranks) -> None:
        self.model, self.folder, self.ranks = model, folder, ranks
        self.told: dict[str, object] = {}

    def config(self, **changes: object) -> TrainConfig:
        """The settings of every case, and what is its own."""
        return build({**SHARED, "model": self.model, **changes})

    def both(
        self, name: str, kind: type[PlainBackend], mine: type[PlainBackend] | None = None, **changes: object
    ) -> None:
        """The same run by two processes and by one; how far the adapters are from each other, and both runs' events.

        `mine`: the second process's backend, where it is another.
        """
        if not self.ranks.leads:
            follow(self.ranks, engine_of(self.model, mine or kind))
            return
        found = []
        for ranks in (self.ranks, ALONE):
            engine, run = engine_of(self.model, kind), self.run(f"{name}-{ranks.size}", **changes)
            train(engine, run, threading.Event(), ranks=ranks)
            ranks.tell(End())
            found.append((state(engine, run), run.events))
        (two, events), (one, alone) = found
        self.told[name] = {"difference": difference(two, one), "two": events, "one": alone}

    def run(self, name: str, **changes: object) -> Run:
        """A new run."""
        return Run.create(self.folder / name, self.config(**changes), ROWS, name, name)

    def stopped(self) -> None:
        """Straight through; stopped and gone on by two; stopped and gone on by one."""
        for ranks in (self.ranks, ALONE):
            name = f"stopped-then-{ranks.size}"
            for folder, stop_at, cards in (("straight", 0, ranks), (name, 2, self.ranks), (name, 0, ranks)):
                if not self.ranks.leads:
                    if cards.size > 1:
                        follow(self.ranks, engine_of(self.model, ExactFused))
                    continue
                if (self.folder / folder / "adapter").exists() and folder == "straight":
                    self.told["straight"] = str(self.folder / folder)
                    if cards.size > 1:
                        self.ranks.tell(End())
                    continue
                self.carry_out(folder, stop_at, cards)
            self.told[name] = str(self.folder / name)

    def carry_out(self, name: str, stop_at: int, ranks: Ranks) -> None:
        """Begin or go on with a run; stop it after step `stop_at`."""
        path, stop = self.folder / name, threading.Event()
        run = Run.open(path) if path.exists() else self.run(name, save_steps=1, save_total_limit=1)
        original = run.append

        def append(kind: str, **fields: object) -> Event:
            if kind == "step" and fields["step"] == stop_at:
                stop.set()
            return original(kind, **fields)

        run.append = append  # type: ignore[method-assign]
        train(engine_of(self.model, ExactFused), run, stop, ranks=ranks)
        ranks.tell(End())

    def spread(self, name: str, **own: object) -> None:
        """A base of which each process keeps a half."""
        self.ranks.spread_out = True
        changes = {"split_dataset_ratio": 0.3, "eval_steps": 2, "gradient_checkpointing": "on", **own}
        if not self.ranks.leads:
            follow(self.ranks, engine_of(self.model, spread_out=True))
            self.ranks.spread_out = False
            return
        engine, run = engine_of(self.model, spread_out=True), self.run(name, **changes)
        try:
            guarded = self.run(f"{name}-guarded", rehearsal="normal", **own)
            train(engine, guarded, threading.Event(), ranks=self.ranks)
        except ConfigError as error:
            self.told["refused"] = error.field
        train(engine, run, threading.Event(), ranks=self.ranks)
        self.ranks.tell(End())
        self.ranks.spread_out = False
        assert engine.resident is not None
        base = [p for n, p in engine.resident.backend.model.named_parameters() if ".layers." in n and "lora_" not in n]  # type: ignore[attr-defined]
        here = sum(p.to_local().numel() for p in base)
        whole, alone = engine_of(self.model, None if own else ExactPlain), self.run(f"{name}-alone", **changes)
        train(whole, alone, threading.Event())
        self.told[name] = {
            "difference": difference(state(engine, run), state(whole, alone)), "two": run.events, "one": alone.events,
            "share": here / sum(p.numel() for p in base),
        }  # fmt: skip

    def crash(self) -> None:
        """The second process dies in the middle of a step."""
        if not self.ranks.leads:
            follow(self.ranks, engine_of(self.model, Dies))
            return
        run = self.run("crash", save_steps=1)
        engine = engine_of(self.model, PlainBackend)
        job = Job(lambda run, stop: train(engine, run, stop, ranks=self.ranks), lambda: None)
        job.start(lambda: run)
        job.join()
        self.told["crash"] = str(run.folder)


def state(engine: Engine, run: Run) -> dict[str, torch.Tensor]:
    """The run's adapter as it is in the model."""
    with engine.turn() as resident:
        return {
            key: value.double().clone()
            for key, value in resident.backend.adapter_state(engine.handle(run.id))[0].items()
        }


def difference(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """The largest of any number, by the largest number of its tensor."""
    assert found.keys() == right.keys()
    return max(float((found[key] - right[key]).abs().max() / right[key].abs().max()) for key in right)


def main(model: str, folder: Path, chosen: Sequence[str]) -> None:
    """The chosen cases, then what they came to and how long each took."""
    torch.set_num_threads(1)
    pinned._HARDER, pinned._GENERAL = 2, 1
    rehearsal._MOST_PROMPTS, rehearsal._ANSWER_TOKENS = 6, 8
    with launched.joined() as ranks:
        cases = Cases(model, folder, ranks)
        work: dict[str, Callable[[], None]] = {
            "plain": lambda: cases.both("plain", ExactPlain),
            "fused": lambda: cases.both("fused", ExactFused, split_dataset_ratio=0.3, eval_steps=2),
            "guard": lambda: cases.both("guard", ExactFused, rehearsal="strong"),
            "few rows": lambda: cases.both("few rows", ExactFused, gradient_accumulation_steps=1, optim="lion_32bit"),
            "short": lambda: cases.both("short", ExactPlain, Short),
            "stopped": cases.stopped,
            "spread": lambda: cases.spread("spread"),
            "spread nf4": lambda: cases.spread("spread nf4", quant_method="bnb", torch_dtype="float32"),
            "crash": cases.crash,  # the last: a process is gone after it
        }
        for name in chosen:
            begun = time.perf_counter()
            work[name]()
            print(f"{name}: {time.perf_counter() - begun:.1f} s", flush=True)
        (folder / "told.json").write_text(json.dumps(cases.told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
