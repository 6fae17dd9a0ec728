"""What an adapter is, by its configuration and the header of its weights alone: kind, layers, soundness, which base.

Loads no weights and needs no torch: a list of adapters is drawn from this.
"""

from __future__ import annotations

import functools
import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from core import adapters, models
from core.errors import ModelError
from core.models import Entry
from core.text import Text

Kind = Literal["LoRA", "rsLoRA", "DoRA", "rsDoRA"]
Shape = tuple[int, ...]
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# The exponent bits of each type: all set means infinite or no number.
_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
_CHUNK_BYTES = 8_000_000
_KEY = re.compile(r"base_model\.model\.(?P<path>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")
_IN_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)\.(.+)$")
# Towers that see have blocks of the same names; experts are one tensor in memory and many in the file.
_ELSEWHERE = re.compile(r"(^|\.)(visual|vision\w*|audio\w*|experts)\.")


@dataclass(frozen=True)
class Anatomy:
    """An adapter's inner facts. `layers`: path in the model -> (out, in) of the weight that it adapts.

    `parameters` counts what is trained.
    """

    rank: int
    alpha: float
    kind: Kind
    layers: Mapping[str, tuple[int, int]]
    base_model: str
    parameters: int

    @property
    def targets(self) -> tuple[str, ...]:
        """The adapted layers' last names."""
        return tuple(sorted({path.rpartition(".")[2] for path in self.layers}))


def examine(folder: Path) -> Anatomy:
    """Look at the adapter in `folder`. Raises ModelError naming the setting, tensor or file that is not in order."""
    adapter = adapters.read(folder)
    config = cast("dict[str, object]", json.loads((folder / adapters.CONFIG).read_text(encoding="utf-8")))
    adapters.check_settings(folder, config, adapter.name)
    header = _header(folder / adapters.WEIGHTS)
    dora, rs = config.get("use_dora") is True, config.get("use_rslora") is True
    layers = _layers(folder / adapters.WEIGHTS, header, adapter.rank, dora)
    return Anatomy(
        rank=adapter.rank,
        alpha=float(cast(float, config.get("lora_alpha", 8))),
        kind=("rsDoRA" if rs else "DoRA") if dora else ("rsLoRA" if rs else "LoRA"),
        layers=layers,
        base_model=adapter.base_model,
        parameters=sum(math.prod(header[key].shape) for key in header if ".base_layer." not in key),
    )


def check_finite(path: Path, told: Callable[[int], None] = lambda _: None) -> None:
    """Read a weights file through, a piece at a time. Raises ModelError naming the first tensor that is not finite.

    `told` is called with the bytes read so far.
    """
    import numpy

    done = 0
    with path.open("rb") as file:
        for key, entry in sorted(_header(path).items(), key=lambda item: item[1].begin):
            kind, exponent = _EXPONENTS[entry.dtype]
            file.seek(entry.begin)
            left = entry.end - entry.begin
            while left:
                raw = file.read(min(left, _CHUNK_BYTES))
                if not raw:
                    raise models.incomplete(path)
                bits = numpy.frombuffer(raw, kind)
                # In float32, which the model has, a larger number of 64 bits is infinite.
                large = entry.dtype == "F64" and bool((abs(bits.view("<f8")) > adapters.MOST).any())
                if large or ((bits & exponent) == exponent).any():
                    raise not_finite(path, key)
                left -= len(raw)
                done += len(raw)
                told(done)


def not_finite(path: Path, key: str) -> ModelError:
    """The error for a tensor with values that are no numbers."""
    return ModelError(
        Text(
            zh=f"{path.name} 的 {key} 含有 NaN 或无穷大，会让回答变成乱码，因此不使用。请重新训练或重新下载。",
            en=f"{key} in {path.name} holds NaN or infinite values and would give garbage; it is not used. Train or "
            "download the adapter again.",
        )
    )


def misfit(anatomy: Anatomy, base: Path) -> Text | None:
    """Why the adapter does not fit the base model in folder `base`; None if it does. Raises ModelError for no base.

    Shapes decide, not names: a base may lie anywhere, and another model may bear the same name.
    """
    there = base_layers(base)
    for path, shape in anatomy.layers.items():
        found = there.get(path) or there.get(_tail(path))
        if found is None:
            return Text(zh=f"这个基座没有 {path} 这一层", en=f"this base has no layer {path}")
        if found != shape and 0 not in found:
            return Text(
                zh=f"{path} 是为 {shape[0]}×{shape[1]} 的层训练的，这个基座是 {found[0]}×{found[1]}",
                en=f"{path} was trained for a layer of {shape[0]} x {shape[1]}, this base has {found[0]} x {found[1]}",
            )
    # All the layers of a smaller base, trained for that one: in this one it would be garbage, at a glance well shaped.
    covered, layers = _numbers(anatomy.layers), _numbers(there)
    if covered == set(range(len(covered))) and len(layers) > len(covered) > 0:
        return Text(
            zh=f"它是为 {len(covered)} 层的模型训练的，这个基座有 {len(layers)} 层",
            en=f"it was trained for a model of {len(covered)} layers, this base has {len(layers)}",
        )
    return None


def base_layers(folder: Path) -> Mapping[str, tuple[int, int]]:
    """The base's matrices: path and path inside the layer -> (out, in); (0, 0) where 4-bit packing hides the shape."""
    stamps = tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in models.shards(folder))
    return _base_layers(folder, stamps)


@functools.lru_cache(maxsize=8)
def _base_layers(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> Mapping[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for name, _, _ in stamps:
        for key, entry in models.read_header(folder / name).items():
            path = key.removesuffix(".weight")
            if path == key or len(entry.shape) != 2:
                continue
            shape = (entry.shape[0], entry.shape[1]) if entry.dtype in _WIDTHS else (0, 0)
            found[path] = shape
            if not _ELSEWHERE.search(path):
                found[_tail(path)] = shape
    # A head that shares the embedding's matrix is not in the file.
    for embedding in [path for path in found if path.rpartition(".")[2] in ("embed_tokens", "wte")]:
        found.setdefault("lm_head", found[embedding])
    return found


def _tail(path: str) -> str:
    """The part of a layer's path from its number on: what stands before differs between files and models in memory."""
    inside = _IN_LAYER.search(path)
    return f"{inside[1]}.{inside[2]}" if inside else path


def _numbers(paths: Iterable[str]) -> set[int]:
    """The numbers of the layers that the paths lead into."""
    inside = (_IN_LAYER.search(path) for path in paths if not _ELSEWHERE.search(path))
    return {int(match[1]) for match in inside if match}


# -- the header --


def _header(path: Path) -> dict[str, Entry]:
    """The file's tensors. Raises ModelError if they do not lie one after another and fill the file, or are no floats."""
    try:
        header = models.read_header(path)
        with path.open("rb") as file:
            end = 8 + int(struct.unpack("<Q", file.read(8))[0])
    except (RecursionError, OverflowError, OSError, struct.error, ModelError):
        raise _damaged(path, None) from None
    for key, entry in sorted(header.items(), key=lambda item: (item[1].begin, item[1].end)):
        width = _WIDTHS.get(entry.dtype)
        if width is None:
            raise ModelError(
                Text(
                    zh=f"{path.name} 的 {key[:200]} 是 {entry.dtype[:20]} 类型。只支持浮点权重（{'、'.join(_WIDTHS)}），请重新导出。",
                    en=f"{key[:200]} in {path.name} is of type {entry.dtype[:20]}. Only floating point weights "
                    f"({', '.join(_WIDTHS)}) are supported; export it again.",
                )
            )
        if min(entry.shape, default=0) < 1 or entry.begin != end or entry.end - end != math.prod(entry.shape) * width:
            raise _damaged(path, key)
        end = entry.end
    return header


def _layers(path: Path, header: Mapping[str, Entry], rank: int, dora: bool) -> dict[str, tuple[int, int]]:
    """Layer -> (out, in), after checking that each has all its tensors in shapes that agree with the rank."""
    parts: dict[str, dict[str, Shape]] = {}
    for key, entry in header.items():
        match = _KEY.fullmatch(key)
        if match is not None:
            parts.setdefault(match["path"], {})[match["part"]] = entry.shape
        elif ".base_layer." not in key:
            raise _foreign(path, key)
    if not parts:
        raise _damaged(path, None)
    layers = {}
    for layer, found in parts.items():
        a, b = found.get("lora_A.weight", ()), found.get("lora_B.weight", ())
        magnitude = found.get("lora_magnitude_vector")
        if len(a) != 2 or len(b) != 2 or (magnitude is None) == dora:
            raise _unlike(path, layer, "lora_A, lora_B" + (", lora_magnitude_vector" if dora else ""), sorted(found))
        wanted = {"lora_A": (rank, a[1]), "lora_B": (b[0], rank)}
        for name, shape in (("lora_A", a), ("lora_B", b)):
            if shape != wanted[name]:
                raise _unlike(path, f"{layer}.{name}", wanted[name], shape)
        if magnitude is not None and magnitude != (b[0],):
            raise _unlike(path, f"{layer}.lora_magnitude_vector", (b[0],), magnitude)
        layers[layer] = (b[0], a[1])
    return layers


def _damaged(path: Path, key: str | None) -> ModelError:
    where = key[:200] if key else ""
    return ModelError(
        Text(
            zh=f"{path.name} 已损坏或不完整{f'（{where}）' if where else ''}。请重新导出或下载这个适配器。",
            en=f"{path.name} is damaged or incomplete{f' ({where})' if where else ''}. Export or download the adapter again.",
        )
    )


def _foreign(path: Path, key: str) -> ModelError:
    return ModelError(
        Text(
            zh=f"{path.name} 里的 {key[:200]} 不是线性层上的 LoRA 权重（整层保存的模块、词嵌入上的适配器和偏置都不支持）。"
            "请只在线性层上训练，不要用 modules_to_save。",
            en=f"{key[:200]} in {path.name} is no LoRA weight of a linear layer (whole saved modules, adapters on embeddings "
            "and biases are not supported). Train it on linear layers only, without modules_to_save.",
        )
    )


def _unlike(path: Path, what: str, wanted: object, found: object) -> ModelError:
    return ModelError(
        Text(
            zh=f"{path.name} 与 {adapters.CONFIG} 不符：{what[:200]} 应为 {wanted}，实际是 {found}。请重新导出或下载。",
            en=f"{path.name} does not agree with {adapters.CONFIG}: {what[:200]} must be {wanted} and is {found}. Export or "
            "download the adapter again.",
        )
    )
