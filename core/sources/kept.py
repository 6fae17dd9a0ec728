"""Sets of the hubs as they are kept under the home: their rows in our own form, and a card that says what they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from core import dataset, storage
from core.dataset import Row
from core.hub import HUBS
from core.sources.names import HubSet
from core.text import Text

_CARD, _ROWS = "source.json", "rows.jsonl"


@dataclass(frozen=True)
class Card:
    """What is kept of a set. `complete`: whether these are all its rows; `notes`: what was interpreted or left out."""

    name: HubSet
    revision: str
    rows: int
    complete: bool
    notes: tuple[Text, ...]


def folder_of(home: Path, name: HubSet) -> Path:
    """Where a set of a hub is kept. `name` names its hub."""
    key = str(name)
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return home / "cache" / "sources" / f"{storage.slug(key)}-{digest}"


def find(home: Path, name: HubSet, hub: str) -> Path | None:
    """The folder of a set that is here; of one whose hub is not named, from `hub` first. None if it is not here."""
    for candidate in [hub, *HUBS] if name.hub is None else [name.hub]:
        folder = folder_of(home, name.on(candidate))  # type: ignore[arg-type]
        if (folder / _CARD).is_file() and (folder / _ROWS).is_file():
            return folder
    return None


def write(folder: Path, card: Card, rows: list[Row]) -> None:
    """Keep a set, whole or not at all."""
    lines = (json.dumps(dataset.to_json(row), ensure_ascii=False) for row in rows)
    about = {
        "id": card.name.id, "subset": card.name.subset, "hub": card.name.hub, "revision": card.revision,
        "rows": card.rows, "complete": card.complete, "notes": [[note.zh, note.en] for note in card.notes],
    }  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    with storage.staged_folder(folder) as staged:
        storage.write_text(staged / _ROWS, "".join(f"{line}\n" for line in lines))
        storage.write_json(staged / _CARD, about)


def read_card(folder: Path) -> Card:
    """What is kept in `folder`. Raises ValueError for a damaged card."""
    about = storage.read_json(folder / _CARD)
    try:
        assert isinstance(about, dict)
        notes = tuple(Text(str(zh), str(en)) for zh, en in about["notes"])
        name = HubSet(str(about["id"]), str(about["subset"]), about["hub"])
        return Card(name, str(about["revision"]), int(about["rows"]), bool(about["complete"]), notes)
    except (KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{folder / _CARD}: {error!r}") from error


def read_rows(folder: Path) -> tuple[Row, ...]:
    """The rows that are kept in `folder`. Raises ValueError or DatasetError for a damaged file."""
    return tuple(dataset.from_json(value, i) for i, value in enumerate(storage.read_json_lines(folder / _ROWS)))
