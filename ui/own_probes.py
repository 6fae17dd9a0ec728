"""The user's own proof questions, edited in the page: what to ask, what the answer must say, what it must not.

Rows that are whole are saved as they are written; ui/static/proof_own.js holds the others until they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import gradio as gr

from core import own_probes
from core.errors import DatasetError, UserError
from core.own_probes import OwnProbe
from core.proof_words import TESTS
from core.text import Text, language_of
from ui import pieces
from ui.page import Page
from ui.pieces import icon, safe

_STATIC = Path(__file__).parent / "static"
_FIELDS = ("question", "must", "must_not")
_BETWEEN = re.compile(r"[,，、;；\n]")
_FRAME = """
<details class="op"><summary><b>{title}</b><span data-is="count"></span></summary>
  <p class="op-note">{note}</p>
  <div class="op-labels" aria-hidden="true"><span>{question}</span><span>{must}</span><span>{must_not}</span></div>
  <ul data-is="rows"></ul>
  <div class="op-foot"><button type="button" data-act="add">{icon}{add}</button>
    <span data-is="said" role="status"></span><button type="button" data-act="undo" hidden>{undo}</button></div>
</details>"""


class OwnProbes(gr.HTML):
    """Value: {said, level} as JSON. Event: input, with the whole rows as `probes`."""

    def __init__(self, page: Page, **rest: object) -> None:
        t = page.t
        words = {
            "question": t("own.question"), "must": t("own.must"), "must_not": t("own.must_not"),
            "question_hint": t("own.question.hint"), "must_hint": t("own.must.hint"),
            "must_not_hint": t("own.must_not.hint"), "remove": t("own.remove"), "saving": t("own.saving"),
            "draft": t("own.draft"), "failed": t("proof.failed"), "between": "，" if page.language == "zh" else ", ",
        }  # fmt: skip

        def probes(_asked: object) -> list[dict[str, object]]:
            return [
                {"question": probe.question, "must": list(probe.must), "must_not": list(probe.must_not)}
                for probe in own_probes.load(page.workspace.home)
            ]

        labels = {key: safe(t(_KEYS[key])) for key in ("note", *_FIELDS, "add", "undo")}
        super().__init__(
            value="",
            html_template=_FRAME.format(icon=icon("add"), title=safe(page.of(TESTS["own"])), **labels),
            js_on_load=pieces.with_labels(words, (_STATIC / "proof_own.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'proof_own.css').read_text('utf-8')}</style>",
            server_functions=[probes],
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """The value is JSON."""
        return {"type": "string"}


_KEYS = {
    "note": "own.note", "question": "own.question", "must": "own.must",
    "must_not": "own.must_not", "add": "own.add", "undo": "own.undo",
}  # fmt: skip


def wire(page: Page, editor: OwnProbes) -> None:
    """Save what is written; what is wrong with it is said under the rows."""

    def on_input(event: gr.EventData) -> str:
        level, said = "ok", page.t("own.saved")
        try:
            own_probes.save(page.workspace.home, read(event.probes))
        except UserError as error:
            level, said = "bad", error.of(page.language)
        return pieces.answer(said=said, level=level)

    editor.input(page.shown(on_input), None, [editor], show_progress="hidden", api_visibility="private")


def read(value: object) -> list[OwnProbe]:
    """The rows as the browser sent them, words split at commas. Raises DatasetError for another shape."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _odd()
    return [_probe(row) for row in value]


def _probe(row: object) -> OwnProbe:
    if not isinstance(row, Mapping) or not all(isinstance(row.get(name, ""), str) for name in _FIELDS):
        raise _odd()
    # A half of a surrogate pair, as a cut paste leaves it, cannot be saved.
    question, must, must_not = (
        str(row.get(name, "")).encode("utf-8", "replace").decode("utf-8").strip() for name in _FIELDS
    )
    return OwnProbe(question, _words(must), _words(must_not), language_of(question))


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in _BETWEEN.split(text) if word.strip()))


def _odd() -> DatasetError:
    return DatasetError(
        Text(
            zh="页面发来的问题格式不对，没有保存。请刷新页面再试。",
            en="The questions did not arrive in the right form and were not saved. Reload the page and try again.",
        )
    )
