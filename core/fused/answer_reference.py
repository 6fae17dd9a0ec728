"""What answering asks of the device, in plain torch: what the kernels are held against, and what runs on the processor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from core.fused.answer_ops import Feed
from core.fused.sizes import Shape


def norm(h: Tensor, y: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """See AnswerOps.norm."""
    if y is not None:
        h.add_(y)
    if h.dtype in (torch.float32, torch.float64):
        return functional.rms_norm(h, weight.shape, weight, eps)
    return functional.rms_norm(h.float(), weight.shape, None, eps).to(h.dtype) * weight


def swiglu(gate_up: Tensor) -> Tensor:
    """See AnswerOps.swiglu."""
    gate, up = gate_up.chunk(2, 1)
    return functional.silu(gate).mul_(up)


def turn(shape: Shape, layer: int, qkv: Tensor, feed: Feed, norms: tuple[Tensor, Tensor] | None, eps: float) -> None:
    """See AnswerOps.turn."""
    width, heads = shape.head_dim, shape.heads + shape.kv_heads
    both = qkv[:, : heads * width].view(-1, heads, width)
    if norms is not None:
        both[:, : shape.heads] = norm(both[:, : shape.heads].contiguous(), None, norms[0], eps)
        both[:, shape.heads :] = norm(both[:, shape.heads :].contiguous(), None, norms[1], eps)
    both.copy_(torch.roll(both, width // 2, -1).mul_(feed.sin[:, None]).addcmul_(both, feed.cos[:, None]))
    kept = qkv[:, shape.query :].view(-1, 2, shape.kv_heads, width)
    at = 0
    for stretch in feed.stretches:
        places = stretch.region[layer, :, :, stretch.first : stretch.first + stretch.count]
        places.copy_(kept[at : at + stretch.count].permute(1, 2, 0, 3))
        at += stretch.count


def attend(shape: Shape, layer: int, qkv: Tensor, feed: Feed) -> Tensor:
    """See AnswerOps.attend."""
    out = qkv.new_empty(qkv.shape[0], shape.query)
    at = 0
    for stretch in feed.stretches:
        q = qkv[at : at + stretch.count, : shape.query]
        keys, values = stretch.region[layer, :, :, : stretch.first + stretch.count]
        out[at : at + stretch.count] = _attend_row(shape, q, keys, values, stretch.first)
        at += stretch.count
    return out


def _attend_row(shape: Shape, q: Tensor, keys: Tensor, values: Tensor, first: int) -> Tensor:
    """q (count, query) from position `first` on, over keys and values (kv_heads, first + count, head_dim)."""
    count, times = q.shape[0], shape.heads // shape.kv_heads
    if count == 1:  # the query heads of one key head as if they were positions
        grouped = q.view(1, shape.kv_heads, times, shape.head_dim)
        return functional.scaled_dot_product_attention(grouped, keys[None], values[None]).view(1, -1)
    heads = q.view(count, shape.heads, shape.head_dim).transpose(0, 1)[None]
    keys, values = (x.repeat_interleave(times, 0)[None] for x in (keys, values))
    if first == 0:
        found = functional.scaled_dot_product_attention(heads, keys, values, is_causal=True)
    else:
        seen = torch.ones(count, first + count, dtype=torch.bool, device=q.device).tril(first)
        found = functional.scaled_dot_product_attention(heads, keys, values, attn_mask=seen)
    return found[0].transpose(0, 1).reshape(count, -1)


def raise_low(out: Tensor, low: Tensor, feed: Feed, b: Tensor, outs: Sequence[int]) -> None:
    """See AnswerOps.raise_low."""
    assert feed.mask is not None and feed.off is not None
    ranks = b.shape[1]
    row = 0
    for member, width in enumerate(outs):
        routed = (low[:, member * ranks : (member + 1) * ranks] * feed.mask).masked_fill_(feed.off, 0).to(out.dtype)
        out[:, row : row + width].addmm_(routed, b[row : row + width].t())
        row += width


def logits(x: Tensor, head: Tensor) -> Tensor:
    """See AnswerOps.logits."""
    return functional.linear(x, head).float()
