"""Puts answering together for a fused backend: finds the adapters in PEFT's layers, chooses the device's way to step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from core.backend import Route, Slots
from core.batch import PackedBatch
from core.fused import answer_reference, family
from core.fused.answers import Answers, Net
from core.fused.bank import Adapted, Bank
from core.fused.layers import Layer, Rotary
from core.fused.lookup import Lookup
from core.fused.ops import Ops
from core.fused.room import AT_ONCE
from core.fused.slots import Direct, FusedSlots, MixedSlots, Stepping
from core.fused.weights import Group

if TYPE_CHECKING:
    from core.fused.answer_ops import AnswerOps

Groups = Sequence[tuple[Group, Group, Group, Group]]


class Answering:
    """What a fused backend answers with. `parts`: the adapters of PEFT's that make up one of ours; `every`: PEFT's layers."""

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        lookup: Lookup,
        rotary: Rotary,
        ops: Ops,
        device: torch.device,
        parts: Callable[[str], list[str]],
        every: Callable[[], Iterable[Any]],
    ) -> None:
        whole: Any = model
        dtype = whole.get_input_embeddings().weight.dtype
        layers = [
            Layer(*group, block.norm1.weight, block.norm2.weight, family.head_norms(block))
            for block, group in zip(family.blocks(model), groups, strict=True)
        ]
        net = Net(
            shape=family.shape_of(model),
            layers=layers,
            norm=whole.model.norm.weight,
            head=family.base(whole.get_output_embeddings()).weight,
            eps=whole.config.rms_norm_eps,
            rotary=rotary,
            embedding=lambda: None if lookup.on_host else whole.get_input_embeddings().weight,
            embed=lambda ids: _embed(lookup, whole, ids),
        )
        self._model, self._parts, self._every = model, parts, every
        bank = Bank(groups, self._find, dtype, device, _copies(ops))
        answer_ops: AnswerOps = answer_reference
        if device.type == "cuda":
            from core.fused import answer_kernels

            answer_ops = answer_kernels
        self._answers = Answers(net, bank, answer_ops, dtype, device, AT_ONCE, self._attached)
        self._stepping = self._way_to_step(device)

    def _way_to_step(self, device: torch.device) -> Stepping:
        if device.type != "cuda":
            return Direct(self._answers)
        from core.fused.captured import Captured

        return Captured(self._answers, self._model)

    def slots(self, plain: Callable[[], Slots]) -> Slots:
        """Empty slots; rows that cannot be answered here go to `plain`'s."""
        return MixedSlots(FusedSlots(self._answers, self._stepping), plain, self._plainly)

    def states(self, batch: PackedBatch, adapter: str | None) -> Tensor:
        """See Backend.states. `adapter` must be one that `reads`."""
        if adapter is not None:
            self._answers.bank.hold([adapter])
        ids, ends = batch.input_ids[0].tolist(), batch.starts.tolist()
        texts = [ids[first:last] for first, last in pairwise(ends)]
        return self._answers.states(Route(adapter), texts, batch.predict.tolist())

    def reads(self, adapter: str | None) -> bool:
        """Whether the adapter's answers are computed here, and not the plain way."""
        return not self._plainly(Route(adapter))

    def logits(self, states: Tensor) -> Tensor:
        """Logits float32 (n, V) of last hidden states (n, D)."""
        net = self._answers.net
        return self._answers.ops.logits(states.to(net.head.device, net.head.dtype), net.head)

    def rest(self) -> None:
        """Give back what is kept between answers."""
        self._stepping.rest()
        self._answers.rest()

    def learns(self, name: str, learning: bool) -> None:
        """Say that an adapter's tensors change from now on, or (False) have changed and stay."""
        self._answers.bank.learns(name, learning)

    def forget(self, name: str) -> None:
        """The adapter is gone."""
        self._answers.bank.forget(name)

    def _plainly(self, route: Route) -> bool:
        name = route.adapter
        return (
            name is not None
            and name not in self._answers.bank
            and adapted(self._model, self._parts(name), self._every()) is None
        )

    def _find(self, name: str) -> Adapted:
        found = adapted(self._model, self._parts(name), self._every())
        assert found is not None, f"{name} is answered the plain way"
        return found

    def _attached(self, name: str) -> bool:
        return any(name in layer.lora_A for layer in self._every())


def adapted(model: nn.Module, parts: Sequence[str], every: Iterable[Any]) -> Adapted | None:
    """An adapter's tensors; None if it is more than scaling * B A x, with one scaling, on the decoder's linear layers."""
    scalings: set[float] = set()
    carried = 0
    layers = []
    for block in family.blocks(model):
        groups = []
        for modules in family.members(block):
            groups.append([
                [
                    (module.lora_A[part].weight, module.lora_B[part].weight)
                    for part in parts
                    if part in getattr(module, "lora_A", ())
                ]
                for module in modules
            ])  # fmt: skip
            carried += sum(map(len, groups[-1]))
        layers.append(groups)
    for layer in every:
        for part in parts:
            if part in layer.lora_embedding_A:
                return None
            if part in layer.lora_A:
                carried -= 1
                scalings.add(float(layer.scaling[part]))
                if part in layer.lora_magnitude_vector or layer.lora_B[part].bias is not None:
                    return None
    if carried or len(scalings) != 1:
        return None
    return Adapted(scalings.pop(), layers)


def _embed(lookup: Lookup, model: Any, ids: Tensor) -> Tensor:
    weight = model.get_input_embeddings().weight
    if not lookup.on_host:
        found: Tensor = weight.index_select(0, ids)
        return found
    out = torch.empty(ids.shape[0], weight.shape[1], dtype=weight.dtype, device=ids.device)
    lookup.fetch(ids, out)
    return out


def _copies(ops: Ops) -> Callable[[Sequence[Tensor], Sequence[Tensor]], Callable[[], None]]:
    """Ops.copies, for tensors of any type: its kernel takes float32 only."""

    def copies(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Callable[[], None]:
        pairs = list(zip(sources, targets, strict=True))
        exact = [pair for pair in pairs if pair[0].dtype == torch.float32 and pair[0].is_contiguous()]
        others = [pair for pair in pairs if pair[0].dtype != torch.float32 or not pair[0].is_contiguous()]
        fast = ops.copies([a for a, _ in exact], [b for _, b in exact]) if exact else None

        def run() -> None:
            if fast is not None:
                fast()
            for source, target in others:
                target.copy_(source)

        return run

    return copies
