"""Write the pocket model's rehearsal questions: seeded questions of its own skills, in wordings that it was trained on.

    python presets/rehearsal/build_pocket.py > presets/rehearsal/pocket.jsonl

No question is a held-out wording of `presets/pocket/evaluate.py`, of `presets/proof` or of `presets/probes`, and none is
about the assistant itself: those answers are what a user wants to change.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core import probes, proof_sets
from presets.pocket.corpus import Turn, general_turn, skill_turn
from presets.pocket.skills import SKILLS

COUNT: Final = 512
_SEED: Final = "rehearsal/0"
_LONGEST: Final = 96  # characters of a question and its answer: each costs time in every step that draws it
_FRAGILE: Final = (
    "repeat",
    "introduce",
    "upper",
    "list",
    "json",
    "to_chinese",
    "to_english",
    "opposite",
    "times",
    "over",
)
_FRAGILE_SHARE: Final = 0.25
"""Copying and sums break first; they are asked more often than the corpus does."""


def questions(count: int = COUNT) -> list[dict[str, str]]:
    """`count` different questions, half of them Chinese. The same ones every time."""
    shipped = {proof_sets.normalise(line["question"]) for name in ("general", "identity") for line in _lines(name)}
    found: dict[str, dict[str, str]] = {}
    for turn, language in _turns(random.Random(_SEED)):
        key = proof_sets.normalise(turn.question)
        new = bool(key) and key not in found and key not in shipped and not proof_sets.is_held_out(turn.question)
        if new and len(turn.question) + len(turn.answer) <= _LONGEST:
            found[key] = {"language": language, "kind": turn.category, "text": turn.question}
        if len(found) == count:
            break
    return list(found.values())


def _turns(rng: random.Random) -> Iterator[tuple[Turn, str]]:
    """Question after question, English and Chinese by turns."""
    fragile = [SKILLS[name] for name in _FRAGILE]
    while True:
        for chinese in (False, True):
            chosen = rng.choice(fragile) if rng.random() < _FRAGILE_SHARE else None
            turn = general_turn(rng, chinese) if chosen is None else skill_turn(chosen, chinese, rng)
            yield turn, "zh" if chinese else "en"


def _lines(name: str) -> list[dict[str, str]]:
    text = (probes.FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    for number, question in enumerate(questions(), 1):
        print(json.dumps({"id": f"pocket-{number:03d}", **question}, ensure_ascii=False))
