"""The fused backend: the plain one, with training passes of plain LoRA adapters done by the fused pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from core.backend import Slots
from core.batch import PackedBatch
from core.fused import family
from core.fused.answering import Answering
from core.fused.arena import Arena, Frame
from core.fused.graphs import Graphs
from core.fused.layers import Decoder, Layer
from core.fused.lookup import Lookup
from core.fused.nf4 import Dequantise, Quantised, Scratch
from core.fused.ops import Ops
from core.fused.rows import Rows, Size
from core.fused.sizes import Depth, Ranks, Way, shallowest
from core.fused.weights import Group, Store, joined_bias, lay_out
from core.plain import PlainBackend
from core.text import Text

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# Passes up to here take longer to launch than to compute (95 for 42 ms at 704 tokens): captured when they come again. A
# longer one gains a hundredth of a second, and 0.2 s of capturing pays off only if it comes many times.
_SHORT = 1024


class FusedBackend(PlainBackend):
    """Trains plain LoRA on the families it knows without autograd; answers, and trains anything else, the plain way."""

    fast = True

    def __init__(
        self,
        model: PreTrainedModel,
        device: torch.device,
        autocast: torch.dtype | None,
        ops: Ops,
        dequantise: Dequantise,
        spare: bool = True,
    ) -> None:
        """Lays the base's weights out in groups (in place, to the bit). `family.refusal(model)` must be None.

        `spare`: see weights.lay_out.
        """
        super().__init__(model, device, autocast)
        self._ops = ops
        self._shape = family.shape_of(model)
        dtype = model.get_input_embeddings().weight.dtype
        self._scratch = Scratch(dtype, device)
        self._groups = [_groups(block, self._scratch, dequantise, spare) for block in family.blocks(model)]
        self._arena = Arena(self._shape, dtype, device)
        self._ready: _Prepared | None = None
        self._way = Way()
        self._inputs: dict[Size, Rows] = {}
        self._depths: dict[tuple[Size, Ranks, Way], Depth] = {}
        self._graphs = Graphs(device) if device.type == "cuda" else None
        self._lookup = Lookup(model.get_input_embeddings(), device)
        peft = (self._parts, self._lora_layers)
        self._answering = Answering(model, self._groups, self._lookup, self._rotary, ops, device, *peft)
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def plain_reason(self, adapter: str) -> Text | None:
        """Why this adapter's training passes go the plain way; None if they are fused."""
        if not self.is_plain_lora(adapter):
            return Text(
                zh="快速路径还不支持 DoRA、dropout、NEFTune 噪声和 PiSSA",
                en="the fast path does not do DoRA, dropout, NEFTune noise or PiSSA yet",
            )
        head = self.model.get_output_embeddings()
        if adapter in getattr(head, "lora_A", {}):
            return Text(zh="适配器也改输出层", en="the adapter changes the output layer too")
        scales = {layer.scaling[adapter] for layer in self._lora_layers(adapter)}
        if len(scales) != 1:
            return Text(zh="各层的缩放不同", en="its layers are scaled differently")
        return None

    def delete_adapter(self, name: str) -> None:
        """See PlainBackend; what was prepared for the adapter goes with it."""
        if self._ready is not None and self._ready.adapter == name:
            self.finish(name)
        self._answering.forget(name)
        super().delete_adapter(name)

    def load_adapter_state(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """See PlainBackend."""
        super().load_adapter_state(name, tensors)
        self._answering.learns(name, False)

    # -- answering --

    def slots(self) -> Slots:
        """See Backend.slots. Where even the embedding had to leave the card, answers have the step's buffers' place."""
        if self._way.host_embeddings:
            self._arena.make_way()
        return self._answering.slots(super().slots)

    @torch.no_grad()
    def states(self, batch: PackedBatch, adapter: str | None, like: str | None = None) -> torch.Tensor:
        """See Backend.states: as answers are computed, so that a training in progress is left alone."""
        if self._answering.reads(adapter if adapter is not None else like):
            return self._answering.states(batch, adapter)
        return super().states(batch, adapter)

    @torch.no_grad()
    def logits(self, states: torch.Tensor, adapter: str | None = None) -> torch.Tensor:
        """See Backend.logits."""
        return self._answering.logits(states) if self._answering.reads(adapter) else super().logits(states, adapter)

    def rest(self) -> None:
        """See Backend.rest."""
        self._answering.rest()
        super().rest()

    # -- training --

    def finish(self, adapter: str) -> None:
        """Give back what training needed besides the adapter itself."""
        self._answering.learns(adapter, False)
        self._forget()
        self._arena.release()
        for groups in self._groups:
            for group in groups:
                group.attach([None] * len(group.outs), 1.0)

    def _forget(self) -> None:
        self._ready = None
        self._inputs.clear()
        if self._graphs is not None:
            self._graphs.drop()

    def loss_and_grads(
        self, batch: PackedBatch, adapter: str, answer_tokens: int, way: Way, scale: float = 1.0
    ) -> torch.Tensor:
        """See PlainBackend.loss_and_grads."""
        self._answering.learns(adapter, True)
        ready = self._ready is not None and self._ready.adapter == adapter
        if not ready and self.plain_reason(adapter) is not None:
            return super().loss_and_grads(batch, adapter, answer_tokens, way, scale)
        frame = self._run(batch, self._prepared_for(adapter, way), way, scale / answer_tokens)
        labelled = frame.answers - frame.taught
        return torch.stack([frame.losses[:labelled].sum(), frame.losses[labelled:].sum()]) / answer_tokens

    @torch.no_grad()
    def loss(self, batch: PackedBatch, adapter: str | None) -> torch.Tensor:
        """See PlainBackend.loss; fused for the adapter in training."""
        ready = self._ready is not None and self._ready.adapter == adapter
        if adapter is None or (not ready and self.plain_reason(adapter) is not None):
            return super().loss(batch, adapter)
        prepared = self._prepared(adapter)
        # Nothing is kept for a backward pass that does not come.
        depth = Depth.all(self._shape.layers, self._way.recompute.host_inputs)
        way = replace(self._way, recompute=depth, room=0)
        frame = self._run(batch, prepared, way, None)
        return frame.losses[: frame.answers - frame.taught].sum()

    def settle(self, way: Way) -> None:
        """See Backend.settle."""
        self._way = way
        if self._lookup.on_host != way.host_embeddings:
            self._forget()
            self._lookup.move(way.host_embeddings)

    def _prepared_for(self, adapter: str, way: Way) -> _Prepared:
        self.settle(way)
        return self._prepared(adapter)

    def _run(self, batch: PackedBatch, prepared: _Prepared, way: Way, scale: float | None) -> Frame:
        """One pass, with gradients times `scale`, or for the losses alone where it is None."""
        size = Size.of(batch)
        before = self._arena.address
        depth = self._depth(size, prepared.ranks, way)
        frame = self._arena.frame(prepared.ranks, size.tokens, size.answers, depth, way.logit_rows, size.taught)
        if self._graphs is not None and self._arena.address != before:
            self._graphs.drop()
        if size not in self._inputs:
            self._inputs[size] = Rows.empty(size, self.device)
        rows = self._inputs[size]
        rows.fill(batch, scale or 0.0)
        if frame.teacher is not None and batch.teacher is not None:
            frame.teacher[: batch.taught].copy_(batch.teacher)
            frame.teacher[batch.taught :].zero_()
        if way.host_embeddings:
            self._lookup.fetch(rows.ids, frame.saved[0].h)

        def work() -> None:
            prepared.refresh()
            if scale is None:
                prepared.decoder.losses(rows, frame)
            else:
                prepared.decoder.loss_and_grads(rows, frame)

        if self._graphs is None:
            work()
        else:
            self._graphs.run((size, way, scale is None), work, after=1 if size.tokens <= _SHORT else 16)
        return frame

    def _depth(self, size: Size, ranks: Ranks, way: Way) -> Depth:
        """What a pass of this size gives up: no more than it must."""
        if not (way.room and (way.recompute or way.recompute.host_inputs)):
            return way.recompute
        key = (size, ranks, way)
        if key not in self._depths:
            width = self._arena.width
            sizes = (self._shape, ranks, size.tokens, size.answers, way.logit_rows)
            found = shallowest(*sizes, way.room, width, way.recompute.host_inputs, size.taught)
            self._depths[key] = way.recompute if found is None else found
        return self._depths[key]

    def _prepared(self, adapter: str) -> _Prepared:
        """The decoder with `adapter` in its groups; made anew if any of its tensors has moved."""
        if self._ready is not None and (self._ready.adapter != adapter or self._ready.moved()):
            self._forget()
        if self._ready is None:
            model: Any = self.model
            layers = []
            for block, groups in zip(family.blocks(model), self._groups, strict=True):
                for group, modules in zip(groups, family.members(block), strict=True):
                    group.attach([_pair(module, adapter) for module in modules], self._scaling(adapter))
                layers.append(Layer(*groups, block.norm1.weight, block.norm2.weight, family.head_norms(block)))
            decoder = Decoder(
                shape=self._shape,
                layers=layers,
                embedding=None if self._lookup.on_host else model.get_input_embeddings().weight,
                norm=model.model.norm.weight,
                head=family.base(model.get_output_embeddings()).weight,
                eps=model.config.rms_norm_eps,
                rotary=self._rotary,
                ops=self._ops,
            )
            self._ready = _Prepared(adapter, decoder)
        return self._ready

    def _scaling(self, adapter: str) -> float:
        return float(next(iter(self._lora_layers(adapter))).scaling[adapter])

    def _rotary(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model: Any = self.model
        cos, sin = model.model.rotary_emb(model.model.norm.weight, positions[None])
        return cos[0].contiguous(), sin[0].contiguous()


class _Prepared:
    """A decoder with one adapter in its groups, and the addresses that it, and graphs of it, rely on."""

    def __init__(self, adapter: str, decoder: Decoder) -> None:
        self.adapter, self.decoder = adapter, decoder
        groups = [group for layer in decoder.layers for group in layer.groups]
        self._parameters = [p for group in groups for slot in group.slots for p in (slot.a, slot.b)]
        self._addresses = self._now()
        self.refresh = decoder.refresher()
        columns = zip(*([group.rank for group in layer.groups] for layer in decoder.layers), strict=True)
        self.ranks = Ranks(*(max(column) for column in columns))

    def moved(self) -> bool:
        """Whether a weight or a gradient lies elsewhere now."""
        return self._now() != self._addresses

    def _now(self) -> list[tuple[int, int]]:
        return [(p.data_ptr(), -1 if p.grad is None else p.grad.data_ptr()) for p in self._parameters]


def _groups(
    block: family.Block, scratch: Scratch, dequantise: Dequantise, spare: bool
) -> tuple[Group, Group, Group, Group]:
    qkv, out, gate_up, down = (
        _group([family.base(m) for m in members], scratch, dequantise, spare) for members in family.members(block)
    )
    return qkv, out, gate_up, down


def _group(linears: Sequence[nn.Linear], scratch: Scratch, dequantise: Dequantise, spare: bool) -> Group:
    store: Store
    if family.is_nf4(linears[0]):
        # Gate and up one after the other: half the scratch, and no slower from 500 tokens on.
        small = sum(linear.out_features for linear in linears) <= 2 * linears[0].out_features - 1
        store = Quantised([linears] if small else [[linear] for linear in linears], scratch, dequantise)
    else:
        store = lay_out(linears, spare)
    bias = joined_bias(linears)
    return Group(store, [linear.out_features for linear in linears], linears[0].in_features, bias)


def _pair(module: Any, adapter: str) -> tuple[nn.Parameter, nn.Parameter] | None:
    if adapter not in getattr(module, "lora_A", {}):
        return None
    return module.lora_A[adapter].weight, module.lora_B[adapter].weight
