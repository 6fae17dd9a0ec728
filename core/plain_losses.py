"""From last hidden states to losses, by autograd: the model's own head, cross entropy, divergence. For the plain backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def ending_in(decoder: nn.Module, states: Tensor) -> Iterator[None]:
    """While the block runs, `decoder` ends in `states` (n, H), whatever it reads.

    So that a model's own forward pass gives their logits: families cap, scale and shift them in ways of their own.
    """

    def exchange(_decoder: object, _given: object, found: Any) -> Any:
        found.last_hidden_state = states[None]
        return found

    hook = decoder.register_forward_hook(exchange)
    try:
        yield
    finally:
        hook.remove()


def exact(logits: Tensor) -> Tensor:
    """In float32; those of a float64 base stay as they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over the positions, ()."""
    return nn.functional.cross_entropy(logits, targets, reduction="sum")


def divergence(base: Tensor, tuned: Tensor) -> Tensor:
    """KL(base || tuned) at each position (K,), from logits (K, V)."""
    right, found = base.log_softmax(-1), tuned.log_softmax(-1)
    return (right.exp() * (right - found)).sum(-1)
