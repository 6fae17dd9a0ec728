"""The history dialog's html: the list of versions or runs on one side, what differs between two tables on the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.dataset import Identity, Row
from core.difference import Changed, Difference, pieces
from core.moments import day, moment
from core.run import Run
from core.tables import Deleted
from core.versions import Version
from ui.page import Page
from ui.pieces import icon, note, safe, tag

PAGE = 30
"""Rows on one page of differences."""
_LONG = 2000
_EXCERPT = 300
_MARKS = {"same": "{}", "gone": "<del>{}</del>", "new": "<ins>{}</ins>"}
_CARD = {
    "name_zh": "identity.name_zh", "name_en": "identity.name_en",
    "author_zh": "identity.author_zh", "author_en": "identity.author_en",
}  # fmt: skip
_ROLES = {"system": "history.role.system", "user": "history.role.user", "assistant": "history.role.assistant"}
Draw = Callable[[], str]


def frame(page: Page) -> str:
    """The dialog, empty."""
    t = page.t
    return (
        '<dialog class="hi" aria-labelledby="hi-title"><header><h2 id="hi-title" data-is="title"></h2>'
        f'<span data-is="note"></span><button type="button" data-act="close" aria-label="{safe(t("history.close"))}"'
        f' title="{safe(t("history.close"))}">✕</button></header><div class="hi-both">'
        f'<nav data-is="list" aria-label="{safe(t("history.list"))}"></nav>'
        '<div class="hi-body" data-is="body" aria-live="polite" tabindex="-1"></div></div></dialog>'
    )


# -- the list --


def versions_list(page: Page, versions: Sequence[Version], chosen: int, deleted: Sequence[Deleted]) -> str:
    """The versions of a dataset, newest first, and under them the datasets that can be brought back."""
    last = versions[0].id if versions else 0
    made = titles(page, versions)
    lines = "".join(
        _version(page, version, made[version.id], chosen, last) for version in versions if version.is_change
    )
    return f'<ol class="hi-list">{lines}</ol>{_deleted(page, deleted)}'


def _version(page: Page, version: Version, made: str, chosen: int, last: int) -> str:
    now = tag(page.t("history.now"), "tuned") if version.id == last else ""
    return _choice(str(version.id), made, page.of(moment(version.at)), now + _counts(page, version), chosen)


def _choice(value: str, name: str, line: str, tags: str, chosen: object) -> str:
    current = ' aria-current="true"' if value == str(chosen) else ""
    return (
        f'<li><button type="button" data-pick="{safe(value)}"{current}><b>{safe(name)}</b>'
        f"<small>{safe(line)}</small><span>{tags}</span></button></li>"
    )


def titles(page: Page, versions: Sequence[Version]) -> dict[int, str]:
    """What made each of the versions, newest first, by its number."""
    made: dict[int, str] = {}
    seen: dict[str, int] = {}
    for version in reversed(versions):
        if version.why is not None:
            made[version.id] = page.of(version.why)
        elif version.sha256 in seen:
            made[version.id] = page.t("history.undone", number=seen[version.sha256])
        else:
            made[version.id] = page.t("history.typed")
        seen[version.sha256] = version.id
    return made


def _counts(page: Page, version: Version) -> str:
    said = (
        (version.changed, "history.changed.tag", "warn"),
        (version.added, "history.added.tag", "ok"),
        (version.removed, "history.removed.tag", "bad"),
        (version.moved, "history.moved.tag", ""),
    )
    tags = [tag(page.t(key, count=count), kind) for count, key, kind in said if count]
    return "".join(tags) + (tag(page.t("history.card"), "base") if version.card else "")


def _deleted(page: Page, deleted: Sequence[Deleted]) -> str:
    if not deleted:
        return ""
    lines = "".join(
        f"<li><span><b>{safe(one.name)}</b><small>{safe(_gone(page, one))}</small></span>"
        f'<button type="button" class="hi-button" data-back="{safe(one.history)}">{safe(page.t("history.back"))}'
        f"</button>{_forget(page, one)}</li>"
        for one in deleted
    )
    words = safe(page.t("history.deleted", count=len(deleted)))
    return f'<details class="hi-deleted"><summary>{words}</summary><ul>{lines}</ul></details>'


def _forget(page: Page, one: Deleted) -> str:
    name = safe(page.t("history.forget", name=one.name))
    ask = {"title": page.t("history.forget.ask", name=one.name), "ok": page.t("ask.delete"), "grave": True}
    return (
        f'<button type="button" class="hi-forget" data-forget="{safe(one.history)}" data-ask="{safe(json.dumps(ask))}"'
        f' title="{name}" aria-label="{name}">{icon("delete")}</button>'
    )


def _gone(page: Page, one: Deleted) -> str:
    return page.t("history.gone", rows=one.rows, at=page.of(moment(one.at)), until=page.of(day(one.until)))


def runs_list(page: Page, run: Run, others: Sequence[Run], chosen: str, tables: Sequence[str]) -> str:
    """What a run's data can be compared with: its dataset as it is now, and the other runs."""
    lines = [_choice(f"now:{name}", page.t("history.table.now", name=name), "", "", chosen) for name in tables]
    for other in others:
        same = tag(page.t("history.same"), "ok") if _same(run, other) else ""
        line = " · ".join(part for part in (page.of(moment(other.created)), told(page, other)) if part)
        lines.append(_choice(other.id, other.title, line, same, chosen))
    return f'<ol class="hi-list">{"".join(lines)}</ol>'


def _same(run: Run, other: Run) -> bool:
    mine, theirs = run.sources, other.sources
    return mine is not None and theirs is not None and mine.sha256 == theirs.sha256


def told(page: Page, run: Run) -> str:
    """Which version of which dataset the run used."""
    if run.version is None or not run.version.version:
        return run.dataset
    return page.t("history.used", name=run.dataset, number=run.version.version)


# -- what differs --


@dataclass(frozen=True)
class Part:
    """What differs between two lists of rows, with the heads of its rows: only in the first, only in the second, in both.

    `row`: the string for a row's place.
    """

    found: Difference
    gone: str
    come: str
    changed: str
    row: str = "history.row"


def draw(page: Page, parts: Sequence[Part], start: int = 0) -> str:
    """A page of what differs between two tables: the cards, then row by row."""
    if all(part.found.is_empty for part in parts):
        return note(page.t("history.equal"))
    items = [item for part in parts for item in _items(page, part)]
    html, above = "", ""
    for head, item in items[start : start + PAGE]:
        if head != above:
            html += f"{'</ol>' if above else ''}<h3>{safe(head)}</h3><ol class='hi-rows'>"
            above = head
        html += item()
    html += "</ol>" if above else ""
    cards = parts[0].found.cards
    first = _cards(page, cards) if cards else ""
    first += "".join(note(page.t("history.moved", count=part.found.moved)) for part in parts if part.found.moved)
    return (first if start == 0 else "") + html + _pager(page, start, len(items))


def _items(page: Page, part: Part) -> list[tuple[str, Draw]]:
    """Every row of a part under its head, drawn only when it is on the page."""
    found = part.found
    plain = [one for one in found.changed if not one.names_only]
    renamed = [one for one in found.changed if one.names_only]

    def under(what: str, drawers: Sequence[Draw]) -> list[tuple[str, Draw]]:
        return [(page.t("history.counted", what=what, count=len(drawers)), drawer) for drawer in drawers]

    return [
        *under(part.changed, [_drawer(page, part, one) for one in plain]),
        *under(part.come, [_row_drawer(page, part, *one, "new") for one in found.added]),
        *under(part.gone, [_row_drawer(page, part, *one, "gone") for one in found.removed]),
        *under(page.t("history.names_only"), [_drawer(page, part, one) for one in renamed]),
    ]


def _pager(page: Page, start: int, count: int) -> str:
    if count <= PAGE:
        return ""
    words = page.t("history.page", first=start + 1, last=min(start + PAGE, count), count=count)
    back, on = max(0, start - PAGE), start + PAGE
    sides = (
        ("history.earlier", "‹", back, start == 0),
        ("history.later", "›", on, on >= count),
    )
    buttons = [
        f'<button type="button" data-start="{place}" aria-label="{safe(page.t(key))}"{" disabled" if off else ""}>{mark}'
        "</button>"
        for key, mark, place, off in sides
    ]
    return f'<p class="hi-pager">{buttons[0]}<span>{safe(words)}</span>{buttons[1]}</p>'


def _cards(page: Page, cards: tuple[Identity, Identity]) -> str:
    old, new = cards
    lines = "".join(
        f"<dt>{safe(page.t(key))}</dt><dd>{_inline(page, getattr(old, name), getattr(new, name))}</dd>"
        for name, key in _CARD.items()
        if getattr(old, name) != getattr(new, name)
    )
    return f'<h3>{safe(page.t("history.card.title"))}</h3><dl class="hi-card">{lines}</dl>'


def _drawer(page: Page, part: Part, one: Changed) -> Draw:
    return lambda: _changed(page, part, one)


def _row_drawer(page: Page, part: Part, place: int, row: Row, kind: str) -> Draw:
    return lambda: _row(page, part, place, row, kind)


def _changed(page: Page, part: Part, one: Changed) -> str:
    cells, old, new = [], _cells(page, one.old), _cells(page, one.new)
    question = page.t("history.cell.question")
    for label in dict.fromkeys([*old, *new]):
        before, after = old.get(label, ""), new.get(label, "")
        if before != after:
            cells.append((label, _inline(page, before, after)))
        elif label == question:
            cells.append((label, f'<span class="hi-same">{_shortened(page, after)}</span>'))
    where = page.t(part.row, row=one.after + 1)
    if one.before != one.after:
        where = page.t("history.row.was", row=where, before=one.before + 1)
    return _item(where, cells)


def _row(page: Page, part: Part, place: int, row: Row, kind: str) -> str:
    marks = _MARKS[kind]
    cells = [(label, marks.format(_shortened(page, text))) for label, text in _cells(page, row).items() if text]
    return _item(page.t(part.row, row=place + 1), cells)


def _item(where: str, cells: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<dt>{safe(label)}</dt><dd>{html}</dd>" for label, html in cells)
    return f"<li><small>{safe(where)}</small><dl>{lines}</dl></li>"


def _cells(page: Page, row: Row) -> dict[str, str]:
    t = page.t
    turns = "\n".join(t("history.turn", role=t(_ROLES[turn.role]), text=turn.content) for turn in row.history)
    cells = {
        t("history.cell.system"): row.system,
        t("history.cell.history"): turns,
        t("history.cell.question"): row.instruction,
        t("history.cell.input"): row.input,
        t("history.cell.answer"): row.output,
    }
    return {label: text for label, text in cells.items() if text}


def _inline(page: Page, old: str, new: str) -> str:
    """Old and new in one line. Of what is long and the same only the ends are shown, with the count of the rest."""
    return "".join(
        _MARKS[kind].format(_shortened(page, text, _LONG if kind != "same" else 2 * _EXCERPT))
        for kind, text in pieces(old, new)
    )


def _shortened(page: Page, text: str, most: int = _LONG) -> str:
    """`text` as html; of a longer one its beginning and end, and how many characters lie between."""
    if len(text) <= most:
        return safe(text)
    left = page.t("history.between", count=f"{len(text) - 2 * _EXCERPT:,}")
    return f'{safe(text[:_EXCERPT])}<i class="hi-between">{safe(left)}</i>{safe(text[-_EXCERPT:])}'
