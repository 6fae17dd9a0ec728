"""The library's html: the empty dialog, and the list of adapters in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from core.moments import moment
from core.workspace import AdapterChoice
from ui import proof_draw
from ui.page import Page
from ui.pieces import icon, note, safe, show_size, tag

_FRAME = """
<dialog class="oc-library" aria-labelledby="oc-library-title">
  <header><h2 id="oc-library-title">{title}</h2><span>{note}</span>
    <button type="button" data-act="close" aria-label="{close}" title="{close}">✕</button></header>
  <div class="oc-lib-bring">
    <label class="oc-lib-button"><input type="file" accept=".zip,application/zip" data-is="file"><span>{zip}</span></label>
    <input type="text" data-is="folder" spellcheck="false" placeholder="{folder}" aria-label="{folder}">
    <button type="button" class="oc-lib-button" data-act="bring">{bring}</button>
  </div>
  <p class="oc-lib-hint">{hint}</p>
  <div class="oc-lib-transfer" data-is="transfer" hidden><span></span><b class="oc-bar" role="progressbar"><i></i></b>
    <button type="button" data-act="cancel">{cancel}</button></div>
  <p class="oc-lib-said" data-is="said" role="status" hidden></p>
  <input type="search" data-is="search" placeholder="{search}" aria-label="{search}" hidden>
  <div class="oc-lib-list" data-is="list"></div>
</dialog>"""
_SOURCE = {"checkpoint": "library.checkpoint", "imported": "library.imported"}
_USE = {"training": "library.training", "answering": "library.answering", "attached": "library.attached"}


def frame(page: Page) -> str:
    """The dialog without its list."""
    words = {
        "title": "library.title", "note": "library.note", "close": "library.close", "zip": "library.zip",
        "folder": "library.folder", "bring": "library.bring", "hint": "library.hint", "search": "library.search",
        "cancel": "ask.cancel",
    }  # fmt: skip
    return _FRAME.format(**{place: safe(page.t(key)) for place, key in words.items()})


def draw(page: Page, listed: Sequence[AdapterChoice], base: Path | None) -> str:
    """The list of adapters, as they are for the base model in folder `base`."""
    if not listed:
        return note(page.t("library.none"))
    return f'<ul class="oc-lib">{"".join(_item(page, choice, base) for choice in listed)}</ul>'


def _item(page: Page, choice: AdapterChoice, base: Path | None) -> str:
    t, library = page.t, page.workspace.library
    problem = choice.problem or (library.misfit(choice, base) if base is not None else None)
    tags = [tag(t(_USE[use]), "tuned")] if (use := library.use(choice)) in _USE else []
    if problem is not None:
        broken = choice.body is None
        tags.append(tag(t("library.broken" if broken else "library.misfit"), "bad" if broken else "warn"))
    if choice.source in _SOURCE:
        tags.append(tag(t(_SOURCE[choice.source])))
    if (proof := page.workspace.proofs.of(choice.id)) is not None:
        tags.append(proof_draw.light_tag(page, proof.light))
    title = choice.name if choice.source == "imported" else page.of(choice.label)
    # What a person would type to find it.
    words = " ".join((title, choice.name, choice.base_model, choice.note, choice.tool, choice.origin)).lower()
    return (
        f'<li data-id="{safe(choice.id)}" data-words="{safe(words)}" class="{choice.source}"><details><summary>'
        f"<span><b>{safe(title)}</b><small>{safe(_brief(choice))}</small></span><span>{''.join(tags)}</span></summary>"
        f"{_facts(page, choice, page.of(problem) if problem else '')}{_prompt(page, choice)}{_note(page, choice)}"
        f'<div class="oc-lib-acts">{_actions(page, choice, title, problem is None, proof is not None)}</div></details></li>'
    )


def _brief(choice: AdapterChoice) -> str:
    parts = [_base_name(choice.base_model)]
    if choice.body is not None:
        parts.append(f"{choice.body.kind} r{choice.body.rank}")
    if choice.file_bytes:
        parts.append(show_size(choice.file_bytes))
    if choice.note:
        parts.append(choice.note.split("\n")[0][:60])
    return " · ".join(part for part in parts if part)


def _facts(page: Page, choice: AdapterChoice, problem: str) -> str:
    t, body = page.t, choice.body
    facts = [(t("library.problem"), problem), (t("library.name"), choice.name), (t("library.base"), choice.base_model)]
    if body is not None:
        alpha = f"{body.alpha:g}"
        facts += [
            (t("library.kind"), t("library.kind.value", kind=body.kind, rank=body.rank, alpha=alpha)),
            (t("library.layers"), t("library.layers.value", names=" ".join(body.targets), count=len(body.layers))),
            (
                t("library.size"),
                t("library.size.value", size=show_size(choice.file_bytes), count=f"{body.parameters:,}"),
            ),
        ]
    facts.append((t("library.system"), "" if choice.source == "imported" else choice.system))
    origin = " · ".join(part for part in (choice.tool, choice.origin) if part) if choice.run is None else choice.run.id
    facts.append((t("library.origin"), origin if origin != choice.name else ""))
    facts.append((t("library.created"), page.of(moment(choice.created))))
    lines = (f"<dt>{safe(name)}</dt><dd>{safe(value)}</dd>" for name, value in facts if value)
    return f"<dl>{''.join(lines)}</dl>"


def _prompt(page: Page, choice: AdapterChoice) -> str:
    """Of an imported one it can be written here: some tools keep it to themselves."""
    if choice.source != "imported":
        return ""
    t = page.t
    key = "library.system.factory" if choice.tool == "LLaMA-Factory" else "library.system.unknown"
    hint = "" if choice.system else f"<small>{safe(t(key))}</small>"
    return (
        f'<label class="oc-lib-system">{safe(t("library.system"))}<textarea data-act="prompt" rows="1" maxlength="20000" '
        f'placeholder="{safe(t("library.system.write"))}">{safe(choice.system)}</textarea>{hint}</label>'
    )


def _note(page: Page, choice: AdapterChoice) -> str:
    if choice.source == "checkpoint":
        return ""  # it is its run's
    words = safe(page.t("library.annotate"))
    return (
        f'<textarea data-act="annotate" rows="1" maxlength="2000" placeholder="{words}" aria-label="{words}">'
        f"{safe(choice.note)}</textarea>"
    )


def _actions(page: Page, choice: AdapterChoice, title: str, usable: bool, proved: bool) -> str:
    t, made = page.t, []
    if usable:
        made.append(f'<button type="button" data-act="use">{safe(t("library.use"))}</button>')
        words = safe(t("library.proof" if proved else "library.prove"))
        made.append(f'<button type="button" data-act="prove" data-name="{safe(title)}">{words}</button>')
    if choice.source != "checkpoint":
        current = safe(choice.name if choice.source == "imported" else (choice.run.title if choice.run else ""))
        made.append(
            f'<button type="button" data-act="rename" data-name="{current}">{safe(t("library.rename"))}</button>'
        )
    if choice.folder is not None:
        words = safe(t("outside.open"))
        made.append(f'<button type="button" data-act="export" data-name="{safe(title)}">{words}</button>')
        path = f"/export/adapter/{quote(choice.id, safe='')}.zip"
        made.append(f'<a href="{path}" download>{icon("download")}{safe(t("library.export"))}</a>')
    if choice.source == "imported":
        ask = {
            "title": t("library.remove.ask", name=choice.name),
            "ok": t("ask.delete"),
            "cancel": t("ask.cancel"),
            "grave": True,
        }
        made.append(
            f'<button type="button" data-act="remove" data-ask="{safe(json.dumps(ask))}">{safe(t("ask.delete"))}</button>'
        )
    return "".join(made)


def _base_name(base: str) -> str:
    return base.rstrip("/").rpartition("/")[2]
