"""An answer that a person put right -> a row of a dataset, and back again. Knows no model and no page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from core.dataset import Dataset, Message, Provenance, Row
from core.errors import DatasetError
from core.text import Text

PUT = Text("对话里改正的回答", "An answer that was put right in a conversation")
TAKEN_BACK = Text("撤回改正的回答", "The answer that was put right was taken back")


@dataclass(frozen=True)
class Fix:
    """An answer as it was (`old`) and as it shall be (`new`).

    `turns`: what was said before it, without the system prompt, the question last. `system`: the prompt it was given
    under, "" where that is the one of training. `adapter`: who answered, "" for the base.
    """

    adapter: str
    turns: tuple[Message, ...]
    old: str
    new: str
    system: str = ""

    @property
    def earlier(self) -> int:
        """How many questions came before this one."""
        return sum(turn.role == "user" for turn in self.turns[:-1])

    def row(self, context: bool) -> Row:
        """The row to train on; `context`: with the turns before the question."""
        now = datetime.now().isoformat(timespec="seconds")
        history = self.turns[:-1] if context else ()
        return Row(self.turns[-1].content, "", self.new, self.system, history, Provenance(self.adapter, self.old, now))


@dataclass(frozen=True)
class Placed:
    """Where a fix went: row `index` (from 0) of the dataset `name`, now `row`; before it was `old`, None: it is new."""

    name: str
    index: int
    row: Row
    old: Row | None


def read(adapter: str, before: Sequence[Message], old: str, new: str, system: str = "") -> Fix:
    """A fix of the answer after `before`. Raises DatasetError for an empty answer, or one that answers nothing."""
    if not new.strip():
        raise DatasetError(
            Text(zh="回答是空的。请写上正确的回答。", en="The answer is empty. Write the answer as it should be.")
        )
    turns = tuple(turn for turn in before if turn.role != "system")
    if not turns or turns[-1].role != "user":
        raise DatasetError(
            Text(
                zh="这个回答前面没有问题，不能存成一行。",
                en="No question comes before this answer, so it makes no row.",
            )
        )
    return Fix(adapter, turns, old, new.strip(), system)


def put(table: Dataset, row: Row) -> tuple[Dataset, Placed]:
    """The table with the row: in the place of the one that asks the same, else at the end."""
    asked = (row.question, row.system, row.history)
    rows = list(table.rows)
    for index, there in enumerate(rows):
        plain = there.resolved(table.identity)
        if (plain.question, plain.system, plain.history) == asked:
            rows[index] = row
            return table.with_rows(rows), Placed(table.name, index, row, there)
    return table.with_rows([*rows, row]), Placed(table.name, len(rows), row, None)


def take_back(table: Dataset, placed: Placed) -> Dataset:
    """The table as it was before `put`. Raises DatasetError if the row was changed or removed meanwhile."""
    rows = list(table.rows)
    here = placed.index if placed.index < len(rows) and rows[placed.index] == placed.row else None
    index = here if here is not None else next((i for i, row in enumerate(rows) if row == placed.row), None)
    if index is None:
        raise DatasetError(
            Text(
                zh=f"“{placed.name}”里的这一行已经被改过或删除，没有撤销。请在数据集页修改。",
                en=f"The row in “{placed.name}” was changed or removed since; nothing was undone. Edit it on the Dataset "
                "tab.",
            )
        )
    rows[index : index + 1] = [] if placed.old is None else [placed.old]
    return table.with_rows(rows)
