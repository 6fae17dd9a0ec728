"""Asked once a part of the page has come to rest, in place of at each change.

What a handler sets comes part by part, each with a change of its own, on a busy machine a second apart. Asked at every one
of them, seven questions were under way at once, and the one answered last need not be the one asked last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gradio as gr

FORM, COLUMNS = "form", "columns"  # what can be told of: the training form, and who answers in Compare
_REST_MS = 200


def listening(name: str, tab: str) -> str:
    """The script of a component whose event `rest` comes when `name` was told of and then no more; not while `tab` opens."""
    return f"""
let pause = null;
const changed = () => {{
  clearTimeout(pause);
  const opening = (document.documentElement.dataset.opening ?? '').split(' ').includes('{tab}');
  pause = setTimeout(() => {{ if (opening) changed(); else if (element.isConnected) trigger('rest'); }}, {_REST_MS});
}};
document.addEventListener('onecard-settling-{name}', changed);
changed();  // of what was told before this was there
"""


def tell(name: str, changes: Sequence[object] = (), after: Sequence[Callable[..., object]] = ()) -> None:
    """Each of `changes`, and what follows `after` another event, is told to who listens for `name`."""
    script = f"() => {{ document.dispatchEvent(new Event('onecard-settling-{name}')); }}"
    if changes:
        gr.on(list(changes), None, None, None, js=script, api_visibility="private")
    for follow in after:
        follow(None, None, None, js=script, api_visibility="private")
