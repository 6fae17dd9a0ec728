"""An adapter's trainable tensors as views of two flat buffers: weights and gradients. Knows no optimizer and no step.

PEFT keeps its own Parameters and notices nothing: what it saves and loads goes through the same views.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

SectionName = Literal["a", "b", "rest"]

_ALIGNMENT_BYTES = 16


@dataclass(frozen=True)
class Section:
    """Elements [start, stop) of the buffers: every lora_A, every lora_B, or what is neither."""

    name: SectionName
    start: int
    stop: int


@dataclass(frozen=True)
class Place:
    """Where one parameter lies: its elements are [start, start + numel) of the buffers, in row-major order."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Elements of the parameter."""
        return math.prod(self.shape)


class FlatAdapter:
    """One adapter's parameters end to end: all lora_A in model order, all lora_B in model order, then the rest.

    `data`, `grad`: (N,), of the parameters' own type (float32 outside of tests) and device. Each parameter begins at a
    multiple of 16 bytes; what lies between two is zero and stays zero. So the lora_A of neighbours that read the same
    input (q, k, v; gate, up) are the rows of one (sum of ranks, in) matrix, which the fused pass makes one product of.

    Autograd adds into the views as long as nobody sets a parameter's .grad to None; use `zero_grad`.
    """

    def __init__(self, named: Sequence[tuple[str, torch.nn.Parameter]]) -> None:
        assert named, "an adapter has parameters"
        first = named[0][1]
        assert all((p.dtype, p.device) == (first.dtype, first.device) for _, p in named), "one type, one device"
        self.sections, places, size = _lay_out(named, first.element_size())
        self.places = tuple(place for place, _ in places)
        self._parameters = [parameter for _, parameter in places]
        self.data = torch.zeros(size, dtype=first.dtype, device=first.device)
        self.grad = torch.zeros_like(self.data)
        for place, parameter in places:
            here = slice(place.start, place.start + place.numel)
            view = self.data[here].view(place.shape)
            view.copy_(parameter.detach())
            parameter.data = view
            parameter.grad = self.grad[here].view(place.shape)

    @classmethod
    def of(cls, model: torch.nn.Module, parameters: Sequence[torch.nn.Parameter]) -> FlatAdapter:
        """The flat form of `parameters`, which are in `model` and get their names from it."""
        wanted = {id(parameter) for parameter in parameters}
        named = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) in wanted]
        assert len(named) == len(wanted)
        return cls(named)

    def section(self, name: SectionName) -> Section:
        """A section by its name; an absent one is empty."""
        return next((s for s in self.sections if s.name == name), Section(name, 0, 0))

    def layout(self, adapter: str) -> str:
        """What lies where, as a digest. `adapter`: the name that the parameters' names contain, which does not count."""
        lines = [f"{p.name.replace(f'.{adapter}.', '.')} {p.start} {p.shape}" for p in self.places]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def zero_grad(self) -> None:
        """Set every gradient to zero, in one call."""
        self.grad.zero_()

    def norm(self) -> torch.Tensor:
        """Length of the whole gradient, () on the device; not finite exactly if the gradient is not, or overflows."""
        norm: torch.Tensor = torch.linalg.vector_norm(self.grad)
        return norm

    def scale_grad(self, factor: float) -> None:
        """Multiply the whole gradient."""
        self.grad.mul_(factor)

    def finite(self) -> bool:
        """Whether every weight is finite. Reads from the device.

        By the least and the greatest, NaN if there is one: isfinite makes 7 bytes a weight beside them, 1 GiB at rank 64.
        """
        return bool(torch.isfinite(torch.stack(self.data.aminmax())).all())

    def release(self) -> None:
        """Let go of the gradients. The weights stay where they are: the adapter answers as before."""
        for parameter in self._parameters:
            parameter.grad = None
        self._parameters = []
        self.grad = self.grad.new_zeros(0)


def _lay_out(
    named: Sequence[tuple[str, torch.nn.Parameter]], element_bytes: int
) -> tuple[tuple[Section, ...], list[tuple[Place, torch.nn.Parameter]], int]:
    """(sections, every parameter with its place, elements in all)."""
    unit = _ALIGNMENT_BYTES // element_bytes
    groups: dict[SectionName, list[tuple[str, torch.nn.Parameter]]] = {"a": [], "b": [], "rest": []}
    for name, parameter in named:
        groups["a" if "lora_A." in name else "b" if "lora_B." in name else "rest"].append((name, parameter))
    sections: list[Section] = []
    places: list[tuple[Place, torch.nn.Parameter]] = []
    at = 0
    for key, group in groups.items():
        start = at
        for name, parameter in group:
            places.append((Place(name, at, tuple(parameter.shape)), parameter))
            at += math.ceil(parameter.numel() / unit) * unit
        if group:
            sections.append(Section(key, start, at))
    return tuple(sections), places, at
