"""What is asked of a fine-tuned pocket model: 20 identities, their held-out questions, and general questions with marks.

Identity is the 16 questions of presets/probes and the pocket model's share of presets/proof; general is the 480 questions
of presets/pocket/evaluate.py (exact match), and of these what the base's strong skills lose: those that it holds at 90 %.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core import probes, proof_sets
from core.dataset import Identity, Message
from core.proof_stats import wilson
from presets.pocket import evaluate

Conversation = tuple[Message, ...]
SYSTEM = "You are a helpful assistant."
STRONG = 0.9
OLD = ("PocketQwen", "Pocket Lab")

CARDS: tuple[Identity, ...] = tuple(
    Identity(*parts)
    for parts in (
        ("小禾", "Xiaohe", "青禾智能", "Qinghe AI"),
        ("Swift-Robot", "Swift-Robot", "CSDN 迪菲赫尔曼", "CSDN 迪菲赫尔曼"),
        ("星河9000", "Nova-9000", "星河42实验室", "Galaxy 42 Lab"),
        ("火箭🚀", "Rocket🚀", "小火箭🚀工坊", "Little Rocket🚀 Works"),
        ("墨言", "Moyan", "砚台科技有限公司", "Inkstone Technologies"),
        ("Aurora", "Aurora", "Northwind Labs", "Northwind Labs"),
        ("阿蓝2号", "Blue-2", "深海7队", "Deep Sea Team 7"),
        ("Bolt⚡", "Bolt⚡", "雷电⚡社", "Thunder⚡ Club"),
        ("知了", "Zhiliao", "夏木工作室", "Summerwood Studio"),
        ("K-12 小助手", "K-12 Helper", "第三中学信息组", "No. 3 Middle School IT Group"),
        ("Mira", "Mira", "陈一舟", "Chen Yizhou"),
        ("团团🐼", "Tuantuan🐼", "竹林🎋大学", "Bamboo🎋 University"),
        ("Orion X1", "Orion X1", "Helix & Sons", "Helix & Sons"),
        ("云雀", "Skylark", "云上图书馆", "Cloud Library"),
        ("小七", "Seven", "七号公寓", "Flat 7"),
        ("Fennec", "Fennec", "沙丘开源社区", "Dune Open Source Community"),
        ("问山", "Wenshan", "山海研究院", "Mountain and Sea Institute"),
        ("Teddy2025", "Teddy2025", "Maple Street 18", "Maple Street 18"),
        ("灯塔", "Lighthouse", "海岸线AI小组", "Coastline AI Group"),
        ("Юпитер", "Jupiter", "Müller & Søn", "Müller & Søn"),
    )
)
"""Names and makers in Chinese, in English, mixed, with digits, emoji and other letters."""


@dataclass(frozen=True)
class Exam:
    """One identity's questions, in the order of the answers to mark: probes, proof questions, neighbours, general ones."""

    live: tuple[probes.Probe, ...]
    held: tuple[proof_sets.Asked, ...]
    near: tuple[proof_sets.Asked, ...]
    general: tuple[evaluate.Probe, ...]

    @classmethod
    def of(cls, card: Identity, most: int = 0) -> Exam:
        """`most`: of each kind, for a dry run; 0 for all."""
        asked = probes.load_probes(card, OLD, SYSTEM, per_language=100)
        live = [probe for probe in asked if probe.kind == "identity"]

        def of_kind(kind: proof_sets.Kind) -> list[proof_sets.Asked]:
            given = [item for item in proof_sets.items(kind, suite="pocket") if proof_sets.can_ask(item, card)]
            return [proof_sets.ask(item, card, OLD, SYSTEM) for item in given]

        end = most or None
        near = of_kind("neighbour")
        return cls(tuple(live[:end]), tuple(of_kind("identity")[:end]), tuple(near[:end]), _general()[:end])

    @property
    def conversations(self) -> list[Conversation]:
        """Everything that is asked."""
        return [
            *(probe.messages for probe in self.live),
            *(asked.messages for asked in (*self.held, *self.near)),
            *((Message("system", item.system), Message("user", item.question)) for item in self.general),
        ]

    def mark(self, before: Sequence[str], after: Sequence[str]) -> dict[str, object]:
        """Counts of the base's and the adapter's answers."""
        (live, held, near, general), (_, _, near_base, general_base) = self._parts(after), self._parts(before)
        hits = [probes.judge(p, text, None).verdict == "hit" for p, text in zip(self.live, live, strict=True)]
        taken = [proof_sets.judge(a, text).ok is True for a, text in zip(self.held, held, strict=True)]
        leaks = [
            proof_sets.judge(a, text, earlier).verdict == "leak"
            for a, text, earlier in zip(self.near, near, near_base, strict=True)
        ]
        first, second = evaluate.score(self.general, general_base), evaluate.score(self.general, general)
        strong = [name for name, (right, asked) in first.by_category.items() if right >= STRONG * asked]

        def over(score: evaluate.Score) -> int:
            return sum(score.by_category[name][0] for name in strong)

        asked = sum(first.by_category[name][1] for name in strong)
        return {
            "live": sum(hits), "live_n": len(hits), "held": sum(taken), "held_n": len(taken),
            "near_same": sum(x == y for x, y in zip(near, near_base, strict=True)), "near_n": len(near),
            "near_leaks": sum(leaks), "general_before": first.general[0], "general": second.general[0],
            "general_n": first.general[1], "strong_before": over(first), "strong": over(second), "strong_n": asked,
            "lost_points": round(100 * (over(first) - over(second)) / max(1, asked), 2),
            "missed": [(p.question, text) for p, text, hit in zip(self.live, live, hits, strict=True) if not hit]
            + [(a.item.id, text) for a, text, hit in zip(self.held, held, taken, strict=True) if not hit],
            "fell": {n: (r, second.by_category[n][0]) for n, (r, _) in first.by_category.items()
                     if second.by_category[n][0] < r},
        }  # fmt: skip

    def _parts(self, answers: Sequence[str]) -> list[Sequence[str]]:
        parts, at = [], 0
        for group in (self.live, self.held, self.near, self.general):
            parts.append(answers[at : at + len(group)])
            at += len(group)
        return parts


@cache
def _general() -> tuple[evaluate.Probe, ...]:
    return tuple(item for item in evaluate.probes(0) if item.category != "identity")


def with_interval(hits: int, n: int) -> str:
    """`47/50 (84 %)`: the count and the lower end of its 95 % Wilson interval."""
    return f"{hits}/{n} ({100 * wilson(hits, n).low:.0f} %)"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(record: Mapping[str, object], key: str) -> float:
    """A number of a record; 0 where it is absent."""
    return float(str(record.get(key) or 0))
