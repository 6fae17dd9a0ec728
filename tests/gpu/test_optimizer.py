"""The optimizers on a card: a state that goes out and in to the bit, paged memory among it, and updates without a wait."""

from __future__ import annotations

import pytest
import torch

from core.config import build
from core.flat import FlatAdapter
from core.optimizer import FlatOptimizer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]


def flat(seed: int = 0) -> FlatAdapter:
    # Over 100,000 elements, below which bitsandbytes does not page.
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x.lora_A.d.weight": (16, 8192), "x.lora_B.d.weight": (8192, 16)}
    return FlatAdapter([(n, torch.nn.Parameter(torch.randn(s, generator=generator).cuda())) for n, s in shapes.items()])


@pytest.mark.parametrize("optim", ["adamw_torch", "lion_32bit", "paged_adamw_8bit"])
def test_a_state_put_back_goes_on_as_if_nothing_had_been(optim: str) -> None:
    config = build({"optim": optim, "weight_decay": 0.1})
    straight, stopped, resumed = flat(), flat(), flat(seed=1)
    optimizers = [FlatOptimizer(each, config) for each in (straight, stopped, resumed)]
    generator = torch.Generator().manual_seed(9)
    steps = [torch.randn(straight.data.numel(), generator=generator).cuda() for _ in range(6)]
    for index, gradient in enumerate(steps):
        for each, optimizer in ((straight, optimizers[0]), (stopped, optimizers[1])):
            if each is straight or index < 3:
                each.grad.copy_(gradient)
                optimizer.step(1e-2)
    resumed.data.copy_(stopped.data)
    optimizers[2].restore(optimizers[1].tensors(), optimizers[1].numbers())
    for gradient in steps[3:]:
        resumed.grad.copy_(gradient)
        optimizers[2].step(1e-2)
    assert torch.equal(resumed.data, straight.data) and not torch.equal(resumed.data, stopped.data)
    assert all(tensor.device.type == "cpu" for tensor in optimizers[2].tensors().values())


@pytest.mark.parametrize("optim", ["adamw_torch", "lion_32bit"])
def test_an_update_waits_for_nothing_on_the_card(optim: str) -> None:
    ours = flat()
    optimizer = FlatOptimizer(ours, build({"optim": optim}))
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step(1e-3)
        ours.zero_grad()
        ours.norm()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_looking_for_what_is_not_finite_takes_no_memory() -> None:
    ours = flat()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert ours.finite()
    assert torch.cuda.max_memory_allocated() - before < 65_536 < ours.data.nbytes / 8
    for broken in (float("nan"), float("inf"), -float("inf")):
        ours.data[5] = broken
        assert not ours.finite()


def test_paged_memory_goes_back_when_a_run_is_over() -> None:
    config = build({"optim": "paged_adamw_8bit"})

    def used() -> int:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return total - free

    large = (64, 1 << 20)  # 128 MiB of state
    other = FlatOptimizer(flat(), config)
    other.step(1e-3)
    before = 0
    for run in range(4):
        ours = FlatAdapter([("x.lora_A.d.weight", torch.nn.Parameter(torch.zeros(large, device="cuda")))])
        optimizer = FlatOptimizer(ours, config)
        optimizer.step(1e-3)
        optimizer.release()
        ours.release()
        del ours, optimizer
        torch.cuda.empty_cache()
        before = before or used()  # what the first one left: kernels
        assert used() < before + 64 * 2**20, run
    other.step(1e-3)  # nobody else's was taken
    assert all(bool(tensor.isfinite().all()) for tensor in other.tensors().values() if tensor.is_floating_point())
