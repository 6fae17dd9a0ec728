"""What the events of a run may hold: checked where a run comes from another machine, since every view reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from core import typed

_COUNT, _NUMBER, _WORDS = int, float, str
_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("step", "steps", "rows_per_step", "held_out", "tokens", "trainable_parameters"), _COUNT),
    **dict.fromkeys(("hits", "total", "anchors", "asked", "left_out", "cut", "tokens_cut"), _COUNT),
    **dict.fromkeys(("best_step", "chosen_step", "broken_step", "needed_bytes", "free_bytes", "cards"), _COUNT),
    **dict.fromkeys(("time", "loss", "epoch", "learning_rate", "grad_norm", "tokens_per_second"), _NUMBER),
    **dict.fromkeys(("seconds", "peak_memory_bytes", "probe_seconds", "best_loss"), _NUMBER),
    **dict.fromkeys(("drift", "memory_bytes", "max_tokens"), _NUMBER | None),
    **dict.fromkeys(("taken", "live", "best", "recompute"), bool),
    **dict.fromkeys(
        ("model", "device", "path", "cause", "reason", "reason_zh", "reason_en", "message_zh", "message_en"), _WORDS
    ),
    **dict.fromkeys(("plain_zh", "plain_en", "adapter"), _WORDS | None),
    "set": Literal["training", "evaluation"],
    "damaged": list[str],
    "rows": int | list[int],
    "versions": Mapping[str, str],
}
# What the views read without asking whether it is there.
_NEEDED = {
    "step": ("step", "loss", "tokens_per_second", "seconds", "peak_memory_bytes"),
    "started": ("steps",),
    "resumed": ("step", "damaged"),
    "smaller_split": ("step", "max_tokens", "recompute"),
    "truncated": ("left_out", "cut", "tokens_cut"),
    "evaluated": ("step", "loss"),
    "probed": ("step", "hits", "total", "seconds", "answers"),
    "acquired": ("step", "hits", "total"),
    "unkept": ("step", "reason"),
    "chosen": ("step",),
    "saved": ("step", "path"),
    "failed": ("message_zh", "message_en"),
}
_ANSWER: dict[str, Any] = {
    "question": str, "text": str, "kind": str, "verdict": str, "shown": bool,
}  # fmt: skip
_MARK: dict[str, Any] = {"start": int, "end": int, "kind": Literal["new", "old"]}


def check(events: Sequence[Mapping[str, object]]) -> None:
    """Raise ValueError, which names the event and the field, for one that no run of ours would have told."""
    for number, event in enumerate(events, 1):
        kind = str(event["type"])
        where = f"{number} ({kind[:40]})"
        for name in ("time", *_NEEDED.get(kind, ())):
            if name not in event:
                raise ValueError(f"{where}: {name} ?")
        for name, value in event.items():
            if name in _FIELDS:
                typed.check(value, _FIELDS[name], f"{where}.{name}")
        if kind == "probed":
            _check_answers(event["answers"], where)


def _check_answers(answers: object, where: str) -> None:
    typed.check(answers, list[Mapping[str, object]], where)
    for answer in answers:  # type: ignore[attr-defined]
        for name, kind in _ANSWER.items():
            if name in answer or name != "shown":
                typed.check(answer.get(name, ""), kind, f"{where}.answers.{name}")
        marks = answer.get("marks", [])
        typed.check(marks, list[Mapping[str, int | str]], f"{where}.answers.marks")
        for mark in marks:
            for name, kind in _MARK.items():
                typed.check(mark.get(name), kind, f"{where}.answers.marks.{name}")
