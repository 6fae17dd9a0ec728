"""What the probings of a run come to, in a line: acquired when, drifted how far, at what cost. Values -> HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from core.proof_stats import place
from core.proof_words import REFERENCES
from core.run import Event, Run
from core.taken import PASS_SHARE
from ui.page import Page
from ui.pieces import safe, tag
from ui.suite import suite_of


def said_of_probings(page: Page, run: Run, probings: Sequence[Event]) -> str:
    """The line above the table; nothing without a probing of the adapter."""
    parts = [*_identity(page, run, probings), *_drift(page, run, probings[-1]), *_cost(page, run, probings)]
    return f'<div class="pt-said">{"".join(f"<span>{part}</span>" for part in parts)}</div>' if parts else ""


def _identity(page: Page, run: Run, probings: Sequence[Event]) -> Iterator[str]:
    newest = probings[-1]
    acquired = run.last("acquired")
    if acquired is not None:
        words = page.t("live.acquired", step=acquired["step"], hits=acquired["hits"], total=acquired["total"])
        yield tag(words, "ok")
    elif newest.get("total") and newest["step"]:
        hits, total, whole = int(str(newest["hits"])), int(str(newest["total"])), max(_totals(probings))
        needed, missing = math.ceil(PASS_SHARE * total), math.ceil(PASS_SHARE * whole)
        # Of all questions so many are hit: the next event says that it is acquired.
        if hits < needed or total < whole:
            key = "live.not_yet" if total == whole else "live.not_yet.some" if hits < needed else "live.not_yet.rest"
            yield tag(page.t(key, hits=hits, total=total, needed=needed, whole=whole, missing=missing))


def _totals(probings: Sequence[Event]) -> list[int]:
    """How many identity questions each probing asked: the quick ones ask some, the others all."""
    return [int(str(event.get("total") or 0)) for event in probings]


def _drift(page: Page, run: Run, newest: Event) -> Iterator[str]:
    if newest.get("drift") is not None:
        drift = float(str(newest["drift"]))
        where = place(drift, REFERENCES[suite_of(run)]).text.of(page.language)
        yield safe(page.t("live.drift", drift=f"{drift:.4f}", where=where))
    unkept = run.last("unkept")
    if unkept is not None:
        yield safe(page.t("live.unkept", step=unkept["step"], reason=unkept["reason"]))


def _cost(page: Page, run: Run, probings: Sequence[Event]) -> Iterator[str]:
    """What asking took of the run's time so far, and how often it was left out for that."""
    started, newest = run.first("started"), run.history[-1]
    live = [event for event in probings if event.get("live")]
    spent = sum(float(str(event["seconds"])) for event in live)
    ending = run.ending or {}
    whole = float(str(ending.get("seconds") or 0)) or _seconds(run, started, newest)
    if not (whole and live):
        return
    share = f"{100 * min(1.0, spent / whole):.0f}"
    yield safe(page.t("live.cost", count=len(live), seconds=f"{spent:.1f}", share=share))
    every = run.config.probe_steps
    asked = {int(str(event["step"])) for event in probings}
    left_out = [step for step in range(every, run.step, every) if step not in asked] if every else []
    if left_out and run.config.probe_share < 1:
        yield safe(page.t("live.spaced", count=len(left_out), share=f"{100 * run.config.probe_share:.0f}"))


def _seconds(run: Run, started: Event | None, newest: Event) -> float:
    """How long a run that has not ended has taken."""
    return float(str(newest["time"])) - float(str(started["time"])) if started else 0.0
