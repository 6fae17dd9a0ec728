"""Which backend a base model gets: the fused one where device and model allow it, else the plain one, which says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import spread
from core.text import Text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from core.backend import Backend

NO_CARD = Text(
    zh="处理器上的基座不是 float32（快速路径在处理器上只有 float32）",
    en="on the processor only a float32 base has a fast path, and this one is of fewer bits",
)
SINGLE_PRECISION = Text(zh="基座是 float32", en="the base is in float32")
OLD_CARD = Text(
    zh="这张卡早于 Ampere 一代，没有它能用的 flash attention 内核",
    en="the card is older than Ampere, and there are no flash attention kernels for it",
)


def backend_for(
    model: PreTrainedModel, where: torch.device, autocast: torch.dtype | None, spread_out: bool = False
) -> Backend:
    """The fused backend where device and model allow it, otherwise the plain one, which can say why."""
    from core.fused import family, nf4
    from core.fused.backend import FusedBackend
    from core.plain import PlainBackend

    reason = spread.REASON if spread_out else None
    reason = reason or card_refusal(where, autocast, _is_exact(model)) or family.refusal(model)
    if reason is not None:
        plain = PlainBackend(model, where, autocast)
        plain.reason = reason
        return plain
    if where.type == "cuda":
        from core.fused import kernels

        return FusedBackend(model, where, autocast, kernels, nf4.by_kernel)
    from core.fused import reference

    return FusedBackend(model, where, autocast, reference, nf4.by_bitsandbytes, spare=False)


def _is_exact(model: PreTrainedModel) -> bool:
    """Whether every weight is in float32."""
    return all(str(parameter.dtype) == "torch.float32" for parameter in model.parameters())


def card_refusal(where: torch.device, autocast: torch.dtype | None, exact: bool = False) -> Text | None:
    """Why there is no fused pass here, whatever the model; None if there is. `exact`: the base is all float32."""
    import torch

    if where.type != "cuda":
        return None if exact else NO_CARD
    if autocast is None:
        return SINGLE_PRECISION
    return OLD_CARD if torch.cuda.get_device_capability(where) < (8, 0) else None
