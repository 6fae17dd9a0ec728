"""The waist: sole owner of the resident model and of the device. Loads it once, lends it by turns, keeps its adapters.

Every other module reaches the model through `turn()` and the backend inside it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core import adapters, models
from core.config import TrainConfig
from core.device import Device, find_device
from core.encode import Encoder, encoder_for
from core.errors import BusyError, ConfigError, ModelError
from core.models import ModelInfo, Progress
from core.text import Text
from core.turn import TurnLock

if TYPE_CHECKING:
    import torch

    from core.plain import PlainBackend

State = Literal["absent", "loading", "ready", "failed"]
NO_BITSANDBYTES = Text(
    zh="4 比特量化和 8 比特优化器需要 bitsandbytes,这台机器上没有安装。请运行 pip install bitsandbytes,或改用不量化的方案。",
    en="4-bit quantisation and the 8-bit optimizer need bitsandbytes, which is not installed. Run pip install bitsandbytes, "
    "or choose a preset without quantisation.",
)
_TARGETS = {
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
}


@dataclass(frozen=True)
class Resident:
    """What is loaded: a base model in one precision, ready to work."""

    info: ModelInfo
    quant_method: str
    dtype: str
    encoder: Encoder
    pad_id: int
    backend: PlainBackend


class Engine:
    """One base model at a time. `load` and everything that changes layers happen inside a turn."""

    def __init__(self, device: Device | None = None) -> None:
        self.device = device or find_device()
        self.state: State = "absent"
        self._resident: Resident | None = None
        self._lock = TurnLock()
        self._attached: dict[str, str] = {}  # adapter -> its name inside PEFT, which allows no dots and no layer names
        self._made = itertools.count()
        self._holder: str | None = None

    # -- turns --

    @contextlib.contextmanager
    def turn(self) -> Iterator[Resident]:
        """The model, to oneself, for the length of the block. Not reentrant. Raises ModelError if none is loaded."""
        with self._lock():
            if self._resident is None:
                raise ModelError(Text(zh="还没有载入模型。", en="No model is loaded yet."))
            yield self._resident

    @property
    def busy(self) -> bool:
        """Whether somebody holds the model now."""
        return self._lock.busy

    @property
    def resident(self) -> Resident | None:
        """What is loaded, to look at; use it only inside a turn."""
        return self._resident

    # -- the base model --

    @contextlib.contextmanager
    def held(self, holder: str) -> Iterator[None]:
        """While the block runs, nobody but `holder` can exchange the model: a run's base stays the run's."""
        with self._lock():
            self._holder = holder
        try:
            yield
        finally:
            self._holder = None

    def load(
        self,
        name: str,
        quant_method: str = "none",
        torch_dtype: str = "auto",
        progress: Progress | None = None,
        holder: str | None = None,
    ) -> None:
        """Make `name` the resident model; nothing happens if it already is. The one before is freed first.

        Raises BusyError if somebody else holds another model.
        """
        info = models.inspect(name)
        dtype = self._dtype(torch_dtype)
        with self._lock():
            now = self._resident
            if now is not None and (now.info.folder, now.quant_method, now.dtype) == (info.folder, quant_method, dtype):
                return
            if self._holder not in (None, holder):
                raise BusyError(
                    Text(
                        zh="正在训练,不能换模型。请等它结束,或先按停止。",
                        en="A run is using the model. Wait for it to end, or press Stop first.",
                    )
                )
            self._free()
            self.state = "loading"
            try:
                self._resident = _load(info, quant_method, dtype, self.device, progress)
                self.state = "ready"
            except BaseException:
                self.state = "failed"
                self._free()
                raise

    def unload(self) -> None:
        """Free the model and its memory."""
        with self._lock():
            self._free()
            self.state = "absent"

    def _free(self) -> None:
        self._resident = None
        self._attached.clear()
        gc.collect()
        if self.device.kind == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _dtype(self, asked: str) -> str:
        if asked != "auto":
            return asked
        return "bfloat16" if self.device.kind == "cuda" else "float32"

    # -- adapters --

    @property
    def attached(self) -> tuple[str, ...]:
        """Names of the adapters that the resident model answers to."""
        return tuple(self._attached)

    def create_adapter(self, name: str, config: TrainConfig) -> None:
        """A fresh adapter to train, by the run's settings."""
        from peft import LoraConfig

        targets: str | list[str] = "all-linear"
        if config.target_modules != targets:
            targets = _TARGETS.get(config.target_modules) or config.target_modules.split()
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        with self.turn() as resident:
            lora.base_model_name_or_path = str(resident.info.folder)
            there = resident.backend.linear_names()
            absent = [target for target in targets if target not in there] if isinstance(targets, list) else []
            if absent or not targets:
                raise ConfigError(
                    Text(
                        zh=f"目标层 {' '.join(absent) or '(空)'} 在这个模型里不存在。可用 all-linear、attention、mlp,"
                        f"或这些层名:{' '.join(sorted(there))}。",
                        en=f"Target modules {' '.join(absent) or '(none)'} do not exist in this model. Use all-linear, "
                        f"attention, mlp, or of these layers: {' '.join(sorted(there))}.",
                    ),
                    "target_modules",
                )
            handle = self._new_handle()
            resident.backend.add_adapter(handle, lora, config.seed)
            self._attached[name] = handle

    def attach(self, adapter: adapters.Adapter) -> None:
        """Make the resident model answer to `adapter.name`; nothing happens if it does. A refused one leaves no trace."""
        from peft import LoraConfig

        with self.turn() as resident:
            if adapter.name in self._attached:
                return
            config = LoraConfig.from_pretrained(str(adapter.folder))
            adapters.check_config(adapter, config)
            config.inference_mode = True
            handle = self._new_handle()
            try:
                resident.backend.add_adapter(handle, config, seed=0)
                expected, _ = resident.backend.adapter_state(handle)
                shapes = {key: tuple(tensor.shape) for key, tensor in expected.items()}
                resident.backend.load_adapter_state(handle, adapters.check_tensors(adapter, shapes, resident.info))
            except BaseException as error:
                resident.backend.delete_adapter(handle)
                if isinstance(error, ValueError):
                    raise ModelError(
                        Text(
                            zh=f"适配器 {adapter.name} 的目标层在 {resident.info.label} 里不存在:它是为别的模型训练的。",
                            en=f"The layers adapter {adapter.name} targets are not in {resident.info.label}: "
                            "it was made for another model.",
                        )
                    ) from error
                raise
            self._attached[adapter.name] = handle

    def detach(self, name: str) -> None:
        """Take an adapter out of the model. Unknown names are fine."""
        with self._lock():
            if self._resident is not None and name in self._attached:
                self._resident.backend.delete_adapter(self._attached.pop(name))

    def save_adapter(self, name: str, folder: Path, card: Mapping[str, object]) -> None:
        """Write an attached adapter to `folder`. The tensors are copied inside a turn, written outside it."""
        with self.turn() as resident:
            tensors, config = resident.backend.adapter_state(self.handle(name))
            host = {key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()}
        adapters.save(folder, host, config, card)

    def handle(self, name: str) -> str:
        """What the backend calls an attached adapter. Raises ModelError if it is not attached."""
        if name not in self._attached:
            raise ModelError(Text(zh=f"适配器 {name} 没有挂上。", en=f"Adapter {name} is not attached."))
        return self._attached[name]

    def _new_handle(self) -> str:
        return f"a{next(self._made)}"


def _load(info: ModelInfo, quant_method: str, dtype: str, device: Device, progress: Progress | None) -> Resident:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from core.plain import PlainBackend

    _quiet_libraries()
    # cuDNN's attention builds a plan for every new length: 71 ms a token until a length was seen, 23 ms afterwards.
    torch.backends.cuda.enable_cudnn_sdp(False)
    where = torch.device("cuda", 0) if device.kind == "cuda" else torch.device("cpu")
    if progress is not None:
        progress(info.label, 0, info.weight_bytes)
    tokenizer = AutoTokenizer.from_pretrained(str(info.folder), local_files_only=True, trust_remote_code=False)
    extra: dict[str, object] = {}
    if quant_method == "bnb":
        extra["quantization_config"] = _nf4(getattr(torch, dtype))
    model, outcome = AutoModelForCausalLM.from_pretrained(
        str(info.folder),
        dtype=getattr(torch, dtype),
        device_map={"": where},
        attn_implementation="sdpa",
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **extra,
    )
    lost = sorted(outcome["missing_keys"])
    if lost:
        raise ModelError(
            Text(
                zh=f"{info.folder} 的权重缺少 {len(lost)} 个张量(例如 {lost[0]}),会变成随机值,因此不加载。请重新下载。",
                en=f"The weights in {info.folder} lack {len(lost)} tensors (first: {lost[0]}); they would be random, so "
                "the model is not loaded. Download it again.",
            )
        )
    if quant_method == "bnb":
        _keep_backward_possible(model)
    # Adapters stay in float32; matrix products run in the base's 16-bit type where it has one.
    autocast = getattr(torch, dtype) if where.type == "cuda" and dtype != "float32" else None
    pad = tokenizer.pad_token_id
    encoder = encoder_for(tokenizer)
    if progress is not None:
        progress(info.label, info.weight_bytes, info.weight_bytes)
    return Resident(
        info=info,
        quant_method=quant_method,
        dtype=dtype,
        encoder=encoder,
        pad_id=pad if isinstance(pad, int) else encoder.stop_ids[0],
        backend=PlainBackend(model, where, autocast),
    )


def _quiet_libraries() -> None:
    """Keep other libraries' progress bars and advice off the console; their errors still come through."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # missing CPU kernels it can do without
    # PEFT asks transformers under a name deprecated after 5.17.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def _nf4(compute: torch.dtype) -> object:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError(NO_BITSANDBYTES) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def _keep_backward_possible(model: torch.nn.Module) -> None:
    """On processors with AVX512-BF16 an eval forward of Linear4bit repacks its weights and a later backward raises."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
