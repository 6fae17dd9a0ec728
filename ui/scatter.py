"""Taken against drift: a dot for each time a run was asked, the adapter in use marked, another to be picked. Values -> HTML.

The dots are buttons; ui/static/scatter.js tells the page which one was pressed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.proof_parts import LIMITS
from core.proof_sets import Suite
from core.proof_stats import place
from core.proof_words import REFERENCES
from core.run import Event, Run
from core.taken import PASS_SHARE
from ui.page import Page
from ui.pieces import safe
from ui.suite import short_name, suite_of

_STATIC = Path(__file__).parent / "static"
_LEAST, _MOST = 3e-4, 0.06  # what the axis shows in any case, nats a token
_HALF = 0.5  # where the plane begins once every adapter hits so much


@dataclass(frozen=True)
class _Dot:
    """A probing on the plane: shares of its width and height, from the left and from below."""

    event: Event
    x: float
    y: float
    kept: bool
    chosen: bool


def script() -> str:
    """What the browser does with the dots, and how it saves them as a picture."""
    return "".join((_STATIC / name).read_text("utf-8") for name in ("picture.js", "scatter.js", "scatter_save.js"))


def style() -> str:
    """Its style sheet, for the page's head."""
    return f"<style>{(_STATIC / 'scatter.css').read_text('utf-8')}</style>"


def mark(run: Run) -> str:
    """A short string that changes when the html would."""
    dots = _probings(run)
    return f"{run.status} {len(dots)} {run.adapter_step} {sum(_kept(run, event) for event in dots)}"


def draw(page: Page, run: Run) -> str:
    """The plane with its dots; nothing before the first one."""
    probings = _probings(run)
    if not probings:
        return ""
    drifts = [float(str(event["drift"])) for event in probings]
    axis = _Axis(min(_LEAST, *drifts), max(_MOST, *drifts))
    shares = [int(str(event["hits"])) / int(str(event["total"])) for event in probings]
    floor = _HALF if min(shares) > _HALF else 0.0
    dots = [
        _Dot(
            event,
            axis.share(float(str(event["drift"]))),
            (share - floor) / (1 - floor),
            _kept(run, event),
            event["step"] == run.adapter_step,
        )
        for event, share in zip(probings, shares, strict=True)
    ]
    t = page.t
    inner = "".join((*_grid(page, axis, floor, suite_of(run)), *(_button(page, run, dot) for dot in dots)))
    return (
        f'<div class="oc-head"><h2>{safe(t("scatter.title"))}</h2><span>{safe(t("scatter.note"))}</span>{_save(page)}</div>'
        f'<div class="sc"><div class="sc-plane" role="group" aria-label="{safe(t("scatter.label"))}">{inner}</div>'
        f'<div class="sc-x">{safe(t("scatter.x"))}</div>'
        f'<p class="sc-said" role="status">{safe(_said(page, run, dots))}</p></div>'
    )


def _save(page: Page) -> str:
    return "".join(
        f'<button type="button" class="sc-save" data-save="{kind.lower()}" title="{safe(page.t("scatter.save", kind=kind))}" '
        f'aria-label="{safe(page.t("scatter.save", kind=kind))}">{kind}</button>'
        for kind in ("SVG", "PNG")
    )


class _Axis:
    """Drift by powers of ten, with a little room at both ends."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = math.log10(max(low, 1e-6) * 0.7), math.log10(high * 1.4)

    def share(self, drift: float) -> float:
        """0 at the left end, 1 at the right."""
        return min(1.0, max(0.0, (math.log10(max(drift, 1e-9)) - self._low) / (self._high - self._low)))


def _probings(run: Run) -> list[Event]:
    """Those in which everything was asked: shares of the pinned questions alone are no measure beside them."""
    known = [event for event in run.probings if event.get("total") and event.get("drift") is not None]
    most = max((int(str(event["total"])) for event in known), default=0)
    return [event for event in known if event["total"] == most]


def _kept(run: Run, event: Event) -> bool:
    step = int(str(event["step"]))
    return run.kept(step) is not None or (run.adapter is not None and run.adapter_step == step)


def _grid(page: Page, axis: _Axis, floor: float, suite: Suite) -> Iterator[str]:
    """Lines of shares and of changes that people know, and the corner where an identity counts as taken."""
    width = 100 * axis.share(LIMITS[suite].drift.green)
    yield (
        f'<div class="sc-good" style="width:{width:.1f}%;height:{100 * (1 - PASS_SHARE) / (1 - floor):.1f}%">'
        f"<span>{safe(page.t('scatter.good'))}</span></div>"
    )
    for height in (0, 50, 100):
        share = 100 * floor + height * (1 - floor)
        yield f'<div class="sc-row" style="bottom:{height}%"><span>{share:.0f}%</span></div>'
    for known in REFERENCES[suite]:
        name, left = short_name(known.name.of(page.language)), 100 * axis.share(known.drift)
        if name and 0 < left < 100:
            yield f'<div class="sc-column" style="left:{left:.1f}%"><span>{safe(name)}</span></div>'


def _button(page: Page, run: Run, dot: _Dot) -> str:
    event = dot.event
    words = page.t(
        "scatter.dot", step=event["step"], hits=event["hits"], total=event["total"], drift=f"{event['drift']:.4f}"
    )
    if dot.chosen:
        words = page.t("scatter.dot.chosen", dot=words)
    elif not dot.kept:
        words = page.t("scatter.dot.gone", dot=words)
    fixed = run.live or not dot.kept
    state = f'aria-pressed="{str(dot.chosen).lower()}"' + (" disabled" if fixed else "")
    kind = "sc-dot" if dot.kept else "sc-dot sc-gone"
    side = " sc-left" if dot.x > 0.85 else ""
    return (
        f'<button type="button" class="{kind}{side}" data-step="{event["step"]}" {state} title="{safe(words)}" '
        f'aria-label="{safe(words)}" style="left:{100 * dot.x:.2f}%;bottom:{100 * dot.y:.2f}%"><i>{event["step"]}</i></button>'
    )


def _said(page: Page, run: Run, dots: Sequence[_Dot]) -> str:
    """Which adapter is in use, how far it has moved, and what may be done."""
    if run.live:
        return page.t("scatter.live")
    chosen = next((dot.event for dot in dots if dot.chosen), None)
    if chosen is None:
        return page.t("scatter.pick")
    where = place(float(str(chosen["drift"])), REFERENCES[suite_of(run)]).text.of(page.language)
    said = page.t("scatter.chosen", step=chosen["step"], hits=chosen["hits"], total=chosen["total"], where=where)
    return said + (page.t("scatter.more") if sum(dot.kept for dot in dots) > 1 else "")
