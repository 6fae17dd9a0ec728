"""The html of the command dialog: its frame, a plan to be agreed to, and a run as other tools' commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.commands import shown
from core.commands.draft import Note, Verdict
from core.commands.plan import Plan
from core.commands.shown import Subject
from core.mix import Part, own_share
from ui.page import Page
from ui.pieces import MARKS, safe

_FRAME = """
<dialog class="cm" aria-labelledby="cm-title">
  <header><h2 id="cm-title">{title}</h2>
    <span class="cm-views"><button type="button" data-view="paste">{paste}</button>
      <button type="button" data-view="show">{show}</button></span>
    <button type="button" class="cm-close" data-act="close" aria-label="{close}" title="{close}">✕</button></header>
  <section data-is="paste">
    <textarea data-is="text" rows="7" spellcheck="false" placeholder="{hint}" aria-label="{paste}"></textarea>
    <p class="cm-said" data-is="said" role="status" hidden></p>
    <div data-is="plan"></div>
  </section>
  <section data-is="show" hidden></section>
  <div class="cm-foot" data-is="acts"><span data-is="nothing" hidden>{nothing}</span>
    <button type="button" data-act="read">{read}</button>
    <button type="button" class="cm-main" data-act="apply" hidden></button></div>
</dialog>"""
# What a line's mark says of it; `ok` marks are folded away.
_LEVELS: dict[Verdict, str] = {
    "wrong": "bad", "unknown": "bad", "missing": "warn", "renamed": "warn", "notice": "warn", "taken": "ok",
    "default": "note", "ignored": "note",
}  # fmt: skip
_LOOK: tuple[Verdict, ...] = ("wrong", "unknown", "missing", "notice", "renamed")
_FOLDED: tuple[tuple[str, Verdict], ...] = (
    ("command.group.taken", "taken"), ("command.group.default", "default"), ("command.group.ignored", "ignored"),
)  # fmt: skip


def frame(page: Page) -> str:
    """The dialog with nothing in it."""
    words = {
        "title": "command.title", "paste": "command.paste", "show": "command.show", "close": "command.close",
        "hint": "command.hint", "nothing": "command.nothing", "read": "command.read",
    }  # fmt: skip
    return _FRAME.format(**{name: safe(page.t(key)) for name, key in words.items()})


def draw_plan(page: Page, plan: Plan, table: str, keep_model: bool) -> str:
    """What the command would fill in, with the two choices, and the notes: those that want a look are open."""
    facts = "".join(
        f"<div><dt>{safe(name)}</dt><dd>{value}</dd></div>" for name, value in _facts(page, plan, table, keep_model)
    )
    told = [note for verdict in _LOOK for note in plan.notes if note.verdict == verdict]
    parts = [f'<dl class="cm-facts">{facts}</dl>' if facts else ""]
    if told:
        parts.append(f"<h3>{safe(page.t('command.group.look'))}</h3>{_notes(page, told)}")
    for key, verdict in _FOLDED:
        folded = [note for note in plan.notes if note.verdict == verdict]
        if folded:
            title = safe(page.t(key, tool=plan.tool) if verdict == "default" else page.t(key))
            parts.append(f"<details><summary>{title}<i>{len(folded)}</i></summary>{_notes(page, folded)}</details>")
    return "".join(parts)


def _facts(page: Page, plan: Plan, table: str, keep_model: bool) -> Iterable[tuple[str, str]]:
    if plan.config is None:
        return
    t, preset = page.t, next((known for known in page.workspace.presets() if known.id == plan.preset), None)
    yield t("command.model"), _model(page, plan, keep_model)
    yield t("command.table"), _table(page, plan, table)
    if plan.identity.words:
        yield t("command.card"), safe(" · ".join(plan.identity.words))
    mixed = [_part(page, part) for part in plan.parts[1:]]
    if mixed:
        yield t("command.mix"), "<br>".join(safe(line) for line in mixed)
    if plan.table is not None and plan.table.rows:
        rows = sum(part.rows for part in plan.parts)
        share = t("command.size.share", share=f"{own_share(plan.parts):.1%}") if mixed else ""
        yield t("command.size"), safe(t("command.size.value", steps=f"{plan.steps:,}", rows=f"{rows:,}") + share)
    if preset is not None:
        yield t("command.preset"), safe(page.of(preset.name))


def _part(page: Page, part: Part) -> str:
    named = page.t("command.mix.part", name=part.name, rows=f"{part.rows:,}") if part.rows else part.name
    return page.t("command.mix.absent", part=named) if part.problem is not None else named


def _model(page: Page, plan: Plan, keep: bool) -> str:
    """The model's name; where the command's is not here, the choice to train the chosen one."""
    assert plan.config is not None
    chosen = page.workspace.model
    if (plan.model_here and not keep) or plan.asked_model == chosen:
        return safe(plan.config.model)
    absent = page.t("command.model.absent", name=plan.asked_model)
    choices = [
        ("", plan.asked_model if plan.asked_model_here else absent),
        ("yes", page.t("command.model.keep", name=chosen)),
    ]
    return _select("keep", page.t("command.model"), choices, "yes" if keep else "")


def _table(page: Page, plan: Plan, chosen: str) -> str:
    source = plan.table
    own = page.t("command.table.none")
    if source is not None and not chosen:
        own = page.t("command.table.own", name=source.name, rows=len(source.rows)) if source.rows else source.name
    elif chosen:
        own = plan.asked_table or own
    choices = [("", own), *((name, name) for name in page.workspace.datasets())]
    return _select("table", page.t("command.table"), choices, chosen)


def _select(name: str, label: str, choices: Sequence[tuple[str, str]], chosen: str) -> str:
    options = "".join(
        f'<option value="{safe(value)}"{" selected" if value == chosen else ""}>{safe(words)}</option>'
        for value, words in choices
    )
    return f'<select data-choice="{name}" aria-label="{safe(label)}">{options}</select>'


def _notes(page: Page, notes: Iterable[Note]) -> str:
    lines = "".join(
        f'<li class="{_LEVELS[note.verdict]}"><i>{MARKS[_LEVELS[note.verdict]]}</i>'
        f"<span>{f'<code>{safe(note.flag)}</code> ' if note.flag else ''}{safe(page.of(note.text))}</span></li>"
        for note in notes
    )
    return f'<ul class="oc-list cm-notes">{lines}</ul>'


def draw_shown(page: Page, subject: Subject, title: str) -> str:
    """The subject as every tool's command, of which one is seen."""
    copy = f'<button type="button" class="oc-copy" data-act="copy">{safe(page.t("command.copy"))}</button>'
    chips = "".join(
        f'<button type="button" data-kind="{kind}">{safe(name)}</button>' for kind, name in shown.NAMES.items()
    )
    blocks = []
    for kind in shown.KINDS:
        command = shown.show(kind, subject)
        notes = "".join(f"<li>{safe(page.of(text))}</li>" for text in command.notes)
        blocks.append(
            f'<div class="cm-block" data-is="{kind}"><div class="cm-code">{copy}<pre tabindex="0"><code>{safe(command.text)}</code>'
            f'</pre></div><ul class="cm-plain">{notes}</ul></div>'
        )
    download = ""
    if subject.rows:
        download = f'<button type="button" data-act="download">{safe(page.t("command.download"))}</button>'
    return (
        f'<div class="cm-head"><b>{safe(title)}</b><span class="cm-kinds">{chips}</span>{download}</div>'
        f'<p class="cm-said" data-is="problem" role="status" hidden></p>{"".join(blocks)}'
    )
