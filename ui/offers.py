"""What the form's pickers offer: adapters to go on from, and tables to measure the evaluation loss on."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from core import adapters
from core.config import TrainConfig
from core.fact import Value
from core.workspace import AdapterChoice
from ui import fields
from ui.page import Page

Choices = list[tuple[str, str]]


def sources(page: Page) -> Choices:
    """(words, folder) of every adapter made for the chosen base model, after "none", as the library has them."""
    made = [(page.of(choice.label), str(choice.folder)) for choice in page.workspace.adapters() if choice.folder]
    return [(page.t("offer.fresh"), ""), *made]


def tables(page: Page) -> Choices:
    """(words, name) of every saved table, after "none"."""
    return [(page.t("offer.no_table"), ""), *((name, name) for name in page.workspace.datasets())]


def pickers(page: Page, form: fields.Form, config: TrainConfig | None = None) -> dict[object, object]:
    """The two pickers with what there is now; what is chosen stays, or is as `config` has it."""
    offered: dict[str, Choices] = {"adapters": sources(page), "val_dataset": tables(page)}
    chosen = {} if config is None else {name: {"value": config.as_dict()[name]} for name in offered}
    return {
        form.components[name]: gr.update(choices=choices, **chosen.get(name, {})) for name, choices in offered.items()
    }


def settings_of(page: Page, folder: str) -> dict[str, Value]:
    """What a run that goes on from the adapter in `folder` must agree with, by the setting's name.

    Raises ModelError if that is no usable adapter folder.
    """
    path = Path(folder)
    theirs = adapters.settings(adapters.read(path))
    choice = next((choice for choice in page.workspace.library.all() if choice.folder == path), None)
    return {**theirs, **_targets(choice), "init_weights": "true"}


def _targets(choice: AdapterChoice | None) -> dict[str, Value]:
    if choice is None or choice.body is None:
        return {}
    return {"target_modules": choice.run.config.target_modules if choice.run else " ".join(choice.body.targets)}


def folder_of(page: Page, typed: str | None) -> str:
    """The adapter folder that was picked or typed, "" for none; an adapter's id or name stands for its folder."""
    name = (typed or "").strip()
    known = page.workspace.library.find(name) if name else None
    if known is not None and known.folder is not None:
        return str(known.folder)
    return name and str(Path(name).expanduser().resolve())
