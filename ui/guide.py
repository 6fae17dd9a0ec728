"""The guide of a first visit: three steps from a name to the model that answers by it, in the row of the tabs.

The browser knows where a person is (ui/static/guide.js) and remembers who wants no guide; the top bar tells how the runs
stand. Shown where nothing was trained yet, or again when it is asked for by the document's event onecard-guide.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from ui.page import Page
from ui.pieces import icon, safe, with_labels

_STATIC = Path(__file__).parent / "static"
_FRAME = """
<aside class="oc-guide" aria-label="{label}" hidden><b data-is="place"></b><span data-is="said" role="status"></span>
  <button type="button" data-is="do"></button>
  <button type="button" data-is="close" aria-label="{close}" title="{close}">{cross}</button></aside>"""
# stage: (which of the three steps it belongs to, what is said, what its button says)
_STAGES = {
    "data": (1, "guide.data", "guide.data.do"),
    "train": (2, "guide.train", "guide.train.do"),
    "wait": (2, "guide.wait", ""),
    "failed": (2, "guide.failed", ""),
    "ask": (3, "guide.ask", "guide.ask.do"),
    "done": (3, "guide.done", "guide.done.do"),
}


class Guide(gr.HTML):
    """It has no value and no events of its own."""

    def __init__(self, page: Page, **rest: object) -> None:
        t = page.t
        words = {
            stage: {"said": t(said), "do": t(act) if act else "", "place": f"{at}/3", "heard": t("guide.place", at=at)}
            for stage, (at, said, act) in _STAGES.items()
        }
        super().__init__(
            value="",
            html_template=_FRAME.format(
                label=safe(t("guide.label")), close=safe(t("guide.close")), cross=icon("close")
            ),
            js_on_load=with_labels(words, (_STATIC / "guide.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'guide.css').read_text('utf-8')}</style>",
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """It has no value."""
        return {"type": "string"}
