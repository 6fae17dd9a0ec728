"""What is proved: an adapter, the identity and rows it was trained with, and whose weights they are. Loads no model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core import adapters
from core.dataset import Identity, Row
from core.own_probes import OwnProbe
from core.run import Run


@dataclass(frozen=True)
class Subject:
    """`name`: under which the engine has it attached; `rows` None: not known what it was trained on.

    `old_words` are those of the base's own identity; `weights` the sha256 of the adapter's file.
    """

    name: str
    title: str
    identity: Identity
    rows: tuple[Row, ...] | None
    system: str
    old_words: tuple[str, ...] = ()
    own: tuple[OwnProbe, ...] = ()
    run: str = ""
    step: int | None = None
    weights: str = ""


def of_run(
    run: Run, folder: Path, step: int | None, name: str, old: tuple[str, ...], own: tuple[OwnProbe, ...]
) -> Subject:
    """An adapter of a run, in `folder`."""
    config = run.config
    return Subject(
        name=name,
        title=run.title,
        identity=Identity.parse(config.model_name, config.model_author),
        rows=tuple(run.rows),
        system=config.system,
        old_words=old,
        own=own,
        run=run.id,
        step=step,
        weights=digest(folder),
    )


def of_folder(folder: Path, name: str, title: str, old: tuple[str, ...], own: tuple[OwnProbe, ...]) -> Subject:
    """An adapter by itself: all that is known is what its card says."""
    card = adapters.card_of(folder)
    step = card.get("step")
    return Subject(
        name=name,
        title=title,
        identity=identity_of(card),
        rows=None,
        system=str(card.get("system", "")),
        old_words=adapters.words_of(card.get("old_words")) or old,
        own=own,
        step=step if isinstance(step, int) else None,
        weights=digest(folder),
    )


def identity_of(card: Mapping[str, object]) -> Identity:
    """The identity that a card tells. Older cards only list the words: names first, then makers."""
    given = card.get("identity")
    if isinstance(given, dict) and given:
        return Identity(**{key: str(given.get(key, "")) for key in vars(Identity())})
    words = adapters.words_of(card.get("new_words"))
    if len(words) < 3:
        return Identity.parse(*(*words, "", "")[:2])
    return Identity(words[0], words[1], words[2], words[-1])


def digest(folder: Path) -> str:
    """sha256 of an adapter's weights, in hexadecimal."""
    with (folder / adapters.WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
