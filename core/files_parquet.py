"""Parquet bytes -> records, through pyarrow, which `datasets` brings. Knows no meaning of a column."""

from __future__ import annotations

from decimal import Decimal

from core.errors import DatasetError
from core.json_records import Listing, Number, Record, Unreadable, check_count
from core.text import Text

# What the columns may take unpacked: a few megabytes of Parquet can hold gigabytes of repeats.
MAX_UNPACKED_BYTES = 1_000_000_000


def read_parquet(data: bytes) -> Listing:
    """The rows of a Parquet file as records. Numbers stay numbers: no cell of a row is one.

    Raises DatasetError for a damaged file and for one too large.
    """
    # Imported here: it takes a fifth of a second, and few files need it.
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(arrow.BufferReader(data))
        described = file.metadata
        check_count(described.num_rows)
        size = sum(described.row_group(i).total_byte_size for i in range(described.num_row_groups))
        if size > MAX_UNPACKED_BYTES:
            raise DatasetError(
                Text(
                    f"解开后有 {size // 1_000_000} MB，上限是 {MAX_UNPACKED_BYTES // 1_000_000} MB。请抽取一部分。",
                    f"Unpacked it has {size // 1_000_000} MB; the limit is {MAX_UNPACKED_BYTES // 1_000_000} MB. "
                    "Draw a part.",
                )
            )
        values = [row for batch in file.iter_batches(10_000) for row in batch.to_pylist()]
    except (arrow.ArrowException, OSError, ValueError) as error:
        said = str(error).splitlines()[0][:120]
        raise DatasetError(
            Text(
                f"这个 Parquet 文件损坏了，或在这里断了（{said}）。请重新下载或导出。",
                f"This Parquet file is damaged or cut off ({said}). Download or export it again.",
            )
        ) from None
    return Listing(tuple(Record(_plain(value), number) for number, value in enumerate(values, 1)), "parquet")


def _plain(value: object) -> object:
    """Lists and objects as JSON has them; what JSON does not have, such as a date, is no cell of a row."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float | Decimal):
        return Number(str(value))
    name = type(value).__name__
    return Unreadable(Text(f"{name} 类型的值", f"a value of type {name}"))
