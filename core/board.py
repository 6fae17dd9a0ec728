"""A run's events as TensorBoard event files, in its folder's tensorboard/, under the names that transformers uses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from core.run import Event
from core.text import Text

_SCALARS = {
    "step": ("loss", "learning_rate", "grad_norm", "epoch", "tokens_per_second", "peak_memory_bytes"),
    "evaluated": ("loss",),
    "probed": ("hits",),
}
_PLACES = {"step": "train", "evaluated": "eval", "probed": "probe"}


def check() -> None:
    """Raise ConfigError if the package tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            Text(
                zh="report_to = tensorboard 需要 tensorboard 包，这台机器上没有安装。请运行 pip install tensorboard，或把它设为 none。",
                en="report_to = tensorboard needs the package tensorboard, which is not installed. Run pip install "
                "tensorboard, or set it to none.",
            ),
            "report_to",
        )


class Board:
    """An open event file. `step`: the run goes on after it, and TensorBoard hides what was written of later ones."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = step + 1 if step else None
        self._writer: Any = SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=purge)

    def show(self, event: Event) -> None:
        """Write what of the event is a number on a curve."""
        kind = str(event["type"])
        for name in _SCALARS.get(kind, ()):
            value = event[name]
            self._writer.add_scalar(f"{_PLACES[kind]}/{name}", value, event["step"], walltime=event["time"])

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()
