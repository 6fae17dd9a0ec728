"""Cells of the row editor <-> core's rows. What the browser sends is checked here; nothing of it is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from core.dataset import PROVENANCE, ROLES, Message, Provenance, Row, from_json, provenance_json
from core.errors import DatasetError
from core.text import Text

MAX_ROWS = 60_000  # alpaca's own set has 52,002
MAX_CELL_CHARACTERS = 300_000
MAX_TURNS = 1_000
# What the page holds without growing slow; an edit sends only the rows it changed (ui/held.py).
MAX_TABLE_BYTES = 80_000_000


def cells(row: Row) -> dict[str, object]:
    """The row as the editor holds it: three cells, and `system` and `history` where the row has them."""
    value: dict[str, object] = {"instruction": row.instruction, "input": row.input, "output": row.output}
    if row.system:
        value["system"] = row.system
    if row.history:
        value["history"] = [{"role": message.role, "content": message.content} for message in row.history]
    return value | provenance_json(row)


def clean(value: object) -> list[Row]:
    """The rows that the editor sent. Raises DatasetError for another shape, too many rows or too long a cell."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise DatasetError(
            Text(
                zh="表格内容的格式不对；请刷新页面后重试。",
                en="The table arrived in a wrong shape; reload the page and try again.",
            )
        )
    lost = getattr(value, "lost", None)
    if lost is not None:
        raise lost
    items = list(value)
    _check_count(len(items))
    return [item if isinstance(item, Row) else _row(item, i) for i, item in enumerate(items)]


def check_limits(rows: Sequence[Row]) -> None:
    """Raises DatasetError for a table that the editor cannot hold."""
    _check_count(len(rows))
    for i, row in enumerate(rows):
        for cell in (row.instruction, row.input, row.output, row.system, *(turn.content for turn in row.history)):
            _check_length(cell, i)
        if (turns := len(row.history)) > MAX_TURNS:
            raise DatasetError(
                Text(
                    zh=f"第 {i + 1} 行有 {turns} 轮对话，最多 {MAX_TURNS} 轮。请拆成几行。",
                    en=f"Row {i + 1} has {turns} turns; the limit is {MAX_TURNS}. Split it into several rows.",
                ),
                i,
            )
    size = sum(map(_bytes, rows))
    if size > MAX_TABLE_BYTES:
        raise DatasetError(
            Text(
                zh=f"表格太大：有 {size / 1e6:.1f} MB 的文字，最多 {MAX_TABLE_BYTES // 1_000_000} MB。请拆成几个数据集。",
                en=f"The table is too large: {size / 1e6:.1f} MB of text; the limit is {MAX_TABLE_BYTES // 1_000_000} MB. "
                "Split it into several datasets.",
            )
        )


def _check_count(rows: int) -> None:
    if rows > MAX_ROWS:
        raise DatasetError(
            Text(
                zh=f"表格有 {rows} 行，最多 {MAX_ROWS} 行。请拆成几个数据集。",
                en=f"The table has {rows} rows; the limit is {MAX_ROWS}. Split it into several datasets.",
            )
        )


def _bytes(row: Row) -> int:
    cells = (row.instruction, row.input, row.output, row.system, *(turn.content for turn in row.history))
    return sum(len(cell.encode("utf-8", "surrogatepass")) for cell in cells)


def _row(value: object, row: int) -> Row:
    if not isinstance(value, dict):
        raise _wrong(row)
    known = {key: value.get(key, "") for key in ("instruction", "input", "output", "system")}
    for cell in known.values():
        _check_length(cell, row)
    plain = from_json(known, row)
    texts = (_whole(cell) for cell in (plain.instruction, plain.input, plain.output, plain.system))
    whence = _provenance(value.get(PROVENANCE), row)
    return replace(Row(*texts), history=_history(value.get("history", []), row), provenance=whence)


def _provenance(value: object, row: int) -> Provenance | None:
    if value is None:
        return None
    found = Provenance.read(value)
    if found is None:
        raise _wrong(row)
    _check_length(found.answer, row)
    return Provenance(_whole(found.adapter), _whole(found.answer), _whole(found.at))


def _history(value: object, row: int) -> tuple[Message, ...]:
    if not isinstance(value, list) or len(value) > MAX_TURNS:
        raise _wrong(row)
    messages = []
    for turn in value:
        if not (isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)):
            raise _wrong(row)
        _check_length(turn["content"], row)
        messages.append(Message(turn["role"], _whole(turn["content"])))
    return tuple(messages)


def _check_length(cell: object, row: int) -> None:
    if isinstance(cell, str) and len(cell) > MAX_CELL_CHARACTERS:
        raise DatasetError(
            Text(
                zh=f"第 {row + 1} 行有一格 {len(cell)} 个字，最多 {MAX_CELL_CHARACTERS} 个。请拆成几行。",
                en=f"Row {row + 1} has a cell of {len(cell)} characters; the limit is {MAX_CELL_CHARACTERS}. Split it.",
            ),
            row,
        )


def _wrong(row: int) -> DatasetError:
    return DatasetError(
        Text(
            zh=f"第 {row + 1} 行的格式不对；请刷新页面后重试。",
            en=f"Row {row + 1} arrived in a wrong shape; reload the page and try again.",
        ),
        row,
    )


def _whole(text: str) -> str:
    """`text` with halves of a character pair (a cut emoji) replaced: they cannot be written as UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
