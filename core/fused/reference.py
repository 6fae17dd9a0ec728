"""The pass's row-wise operations in plain torch: what the kernels are held against, and what runs on the processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from core.fused.ops import Thin

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def rms(x: Tensor, weight: Tensor, eps: float, out: Tensor, rstd: Tensor) -> None:
    """See Ops.rms."""
    f = _exact(x)
    inverse = torch.rsqrt(f.pow(2).mean(-1) + eps)
    rstd.copy_(inverse)
    out.copy_((f * inverse[:, None]).to(x.dtype) * weight)


def add_rms(x: Tensor, y: Tensor, weight: Tensor, eps: float, total: Tensor, out: Tensor, rstd: Tensor) -> None:
    """See Ops.add_rms."""
    total.copy_(x + y)
    rms(total, weight, eps, out, rstd)


def rms_backward(
    grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, residual: Tensor | None, out: Tensor, again: Tensor
) -> None:
    """See Ops.rms_backward."""
    f, g = _exact(x), _exact(grad) * _exact(weight)
    inverse = _exact(rstd)[:, None]
    normal = f * inverse
    again.copy_(normal.to(x.dtype) * weight)
    gradient = inverse * (g - normal * (g * normal).mean(-1, keepdim=True))
    out.copy_(gradient if residual is None else gradient + _exact(residual))


def rope(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, head_dim: int) -> None:
    """See Ops.rope."""
    part = qkv[:, : heads * head_dim].view(-1, heads, head_dim)
    part.copy_(_turn(_exact(part), _exact(cos), _exact(sin)))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    c, s = cos[:, None, :half], sin[:, None, :half]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def head_norm_rope(
    qkv: Tensor, weights: tuple[Tensor, Tensor], eps: float, cos: Tensor, sin: Tensor, heads: int, out: Tensor
) -> None:
    """See Ops.head_norm_rope."""
    width = weights[0].shape[0]
    both = _head_weights(weights, heads, out.shape[1] // width - heads)
    part = _exact(qkv[:, : out.shape[1]].view(qkv.shape[0], -1, width))
    normal = (part * torch.rsqrt(part.pow(2).mean(-1, keepdim=True) + eps)).to(qkv.dtype)
    out.copy_(_turn(_exact(normal * both), _exact(cos), _exact(sin)).flatten(1))


def head_norm_backward(
    grad: Tensor, qkv: Tensor, weights: tuple[Tensor, Tensor], eps: float, heads: int, kv_heads: int
) -> None:
    """See Ops.head_norm_backward."""
    width = weights[0].shape[0]
    both = _exact(_head_weights(weights, heads, kv_heads))
    inside = (heads + kv_heads) * width
    part = _exact(qkv[:, :inside].view(qkv.shape[0], -1, width))
    g = _exact(grad[:, :inside].view(grad.shape[0], -1, width)) * both
    inverse = torch.rsqrt(part.pow(2).mean(-1, keepdim=True) + eps)
    normal = part * inverse
    grad[:, :inside].copy_((inverse * (g - normal * (g * normal).mean(-1, keepdim=True))).flatten(1))


def _head_weights(weights: tuple[Tensor, Tensor], heads: int, kv_heads: int) -> Tensor:
    return torch.cat([weights[0].expand(heads, -1), weights[1].expand(kv_heads, -1)])


def unrope(dq: Tensor, dk: Tensor, dv: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """See Ops.unrope."""
    turned = [_turn(_exact(d), _exact(cos), -_exact(sin)).flatten(1) for d in (dq, dk)]
    out.copy_(torch.cat([*turned, _exact(dv.flatten(1))], 1))


def swiglu(gate_up: Tensor, out: Tensor) -> None:
    """See Ops.swiglu."""
    gate, up = gate_up.chunk(2, 1)
    out.copy_(torch.nn.functional.silu(_exact(gate)).to(gate.dtype) * up)


def swiglu_backward(gate_up: Tensor, grad: Tensor, gate: Thin | None, up: Thin | None, down: Thin | None) -> None:
    """See Ops.swiglu_backward."""
    swiglu_gradients(gate_up, grad)
    add_thin(accumulate, gate_up, grad, (gate, up, down))


def swiglu_gradients(gate_up: Tensor, grad: Tensor) -> None:
    """In place: gate_up becomes its gradient, grad the forward result."""
    gate, up = gate_up.chunk(2, 1)
    g, u, d = _exact(gate), _exact(up), _exact(grad)
    s = torch.sigmoid(g)
    gated = g * s
    by_gate, by_up, forward = d * u * (s + gated * (1 - s)), d * gated, gated.to(gate.dtype) * up
    gate.copy_(by_gate)
    up.copy_(by_up)
    grad.copy_(forward)


def add_thin(
    accumulate: Callable[[Tensor, Tensor, Tensor], None],
    gradients: Tensor,
    forward: Tensor,
    thin: tuple[Thin | None, Thin | None, Thin | None],
) -> None:
    """What the adapters of gate, up and down get out of gradients (T, 2F) and the forward result (T, F)."""
    gate, up, down = thin
    for found, part in zip((gate, up), gradients.chunk(2, 1), strict=True):
        if found is not None:
            accumulate(found[1], part.t(), found[0])
    if down is not None:
        accumulate(down[1], down[0].t(), forward)


def cross_entropy(logits: Tensor, targets: Tensor, losses: Tensor, scale: Tensor) -> None:
    """See Ops.cross_entropy."""
    exact = _exact(logits)
    counted = targets >= 0
    chosen = targets.clamp(min=0)[:, None]
    sums = exact.logsumexp(-1, keepdim=True)
    losses.copy_(torch.where(counted, (sums - exact.gather(1, chosen))[:, 0], 0.0))
    gradient = exact.sub_(sums).exp_()  # in the logits' own place, unless they are of 16 bits
    gradient.scatter_add_(1, chosen, torch.full_like(sums, -1.0))
    gradient.mul_(torch.where(counted, scale, 0.0)[:, None])
    if gradient is not logits:
        logits.copy_(gradient)


def kl_divergence(logits: Tensor, teacher: Tensor, weights: Tensor, losses: Tensor, scale: Tensor) -> None:
    """See Ops.kl_divergence."""
    found, right = (exact.sub_(exact.logsumexp(-1, keepdim=True)) for exact in (_exact(logits), _exact(teacher)))
    counted = weights > 0
    share = right.exp()
    losses.copy_(torch.where(counted, weights * right.sub_(found).mul_(share).sum(-1), 0.0))
    gradient = found.exp_().sub_(share)
    gradient.mul_(torch.where(counted, weights * scale, 0.0)[:, None])
    if gradient is not logits:
        logits.copy_(gradient)


def attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """See Ops.attention. On a card the log-sums are zeros: the backward pass computes them anew."""
    heads = _wide(q, k, v)
    lse = q.new_zeros(q.shape[1], q.shape[0], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    out = torch.empty_like(q)
    for a, b in _rows(starts):
        row = [x[a:b].transpose(0, 1)[None] for x in heads]
        if q.is_cpu:
            found, lse[:, a:b] = _flash(*row, 0.0, True)
        else:
            found = scaled_dot_product_attention(row[0], row[1], row[2], is_causal=True)
        out[a:b] = found[0].transpose(0, 1)
    return out, lse


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, starts: Tensor, longest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See Ops.attention_backward."""
    heads, found = _wide(q, k, v), [torch.empty_like(q) for _ in range(3)]
    for a, b in _rows(starts):
        row = [x[a:b].transpose(0, 1)[None] for x in (*heads, out, grad)]
        work = _flash_backward if q.is_cpu else _by_autograd
        parts = work(row[4], *row[:4], lse[None, :, a:b], 0.0, True)
        for whole, part in zip(found, parts, strict=True):
            whole[a:b] = part[0].transpose(0, 1)
    dk, dv = (x.view(k.shape[0], k.shape[1], -1, k.shape[2]).sum(2) for x in found[1:])
    return found[0], dk, dv


def _wide(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values once for every query head."""
    times = q.shape[1] // k.shape[1]
    return q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)


def _by_autograd(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
        again = scaled_dot_product_attention(leaves[0], leaves[1], leaves[2], is_causal=True)
        return torch.autograd.grad(again, leaves, grad)


def _rows(starts: Tensor) -> list[tuple[int, int]]:
    edges = starts.tolist()
    return [(a, b) for a, b in pairwise(edges) if b > a]


def accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """See Ops.accumulate."""
    torch.addmm(total, a.to(total.dtype), b.to(total.dtype), out=total)


def copies(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Callable[[], None]:
    """See Ops.copies."""
    return lambda: torch._foreach_copy_(list(targets), list(sources))
