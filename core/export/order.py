"""What is to be exported, as what, and how much that takes: decided before anything is written."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from core import adapters, anatomy, models
from core.errors import ConfigError, ModelError, StorageError, UserError
from core.export import gguf_file, llama_quantize
from core.export.weights import Weights
from core.generate import STRONGEST
from core.text import Text

Format = Literal["adapter", "zip", "merged", "merged-f32", "gguf", "gguf-adapter", "bnb"]
FORMATS: tuple[Format, ...] = get_args(Format)
LABELS: dict[Format, Text] = {
    "adapter": Text("适配器文件夹（PEFT）", "Adapter folder (PEFT)"),
    "zip": Text("适配器压缩包", "Adapter as a zip"),
    "merged": Text("合并后的模型（safetensors）", "Merged model (safetensors)"),
    "merged-f32": Text("合并后的模型，float32（safetensors）", "Merged model in float32 (safetensors)"),
    "gguf": Text("合并后的 GGUF（llama.cpp、Ollama）", "Merged GGUF (llama.cpp, Ollama)"),
    "gguf-adapter": Text("适配器 GGUF（llama.cpp、Ollama）", "Adapter as GGUF (llama.cpp, Ollama)"),
    "bnb": Text("合并后的 4 比特模型（bitsandbytes）", "Merged 4-bit model (bitsandbytes)"),
}
# Bits a weight takes in a GGUF file.
_BITS = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q6_k": 6.6, "q5_k_m": 5.7, "q5_1": 6, "q5_0": 5.5, "q4_k_m": 4.9,
    "q4_1": 5, "q4_0": 4.5, "q3_k_m": 3.9,
}  # fmt: skip
QUANTISATIONS = tuple(_BITS)
_NF4_BITS = 4.13
_NAME = re.compile(r"[\w\u4e00-\u9fff][\w\u4e00-\u9fff.-]{0,79}")


@dataclass(frozen=True)
class Order:
    """An export: of the adapter in `adapter`, on the base model `model`, as `format` into the new folder `target`.

    `quantisation` is for GGUF; `strength` is folded into the weights; `name` is what other programs shall call it;
    `system`: the prompt of its training; `language`: of its README; `rows`: the training rows stand in its card.
    """

    adapter: Path
    model: str
    format: Format
    target: Path
    name: str
    system: str = ""
    quantisation: str = "f16"
    strength: float = 1.0
    language: Literal["zh", "en"] = "zh"
    rows: bool = False

    def check(self) -> None:
        """Refuse what cannot be done, before anything is written. Raises ConfigError, ModelError or StorageError."""
        if self.format not in FORMATS:
            raise _unknown("format", self.format, FORMATS)
        if self.format == "gguf" and self.quantisation not in QUANTISATIONS:
            raise _unknown("quantisation", self.quantisation, QUANTISATIONS)
        if not 0 < self.strength <= STRONGEST:
            raise ConfigError(
                Text(
                    f"强度 {self.strength:g} 不在 0 到 {STRONGEST:g} 之间。",
                    f"Strength {self.strength:g} is not between 0 and {STRONGEST:g}.",
                ),
                "strength",
            )
        self.check_name()
        self._check_parts()
        self._check_room()

    def check_name(self) -> None:
        """Raise ConfigError for a name that cannot become a file's."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                Text(
                    f"名称“{self.name[:80]}”不能用：只能有文字、数字、-、_ 和 .，最多 80 个字。",
                    f"The name “{self.name[:80]}” will not do: letters, digits, -, _ and ., at most 80 of them.",
                ),
                "name",
            )

    def problem(self) -> Text | None:
        """Why this adapter cannot be exported so, whatever the disk has room for; None if it can."""
        try:
            self._check_parts()
            self.nbytes()
        except UserError as error:
            return error.text
        return None

    def _check_parts(self) -> None:
        found = anatomy.examine(self.adapter)
        base = models.inspect(self.model).folder
        unlike = anatomy.misfit(found, base)
        if unlike is not None:
            raise ModelError(
                Text(
                    f"适配器与基座 {self.model} 不符：{unlike.zh}。",
                    f"The adapter does not fit the base {self.model}: {unlike.en}.",
                )
            )
        if self.format in ("adapter", "zip") and self.strength != 1 and found.kind in ("DoRA", "rsDoRA"):
            raise ModelError(
                Text(
                    "DoRA 适配器不能只按一个倍数缩放。请导出合并后的模型（merged），强度会算进权重里。",
                    "A DoRA adapter cannot be scaled by one factor. Export the merged model (merged) instead: the strength is "
                    "folded into its weights.",
                )
            )
        if self.format == "gguf":
            gguf_file.check(base)
            if self.quantisation not in gguf_file.KINDS:
                llama_quantize.check(self.quantisation)
        elif self.format == "gguf-adapter":
            gguf_file.check(base)
        if self.format == "bnb":
            _check_bitsandbytes()

    def _check_room(self) -> None:
        if self.target.exists() and (not self.target.is_dir() or any(self.target.iterdir())):
            raise StorageError(
                Text(
                    f"{self.target} 已经存在而且不是空的。请换一个文件夹，或先移走它。",
                    f"{self.target} exists and is not empty. Choose another folder, or move it away first.",
                )
            )
        there = self.target.parent
        while not there.exists():
            there = there.parent
        needed, free = self.room(), shutil.disk_usage(there).free
        if needed > free:
            raise StorageError(
                Text(
                    f"导出需要 {needed / 1e9:.1f} GB，{there} 只剩 {free / 1e9:.1f} GB。请清理磁盘或换一个位置。",
                    f"The export takes {needed / 1e9:.1f} GB; {there} has {free / 1e9:.1f} GB left. Free some space or choose "
                    "another place.",
                )
            )

    def nbytes(self) -> int:
        """What the export will weigh, bytes, within a few per cent."""
        body = (self.adapter / adapters.WEIGHTS).stat().st_size
        if self.format in ("adapter", "zip", "gguf-adapter"):
            return body + 100_000
        base = models.inspect(self.model)
        matrices = base.linear_parameters + base.embedding_parameters
        tokenizer = 12_000_000 if base.vocab_size > 50_000 else 1_000_000
        if self.format == "gguf":
            return int(matrices * _BITS[self.quantisation] / 8) + tokenizer
        whole = Weights(
            base.folder, self.adapter, self.strength, float32="all" if self.format == "merged-f32" else ""
        ).nbytes
        if self.format in ("merged", "merged-f32"):
            return whole + tokenizer
        return int(whole - base.linear_parameters * (16 - _NF4_BITS) / 8) + tokenizer

    def room(self) -> int:
        """Bytes the disk must have free while it is made: what it is made from is there, too, for some."""
        staged = 0
        if self.format == "bnb":
            staged = Weights(models.inspect(self.model).folder, None).nbytes
        if self.format == "gguf" and self.quantisation not in gguf_file.KINDS:
            base = models.inspect(self.model)
            staged = 2 * (base.linear_parameters + base.embedding_parameters)
        return int(1.02 * (self.nbytes() + staged))


def _check_bitsandbytes() -> None:
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(models.NO_BITSANDBYTES)


def _unknown(field: str, given: str, known: tuple[str, ...]) -> ConfigError:
    listed = ", ".join(known)
    return ConfigError(
        Text(f"{field} 没有“{given}”这一种。可选：{listed}。", f"{field} has no “{given}”. There are: {listed}."), field
    )
