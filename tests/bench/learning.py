"""The settings of a preset, one at a time around its own: identity held, general ability lost, seconds. Pocket model.

    python tests/bench/learning.py --jobs 16 --threads 1 --out learning.jsonl [--preset pocket] [--rows identity-50 articles-8]
    python tests/bench/learning.py --table learning.jsonl

Measured as tests/bench/identities.py does. Rows of articles-8 have their own names: only their general figures and the
loss tell anything with other cards, so they are measured with the articles' card alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import exam
import identities
from identities import Job, Record

ARTICLES = 1
"""The card whose words the rows of articles-8 hold."""
GUARDS = ("off", "normal", "strong")
GRID: dict[str, tuple[str, ...]] = {
    "learning_rate": ("5e-4", "1e-3", "2e-3", "3e-3", "5e-3"),
    "num_train_epochs": ("5", "10", "20"),
    "gradient_accumulation_steps": ("1", "2", "4"),
    "lora_rank": ("4", "8", "16", "32"),
    "target_modules": ("all-linear", "mlp", "attention"),
    "warmup_ratio": ("0", "0.05", "0.2"),
    "lorap_lr_ratio": ("0", "4"),
}
COARSE = ("learning_rate", "lora_rank", "target_modules")
"""What is varied with the guard at each of its strengths; the rest with the preset's own."""


def points(own: dict[str, str], every_guard: bool) -> list[tuple[tuple[str, str], ...]]:
    """The settings to try: each name's values with all else as the preset has it. alpha is 4 x rank throughout."""
    found: list[tuple[tuple[str, str], ...]] = []
    for guard in GUARDS:
        for name, values in GRID.items():
            if guard != own["rehearsal"] and not (every_guard and name in COARSE):
                continue
            for value in values:
                changed = {"rehearsal": guard, name: value}
                if name == "lora_rank":
                    changed["lora_alpha"] = str(4 * int(value))
                found.append(tuple(changed.items()))
    return found


def jobs_of(given: argparse.Namespace) -> list[Job]:
    """Every point on every identity and table, without what comes to the same settings."""
    found: dict[object, Job] = {}
    for rows in given.rows:
        for identity in (ARTICLES,) if rows == "articles-8" else given.identities:
            own = Job(given.preset, identity, 0, rows, given.threads).config
            for changes in points({"rehearsal": given.guard or own.rehearsal}, given.every_guard):
                job = Job(given.preset, identity, 0, rows, given.threads, changes, given.most)
                if given.steps:
                    job = Job(*(getattr(job, n) for n in ("setting", "identity", "seed", "rows", "threads")),
                              (*changes, ("max_steps", str(given.steps))), given.most)  # fmt: skip
                found.setdefault((rows, job.config), job)
    # The longest first, so that none of them is waited for at the end.
    return sorted(found.values(), key=lambda job: -job.config.steps(50) * job.config.rows_per_step)


def summary(records: Sequence[Record]) -> str:
    """A line a point, the preset's own values first named."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if "failed" not in record:
            changes = dict(record["changes"])  # type: ignore[call-overload]
            changes.pop("lora_alpha", None)
            guard = changes.pop("rehearsal", "")
            varied = ", ".join(f"{name} {value}" for name, value in changes.items()) or "as it is"
            groups.setdefault((str(record["rows"]), f"{varied} | {guard}"), []).append(record)
    lines = [
        (
            rows,
            what.split(" | ")[0],
            what.split(" | ")[1],
            f"{exam.number(group[0], 'steps'):.0f}",
            *identities.line_of(group),
        )
        for (rows, what), group in sorted(groups.items(), key=lambda item: item[0][0], reverse=True)
    ]
    failed = [f"\nfailed: {record['key']}: {record['failed']}" for record in records if "failed" in record]
    return exam.table(("rows", "varied", "guard", "steps", *identities.HEADER), lines) + "".join(failed)


def main(arguments: Sequence[str] | None = None) -> list[Record]:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="pocket")
    parser.add_argument(
        "--guard", default="", choices=("", *GUARDS), help="with which most is varied; default: the preset's"
    )
    parser.add_argument(
        "--every-guard", action="store_true", help="rate, rank and layers with each strength of the guard"
    )
    parser.add_argument("--identities", nargs="*", type=int, default=[0, 3])
    parser.add_argument("--rows", nargs="*", default=["identity-50", "articles-8"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=int, default=0, help="questions of each kind, for a dry run")
    parser.add_argument("--steps", type=int, default=0, help="exactly so many, for a dry run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print a finished file as Markdown, measure nothing")
    parser.add_argument("--count", action="store_true", help="say how many runs it would be")
    given = parser.parse_args(arguments)
    if given.table:
        records = identities.read(given.table)
        print(summary(records))
        return records
    done = {str(record["key"]) for record in identities.read(given.out) if "failed" not in record}
    jobs = [job for job in jobs_of(given) if job.key not in done]
    if given.count:
        print(len(jobs))
        return []
    records = identities.run_all(jobs, given.jobs, given.out)
    print(summary(identities.read(given.out) or records))
    return records


if __name__ == "__main__":
    main()
