"""Points of a curve -> fewer points, and several runs -> one plotly figure. Knows no run and no page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Point = tuple[float, ...]  # the step, its value, and what rides along

SMOOTHING = 0.75
# Okabe and Ito's palette without yellow: told apart with any colour vision; the dashes differ too.
_COLORS = ("#009E73", "#D55E00", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def downsample(points: Sequence[Point], limit: int = 600) -> list[Point]:
    """At most `limit` (4 or more) of `points`: the lowest and highest of each bucket, the first and the last."""
    if limit < 4:
        raise ValueError(f"limit is {limit}; it must be 4 or more")
    if len(points) <= limit:
        return list(points)
    buckets, inner = (limit - 2) // 2, len(points) - 2
    kept = [points[0]]
    for bucket in range(buckets):
        start, stop = 1 + inner * bucket // buckets, 1 + inner * (bucket + 1) // buckets
        low = min(range(start, stop), key=lambda i: points[i][1])
        high = max(range(start, stop), key=lambda i: points[i][1])
        kept += [points[i] for i in sorted({low, high})]
    return [*kept, points[-1]]


def smooth(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """Exponential moving average: each value is `weight` of the one before and the rest of its own."""
    averaged: list[float] = []
    for value in values:
        averaged.append(averaged[-1] * weight + value * (1 - weight) if averaged else value)
    return averaged


@dataclass(frozen=True)
class Curve:
    """A run's losses, [(step, loss), ...] each: measured on the rows it trains on, and on those held out."""

    title: str
    training: Sequence[tuple[int, float]]
    evaluation: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Words:
    """What the figure says: the axes, and what an evaluation loss is called beside its run's title."""

    step: str = "step"
    loss: str = "loss"
    evaluation: str = "{title}: eval"


def compare_runs(runs: Sequence[Curve], dark: bool, words: Words | None = None) -> Figure:
    """One figure of the runs' losses: thin as measured, thick smoothed, dots for the evaluation loss."""
    # 0.4 s that pages without a comparison need not pay.
    from plotly.graph_objects import Figure, Scatter

    figure, words = Figure(), words or Words()
    for index, run in enumerate(runs):
        color, dash = _COLORS[index % len(_COLORS)], _DASHES[index // len(_COLORS) % len(_DASHES)]
        title = escape(run.title, quote=False)  # plotly reads tags in a name
        steps = [step for step, _ in run.training]
        averaged = list(zip(steps, smooth([loss for _, loss in run.training]), strict=True))
        raw, thick = downsample(run.training), downsample(averaged)
        style = {"mode": "lines", "name": title, "legendgroup": str(index)}
        figure.add_trace(Scatter(
            x=[p[0] for p in raw], y=[p[1] for p in raw], line={"color": color, "width": 1}, opacity=0.35,
            showlegend=False, hoverinfo="skip", **style))  # fmt: skip
        figure.add_trace(Scatter(
            x=[p[0] for p in thick], y=[p[1] for p in thick], line={"color": color, "width": 2.4, "dash": dash},
            hovertemplate="%{y:.4f}", **style))  # fmt: skip
        if run.evaluation:
            held = downsample(run.evaluation)
            style |= {"name": words.evaluation.format(title=title), "mode": "lines+markers"}
            figure.add_trace(Scatter(
                x=[p[0] for p in held], y=[p[1] for p in held], line={"color": color, "width": 1.2, "dash": "dot"},
                marker={"color": color, "size": 6, "symbol": "diamond"}, hovertemplate="%{y:.4f}", **style))  # fmt: skip
    return figure.update_layout(_layout(dark, words))


def _layout(dark: bool, words: Words) -> dict[str, object]:
    text, line, card = ("#e4e9ee", "#28313a", "#141a1e") if dark else ("#1c2430", "#e3e7eb", "#ffffff")
    axis = {"gridcolor": line, "zeroline": False, "linecolor": line}
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {
            "color": text,
            "size": 12,
            "family": "system-ui, 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC'",
        },
        "margin": {"l": 48, "r": 16, "t": 12, "b": 40},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": card, "bordercolor": line, "font": {"color": text}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": axis | {"title": {"text": words.step}},
        "yaxis": axis | {"title": {"text": words.loss}, "rangemode": "tozero"},
    }
