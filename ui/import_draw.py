"""The import's html: the card's buttons with the empty dialog, a question about a file, what a file gave."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from core.dataset import Identity, Row
from core.files_choices import Asked, Imported, Part
from ui.page import Page
from ui.pieces import checklist, safe

_FRAME = """
<div class="im-acts">
  <label class="im-button" id="import"><input type="file" multiple data-is="file" accept="{accept}"><span>{choose}</span></label>
  <button type="button" class="im-button" data-act="paste" id="import-paste">{paste}</button>
</div>
<dialog class="im" aria-labelledby="im-title">
  <header><h2 id="im-title" tabindex="-1" autofocus>{title}</h2><span>{note}</span>
    <button type="button" data-act="close" aria-label="{close}" title="{close}">✕</button></header>
  <div class="im-text" data-is="text" hidden>
    <textarea data-is="pasted" spellcheck="false" rows="9" placeholder="{hint}" aria-label="{pasted}"></textarea>
    <div class="im-foot"><button type="button" class="im-yes" data-act="read">{read}</button></div>
  </div>
  <p class="im-way" data-is="way" role="status" hidden><span></span><b class="oc-bar"><i></i></b>
    <button type="button" class="im-button" data-act="close">{cancel}</button></p>
  <div class="im-found" data-is="found" aria-live="polite"></div>
</dialog>
<div class="im-drop" data-is="drop" hidden><span>{drop}</span></div>"""
# What a file with rows may end with.
ENDINGS = (
    ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab", ".txt", ".xlsx", ".parquet", ".zip", ".yaml", ".yml",
)  # fmt: skip
_ROLES = {"system": "import.role.system", "user": "import.role.user", "assistant": "import.role.assistant"}
_PARTS: dict[Part, str] = {
    "question": "import.part.question", "input": "import.part.input", "answer": "import.part.answer",
    "system": "import.part.system", "history": "import.part.history", "messages": "import.part.messages",
}  # fmt: skip
_WAYS = (("new", "import.new", ""), ("replace", "import.replace", ""), ("append", "import.append", "im-yes"))
_KEYED = (".json", ".jsonl", ".ndjson", ".parquet", ".zip")
_NUMBERED = re.compile(r"\(\d+\)")
_SHOWN_ROWS, _SHOWN_CHARACTERS, _SHOWN_NAMES = 5, 600, 8


def frame(page: Page) -> str:
    """The buttons and the dialog without content."""
    words = {
        "choose": "import.choose", "paste": "import.paste", "title": "import.title", "note": "import.note",
        "close": "import.close", "hint": "import.hint", "pasted": "import.pasted", "read": "import.read",
        "drop": "import.drop", "cancel": "ask.cancel",
    }  # fmt: skip
    return _FRAME.format(accept=",".join(ENDINGS), **{place: safe(page.t(key)) for place, key in words.items()})


def problem(page: Page, why: str) -> str:
    """A file of which nothing can be made."""
    return f'<p class="im-said" role="alert">{safe(why)}</p><p class="im-calm">{safe(page.t("import.untouched"))}</p>'


def question(page: Page, name: str, asked: Asked) -> str:
    """What must be decided about a file before it can be read."""
    draw = {"encoding": _encoding, "broken": _broken, "entry": _entries}
    made = _columns(page, name, asked) if asked.kind == "columns" else draw[asked.kind](page, asked)
    return f'<h3>{safe(name)}</h3><p class="im-ask">{safe(page.of(asked.text))}</p>{made}'


def found(page: Page, read: Sequence[tuple[str, Imported]], identity: Identity, beside: Sequence[str] = ()) -> str:
    """What files gave: format, encoding, rows, what was interpreted, the first rows as they are trained, what now.

    `beside` names the files that came with them and were not read.
    """
    rows = [row for _, imported in read for row in imported.rows]
    parts = [_file(page, name, imported) for name, imported in read]
    if beside:
        names = page.t("list.comma").join(beside[:_SHOWN_NAMES]) + ("…" if len(beside) > _SHOWN_NAMES else "")
        parts.append(f'<p class="im-calm">{safe(page.t("import.beside", count=len(beside), names=names))}</p>')
    if not rows:
        return "".join(parts) + problem(page, page.t("import.none"))
    written = [row for row in rows if not row.is_blank]
    first = "".join(_row(page, row.resolved(identity)) for row in written[:_SHOWN_ROWS])
    counts = page.t("import.first", count=f"{min(len(written), _SHOWN_ROWS):,}")
    blank = page.t("import.blank", count=f"{len(rows) - len(written):,}") if len(written) < len(rows) else ""
    return (
        f'{"".join(parts)}<h4>{safe(counts)}<small>{safe(blank)}</small></h4><ol class="im-rows">{first}</ol>'
        f"{_what_now(page, len(rows))}"
    )


def _file(page: Page, name: str, imported: Imported) -> str:
    t = page.t
    facts = [imported.entry, imported.format, imported.encoding, t("import.rows", count=f"{len(imported.rows):,}")]
    if imported.left_out:
        facts.append(t("import.left_out", count=f"{imported.left_out:,}"))
    told = "".join(f"<span>{safe(fact)}</span>" for fact in facts if fact)
    notes = checklist(("note", page.of(line)) for line in imported.notes) if imported.notes else ""
    return f'<div class="im-file"><b>{safe(name)}</b>{told}</div>{notes}'


def _row(page: Page, row: Row) -> str:
    turns = "".join(
        f"<dt>{safe(page.t(_ROLES[turn.role]))}</dt><dd>{_cut(page, turn.content)}</dd>" for turn in row.messages()
    )
    return f"<li><dl>{turns}</dl></li>"


def _cut(page: Page, text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return safe(text) or "<i>–</i>"
    rest = page.t("import.more", count=f"{len(text) - _SHOWN_CHARACTERS:,}")
    return f"{safe(text[:_SHOWN_CHARACTERS])}<i>{safe(rest)}</i>"


def _what_now(page: Page, count: int) -> str:
    t = page.t
    buttons = "".join(
        f'<button type="button" class="{look}" data-act="put" data-how="{how}" id="import-{how}">'
        f"{safe(t(key))}</button>"
        for how, key, look in _WAYS
    )
    return f'<div class="im-foot"><span>{safe(t("import.undo", count=f"{count:,}"))}</span>{buttons}</div>'


def _answer(answer: dict[str, object], label: str, look: str = "im-yes") -> str:
    told = safe(json.dumps(answer, ensure_ascii=False))
    return f'<button type="button" class="{look}" data-act="decide" data-answer="{told}">{safe(label)}</button>'


def _foot(page: Page, *buttons: str) -> str:
    no = f'<button type="button" data-act="close">{safe(page.t("import.no"))}</button>'
    return f'<div class="im-foot"><span></span>{no}{"".join(buttons)}</div>'


def _encoding(page: Page, asked: Asked) -> str:
    lines = "\n".join(line[0] for line in asked.preview if line)
    codec = asked.guess.get("encoding", "gb18030")
    yes = _answer({"encoding": codec}, page.t("import.encoding", name=codec.upper()))
    return f'<pre class="im-lines">{safe(lines)}</pre>{_foot(page, yes)}'


def _broken(page: Page, asked: Asked) -> str:
    if not asked.rows:
        return _foot(page)
    return _foot(page, _answer({"salvage": True}, page.t("import.salvage", count=f"{asked.rows:,}")))


def _entries(page: Page, asked: Asked) -> str:
    items = "".join(
        f'<li><button type="button" data-act="decide" data-answer="{safe(json.dumps({"entry": entry[0]}))}">'
        f"<b>{safe(entry[0])}</b><small>{safe(' '.join(entry[1:]))}</small></button></li>"
        for entry in asked.preview
    )
    return f'<ul class="im-entries">{items}</ul>{_foot(page)}'


def _columns(page: Page, name: str, asked: Asked) -> str:
    """A select for each part; the browser shows below them what the first records become (import_box.js)."""
    header, *records = asked.preview or ((),)
    # Of a table without a header the first line looks like one; where it does not, the columns come numbered.
    titled = not name.lower().endswith(_KEYED) and not all(_NUMBERED.fullmatch(key) for key in header)
    words = safe(page.t("import.headless"))
    tick = (
        f'<label class="im-tick"><input type="checkbox" data-is="headless"><span>{words}</span></label>'
        if titled
        else ""
    )
    selects = []
    for part, key in _PARTS.items():
        guess = asked.guess.get(part, "")
        options = "".join(
            f'<option value="{safe(name)}"{" selected" if name == guess else ""}>{safe(name)}</option>'
            for name in header
        )
        label = safe(page.t(key))
        selects.append(
            f'<label><span>{label}</span><select data-part="{part}" data-label="{label}"><option value="">–</option>'
            f"{options}</select></label>"
        )
    table = safe(json.dumps({"header": header, "records": records}, ensure_ascii=False))
    yes = f'<button type="button" class="im-yes" data-act="map">{safe(page.t("import.map"))}</button>'
    return (
        f'<div class="im-parts" data-is="parts" data-table="{table}">{"".join(selects)}</div>{tick}'
        f'<div class="im-mapped" data-is="mapped"></div>{_foot(page, yes)}'
    )
