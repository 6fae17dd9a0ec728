"""The commands and programs that ask the API what the Chat tab asks: curl, Python, JavaScript. Pure text, and its frame.

What they send is what the page would: model, system prompt, temperature, length. tests/test_api_http.py runs them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from core.dataset import Message
from ui.keys import KEYS, Access, variable
from ui.page import Page
from ui.pieces import note, safe

_SCRIPT = """
element.dataset.shown = element.dataset.shown || 'curl';
element.addEventListener('click', async event => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.show) { element.dataset.shown = button.dataset.show; return; }
  const code = button.parentElement.querySelector('code');
  try { await navigator.clipboard.writeText(code.textContent); }
  catch {  // not over https and not this machine: browsers then have no clipboard for pages
    getSelection().selectAllChildren(code);
    document.execCommand('copy');
  }
  const before = button.textContent;
  button.textContent = button.dataset.done;
  setTimeout(() => { button.textContent = before; }, 1500);
});
"""


@dataclass(frozen=True)
class Example:
    """One request: `address` is the page's, http://host:port; `key` names the variable that holds what opens the API."""

    address: str
    model: str
    messages: Sequence[Message]
    temperature: float
    max_tokens: int
    key: str = ""

    @property
    def _turns(self) -> list[dict[str, str]]:
        return [{"role": message.role, "content": message.content} for message in self.messages]

    def curl(self) -> str:
        """A command for a shell."""
        key = f'  -H "authorization: Bearer ${self.key}" \\\n' if self.key else ""
        turns = ",\n".join(f"      {_quoted(turn)}" for turn in self._turns)
        body = (
            f'{{\n    "model": {_quoted(self.model)},\n    "messages": [\n{turns}\n    ],\n'
            f'    "temperature": {self.temperature!r},\n    "max_tokens": {self.max_tokens!r}\n  }}'
        )
        return (
            f"curl {shlex.quote(self.address + '/v1/chat/completions')} \\\n"
            f"  -H 'content-type: application/json' \\\n{key}  -d {shlex.quote(body)}\n"
        )

    def python(self) -> str:
        """A program for the official client."""
        turns = "".join(f"        {_quoted(turn)},\n" for turn in self._turns)
        environment, key = ("import os\n", f'os.environ["{self.key}"]') if self.key else ("", '"none"')
        return (
            f"# pip install openai\n{environment}from openai import OpenAI\n\n"
            f"client = OpenAI(\n    base_url={_quoted(self.address + '/v1')},\n    api_key={key},\n)\n"
            "stream = client.chat.completions.create(\n"
            f"    model={_quoted(self.model)},\n"
            f"    messages=[\n{turns}    ],\n"
            f"    temperature={self.temperature!r},\n"
            f"    max_tokens={self.max_tokens!r},\n"
            "    stream=True,\n)\n"
            "for chunk in stream:\n"
            '    text = chunk.choices[0].delta.content or ""\n'
            '    print(text, end="", flush=True)\n'
            "print()\n"
        )

    def javascript(self) -> str:
        """A module for Node 18 or newer, which needs nothing installed."""
        turns = "".join(f"      {_quoted(turn)},\n" for turn in self._turns)
        key = f"    authorization: `Bearer ${{process.env.{self.key}}}`,\n" if self.key else ""
        address = _quoted(self.address + "/v1/chat/completions")
        return (
            f"const url = {address};\n"
            'const response = await fetch(url, {\n  method: "POST",\n'
            f'  headers: {{\n    "content-type": "application/json",\n{key}  }},\n'
            "  body: JSON.stringify({\n"
            f"    model: {_quoted(self.model)},\n    messages: [\n{turns}    ],\n"
            f"    temperature: {self.temperature!r},\n    max_tokens: {self.max_tokens!r},\n  }}),\n}});\n"
            "const answer = await response.json();\n"
            "console.log(\n  answer.choices?.[0].message.content\n    ?? answer.error.message,\n);\n"
        )


def _quoted(value: object) -> str:
    """Text, or a turn of texts, as JSON, Python and JavaScript all read it."""
    return json.dumps(value, ensure_ascii=False)


class Snippets(gr.HTML):
    """Value: the html of `draw`. Which language is shown and what is copied is the browser's own business."""

    def __init__(self, value: str | None = None, **rest: object) -> None:
        super().__init__(value=value, js_on_load=_SCRIPT, apply_default_css=False, **rest)

    def api_info(self) -> dict[str, object]:
        """The value is html."""
        return {"type": "string"}


def draw(page: Page, example: Example, access: Access) -> str:
    """The three, of which one is seen; or how to switch the API on."""
    if access == "off":
        return note(page.t("code.off", name=KEYS))
    shown = (
        ("curl", "curl", example.curl()),
        ("python", "Python", example.python()),
        ("javascript", "JavaScript", example.javascript()),
    )
    copy = f'<button type="button" class="oc-copy" data-done="{safe(page.t("code.copied"))}">{safe(page.t("code.copy"))}</button>'
    names = "".join(f'<button type="button" data-show="{key}">{name}</button>' for key, name, _ in shown)
    blocks = "".join(
        f'<div class="oc-snippet" data-is="{key}">{copy}<pre tabindex="0"><code>{safe(text)}</code></pre></div>'
        for key, _, text in shown
    )
    said = {"key": "code.key", "token": "code.token"}.get(access)
    key = note(page.t(said, name=variable(access))) if said else ""
    return f'<div class="oc-snippets"><div class="oc-chips">{names}</div>{blocks}{key}</div>'
