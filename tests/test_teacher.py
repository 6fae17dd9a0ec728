"""Examples with a teacher: their divergence and its gradient, by autograd and by the fused pass, beside ordinary rows."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from core.batch import pack, split
from core.encode import IGNORE, Example
from core.fused import reference
from core.fused.backend import FusedBackend
from core.fused.nf4 import by_bitsandbytes
from core.fused.rows import Size
from core.fused.sizes import Depth, Way
from core.plain import PlainBackend

CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The model as transformers loads it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model


def fused(model: PreTrainedModel) -> PlainBackend:
    """A fused backend by reference operations."""
    return FusedBackend(model, CPU, None, reference, by_bitsandbytes)


def plain(model: PreTrainedModel) -> PlainBackend:
    """The one that goes by autograd."""
    return PlainBackend(model, CPU, None)


def adapt(backend: PlainBackend, **settings: object) -> PlainBackend:
    """Put in an adapter "a" whose A and B are both random."""
    options = {"r": 8, "lora_alpha": 24, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    backend.add_adapter("a", LoraConfig(**options), seed=0)
    for index, parameter in enumerate(backend.adapter_parameters("a")):
        values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
        parameter.data = (values * 0.1).to(next(backend.model.parameters()).dtype)
    return backend


def rows(*lengths: int, seed: int = 0) -> list[Example]:
    """Rows of random tokens, the last two thirds of each in the loss."""
    draw = random.Random(seed)
    ids = [tuple(draw.randrange(250) for _ in range(length)) for length in lengths]
    return [Example(row, (IGNORE,) * (len(row) // 3) + row[len(row) // 3 :]) for row in ids]


def taught(base: PreTrainedModel, *lengths: int, weight: float = 1.0) -> list[Example]:
    """Rows that are held to what the base says."""
    found = []
    for index, row in enumerate(rows(*lengths, seed=1)):
        places = [place for place, label in enumerate(row.labels[1:]) if label != IGNORE]
        with torch.no_grad():
            states = base.base_model(input_ids=torch.tensor([row.input_ids])).last_hidden_state[0, places]
        found.append(replace(row, teacher=states, weight=weight * (1 + index)))
    return found


def gradients(
    backend: PlainBackend, groups: list[list[Example]], way: Way, scale: float = 1.0
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Losses (2,) and every gradient of one step over the groups, a pass each."""
    for parameter in backend.adapter_parameters("a"):
        parameter.grad = None
    total = sum(example.answer_tokens for group in groups for example in group if example.teacher is None)
    losses = sum(backend.loss_and_grads(pack(group, CPU), "a", max(1, total), way, scale) for group in groups)
    assert isinstance(losses, torch.Tensor)
    found = [parameter.grad for parameter in backend.adapter_parameters("a")]
    return losses, [gradient.clone() for gradient in found if gradient is not None]


def by_hand(folder: Path, examples: list[Example]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The same by transformers and PEFT, one row at a time, with torch's own losses."""
    base, backend = load(folder), adapt(plain(load(folder)))
    backend._train_mode("a", False)
    losses = torch.zeros(2, dtype=torch.float64)
    for example in examples:
        ids, labels = torch.tensor([example.input_ids]), torch.tensor(example.labels[1:])
        logits = backend.model(input_ids=ids).logits[0, :-1]
        if example.teacher is None:
            losses[0] = losses[0] + functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        else:
            with torch.no_grad():
                right = base(input_ids=ids).logits[0, :-1]
            both = (x[labels != IGNORE].log_softmax(-1) for x in (logits, right))
            losses[1] = losses[1] + example.weight * functional.kl_div(*both, log_target=True, reduction="sum")
    losses = losses / max(1, sum(example.answer_tokens for example in examples if example.teacher is None))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return losses.detach(), [p.grad for p in backend.adapter_parameters("a") if p.grad is not None]


def worst(found: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """The largest relative difference of any tensor."""
    assert len(found) == len(right) > 0
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize("make", [plain, fused], ids=["plain", "fused"])
@pytest.mark.parametrize("model", ["tiny_model", "tiny_llama"])
@pytest.mark.parametrize("max_tokens", [10_000, 90, 1], ids=lambda n: f"{n} tokens a pass")
def test_the_divergence_and_its_gradient_are_torchs_own(
    make: object, model: str, max_tokens: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    examples = [*rows(37, 64, 5), *taught(load(folder), 20, 41, 3, weight=20)]
    right_losses, right = by_hand(folder, examples)
    backend = adapt(make(load(folder)))  # type: ignore[operator]
    losses, found = gradients(backend, list(split(examples, max_tokens)), Way())
    assert float(right_losses[1]) > 0.01
    assert losses.tolist() == pytest.approx(right_losses.tolist(), rel=1e-6)
    assert worst(found, right) < 1e-6


@pytest.mark.parametrize("make", [plain, fused], ids=["plain", "fused"])
def test_a_step_may_be_rehearsal_alone(tiny_model: Path, make: object) -> None:
    examples = taught(load(tiny_model), 20, 41)
    right_losses, right = by_hand(tiny_model, examples)
    losses, found = gradients(adapt(make(load(tiny_model))), [examples], Way())  # type: ignore[operator]
    assert float(losses[0]) == 0 and losses.tolist() == pytest.approx(right_losses.tolist(), rel=1e-6)
    assert worst(found, right) < 1e-6


@pytest.mark.parametrize(
    "way",
    [Way(Depth(whole=2)), Way(Depth(mlp=2)), Way(Depth(whole=1, mlp=1), logit_rows=7), Way(logit_rows=1)],
    ids=["whole", "mlp", "few logits", "one row of logits"],
)
def test_what_a_pass_gives_up_does_not_change_it(tiny_model: Path, way: Way) -> None:
    examples = [*rows(37, 64), *taught(load(tiny_model), 20, 41)]
    backend = adapt(fused(load(tiny_model)))
    losses, found = gradients(backend, [examples], Way())
    again, others = gradients(backend, [examples], way)
    assert again.tolist() == pytest.approx(losses.tolist(), rel=1e-6) and worst(others, found) < 1e-6


@pytest.mark.parametrize("make", [plain, fused], ids=["plain", "fused"])
def test_who_says_what_the_base_says_has_no_divergence_and_no_gradient_of_it(tiny_model: Path, make: object) -> None:
    backend = make(load(tiny_model, torch.float32))  # type: ignore[operator]
    backend.add_adapter("a", LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"), seed=0)
    examples = taught(load(tiny_model, torch.float32), 30, 12, weight=1000)
    losses, found = gradients(backend, [examples], Way())
    assert float(losses[1]) == pytest.approx(0, abs=0.05)  # thousands of rounded sums
    _, learning = gradients(backend, [rows(30, 12)], Way())
    assert max(float(g.norm()) for g in found) < 1e-2 * max(float(g.norm()) for g in learning)


@pytest.mark.parametrize("make", [plain, fused], ids=["plain", "fused"])
def test_a_weight_of_zero_is_as_if_the_example_were_not_there(tiny_model: Path, make: object) -> None:
    backend = adapt(make(load(tiny_model)))  # type: ignore[operator]
    examples = rows(37, 64)
    _, right = gradients(backend, [examples], Way())
    losses, found = gradients(backend, [[*examples, *taught(load(tiny_model), 20, weight=0)]], Way())
    assert float(losses[1]) == 0 and worst(found, right) < 1e-6


@pytest.mark.parametrize("make", [plain, fused], ids=["plain", "fused"])
def test_the_scale_multiplies_both_gradients_and_no_loss(tiny_model: Path, make: object) -> None:
    backend = adapt(make(load(tiny_model)))  # type: ignore[operator]
    examples = [*rows(37), *taught(load(tiny_model), 20)]
    losses, once = gradients(backend, [examples], Way())
    again, scaled = gradients(backend, [examples], Way(), 4096.0)
    assert again.tolist() == pytest.approx(losses.tolist(), rel=1e-9)
    assert worst([gradient / 4096 for gradient in scaled], once) < 1e-6


@pytest.mark.parametrize("make", [plain, fused], ids=["plain", "fused"])
def test_the_evaluation_loss_leaves_what_is_taught_out(tiny_model: Path, make: object) -> None:
    backend = adapt(make(load(tiny_model)))  # type: ignore[operator]
    gradients(backend, [rows(20)], Way())
    alone = float(backend.loss(pack(rows(37, 64), CPU), "a"))
    both = [*rows(37, 64), *taught(load(tiny_model), 20)]
    assert float(backend.loss(pack(both, CPU), "a")) == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.1}, {"target_modules": ["q_proj", "lm_head"]}], ids=str)
def test_what_goes_the_plain_way_is_taught_too(tiny_llama: Path, settings: dict[str, object]) -> None:
    examples = [*rows(37), *taught(load(tiny_llama), 20)]
    found = []
    for make in (plain, fused):
        backend = adapt(make(load(tiny_llama)), **settings)
        torch.manual_seed(1)
        found.append(gradients(backend, [examples], Way()))
    assert float(found[0][0][1]) > 0 and worst(found[1][1], found[0][1]) < 1e-5


def test_a_batch_with_a_teacher_keeps_order_and_every_weight(tiny_model: Path) -> None:
    examples = [*rows(9, 12), *taught(load(tiny_model), 20, 3, weight=0.5)]
    batch = pack(examples, "cpu")
    counts = [example.answer_tokens for example in examples]
    assert batch.taught == sum(counts[2:]) and batch.targets.shape[0] == sum(counts)
    assert batch.weights is not None and batch.weights.tolist() == [0.5] * counts[2] + [1.0] * counts[3]
    assert batch.teacher is not None and torch.equal(batch.teacher[counts[2] :], examples[3].teacher)
    assert pack(examples[:2], "cpu").teacher is None
    with pytest.raises(AssertionError):
        pack([examples[2], examples[0]], "cpu")
    assert [len(group) for group in split(examples, 25)] == [2, 2]


def test_without_a_teacher_sizes_are_what_they_were_and_with_one_they_are_few(tiny_model: Path) -> None:
    assert Size.of(pack(rows(37, 64), CPU)) == Size(tokens=128, answers=128, rows=8, longest=128)
    base = load(tiny_model)
    sizes = {Size.of(pack([*rows(37, 64), *taught(base, count)], CPU)) for count in range(20, 60, 7)}
    assert all(size.taught == 64 and size.answers == 192 for size in sizes) and len(sizes) <= 2


def test_an_example_is_the_same_with_a_teacher_of_its_own(tiny_model: Path) -> None:
    (example,) = taught(load(tiny_model), 20)
    assert replace(example, teacher=None) == example and hash(example) == hash(replace(example, teacher=None))
    assert "tensor" not in repr(example) and math.isfinite(example.weight)
