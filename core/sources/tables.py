"""The saved datasets as commands read them, without a page: a home's own, or those that a new home begins with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from core import dataset, starter
from core.dataset import Dataset, Identity
from core.errors import DatasetError
from core.text import Text


class SavedTables:
    """What lies in `folder`; where nothing does, nobody has opened the page yet, and the starter sets are there.

    `asked`: an identity that stands over the tables' own cards, as the flags of a command do.
    """

    def __init__(self, folder: Path, asked: Identity) -> None:
        self._folder, self._asked = folder, asked

    def names(self) -> list[str]:
        """Every table's name."""
        return dataset.names(self._folder) if self._folder.is_dir() else [one.name for one in starter.starter_sets()]

    def get(self, name: str) -> Dataset:
        """The table with the card that its rows are filled by. Raises DatasetError if there is none or it is damaged."""
        if self._folder.is_dir():
            found = dataset.load(self._folder, name)
        elif name in self.names():
            found = next(one for one in starter.starter_sets() if one.name == name)
        else:
            raise DatasetError(Text(zh=f"没有名为“{name}”的数据集。", en=f"There is no dataset “{name}”."))
        return replace(found, identity=self._asked.over(found.identity))

    def card(self, used: Iterable[str]) -> Identity:
        """Who the model shall say it is: as asked, and where that says nothing, by the first of `used` that is a table."""
        known = self.names()
        first = next((name for name in used if name in known), None)
        return self._asked if first is None else self.get(first).identity
