"""NEFTune: uniform noise on the embeddings of a training pass (Jain et al. 2023, arXiv:2310.05914). Knows no model."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def with_noise(embeddings: torch.Tensor, position_ids: torch.Tensor, alpha: float) -> torch.Tensor:
    """Embeddings (1, T, D) of packed rows, plus noise within alpha / sqrt(L * D), L the length of the token's own row.

    position_ids: int64 (1, T), 0 where a row begins. Drawn row by row from the process's random state, so that neither
    the rows packed beside it nor the split of a step into passes changes what a row gets.
    """
    import torch

    width, device = embeddings.shape[-1], embeddings.device
    bounds = [*(position_ids[0] == 0).nonzero().flatten().tolist(), position_ids.shape[1]]
    drawn = [
        (torch.rand(end - start, width, device=device) * 2 - 1) * (alpha / math.sqrt((end - start) * width))
        for start, end in pairwise(bounds)
    ]
    return embeddings + torch.cat(drawn).to(embeddings.dtype)
