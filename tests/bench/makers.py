"""Rows made from the identity card alone: how well an identity takes on the pocket model, and how many paraphrases it can make.

    python tests/bench/makers.py [--counts 50 100 200] [--identities 0 9 19] [--tone warm] [--threads 1]
    python tests/bench/makers.py --paraphrase 20 [--model FOLDER]

Each line is a run of the pocket preset on nothing but made rows. `held_out` are the wordings that the maker kept back,
`identity` the 16 probes and the pocket model's proof questions: none of them is ever a made row.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import exam
from identities import answers

from core import config as settings
from core import proof_sets
from core.dataset import Identity
from core.engine import Engine
from core.generate import stream
from core.makers import card_rows, paraphrase
from core.makers.card_rows import Wishes
from core.models import POCKET
from core.own_probes import items
from core.presets import preset
from core.run import Run
from core.train import train


def taken(card: Identity, wishes: Wishes) -> dict[str, object]:
    """One run, and what it answers to questions that were in no row."""
    made = card_rows.make(card, wishes, old_words=exam.OLD)
    rows = [row.resolved(card) for row in made.rows]
    names = {"model_name": f"{card.name_zh}|{card.name_en}", "model_author": f"{card.author_zh}|{card.author_en}"}
    config = settings.build(names, preset("pocket").for_model(POCKET).config)
    config = replace(config, prove="false")
    engine = Engine()
    engine.load(POCKET)
    own = [proof_sets.ask(item, card, exam.OLD, exam.SYSTEM) for item in items(made.held_out)]
    who = [len(probe.must) > 0 and probe.must[0].startswith("{{") for probe in made.held_out]
    questions = exam.Exam.of(card)
    talks = [asked.messages for asked in own] + questions.conversations
    before = answers(engine, questions.conversations, None)
    with tempfile.TemporaryDirectory() as home:
        run = Run.create(Path(home) / "runs" / "run", config, rows, "made", "made")
        begun = time.perf_counter()
        train(engine, run, threading.Event())
        seconds = time.perf_counter() - begun
        told = answers(engine, talks, run.id)
    right = [proof_sets.judge(a, text).ok is True for a, text in zip(own, told, strict=False)]
    marks = questions.mark(before, told[len(own) :])
    identity = exam.number(marks, "live") + exam.number(marks, "held")
    return {
        "rows": len(rows), "tone": wishes.tone, "card": card.name_zh, "steps": run.step, "seconds": round(seconds),
        "held_out": f"{sum(right)}/{len(right)}",
        "held_out_identity": f"{sum(ok for ok, asks in zip(right, who, strict=True) if asks)}/{sum(who)}",
        "identity": f"{identity:.0f}/{exam.number(marks, 'live_n') + exam.number(marks, 'held_n'):.0f}",
        "lost_points": marks["lost_points"],
        "missed": [(a.item.text, text) for a, text, ok in zip(own, told, right, strict=False) if not ok][:8],
    }  # fmt: skip


def reworded(rows: int, each: int, model: str) -> dict[str, object]:
    """How many wordings of made rows a base model offers, and why the others fall out."""
    card = exam.CARDS[0]
    table = card_rows.make(card, Wishes()).rows
    engine = Engine()
    engine.load(model)
    chosen = [i * len(table) // rows for i in range(rows)]
    begun = time.perf_counter()
    *_, done = paraphrase.run(lambda *asked: stream(engine, *asked), table, chosen, each, card)
    return {
        "model": model, "rows": rows, "asked_for": rows * each, "kept": len(done.kept),
        "dropped": dict(Counter(item.why for item in done.dropped)), "seconds": round(time.perf_counter() - begun, 1),
        "examples": [(table[item.source].instruction, item.row.instruction) for item in done.kept][:12],
    }  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="*", type=int, default=[50, 100, 200])
    parser.add_argument("--identities", nargs="*", type=int, default=[0])
    parser.add_argument("--tone", default="plain", choices=card_rows.TONES)
    parser.add_argument("--paraphrase", type=int, default=0, metavar="ROWS")
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--model", default=POCKET)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    if given.paraphrase:
        print(json.dumps(reworded(given.paraphrase, given.each, given.model), ensure_ascii=False), flush=True)
        return
    for number in given.identities:
        for count in given.counts:
            record = taken(exam.CARDS[number], Wishes(count, tone=given.tone))
            print(json.dumps(record, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
