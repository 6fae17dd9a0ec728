"""One launch of tests/bench/cards.py: OneCard's jobs, or the wire alone, on the cards that the launcher gave.

    accelerate launch --multi_gpu --num_processes 2 tests/bench/cards_work.py --piece ours --model DIR --out FILE

The leader appends one JSON line a measurement to --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core import ranks as launched
from core.orders import Step
from core.ranks import Ranks

ADAPTER_NUMBERS = 20_185_088  # of a 7B's adapter at rank 8 on all linear layers
_ROUNDS = 50


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, of which session.Session reads a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--piece", choices=["ours", "wire"], required=True)
    add("--model", required=True)
    add("--out", type=Path, required=True)
    add("--rows-out", type=Path, help="folder for the rows as tokens, for peers")
    add("--workloads", nargs="+", default=["headline", "long", "mixed"])
    add("--preset", default="identity")
    add("--quant", default="none")
    add("--set", nargs="*", default=[])
    add("--rows", nargs="*", default=[])
    add("--length", type=int, default=2048)
    add("--mixed-rows", type=int, default=1000)
    add("--steps", type=int, default=0)
    add("--repeat", type=int, default=2)
    return parser.parse_args(arguments)


def command() -> int:
    """The program's own `train`, without what the page needs to be installed."""
    from core import cli

    root = argparse.ArgumentParser()
    root.add_argument("--home", type=Path, default=Path.home() / ".onecard")
    cli.add_commands(root.add_subparsers())
    return cli.run(root.parse_args())


def main() -> None:
    """Lead or follow."""
    asked = parse()
    with launched.joined() as ranks:
        if asked.piece == "wire":
            wire(asked, ranks)
        elif ranks.leads:
            ours(asked, ranks)
        else:
            from core.engine import Engine
            from core.member import follow

            follow(ranks, Engine())


def ours(asked: argparse.Namespace, ranks: Ranks) -> None:
    """Every workload through the product's own path."""
    import measure
    from session import Session, loaded
    from train import job_of

    session = Session(asked, 0.0)
    engine = loaded(session, asked.quant, None)
    for name in asked.workloads:
        for repeat in range(asked.repeat):
            config, work = job_of(session, engine, name, session.config(asked.quant, "auto", None))
            if asked.rows_out and not repeat:
                write_rows(asked.rows_out / f"{name}.json", engine, config, work)

            def job(config: object = config, work: object = work, repeat: int = repeat) -> measure.Record:
                return measure.job(engine, config, work.rows, f"job-{repeat}", ranks)  # type: ignore[attr-defined, arg-type]

            head = {"what": "cards", "system": "OneCard", "cards": ranks.size, "workload": name, "repeat": repeat + 1}
            session.measure({**head, "base": asked.quant}, job)


def write_rows(path: Path, engine: object, config: object, work: object) -> None:
    """The workload's rows as tokens and labels."""
    import loops

    with engine.turn() as resident:  # type: ignore[attr-defined]
        found = loops.encoded(resident, config, work.rows)  # type: ignore[attr-defined, arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"input_ids": e.input_ids, "labels": e.labels} for e in found]))


def wire(asked: argparse.Namespace, ranks: Ranks) -> None:
    """What the cards' talk costs a step: the sum of the gradients, the agreement before it, and the order."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    gradient = torch.zeros(ADAPTER_NUMBERS, device=device)

    def settled() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def summed() -> None:
        ranks.sum(gradient)
        settled()

    def agreed() -> None:
        with ranks.together():
            pass

    def ordered() -> None:
        if ranks.leads:
            ranks.tell(Step(1, tuple(range(16)), 1e-4))
        else:
            ranks.hear()

    found = {name: timed(work) for name, work in (("sum", summed), ("agree", agreed), ("order", ordered))}
    if ranks.leads:
        record = {"what": "wire", "cards": ranks.size, "bytes": 4 * ADAPTER_NUMBERS, "milliseconds": found}
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    # Whoever does not lead hears the end, which the leader tells when its block is left.
    if not ranks.leads:
        ranks.hear()


def timed(work: Callable[[], None]) -> float:
    """Milliseconds of one, the median of many."""
    for _ in range(5):
        work()
    laps = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        work()
        laps.append(1e3 * (time.perf_counter() - begun))
    return round(statistics.median(laps), 4)


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        sys.exit(command())
    main()
