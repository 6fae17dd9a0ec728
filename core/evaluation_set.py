"""The evaluation set a run's settings name: another dataset's rows, checked like the table's own before the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.config import TrainConfig
from core.dataset import Dataset, Row
from core.errors import ConfigError, DatasetError
from core.text import Text


def draw(
    config: TrainConfig, saved: Callable[[str], Sequence[Row]], check: Callable[[Dataset], None] | None = None
) -> list[Row]:
    """The rows of `val_dataset`, none if it is not set. `saved` reads a dataset, `check` refuses bad rows; both raise
    DatasetError, which becomes a ConfigError that names the setting."""
    name = config.val_dataset.strip()
    if not name:
        return []
    try:
        rows = [row for row in saved(name) if not row.is_blank]
        if not rows:
            raise DatasetError(Text(zh=f"“{name}”是空的。", en=f"“{name}” is empty."))
        if check is not None:
            check(Dataset(name, tuple(rows)))
    except DatasetError as error:
        text = Text(zh=f"验证集（val_dataset）：{error.text.zh}", en=f"Evaluation set (val_dataset): {error.text.en}")
        raise ConfigError(text, "val_dataset") from error
    return rows
