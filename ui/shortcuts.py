"""The keyboard: what single keys do where nobody is typing, and the dialog that lists them.

Opened by ?, or from the top bar, by the document's event onecard-keys; ui/static/shortcuts.js does it all.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from ui.page import Page
from ui.pieces import safe

_STATIC = Path(__file__).parent / "static"
_FRAME = """
<dialog class="dg ks" aria-labelledby="ks-title">
  <header><h2 id="ks-title" tabindex="-1" autofocus>{title}</h2>
    <button type="button" data-act="close" aria-label="{close}" title="{close}">✕</button></header>
  <div class="dg-body"><dl>{keys}</dl><p>{rows}</p>
    <label><input type="checkbox" data-is="single" checked>{single}</label></div>
  <div class="dg-foot"><button type="button" data-act="guide">{again}</button></div>
</dialog>"""
_WORDS = {
    "title": "keys.title", "close": "keys.close", "rows": "keys.rows", "single": "keys.single", "again": "guide.again",
}  # fmt: skip
_KEYS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("1", "2", "3", "4"), "keys.tabs"),
    (("N",), "keys.new"),
    (("/",), "keys.search"),
    (("Ctrl Enter",), "keys.run"),
    (("Ctrl Enter",), "keys.run.rows"),
    (("Ctrl Z", "Ctrl Y"), "keys.undo"),
    (("Esc",), "keys.escape"),
    (("?",), "keys.help"),
)


class Shortcuts(gr.HTML):
    """The dialog; it has no value and no events."""

    def __init__(self, page: Page, **rest: object) -> None:
        words = {place: safe(page.t(key)) for place, key in _WORDS.items()}
        super().__init__(
            value="",
            html_template=_FRAME.format(**words, keys="".join(_line(keys, page.t(what)) for keys, what in _KEYS)),
            js_on_load=(_STATIC / "shortcuts.js").read_text("utf-8"),
            head=f"<style>{(_STATIC / 'shortcuts.css').read_text('utf-8')}</style>",
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """It has no value."""
        return {"type": "string"}


def _line(keys: tuple[str, ...], what: str) -> str:
    drawn = " ".join("".join(f"<kbd>{safe(part)}</kbd>" for part in key.split()) for key in keys)
    return f"<dt>{drawn}</dt><dd>{safe(what)}</dd>"
