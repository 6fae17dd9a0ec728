"""Pieces of the page that keep themselves up to date by asking the server for changes, once a second, about one run.

The browser owns the cursors, so a reload, a second browser and a closed tab need no bookkeeping here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import gradio as gr

from ui import notify

# `seen` names the state that is on the page; the server answers with html only when it has another one. All pieces that can
# be seen are asked for in one request: each by itself, they were two thirds of what an open page cost the server. They ask on
# the full second, as the top bar and the chart do: what comes together is drawn in one frame, a quarter less for the browser.
_SCRIPT = """
const all = window.onecardLive ??= (() => {
  const pieces = new Set();
  let timer = null, asking = false, again = false;
  const late = () => new Promise((_, give) => setTimeout(() => give(new Error('late')), 20000));
  const soon = pause => { clearTimeout(timer); timer = setTimeout(ask, pause); };
  async function ask() {
    if (asking) { again = true; return; }
    pieces.forEach(piece => { if (!piece.element.isConnected) pieces.delete(piece); });
    if (!pieces.size) return;
    const due = document.hidden ? [] : [...pieces].filter(piece => piece.element.offsetParent && piece.rests < performance.now());
    if (!due.length) return soon(400);
    asking = true;
    try {
      const questions = Object.fromEntries(due.map(piece => [piece.name, piece.question()]));
      // An answer that never comes, as over a line that was cut, must not keep the others from being asked for.
      const answers = await Promise.race([due[0].server.live(questions), late()]);
      for (const piece of due) again = piece.told(questions[piece.name], answers[piece.name]) || again;
    } catch (error) { due.forEach(piece => { piece.rests = performance.now() + 3000; }); }
    asking = false;
    const pause = window.onecardPause || 1000;
    if (again) look(); else soon(pause - performance.now() % pause);
  }
  function look() {
    again = asking;
    pieces.forEach(piece => { piece.rests = 0; });
    soon(0);
  }
  document.addEventListener('visibilitychange', () => { if (!document.hidden) look(); });
  document.addEventListener('onecard-look', look);
  return {add: piece => { pieces.add(piece); soon(0); }, look};
})();
const body = element.querySelector('.oc-live');
let run = null, seen = null;
const piece = {
  element, server, name: element.parentElement.closest('[id]').id, rests: 0,
  question() { const wanted = props.value || ''; return {run: wanted, seen: wanted === run ? seen : null}; },
  // Whether another run was chosen meanwhile, and has to be asked for.
  told(question, answer) {
    if (question.run !== (props.value || '')) return true;
    piece.rests = !answer || answer.resting ? performance.now() + 3000 : 0;
    if (!answer) return false;
    run = question.run;
    if (answer.html === undefined) return false;
    const opened = body.querySelector('details')?.open;
    body.innerHTML = answer.html;
    seen = answer.seen;
    if (opened) body.querySelector('details')?.setAttribute('open', '');
    return false;
  },
};
watch('value', all.look);
all.add(piece);
"""
LOOK = "() => { document.dispatchEvent(new CustomEvent('onecard-look')); }"
"""JavaScript of an event listener: everything that keeps itself up to date asks now, not at its next turn."""

Answer = Callable[[Mapping[str, object]], dict[str, object]]


class LivePieces:
    """The pieces of one page, by their elem_id."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}

    def add(self, name: str, answer: Answer) -> None:
        """Let `answer` tell what is new for the piece of this name."""
        self._answers[name] = answer

    def answer(self, asked: object) -> dict[str, object]:
        """What is new for each piece that was asked for; one that cannot be drawn keeps no other from its news."""
        found: dict[str, object] = {}
        questions = asked if isinstance(asked, dict) else {}
        for name, answer in self._answers.items():
            question = questions.get(name)
            if not isinstance(question, dict):
                continue
            with notify.apart(f"drawing {name}"):
                found[name] = answer(question)
        return found


class Live(gr.HTML):
    """Shows what `draw(run_id)` returns. `mark(run_id)` is a short string that changes when the html would.

    `together`: the page's pieces, which ask in one request. `script`: what else the browser does with it, after the piece's own.
    """

    def __init__(
        self,
        together: LivePieces,
        elem_id: str,
        *,
        mark: Callable[[str], str],
        draw: Callable[[str], str],
        script: str = "",
        **rest: object,
    ) -> None:
        def news(asked: Mapping[str, object]) -> dict[str, object]:
            run = str(asked.get("run", ""))
            state = mark(run)
            known = {"seen": state, "resting": not state.startswith("running")}
            return known if state == asked.get("seen") else known | {"html": draw(run)}

        def live(asked: object) -> dict[str, object]:
            return together.answer(asked)

        together.add(elem_id, news)
        super().__init__(
            html_template='<div class="oc-live"></div>', js_on_load=_SCRIPT + script, apply_default_css=False,
            server_functions=[live], elem_id=elem_id, **rest,
        )  # fmt: skip

    def api_info(self) -> dict[str, object]:
        """The value is a run's id."""
        return {"type": "string"}
