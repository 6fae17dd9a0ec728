"""What a browser tab keeps of itself over a reload, read back with nothing taken on trust.

The browser side is `onecard.keep` and `onecard.kept` (ui/static/place.js): sessionStorage, so of one tab, and gone with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import gradio as gr

from ui import talk
from ui.talk import Turn

_MOST_TURNS, _MOST_CHARACTERS = 1000, 1_000_000


def reading(name: str) -> str:
    """The js of a load event whose one input then is what was kept under `name`, as JSON; "" for nothing."""
    return f"() => [onecard.kept('{name}')]"


def loaded(tab: str, event: object) -> None:
    """Let questions and the start of a tab be pressed once `event`, its load event, has brought its values."""
    for after in (event.then, event.failure):  # type: ignore[attr-defined]
        after(None, None, None, js=f"() => {{ onecard.opened('{tab}'); }}", api_visibility="private")


def keeping(name: str, when: str = "true") -> str:
    """The js of an event that keeps the values of its inputs under `name`; `when` is asked of them as `all`."""
    return f"(...all) => {{ if ({when}) onecard.keep('{name}', all); }}"


def keep(name: str, changes: Sequence[object], inputs: Sequence[gr.components.Component], when: str = "true") -> None:
    """Keep `inputs` under `name` whenever one of `changes` happens. Nothing is sent to the server."""
    script = keeping(name, when)
    gr.on(list(changes), None, list(inputs), None, js=script, show_progress="hidden", api_visibility="private")


def values(told: object, count: int) -> list[object] | None:
    """The `count` values that were kept; None where there are none, or those of another version of the page."""
    try:
        found = json.loads(told) if isinstance(told, str) and told else None
    except ValueError:
        return None
    return found if isinstance(found, list) and len(found) == count else None


def turns(value: object) -> list[Turn]:
    """A conversation; none where it is none."""
    if not isinstance(value, list) or len(value) > _MOST_TURNS:
        return []
    if any(not isinstance(turn, dict) or turn.get("role") not in ("user", "assistant") for turn in value):
        return []
    found = talk.plain(value)
    if not all(_whole(str(turn["content"])) for turn in found):
        return []
    return found if sum(len(str(turn["content"])) for turn in found) <= _MOST_CHARACTERS else []


def texts(told: object) -> list[object]:
    """The list that the browser has for `onecard.append`; none where it is none."""
    try:
        found = json.loads(told) if isinstance(told, str) and told else []
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def text(value: object, otherwise: str = "") -> str:
    """A text."""
    return value if isinstance(value, str) and len(value) <= _MOST_CHARACTERS and _whole(value) else otherwise


def number(value: object, low: float, high: float, otherwise: float) -> float:
    """A number from `low` to `high`."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return value if fits else otherwise  # type: ignore[return-value]


def _whole(text: str) -> bool:
    """Whether it can be sent to the page: a half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
