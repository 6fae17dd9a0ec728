"""What stands in the way of a start on this machine: too little memory, other programs on the card, a full or lost disk.

Each says how much is needed and how much there is, and has the settings that would mend it where settings can.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from core import estimate, storage
from core.advice import Finding, Fix
from core.config import TrainConfig
from core.device import Device
from core.errors import StorageError
from core.fact import Value
from core.holders import Held
from core.models import ModelInfo
from core.text import Text

# In memory and on disk an adapter is float32; a checkpoint has AdamW's two moments beside it.
_ADAPTER_BYTES, _CHECKPOINT_BYTES = 4, 12
_WAYS: tuple[tuple[tuple[tuple[str, Value], ...], Text], ...] = (
    ((("quant_method", "bnb"),), Text("改用 QLoRA", "Use QLoRA")),
    ((("gradient_checkpointing", "auto"),), Text("重算中间结果", "Recompute layers")),
    ((("max_memory_gb", 0.0),), Text("不设显存上限", "No memory limit")),
)
_MOST_WAYS = 2


def memory(
    config: TrainConfig,
    device: Device,
    needed_bytes: int,
    free_bytes: int,
    needed_by: Callable[[TrainConfig], int],
    held: Held,
) -> list[Finding]:
    """What there is to know of memory before a start; nothing where it fits and no other program holds any.

    `needed_by` gives the estimated peak of other settings.
    """
    fits = estimate.judge(needed_bytes, free_bytes)
    others = held.said
    if fits == "fits":
        return [] if others is None else [Finding("note", others, kind="holders")]
    needed, free = _gb(needed_bytes), _gb(free_bytes)
    if config.max_memory_gb and free_bytes >= int(config.max_memory_gb * 1e9):
        return [_limited(config, needed_bytes, needed, needed_by)]
    said = {
        "too big": Text(
            f"预计需要 {needed}，可用 {free}，放不下。", f"About {needed} needed, {free} free: it does not fit."
        ),
        "tight": Text(
            f"预计需要 {needed}，可用 {free}，余量不到一成。",
            f"About {needed} needed, {free} free: less than a tenth is left.",
        ),
    }[fits]
    text = Text(said.zh, said.en)
    if others is not None:
        text = Text(
            f"{said.zh}{others.zh}先关掉它们，或换一种设置。",
            f"{said.en} {others.en} End them first, or change the settings.",
        )
    fixes = lighter(config, needed_bytes, needed_by) if device.kind == "cuda" or fits == "too big" else ()
    return [Finding("warn", text, fixes=fixes, kind="memory")]


def _limited(config: TrainConfig, needed_bytes: int, needed: str, needed_by: Callable[[TrainConfig], int]) -> Finding:
    """The limit that was set is what is in the way: it can go, whatever else would help."""
    limit = _gb(int(config.max_memory_gb * 1e9))
    text = Text(
        f"预计需要 {needed}，而显存上限设成了 {limit}。请提高或取消上限，或换一种更省的设置。",
        f"About {needed} needed, and the memory limit is {limit}. Raise or lift it, or choose settings that take less.",
    )
    settings, label = _WAYS[-1]
    others = (fix for fix in lighter(config, needed_bytes, needed_by) if fix.settings != settings)
    return Finding("warn", text, fixes=(Fix(label, settings), *others)[:_MOST_WAYS], kind="memory")


def lighter(config: TrainConfig, needed_bytes: int, needed_by: Callable[[TrainConfig], int]) -> tuple[Fix, ...]:
    """Changes that would take less memory, each with what it would take; the least first."""
    found: list[tuple[int, Fix]] = []
    for settings, label in _WAYS:
        other = replace(config, **dict(settings))  # type: ignore[arg-type]
        if other == config or (other.quant_method == "bnb" and importlib.util.find_spec("bitsandbytes") is None):
            continue
        needed = needed_by(other)
        if needed < 0.95 * needed_bytes:
            size = _gb(needed)
            found.append((needed, Fix(Text(f"{label.zh}（约 {size}）", f"{label.en} (about {size})"), settings)))
    return tuple(fix for _, fix in sorted(found, key=lambda one: one[0])[:_MOST_WAYS])


def disk(config: TrainConfig, info: ModelInfo, folder: Path) -> list[Finding]:
    """Whether the disk has room for what a run keeps: its adapter and checkpoints."""
    if not folder.is_dir():
        return [Finding("bad", storage.gone(folder), kind="disk")]
    needed, free = run_bytes(config, info), shutil.disk_usage(folder).free
    if free >= needed:
        return []
    text = Text(
        f"磁盘空间不够：{folder} 空闲 {_gb(free)}，这次训练的检查点和适配器约 {_gb(needed)}。请清理磁盘，或少留几个检查点。",
        f"Too little disk space: {folder} has {_gb(free)} free, and the run keeps about {_gb(needed)} of checkpoints and "
        "adapter. Free some space, or keep fewer checkpoints.",
    )
    fix = Fix(Text("只留 1 个检查点", "Keep 1 checkpoint"), (("save_total_limit", 1),))
    return [Finding("warn", text, fixes=(fix,) if config.save_total_limit > 1 else (), kind="disk")]


def check_disk(config: TrainConfig, info: ModelInfo, folder: Path) -> None:
    """Refuse a start whose first checkpoint cannot be written. Raises StorageError: the folder is gone, read-only or full."""
    storage.check_writable(folder)
    parameters = estimate.adapter_parameters(info, config)
    needed, free = parameters * (_ADAPTER_BYTES + _CHECKPOINT_BYTES), shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            Text(
                f"磁盘已满：{folder} 只剩 {_gb(free)}，一个检查点和适配器要 {_gb(needed)}。请清理磁盘，或用 --home 换一个文件夹。",
                f"Disk full: {folder} has {_gb(free)} left, and one checkpoint with the adapter takes {_gb(needed)}. Free some "
                "space or choose another folder with --home.",
            )
        )


def run_bytes(config: TrainConfig, info: ModelInfo) -> int:
    """What a run keeps on disk: the adapter, and checkpoints up to the limit with the best and one being written."""
    parameters = estimate.adapter_parameters(info, config)
    return parameters * (_ADAPTER_BYTES + (config.save_total_limit + 2) * _CHECKPOINT_BYTES)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
