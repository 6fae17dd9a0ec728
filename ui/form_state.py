"""The training form's memory: it survives a reload of the page, and what a preset overwrote can be brought back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr

from core.config import fact_of
from ui import cards, fields, kept, offers, settling
from ui.page import Page

if TYPE_CHECKING:
    from ui.train import TrainTab

Shown = dict[object, object]
_KEPT = "form"
_LONGEST = 4000
_BESIDE = 4  # kept values before the form's: preset, table, base model, cards


class FormState:
    """The button that brings settings back, and what the page knows of the form besides its values."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.told = gr.Textbox(visible=False)
        self.before = gr.State(None)  # the values that a preset took the place of
        self.filled = gr.State("")  # the preset that filled the form last
        self.back = gr.Button(page.t("undo.settings"), size="sm", visible=False, elem_id="settings-back")

    @property
    def reading(self) -> str:
        """The js of the load event, whose input `told` then is what the browser tab kept."""
        return kept.reading(_KEPT)

    def wire(self, tab: TrainTab) -> None:
        """Fill the form as presets are chosen, keep what is in it, and bring it back."""
        form, shown, quiet = tab.form.all, self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        filled = [*form, self.before, self.filled, self.back]

        def on_preset(preset: str, *values: object) -> list[object]:
            return self.fill(tab, preset, values)

        def on_settled(preset: str, last: str, *values: object) -> object:
            return gr.skip() if preset == last else self.fill(tab, preset, values)

        def on_back(before: list[object] | None) -> list[object]:
            given = before or [gr.skip() for _ in form]
            return [*given, None, gr.skip(), gr.update(visible=False)]

        # Two clicks within a moment may both be sent, and answered the other way round: one after the other here, and
        # what filled the form last is looked at once more.
        chosen = tab.preset.input(
            shown(on_preset), [tab.preset, *form], filled, trigger_mode="always_last", concurrency_limit=1, **quiet
        )
        settled = chosen.then(shown(on_settled), [tab.preset, self.filled, *form], filled, **quiet)
        returned = self.back.click(shown(on_back), [self.before], filled, **quiet)
        # The fields of closed groups tell nobody that they changed.
        settling.tell(settling.FORM, after=[settled.then, returned.then])
        mine = [tab.preset, tab.dataset, tab.model, tab.cards, *form]
        kept.keep(_KEPT, [part.change for part in mine], mine)

    def fill(self, tab: TrainTab, preset: str, values: Sequence[object]) -> list[object]:
        """The form as `preset` has it; `values`, if a person had changed them, can be brought back."""
        named = dict(zip(fields.visible_names(), values, strict=True))
        after = tab.on_preset(preset, str(named["mix"] or ""), str(named["dataset_repeat"] or "1"))
        lost = list(values) != after and not self._is_a_preset(named)
        return [*after, list(values) if lost else None, preset, gr.update(visible=lost)]

    def _is_a_preset(self, values: dict[str, object]) -> bool:
        """Whether some preset has just these values; the mix stays anyway."""
        names = fields.visible_names()
        known = (dict(zip(names, fields.show(preset.config), strict=True)) for preset in self.page.workspace.presets())
        stays = ("mix", "dataset_repeat")
        return any(all(one[name] == values[name] for name in names if name not in stays) for one in known)

    def restored(self, tab: TrainTab, told: str, tables: Sequence[str], model: str) -> Shown:
        """What the browser tab kept, as far as it can still be; of the settings nothing under another base model.

        Nor while a run is in progress, whose settings stand there.
        """
        form = tab.form.all
        mine = kept.values(told, _BESIDE + len(form))
        if mine is None:
            return {}
        shown: Shown = {tab.cards: cards.restored(self.page, mine[3])}
        if mine[2] != model or tab.page.workspace.active is not None:
            return shown
        if mine[0] in [preset.id for preset in self.page.workspace.presets()]:
            shown[tab.preset] = mine[0]
        if mine[1] in tables:
            shown[tab.dataset] = gr.update(choices=list(tables), value=mine[1])
        offered = offers.pickers(self.page, tab.form)
        for name, value in zip(fields.visible_names(), mine[_BESIDE:], strict=True):
            if _fits(name, value):
                field = tab.form.components[name]
                shown[field] = {**offered[field], "value": value} if field in offered else value
        return shown


def _fits(name: str, value: object) -> bool:
    """Whether the field can show it; whether it is sensible is the preview's to say."""
    choices = fact_of(name).choices
    if set(choices) == {"true", "false"}:
        return isinstance(value, bool)
    return isinstance(value, str) and len(value) <= _LONGEST and (not choices or value in choices)
