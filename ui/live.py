"""A piece of the page that keeps itself up to date by asking the server for changes, once a second, about one run.

The browser owns the cursor, so a reload, a second browser and a closed tab need no bookkeeping here.
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

# `seen` names the state that is on the page; the server answers with html only when it has another one.
_SCRIPT = """
const body = element.querySelector('.oc-live');
let run = null, seen = null, timer = null, asking = false;
const hidden = () => document.hidden || element.offsetParent === null;
async function ask() {
  clearTimeout(timer);
  if (!element.isConnected) return;
  let pause = hidden() ? 400 : 800;
  if (!hidden() && !asking) {
    asking = true;
    const wanted = props.value || '';
    try {
      const answer = await server.live({run: wanted, seen: wanted === run ? seen : null});
      if (wanted === (props.value || '')) {
        run = wanted;
        if (answer.html !== undefined) {
          const opened = body.querySelector('details')?.open;
          body.innerHTML = answer.html;
          seen = answer.seen;
          if (opened) body.querySelector('details')?.setAttribute('open', '');
        }
        if (answer.resting) pause = 3000;
      } else pause = 0;
    } catch (error) { pause = 3000; }
    asking = false;
  }
  timer = setTimeout(ask, pause);
}
watch('value', () => { clearTimeout(timer); timer = setTimeout(ask, 0); });
document.addEventListener('visibilitychange', () => { if (!document.hidden) ask(); });
document.addEventListener('onecard-look', () => { clearTimeout(timer); timer = setTimeout(ask, 0); });
ask();
"""
LOOK = "() => { document.dispatchEvent(new CustomEvent('onecard-look')); }"
"""JavaScript of an event listener: everything that keeps itself up to date asks now, not at its next turn."""


class Live(gr.HTML):
    """Shows what `draw(run_id)` returns. `mark(run_id)` is a short string that changes when the html would.

    `script`: what else the browser does with it, after the piece's own.
    """

    def __init__(
        self,
        value: str | None = None,
        *,
        mark: Callable[[str], str],
        draw: Callable[[str], str],
        script: str = "",
        **rest: object,
    ) -> None:
        def live(asked: dict[str, str]) -> dict[str, object]:
            run, state = str(asked.get("run", "")), mark(str(asked.get("run", "")))
            known = {"seen": state, "resting": not state.startswith("running")}
            return known if state == asked.get("seen") else known | {"html": draw(run)}

        super().__init__(
            value=value, html_template='<div class="oc-live"></div>', js_on_load=_SCRIPT + script, apply_default_css=False,
            server_functions=[live], **rest,
        )  # fmt: skip

    def api_info(self) -> dict[str, object]:
        """The value is a run's id."""
        return {"type": "string"}
