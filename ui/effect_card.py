"""What a setting is and what happens when it is changed: the card behind the mark beside each field. Values -> HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from core import config, effects
from core.effects import Measured, Outcome
from core.text import LANGUAGES, Language
from ui import fields
from ui.locale import t
from ui.pieces import safe

if TYPE_CHECKING:
    from fastapi import FastAPI


def add(app: FastAPI) -> None:
    """The route of the cards, asked for one at a time when a mark is pressed."""

    def card(request: Request) -> Response:
        language = next((known for known in LANGUAGES if known == request.path_params["language"]), None)
        name = request.path_params["name"]
        if language is None or name not in config.names():
            return Response("Not found.", 404)
        return HTMLResponse(draw(language, name), headers={"cache-control": "no-cache"})

    app.add_route("/settings/{language}/{name}", card)


def draw(language: Language, name: str) -> str:
    """The card of setting `name`: its sentence, what if it is changed, what was measured."""
    fact = config.fact_of(name)
    value = config.TrainConfig().as_dict()[name]
    default = fields.word(language, name, value) or t(language, "effect.empty")
    return (
        f'<h3 id="oc-effect-title">{safe(fact.label.of(language))}</h3><p>{safe(fact.help.of(language))}</p>'
        f"<h4>{safe(t(language, 'effect.if'))}</h4><p>{safe(effects.said(name).of(language))}</p>"
        f"{_measured(language, name)}"
        f"<footer>{safe(t(language, 'effect.name'))} <code>--{safe(name)}</code> · "
        f"{safe(t(language, 'effect.default'))} <code>{safe(default)}</code></footer>"
    )


def lines(language: Language, name: str) -> list[list[str]]:
    """What was measured of setting `name`: a head, the run as the preset has it, then the changed ones; empty if nothing."""
    found = effects.measured()
    changed = found.of(name)
    if not changed:
        return []
    runs = [found.plain[0], *changed]
    memory = len({run.memory_bytes for run in runs}) > 1
    keys = ("effect.value", "effect.identity", "effect.general", "effect.time", *(("effect.memory",) if memory else ()))
    rows = [[_value(language, name, found, run), *_figures(language, run, memory)] for run in runs]
    return [[t(language, key) for key in keys], *rows]


def note(language: Language) -> str:
    """What the figures of every table mean."""
    found = effects.measured()
    first, taken = found.plain[0], [run.identity for run in found.plain]
    return t(
        language, "effect.note", of=first.identity_of, low=min(taken), high=max(taken), general_of=first.general_of,
        before=found.general_before,
    )  # fmt: skip


def _measured(language: Language, name: str) -> str:
    table = lines(language, name)
    if not table:
        return f"<small>{safe(t(language, 'effect.unmeasured'))}</small>"
    head = "".join(f'<th scope="col">{safe(cell)}</th>' for cell in table[0])
    body = "".join(
        f'<tr><th scope="row">{safe(row[0])}</th>{"".join(f"<td>{safe(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table[1:]
    )
    return (
        f"<table><caption>{safe(t(language, 'effect.measured'))}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table><small>{safe(note(language))}</small>"
    )


def _value(language: Language, name: str, found: Measured, run: Outcome) -> str:
    """The setting's value in a run, and what else was changed with it."""

    def word(setting: str) -> str:
        typed = run.changes.get(setting, found.settings[setting])
        return fields.word(language, setting, config.parse(setting, typed)) or t(language, "effect.empty")

    if not run.changes:
        return t(language, "effect.plain", value=word(name))
    others = [
        f"{_short(config.fact_of(other).label.of(language))} {word(other)}" for other in run.changes if other != name
    ]
    if not others:
        return word(name)
    return t(language, "effect.with", value=word(name), others=t(language, "list.comma").join(others))


def _short(label: str) -> str:
    """A label without the term in its brackets."""
    return re.sub(r"（.*?）| \(.*?\)", "", label)


def _figures(language: Language, run: Outcome, memory: bool) -> Sequence[str]:
    shown = [
        f"{run.identity}/{run.identity_of}",
        f"{run.general}/{run.general_of}",
        t(language, "effect.seconds", seconds=f"{run.seconds:.0f}"),
    ]
    return [*shown, f"{run.memory_bytes / 2**30:.1f} GiB"] if memory else shown
