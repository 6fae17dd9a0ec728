"""Forward and backward of a decoder over packed rows, written out: no autograd, the cheap parts made again.

Products run over whole groups (weights.py), everything else through Ops. The gradient is that of
sum(token losses) * scale, added to the adapter's own grad tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.fused.arena import Frame, Saved
from core.fused.ops import Ops
from core.fused.rows import Rows
from core.fused.sizes import Shape
from core.fused.weights import Group

Rotary = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Positions (T,) -> cosines and sines (T, head_dim) in the base's type."""


@dataclass(frozen=True)
class Layer:
    """One decoder block: its four groups and two norms."""

    qkv: Group
    out: Group
    gate_up: Group
    down: Group
    norm1: Tensor
    norm2: Tensor
    head_norms: tuple[Tensor, Tensor] | None = None  # of q's and of k's heads

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        """In the order they are computed."""
        return self.qkv, self.out, self.gate_up, self.down


@dataclass(frozen=True)
class Decoder:
    """The resident model as the fused pass sees it."""

    shape: Shape
    layers: Sequence[Layer]
    embedding: Tensor | None  # None: the first layer's input is put in place by the caller
    norm: Tensor
    head: Tensor
    eps: float
    rotary: Rotary
    ops: Ops

    def refresher(self) -> Callable[[], None]:
        """A function that brings the working copies up to the adapter's tensors, which must stay where they are."""
        pairs = [pair for layer in self.layers for group in layer.groups for pair in group.sources()]
        return self.ops.copies([source for source, _ in pairs], [target for _, target in pairs])

    @torch.no_grad()
    def loss_and_grads(self, rows: Rows, frame: Frame) -> None:
        """frame.losses (K,) of each position in the loss, and the adapter's gradients added where they belong.

        Held to `frame.teacher` (M, D) are the last M positions: their losses are weighted divergences.
        """
        cos, sin = self.rotary(rows.positions)
        log_sums = self._forward(rows, frame, cos, sin)
        self._head(rows, frame, backward=True)
        ops, d = self.ops, self.shape.hidden
        grad = frame.dh[:, :d]
        ops.rms_backward(frame.y[:-1, :d], frame.last, self.norm, frame.rstd, None, grad, frame.n[:-1, :d])
        for index in range(self.shape.layers - 1, -1, -1):
            layer, saved = self.layers[index], frame.saved[index]
            frame.inputs.again(index)
            lse = self._again(layer, saved, rows, frame, cos, sin)
            kept = log_sums.pop()
            self._mlp_backward(layer, saved, frame)
            turn = (cos, sin, kept if lse is None else lse)
            self._attention_backward(layer, saved, rows, frame, turn, index > 0)
        frame.inputs.rest()

    @torch.no_grad()
    def losses(self, rows: Rows, frame: Frame) -> None:
        """frame.losses (K,) only, and none of positions held to a teacher."""
        cos, sin = self.rotary(rows.positions)
        self._forward(rows, frame, cos, sin)
        self._head(rows, frame, backward=False)
        frame.inputs.rest()

    def _forward(self, rows: Rows, frame: Frame, cos: Tensor, sin: Tensor) -> list[Tensor]:
        """Up to the last norm, in frame.n. Returns each layer's attention log-sums."""
        ops, d = self.ops, self.shape.hidden
        n, y = frame.n[:-1, :d], frame.y[:-1]
        log_sums: list[Tensor] = []
        before: Tensor | None = None
        for index, (layer, saved) in enumerate(zip(self.layers, frame.saved, strict=True)):
            frame.inputs.before(index)
            if before is None:
                if self.embedding is not None:
                    torch.index_select(self.embedding, 0, rows.ids, out=saved.h)
                ops.rms(saved.h, layer.norm1, self.eps, n, saved.rstd1)
            else:
                ops.add_rms(before, y[:, :d], layer.norm1, self.eps, saved.h, n, saved.rstd1)
            log_sums.append(self._attend(layer, saved, rows, frame, cos, sin))
            frame.inputs.after(index)
            self._gate_up(layer, saved, frame)
            act = frame.act[:, : self.shape.mlp]
            ops.swiglu(saved.gu[:, : 2 * self.shape.mlp], act)
            layer.down.forward_wide(frame.act, saved.xd, y)
            before = saved.h2
        assert before is not None
        ops.add_rms(before, y[:, :d], self.norm, self.eps, frame.last, n, frame.rstd)
        return log_sums

    def _attend(self, layer: Layer, saved: Saved, rows: Rows, frame: Frame, cos: Tensor, sin: Tensor) -> Tensor:
        """From the normed input in frame.n to saved.h2 and its norm in frame.n. Returns the attention's log-sums."""
        shape, ops = self.shape, self.ops
        layer.qkv.forward(frame.n[:-1], saved.xq, saved.qkv)
        if layer.head_norms is None:
            ops.rope(saved.qkv, cos, sin, shape.heads + shape.kv_heads, shape.head_dim)
        out, lse = ops.attention(*self._heads(layer, saved, frame, cos, sin), rows.starts, rows.longest)
        saved.o[:, : shape.query].copy_(out.flatten(1))
        del out
        layer.out.forward(saved.o, None if layer.out.joined else saved.xo, frame.y[:-1, : shape.hidden])
        n, y = frame.n[:-1, : shape.hidden], frame.y[:-1, : shape.hidden]
        ops.add_rms(saved.h, y, layer.norm2, self.eps, saved.h2, n, saved.rstd2)
        return lse

    def _gate_up(self, layer: Layer, saved: Saved, frame: Frame) -> None:
        layer.gate_up.forward(frame.n[:-1], saved.xg, saved.gu[:, : 2 * self.shape.mlp])

    def _heads(
        self, layer: Layer, saved: Saved, frame: Frame, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (T, heads, head_dim), turned. Where heads are normed, what is saved is from before that."""
        shape = self.shape
        widths = [shape.query, shape.kv_heads * shape.head_dim, shape.kv_heads * shape.head_dim]
        q, k, v = (part.view(part.shape[0], -1, shape.head_dim) for part in torch.split(saved.qkv, widths, 1))
        if layer.head_norms is not None:
            assert frame.turned is not None
            self.ops.head_norm_rope(saved.qkv, layer.head_norms, self.eps, cos, sin, shape.heads, frame.turned)
            turned = frame.turned.view(frame.turned.shape[0], -1, shape.head_dim)
            q, k = turned[:, : shape.heads], turned[:, shape.heads :]
        return q, k, v

    def _head(self, rows: Rows, frame: Frame, backward: bool) -> None:
        """Losses of the positions asked for; with `backward` the gradient by the normed output in frame.y."""
        d = self.shape.hidden
        torch.index_select(frame.n[:, :d], 0, rows.predict, out=frame.answer_rows)
        step, labelled = frame.logits.shape[0], frame.answers - frame.taught
        for start in range(0, labelled, step):
            stop = min(start + step, labelled)
            logits = frame.logits[: stop - start]
            torch.mm(frame.answer_rows[start:stop], self.head.t(), out=logits)
            self.ops.cross_entropy(logits, rows.targets[start:stop], frame.losses[start:stop], rows.scale)
            if backward:
                torch.mm(logits, self.head, out=frame.answer_grads[start:stop])
        if backward:
            self._taught(rows, frame)
            frame.y[:, :d].zero_()
            frame.y[:, :d].index_copy_(0, rows.predict, frame.answer_grads)

    def _taught(self, rows: Rows, frame: Frame) -> None:
        """Losses and gradients of the positions held to a teacher, the last of frame.answer_rows."""
        if frame.teacher is None:
            return
        first, step = frame.answers - frame.taught, frame.teacher_logits.shape[0]
        for start in range(0, frame.taught, step):
            stop = min(start + step, frame.taught)
            logits, teacher = frame.logits[: stop - start], frame.teacher_logits[: stop - start]
            mine = slice(first + start, first + stop)
            torch.mm(frame.answer_rows[mine], self.head.t(), out=logits)
            torch.mm(frame.teacher[start:stop], self.head.t(), out=teacher)
            self.ops.kl_divergence(logits, teacher, rows.weights[start:stop], frame.losses[mine], rows.scale)
            torch.mm(logits, self.head, out=frame.answer_grads[mine])

    def _again(self, layer: Layer, saved: Saved, rows: Rows, frame: Frame, cos: Tensor, sin: Tensor) -> Tensor | None:
        """Make what the layer gave up after the forward pass; the attention's log-sums too if it is whole again."""
        lse: Tensor | None = None
        if saved.kind == "none":
            return lse
        n = frame.n[:-1, : self.shape.hidden]
        if saved.kind == "whole":
            self.ops.rms(saved.h, layer.norm1, self.eps, n, saved.rstd1)
            lse = self._attend(layer, saved, rows, frame, cos, sin)
        else:
            self.ops.rms(saved.h2, layer.norm2, self.eps, n, saved.rstd2)
        self._gate_up(layer, saved, frame)
        return lse

    def _mlp_backward(self, layer: Layer, saved: Saved, frame: Frame) -> None:
        """Gradient by the block's output in frame.dh (T, D + PAD) -> by saved.h2, in place."""
        ops, d, f, grad = self.ops, self.shape.hidden, self.shape.mlp, frame.dh
        act, y, n = frame.act[:, :f], frame.y[:-1, :d], frame.n[:-1, :d]
        t = layer.down.backward(ops, grad, saved.xd, frame.t, act)
        gate, up = layer.gate_up.up_thin(saved.xg)
        ops.swiglu_backward(saved.gu[:, : 2 * f], act, gate, up, layer.down.down_thin(t))
        t = layer.gate_up.backward_wide(ops, saved.gu, frame.t, frame.y[:-1])
        ops.rms_backward(y, saved.h2, layer.norm2, saved.rstd2, grad[:, :d], grad[:, :d], n)
        layer.gate_up.down_gradient(ops, t, n)

    def _attention_backward(
        self,
        layer: Layer,
        saved: Saved,
        rows: Rows,
        frame: Frame,
        turn: tuple[Tensor, Tensor, Tensor],
        wanted: bool,
    ) -> None:
        """Gradient by saved.h2 in frame.dh (T, D + PAD) -> by saved.h, in place and only if it is `wanted`.

        `turn`: cosines, sines, and the attention's log-sums.
        """
        ops, shape, grad = self.ops, self.shape, frame.dh
        d, rank = shape.hidden, layer.out.rank
        y, n = frame.y[:-1, :d], frame.n[:-1, :d]
        kept = saved.o[:, shape.query : shape.query + rank] if layer.out.joined else saved.xo
        t = layer.out.backward(ops, grad, kept, frame.t, frame.do)
        output = saved.o[:, : shape.query]
        layer.out.down_gradient(ops, t, output)
        heads = (grad.shape[0], -1, shape.head_dim)
        found = ops.attention_backward(
            frame.do.view(heads), *self._heads(layer, saved, frame, *turn[:2]), output.view(heads), turn[2], rows.starts,
            rows.longest,
        )  # fmt: skip
        ops.unrope(*found, *turn[:2], frame.dqkv[:, : shape.qkv])
        del found
        if layer.head_norms is not None:
            norms = (layer.head_norms, self.eps, shape.heads, shape.kv_heads)
            ops.head_norm_backward(frame.dqkv, saved.qkv, *norms)
        t = layer.qkv.backward(ops, frame.dqkv, saved.xq, frame.t, y if wanted else None)
        if wanted:
            ops.rms_backward(y, saved.h, layer.norm1, saved.rstd1, grad[:, :d], grad[:, :d], n)
        else:
            ops.rms(saved.h, layer.norm1, self.eps, n, saved.rstd1)
        layer.qkv.down_gradient(ops, t, n)
