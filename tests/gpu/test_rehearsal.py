"""Examples with a teacher, and readings, on a card: the kernel, whole passes against exact ones, graphs, the base's bits."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import Qwen2Config, Qwen2ForCausalLM

from core.batch import pack
from core.encode import IGNORE, Example
from core.fused import nf4, reference
from core.fused.sizes import Depth, Way
from core.plain import PlainBackend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]
CARD = torch.device("cuda", 0)
BF16, FP16 = torch.bfloat16, torch.float16
WAYS = [Way(), Way(Depth(whole=3)), Way(Depth(mlp=3)), Way(Depth(1, 1), logit_rows=64), Way(host_embeddings=True)]


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize("words", [300, 20_000, 152_064])
def test_the_kernel_is_the_references(words: int, dtype: torch.dtype) -> None:
    from core.fused import kernels

    torch.manual_seed(0)
    logits, teacher = ((3 * torch.randn(9, words, device=CARD)).to(dtype) for _ in range(2))
    teacher[3] = logits[3]
    weights = torch.tensor([1, 0.5, 0, 1, 30, 0, 1, 1, 1e-3], device=CARD)
    scale = torch.tensor([0.01], device=CARD)
    found = []
    for ops in (kernels, reference):
        mine, losses = logits.clone(), torch.full((9,), float("nan"), device=CARD)
        ops.kl_divergence(mine, teacher.clone(), weights, losses, scale)
        assert float(mine[[2, 5]].abs().max()) == 0 == float(losses[[2, 5]].abs().max())
        assert float(mine[3].abs().max()) == 0 == float(losses[3])
        found.append((mine.double(), losses.double()))
    for mine, right in zip(*found, strict=True):
        assert float((mine - right).norm() / right.norm()) < 2e-3


def small() -> Qwen2ForCausalLM:
    """Three layers with the widths of a real head, always the same."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=20_000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=4096,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def adapted(backend: PlainBackend, zero: bool = False) -> PlainBackend:
    """With an adapter "a" whose A and B are the same random ones each time, or one that changes nothing."""
    backend.add_adapter("a", LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"), 0)
    for index, parameter in enumerate(backend.adapter_parameters("a")):
        if not zero:
            parameter.data.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.02)
    return backend


def fused(dtype: torch.dtype) -> PlainBackend:
    """The backend the engine would choose."""
    from core.fused import kernels
    from core.fused.backend import FusedBackend

    return FusedBackend(small().to(CARD, dtype), CARD, dtype, kernels, nf4.by_kernel)


def exact(dtype: torch.dtype) -> PlainBackend:
    """The same weights in float64, by autograd."""
    return PlainBackend(small().to(dtype).double().to(CARD), CARD, None)


def rows(*lengths: int, seed: int = 0) -> list[Example]:
    """Random rows, half of each in the loss."""
    draw = random.Random(seed)
    ids = [tuple(draw.randrange(20_000) for _ in range(length)) for length in lengths]
    return [Example(row, (IGNORE,) * (len(row) // 2) + row[len(row) // 2 :]) for row in ids]


def taught(backend: PlainBackend, *lengths: int, weight: float = 1.0, seed: int = 1) -> list[Example]:
    """Rows held to what this base says."""
    found = []
    for row in rows(*lengths, seed=seed):
        states = backend.states(pack([row], CARD), None).cpu()
        found.append(replace(row, teacher=states, weight=weight))
    return found


def gradients(
    backend: PlainBackend, examples: list[Example], way: Way, scale: float = 1.0
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Losses and every gradient of one pass, less the scale."""
    for parameter in backend.adapter_parameters("a"):
        if parameter.grad is not None:
            parameter.grad.zero_()
    total = max(1, sum(example.answer_tokens for example in examples if example.teacher is None))
    losses = backend.loss_and_grads(pack(examples, CARD), "a", total, way, scale)
    return losses, [p.grad.double() / scale for p in backend.adapter_parameters("a") if p.grad is not None]


def worst(found: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """The largest relative distance of any tensor."""
    assert len(found) == len(right) > 0
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize("lengths", [((37, 300), (64, 5, 129)), ((), (64, 200)), ((900,), (700, 400))], ids=str)
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_gradients_are_as_near_to_the_exact_ones_as_autograds(
    lengths: tuple[tuple[int, ...], tuple[int, ...]], dtype: torch.dtype
) -> None:
    right = adapted(exact(dtype))
    examples = [*rows(*lengths[0]), *taught(right, *lengths[1], weight=5.0)]
    scale = 4096.0 if dtype == FP16 else 1.0
    right_losses, wanted = gradients(right, examples, Way())
    plain = adapted(PlainBackend(small().to(CARD, dtype), CARD, dtype))
    _, near = gradients(plain, examples, Way(), scale)
    ours = adapted(fused(dtype))
    for way in WAYS:
        for _ in range(3):  # as it is, captured, replayed
            losses, found = gradients(ours, examples, way, scale)
            assert losses.tolist() == pytest.approx(right_losses.tolist(), rel=0.05, abs=1e-4)
            assert worst(found, wanted) < max(1.2 * worst(near, wanted), 0.006)


def test_a_replayed_graph_reads_each_batchs_own_teacher_and_weights() -> None:
    ours = adapted(fused(BF16))
    one, two = (
        [*rows(37, 64), *taught(ours, 60, 30, weight=weight, seed=seed)] for weight, seed in ((3.0, 1), (9.0, 2))
    )
    first = [gradients(adapted(fused(BF16)), examples, Way()) for examples in (one, two)]
    for _ in range(4):
        for examples, (losses, right) in zip((one, two), first, strict=True):
            again, found = gradients(ours, examples, Way())
            assert again.tolist() == pytest.approx(losses.tolist(), rel=1e-5) and worst(found, right) < 1e-5
    assert first[0][0][1] != first[1][0][1]


def test_without_a_teacher_a_pass_after_one_with_it_gives_the_same_bits() -> None:
    ours, examples = adapted(fused(BF16)), rows(37, 64, 5)
    losses, before = gradients(ours, examples, Way())
    gradients(ours, [*examples, *taught(ours, 60)], Way())
    again, after = gradients(ours, examples, Way())
    assert float(losses[1]) == 0 == float(again[1]) and float(losses[0]) == float(again[0])
    assert worst(after, before) < 1e-6  # thin products are added in no fixed order


def test_states_are_the_exact_ones_and_a_null_adapters_are_the_bases_to_the_bit() -> None:
    ours, right = adapted(fused(BF16), zero=True), adapted(exact(BF16))
    batch = pack(rows(37, 300, 1500, 64), CARD)
    base = ours.states(batch, None, like="a")
    assert torch.equal(base, ours.states(batch, "a")) and base.dtype == BF16
    wanted = right.states(batch, None)
    assert float((base.double() - wanted).norm() / wanted.norm()) < 0.02
    logits, exactly = ours.logits(base), right.logits(wanted)
    assert logits.dtype == torch.float32 and float((logits.double() - exactly).norm() / exactly.norm()) < 0.02
    gradients(ours, rows(64), Way())  # an adapter in training changes nothing of it
    assert torch.equal(base, ours.states(batch, None, like="a"))


def test_reading_takes_little_memory_beside_the_base() -> None:
    ours = adapted(fused(BF16))
    batch = pack(rows(*[64] * 32), CARD)
    ours.logits(ours.states(batch, "a")[:200])
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ours.logits(ours.states(batch, "a")[:200])
    assert torch.cuda.max_memory_allocated() - before < 200e6


@pytest.mark.parametrize("work", ["score", "losses", "choices"])
def test_readings_of_an_engine_on_a_card(tiny_model: Path, work: str) -> None:
    from core.config import TrainConfig
    from core.dataset import Message
    from core.engine import Engine
    from core.score import choices, losses, score

    engine = Engine()
    engine.load(str(tiny_model), torch_dtype="bfloat16")
    assert engine.resident is not None
    encoder = engine.resident.encoder
    asked = [encoder.example((Message("user", "hi" * n), Message("assistant", "ho" * n))) for n in (1, 9, 30)]
    engine.create_adapter("a", TrainConfig(model=str(tiny_model)))
    readings: dict[str, Callable[[], object]] = {
        "score": lambda: score(engine, "a", asked),
        "losses": lambda: losses(engine, "a", asked) == losses(engine, None, asked),
        "choices": lambda: choices(engine, "a", [[1, 2]], [[3, 4]]) == choices(engine, None, [[1, 2]], [[3, 4]]),
    }
    found = readings[work]()
    if isinstance(found, list):
        assert all(one.base == one.tuned and set(one.drift) == {0.0} and all(one.same) for one in found)
    else:
        assert found is True


def test_warming_compiles_the_kernel_that_a_pass_launches() -> None:
    from core.fused import family, kernels, loss_programs
    from core.fused.warm import warm

    model = small()
    warm(family.shape_of(model), BF16, CARD, kernels)
    program = loss_programs.kl_divergence_kernel
    made = sum(len(cache[0]) for cache in program.device_caches.values())
    ours = adapted(fused(BF16))
    gradients(ours, [*rows(37, 64), *taught(ours, 60)], Way())
    assert made >= 1 and sum(len(cache[0]) for cache in program.device_caches.values()) == made
