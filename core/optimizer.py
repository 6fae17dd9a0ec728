"""The optimizers, over an adapter's flat buffers: one update each for all lora_A and all lora_B. Knows no model.

Their whole state can be taken out as plain tensors and numbers, and put back to the bit.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch

from core.config import TrainConfig
from core.flat import FlatAdapter, SectionName

# Its values are the same for every block of an 8-bit state, and are no state.
_MAPS = ("qmap1", "qmap2")


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum, decoupled weight decay. Chen et al. 2023 (arXiv 2302.06675), algorithm 2."""

    def __init__(
        self, params: Iterable[Mapping[str, object]], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            blend, memory = group["betas"]
            for parameter in group["params"]:
                gradient, state = parameter.grad, self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum = state["exp_avg"]
                direction = torch.lerp(gradient, momentum, blend).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                momentum.lerp_(gradient, 1 - memory)


class FlatOptimizer:
    """The run's optimizer. Its memory is taken at once, so that no later step can fail half way for want of it."""

    def __init__(self, flat: FlatAdapter, config: TrainConfig) -> None:
        self._flat = flat
        self._names: list[SectionName] = [section.name for section in flat.sections]
        groups = []
        for section in flat.sections:
            here = slice(section.start, section.stop)
            parameter = torch.nn.Parameter(flat.data[here])
            parameter.grad = flat.grad[here]
            # LoRA+ (Hayou et al. 2024): B learns faster than A; one-dimensional parameters go with B, as in PEFT's.
            ratio = 1.0 if section.name == "a" else config.lorap_lr_ratio or 1.0
            groups.append({"params": [parameter], "ratio": ratio})
        self._optimizer = _make(groups, config)
        self._allocate()

    @property
    def guarded(self) -> bool:
        """Whether `step` can take a divisor and be told on the device to leave everything as it is."""
        return isinstance(self._optimizer, torch.optim.AdamW)

    def step(
        self, learning_rate: float, divisor: torch.Tensor | None = None, broken: torch.Tensor | None = None
    ) -> None:
        """Update the weights by the gradients as they are; these are left in place.

        If `guarded`: by the gradients over `divisor` (), and not at all where `broken` (), float32, is 1: neither is
        read by the host.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group["ratio"]
        # What torch's GradScaler hands to the fused kernel.
        self._optimizer.grad_scale, self._optimizer.found_inf = divisor, broken  # type: ignore[attr-defined]
        self._optimizer.step()

    def release(self) -> None:
        """Let go of its memory; it cannot step any more."""
        self._settle()
        paged = [value for _, state in self._states() for value in state.values() if getattr(value, "is_paged", False)]
        self._optimizer.state.clear()
        if paged:
            _free_pages(cast("list[torch.Tensor]", paged), self._optimizer.page_mng.paged_tensors)  # type: ignore[attr-defined]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies on the host of what the next update depends on beside the weights, by name."""
        self._settle()
        return {key: value.detach().to("cpu", copy=True) for key, value in self._tensors().items()}

    def numbers(self) -> dict[str, int]:
        """What is counted outside of tensors, by name."""
        return {f"{name}.{k}": v for name, state in self._states() for k, v in state.items() if type(v) is int}

    def restore(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, int]) -> None:
        """Put back what `tensors` and `numbers` gave. Raises ValueError if they are another optimizer's or adapter's."""
        mine = self._tensors()
        shapes = [{key: (tensor.shape, tensor.dtype) for key, tensor in of.items()} for of in (mine, tensors)]
        if shapes[0] != shapes[1] or numbers.keys() != self.numbers().keys():
            raise ValueError("the saved state is that of another optimizer or adapter")
        self._settle()
        for key, tensor in mine.items():
            tensor.copy_(tensors[key])
        for name, state in self._states():
            state.update({k: numbers[f"{name}.{k}"] for k in state if f"{name}.{k}" in numbers})

    def _settle(self) -> None:
        """Paged state lies in memory that the host reads and writes directly: the card must be done with it."""
        if self._flat.data.is_cuda:
            torch.cuda.synchronize(self._flat.data.device)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{key}": value
            for name, state in self._states()
            for key, value in state.items()
            if isinstance(value, torch.Tensor) and key not in _MAPS
        }

    def _states(self) -> list[tuple[SectionName, dict[str, object]]]:
        groups = self._optimizer.param_groups
        return [(name, self._optimizer.state[g["params"][0]]) for name, g in zip(self._names, groups, strict=True)]

    def _allocate(self) -> None:
        """Let the optimizer make its state: a step at rate zero over gradients of zero, which is then forgotten."""
        self._flat.zero_grad()
        self.step(0.0)
        self._settle()
        for tensor in self._tensors().values():
            tensor.zero_()
        for _, state in self._states():
            state.update({key: 0 for key, value in state.items() if type(value) is int})


def _make(groups: list[dict[str, object]], config: TrainConfig) -> torch.optim.Optimizer:
    rate, decay, betas = config.learning_rate, config.weight_decay, (0.9, config.adam_beta2)
    if config.optim == "lion_32bit":
        return Lion(groups, rate, betas, decay)
    if config.optim == "paged_adamw_8bit":
        import bitsandbytes

        paged: torch.optim.Optimizer = bitsandbytes.optim.PagedAdamW8bit(
            groups, lr=rate, betas=betas, weight_decay=decay
        )
        return paged
    return torch.optim.AdamW(groups, lr=rate, betas=betas, weight_decay=decay, fused=True)


def _free_pages(paged: list[torch.Tensor], known: list[torch.Tensor]) -> None:
    """Give paged memory that nobody uses any more back to the driver, and take it off the library's list.

    bitsandbytes keeps every buffer for as long as the process lives: 0.13 GB of the card more with each run of a 7B at
    rank 8.
    """
    pointers = {buffer.data_ptr() for buffer in paged}
    known[:] = [buffer for buffer in known if buffer.data_ptr() not in pointers]
    paged.clear()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return  # a driver under another name: the memory comes back when the process ends
    for pointer in pointers:
        driver.cuMemFree_v2(ctypes.c_uint64(pointer))
