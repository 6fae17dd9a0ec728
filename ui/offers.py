"""What the form's pickers offer: adapters to go on from, and tables to measure the evaluation loss on."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from core import adapters
from core.config import TrainConfig
from core.fact import Value
from core.workspace import Workspace
from ui import fields
from ui.page import Page

Choices = list[tuple[str, str]]


def sources(page: Page) -> Choices:
    """(words, folder) of every adapter made for the chosen base model, after "none": runs newest first, then imported."""
    made = [
        (page.of(choice.label), str(choice.run.adapter)) for choice in page.workspace.adapters() if choice.run.adapter
    ]
    brought = [(page.t("offer.imported", name=folder.name), str(folder)) for folder in _imported(page.workspace)]
    return [(page.t("offer.fresh"), ""), *made, *brought]


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
    run = next((run for run in page.workspace.runs() if run.adapter == path), None)
    targets: dict[str, Value] = {} if run is None else {"target_modules": run.config.target_modules}
    return {**theirs, **targets, "init_weights": "true"}


def folder_of(page: Page, typed: str | None) -> str:
    """The adapter folder that was picked or typed, "" for none; a run's id stands for its adapter."""
    name = (typed or "").strip()
    run = next((run for run in page.workspace.runs() if run.id == name and run.adapter), None)
    return str(run.adapter) if run is not None else name and str(Path(name).expanduser().resolve())


def _imported(workspace: Workspace) -> list[Path]:
    """Adapter folders that were put into the home's own folder for them."""
    found = (workspace.home / "adapters").glob("*/adapter_config.json")
    return sorted(path.parent for path in found)
