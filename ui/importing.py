"""Import and export: files, or pasted text, are read and shown; what must be decided is asked; a yes brings the rows in.

The table is not touched before that yes. The browser's half is ui/static/import_box.js, the html ui.import_draw's, the
files arrive through ui.import_files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Protocol
from urllib.parse import quote

import gradio as gr

from core import formats
from core.dataset import Identity, Row
from core.errors import UserError
from core.formats import Choices, Imported, Undecided
from core.text import Text
from ui import import_draw, notify, pieces
from ui.edits import Put
from ui.import_files import MOST_FILES
from ui.page import Page
from ui.pieces import heading, icon
from ui.rows import check_limits

Shown = dict[object, object]
_STATIC = Path(__file__).parent / "static"
# What a table can be downloaded as, and what the link says.
KINDS: dict[formats.Kind, str] = {
    "json": "JSON", "jsonl": "JSONL", "csv": "CSV", "messages": "messages", "sharegpt": "ShareGPT",
    "swift": "ms-swift", "llamafactory": "LLaMA-Factory",
}  # fmt: skip
_INFO = "dataset_info.json"


class Table(Protocol):
    """What the import needs of the Dataset tab."""

    check: dict[str, object]
    held: list[gr.components.Component]
    opened: list[gr.components.Component | gr.Row]
    identity: list[gr.Textbox]

    def put_rows(self, request: gr.Request, rows_after: Sequence[Row], why: Text, *held: object) -> Put: ...
    def put_below(self, request: gr.Request, rows: Sequence[Row], why: Text, *held: object) -> Put: ...
    def put_new(self, request: gr.Request, name: str, rows: Sequence[Row], why: Text, *held: object) -> Put: ...


@dataclass(frozen=True)
class Source:
    """One thing to read: a file, several that belong together, or a text; and what was decided about it.

    `beside` names the files that came with it and are not read.
    """

    name: str
    read: Callable[[Choices], Imported]
    choices: Choices = field(default_factory=Choices)
    imported: Imported | None = None
    beside: tuple[str, ...] = ()


class ImportBox(gr.HTML):
    """The card's two buttons and the dialog. Value: JSON {html, open, at}.

    Events: read, with the tokens of `files`; paste, with `text`; decide, with the answer; put, with `how`; forget.
    """

    def __init__(self, page: Page, elem_id: str) -> None:
        words = {
            "sending": "import.sending", "reading": "import.reading", "putting": "import.putting",
            "failed": "import.failed",
        }  # fmt: skip
        said = {place: page.t(key) for place, key in words.items()}
        said["many"] = page.t("import.many", count=MOST_FILES)
        super().__init__(
            html_template=import_draw.frame(page),
            js_on_load=pieces.with_labels({**said, "language": page.language}, _read("import_box.js")),
            head=f"<style>{_read('import_box.css')}</style>",
            apply_default_css=False,
            elem_id=elem_id,
        )

    def api_info(self) -> dict[str, object]:
        """The value is JSON."""
        return {"type": "string"}


class Importing:
    """The card's components and handlers."""

    def __init__(self, page: Page) -> None:
        self.page, t = page, page.t
        heading(t("files.title"), t("files.note"))
        self.box = ImportBox(page, "import-box")
        self.exports = gr.HTML(elem_id="exports", apply_default_css=False)
        self.sources = gr.State(())

    def wire(self, table: Table) -> None:
        """Connect the card; `table` takes the rows."""
        self.table = table
        shown, quiet, box = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}, self.box
        inputs, outputs = [self.sources, *table.identity], [self.box, self.sources]
        for event, handler in ((box.read, self.on_read), (box.paste, self.on_paste), (box.decide, self.on_decide)):
            event(shown(handler), inputs, outputs, **quiet).failure(self.on_failed, None, [self.box], **quiet)
        done = box.put(shown(self.on_put), [self.sources, *table.held], [*outputs, *table.opened], **quiet)
        done.failure(self.on_failed, None, [self.box], **quiet)
        done.then(**table.check)
        box.forget(lambda: (), None, [self.sources], **quiet)

    def links(self, name: str) -> str:
        """The download links of the table `name`."""
        path = quote(name, safe="")
        made = (
            f'<a href="/export/dataset/{path}.{kind}" download>{icon("download")}{label}</a>'
            for kind, label in KINDS.items()
        )
        return f'<div class="oc-links"><span>{self.page.t("files.export")}</span>{"".join(made)}</div>'

    def on_read(self, event: gr.EventData, _old: object, *card: str) -> Shown:
        """Files have arrived: read them."""
        tokens = event.files if isinstance(event.files, list) else []
        try:
            files = [self.page.edits.arrivals.take(str(token)) for token in tokens]
        except UserError as error:
            self.page.edits.arrivals.drop(map(str, tokens))
            return self._refused(error)
        return self._show(_sources(files), card)

    def on_paste(self, event: gr.EventData, _old: object, *card: str) -> Shown:
        """A text was pasted: read it."""
        text = str(event.text)
        return self._show((Source(self.page.t("import.pasted"), lambda chosen: formats.read_text(text, chosen)),), card)

    def on_decide(self, event: gr.EventData, sources: tuple[Source, ...], *card: str) -> Shown:
        """What had to be decided about the first source that is not read yet."""
        answer = event.answer if isinstance(event.answer, dict) else {}
        for place, source in enumerate(sources):
            if source.imported is None:
                decided = replace(source, choices=_decided(source.choices, answer))
                return self._show((*sources[:place], decided, *sources[place + 1 :]), card)
        return self._show(sources, card)

    def on_put(self, request: gr.Request, event: gr.EventData, sources: tuple[Source, ...], *held: object) -> Shown:
        """The yes: the rows replace the table's, go below them, or become a table of their own."""
        rows = [row for source in sources if source.imported for row in source.imported.rows]
        if not rows:
            return self._closed()
        name = sources[0].name
        why = Text(f"导入 {name}", f"import of {name}")
        into = {"replace": self.table.put_rows, "append": self.table.put_below}.get(str(event.how))
        try:
            if into is not None:
                put = into(request, rows, why, *held)
            else:
                put = self.table.put_new(request, PurePath(name).stem, rows, why, *held)
        except UserError as error:
            return self._refused(error, keep=sources)
        if not put.done:
            return {**put.shown, **self._not_put(put.problem, sources, [str(word or "") for word in held[-4:]])}
        notify.say(self.page.t("import.done" if into is not None else "import.done.new", count=len(rows)))
        return {**put.shown, **self._closed()}

    def on_failed(self) -> str:
        """A fault of ours; the toast has the details."""
        return _value(import_draw.problem(self.page, self.page.t("import.fault")))

    def _show(self, sources: tuple[Source, ...], card: Sequence[str]) -> Shown:
        """Read what is not read yet; show the rows, or the first question."""
        done: list[Source] = []
        for place, source in enumerate(sources):
            try:
                done.append(source if source.imported else replace(source, imported=source.read(source.choices)))
            except Undecided as error:
                html = import_draw.question(self.page, source.name, error.asked)
                return {self.box: _value(html), self.sources: (*done, *sources[place:])}
            except UserError as error:
                return self._refused(error)
        try:
            check_limits([row for source in done if source.imported for row in source.imported.rows])
        except UserError as error:
            return self._refused(error)
        return {self.box: _value(self._found(done, card)), self.sources: tuple(done)}

    def _found(self, sources: Sequence[Source], card: Sequence[str]) -> str:
        read = [(source.name, source.imported) for source in sources if source.imported]
        beside = [name for source in sources for name in source.beside]
        return import_draw.found(self.page, read, Identity(*(word or "" for word in card)), beside)

    def _not_put(self, why: str, sources: tuple[Source, ...], card: Sequence[str]) -> Shown:
        """Say it above what was found, which is still there to be put."""
        html = import_draw.problem(self.page, why) + self._found(sources, card)
        return {self.box: _value(html), self.sources: sources}

    def _refused(self, error: UserError, keep: tuple[Source, ...] = ()) -> Shown:
        return {self.box: _value(import_draw.problem(self.page, self.page.of(error.text))), self.sources: keep}

    def _closed(self) -> Shown:
        return {self.box: _value("", stays=False), self.sources: ()}


def _sources(files: Sequence[tuple[str, bytes]]) -> tuple[Source, ...]:
    """A dataset_info.json and the files that came with it are one source; any other file is one by itself.

    Files whose ending says that they hold no rows, such as a README.md, are left out where others came with them.
    """
    if len(files) > 1 and any(PurePath(name).name == _INFO for name, _ in files):
        together = dict(files)
        return (Source(_INFO, lambda chosen: formats.read_files(together, chosen)),)
    known = [PurePath(name).suffix.lower() in import_draw.ENDINGS for name, _ in files]
    if all(known) or not any(known):
        return tuple(_file(name, data) for name, data in files)
    first, *others = (_file(*file) for file, reads in zip(files, known, strict=True) if reads)
    beside = tuple(name for (name, _), reads in zip(files, known, strict=True) if not reads)
    return (replace(first, beside=beside), *others)


def _file(name: str, data: bytes) -> Source:
    return Source(PurePath(name).name, lambda chosen: formats.read(data, name, chosen))


def _decided(choices: Choices, answer: dict[str, object]) -> Choices:
    """`choices` with one more answer of the page: {encoding} or {columns} or {salvage} or {entry}."""
    if isinstance(encoding := answer.get("encoding"), str):
        return replace(choices, encoding=encoding)
    if isinstance(columns := answer.get("columns"), dict):
        return replace(choices, columns={str(part): str(key) for part, key in columns.items() if key})
    if isinstance(entry := answer.get("entry"), str):
        return replace(choices, entry=entry)
    return replace(choices, salvage=choices.salvage or answer.get("salvage") is True)


def _value(html: str, stays: bool = True) -> str:
    return pieces.answer(html=html, open=stays)


def _read(name: str) -> str:
    return (_STATIC / name).read_text("utf-8")
