"""One training job through the product's own path -> one record: loop seconds, speed, memory, losses.

The keys `tag`, `n_steps`, `tokens`, `train_loop_s`, `steady_tok_s`, `steady_step_s`, `peak` and `losses` mean what they
mean for other systems: wall seconds of the loop, everything between two steps included.
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import loops

from core import config as settings
from core import estimate, probes
from core.config import TrainConfig
from core.device import Device, find_device, memory_allowed
from core.engine import Engine
from core.ranks import ALONE, Ranks
from core.run import Event, Run
from core.train import train

if TYPE_CHECKING:
    from core.dataset import Row
    from core.estimate import Plan

Record = dict[str, object]
GIB = 2**30
_NEVER = 1_000_000


def number(event: Event | None, key: str) -> float:
    """A number of an event; 0 where it is absent."""
    return float(str((event or {}).get(key, 0)))


def reset() -> None:
    """Start torch's memory peaks anew."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory() -> Record:
    """Torch's peaks since the last reset; of the whole card, what is in use now and (`card_peak_gib`) at that peak."""
    import torch

    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()
    return {
        "peak": {
            "alloc_gib": round(torch.cuda.max_memory_allocated() / GIB, 3),
            "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3),
        },
        "card_used_gib": round((total - free) / GIB, 3),
        "card_peak_gib": round((beside + torch.cuda.max_memory_reserved()) / GIB, 3),
    }


def device_of(gib: float | None) -> Device:
    """The card as the engine sees it: whole, or as one of `gib` GiB, which this process is then held to by torch.

    What CUDA and other programs take counts towards the cap, as on a real card of that size.
    """
    device = find_device()
    if device.kind != "cuda":
        return device
    import torch

    if gib is None:
        torch.cuda.set_per_process_memory_fraction(1.0)
        return device
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction(max(0.0, min(1.0, (gib * GIB - beside) / total)))
    return replace(device, memory_total=int(gib * GIB))


def with_budget(config: TrainConfig, gib: float | None) -> TrainConfig:
    """`config` with its own memory budget set to `gib` GiB, where it has that setting."""
    if gib is None or "max_memory_gb" not in settings.names():
        return config
    return settings.build({"max_memory_gb": str(round(gib * GIB / 1e9 - 0.05, 1))}, config)


@contextlib.contextmanager
def no_questions() -> Iterator[None]:
    """No probes: they are no part of a training loop."""
    with tempfile.TemporaryDirectory() as empty, patch.object(probes, "FOLDER", Path(empty)):
        for name in ("identity.jsonl", "general.jsonl"):
            (Path(empty) / name).write_text("")
        yield


PLAIN = {"rehearsal": "off", "stop_when_taken": "false", "prove": "false"}
"""What peers do not do, left out of what is measured beside them."""


def loop_config(config: TrainConfig, steps: int) -> TrainConfig:
    """`config` for a bare loop: every step logged, nothing saved or evaluated on the way."""
    changes = {"logging_steps": 1, "save_steps": _NEVER, "eval_steps": _NEVER, "probe_steps": 0}
    return replace(config, **changes, **({"max_steps": steps} if steps else {}))


def planned(engine: Engine, config: TrainConfig, rows: Sequence[Row]) -> Plan:
    """How the product means to run the job, and what it expects it to take; asked before it begins."""
    with engine.turn() as resident:
        lengths = [(len(e), e.answer_tokens) for e in loops.encoded(resident, config, rows)]
        base = estimate.resident_bytes(resident.info, config, engine.device)
        free = memory_allowed(engine.device, base)
        return estimate.plan(resident.info, config, engine.device, lengths, free, resident.backend.fast)


def job(engine: Engine, config: TrainConfig, rows: Sequence[Row], name: str = "job", ranks: Ranks = ALONE) -> Record:
    """Train `rows` by `config`, base resident, questions off; the adapter is taken out again. UserErrors come through."""
    reset()
    plan = planned(engine, config, rows)
    with tempfile.TemporaryDirectory() as home, no_questions():
        run = Run.create(Path(home) / name, config, rows, name, name)
        begun = time.time()
        try:
            train(engine, run, threading.Event(), ranks=ranks)
        finally:
            engine.detach(run.id)
    expected = {"estimate_bytes": plan.memory_bytes, "way": _said(plan)}
    return {**expected, **_of_run(engine, run, begun), **memory()}


def _said(plan: Plan) -> str:
    """What a plan gives up, in words."""
    depth = plan.recompute
    parts = [f"gate/up of {depth.mlp} layers"] * bool(depth.mlp) + [f"{depth.whole} whole layers"] * bool(depth.whole)
    parts += ["inputs on the host"] * depth.host_inputs + ["embedding on the host"] * plan.host_embeddings
    return ", ".join(parts) or "nothing"


def _of_run(engine: Engine, run: Run, begun: float) -> Record:
    steps = [event for event in run.events if event["type"] == "step"]
    started, last = run.first("started") or {}, run.events[-1]
    loop_began = number(steps[0], "time") - number(steps[0], "seconds")
    ends = [number(event, "time") - loop_began for event in steps]
    return {
        "backend": type(engine.resident.backend).__name__ if engine.resident else "",
        **timing(ends, [int(number(event, "tokens")) for event in steps]),
        "start_to_adapter_s": round(number(run.last("saved"), "time") - begun, 3),
        "start_to_finished_s": round(number(last, "time") - begun, 3),
        "start_to_first_step_s": round(loop_began - begun, 3),
        # Everything the run says of how it was carried out (tokens a pass, recompute depth, backend and why).
        "started": {key: value for key, value in started.items() if key not in ("type", "time")},
        "recompute": started.get("recompute"),
        "max_tokens": started.get("max_tokens"),
        # Passes made smaller on the way, because memory ran out after all.
        "shrunk": [event for event in run.events if event["type"] == "smaller_split"],
        "losses": [round(number(event, "loss"), 6) for event in steps],
    }


def timing(ends: Sequence[float], tokens: Sequence[int]) -> Record:
    """Speed of a loop from the seconds at which its steps ended. The steady rate leaves out warm-up steps:
    three, or a quarter of the loop where it has fewer than twelve, at least one; a single step is its own rate."""
    count = len(ends)
    warm = min(count - 1, 3 if count >= 12 else max(1, count // 4))
    since = ends[warm - 1] if warm else 0.0
    spent = max(1e-9, ends[-1] - since)
    return {
        "n_steps": count,
        "tokens": sum(tokens),
        "train_loop_s": round(ends[-1], 3),
        "first_step_s": round(ends[0], 4),
        "steady_tok_s": round(sum(tokens[warm:]) / spent, 1),
        "steady_step_s": round(spent / (count - warm), 4),
    }
