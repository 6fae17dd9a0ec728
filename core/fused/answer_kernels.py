"""What answering asks of a CUDA card besides base products (AnswerOps): Triton kernels, and torch's flash attention.

For passes of many tokens; steps of few rows go through `narrow`. Held against `answer_reference` (tests/gpu).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from core.fused import answer_programs as programs
from core.fused import kernels, tuning
from core.fused.answer_ops import Feed
from core.fused.sizes import Shape

_flash = torch.ops.aten._flash_attention_forward
_LOG2E = 1 / math.log(2)


def whole(width: int) -> int:
    """The power of two that holds `width`."""
    return int(triton.next_power_of_2(width))


def launch(kernel: Any, grid: tuple[int, ...], *args: object, **options: int) -> None:
    """Run a Triton program; where its tensors are but shapes (on the meta device) it is compiled only."""
    if getattr(args[0], "is_meta", False):
        kernel.warmup(*args, grid=grid, **options)
    else:
        kernel[grid](*args, **options)


def norm(h: Tensor, y: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """See AnswerOps.norm."""
    out = torch.empty_like(h)
    rstd = torch.empty(h.shape[0], dtype=torch.float32, device=h.device)
    if y is None:
        kernels.rms(h, weight, eps, out, rstd)
    else:
        kernels.add_rms(h, y, weight, eps, h, out, rstd)
    return out


def swiglu(gate_up: Tensor) -> Tensor:
    """See AnswerOps.swiglu."""
    out = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
    kernels.swiglu(gate_up, out)
    return out


def turn(shape: Shape, layer: int, qkv: Tensor, feed: Feed, norms: tuple[Tensor, Tensor] | None, eps: float) -> None:
    """See AnswerOps.turn."""
    tokens = qkv.shape[0]
    weights = norms or (qkv, qkv)
    launch(
        programs.turn_kernel, (tokens, shape.heads + 2 * shape.kv_heads),
        *(qkv,) * 6, *weights, feed.cos, feed.sin, feed.place[0], feed.place[1], feed.positions, qkv,
        tokens, 16, layer, eps, shape.heads, shape.kv_heads, shape.head_dim, whole(shape.head_dim // 2), qkv.stride(0),
        False, norms is not None, False, 1, True, num_warps=1,
    )  # fmt: skip


def attend(shape: Shape, layer: int, qkv: Tensor, feed: Feed) -> Tensor:
    """See AnswerOps.attend."""
    if not feed.stretches:
        out = qkv.new_empty(qkv.shape[0], shape.query)
        attend_step(shape, layer, qkv, feed.place, feed.positions, out, *attention_parts(shape, qkv))
        return out
    tokens = qkv.shape[0]
    q = qkv[:, : shape.query].view(tokens, shape.heads, shape.head_dim)
    stretch = feed.stretches[0]
    if stretch.first == 0:
        key, value = qkv[:, shape.query :].view(tokens, 2, shape.kv_heads, shape.head_dim).unbind(1)
        starts, longest = feed.starts, feed.longest
    else:
        # A piece of one row: its mask is flush with the end of what is kept.
        longest = stretch.first + stretch.count
        key, value = stretch.region[layer, :, :, :longest].transpose(1, 2).unbind(0)
        starts = torch.tensor([0, longest], dtype=torch.int32).to(qkv.device)
    found: Tensor = _flash(q, key, value, feed.starts, starts, feed.longest, longest, 0.0, True, False)[0]
    return found.flatten(1)


def attention_parts(shape: Shape, like: Tensor) -> tuple[Tensor, Tensor]:
    """Room for a step's attention: what each split finds, and its sums."""
    dims = (like.shape[0], shape.heads, tuning.ATTENTION_SPLITS)
    return like.new_empty(*dims, shape.head_dim, dtype=torch.float32), like.new_empty(dims, dtype=torch.float32)


def attend_step(
    shape: Shape, layer: int, q: Tensor, place: Tensor, positions: Tensor, out: Tensor, parts: Tensor, sums: Tensor
) -> None:
    """One token a row: q (B, query, ...) over what each row keeps, to out (B, query)."""
    rows, splits, block = q.shape[0], tuning.ATTENTION_SPLITS, tuning.ATTENTION_BLOCK
    scale = _LOG2E / math.sqrt(shape.head_dim)
    wide, group = max(16, whole(shape.head_dim)), max(16, whole(shape.heads // shape.kv_heads))
    launch(
        programs.attend_kernel, (rows, shape.kv_heads, splits),
        q, place[0], place[1], positions, parts, sums, layer, scale, q.stride(0), shape.heads, shape.kv_heads,
        shape.head_dim, wide, group, splits, block, num_warps=4, num_stages=2,
    )  # fmt: skip
    launch(
        programs.combine_kernel, (rows, shape.heads),
        parts, sums, positions, out, shape.heads, shape.head_dim, wide, splits, block, num_warps=4,
    )  # fmt: skip


def raise_low(out: Tensor, low: Tensor, feed: Feed, b: Tensor, outs: Sequence[int]) -> None:
    """See AnswerOps.raise_low."""
    assert feed.mask is not None
    tokens, ranks = out.shape[0], b.shape[1]
    few = 16 if tokens <= 16 else 64
    widths = [*outs, 0, 0][:3]
    grid = (triton.cdiv(tokens, few), triton.cdiv(out.shape[1], 128))
    launch(
        programs.raise_kernel, grid,
        out, low, feed.mask, b, tokens, out.stride(0), low.stride(0), ranks, *widths, len(outs), few, 128,
        min(64, ranks), num_warps=4, num_stages=1,
    )  # fmt: skip


def logits(x: Tensor, head: Tensor) -> Tensor:
    """See AnswerOps.logits."""
    return torch.mm(x, head.t(), out_dtype=torch.float32)
