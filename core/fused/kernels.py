"""The pass's row-wise operations on a CUDA card: Triton kernels, and the attention kernels torch brings.

Each is held against `reference` on the card (tests/gpu/test_fused.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor

from core.fused import loss_programs, programs, reference

if TYPE_CHECKING:
    from core.fused.ops import Thin

_aten = torch.ops.aten
_BLOCK = 2048  # columns a program of the MLP's kernels works on
_VOCABULARY_BLOCK = 8192
_COPY_BLOCK = 8192
# SwiGLU's backward pass with the adapters' gradients: ranks above go the long way; a program's rows and columns at one
# time, and into how many spans the rows are divided.
_THIN_MOST, _THIN_ROWS, _THIN_COLUMNS, _THIN_SPANS = 64, 32, 32, 8
# Below this a row's attention costs less than the 50 ms cuDNN takes to plan for a length it has not seen.
_DENSE_FROM = 1024


def _whole(width: int) -> int:
    return int(triton.next_power_of_2(width))


def rms(x: Tensor, weight: Tensor, eps: float, out: Tensor, rstd: Tensor) -> None:
    """See Ops.rms."""
    t, d = x.shape
    programs.rms_kernel[(t,)](
        x, x, weight, x, out, rstd, x.stride(0), 0, 0, out.stride(0), eps, d, _whole(d), False, num_warps=8
    )


def add_rms(x: Tensor, y: Tensor, weight: Tensor, eps: float, total: Tensor, out: Tensor, rstd: Tensor) -> None:
    """See Ops.add_rms."""
    t, d = x.shape
    rows = (x.stride(0), y.stride(0), total.stride(0), out.stride(0))
    programs.rms_kernel[(t,)](x, y, weight, total, out, rstd, *rows, eps, d, _whole(d), True, num_warps=8)


def rms_backward(
    grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, residual: Tensor | None, out: Tensor, again: Tensor
) -> None:
    """See Ops.rms_backward."""
    t, d = x.shape
    rest = grad if residual is None else residual
    rows = (grad.stride(0), x.stride(0), rest.stride(0), out.stride(0), again.stride(0))
    programs.rms_backward_kernel[(t,)](
        grad, x, weight, rstd, rest, out, again, *rows, d, _whole(d), residual is not None, num_warps=8
    )


def rope(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, head_dim: int) -> None:
    """See Ops.rope."""
    half = head_dim // 2
    programs.rope_kernel[(qkv.shape[0],)](qkv, cos, sin, qkv.stride(0), heads, _whole(heads), half, _whole(half))


def head_norm_rope(
    qkv: Tensor, weights: tuple[Tensor, Tensor], eps: float, cos: Tensor, sin: Tensor, heads: int, out: Tensor
) -> None:
    """See Ops.head_norm_rope."""
    half = weights[0].shape[0] // 2
    kv_heads = out.shape[1] // (2 * half) - heads
    sizes = (heads, _whole(heads), kv_heads, _whole(kv_heads), half, _whole(half))
    programs.head_norm_rope_kernel[(qkv.shape[0],)](
        qkv, *weights, cos, sin, out, qkv.stride(0), out.stride(0), eps, *sizes
    )


def head_norm_backward(
    grad: Tensor, qkv: Tensor, weights: tuple[Tensor, Tensor], eps: float, heads: int, kv_heads: int
) -> None:
    """See Ops.head_norm_backward."""
    width = weights[0].shape[0]
    sizes = (heads, _whole(heads), kv_heads, _whole(kv_heads), width, _whole(width))
    programs.head_norm_backward_kernel[(qkv.shape[0],)](grad, qkv, *weights, grad.stride(0), qkv.stride(0), eps, *sizes)


def unrope(dq: Tensor, dk: Tensor, dv: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """See Ops.unrope."""
    (t, h, d), k = dq.shape, dk.shape[1]
    strides = (*dq.stride()[:2], *dk.stride()[:2], *dv.stride()[:2], out.stride(0))
    sizes = (h, _whole(h), k, _whole(k), d // 2, _whole(d // 2))
    programs.unrope_kernel[(t,)](dq, dk, dv, cos, sin, out, *strides, *sizes)


def swiglu(gate_up: Tensor, out: Tensor) -> None:
    """See Ops.swiglu."""
    t, f = out.shape
    programs.swiglu_kernel[(t, triton.cdiv(f, _BLOCK))](gate_up, out, gate_up.stride(0), out.stride(0), f, _BLOCK)


def swiglu_backward(gate_up: Tensor, grad: Tensor, gate: Thin | None, up: Thin | None, down: Thin | None) -> None:
    """See Ops.swiglu_backward. In one reading where ranks allow it: 128 for 219 us at 2,048 tokens of the 7B shape."""
    t, f = grad.shape
    ranks = [0 if thin is None else thin[0].shape[1] for thin in (gate, up, down)]
    if max(ranks) > _THIN_MOST:
        grid = (t, triton.cdiv(f, _BLOCK))
        programs.swiglu_gradients_kernel[grid](gate_up, grad, gate_up.stride(0), grad.stride(0), f, _BLOCK)
        reference.add_thin(accumulate, gate_up, grad, (gate, up, down))
        return
    # An absent one's pointers are never followed.
    pairs = [(grad, grad) if thin is None else thin for thin in (gate, up, down)]
    rows = (gate_up.stride(0), grad.stride(0), *(factor.stride(0) for factor, _ in pairs))
    span = triton.cdiv(triton.cdiv(t, _THIN_SPANS), _THIN_ROWS) * _THIN_ROWS
    programs.swiglu_backward_kernel[(triton.cdiv(f, _THIN_COLUMNS), triton.cdiv(t, span))](
        gate_up, grad, *(tensor for pair in pairs for tensor in pair), *rows, t, f, span, *ranks,
        max(16, _whole(max(*ranks, 1))), _THIN_ROWS, _THIN_COLUMNS, num_warps=4, num_stages=3,
    )  # fmt: skip


def cross_entropy(logits: Tensor, targets: Tensor, losses: Tensor, scale: Tensor) -> None:
    """See Ops.cross_entropy."""
    k, v = logits.shape
    block = min(_VOCABULARY_BLOCK, _whole(v))
    loss_programs.cross_entropy_kernel[(k,)](logits, targets, losses, scale, logits.stride(0), v, block, num_warps=16)


def kl_divergence(logits: Tensor, teacher: Tensor, weights: Tensor, losses: Tensor, scale: Tensor) -> None:
    """See Ops.kl_divergence."""
    k, v = logits.shape
    block = min(_VOCABULARY_BLOCK, _whole(v))
    loss_programs.kl_divergence_kernel[(k,)](
        logits, teacher, weights, losses, scale, logits.stride(0), teacher.stride(0), v, block, num_warps=16
    )


def attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """See Ops.attention. One long row goes to cuDNN, twice as fast there as the flash kernel (0.08 for 0.16 ms at 2048)."""
    if _dense(q, starts):
        found = _aten._scaled_dot_product_cudnn_attention(
            *(_batched(x) for x in (q, k, v)), None, True, 0.0, True, False
        )
        return found[0][0].transpose(0, 1), found[1].view(q.shape[1], q.shape[0])
    found = _aten._flash_attention_forward(q, k, v, starts, starts, longest, longest, 0.0, True, False)
    return found[0], found[1]


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, starts: Tensor, longest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See Ops.attention_backward."""
    # Where dropout's seeds belong, any integers do: there is no dropout.
    if _dense(q, starts):
        heads = [_batched(x) for x in (grad, q, k, v, out)]
        length = q.shape[0]
        dq, dk, dv = _aten._scaled_dot_product_cudnn_attention_backward(
            *heads, lse[None, :, :, None], starts[0], starts[1], None, None, None, length, length, 0.0, True
        )
        return dq[0].transpose(0, 1), dk[0].transpose(0, 1), dv[0].transpose(0, 1)
    found = _aten._flash_attention_backward(
        grad, q, k, v, out, lse, starts, starts, longest, longest, 0.0, True, starts[:2], starts[:0]
    )
    return found[0], found[1], found[2]


def _dense(q: Tensor, starts: Tensor) -> bool:
    return starts.shape[0] == 2 and q.shape[0] >= _DENSE_FROM


def _batched(x: Tensor) -> Tensor:
    return x.transpose(0, 1)[None]


def accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """See Ops.accumulate."""
    torch.addmm(total, a, b, out_dtype=total.dtype, out=total)


def dequantise(
    packed: Tensor, scales: Tensor, nested: tuple[Tensor, Tensor, Tensor] | None, levels: Tensor, out: Tensor
) -> None:
    """NF4 bytes of an (N, K) weight to out (N, K), rows may be strided; K a multiple of 64.

    scales float32 (N K / 64,), or 8-bit with nested = (codes float32 (256,), scales of scales float32, their offset ()).
    """
    rows, columns = out.shape
    bytes_each = min(1024, _whole(columns // 2))
    codes, scales2, offset = nested or (scales, scales, scales)
    grid = (rows, triton.cdiv(columns // 2, bytes_each))
    programs.nf4_kernel[grid](
        packed, scales, codes, scales2, offset, levels, out, out.stride(0), columns, nested is not None, bytes_each
    )


def copies(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Callable[[], None]:
    """See Ops.copies: one launch, where a list of strided copies is one launch each (392 for 28 layers, 1.3 ms)."""
    rows = [(a.data_ptr(), b.data_ptr(), *b.shape, b.stride(0)) for a, b in zip(sources, targets, strict=True)]
    assert all(a.is_contiguous() and a.dtype == torch.float32 for a in sources)
    table = torch.tensor(rows, dtype=torch.int64, device=targets[0].device)
    kind = targets[0].new_empty(1)
    blocks = triton.cdiv(max(a.numel() for a in sources), _COPY_BLOCK)

    def run() -> None:
        programs.copies_kernel[(len(rows), blocks)](table, kind, _COPY_BLOCK, num_warps=8)

    return run
