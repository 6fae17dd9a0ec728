"""An answer's tokens with their probabilities: a card on hover and focus. Drawn by core.token_view."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from ui import pieces
from ui.page import Page

_STATIC = Path(__file__).parent / "static"


class TokenBox(gr.HTML):
    """Value: html of core.token_view, or a note; "" shows nothing."""

    def __init__(self, page: Page, **rest: object) -> None:
        t = page.t
        words = {"here": t("tokens.here"), "there": t("tokens.there"), "others": t("tokens.others")}
        super().__init__(
            value="", html_template='<div class="oc-token-box"></div>',
            js_on_load=pieces.with_labels(words, (_STATIC / "tokens.js").read_text("utf-8")),
            apply_default_css=False, **rest,
        )  # fmt: skip

    def api_info(self) -> dict[str, object]:
        """The value is html."""
        return {"type": "string"}
