"""Did it take: the tests of the new identity, from its answers. Knows no model and asks nothing."""

from __future__ import annotations

from collections.abc import Sequence

from core.proof import Test
from core.proof_parts import (
    LIMITS,
    Learned,
    Pair,
    absent,
    counted,
    counts,
    join,
    judged,
    losses,
    mean,
    moved_reading,
    reading,
)
from core.proof_sets import Answer, Suite
from core.proof_stats import light, read_count, worst
from core.proof_words import ADVICE, GROUPS
from core.text import Text

FEWEST = 12  # of 12 right ones of 12 the interval still begins at 76 %
FEWEST_ROWS = 4  # one row asked under three system prompts is one row
_LEARNED = 0.01  # nats a token by which a row must have become likelier to count as learned
_KNOWN = 0.5  # share of right answers from which on the base knows the new identity already


def took(pairs: Sequence[Pair], learned: Learned, suite: Suite) -> Test:
    """Questions of the training table, under several system prompts."""
    limits, answers = LIMITS[suite], [judged(pair) for pair in pairs]
    if not pairs:
        return absent("took", ADVICE["no_rows"])
    hits, before = counts(pairs)
    numbers = {**losses(learned.rows)}
    lights = [read_count(hits, len(pairs), limits.took).light]
    text = Text(
        f"训练过的问题在不同的系统提示词下问了 {len(pairs)} 次，{hits} 次答出新身份（基座 {before} 次）。",
        f"Questions of the table, asked {len(pairs)} times under several system prompts, got the new identity {hits} "
        f"times (the base: {before}).",
    )
    if learned.margins:
        numbers["margin"] = mean(learned.margins)
        numbers["preferred"] = sum(margin > 0 for margin in learned.margins) / len(learned.margins)
        lights.append(light(numbers["preferred"], limits.preferred))
        if lights[1] != "green":
            text = join(text, ADVICE["unsure"])
    if before >= _KNOWN * len(pairs):
        text = join(text, ADVICE["known"])
    elif worst(lights) != "green":
        text = join(text, ADVICE["more"])
    if len(pairs) < FEWEST or len({pair.asked.item.id for pair in pairs}) < FEWEST_ROWS:
        lights.append("yellow")
        text = join(text, ADVICE["few"])
    readings = tuple(reading(pair, answer) for pair, answer in zip(pairs, answers, strict=True))
    return counted("took", worst(lights), hits, len(pairs), before, text, numbers, readings)


def rows_took(learned: Learned, suite: Suite) -> Test:
    """Without an identity: whether the rows themselves became likelier."""
    n, numbers = len(learned.rows), losses(learned.rows)
    if not n:
        return absent("took", ADVICE["no_rows"])
    changes = [(mean(moved.scored.tuned), mean(moved.scored.base)) for moved in learned.rows]
    good = [tuned > base + _LEARNED for tuned, base in changes]
    learned_light = read_count(sum(good), n, LIMITS[suite].took).light
    text = Text(
        f"没有身份卡，所以看训练行：{n} 行里 {sum(good)} 行变得更可能，平均损失 {numbers['loss_before']:.2f} → "
        f"{numbers['loss_after']:.2f}。",
        f"There is no identity card, so the rows themselves were read: {sum(good)} of {n} became likelier, mean loss "
        f"{numbers['loss_before']:.2f} → {numbers['loss_after']:.2f}.",
    )
    readings = tuple(
        moved_reading(moved, "hit" if ok else "miss", ok) for moved, ok in zip(learned.rows, good, strict=True)
    )
    if n < FEWEST:
        text = join(text, ADVICE["few"])
    if learned_light != "green":
        text = join(text, ADVICE["more"])
    shown = worst((learned_light, "yellow")) if n < FEWEST else learned_light
    return counted("took", shown, sum(good), n, None, text, numbers, readings)


def generalises(pairs: Sequence[Pair], trained: Test, left_out: int, suite: Suite) -> Test:
    """Identity questions in wordings that were not trained. `left_out` of them were in the table."""
    limits, answers, n = LIMITS[suite], [judged(pair) for pair in pairs], len(pairs)
    if not n:
        return absent("generalises", ADVICE["all_trained"])
    hits, before = counts(pairs)
    lights, numbers = [read_count(hits, n, limits.generalises).light], {"left_out": float(left_out)}
    text = Text(
        f"{n} 种没训练过的问法，{hits} 种答出新身份（基座 {before} 种）。",
        f"{hits} of {n} wordings that were not trained got the new identity (the base: {before}).",
    )
    if trained.n and trained.before is not None:
        numbers["gap"] = 100 * (trained.share - hits / n)
        if numbers["gap"] > 100 * limits.gap:
            lights.append("yellow")
            text = join(text, ADVICE["memorised"])
    if before >= _KNOWN * n:
        text = join(text, ADVICE["known"])
    if n < FEWEST:
        lights.append("yellow")
        text = join(text, ADVICE["few"])
    if hits < n:
        text = join(text, _weakest(pairs, answers))
    if left_out:
        text = join(
            text,
            Text(
                f"另有 {left_out} 题就在训练表里，没有问。",
                f"{left_out} more were left out: they are in the table.",
            ),
        )
    readings = tuple(reading(pair, answer) for pair, answer in zip(pairs, answers, strict=True))
    return counted("generalises", worst(lights), hits, n, before, text, numbers, readings)


def _weakest(pairs: Sequence[Pair], answers: Sequence[Answer]) -> Text:
    """The kind of question that went worst, in words; nothing where none stands out."""
    groups: dict[str, list[bool]] = {}
    for pair, answer in zip(pairs, answers, strict=True):
        groups.setdefault(pair.asked.item.tags[0], []).append(bool(answer.ok))
    known = {tag: group for tag, group in groups.items() if tag in GROUPS and len(group) >= 3}
    if not known:
        return Text("", "")
    tag, group = min(known.items(), key=lambda pair: sum(pair[1]) / len(pair[1]))
    count = f"{sum(group)} / {len(group)}"
    return Text(f"最弱的是{GROUPS[tag].zh}（{count}）。", f"Weakest: {GROUPS[tag].en} ({count}).")


def own(pairs: Sequence[Pair], suite: Suite) -> Test:
    """The user's questions."""
    answers, n = [judged(pair) for pair in pairs], len(pairs)
    if not n:
        return absent("own", ADVICE["no_own"])
    hits, before = counts(pairs)
    text = Text(
        f"你的 {n} 道题，{hits} 道合格（基座 {before} 道）。",
        f"{hits} of your {n} questions were answered as you asked (the base: {before}).",
    )
    readings = tuple(reading(pair, answer) for pair, answer in zip(pairs, answers, strict=True))
    return counted("own", read_count(hits, n, LIMITS[suite].own).light, hits, n, before, text, {}, readings)
