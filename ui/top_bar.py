"""The line at the top of every tab: name, model, what runs, the card's memory, language and theme.

Asks the server for the state once a second, and tells the other tabs when a run began or ended.
"""

from __future__ import annotations

import time
import uuid

import gradio as gr

from core.downloads import downloads_of
from core.transfer import Transfer
from core.workspace import Status
from ui.pace import Pace
from ui.page import Page
from ui.pieces import icon, safe, show_bytes
from ui.transfers import in_words

_TEMPLATE = """
<header class="oc-top" data-cut="${cut}" data-reconnecting="${reconnecting}">
  <h1><a class="oc-brand" href="${home}"><span class="oc-mark" aria-hidden="true"><i></i></span>${brand}</a></h1>
  <span class="oc-chip oc-model" data-is="model"></span>
  <span class="oc-tag oc-seal" data-is="seal" tabindex="0" hidden></span>
  <button type="button" class="oc-pill" data-is="pill" hidden><i></i><span></span></button>
  <b class="oc-bar" data-is="transfer" role="progressbar" hidden><i></i></b>
  <span class="oc-space"></span>
  <span class="oc-memory" data-is="memory"><span></span><b role="img"><i></i></b></span>
  <span class="oc-heard" data-is="heard" role="status"></span>
  <button type="button" class="oc-chip oc-square oc-wide-only" data-link title="${link_title}"
    aria-label="${link_title}">${link}</button>
  <button type="button" class="oc-chip oc-square oc-wide-only" data-is="keys" title="${keys_title}" aria-label="${keys_title}"
    aria-keyshortcuts="?">${keys}</button>
  <button type="button" class="oc-chip oc-square" data-is="diagnostics" title="${diagnostics}"
    aria-label="${diagnostics}">${pulse}</button>
  <a class="oc-chip" data-language="${other}" href="/${other}/" lang="${other}" title="${switch_title}">${switch_to}</a>
  <button type="button" class="oc-chip oc-square" data-theme title="${theme_title}" aria-label="${theme_title}">${theme}</button>
</header>
"""
_SCRIPT = """
const part = name => element.querySelector(`[data-is=${name}]`);
let key = null, score = null, boot = null, failed = 0, gone = false, wait = 1000, timer = null, asked = 0, drawn = '';
// One failure may be a hiccup. What a person then sees is no news any more, and says so, until the server answers again.
function connected(yes) {
  failed = yes ? 0 : failed + 1;
  const cut = failed > 1, root = document.documentElement;
  if (cut === (root.dataset.link === 'cut')) return;
  if (cut) root.dataset.link = 'cut'; else delete root.dataset.link;
  root.style.setProperty('--oc-cut', JSON.stringify(element.querySelector('header').dataset.cut));
  document.querySelectorAll('#start, #resume').forEach(one => { one.inert = cut; });
  drawn = '';  // what follows is drawn whole
  if (!cut) return;
  const pill = part('pill');
  pill.hidden = false;
  pill.className = 'oc-pill cut';
  pill.lastElementChild.textContent = element.querySelector('header').dataset.reconnecting;
  part('transfer').hidden = true;
}
const late = () => new Promise((_, give) => setTimeout(() => give(new Error('late')), 3000));
// Nothing is touched that has not changed: what is written anew is laid out and painted anew, at rest once a second.
function show(state) {
  if (boot !== null && boot !== state.boot) return location.reload();  // another server: nothing here is known to it
  boot = state.boot;
  // It beats with each answer, dark with one and light with the next: an animation is drawn in every frame, in every window.
  const beat = part('pill').firstElementChild.style, still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  beat.opacity = state.live && !still && !beat.opacity ? .4 : '';
  if (drawn !== (drawn = JSON.stringify(state))) draw(state);
  document.dispatchEvent(new CustomEvent('onecard-state', {detail: state}));
}
function draw(state) {
  part('model').textContent = state.model;
  part('model').title = state.model_title;
  const seal = part('seal');
  seal.hidden = !state.seal;
  seal.className = 'oc-tag oc-seal ' + state.seal_kind;
  seal.textContent = state.seal;
  seal.title = state.seal_title;
  const pill = part('pill');
  pill.hidden = !state.pill;
  pill.className = 'oc-pill' + (state.lost ? ' lost' : state.live ? ' live' : '');
  pill.lastElementChild.textContent = state.pill;
  const transfer = part('transfer');
  transfer.hidden = state.transfer === null;
  transfer.setAttribute('aria-label', state.pill);
  transfer.setAttribute('aria-valuenow', state.transfer ?? 0);
  transfer.firstElementChild.style.width = (state.transfer ?? 0) + '%';
  const memory = part('memory');
  memory.firstElementChild.textContent = state.memory;
  memory.title = state.memory_title;
  memory.lastElementChild.setAttribute('aria-label', state.memory_title);
  memory.lastElementChild.firstElementChild.style.width = state.share + '%';
  memory.classList.toggle('full', state.share >= 92);
  const before = document.documentElement.dataset.state;
  document.documentElement.dataset.state = state.state;
  // What was loading need not have been a run.
  if (before && before !== state.state && !(before === 'loading' && state.state === 'idle')) part('heard').textContent = state.heard;
  if (key !== null && key !== state.key) {
    trigger('change');
    document.dispatchEvent(new CustomEvent('onecard-look'));
  } else if (score !== null && score !== state.score) trigger('input');
  key = state.key;
  score = state.score;
}
// Of this browser tab, also after a reload.
let visit = Math.random().toString(36).slice(2);
try { visit = sessionStorage.onecardVisit ??= visit; } catch { /* the browser keeps nothing */ }
async function poll() {
  clearTimeout(timer);
  if (!element.isConnected) return;
  // In the background just so often that the server goes on to know this visit.
  if (!document.hidden || Date.now() - asked > 45000) {
    asked = Date.now();
    try {
      const state = await Promise.race([server.status({visit: document.hidden ? '' : visit}), late()]);
      gone ||= failed > 0 && !state;
      if (!state) throw new Error('no answer');  // gradio's way to tell that the server is gone
      if (gone) return location.reload();  // gradio's own stream does not come back
      connected(true);
      show(state);
      window.onecardPause = 1000 * state.pause;  // for all that asks by itself: many windows share what the server gives them
      wait = window.onecardPause || 1000;
    } catch (error) { connected(false); wait = 1000; }
    clearTimeout(timer);
  }
  timer = setTimeout(poll, wait - performance.now() % wait);  // when all others ask (ui/live.py)
}
const diagnose = () => document.dispatchEvent(new CustomEvent('onecard-diagnostics'));
part('pill').addEventListener('click', () => {
  if (part('pill').matches('.lost')) return diagnose();
  if (part('pill').matches('.cut')) return poll();
  onecard.openTab('train');
  trigger('select');
});
part('diagnostics').addEventListener('click', diagnose);
part('keys').addEventListener('click', () => document.dispatchEvent(new CustomEvent('onecard-keys')));
element.querySelector('[data-language]').addEventListener('click', event => onecard.switchLanguage(event));
element.querySelector('[data-theme]').addEventListener('click', () => onecard.switchTheme());
document.addEventListener('visibilitychange', () => { if (!document.hidden) poll(); });
document.addEventListener('onecard-look', () => { clearTimeout(timer); timer = setTimeout(poll, 0); });
poll();
"""


class TopBar(gr.HTML):
    """Events: change, when a run began or ended; input, when it was probed or proved; select, when the pill was clicked."""

    def __init__(self, page: Page, **rest: object) -> None:
        t, other = page.t, "en" if page.language == "zh" else "zh"

        boot, pace = uuid.uuid4().hex, Pace()

        def status(asked: object) -> dict[str, object]:
            visit = asked.get("visit") if isinstance(asked, dict) else None
            return {**_shown(page), "boot": boot, "pause": pace.of(visit, _running(page))}

        super().__init__(
            html_template=_TEMPLATE, js_on_load=_SCRIPT, apply_default_css=False, server_functions=[status],
            home=f"/{page.language}/", brand=t("app.name"), other=other, switch_to=t("app.switch"),
            switch_title=t("app.switch.title"), theme=icon("theme"), theme_title=t("app.theme"),
            cut=t("top.cut"), reconnecting=t("top.reconnecting"), diagnostics=t("diagnostics.open"), pulse=icon("pulse"),
            link=icon("link"), link_title=t("link.copy"), keys=icon("keys"), keys_title=t("keys.open"), **rest,
        )  # fmt: skip


def _running(page: Page) -> float:
    """Seconds since the run began that trains on this machine's processor; 0 where none does."""
    live = next((run for run in page.workspace.runs() if run.live), None)
    return time.time() - live.created if live and page.workspace.engine.device.kind == "cpu" else 0.0


def _shown(page: Page) -> dict[str, object]:
    state, t = page.workspace.status(), page.t
    used, total = state.memory_used, state.memory_total
    known = page.workspace.runs()
    hits = next((run.hits for run in known if run.id == state.run_id), None)
    amount = f"{used / 1e9:.1f} / {show_bytes(total)}"
    under_way, lost = _transfer(page), page.workspace.engine.lost is not None
    kind, seal, seal_title = _seal(page)
    return {
        "state": state.state,
        "key": f"{state.state} {state.run_id} {state.model} {len(known)} {page.workspace.library.revision}",
        "score": f"{hits} {page.workspace.proofs.revision}",
        "model": state.model.rstrip("/").rpartition("/")[2],
        "model_title": t("top.model", model=state.model, state=t(MODEL_STATES.get(state.model_state, "top.absent"))),
        "seal": seal,
        "seal_kind": kind,
        "seal_title": seal_title,
        "lost": lost,
        "pill": t("diagnostics.lost.pill") if lost else in_words(page, *under_way) if under_way else _pill(page, state),
        "transfer": round(100 * under_way[1].share) if under_way else None,
        "live": state.state != "idle" or under_way is not None,
        "heard": t(_HEARD[state.state]) if state.state in _HEARD else "",
        "run": state.run_id or "",
        "learned": any(run.status in ("finished", "stopped") and run.adapter is not None for run in known),
        "failed": bool(known) and known[0].status in ("failed", "interrupted"),
        "memory": f"{_short(state.device)} · {amount}",
        "memory_title": t(_MEMORY[page.workspace.engine.device.kind], device=state.device, amount=amount),
        "share": round(100 * min(1.0, used / total)) if total else 0,
    }


_HEARD = {"training": "heard.training", "stopping": "heard.stopping", "idle": "heard.idle"}
_SEALS = {
    "verified": ("ok", "✓", "top.seal.verified", "top.seal.verified.title"),
    "reloaded": ("warn", "!", "top.seal.reloaded", "top.seal.reloaded.title"),
    "changed": ("bad", "✕", "top.seal.changed", "top.seal.changed.title"),
}


def _seal(page: Page) -> tuple[str, str, str]:
    """Kind, words and longer words of what is known of the base; all empty where nothing is."""
    checked, t = page.workspace.engine.checked, page.t
    if checked.state not in _SEALS:
        return "", "", ""
    kind, mark, words, title = _SEALS[checked.state]
    moment = time.strftime("%H:%M", time.localtime(checked.at))
    return kind, f"{mark} {t(words)}", t(title, time=moment)


_MEMORY = {"cuda": "top.memory", "cpu": "top.memory.process"}
MODEL_STATES = {"absent": "top.absent", "loading": "top.loading", "ready": "top.ready", "failed": "top.failed"}


def _transfer(page: Page) -> tuple[str, Transfer] | None:
    """What is being read into memory, else what is being downloaded, with the key of its sentence."""
    loading = page.workspace.engine.loading.now
    if loading is not None:
        return "transfer.loading", loading
    download = downloads_of(page.workspace.home).now
    return ("transfer.download", download) if download is not None else None


def _pill(page: Page, state: Status) -> str:
    t = page.t
    if state.loading is not None:
        return page.of(state.loading)
    if state.state == "training":
        return t("top.training", step=state.step, steps=state.steps)
    keys = {"loading": "top.starting" if state.run_id else "top.loading.model", "stopping": "top.stopping"}
    return t(keys[state.state]) if state.state in keys else ""


def _short(device: str) -> str:
    name = device.split(" · ")[0].replace("(R)", "").replace("(TM)", "").split(" @ ")[0].strip()
    return safe(name if len(name) <= 28 else name[:27] + "…")
