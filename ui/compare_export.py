"""Two small buttons that hand what was compared to the browser as a file."""

from __future__ import annotations

import json
import time

import gradio as gr

from ui.page import Page
from ui.pieces import icon, safe

_TYPES = {"md": "text/markdown", "json": "application/json"}
_SCRIPT = """
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button) trigger('export', {kind: button.dataset.kind});
});
watch('value', () => {
  if (!props.value) return;
  const {name, type, content} = JSON.parse(props.value);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content], {type: `${type};charset=utf-8`}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 30000);
});
"""


class Export(gr.HTML):
    """Value: a file as JSON, which the browser saves. Event: export, with the `kind`."""

    def __init__(self, page: Page, **rest: object) -> None:
        t = page.t
        buttons = "".join(
            f'<button type="button" data-kind="{kind}" title="{safe(t("export.title", kind=name))}">{safe(name)}</button>'
            for kind, name in (("md", "Markdown"), ("json", "JSON"))
        )
        super().__init__(
            value="", html_template=f'<div class="oc-export">{icon("download")}{buttons}</div>', js_on_load=_SCRIPT,
            apply_default_css=False, **rest,
        )  # fmt: skip

    def api_info(self) -> dict[str, object]:
        """The value is JSON."""
        return {"type": "string"}


def handed_over(content: str, name: str) -> str:
    """The component's value that saves a file; the moment makes two equal files two values."""
    kind = name.rpartition(".")[2]
    file = {"name": name, "type": _TYPES[kind], "content": content, "at": time.monotonic_ns()}
    return json.dumps(file, ensure_ascii=False)
