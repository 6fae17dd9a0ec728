"""Stock questions as a row of chips."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from ui.pieces import safe

_SCRIPT = """
element.addEventListener('click', event => {
  const chip = event.target.closest('button');
  if (chip) trigger('submit', {question: chip.textContent});
});
"""


class Chips(gr.HTML):
    """One button a question. Event: submit, with the `question`."""

    def __init__(self, questions: Sequence[str] = (), **rest: object) -> None:
        buttons = "".join(f'<button type="button">{safe(question)}</button>' for question in questions)
        super().__init__(
            value=f'<div class="oc-chips">{buttons}</div>', js_on_load=_SCRIPT, apply_default_css=False, **rest
        )

    def api_info(self) -> dict[str, object]:
        """The value is html."""
        return {"type": "string"}
