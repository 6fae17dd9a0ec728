"""One block of memory for a whole pass, carved by `sizes`: no allocation inside a pass, fixed addresses, a known peak."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.fused.inputs import HostInputs, Inputs
from core.fused.sizes import INPUT_SLOTS, Buffer, Depth, Ranks, Shape, arena_bytes, buffers, place


@dataclass(frozen=True)
class Saved:
    """What one layer keeps (or, shared, makes again) for its backward pass. Widths as in `sizes`."""

    h: Tensor
    rstd1: Tensor
    rstd2: Tensor
    xd: Tensor
    xq: Tensor
    qkv: Tensor
    xo: Tensor
    o: Tensor
    h2: Tensor
    xg: Tensor
    gu: Tensor
    kind: str


class Frame:
    """All buffers of a pass of one size, as views of the arena, and what takes the layers' inputs to the host and back."""

    def __init__(
        self, views: dict[str, Tensor], shape: Shape, depth: Depth, tokens: int, answers: int, inputs: Inputs
    ) -> None:
        self.tokens, self.answers, self.inputs = tokens, answers, inputs
        self.saved = [_saved(views, layer, depth) for layer in range(shape.layers)]
        self.last, self.rstd = views["last"], views["rstd"]
        self.n, self.y = views["n"], views["y"]
        self.dh = views["dh"]
        self.t, self.losses = views["t"], views["losses"]
        pad = views["n"].shape[1] - shape.hidden
        self.teacher = views.get("teacher")
        self.taught = 0 if self.teacher is None else self.teacher.shape[0]
        self.act = _view(views["act"], tokens, shape.mlp + pad)
        # Whole sixteens: a later block's losses stay aligned, or its kernel would be compiled in the middle of a run.
        rows = views["act"].shape[0] // shape.vocabulary
        self.logits = _view(views["act"], _sixteens(rows), shape.vocabulary)
        half = _sixteens(self.logits.shape[0] // 2)
        self.teacher_logits = self.logits[half : 2 * half]  # beside as many of `logits`
        self.dqkv = _view(views["dqkv"], tokens, shape.qkv + pad)
        self.answer_rows = _view(views["dqkv"], answers, shape.hidden)
        self.turned = views.get("turned")
        self.do = _view(views["do"], tokens, shape.query)
        self.answer_grads = _view(views["do"], answers, shape.hidden)


class Arena:
    """Grows to the largest pass asked for; frames of one size are carved once and kept."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self._shape, self._dtype, self._device = shape, dtype, device
        self._block: Tensor | None = None
        self._frames: dict[object, Frame] = {}
        self._host: list[Tensor] = []

    @property
    def bytes(self) -> int:
        """Size of the block held now."""
        return 0 if self._block is None else self._block.numel()

    @property
    def width(self) -> int:
        """Bytes of the base's type."""
        return self._dtype.itemsize

    @property
    def address(self) -> tuple[int, int]:
        """Where the block begins, and the first of the inputs in host memory."""
        host = self._host[0].data_ptr() if self._host else 0
        return (0 if self._block is None else self._block.data_ptr()), host

    def frame(self, ranks: Ranks, tokens: int, answers: int, depth: Depth, logit_rows: int, taught: int = 0) -> Frame:
        """The buffers of such a pass. A pass larger than any before moves the block: frames given earlier are void."""
        key = (ranks, tokens, answers, depth, logit_rows, taught)
        if key not in self._frames:
            width = self._dtype.itemsize
            needed = arena_bytes(self._shape, ranks, tokens, answers, depth, logit_rows, width, taught)
            if needed > self.bytes:
                self.release()
                self._block = torch.empty(needed, dtype=torch.uint8, device=self._device)
            assert self._block is not None
            views: dict[str, Tensor] = {}
            free: dict[str | None, int] = {None: 0}  # where the next buffer begins, in the block and inside others
            for item in buffers(self._shape, ranks, tokens, answers, depth, logit_rows, taught):
                begin = free[item.inside]
                views[item.name] = self._carve(self._block, begin, item)
                free[item.inside] = begin + place(item, width)
                free[item.name] = begin
            inputs = self._inputs(views, tokens) if depth.host_inputs else Inputs()
            self._frames[key] = Frame(views, self._shape, depth, tokens, answers, inputs)
        return self._frames[key]

    def _inputs(self, views: dict[str, Tensor], tokens: int) -> HostInputs:
        """Frames share the host's memory as they share the device's."""
        slots = [views[f"h.{layer}"] for layer in range(min(INPUT_SLOTS, self._shape.layers))]
        count, width = max(0, self._shape.layers - INPUT_SLOTS), self._shape.hidden
        if count and (not self._host or self._host[0].shape[0] < tokens):
            self._frames.clear()
            pinned = self._device.type == "cuda"
            if pinned:
                torch.cuda.synchronize(self._device)  # a graph's copies into the ones before may be under way
            # One by one: pinned memory is rounded up to a power of two.
            self._host = [torch.empty(tokens, width, dtype=self._dtype, pin_memory=pinned) for _ in range(count)]
        return HostInputs(slots, [whole[:tokens] for whole in self._host])

    def _carve(self, block: Tensor, offset: int, item: Buffer) -> Tensor:
        exact = torch.float64 if self._dtype == torch.float64 else torch.float32
        dtype = self._dtype if item.wide else exact
        count = 1
        for dim in item.dims:
            count *= dim
        return block[offset : offset + count * dtype.itemsize].view(dtype).view(item.dims)

    def release(self) -> None:
        """Give all of it back."""
        self.make_way()
        self._host = []

    def make_way(self) -> None:
        """Give the block back until the next frame is asked for; the inputs' host memory stays."""
        self._frames.clear()
        if self._host and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # copies of a pass that broke off may be under way
        if self._block is None:
            return
        self._block = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _saved(views: dict[str, Tensor], layer: int, depth: Depth) -> Saved:
    kind, slot = depth.kind(layer), layer % INPUT_SLOTS if depth.host_inputs else layer
    where: dict[str, object] = {"h": slot, "rstd1": layer, "rstd2": layer, "xd": layer}
    where |= dict.fromkeys(("xq", "qkv", "xo", "o", "h2"), "again" if kind == "whole" else layer)
    where |= dict.fromkeys(("xg", "gu"), layer if kind == "none" else "again")
    return Saved(kind=kind, **{name: views[f"{name}.{place}"] for name, place in where.items()})


def _sixteens(rows: int) -> int:
    return rows // 16 * 16 or rows


def _view(flat: Tensor, rows: int, columns: int) -> Tensor:
    return flat[: rows * columns].view(rows, columns)
