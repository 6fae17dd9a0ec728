"""Small pieces of HTML that several tabs share. Everything that a person or a model wrote passes through `safe`."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterable, Mapping
from urllib.parse import quote

import gradio as gr

_ICONS = {
    "add": "M8 3v10M3 8h10",
    "edit": "M10.6 3.2l2.2 2.2M3 13l.7-2.9 7.2-7.2a1 1 0 0 1 1.4 0l.8.8a1 1 0 0 1 0 1.4L5.9 12.3 3 13z",
    "delete": "M3 4.5h10M6.5 4.5V3h3v1.5M4.5 4.5l.6 8.5h5.8l.6-8.5M6.8 7v3.8M9.2 7v3.8",
    "download": "M8 2.5v7.5M4.8 7.2L8 10.4l3.2-3.2M3 13.2h10",
    "compare": "M5.5 3v10M10.5 3v10M2.5 6l3-3 3 3M7.5 10l3 3 3-3",
    "tune": "M3 5h6M12 5h1M3 11h1M7 11h6M10.5 3.5v3M5.5 9.5v3",
    "close": "M4 4l8 8M12 4l-8 8",
    "pulse": "M2 8.5h2.6l1.6-4.5 3 8 1.7-3.5H14",
    "keys": "M1.8 4.2h12.4v7.6H1.8zM4.4 6.8h.01M6.8 6.8h.01M9.2 6.8h.01M11.6 6.8h.01M5.2 9.3h5.6",
    "link": "M6.8 9.2a2.4 2.4 0 0 0 3.4 0l2.3-2.3a2.4 2.4 0 0 0-3.4-3.4L8.3 4.3"
    "M9.2 6.8a2.4 2.4 0 0 0-3.4 0L3.5 9.1a2.4 2.4 0 0 0 3.4 3.4l.8-.8",
    "theme": "M8 2.5a5.5 5.5 0 1 0 0 11zM8 2.5a5.5 5.5 0 0 1 0 11",
}

MARKS = {"ok": "✓", "warn": "!", "bad": "✕", "note": "i"}


def safe(text: object) -> str:
    """`text` as HTML that shows exactly these characters."""
    return html.escape(str(text))


def answer(**said: object) -> str:
    """The JSON value by which a component answers its own browser side.

    The moment makes two answers differ that say the same: only a changed value reaches the page.
    """
    return json.dumps({**said, "at": time.monotonic_ns()}, ensure_ascii=False)


def icon(name: str) -> str:
    """A 16 px line drawing; its button or link carries the accessible name."""
    return (
        '<svg class="oc-icon" viewBox="0 0 16 16" aria-hidden="true" fill="none" stroke="currentColor"'
        f' stroke-width="1.4" stroke-linecap="round" stroke-linejoin="round"><path d="{_ICONS[name]}"/></svg>'
    )


def heading(title: str, note: str = "") -> gr.HTML:
    """A card's first line."""
    extra = f"<span>{safe(note)}</span>" if note else ""
    return gr.HTML(f'<div class="oc-head"><h2>{safe(title)}</h2>{extra}</div>', apply_default_css=False)


def tag(text: str, kind: str = "") -> str:
    """A small coloured word: kind ok, warn, bad, base, tuned or "" for grey."""
    return f'<span class="oc-tag {kind}">{safe(text)}</span>'


def checklist(items: Iterable[tuple[str, str]]) -> str:
    """Lines of (level, text), each with a mark that does not rely on colour: ok, warn, bad or note."""
    lines = (f'<li class="{level}"><i>{MARKS[level]}</i><span>{safe(text)}</span></li>' for level, text in items)
    return f'<ul class="oc-list">{"".join(lines)}</ul>'


def note(text: str) -> str:
    """A muted line."""
    return f'<div class="oc-note">{safe(text)}</div>'


def leading(words: str, **to: str) -> str:
    """A button within a sentence that leads elsewhere: `go` a tab, `click` the element to press (ui/static/place.js)."""
    marks = "".join(f' data-{name}="{safe(value)}"' for name, value in to.items())
    return f'<button type="button" class="oc-lead"{marks}>{safe(words)}</button>'


def next_step(html: str) -> gr.HTML:
    """A line that says what comes next; `html` may hold `leading` buttons."""
    return gr.HTML(f'<p class="oc-note oc-next">{html}</p>', apply_default_css=False)


def show_bytes(count: float | None) -> str:
    """A size in GB (10^9 bytes), in MB below one."""
    if count is None:
        return "–"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def show_size(count: float) -> str:
    """A size that may be far below a megabyte."""
    return show_bytes(count) if count >= 1e6 else f"{max(1, round(count / 1000))} kB"


def show_seconds(seconds: float) -> str:
    """m:ss, or h:mm:ss from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def with_labels(labels: Mapping[str, object], script: str) -> str:
    """A component's script with its labels as the constant `text`.

    Not as a prop: a component that is updated before its tab was opened starts with that update's props alone. And
    encoded, since gradio takes any word that stands in quotes in the script for the name of an event.
    """
    encoded = quote(json.dumps(labels, ensure_ascii=False))
    return f"const text = JSON.parse(decodeURIComponent('{encoded}'));\n{script}"
