"""The optimizers over flat buffers: each against its definition, LoRA+, and a state that goes out and in to the bit."""

from __future__ import annotations

import pytest
import torch

from core.config import TrainConfig, build
from core.flat import FlatAdapter
from core.optimizer import FlatOptimizer

OPTIMIZERS = ("adamw_torch", "lion_32bit", "paged_adamw_8bit")
# bitsandbytes says on a processor that it does not page there; its arithmetic is the same.
pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")


def flat(seed: int = 0) -> FlatAdapter:
    generator = torch.Generator().manual_seed(seed)
    # Over 4096 elements, below which bitsandbytes keeps 32 bits; and a few.
    shapes = {"x.lora_A.d.weight": (8, 600), "x.lora_B.d.weight": (600, 8), "x.lora_magnitude_vector.d.weight": (5,)}
    return FlatAdapter([(n, torch.nn.Parameter(torch.randn(s, generator=generator))) for n, s in shapes.items()])


def gradients(count: int, size: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(size, generator=generator) for _ in range(count)]


def config_of(**settings: object) -> TrainConfig:
    return build({"weight_decay": 0.1, **settings})


def test_adamw_is_torch_s_own() -> None:
    ours = flat()
    optimizer = FlatOptimizer(ours, config_of())
    theirs = torch.nn.Parameter(ours.data.clone())
    reference = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for gradient in gradients(5, ours.data.numel()):
        ours.grad.copy_(gradient)
        theirs.grad = gradient
        optimizer.step(1e-2)
        reference.step()
    assert torch.allclose(ours.data, theirs.data, rtol=1e-5, atol=1e-6) and not torch.equal(ours.data, flat().data)


def test_lion_is_the_paper_s_algorithm() -> None:
    ours = flat()
    optimizer = FlatOptimizer(ours, config_of(optim="lion_32bit", adam_beta2=0.99))
    weights, momentum = ours.data.double().clone(), torch.zeros(ours.data.numel(), dtype=torch.float64)
    for gradient in gradients(5, ours.data.numel()):
        ours.grad.copy_(gradient)
        optimizer.step(1e-2)
        update = (0.9 * momentum + 0.1 * gradient.double()).sign()
        weights -= 1e-2 * (update + 0.1 * weights)
        momentum = 0.99 * momentum + 0.01 * gradient.double()
    assert torch.allclose(ours.data.double(), weights, atol=1e-6)


def test_eight_bits_stay_near_adamw_even_after_gradients_of_zero() -> None:
    exact, small = flat(), flat()
    optimizers = [FlatOptimizer(exact, config_of()), FlatOptimizer(small, config_of(optim="paged_adamw_8bit"))]
    zero = torch.zeros(exact.data.numel())  # the gradient of every A is zero in the first step
    for gradient in (zero, *gradients(5, exact.data.numel())):
        for each, optimizer in zip((exact, small), optimizers, strict=True):
            each.grad.copy_(gradient)
            optimizer.step(1e-3)
    moved = (exact.data - flat().data).abs().mean()
    assert small.finite() and (exact.data - small.data).abs().mean() < 0.1 * moved
    assert {t.dtype for t in optimizers[1].tensors().values()} == {torch.uint8, torch.float32}


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_lora_plus_multiplies_the_rate_of_b(optim: str) -> None:
    moved = []
    for ratio in (0, 1, 16):
        ours = flat()
        before = ours.data.clone()
        optimizer = FlatOptimizer(ours, config_of(optim=optim, lorap_lr_ratio=ratio, weight_decay=0))
        ours.grad.fill_(1.0)
        optimizer.step(1e-3)
        change = (before - ours.data).abs()
        sections = {s.name: float(change[s.start : s.stop].max()) for s in ours.sections}
        moved.append(sections)
    assert moved[0] == moved[1]
    assert moved[2]["a"] == moved[0]["a"] == pytest.approx(1e-3, rel=1e-3)
    assert moved[2]["b"] == pytest.approx(16e-3, rel=1e-3) == moved[2]["rest"]


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_making_an_optimizer_changes_nothing_and_its_first_step_is_step_one(optim: str) -> None:
    ours = flat()
    optimizer = FlatOptimizer(ours, config_of(optim=optim))
    assert torch.equal(ours.data, flat().data) and not ours.grad.any()
    assert optimizer.tensors() and not any(tensor.any() for tensor in optimizer.tensors().values())


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_a_state_put_back_goes_on_as_if_nothing_had_been(optim: str) -> None:
    steps = gradients(6, flat().data.numel())
    straight, stopped, resumed = flat(), flat(), flat(seed=1)
    optimizers = [
        FlatOptimizer(each, config_of(optim=optim, lorap_lr_ratio=2)) for each in (straight, stopped, resumed)
    ]
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


def test_another_optimizer_s_state_is_refused() -> None:
    adamw, lion, _ = (FlatOptimizer(flat(), config_of(optim=optim)) for optim in OPTIMIZERS)
    with pytest.raises(ValueError):
        lion.restore(adamw.tensors(), adamw.numbers())
