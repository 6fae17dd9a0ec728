"""What can be asked for by name and who answers: a home's base and adapters, or one base with adapters given by hand.

Knows no request and no web: core.openai reads requests, ui.endpoint carries them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core import adapters, models
from core.errors import ConfigError
from core.generate import Column, Reply, Sampling, stream
from core.text import Text

if TYPE_CHECKING:
    from core.engine import Engine
    from core.workspace import Workspace

BASE = "base"  # always the base model, whatever it is called


@dataclass(frozen=True)
class ServedModel:
    """A model by its name. `adapter` None: the base. `system`: the prompt that the adapter was trained with.

    `created`: seconds since the epoch, 0 if unknown.
    """

    name: str
    adapter: str | None = None
    title: str = ""
    system: str = ""
    aliases: tuple[str, ...] = ()
    created: int = 0


class Served(Protocol):
    """What requests are answered from."""

    @property
    def engine(self) -> Engine:
        """Who answers."""

    def models(self) -> list[ServedModel]:
        """Everything that can be asked for, the base first."""

    def prepare(self, adapter: str | None) -> None:
        """Load the base and attach `adapter`, where that is needed."""

    def answer(
        self, columns: Sequence[Column], samplings: Sequence[Sampling], stop: threading.Event
    ) -> Iterator[list[Reply]]:
        """Answer the columns together, as core.generate.stream does."""


def base_model(name: str) -> ServedModel:
    """The base under the name that clients use: its hub id, or the last part of its folder."""
    path = Path(name).expanduser()
    short = path.name if path.is_absolute() or path.is_dir() else ""
    return ServedModel(short or name, aliases=tuple(dict.fromkeys((name, BASE))))


class ServedWorkspace:
    """The chosen base of a home and the adapters made for it; loaded and attached when they are asked for."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.engine = workspace.engine

    def models(self) -> list[ServedModel]:
        """The base, then every adapter, in the library's order, by its name; by its id where the base has that name."""
        base = base_model(self._workspace.model)
        models = [base]
        for choice in self._workspace.adapters():
            name = choice.id if choice.name in (base.name, *base.aliases) else choice.name
            models.append(
                ServedModel(name, choice.id, choice.label.en, choice.system, (choice.id,), int(choice.created))
            )
        return models

    def name_of(self, adapter: str | None) -> str:
        """What a program calls an adapter, or the base."""
        return next((model.name for model in self.models() if model.adapter == adapter), adapter or BASE)

    def prepare(self, adapter: str | None) -> None:
        """Make the workspace ready for `adapter`."""
        self._workspace.prepare(() if adapter is None else (adapter,))

    def answer(
        self, columns: Sequence[Column], samplings: Sequence[Sampling], stop: threading.Event
    ) -> Iterator[list[Reply]]:
        """Answer through the workspace."""
        return self._workspace.answer(columns, samplings, stop)


class ServedFolders:
    """One loaded base and adapters from folders, all in memory from the start."""

    def __init__(self, engine: Engine, model: str, folders: Mapping[str, Path]) -> None:
        """Attach every folder to the model that `engine` has loaded. Raises ConfigError or ModelError."""
        self.engine = engine
        self._models = check_names(model, folders)
        for index, (name, folder) in enumerate(folders.items(), 1):
            adapter = adapters.read(folder.expanduser(), name)
            engine.attach(adapter)
            base = self._models[index]
            self._models[index] = ServedModel(base.name, base.adapter, str(folder), adapter.system)

    def models(self) -> list[ServedModel]:
        """The base, then the adapters in the order they were given."""
        return list(self._models)

    def prepare(self, adapter: str | None) -> None:
        """Everything is ready from the start."""

    def answer(
        self, columns: Sequence[Column], samplings: Sequence[Sampling], stop: threading.Event
    ) -> Iterator[list[Reply]]:
        """Answer from the engine."""
        return stream(self.engine, columns, samplings, stop)


def check_names(model: str, folders: Mapping[str, Path]) -> list[ServedModel]:
    """The base and the adapters by name. Raises ConfigError for an adapter that is named as the base is, and
    ModelError for a folder that is no adapter; loads nothing."""
    base = base_model(models.inspect(model).name)
    for name, folder in folders.items():
        if name in (base.name, *base.aliases):
            raise ConfigError(
                Text(
                    zh=f"适配器不能叫“{name}”：这个名字指基座模型。请换一个名字，例如 mine={folder}。",
                    en=f"An adapter cannot be called “{name}”: that is the base model. Choose another name, such as "
                    f"mine={folder}.",
                ),
                "adapters",
            )
        adapters.read(folder.expanduser(), name)
    return [base, *(ServedModel(name, name) for name in folders)]
