"""What one benchmark call carries along: its command line, its records, and the engine it asks for."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import measure
import table
import workloads
from measure import Record
from workloads import Workload

from core import config as settings
from core import presets
from core.config import TrainConfig
from core.engine import Engine
from core.errors import UserError

QUANTS = ("none", "bnb")
_TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def base_of(config: TrainConfig, kind: str) -> str:
    """A word for the precision of the base: NF4, bf16, fp16 or fp32."""
    if config.quant_method == "bnb":
        return "NF4"
    auto = "bfloat16" if kind == "cuda" else "float32"
    return _TYPES[auto if config.torch_dtype == "auto" else config.torch_dtype]


@dataclass
class Session:
    """What was asked on the command line, and the records so far."""

    asked: argparse.Namespace
    idle_gib: float
    records: list[Record] = field(default_factory=list)
    made: dict[tuple[str, str], Workload] = field(default_factory=dict)

    def measure(self, head: Record, work: Callable[[], Record]) -> None:
        """Carry out one measurement; what it cannot do is a record too. Shows it and appends it to --out."""
        import torch
        import transformers

        try:
            found = work()
        except (UserError, torch.OutOfMemoryError) as error:
            found = {"failed": str(error).splitlines()[0][:300]}
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        record = {**head, **found, "device": name, "idle_gib": self.idle_gib, **versions}
        self.records.append(record)
        text = json.dumps(record, ensure_ascii=False)
        print(text if len(text) < 1500 else text[:1500] + " ...", flush=True)
        if self.asked.out:
            with self.asked.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    def config(self, quant: str, recompute: str, gib: float | None) -> TrainConfig:
        """The job's settings: the preset's without guard, early stop and proof, then what the command line says."""
        asked = self.asked
        config = replace(presets.preset(asked.preset).config, model=asked.model)
        config = replace(config, quant_method=quant, gradient_checkpointing=recompute, **measure.PLAIN)
        config = replace(config, max_length=max(config.max_length, asked.length), model_name="小禾|Xiaohe")
        config = replace(config, model_author="青禾智能|Qinghe AI")
        typed = dict(item.split("=", 1) for item in asked.set)
        return settings.build(typed, measure.with_budget(config, gib))

    def workload(self, name: str, engine: Engine, config: TrainConfig) -> Workload:
        """A workload in the resident model's tokens; made once."""
        key = (name, config.model)
        if key not in self.made:
            files = dict(item.split("=", 1) for item in self.asked.rows)
            file = Path(files[name]) if name in files else None
            sizes = {"length": self.asked.length, "ragged": self.asked.mixed_rows}
            with engine.turn() as resident:
                self.made[key] = workloads.build(name, resident.encoder, config.system, **sizes, file=file)
        return self.made[key]


def loaded(session: Session, quant: str, gib: float | None) -> Engine:
    """An engine on the card as capped, its base resident; the loading is a record of its own."""
    engine = Engine(measure.device_of(gib))
    config = session.config(quant, "auto", gib)
    head: Record = {
        "what": "load",
        "system": table.OURS,
        "base": base_of(config, engine.device.kind),
        "memory_gib": gib,
    }

    def load() -> Record:
        measure.reset()
        begun = time.perf_counter()
        engine.load(config.model, quant, config.torch_dtype)
        return {"load_s": round(time.perf_counter() - begun, 2), **measure.memory()}

    session.measure(head, load)
    return engine
