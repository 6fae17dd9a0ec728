"""Every kernel of a training pass once, on next to nothing: compiled and loaded while the disk is still being read.

It is the pass itself (layers.py) over 64 tokens of zeros, through one layer of the model's widths, so that each kernel
is made for the very types, sizes and strides of the first real pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.batch import pack
from core.encode import IGNORE, Example
from core.fused.arena import Arena, Frame
from core.fused.layers import Decoder, Layer
from core.fused.ops import Ops
from core.fused.rows import Rows, Size
from core.fused.sizes import PAD, Depth, Ranks, Shape
from core.fused.weights import Dense, Group

Unpack = Callable[[Tensor, Tensor, tuple[Tensor, Tensor, Tensor] | None, Tensor, Tensor], None]
"""kernels.dequantise: (packed, scales, nested, levels, out)."""

_TOKENS = 64
_RANK = 8
# All that Triton makes of the MLP's width is whether 16 divides what is computed from it: a small one with the same rest.
_MLP = 1024


def warm(shape: Shape, dtype: torch.dtype, device: torch.device, ops: Ops, unpack: Unpack | None = None) -> None:
    """Run a training pass of `shape`'s kernels in `dtype`, and `unpack`, where given, for its NF4 weights.

    Takes the largest attention weight and 30 MB (65 MB in all for a 7B), and cuBLAS's 32; all is in torch's cache at
    the end. On a card it works on a stream of its own and waits for it, so it may run in a thread while another loads.
    """
    with torch.no_grad(), _own_stream(device):
        _run_pass(shape, dtype, device, ops)
        if unpack is not None:
            for columns in {shape.hidden, shape.query, shape.mlp}:
                _unpack(unpack, columns, dtype, device)


@contextlib.contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    try:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            yield
            stream.synchronize()
    finally:
        # cuBLAS keeps 32 MiB for each stream it has worked on.
        torch._C._cuda_clearCublasWorkspaces()


class _WithoutHead(Decoder):
    """The head's matrix would be the largest by far: of its part only the losses are run."""

    def _head(self, rows: Rows, frame: Frame, backward: bool) -> None:
        logits, teacher = frame.logits.zero_(), frame.teacher_logits
        labelled = frame.answers - frame.taught
        self.ops.cross_entropy(logits, rows.targets[:labelled], frame.losses[:labelled], rows.scale)
        half = teacher.shape[0]
        losses = frame.losses[labelled : labelled + half]
        self.ops.kl_divergence(logits[:half], teacher, rows.weights[:half], losses, rows.scale)
        frame.y.zero_()


def _run_pass(shape: Shape, dtype: torch.dtype, device: torch.device, ops: Ops) -> None:
    shape = replace(shape, layers=1, mlp=min(shape.mlp, _MLP + shape.mlp % 16))
    layer = _layer(shape, dtype, device)
    norm = torch.zeros(shape.hidden, dtype=dtype, device=device)
    decoder = _WithoutHead(
        shape=shape,
        layers=[layer],
        embedding=norm[None],
        norm=norm,
        head=norm,
        eps=1e-6,
        rotary=lambda positions: _angles(positions, shape.head_dim, dtype),
        ops=ops,
    )
    half = _TOKENS // 2
    ids, labels = (0,) * half, (IGNORE, *(0,) * (half - 1))
    teacher = torch.zeros(half - 1, shape.hidden, dtype=dtype)
    batch = pack([Example(ids, labels), Example(ids, labels, teacher)], device)
    rows = _rows(Size.of(batch), device)
    rows.fill(batch, 1.0)
    ranks = Ranks(*(group.rank for group in layer.groups))
    arena = Arena(shape, dtype, device)
    frame = arena.frame(ranks, rows.ids.shape[0], rows.targets.shape[0], Depth(), _TOKENS, rows.weights.shape[0])
    decoder.refresher()()
    decoder.loss_and_grads(rows, frame)


def _layer(shape: Shape, dtype: torch.dtype, device: torch.device) -> Layer:
    """One block whose groups all share one buffer: what stands in it does not matter here."""
    key = shape.kv_heads * shape.head_dim
    sides = [
        ([shape.query, key, key], shape.hidden),
        ([shape.hidden], shape.query),
        ([shape.mlp, shape.mlp], shape.hidden),
        ([shape.hidden], shape.mlp),
    ]
    size = max((sum(outs) + PAD) * (inner + PAD) for outs, inner in sides)
    flat = torch.zeros(size, dtype=dtype, device=device)
    qkv, out, gate_up, down = (_group(flat, outs, inner) for outs, inner in sides)
    qkv.bias = flat.new_zeros(shape.qkv)
    norm = flat.new_zeros(shape.hidden)
    heads = (norm[: shape.head_dim], norm[: shape.head_dim]) if shape.head_norm else None
    return Layer(qkv, out, gate_up, down, norm, norm, heads)


def _group(flat: Tensor, outs: list[int], inner: int) -> Group:
    rows, columns = sum(outs) + PAD, inner + PAD
    group = Group(Dense(flat[: rows * columns].view(rows, columns), spare=True), outs, inner)
    group.attach([_adapter(out, inner, flat.device) for out in outs], 1.0)
    return group


def _adapter(out: int, inner: int, device: torch.device) -> tuple[nn.Parameter, nn.Parameter]:
    a, b = (torch.zeros(dims, dtype=torch.float32, device=device) for dims in ((_RANK, inner), (out, _RANK)))
    return nn.Parameter(a), nn.Parameter(b)


def _rows(size: Size, device: torch.device) -> Rows:
    rows = Rows.empty(size, device)
    # While transformers builds a model, torch's default type is that model's, in every thread.
    return replace(rows, scale=rows.scale.to(torch.float32), weights=rows.weights.to(torch.float32))


def _angles(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    zeros = torch.zeros(positions.shape[0], head_dim, dtype=dtype, device=positions.device)
    return zeros, zeros


def _unpack(unpack: Unpack, columns: int, dtype: torch.dtype, device: torch.device) -> None:
    """NF4 of a few rows: a byte for two weights, a byte of scale for 64, a float32 for 256 of those."""
    if columns % 64:
        return  # no NF4 of the fused pass (family.py)
    scales = _TOKENS * columns // 64
    packed = torch.zeros(_TOKENS * columns // 2, dtype=torch.uint8, device=device)
    codes, outer, offset, levels = (
        torch.zeros(dims, dtype=torch.float32, device=device) for dims in ((256,), (-(-scales // 256),), (), (16,))
    )
    out = torch.empty(_TOKENS, columns + PAD, dtype=dtype, device=device)[:, :columns]
    unpack(packed, torch.zeros(scales, dtype=torch.uint8, device=device), (codes, outer, offset), levels, out)
