"""What a fused pass asks of the card besides matrix products. Two modules answer: `reference` (torch) and `kernels` (Triton)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    Thin = tuple[Tensor, Tensor]
    """One factor of an adapter's gradient (T, r), and the float32 gradient that its product with the other is added to."""


class Ops(Protocol):
    """Row-wise operations; T tokens, D hidden, F the MLP's width. Outputs may be strided in rows, never in columns.

    Sums and exponentials are taken in float32 (float64 for float64 input), results rounded once to the outputs' type.
    """

    def rms(self, x: Tensor, weight: Tensor, eps: float, out: Tensor, rstd: Tensor) -> None:
        """out (T, D) = x / root mean square * weight; rstd (T,) = 1 / root mean square."""

    def add_rms(
        self, x: Tensor, y: Tensor, weight: Tensor, eps: float, total: Tensor, out: Tensor, rstd: Tensor
    ) -> None:
        """total (T, D) = x + y, and `rms` of it."""

    def rms_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, residual: Tensor | None, out: Tensor, again: Tensor
    ) -> None:
        """out (T, D) = residual, which it may be, + gradient by x of `rms`; again (T, D) = the forward result once more."""

    def rope(self, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, head_dim: int) -> None:
        """Turn the first `heads` heads of qkv (T, ...) in place; cos and sin (T, head_dim)."""

    def head_norm_rope(
        self, qkv: Tensor, weights: tuple[Tensor, Tensor], eps: float, cos: Tensor, sin: Tensor, heads: int, out: Tensor
    ) -> None:
        """out (T, ...) = q and k of qkv, each head normed and turned. weights: (head_dim,) of q's `heads` and of k's."""

    def head_norm_backward(
        self, grad: Tensor, qkv: Tensor, weights: tuple[Tensor, Tensor], eps: float, heads: int, kv_heads: int
    ) -> None:
        """In place: the gradient by normed q and k in grad (T, ...) becomes that by qkv."""

    def unrope(self, dq: Tensor, dk: Tensor, dv: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
        """Gradients (T, heads, head_dim) of turned q and k, and of v, side by side in out (T, ...), turned back."""

    def swiglu(self, gate_up: Tensor, out: Tensor) -> None:
        """out (T, F) = silu(gate) * up, for gate_up (T, 2F)."""

    def swiglu_backward(
        self, gate_up: Tensor, grad: Tensor, gate: Thin | None, up: Thin | None, down: Thin | None
    ) -> None:
        """In place: gate_up becomes its gradient; grad (T, F) is of no use afterwards.

        To the (F, r) totals of `gate` and `up` gradient^T factor is added, to that of `down` (r, F) factor^T forward result.
        """

    def cross_entropy(self, logits: Tensor, targets: Tensor, losses: Tensor, scale: Tensor) -> None:
        """In place: logits (K, V) become scale (1,) * their gradient; losses (K,) = -log p. Target -1: both are zero."""

    def kl_divergence(self, logits: Tensor, teacher: Tensor, weights: Tensor, losses: Tensor, scale: Tensor) -> None:
        """In place: logits (K, V) become scale (1,) * the gradient of losses; teacher (K, V) is of no use afterwards.

        losses (K,) = weights (K,) * KL(softmax(teacher) || softmax(logits)). Weight 0: loss and gradient are zero.
        """

    def attention(self, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Causal attention inside each row; starts (rows + 1,) int32. Result (T, heads, head_dim) and log-sums (heads, T)."""

    def attention_backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, starts: Tensor, longest: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients by q, k and v."""

    def accumulate(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        """total += a @ b, summed in total's float32."""

    def copies(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Callable[[], None]:
        """A function that rounds every source (rows, columns) into its target, whose rows may be strided."""
