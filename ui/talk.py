"""What Compare and Chat share: gradio's chat history <-> core's messages, the stop flags, the line under an answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from core.dataset import Message
from core.generate import Reply
from ui.page import Page

Turn = dict[str, object]
_REMEMBERED = 1000
BASE = ""  # the picker's value for the base model: gradio's dropdowns cannot hold None as a choice

# Chat text is markdown of a model: pictures from elsewhere are blocked by the page's policy, HTML stays text (ui.chatbot).
CHATBOT = {
    "show_label": False,
    "layout": "bubble",
    "buttons": ["copy"],
    "reasoning_tags": [("<think>", "</think>")],
    "group_consecutive_messages": False,
    "feedback_options": None,
}


def text_of(turn: Turn) -> str:
    """The plain text of one turn, whichever of gradio's two shapes it has."""
    content = turn.get("content", "")
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    return "".join(str(block.get("text", "")) for block in blocks if isinstance(block, dict))


def messages(system: str, history: Sequence[Turn]) -> tuple[Message, ...]:
    """The conversation as core takes it, the system prompt first if there is one."""
    head = (Message("system", system.strip()),) if system.strip() else ()
    turns = (Message("user" if turn.get("role") == "user" else "assistant", text_of(turn)) for turn in history)
    return (*head, *turns)


def plain(history: Sequence[Turn] | None) -> list[Turn]:
    """The history as role and text only. Gradio folds a model's thought into a turn of its own, with a title: left out.

    What stands before and after a thought are turns of their own, too: one answer again.
    """
    turns: list[Turn] = []
    for turn in history or []:
        role, text = turn.get("role", "user"), text_of(turn)
        if role == "assistant" and (turn.get("metadata") or {}).get("title"):
            continue
        if role == "assistant" and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{text}"
        else:
            turns.append({"role": role, "content": text})
    return turns


def asked(history: Sequence[Turn], question: str) -> list[Turn]:
    """The history with the question after it, instead of questions that got no answer."""
    turns = list(history)
    while turns and turns[-1]["role"] == "user":
        turns.pop()
    return [*turns, {"role": "user", "content": question}]


def answered(history: Sequence[Turn], reply: Reply) -> list[Turn]:
    """The history with the answer so far after it; nothing is added before its first character."""
    return [*history, {"role": "assistant", "content": reply.text}] if reply.text or reply.done else list(history)


class Stop(threading.Event):
    """The stop flag of one answer. `cleared`: the conversation was emptied meanwhile, nothing of it may come back."""

    cleared = False


class Stops:
    """The stop flag of every page that is being answered; cooperative, so the text that is there stays."""

    def __init__(self) -> None:
        self._flags: dict[str, Stop] = {}

    def begin(self, session: str) -> Stop:
        """A fresh flag for this page; an answer still running there is told to stop."""
        self.stop(session)
        self._flags.pop(session, None)
        flag = self._flags[session] = Stop()
        if len(self._flags) > _REMEMBERED:  # pages that were closed during an answer
            del self._flags[next(iter(self._flags))]
        return flag

    def stop(self, session: str) -> None:
        """Tell this page's answer, if any, to stop."""
        if flag := self._flags.get(session):
            flag.set()

    def clear(self, session: str) -> None:
        """Tell this page's answer, if any, to stop, and that its conversation was emptied."""
        if flag := self._flags.get(session):
            flag.cleared = True
            flag.set()

    def answering(self, session: str) -> bool:
        """Whether this page's answer is under way."""
        flag = self._flags.get(session)
        return flag is not None and not flag.is_set()

    def finish(self, session: str) -> bool:
        """The page has everything of its answer; whether the conversation was emptied while that was under way.

        Gradio sends an answer's last state once more when it ends, maybe after the clearing: empty it again then.
        """
        flag = self._flags.get(session)
        if flag is None or not flag.is_set():
            return False
        del self._flags[session]
        return flag.cleared


def meter(page: Page, reply: Reply | None) -> str:
    """Time to the first token, speed and length; or that the answer waits for a training step."""
    t = page.t
    if reply is None:
        return _line(t("talk.loading" if _loads_first(page) else "talk.starting"))
    if reply.first_token_seconds is None:
        return _line(t("talk.stopped" if reply.done else _waits_for(page) if reply.waiting else "talk.starting"))
    words = {
        "first": f"{reply.first_token_seconds:.2f}",
        "speed": f"{reply.tokens_per_second:.1f}",
        "tokens": reply.tokens,
    }
    line = t("talk.meter", **words)
    if reply.done and reply.finish in ("length", "cancelled"):
        line += " · " + t("talk.cut" if reply.finish == "length" else "talk.stopped")
    return _line(line)


def _waits_for(page: Page) -> str:
    """What the answer has to wait for: a step of the run, or whatever else asks the model now, such as a proof."""
    return "talk.waiting" if page.workspace.trains_here else "talk.waiting.other"


def _loads_first(page: Page) -> bool:
    """Whether the answer has to wait for the model: none is in memory, or another one."""
    workspace, resident = page.workspace, page.workspace.engine.resident
    if resident is None or workspace.engine.state != "ready":
        return True
    return not workspace.trains_here and resident.info.name != workspace.model


def idle_meter() -> str:
    """The empty line that keeps the place."""
    return _line("")


def choices(page: Page) -> list[tuple[str, str]]:
    """The picker's entries: the base model, then every adapter made for it."""
    base = (page.t("talk.base", model=page.workspace.status().model), BASE)
    return [base, *((page.of(choice.label), choice.id) for choice in page.workspace.adapters())]


def newest(page: Page) -> str:
    """The newest run's adapter that is complete, else the newest imported one, else the base model."""
    whole = [choice for choice in page.workspace.adapters() if choice.folder is not None]
    return next((choice.id for kind in ("run", "imported") for choice in whole if choice.source == kind), BASE)


def system_of(page: Page, *picked: str | None) -> str:
    """The training prompt of the first picked adapter: without it a tuned model may fall back on its old self."""
    prompts = {choice.id: choice.system for choice in page.workspace.adapters()}
    return next((prompts[run_id] for run_id in picked if run_id in prompts), "")


def _line(text: str) -> str:
    return f'<div class="oc-meter">{text}</div>'
