"""The base seal: what the base says to fixed words, kept when it is loaded and compared later, bit for bit.

Read through the very path that the base's answers take, whatever adapters are attached. Works inside a turn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from core.backend import Route
from core.dataset import Message
from core.errors import ModelError
from core.text import Text

if TYPE_CHECKING:
    import torch

    from core.engine import Resident

State = Literal["unknown", "verified", "changed", "reloaded"]
_WORDS = ("The base answers as it did when it was loaded.", "基座的回答和刚载入时一样。")
_PIECE = 1 << 24  # weights that are summed at once
_MOST_ON_PROCESSOR = 100_000_000  # weights that are summed there: a tenth of a second
# Of the logits' length: more than another number of threads or another algorithm for a product ever made of it.
_ROUNDING = {"float32": 1e-4}
_ROUNDING_16 = 0.02


@dataclass(frozen=True)
class Seal:
    """prompts: what was asked, in tokens; logits: (prompts, V) in host memory; weights: the sum of the weights' bits."""

    prompts: tuple[tuple[int, ...], ...]
    logits: torch.Tensor
    weights: int


@dataclass(frozen=True)
class Checked:
    """What the last check came to, and when (seconds since 1970).

    unknown: it was not made, or could not be; changed: the base is not what was loaded; reloaded: it was not, and was
    loaded anew.
    """

    state: State = "unknown"
    at: float = 0.0

    @classmethod
    def now(cls, state: State) -> Checked:
        """That, at this moment."""
        return cls(state, time.time())


def take(resident: Resident) -> Seal:
    """The seal of a base just loaded."""
    # In tokens from now on: some templates write the day into every conversation.
    prompts = tuple(tuple(resident.encoder.prompt((Message("user", words),))) for words in _WORDS)
    return Seal(prompts, _logits(resident, prompts), _weights(resident))


def check_finite(seal: Seal, resident: Resident) -> None:
    """Raise ModelError if the base answers NaN or infinity, naming the first weight that is; it would give garbage."""
    import torch

    if bool(torch.isfinite(seal.logits).all()):
        return
    model, folder = cast(Any, resident.backend).model, resident.info.folder
    named = (
        name for name, weight in model.named_parameters() if weight.is_floating_point() and not weight.isfinite().all()
    )
    broken = next(named, None)
    if broken is not None:
        raise ModelError(
            Text(
                zh=f"{folder} 的权重 {broken} 含有 NaN 或无穷大，会让回答变成乱码，因此不加载。请重新下载这个模型。",
                en=f"The weight {broken} in {folder} holds NaN or infinite values and would give garbage, so the model is "
                "not loaded. Download it again.",
            )
        )
    raise ModelError(
        Text(
            zh=f"{folder} 用 {resident.dtype} 计算时得到 NaN 或无穷大，会让回答变成乱码，因此不加载。请把计算精度（torch_dtype）"
            "改为 bfloat16 或 float32。",
            en=f"{folder} computes NaN or infinite values in {resident.dtype} and would give garbage, so it is not loaded. "
            "Set the compute type (torch_dtype) to bfloat16 or float32.",
        )
    )


def intact(seal: Seal, resident: Resident) -> bool:
    """Whether the base is still the one that was sealed.

    Logits that differ by rounding alone are looked into: weights of the same bits are the same base.
    """
    import torch

    found = _logits(resident, seal.prompts)
    if torch.equal(found, seal.logits):
        return True
    rounding = _ROUNDING.get(resident.dtype, _ROUNDING_16)
    near = float((found - seal.logits).norm()) <= rounding * float(seal.logits.norm())
    return near and _weights(resident) == seal.weights


def _logits(resident: Resident, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Of the base's next tokens, float32 (prompts, V) in host memory."""
    slots = resident.backend.slots()
    return slots.join(prompts, [Route()] * len(prompts), [len(prompt) + 1 for prompt in prompts]).to("cpu", copy=True)


def _weights(resident: Resident) -> int:
    """Sum of the bits of the base's parameters, each taken as an integer; on a processor of some rows of each."""
    import torch

    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    model = cast(Any, resident.backend).model
    base = [parameter.data for name, parameter in model.named_parameters() if "lora_" not in name]
    step = 1
    if resident.backend.device.type == "cpu":
        step += sum(tensor.numel() for tensor in base) // _MOST_ON_PROCESSOR
    total = 0
    for tensor in base:
        # Piece by piece: a card makes all of them 64-bit integers first, 4 GB for an embedding matrix of a 7B.
        rows = max(1, _PIECE // max(1, tensor[:1].numel()))
        for part in tensor[::step].split(rows):
            total += int(part.view(kinds[tensor.element_size()]).sum(dtype=torch.int64))
    return total
