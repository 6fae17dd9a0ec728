"""A row's side panel: its system prompt and turns to edit, and what the model sees of it, token by token.

Edits are the table's: the panel hands a changed row to the row editor, which saves it and can undo it. The server only
answers what a row looks like to the model (event `look`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from core import token_view
from core.config import TrainConfig
from core.dataset import Identity
from core.errors import ConfigError, UserError
from core.row_view import RowView, Whence
from ui import fields, pieces
from ui.page import Page
from ui.pieces import checklist, note, safe
from ui.rows import clean

if TYPE_CHECKING:
    from ui.data import DataTab

_STATIC = Path(__file__).parent / "static"
_LABELS = (
    "row.title", "row.before", "row.after", "row.close", "row.system", "row.system.none", "row.user",
    "row.assistant", "row.role", "row.content", "row.input", "row.insert", "row.remove", "row.remove.last",
    "row.add", "row.seen", "row.waiting", "row.token", "row.key.loss", "row.key.context", "row.key.control",
    "row.key.typed",
)  # fmt: skip
_WHENCE: dict[Whence, str] = {
    "row": "row.inserted.row",
    "settings": "row.inserted.settings",
    "template": "row.inserted.template",
    "none": "row.inserted.none",
}
_FIRST, _LAST = 3000, 1000  # of a longer row's tokens, until all are asked for


class RowPanel(gr.HTML):
    """Value: JSON {at, html} for the row that was asked about, and {control}, the control strings to be marked.

    Event `look`: {at, row, all}: draw what the model sees of a row.
    """

    def __init__(self, page: Page, **rest: object) -> None:
        self._page = page
        words = {key.removeprefix("row."): page.t(key) for key in _LABELS}
        super().__init__(
            value="", html_template='<div class="rp" hidden></div>',
            js_on_load=pieces.with_labels(words, (_STATIC / "row_panel.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'row_panel.css').read_text('utf-8')}</style>",
            apply_default_css=False, **rest,
        )  # fmt: skip

    def api_info(self) -> dict[str, object]:
        """The value is text."""
        return {"type": "string"}

    def wire(self, demo: gr.Blocks, data: DataTab, form: fields.Form) -> None:
        """Connect it: rows are resolved by the identity card of `data` and encoded under the settings of `form`."""
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        inputs = [*data.identity, *form.all]
        self.look(self._page.shown(self.on_look), inputs, [self], trigger_mode="always_last", **quiet)
        demo.load(self._page.shown(self.on_control), None, [self], **quiet)

    def on_control(self) -> str:
        """The control strings of the chosen base model; none where its tokenizer cannot be read."""
        try:
            strings = self._page.workspace.control_strings()
        except UserError:
            strings = []
        return json.dumps({"control": strings}, ensure_ascii=False)

    def on_look(self, event: gr.EventData, *values: object) -> str:
        """Draw the row that the browser sent."""
        card, settings = values[:4], values[4:]
        try:
            identity = Identity(*(str(word or "").strip() for word in card))
            row = clean([event.row])[0].resolved(identity)
            if not row.output.strip():
                html = note(self._page.t("row.unanswered"))
            else:
                view = self._page.workspace.row_view(row, self._config(settings), identity)
                html = draw(self._page, view, event.all is True)
        except UserError as error:
            html = checklist([("bad", error.of(self._page.language))])
        answer = {"at": event.at if isinstance(event.at, int) else 0, "html": html}
        return json.dumps(answer | json.loads(self.on_control()), ensure_ascii=False)

    def _config(self, settings: tuple[object, ...]) -> TrainConfig:
        preset = self._page.workspace.default_preset.config
        try:
            return fields.read(settings, preset)
        except ConfigError:
            return preset  # the form says what is wrong with it on its own tab


def draw(page: Page, view: RowView, everything: bool = False) -> str:
    """What the model sees of a row, as html: the figures, what was inserted, what is worth knowing, the tokens."""
    parts = [_figures(page, view), _system(page, view)]
    if told := _told(page, view):
        parts.append(checklist(told))
    if view.examples:
        keys = ["loss", "context", "control"] + (["typed"] if view.typed else [])
        key = "".join(f'<span class="{kind}">{safe(page.t(f"row.key.{kind}"))}</span>' for kind in keys)
        parts.append(f'<div class="rp-key">{key}</div>')
    for number, example in enumerate(view.examples, 1):
        if len(view.examples) > 1:
            words = page.t("row.example", number=number, count=len(view.examples))
            parts.append(f'<h4 class="rp-example">{safe(words)}</h4>')
        skipped = None if everything or len(example) <= _FIRST + _LAST else (_FIRST, _LAST)
        more = page.t("row.skipped", count=f"{len(example) - _FIRST - _LAST:,}") if skipped else ""
        parts.append(token_view.draw_row(example, page.t("row.label"), skipped, more))
    return "".join(parts)


def _figures(page: Page, view: RowView) -> str:
    t = page.t
    if not view.examples:
        return ""
    left, key = view.tokens - view.tokens_cut, "row.tokens.cut" if view.tokens_cut else "row.tokens"
    words = [f"<b>{safe(t(key, left=f'{left:,}', tokens=f'{view.tokens:,}'))}</b>"]
    if not view.left_out:
        words.append(safe(t("row.learned", tokens=f"{view.answer_tokens:,}")))
    words.append(safe(t("row.limit", limit=f"{view.limit:,}")))
    share, over = min(1.0, view.tokens / view.limit), " over" if view.tokens > view.limit else ""
    bar = f'<b class="rp-bar{over}"><i style="width:{100 * share:.1f}%"></i></b>'
    return f'<div class="rp-figures">{"<span>·</span>".join(f"<span>{word}</span>" for word in words)}</div>{bar}'


def _system(page: Page, view: RowView) -> str:
    if view.system_from == "none":
        return f'<div class="rp-system"><span>{safe(page.t(_WHENCE["none"]))}</span></div>'
    whence = page.t(_WHENCE[view.system_from])
    title = f"<span>{safe(page.t('row.inserted'))}<em>{safe(whence)}</em></span>"
    return f'<div class="rp-system">{title}<q>{safe(view.system)}</q></div>'


def _told(page: Page, view: RowView) -> list[tuple[str, str]]:
    t, told = page.t, []
    if view.problem is not None:
        told.append(("bad", page.of(view.problem)))
    if view.left_out:
        told.append(("warn", t("row.left_out")))
    if view.tokens_cut:
        key = "row.cut.turns" if view.turns_cut else "row.cut.tokens"
        told.append(("warn", t("row.cut", what=t(key, turns=view.turns_cut, tokens=f"{view.tokens_cut:,}"))))
    if view.typed:
        told.append(("note", t("row.typed", strings="  ".join(view.typed))))
    if len(view.examples) > 1:
        told.append(("note", t("row.examples")))
    return told
