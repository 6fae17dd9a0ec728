"""The adapter that a run trains, from its settings: a fresh LoRA of the asked kind, or one that goes on from a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import adapters
from core.adapters import Adapter
from core.config import TrainConfig, fact_of
from core.errors import ConfigError, ModelError
from core.fact import Value
from core.text import Text

if TYPE_CHECKING:
    from peft import LoraConfig

    from core.backend import Backend
    from core.models import ModelInfo

ALL_LINEAR = "all-linear"
GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
# What must be said by the adapter's folder and by the settings alike.
_SHARED = ("lora_rank", "lora_alpha", "use_rslora", "use_dora")


def check(config: TrainConfig) -> None:
    """Refuse settings of an adapter that contradict each other or the folder it goes on from, before a model is loaded.

    Raises ConfigError with both values; ModelError if `config.adapters` is no usable adapter folder.
    """
    if config.use_dora == "true" and config.init_weights.startswith("pissa"):
        raise ConfigError(
            Text(
                zh=f"init_weights = {config.init_weights} 和 use_dora = true 不能同时用。请去掉其中一个。",
                en=f"init_weights = {config.init_weights} and use_dora = true exclude each other. Drop one of them.",
            ),
            "init_weights",
        )
    if not config.adapters:
        return
    adapter = source(config)
    if config.init_weights != "true":
        raise _contradiction("init_weights", "true", config.init_weights, adapter)
    theirs = adapters.settings(adapter)
    for name in _SHARED:
        if theirs[name] != getattr(config, name):
            raise _contradiction(name, theirs[name], getattr(config, name), adapter)


def source(config: TrainConfig) -> Adapter:
    """The adapter that `config.adapters` names. Raises ModelError if that is no adapter folder."""
    return adapters.read(adapters.folder_of(config.adapters))


def put(backend: Backend, handle: str, config: TrainConfig, info: ModelInfo) -> None:
    """Put the adapter that a run trains into the model as `handle`.

    Raises ConfigError for settings that do not go together or layers that the model lacks, ModelError for an adapter
    that was made for another model or is damaged. A refused one leaves no trace.
    """
    check(config)
    wanted = _targets(config.target_modules, backend)
    if config.adapters:
        adapter = source(config)
        _same_targets(config, adapter, wanted, backend)
        lora = adapters.lora_config(adapter)
        lora.lora_dropout = config.lora_dropout
        lora.base_model_name_or_path = str(info.folder)
        fill(backend, handle, adapter, lora, info, config.seed, config.neftune_noise_alpha)
    else:
        backend.add_adapter(handle, _fresh(config, wanted, info), config.seed, config.neftune_noise_alpha)


def fill(
    backend: Backend,
    handle: str,
    adapter: Adapter,
    lora: LoraConfig,
    info: ModelInfo,
    seed: int = 0,
    noise_alpha: float = 0.0,
) -> None:
    """Put an adapter from its folder into the model as `handle`. A refused one leaves no trace.

    Raises ModelError naming what does not fit.
    """
    begins, lora.init_lora_weights = lora.init_lora_weights, False  # it is filled at once
    try:
        backend.add_adapter(handle, lora, seed, noise_alpha)
        expected, _ = backend.adapter_state(handle)
        shapes = {key: tuple(tensor.shape) for key, tensor in expected.items()}
        backend.load_adapter_state(handle, adapters.check_tensors(adapter, shapes, info))
        lora.init_lora_weights = begins
    except BaseException as error:
        backend.delete_adapter(handle)
        if isinstance(error, ValueError):
            raise ModelError(
                Text(
                    zh=f"适配器 {adapter.name} 的目标模块在 {info.label} 里不存在：它是为别的模型训练的。",
                    en=f"The layers adapter {adapter.name} targets are not in {info.label}: it was made for another model.",
                )
            ) from error
        raise


def _fresh(config: TrainConfig, wanted: set[str], info: ModelInfo) -> LoraConfig:
    from peft import LoraConfig

    every = config.target_modules == ALL_LINEAR
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora == "true",
        use_dora=config.use_dora == "true",
        init_lora_weights=True if config.init_weights == "true" else config.init_weights,
        # Not the names: a layer of the same name elsewhere, such as the output's, is not meant by all-linear.
        target_modules=ALL_LINEAR if every else sorted(wanted),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(info.folder),
    )


def _targets(asked: str, backend: Backend) -> set[str]:
    """The layers' last names that `target_modules` means in this model. Raises ConfigError if it has not all of them."""
    if asked == ALL_LINEAR:
        return backend.all_linear_names()
    names, there = set(GROUPS.get(asked) or asked.split()), backend.linear_names()
    absent = sorted(names - there)
    if absent or not names:
        raise ConfigError(
            Text(
                zh=f"目标模块 {' '.join(absent) or '（空）'} 在这个模型里不存在。可用 all-linear、attention、mlp，"
                f"或这些层名：{' '.join(sorted(there))}。",
                en=f"Target modules {' '.join(absent) or '(none)'} do not exist in this model. Use all-linear, "
                f"attention, mlp, or of these layers: {' '.join(sorted(there))}.",
            ),
            "target_modules",
        )
    return names


def _same_targets(config: TrainConfig, adapter: Adapter, wanted: set[str], backend: Backend) -> None:
    theirs = adapters.target_names(adapter)
    # Layers that the model has not are no matter of the setting: the adapter is another model's.
    if theirs != wanted and theirs and theirs <= backend.linear_names():
        raise _contradiction("target_modules", " ".join(sorted(theirs)), config.target_modules, adapter)


def _contradiction(name: str, theirs: Value, ours: Value, adapter: Adapter) -> ConfigError:
    label = fact_of(name).label
    return ConfigError(
        Text(
            zh=f"接着训练的适配器 {adapter.folder} 的{label.zh}（{name}）是 {theirs}，设置里是 {ours}。"
            f"请把 {name} 设为 {theirs}，或清空 adapters 从头训练。",
            en=f"{label.en} ({name}) is {theirs} in the adapter to go on from, {adapter.folder}, and {ours} in the "
            f"settings. Set {name} to {theirs}, or clear adapters to start afresh.",
        ),
        name,
    )
