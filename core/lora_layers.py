"""One LoRA layer of PEFT's: what an adapter adds to its rows, and where DoRA and PiSSA begin.

Only reads the base weight. PEFT's own PiSSA rewrites it; here its first value is a frozen second part of the adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from core.errors import ConfigError
from core.text import Text

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig


class WeightNorms:
    """DoRA's row norms of (base + adapter) weights, remembered from one token of an answer to the next.

    Counting them anew reads every weight: several times the work of the token that is being decoded.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], torch.Tensor] = {}

    def clear(self) -> None:
        """Forget all: an answer begins, an adapter learns, or layers have changed."""
        self._known.clear()

    def of(self, layer: Any, name: str) -> torch.Tensor:
        """The norms of adapter `name` in `layer`, shape (out,)."""
        key = (id(layer), name)
        if key not in self._known:
            self._known[key] = weight_norm(layer, name)
        return self._known[key]


def change(
    layer: Any, name: str, x: torch.Tensor, result: torch.Tensor, rows: torch.Tensor | None, norms: WeightNorms
) -> torch.Tensor:
    """What adapter `name` adds for its rows' inputs x (n, T, in), in eval mode: (n, T, out).

    result: the base's, (B, T, out); rows: int64 (n,), which of them x belongs to, None for all. LoRA adds
    scaling * B A x. DoRA (Liu et al. 2024) rescales base and adapter, row by row of the weight, to trained magnitudes.
    """
    low: torch.Tensor = layer.lora_B[name](layer.lora_A[name](x.to(layer.lora_A[name].weight.dtype)))
    if name not in layer.lora_magnitude_vector:
        return low * float(layer.scaling[name])
    factor = layer.lora_magnitude_vector[name].weight / norms.of(layer, name)
    bias = layer.base_layer.bias
    plain = result if rows is None else result[rows]
    plain = plain if bias is None else plain - bias
    return cast("torch.Tensor", (factor - 1) * plain + factor * low * layer.scaling[name])


def weight_norm(layer: Any, name: str) -> torch.Tensor:
    """Length of each row of W + scaling * B A, shape (out,), in the adapter's own precision."""
    import torch

    a, b = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
    with torch.autocast(a.device.type, enabled=False):
        whole = torch.addmm(base_weight(layer, a.dtype), b, a, alpha=float(layer.scaling[name]))
        norm: torch.Tensor = torch.linalg.vector_norm(whole, dim=1)
    return norm


def set_magnitude(layer: Any, name: str) -> None:
    """Let a fresh DoRA begin exactly at the base. PEFT rounds the magnitude to the base's 16 bits, off by up to 0.4 %."""
    layer.lora_magnitude_vector[name].weight.data.copy_(weight_norm(layer, name))


def set_principal(layer: Any, name: str, frozen: str, iterations: int | None) -> None:
    """Begin `name` at the weight's largest singular values (PiSSA, Meng et al. 2024), and `frozen` at minus the same.

    iterations: of the randomised decomposition; None = the exact one. Same A and B as PEFT's pissa init.
    """
    import torch

    weight, rank, scaling = base_weight(layer, torch.float32), layer.r[name], layer.scaling[name]
    if rank > min(weight.shape):
        raise ConfigError(_too_wide(rank, min(weight.shape)), "lora_rank")
    if iterations is None:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        left, values, right = left[:, :rank], values[:rank], right[:rank]
    else:
        left, values, right = torch.svd_lowrank(weight, rank, niter=iterations)
        right = right.t()
    root = torch.diag(torch.sqrt(values / scaling))
    for part, sign in ((name, 1.0), (frozen, -1.0)):
        layer.lora_A[part].weight.data.copy_(root @ right)
        layer.lora_B[part].weight.data.copy_(left @ root * sign)


def base_weight(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """The base's weight (out, in) as `dtype`; of a 4-bit base, the values that it computes with."""
    weight = layer.get_base_layer().weight
    if type(weight).__name__ == "Params4bit":
        import bitsandbytes

        weight = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    return cast("torch.Tensor", weight.detach().to(dtype))


def join(model: torch.nn.Module, name: str, config: LoraConfig) -> bool:
    """Put a LoRA without values on layers that all hold another adapter already; False, and nothing done, if they do not.

    PEFT's own way asks every module of the model about every adapter there is: half a second for a 7B's eighth adapter.
    """
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import check_target_module_exists

    if config.use_dora or isinstance(config.target_modules, str):
        return False
    paths = [(path, module) for path, module in model.named_modules() if ".lora_" not in path]
    meant = [(path, layer) for path, layer in paths if check_target_module_exists(config, path)]
    if not meant or not all(isinstance(layer, LoraLayer) for _, layer in meant):
        return False
    for path, layer in meant:
        cast("Any", layer).update_layer(name, config.r, lora_alpha=config.lora_alpha, target_name=path, config=config)
    return True


def tensors(layer: Any, name: str) -> dict[str, torch.Tensor]:
    """What `layer` holds of adapter `name`, under the last part of PEFT's keys."""
    held = {"lora_A.weight": layer.lora_A[name].weight, "lora_B.weight": layer.lora_B[name].weight}
    if name in layer.lora_magnitude_vector:
        held["lora_magnitude_vector"] = layer.lora_magnitude_vector[name].weight
    return held


def fill(layer: Any, name: str, key: str, values: torch.Tensor, device: torch.device) -> None:
    """Give the tensor `key` of `tensors` its values; one that has a shape only becomes `values`, in float32."""
    import torch

    kept = tensors(layer, name)[key]
    if kept.device.type != "meta":
        kept.data.copy_(values)
        return
    made = torch.nn.Parameter(values.to(device, torch.float32), requires_grad=False)
    getattr(layer, key.removesuffix(".weight"))[name].weight = made


def _too_wide(rank: int, smallest: int) -> Text:
    return Text(
        zh=f"PiSSA 的秩 {rank} 大于目标模块最小的边长 {smallest}。请把 lora_rank 设为不大于 {smallest}，或把 init_weights 改为 true。",
        en=f"PiSSA of rank {rank} is wider than the smallest side of a target layer, {smallest}. Set lora_rank to "
        f"{smallest} or less, or init_weights to true.",
    )
