"""Muon with equal shapes handled together: a small network has few shapes and many matrices, so that starting
kernels, not arithmetic, is what a plain loop spends its time on.

The method is Keller Jordan's: momentum, then the nearest orthogonal matrix by a quintic Newton-Schulz iteration,
scaled to the step size AdamW would have (Moonlight's 0.2 sqrt(max(rows, columns))).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For 2-D weights only. Nesterov momentum, decoupled weight decay."""

    def __init__(self, weights: Iterable[torch.Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._momenta: dict[torch.Size, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.Tensor]] = {}
            for weight in group["params"]:
                shapes.setdefault(weight.shape, []).append(weight)
            for shape, weights in shapes.items():
                gradient = torch.stack([weight.grad for weight in weights])
                buffer = self._momenta.setdefault(shape, torch.zeros_like(gradient))
                buffer.lerp_(gradient, 1 - group["momentum"])
                update = orthogonal(gradient.lerp(buffer, group["momentum"]))
                scale = 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, list(update.float().unbind()), alpha=-group["lr"] * scale)


def orthogonal(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values end between 0.7 and 1.2. (n, rows, columns), bfloat16."""
    first, second, third = _COEFFICIENTS
    found = matrices.bfloat16()
    tall = found.shape[1] > found.shape[2]
    found = found.transpose(1, 2) if tall else found
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = found @ found.transpose(1, 2)
        found = first * found + (second * gram + third * (gram @ gram)) @ found
    return found.transpose(1, 2) if tall else found
