"""A few more steps on the pocket model: do fixes hold, and what is lost? The numbers of core/further.py come from here.

python tests/bench/further.py --home FOLDER [--fixes 1 3] [--share 0.2] [--rows 16] [--steps 24 40] [--rate 0.5]

One line of JSON for each number of fixes: fixes said word for word, wordings that were not trained on, rows of the table
still said word for word, held-out identity questions, and general questions that went wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core import further, models, proof_sets
from core.dataset import Dataset, Message, Row
from core.generate import Column, Sampling
from core.proof_sets import Item
from core.run import Run
from core.workspace import Workspace

FIXES = (
    Row("你几岁了？", "", "我没有年龄，我是程序。"),
    Row("Do you have a body?", "", "No, I have no body. I live in a computer."),
    Row("你住在哪里？", "", "我住在一台服务器里。"),
)
VARIANTS = (
    ("你几岁了", "请问你几岁了？", "你今年几岁了？"),
    ("do you have a body", "Do you have any body?"),
    ("你住在哪里", "请问你住在哪里？"),
)
SYSTEM = "You are a helpful assistant."


class Study:
    """One base run, and what an adapter says."""

    def __init__(self, home: Path) -> None:
        self.workspace = Workspace(home)
        self.table = self.workspace.dataset("identity-50")
        self.rows = self.table.resolved()
        self.old = models.old_words(models.inspect("pocket"))
        identity = self.table.identity
        self.held = [i for i in proof_sets.items("identity", suite="pocket") if proof_sets.can_ask(i, identity)]
        general = (*proof_sets.items("general", suite="pocket"), *proof_sets.items("neighbour", suite="pocket"))
        self.general = [item for item in general if proof_sets.can_ask(item, identity)]
        self.before = self.answers(None, [self.prompt(item) for item in self.general])
        found = [run for run in self.workspace.runs() if run.title == "base" and run.status == "finished"]
        self.base = found[0] if found else self.train()

    def train(self) -> Run:
        preset = next(preset for preset in self.workspace.presets() if preset.id == "pocket")
        return self.wait(self.workspace.start("identity-50", plain(preset.config), "base"))

    def wait(self, run: Run) -> Run:
        while self.workspace.active is not None:
            time.sleep(0.05)
        return run

    def prompt(self, item: Item) -> tuple[Message, ...]:
        return proof_sets.ask(item, self.table.identity, self.old, SYSTEM).messages

    def answers(self, adapter: str | None, prompts: Sequence[Sequence[Message]]) -> list[str]:
        said = []
        for first in range(0, len(prompts), 32):
            columns = [Column(tuple(prompt), adapter) for prompt in prompts[first : first + 32]]
            *_, replies = self.workspace.answer(columns, Sampling(temperature=0, max_new_tokens=64))
            said += [reply.text.strip() for reply in replies]
        return said

    def said(self, adapter: str, questions: Sequence[str]) -> list[str]:
        return self.answers(adapter, [(Message("system", SYSTEM), Message("user", q)) for q in questions])

    def verdicts(self, adapter: str, items: Sequence[Item], before: Sequence[str] | None) -> list[bool | None]:
        texts = self.answers(adapter, [self.prompt(item) for item in items])
        asked = [proof_sets.ask(item, self.table.identity, self.old, SYSTEM) for item in items]
        earlier = before or [None] * len(items)
        return [proof_sets.judge(a, text, was).ok for a, text, was in zip(asked, texts, earlier, strict=True)]

    def report(self, adapter: str) -> dict[str, object]:
        own = self.said(adapter, [row.question for row in self.rows])
        held = self.verdicts(adapter, self.held, None)
        general = self.verdicts(adapter, self.general, self.before)
        return {
            "own": sum(text == row.output for text, row in zip(own, self.rows, strict=True)),
            "held": f"{held.count(True)}/{len(held)}",
            "general_wrong": f"{general.count(False)}/{len(general)}",
        }

    def fix(self, count: int) -> dict[str, object]:
        """Go on from the base run with `count` fixes, and see; the run is deleted again."""
        table = Dataset("identity-50", (*self.table.rows, *FIXES[:count]), self.table.identity)
        choice = self.workspace.library.get(self.base.id)
        made = further.plan(choice, table, self.workspace.runs(), self.workspace.row_reports, self.base.config)
        run = self.wait(self.workspace.start(made.table, replace(plain(made.config), probe_steps=0), made.title))
        ended = run.last("finished")
        exact = self.said(run.id, [row.question for row in FIXES[:count]])
        wordings = [(text, row.output) for row, texts in zip(FIXES, VARIANTS[:count], strict=False) for text in texts]
        varied = self.said(run.id, [text for text, _ in wordings])
        found = {
            "fixes": count,
            "wanted": made.wanted,
            "steps": made.steps,
            "seconds": round(float(str(ended["seconds"])), 1) if ended else None,
            "exact": sum(text == row.output for text, row in zip(exact, FIXES, strict=False)),
            "wordings": f"{sum(t == o for t, (_, o) in zip(varied, wordings, strict=True))}/{len(wordings)}",
            **self.report(run.id),
        }
        self.workspace.delete_run(run.id)
        return found


def plain(config: further.TrainConfig) -> further.TrainConfig:
    """Without what other benches measure."""
    return replace(config, model="pocket", rehearsal="off", stop_when_taken="false", prove="false")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--fixes", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--steps", type=int, nargs="+", default=[])
    parser.add_argument("--share", type=float, default=further._SHARE)
    parser.add_argument("--rows", type=int, default=further._ROWS)
    parser.add_argument("--rate", type=float, default=further._RATE)
    asked = parser.parse_args()
    further._SHARE, further._ROWS, further._RATE = asked.share, asked.rows, asked.rate
    study = Study(asked.home)
    print(json.dumps({"fixes": 0, **study.report(study.base.id)}), flush=True)
    for place, count in enumerate(asked.fixes):
        if asked.steps:
            further._STEPS, further._STEPS_EACH = asked.steps[min(place, len(asked.steps) - 1)], 0
        print(json.dumps(study.fix(count)), flush=True)


if __name__ == "__main__":
    main()
