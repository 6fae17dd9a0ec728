"""Parquet bytes -> records, through pyarrow, which `datasets` brings. Knows no meaning of a column."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

from core.errors import DatasetError
from core.json_records import Listing, Number, Record, Unreadable, check_count
from core.text import Text

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch

# What the columns may take unpacked: a few megabytes of Parquet can hold gigabytes of repeats.
MAX_UNPACKED_BYTES = 1_000_000_000
_BATCH_ROWS = 4096


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
            raise _too_large(size)
        values = [row for batch in batches(arrow.BufferReader(data)) for row in batch.to_pylist()]
    except (arrow.ArrowException, OSError, ValueError) as error:
        said = str(error).splitlines()[0][:120]
        raise DatasetError(
            Text(
                f"这个 Parquet 文件损坏了，或在这里断了（{said}）。请重新下载或导出。",
                f"This Parquet file is damaged or cut off ({said}). Download or export it again.",
            )
        ) from None
    return Listing(tuple(Record(_plain(value), number) for number, value in enumerate(values, 1)), "parquet")


def batches(source: object) -> Iterator[RecordBatch]:
    """The rows of a Parquet file, some at a time; `source` is what pyarrow reads from.

    Raises DatasetError before they take too much memory, and what pyarrow raises for a damaged file.
    """
    from pyarrow import parquet

    file = parquet.ParquetFile(source)
    described = file.metadata
    names = [described.schema.column(i).path for i in range(described.num_columns)]
    groups = [described.row_group(i) for i in range(described.num_row_groups)]
    # The importer's rows are lists of objects: a few bytes for each value at the least.
    values = sum(group.column(i).num_values for group in groups for i in range(described.num_columns))
    size = 0
    if 4 * values > MAX_UNPACKED_BYTES:
        raise _too_large(4 * values)
    written_out = file.iter_batches(_BATCH_ROWS)
    # A value that is repeated is stored once: each batch is measured in that form before its values are written out.
    for stored in parquet.ParquetFile(source, read_dictionary=names).iter_batches(_BATCH_ROWS):
        size += sum(map(_bytes_of, stored.columns))
        if size > MAX_UNPACKED_BYTES:
            raise _too_large(size)
        yield next(written_out)


def _bytes_of(column: Array) -> int:
    """Bytes of a column with every repeat of a value written out."""
    import pyarrow as arrow
    from pyarrow import compute, types

    if isinstance(column, arrow.DictionaryArray):
        if not (types.is_string(column.dictionary.type) or types.is_binary(column.dictionary.type)):
            return int(column.dictionary_decode().nbytes)
        lengths = compute.binary_length(column.dictionary).cast("int64")
        return int(compute.sum(lengths.take(column.indices)).as_py() or 0)
    if isinstance(column, arrow.ListArray | arrow.LargeListArray):
        return _bytes_of(column.flatten())
    if isinstance(column, arrow.StructArray):
        return sum(map(_bytes_of, column.flatten()))
    return int(column.nbytes)


def _too_large(size: int) -> DatasetError:
    return DatasetError(
        Text(
            f"解开后至少有 {size // 1_000_000} MB，上限是 {MAX_UNPACKED_BYTES // 1_000_000} MB。请抽取一部分。",
            f"Unpacked it has at least {size // 1_000_000} MB; the limit is {MAX_UNPACKED_BYTES // 1_000_000} MB. "
            "Draw a part.",
        )
    )


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
