"""What answering asks of the device besides base products. `answer_reference` (torch) and `answer_kernels` (Triton) answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from core.fused.sizes import Shape


@dataclass(frozen=True)
class Stretch:
    """Consecutive tokens of one row in a pass: positions [first, first + count) of what `region` keeps.

    region (layers, 2, kv_heads, room, head_dim): keys and values of one row.
    """

    region: Tensor
    first: int
    count: int


@dataclass(frozen=True)
class Feed:
    """A pass's inputs: T tokens of several rows, end to end.

    ids, positions int64 (T,). place int64 (2, T): address and room of the region of each token's row. mask float32
    (T, R): scaling * strength on its row's adapter, 0 elsewhere, and off, where it is 0; None where all rows are the
    base's. cos, sin (T, head_dim), the first half of sin negated. starts int32 (rows + 1,), longest: the rows' bounds.
    stretches: the rows as the host knows them; none in a step on a card, where only what lies in tensors may decide.
    """

    ids: Tensor
    positions: Tensor
    place: Tensor
    mask: Tensor | None
    off: Tensor | None
    cos: Tensor
    sin: Tensor
    starts: Tensor
    longest: int = 1
    stretches: Sequence[Stretch] = ()


class AnswerOps(Protocol):
    """T tokens, D hidden. Sums are taken in float32 (float64 for float64 input)."""

    def norm(self, h: Tensor, y: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """h (T, D) += y in place; RMSNorm of it, (T, D)."""

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up, (T, F), for gate_up (T, 2F)."""

    def turn(
        self, shape: Shape, layer: int, qkv: Tensor, feed: Feed, norms: tuple[Tensor, Tensor] | None, eps: float
    ) -> None:
        """Norm the heads of q and k where there are `norms`, turn them, in place; keep k and v where `feed` says."""

    def attend(self, shape: Shape, layer: int, qkv: Tensor, feed: Feed) -> Tensor:
        """Causal attention of each row over all that is kept of it, (T, heads * head_dim). After `turn`."""

    def raise_low(self, out: Tensor, low: Tensor, feed: Feed, b: Tensor, outs: Sequence[int]) -> None:
        """out (T, N) += (low * mask) b^T in place. low (T, members * R), b (N, R); member i is outs[i] rows of b.

        Where the mask is zero nothing is added, whatever low holds there.
        """

    def logits(self, x: Tensor, head: Tensor) -> Tensor:
        """x head^T, float32."""
