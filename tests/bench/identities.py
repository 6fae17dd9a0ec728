"""Twenty identities through the product's own path: held-out identity, what general ability is left, and seconds.

    python tests/bench/identities.py --jobs 8 --threads 2 --out identities.jsonl [--settings guard off raw] [--identities 0 1]
    python tests/bench/identities.py --table identities.jsonl

Each run is a first press of Start: a fresh home, the starter rows with another identity card, nothing cached. `guard` and
`off` are the pocket preset with the rehearsal guard on and off, `strong` the stronger guard, `raw` the identity preset as
the articles have it, whatever the base. Lines that are there already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import exam

from core import config as settings
from core import starter
from core.config import TrainConfig
from core.engine import Engine
from core.generate import Column, Sampling, stream
from core.models import POCKET
from core.presets import preset
from core.run import Run
from core.train import train

Record = dict[str, object]
SETTINGS = ("guard", "strong", "off", "raw")
_TOGETHER = 64
_TOLD: dict[exam.Conversation, str] = {}
"""The base's answers, which are the same in every job of a process."""


@dataclass(frozen=True)
class Job:
    """One run. `changes` are settings over the named ones; `most` questions of each kind, for a dry run, 0 for all."""

    setting: str
    identity: int
    seed: int
    rows: str
    threads: int
    changes: tuple[tuple[str, str], ...] = ()
    most: int = 0

    @property
    def key(self) -> str:
        """What makes a line the same measurement."""
        changed = ",".join(f"{name}={value}" for name, value in self.changes)
        return f"{self.setting}|{changed}|{self.identity}|{self.seed}|{self.rows}|{self.threads}"

    @property
    def config(self) -> TrainConfig:
        """The run's settings."""
        card = exam.CARDS[self.identity]
        if self.setting == "raw":
            found = replace(preset("identity").config, model=POCKET, rehearsal="off", stop_when_taken="false")
        elif self.setting in SETTINGS:
            guard = {"guard": "normal", "strong": "strong"}.get(self.setting, "off")
            found = replace(preset("pocket").for_model(POCKET).config, rehearsal=guard)
        else:
            found = preset(self.setting).for_model(POCKET).config
        named = {"model_name": f"{card.name_zh}|{card.name_en}", "model_author": f"{card.author_zh}|{card.author_en}"}
        return settings.build({**named, "seed": found.seed + self.seed, **dict(self.changes)}, found)


def answers(engine: Engine, talks: Sequence[exam.Conversation], adapter: str | None) -> list[str]:
    """Greedy answers, 64 at a time."""
    found: list[str] = []
    for start in range(0, len(talks), _TOGETHER):
        columns = [Column(talk, adapter) for talk in talks[start : start + _TOGETHER]]
        found += [reply.text for reply in list(stream(engine, columns, Sampling(max_new_tokens=64)))[-1]]
    return found


def measure(job: Job) -> Record:
    """One job, in its process."""
    import torch

    torch.set_num_threads(job.threads)
    table = next(one for one in starter.starter_sets() if one.name == job.rows)
    card = exam.CARDS[job.identity]
    questions, engine = exam.Exam.of(card, job.most), Engine()
    engine.load(POCKET)
    with tempfile.TemporaryDirectory() as home:
        run = Run.create(
            Path(home) / "runs" / "run", job.config, replace(table, identity=card).resolved(), job.key, job.rows
        )
        begun = time.perf_counter()
        train(engine, run, threading.Event())
        seconds = time.perf_counter() - begun
        events = list(run.events)
    missing = [talk for talk in dict.fromkeys(questions.conversations) if talk not in _TOLD]
    _TOLD.update(zip(missing, answers(engine, missing, None), strict=True))
    after = answers(engine, questions.conversations, run.id)
    marks = questions.mark([_TOLD[talk] for talk in questions.conversations], after)
    steps = [event for event in events if event["type"] == "step"]
    asked = next((event for event in events if event["type"] == "rehearsed"), {})
    return {
        "key": job.key, **asdict(job), "name": card.name_zh, "maker": card.author_zh, "seconds": round(seconds, 1),
        "asking_s": round(exam.number(asked, "seconds"), 1), "steps": run.step, "planned": run.steps,
        "loop_s": round(sum(exam.number(e, "seconds") for e in steps) * run.config.logging_steps, 1),
        "loss": steps[-1]["loss"] if steps else None, "drift": steps[-1].get("drift") if steps else None,
        "load": [round(value, 1) for value in os.getloadavg()], **marks,
    }  # fmt: skip


def tried(job: Job) -> Record:
    """`measure`, or why it failed."""
    try:
        return measure(job)
    except Exception as error:
        return {"key": job.key, **asdict(job), "failed": f"{type(error).__name__}: {error}"}


def run_all(
    jobs: Sequence[Job], processes: int, out: Path | None, work: Callable[[Job], Record] = tried
) -> list[Record]:
    """All jobs, `processes` at a time; each is written down when it is done."""
    os.environ.update(OMP_WAIT_POLICY="passive", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    os.environ["OMP_NUM_THREADS"] = str(max((job.threads for job in jobs), default=1))
    found: list[Record] = []
    with multiprocessing.get_context("spawn").Pool(max(1, min(processes, len(jobs)))) as pool:
        for record in pool.imap_unordered(work, jobs):
            found.append(record)
            shown = {key: value for key, value in record.items() if key not in ("missed", "load")}
            print(json.dumps(shown, ensure_ascii=False), flush=True)
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return found


def read(path: Path | None) -> list[Record]:
    """The lines of an earlier run."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def share(record: Record) -> float:
    """Held-out identity questions that name the new identity, of probes and proof questions together."""
    asked = exam.number(record, "live_n") + exam.number(record, "held_n")
    return (exam.number(record, "live") + exam.number(record, "held")) / max(1.0, asked)


def line_of(group: Sequence[Record]) -> tuple[object, ...]:
    """One setting's figures over its identities and seeds."""

    def total(*keys: str) -> int:
        return int(sum(exam.number(record, key) for record in group for key in keys))

    held = sum(share(record) >= 0.9 for record in group)
    probes = sum(exam.number(record, "live") >= 0.9 * exam.number(record, "live_n") for record in group)
    lost = [exam.number(record, "lost_points") for record in group]
    seconds = [exam.number(record, "seconds") for record in group]
    return (
        f"{probes} of {len(group)}", f"{held} of {len(group)}", exam.with_interval(total("live", "held"), total("live_n", "held_n")),
        f"{100 * min(map(share, group)):.0f} %", f"{sum(lost) / len(lost):.2f}", f"{max(lost):.2f}",
        f"{sum(points <= 2 for points in lost)} of {len(group)}",
        f"{total('near_same')}/{total('near_n')}", f"{sum(seconds) / len(seconds):.1f}", f"{max(seconds):.1f}",
    )  # fmt: skip


HEADER = ("90 % of the 16 probes", "90 % of all 118", "answers (low end)", "worst identity", "points lost", "worst", "at most 2",
          "neighbours same", "seconds", "longest")  # fmt: skip


def summary(records: Sequence[Record]) -> str:
    """A line a setting, then a line an identity."""
    sound = [record for record in records if "failed" not in record]
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in sound:
        groups.setdefault((str(record["rows"]), str(record["setting"])), []).append(record)
    order = {name: place for place, name in enumerate(SETTINGS)}
    keys = sorted(groups, key=lambda key: (key[0], order.get(key[1], 9)))
    whole = exam.table(("rows", "setting", *HEADER), [(*key, *line_of(groups[key])) for key in keys])
    cells: dict[int, dict[tuple[str, str], Record]] = {}
    for record in sound:
        cells.setdefault(int(exam.number(record, "identity")), {})[str(record["rows"]), str(record["setting"])] = record
    lines = []
    for number, found in sorted(cells.items()):
        row: list[object] = [exam.CARDS[number].name_zh, exam.CARDS[number].author_zh]
        for key in keys:
            one = found.get(key)
            row += ["-"] * 3 if one is None else [
                exam.with_interval(*(int(exam.number(one, f"live{n}") + exam.number(one, f"held{n}")) for n in ("", "_n"))),
                f"{exam.number(one, 'lost_points'):.1f}", f"{exam.number(one, 'seconds'):.0f}",
            ]  # fmt: skip
        lines.append(row)
    names = [f"{setting}: {what}" for _, setting in keys for what in ("identity", "points lost", "s")]
    failed = [f"\nfailed: {record['key']}: {record['failed']}" for record in records if "failed" in record]
    return "\n\n".join((whole, exam.table(("name", "maker", *names), lines))) + "".join(failed)


def main(arguments: Sequence[str] | None = None) -> list[Record]:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--settings", nargs="*", default=["guard", "off", "raw"], help=f"{', '.join(SETTINGS)} or a preset"
    )
    parser.add_argument("--identities", nargs="*", type=int, default=list(range(len(exam.CARDS))))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="added to the preset's seed")
    parser.add_argument("--rows", nargs="*", default=["identity-50"])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings over the named ones")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=int, default=0, help="questions of each kind, for a dry run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print a finished file as Markdown, measure nothing")
    given = parser.parse_args(arguments)
    if given.table:
        records = read(given.table)
        print(summary(records))
        return records
    done = {str(record["key"]) for record in read(given.out) if "failed" not in record}
    changes = tuple((name, value) for name, _, value in (item.partition("=") for item in given.set))
    jobs = [
        Job(setting, identity, seed, rows, given.threads, changes, given.most)
        for seed in given.seeds
        for setting in given.settings
        for rows in given.rows
        for identity in given.identities
    ]
    found = run_all([job for job in jobs if job.key not in done], given.jobs, given.out)
    records = read(given.out) or found
    print(summary(records))
    return records


if __name__ == "__main__":
    main()
