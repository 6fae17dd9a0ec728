"""Training speed and memory of OneCard's own path, beside the plain loop in the same process; prints the table.

    python tests/bench/train.py --model DIR --quant none bnb --peer plain --out FILE
    python tests/bench/train.py --model DIR --workloads long --recompute off on --set gradient_accumulation_steps=16
    python tests/bench/train.py --model DIR --workloads headline --quant bnb --memory-gib 24 16 12 10 8
    python tests/bench/train.py --model DIR --workloads --click 2 --losses curves.json --float32 --estimate-table
    python tests/bench/train.py --table FILE... metrics.jsonl

One JSON line a measurement goes to --out; the table follows. Weights may be random: speed and memory do not depend on
their values. The base is loaded once for each quantisation (and each memory cap).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import checks
import loops
import measure
import table
import workloads
from measure import Record
from session import QUANTS, Session, base_of, loaded
from workloads import Workload

from core.config import TrainConfig
from core.device import memory_used
from core.engine import Engine


def loops_of(session: Session, engine: Engine, quant: str, gib: float | None) -> None:
    """Every workload through the product's own path, and through the plain loop if asked."""
    asked, base = session.asked, base_of(session.config(quant, "auto", gib), engine.device.kind)
    for name in asked.workloads:
        for recompute, repeat in product(asked.recompute, range(asked.repeat)):
            config, work = job_of(session, engine, name, session.config(quant, recompute, gib))
            notes = [] if recompute == "auto" else [f"recompute {recompute}"]
            notes += [f"{gib:g} GiB card"] if gib else []
            notes += asked.set
            tag = "-".join(["onecard", base.lower(), name, *(note.replace(" ", "_") for note in notes)])
            head: Record = {"what": "loop", "tag": tag, "system": table.OURS, "workload": name, "base": base,
                            "notes": notes, "repeat": repeat + 1, "memory_gib": gib, "rows": len(work.rows)}  # fmt: skip
            session.measure(head, partial(measure.job, engine, config, work.rows, f"job-{repeat}"))
        for passes in ("one row", "packed") if asked.peer else ():
            config, work = job_of(session, engine, name, session.config(quant, "off", None))
            notes = ["one row a pass"] if passes == "one row" else [f"packed, {asked.peer_tokens} tokens a pass"]
            tag = f"plain-{passes.replace(' ', '_')}-{base.lower()}-{name}"
            head = {"what": "loop", "tag": tag, "system": table.PLAIN, "workload": name, "base": base, "notes": notes,
                    "memory_gib": gib, "rows": len(work.rows)}  # fmt: skip
            session.measure(head, partial(peer, session, engine, config, passes, work))


def job_of(session: Session, engine: Engine, name: str, config: TrainConfig) -> tuple[TrainConfig, Workload]:
    """A workload, and the settings of its bare loop."""
    work = session.workload(name, engine, config)
    return measure.loop_config(replace(config, num_train_epochs=work.epochs), session.asked.steps or work.steps), work


def peer(session: Session, engine: Engine, config: TrainConfig, passes: str, work: Workload) -> Record:
    """The first steps of the job by the plain loop; `job_loop_s` is what the whole job would take at its steady rate."""
    measure.reset()
    split = loops.one_row if passes == "one row" else loops.packed(session.asked.peer_tokens)
    total = config.steps(len(work.rows))
    steps = min(total, session.asked.peer_steps or total)
    laps = loops.plain_laps(engine, config, work.rows, split, steps)
    ends = [sum(lap.seconds for lap in laps[: i + 1]) for i in range(len(laps))]
    found = measure.timing(ends, [lap.tokens for lap in laps])
    rest = (total - steps) * float(str(found["steady_step_s"]))
    return {
        "backend": "PlainBackend", **found, "job_steps": total, "job_loop_s": round(ends[-1] + rest, 2),
        "losses": [round(lap.loss, 6) for lap in laps], **measure.memory(),
    }  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--table", type=Path, nargs="+", metavar="FILE", help="only merge these files into one table")
    add("--model", default="pocket")
    add("--preset", default="identity")
    add("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings over the preset's")
    add("--workloads", nargs="*", default=list(workloads.NAMES), choices=workloads.NAMES)
    add("--rows", nargs="*", default=[], metavar="WORKLOAD=FILE", help="a workload's rows from a .json or .jsonl file")
    add("--length", type=int, default=2048, help="tokens of a row of the long workload")
    add("--mixed-rows", type=int, default=1000)
    add("--quant", nargs="+", default=["none"], choices=QUANTS)
    add("--recompute", nargs="+", default=["auto"], choices=["auto", "on", "off"])
    add("--memory-gib", nargs="+", type=float, default=[None], help="run as on a card of this size")
    add("--steps", type=int, default=0, help="optimizer steps; 0: the workload's own number")
    add("--repeat", type=int, default=2)
    add("--peer", choices=["plain"], help="the same job through the plain loop, one row a pass and packed")
    add("--peer-steps", type=int, default=8, help="steps of the plain loop; 0: the whole job")
    add("--peer-tokens", type=int, default=4096, help="tokens a pass of the packed plain loop")
    add("--click", type=int, default=0, metavar="N", help="Start to the first tuned answer, N times")
    add("--losses", type=Path, metavar="FILE", help="loss curves of the headline job, written as JSON")
    add("--losses-steps", type=int, default=40)
    add("--float32", action="store_true", help="with --losses: also a float32 reference")
    add("--estimate-table", action="store_true", help="the estimate beside the measured peak")
    add("--estimate-presets", nargs="+", default=["identity", "qlora"])
    add("--estimate-shapes", nargs="+", default=["45x12", "512x4", "2048x1", "4096x1"], metavar="TOKENSxROWS")
    add("--estimate-ranks", nargs="+", type=int, default=[8, 64])
    add("--estimate-recompute", nargs="+", default=["off", "on"], choices=["auto", "on", "off"])
    add(
        "--estimate-budgets",
        nargs="*",
        default=["none:16", "none:15.2", "bnb:8", "bnb:6.5"],
        metavar="QUANT:GIB",
        help="and the same shapes within so much memory, recompute auto, the first rank",
    )
    add("--estimate-steps", type=int, default=2, help="long passes become graphs when they have come 16 times")
    add("--out", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> list[Record]:
    """Carry out what the command line asks; returns the records and prints the table."""
    asked = parse(arguments)
    if asked.table:
        records = table.read(asked.table)
        print(table.render(records))
        return records
    probe = measure.find_device()
    session = Session(asked, memory_used(probe) / 2**30 if probe.kind == "cuda" else 0.0)
    for gib, quant in product(asked.memory_gib, asked.quant):
        engine = loaded(session, quant, gib)
        if engine.resident is not None:
            loops_of(session, engine, quant, gib)
            config = session.config(quant, asked.recompute[0], gib)
            for _ in range(asked.click):
                head: Record = {
                    "what": "click",
                    "system": table.OURS,
                    "base": base_of(config, engine.device.kind),
                    "memory_gib": gib,
                }
                session.measure(head, partial(checks.click, engine, config))
            if asked.losses:
                checks.losses(session, engine, quant)
        engine.unload()
    if asked.estimate_table:
        checks.estimates(session)
    print("\n" + table.render(session.records))
    return session.records


if __name__ == "__main__":
    main()
