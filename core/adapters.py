"""Adapters as folders: a plain PEFT folder plus onecard.json (training system prompt, identity words).

Checks a folder before any of it reaches the model: safetensors only, shapes that fit, finite values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from core import models, storage
from core.errors import ModelError, StorageError
from core.fact import Value
from core.models import ModelInfo
from core.text import Text

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

MOST = 3.4028234663852886e38  # float32's: a larger value would be infinite in the model
CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "onecard.json"
MAX_RANK = 1024
MAX_ALPHA = 1_000_000  # beyond any use; what is beyond 32 bits would make every answer NaN
_DEFAULTS = {"lora_alpha": 8, "lora_dropout": 0.0, "use_rslora": False, "use_dora": False}  # PEFT's


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk. `new_words` show its identity in an answer, `old_words` the base's."""

    name: str
    folder: Path
    base_model: str
    rank: int
    system: str
    new_words: tuple[str, ...] = ()
    old_words: tuple[str, ...] = ()


def write(folder: Path, tensors: Mapping[str, torch.Tensor], config: LoraConfig, card: Mapping[str, object]) -> None:
    """Write PEFT's config and weights (float32, host), and our card beside them, into a folder that is being filled.

    Raises ModelError naming the first tensor that is not finite: what gives garbage is not written, whoever asks.
    """
    host = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
    for key, tensor in host.items():
        if not _all_finite(tensor):
            raise ModelError(
                Text(
                    zh=f"适配器的 {key} 含有 NaN 或无穷大，会让回答变成乱码，因此没有保存。请用更小的学习率重新训练。",
                    en=f"{key} of the adapter holds NaN or infinite values and would give garbage, so it was not saved. "
                    "Train again at a lower learning rate.",
                )
            )
    write_tensors(folder / WEIGHTS, host)
    config.save_pretrained(str(folder))
    storage.write_json(folder / CARD, dict(card))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file. Raises StorageError, which says what to do, for a disk that is full or fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:  # what the system said is in its text only
        raise StorageError(storage.not_written(path, str(error))) from error


def folder_of(name: str) -> Path:
    """The folder that somebody named. Raises ModelError if there is none, or can be none, of that name."""
    path = storage.path_of(name)
    if path is None or not path.is_dir():
        raise ModelError(
            Text(
                zh=f"没有适配器文件夹“{name[:300]}”。请填这台机器上它的完整路径，或以前一次训练的名字。",
                en=f"There is no adapter folder “{name[:300]}”. Enter its full path on this machine, or the name of an earlier "
                "run.",
            )
        )
    return path.resolve()


def read(folder: Path, name: str = "") -> Adapter:
    """Describe the adapter in `folder`. Raises ModelError if it is none, is a pickle, or is out of bounds."""
    config_path = folder / CONFIG
    if not config_path.is_file():
        raise ModelError(
            Text(
                zh=f"{folder} 不是适配器文件夹（没有 adapter_config.json）。",
                en=f"{folder} is no adapter folder (it has no adapter_config.json).",
            )
        )
    if not (folder / WEIGHTS).is_file():
        pickled = any(path.name != WEIGHTS for path in folder.glob("adapter_model.*"))
        raise ModelError(
            Text(
                zh=f"{folder} 里{'只有 pickle 格式的权重，出于安全不加载' if pickled else f'缺少 {WEIGHTS}'}。请换成 safetensors。",
                en=f"{folder} {'holds pickled weights, which are not loaded for safety' if pickled else f'lacks {WEIGHTS}'}. "
                "Save it as safetensors.",
            )
        )
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        rank = config["r"]
        if config.get("peft_type") != "LORA" or type(rank) is not int or not 0 < rank <= MAX_RANK:
            raise ValueError
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ModelError(
            Text(
                zh=f"{config_path} 不是可用的 LoRA 配置（秩应在 1 到 {MAX_RANK}）。",
                en=f"{config_path} is no usable LoRA configuration (rank must be 1 to {MAX_RANK}).",
            )
        ) from None
    card = card_of(folder)
    return Adapter(
        name=name or folder.name,
        folder=folder,
        base_model=str(base) if isinstance(base := config.get("base_model_name_or_path"), str) else "",
        rank=rank,
        system=str(card.get("system", "")),
        new_words=words_of(card.get("new_words")),
        old_words=words_of(card.get("old_words")),
    )


def settings(adapter: Adapter) -> dict[str, Value]:
    """What a run that goes on from the adapter must agree with, as TrainConfig names it. Needs no torch.

    Raises ModelError if the folder's configuration is no usable one.
    """
    config = {**_DEFAULTS, **json.loads((adapter.folder / CONFIG).read_text(encoding="utf-8"))}
    check_values(adapter.folder, config)
    return {
        "lora_rank": adapter.rank,
        "lora_alpha": round(config["lora_alpha"]),  # a fraction where PiSSA and rsLoRA met
        "use_rslora": str(config["use_rslora"]).lower(),
        "use_dora": str(config["use_dora"]).lower(),
    }


def target_names(adapter: Adapter) -> set[str]:
    """Last names of the layers that the adapter has tensors for. Raises ModelError if its weights cannot be read."""
    return {path.rpartition(".")[2] for path in _layers(adapter)}


def _layers(adapter: Adapter) -> set[str]:
    """Paths in the model of the layers that the adapter has tensors for. Raises ModelError, see `target_names`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(adapter.folder / WEIGHTS), framework="pt", device="cpu") as file:
            keys = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(adapter) from error
    return {key.partition(".lora_")[0].removeprefix("base_model.model.") for key in keys if ".lora_" in key}


def lora_config(adapter: Adapter) -> LoraConfig:
    """PEFT's configuration of the adapter, of nothing but what `check_settings` has checked."""
    from peft import LoraConfig

    config: dict[str, Any] = json.loads((adapter.folder / CONFIG).read_text(encoding="utf-8"))
    check_settings(adapter.folder, config, adapter.name)
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if isinstance(targets, str) or isinstance(excluded, str) or not targets:
        # A pattern is somebody's program for a regex engine: what it matched stands in the weights.
        targets, excluded = sorted(_layers(adapter)), None
    begins = config.get("init_lora_weights", True)
    return LoraConfig(
        r=adapter.rank,
        **{name: config.get(name, value) for name, value in _DEFAULTS.items()},
        target_modules=targets,
        exclude_modules=excluded,
        # It is filled from its file, however it began.
        init_lora_weights=begins if begins in (True, False, "gaussian") else True,
        inference_mode=config.get("inference_mode") is True,
        task_type="CAUSAL_LM",
        base_model_name_or_path=adapter.base_model,
    )


# What an adapter's configuration may say for itself; anything else must be off, empty or of no effect.
_OWN_FIELDS = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora", "use_dora", "fan_in_fan_out",
    "task_type", "inference_mode", "base_model_name_or_path", "revision", "peft_type", "peft_version", "auto_mapping",
    "init_lora_weights", "unsloth_fixed",
}  # fmt: skip
_WITHOUT_EFFECT = {"bias": "none", "megatron_core": "megatron.core", "qalora_group_size": 16}
# Ways to begin that leave the base as it is; PiSSA, OLoRA and the like train beside a base that they have changed.
_BEGINNINGS = (True, False, "gaussian", "orthogonal", "eva")


def check_settings(folder: Path, config: Mapping[str, object], name: str) -> None:
    """Raise ModelError if an adapter_config.json asks for more than LoRA, rsLoRA or DoRA on linear layers.

    Some of it would change the base for good (PiSSA and OLoRA initialisation, layer replication), some would ask for any
    amount of memory (rank patterns), some is not answered for row by row (saved modules), and some is newer than we are.
    """
    odd = [
        key
        for key, value in config.items()
        if key not in _OWN_FIELDS and value not in (None, False, "", [], {}) and value != _WITHOUT_EFFECT.get(key)
    ]
    if config.get("init_lora_weights", True) not in _BEGINNINGS:
        odd.append("init_lora_weights")
    if odd:
        named = ", ".join(key[:60] for key in odd[:8])
        raise ModelError(
            Text(
                zh=f"适配器 {name} 使用了这里还不支持的设置：{named}。只支持线性层上的 LoRA、rsLoRA 和 DoRA。",
                en=f"Adapter {name} uses settings that are not supported here: {named}. Only LoRA, rsLoRA and "
                "DoRA on linear layers are.",
            )
        )
    check_values(folder, {**_DEFAULTS, **config})


def check_tensors(
    adapter: Adapter, expected: Mapping[str, tuple[int, ...]], info: ModelInfo
) -> dict[str, torch.Tensor]:
    """Load the weights on the host and hold every one against the shapes the model expects.

    `expected`: PEFT's key -> shape. Raises ModelError naming the first tensor that is missing, foreign, of another
    shape, or not finite.
    """
    from safetensors import SafetensorError, safe_open

    path = adapter.folder / WEIGHTS
    try:
        with safe_open(str(path), framework="pt", device="cpu"):  # refuses headers that do not add up
            header = models.read_header(path)
    except (SafetensorError, OSError, ModelError) as error:
        raise _damaged(adapter) from error
    # PEFT writes the base's own output layer beside an adapter on it: not read, it is in memory.
    keys = {key for key in header if ".base_layer." not in key}
    missing, foreign = sorted(expected.keys() - keys), sorted(keys - expected.keys())
    wrong = sorted(key for key in keys & expected.keys() if header[key].shape != expected[key])
    if missing or foreign or wrong:
        first = (missing or foreign or wrong)[0]
        raise ModelError(
            Text(
                zh=f"适配器 {adapter.name} 是为 {adapter.base_model or '别的模型'} 训练的，与 {info.label} 不符："
                f"缺 {len(missing)} 个、多 {len(foreign)} 个、形状不同 {len(wrong)} 个张量（例如 {first}）。",
                en=f"Adapter {adapter.name} was made for {adapter.base_model or 'another model'} and does not fit "
                f"{info.label}: {len(missing)} tensors missing, {len(foreign)} foreign, {len(wrong)} of another shape "
                f"(first: {first}).",
            )
        )
    return _finite(adapter, {key: header[key] for key in keys})


def _finite(adapter: Adapter, header: Mapping[str, models.Entry]) -> dict[str, torch.Tensor]:
    """Read these tensors, all as views of one block of memory. Raises ModelError naming the first that is not finite."""
    import torch

    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if not all(entry.dtype in types for entry in header.values()):
        raise _damaged(adapter)
    start, end = min(entry.begin for entry in header.values()), max(entry.end for entry in header.values())
    block = torch.empty(end - start, dtype=torch.uint8)
    with (adapter.folder / WEIGHTS).open("rb") as file:
        file.seek(start)
        if file.readinto(block.numpy().data) != end - start:
            raise _damaged(adapter)
    tensors = {}
    for key, entry in header.items():
        part = block[entry.begin - start : entry.end - start]
        part = part if (entry.begin - start) % 16 == 0 else part.clone()  # as aligned as memory of its own
        tensors[key] = part.view(types[entry.dtype]).view(entry.shape)
    # At once where that can be done: hundreds of small checks by two threads take seconds on a busy machine.
    kinds = {entry.dtype for entry in header.values()}
    whole = sum(entry.end - entry.begin for entry in header.values()) == end - start and len(kinds) == 1
    if whole and _all_finite(block.view(types[kinds.pop()])):
        return tensors
    for key, tensor in tensors.items():
        if not _all_finite(tensor):
            raise ModelError(
                Text(
                    zh=f"适配器 {adapter.name} 的 {key} 含有 NaN 或无穷大，会让回答变成乱码，因此不加载。请重新训练。",
                    en=f"{key} of adapter {adapter.name} holds NaN or infinite values and would give garbage; it is not "
                    "loaded. Train it again.",
                )
            )
    return tensors


def _all_finite(tensor: torch.Tensor) -> bool:
    low, high = tensor.aminmax()  # no number is above or below it, and one reading tells
    return -MOST <= float(low) <= float(high) <= MOST  # also false for NaN


def check_values(folder: Path, config: Mapping[str, object]) -> None:
    """Refuse values that PEFT would take as they are: text for a number, any word for true. Raises ModelError."""
    alpha, dropout = config["lora_alpha"], config["lora_dropout"]
    good = {
        "lora_alpha": type(alpha) in (int, float) and 0 < cast(float, alpha) <= MAX_ALPHA,
        "lora_dropout": type(dropout) in (int, float) and 0 <= cast(float, dropout) < 1,
        "use_rslora": type(config["use_rslora"]) is bool,
        "use_dora": type(config["use_dora"]) is bool,
        "target_modules": _names_layers(config.get("target_modules")),
        "exclude_modules": _names_layers(config.get("exclude_modules")),
    }
    said = ", ".join(f"{name} = {_shown(config.get(name))}" for name, fine in good.items() if not fine)
    if said:
        raise ModelError(
            Text(
                zh=f"{folder / CONFIG} 不是可用的 LoRA 配置：{said}。请重新导出或下载这个适配器。",
                en=f"{folder / CONFIG} is no usable LoRA configuration: {said}. Export or download the adapter again.",
            )
        )


def _names_layers(value: object) -> bool:
    """Whether PEFT can take it for layers: nothing, a pattern, or a list of names."""
    return value is None or isinstance(value, str) or (isinstance(value, list) and all(type(x) is str for x in value))


def _shown(value: object) -> str:
    """A value as it is written, of a length that can be read; Python writes no number of over 4,300 digits."""
    try:
        return repr(value)[:60]
    except ValueError:
        return "..."


def _damaged(adapter: Adapter) -> ModelError:
    return ModelError(
        Text(
            zh=f"{adapter.folder / WEIGHTS} 已损坏，无法读取。请重新导出或下载这个适配器。",
            en=f"{adapter.folder / WEIGHTS} is damaged and cannot be read. Export or download the adapter again.",
        )
    )


def card_of(folder: Path) -> dict[str, object]:
    """What onecard.json says; nothing where there is none."""
    try:
        card = storage.read_json(folder / CARD)
    except (OSError, ValueError, RecursionError):
        return {}  # a folder made by another tool has none
    return card if isinstance(card, dict) else {}


def words_of(value: object) -> tuple[str, ...]:
    """A list of words from a card."""
    return tuple(str(word) for word in value) if isinstance(value, list) else ()
