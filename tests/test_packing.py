"""The packed step equals batch 1 x accumulation N with token-normalised loss, as transformers and PEFT compute it alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from core.batch import pack, split
from core.config import TrainConfig, build
from core.encode import IGNORE, Example
from core.engine import Engine
from core.fused.sizes import Way

Gradients = dict[str, torch.Tensor]
EXACT = 1e-6


def ragged(seed: int = 0) -> list[Example]:
    """Rows of 5 to 70 tokens; answers of 1 to 30, some of two stretches; one row has its whole text in the loss."""
    draw = random.Random(seed)
    rows = []
    for length in (23, 5, 70, 41, 6, 58, 12):
        ids = tuple(draw.randrange(256) for _ in range(length))
        begin = draw.randrange(1, length - 1)
        learned = set(range(begin, length)) - set(range(begin + 3, begin + 5))
        rows.append(Example(ids, tuple(i if at in learned else IGNORE for at, i in enumerate(ids))))
    first = rows[0].input_ids
    return [*rows, Example(first, (IGNORE, *first[1:]))]


@pytest.fixture
def exact_engine(plain_engine: Engine, tiny_config: TrainConfig) -> Engine:
    """Adapter "a" on every layer, all of it in float64, B away from zero so that A gets a gradient."""
    plain_engine.create_adapter("a", build({"lora_rank": 4}, tiny_config))
    assert plain_engine.resident is not None
    backend = plain_engine.resident.backend
    backend.model.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backend.adapter_parameters(plain_engine.handle("a")):
            parameter.normal_(0, 0.05, generator=generator)
    return plain_engine


def one_row_at_a_time(engine: Engine, folder: Path, examples: list[Example]) -> tuple[float, Gradients]:
    """A loop as anyone writes it, over a model of its own: one row, forward, backward; (loss, gradient by name)."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert engine.resident is not None
    engine.save_adapter("a", folder, {})
    base = AutoModelForCausalLM.from_pretrained(engine.resident.info.folder, dtype=torch.float64)
    model = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    total = sum(label != IGNORE for example in examples for label in example.labels[1:])
    loss = 0.0
    for example in examples:
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
        labels = torch.tensor(example.labels[1:])
        part = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / total
        part.backward()
        loss += float(part.detach())
    named = [(key, p) for key, p in model.named_parameters() if "lora_" in key]
    assert all(p.grad is not None and p.grad.dtype == torch.float64 for _, p in named)
    return loss, {k.removeprefix("base_model.model.").replace(".default", ""): p.grad for k, p in named}  # type: ignore[misc]


def packed(engine: Engine, groups: list[list[Example]], recompute: bool = False) -> tuple[float, Gradients]:
    """The same through the backend: one pass for each group."""
    assert engine.resident is not None
    backend, name = engine.resident.backend, engine.handle("a")
    total = sum(example.answer_tokens for group in groups for example in group)
    loss = sum(float(backend.loss_and_grads(pack(group, "cpu"), name, total, recompute)[0]) for group in groups)
    mine = {id(p) for p in backend.adapter_parameters(name)}
    named = [(key.replace(f".{name}", ""), p) for key, p in backend.model.named_parameters() if id(p) in mine]
    gradients = {key: p.grad.clone() for key, p in named if p.grad is not None}
    for _, parameter in named:
        parameter.grad = None
    assert len(gradients) == len(named)
    return loss, gradients


def largest_difference(mine: Gradients, reference: Gradients) -> float:
    """Largest difference of any element, relative to the largest of its own tensor."""
    assert mine.keys() == reference.keys() and len(mine) == 28
    assert all(float(tensor.abs().max()) > 0 for tensor in reference.values())
    return max(float((mine[k] - reference[k]).abs().max() / reference[k].abs().max()) for k in mine)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("max_tokens", [10_000, 130, 80, 1], ids=lambda n: f"{n} tokens a pass")
def test_the_packed_gradient_is_the_plain_loops(
    exact_engine: Engine, tmp_path: Path, max_tokens: int, recompute: bool
) -> None:
    examples = ragged()
    reference_loss, reference = one_row_at_a_time(exact_engine, tmp_path / "a", examples)
    groups = list(split(examples, max_tokens))
    assert len(groups) == {10_000: 1, 130: 3, 80: 5, 1: 8}[max_tokens]
    loss, gradients = packed(exact_engine, groups, recompute)
    assert largest_difference(gradients, reference) <= EXACT
    assert loss == pytest.approx(reference_loss, rel=1e-9)


def test_neither_order_nor_grouping_changes_the_gradient(exact_engine: Engine) -> None:
    examples = ragged()
    _, reference = packed(exact_engine, [examples])
    draw = random.Random(3)
    for parts in (1, 2, 3):
        mixed = draw.sample(examples, len(examples))
        _, gradients = packed(exact_engine, [mixed[at::parts] for at in range(parts)])
        assert largest_difference(gradients, reference) <= EXACT


def test_the_comparison_would_notice_a_token_too_much(exact_engine: Engine) -> None:
    examples = ragged()
    _, reference = packed(exact_engine, [examples])
    first = examples[0]
    more = Example(first.input_ids, (*first.labels[:1], first.input_ids[1], *first.labels[2:]))
    assert more != first
    _, gradients = packed(exact_engine, [[more, *examples[1:]]])
    assert largest_difference(gradients, reference) > 100 * EXACT


def test_no_row_sees_another(exact_engine: Engine) -> None:
    assert exact_engine.resident is not None
    backend, name = exact_engine.resident.backend, exact_engine.handle("a")
    first, second, third = ragged()[:3]
    apart = [float(backend.loss(pack([row], "cpu"), name)) for row in (first, second, third)]
    for rows in ([first, second, third], [third, first, second]):
        assert float(backend.loss(pack(rows, "cpu"), name)) == pytest.approx(sum(apart), rel=1e-12)


def test_a_step_without_dropout_leaves_the_random_state_alone(exact_engine: Engine) -> None:
    before = torch.random.get_rng_state()
    for recompute in (False, True):
        packed(exact_engine, list(split(ragged(), 80)), recompute)
    assert torch.equal(before, torch.random.get_rng_state())


def test_parts_are_normalised_by_the_whole_steps_answer_tokens(exact_engine: Engine) -> None:
    assert exact_engine.resident is not None
    backend, name = exact_engine.resident.backend, exact_engine.handle("a")
    row = ragged()[0]
    alone = float(backend.loss_and_grads(pack([row], "cpu"), name, row.answer_tokens, Way())[0])
    part = float(backend.loss_and_grads(pack([row], "cpu"), name, 4 * row.answer_tokens, Way())[0])
    assert part == pytest.approx(alone / 4, rel=1e-12)


def test_split_keeps_order_and_every_example() -> None:
    examples = [Example(tuple(range(n)), (IGNORE,) * n) for n in (3, 4, 9, 1, 1)]
    groups = [[len(e) for e in group] for group in split(examples, 7)]
    assert groups == [[3, 4], [9], [1, 1]]
