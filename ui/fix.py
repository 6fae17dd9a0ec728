"""An answer that was edited in a conversation: the bar that makes it a row of a dataset, and takes it back.

Chat and Compare each have one. It knows the conversation by its place among the chatbots it was made with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import gradio as gr

from core import fixes
from core.config import TrainConfig
from core.dataset import Dataset
from core.fixes import Fix, Placed
from ui import talk
from ui.chatbot import edited, parted
from ui.page import Page
from ui.pieces import note
from ui.row_report import train_further
from ui.talk import Turn

Shown = dict[object, object]


@dataclass(frozen=True)
class Pending:
    """A fix and the chatbot it is shown in; `index` of the answer among gradio's turns; `placed` once it is a row."""

    fix: Fix
    place: int
    index: int
    placed: Placed | None = None


class FixBar:
    """The bar's components and handlers, for `chats`. Hidden until an answer was edited."""

    def __init__(self, page: Page, chats: Sequence[gr.Chatbot], key: str) -> None:
        self.page, self.chats, t = page, list(chats), page.t
        self.pending = gr.State(None)
        self.changed = gr.State("")  # the dataset that this page may show anew
        with gr.Row(visible=False, elem_classes="oc-banner oc-info oc-fix", elem_id=f"{key}-fix") as self.box:
            self.said = gr.HTML(note(t("fix.changed")), elem_id=f"{key}-fix-said", apply_default_css=False)
            self.dataset = gr.Dropdown(
                [], label=t("fix.dataset"), show_label=False, container=False, min_width=120,
                elem_id=f"{key}-fix-dataset",
            )  # fmt: skip
            self.context = gr.Checkbox(
                False, label=t("fix.context", count=1), visible=False, container=False, min_width=0,
                elem_id=f"{key}-fix-context",
            )  # fmt: skip
            look = {"size": "sm", "min_width": 0}
            self.save = gr.Button(t("fix.save"), variant="primary", elem_id=f"{key}-fix-save", **look)
            self.more = gr.Button(t("fix.more"), variant="primary", visible=False, elem_id=f"{key}-fix-more", **look)
            self.back = gr.Button(t("fix.back"), elem_id=f"{key}-fix-back", **look)

    @property
    def outputs(self) -> list[gr.components.Component | gr.Row]:
        """What the bar's handlers change."""
        shown = [self.box, self.said, self.dataset, self.context, self.save, self.more, self.back]
        return [*shown, self.pending, self.changed, *self.chats]

    @property
    def closed(self) -> list[gr.components.Component | gr.Row]:
        """What `hide` changes."""
        return [self.box, self.pending]

    def wire(self) -> list[object]:
        """Connect the bar to itself; the events after which a dataset may have changed."""
        shown, quiet = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        inputs = [self.pending, self.dataset, self.context]
        saved = self.save.click(shown(self.on_save), inputs, self.outputs, **quiet)
        taken = self.back.click(shown(self.on_back), [self.pending, *self.chats], self.outputs, **quiet)
        return [saved, taken]

    def begin(self, place: int, event: gr.EditData, history: Sequence[Turn], adapter: str, system: str) -> Shown:
        """An answer of the chatbot at `place` was edited: offer to keep it. Raises DatasetError for an empty answer."""
        index = int(event.index)
        old, new = edited(_text(event.previous_value), _text(event.value))
        if old.strip() == new.strip() or (history[index].get("metadata") or {}).get("title"):
            return self._restored(place, history, index, old)  # nothing was said, or a thought was edited
        before = talk.messages("", talk.plain(history[:index]))
        fix = fixes.read(adapter, before, old, new, self._own_system(adapter, system))
        return {
            self.box: gr.update(visible=True),
            self.said: note(self.page.t("fix.changed")),
            self.dataset: gr.update(choices=self.page.workspace.datasets(), value=self._home_of(adapter), visible=True),
            self.context: gr.update(
                value=False, visible=fix.earlier > 0, label=self.page.t("fix.context", count=fix.earlier)
            ),
            self.save: gr.update(visible=True),
            self.more: gr.update(visible=False),
            self.pending: Pending(fix, place, index),
        }

    def restore(self, place: int, event: gr.EditData, history: Sequence[Turn]) -> Shown:
        """What was edited stays as it was."""
        turns = list(history)
        turns[int(event.index)] = {**turns[int(event.index)], "content": parted(_text(event.previous_value))}
        return {self.chats[place]: turns}

    def hide(self) -> Shown:
        """The conversation went on or was cleared: the bar goes, the row stays."""
        return {self.box: gr.update(visible=False), self.pending: None}

    def on_save(self, request: gr.Request, pending: Pending | None, dataset: str | None, context: bool) -> object:
        """Put the fix into the chosen dataset."""
        if pending is None or pending.placed is not None or not dataset:
            return gr.skip()
        row, done = pending.fix.row(bool(context) and pending.fix.earlier > 0), []

        def edit(table: Dataset) -> Dataset:
            changed, placed = fixes.put(table, row)
            done.append(placed)
            return changed

        current = self.page.edits.change(request.session_hash, dataset, edit, fixes.PUT)
        placed = done[0]
        key = "fix.saved" if placed.old is None else "fix.replaced"
        trained = bool(pending.fix.adapter) and not self._training(pending.fix.adapter)
        return {
            self.said: note(self.page.t(key, name=dataset, row=placed.index + 1)),
            self.dataset: gr.update(visible=False),
            self.context: gr.update(visible=False),
            self.save: gr.update(visible=False),
            self.more: gr.update(visible=trained),
            self.pending: replace(pending, placed=placed),
            self.changed: dataset if current else "",
        }

    def on_back(self, request: gr.Request, pending: Pending | None, *histories: Sequence[Turn]) -> object:
        """The answer is as it was, and the row is gone again."""
        if pending is None:
            return gr.skip()
        changed = ""
        if placed := pending.placed:
            current = self.page.edits.change(
                request.session_hash, placed.name, lambda table: fixes.take_back(table, placed), fixes.TAKEN_BACK
            )
            changed = placed.name if current else ""
        restored = self._restored(pending.place, histories[pending.place], pending.index, pending.fix.old)
        return {**self.hide(), **restored, self.changed: changed}

    def go_on(self, pending: Pending | None) -> None:
        """Start a few more steps from the adapter that gave the answer. Raises UserError."""
        if pending is not None and pending.placed is not None:
            train_further(self.page, pending.fix.adapter, pending.placed.name)

    def _restored(self, place: int, history: Sequence[Turn] | None, index: int, text: str) -> Shown:
        """The conversation with the answer as it was; a conversation that is another by now stays."""
        turns = list(history or [])
        if index < len(turns) and turns[index].get("role") == "assistant":
            turns[index] = {**turns[index], "content": text}
            return {self.chats[place]: turns}
        return {}

    def _home_of(self, adapter: str) -> str | None:
        """The dataset the adapter was trained on, while there is one; else the one that was edited last."""
        names, choice = self.page.workspace.datasets(), self.page.workspace.library.find(adapter) if adapter else None
        theirs = choice.run.dataset if choice is not None and choice.run is not None else ""
        return theirs if theirs in names else next(iter(names), None)

    def _own_system(self, adapter: str, system: str) -> str:
        """The system prompt as a row keeps it: none where it is the one that training uses anyway."""
        usual = (talk.system_of(self.page, adapter or talk.newest(self.page)), TrainConfig().system, "")
        return "" if system.strip() in usual else system.strip()

    def _training(self, adapter: str) -> bool:
        active = self.page.workspace.active
        return active is not None and active.id == adapter


def is_answer(history: Sequence[Turn], index: object) -> bool:
    """Whether the edited turn is an answer, not a question."""
    return isinstance(index, int) and 0 <= index < len(history) and history[index].get("role") == "assistant"


def _text(value: object) -> str:
    """Gradio's content, whichever shape it has."""
    return talk.text_of({"content": value})
