"""Whether a run may begin, or go on: its settings among themselves, with this machine, and with what it began with."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from core import board, checkpoints, lora, mix
from core.config import TrainConfig
from core.device import Device
from core.errors import ConfigError, ModelError
from core.models import NO_BITSANDBYTES
from core.run import Run
from core.text import Text


def check(config: TrainConfig, device: Device) -> None:
    """Refuse settings that contradict each other or this machine, before anything is loaded."""
    lora.check(config)
    if config.optim == "paged_adamw_8bit" and device.kind != "cuda":
        raise ConfigError(
            Text(
                zh="paged_adamw_8bit 需要 CUDA 显卡；在处理器上请用 adamw_torch。",
                en="paged_adamw_8bit needs a CUDA card; use adamw_torch on the processor.",
            ),
            "optim",
        )
    needs = config.quant_method == "bnb" or config.optim == "paged_adamw_8bit"
    if needs and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(NO_BITSANDBYTES)
    if config.report_to == "tensorboard":
        board.check()
    if config.early_stop_interval and not (config.split_dataset_ratio or config.val_dataset):
        raise ConfigError(
            Text(
                zh=f"提前结束（early_stop_interval = {config.early_stop_interval}）要看验证损失：请设置“验证集比例”或“验证集”，"
                "或把它设为 0。",
                en=f"Early stop (early_stop_interval = {config.early_stop_interval}) goes by the evaluation loss: choose an "
                "evaluation split or set, or set it to 0.",
            ),
            "early_stop_interval",
        )


def check_again(run: Run, device: Device) -> None:
    """`check` for a run to go on with, and that its rows are those it began with.

    Once it has a checkpoint, the adapter that it began from is not asked for.
    """
    mix.check_frozen(run.folder)
    checkpoints.check_settings(run)
    check(replace(run.config, adapters="") if checkpoints.newest_step(run) else run.config, device)
