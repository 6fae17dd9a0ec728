"""Rows continued by the plain backend: each as if it were alone, whoever comes and goes, in any kind of cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from core import plain_slots
from core.backend import Route
from core.plain import PlainBackend
from core.plain_slots import PlainSlots

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
KINDS = ["full", "window", "states"]


def model_of(kind: str) -> PreTrainedModel:
    """Full attention; a window much shorter than the texts; and layers whose state cannot be lengthened to the left."""
    torch.manual_seed(0)
    if kind == "full":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES, num_hidden_layers=2)).eval()
    if kind == "window":
        return MistralForCausalLM(MistralConfig(**SIZES, num_hidden_layers=2, sliding_window=8)).eval()
    config = Lfm2Config(**SIZES, num_hidden_layers=2, layer_types=["conv", "full_attention"])
    return Lfm2ForCausalLM(config).eval()


def backend_of(kind: str) -> PlainBackend:
    """With two shaken adapters."""
    backend = PlainBackend(model_of(kind), CPU, None)
    for index, name in enumerate(("a", "b")):
        backend.add_adapter(name, LoraConfig(r=4, target_modules=["q_proj", "out_proj", "o_proj"]), seed=index)
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for parameter in backend.adapter_parameters(name):
                parameter.normal_(0, 0.3, generator=generator)
    return backend


def text(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 128, (length,), generator=torch.Generator().manual_seed(seed * 100 + length)).tolist()


class Alone:
    """The same row by one forward over the whole text, each time anew."""

    def __init__(self, backend: PlainBackend, prompt: list[int], route: Route) -> None:
        self._backend, self._ids, self._route = backend, list(prompt), route

    def logits(self) -> torch.Tensor:
        return self._backend.slots().join([self._ids], [self._route], [999])[0]

    def step(self, token: int) -> torch.Tensor:
        self._ids.append(token)
        return self.logits()


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) < 1e-4


@pytest.mark.parametrize("waste", [0, 4096], ids=["caches apart", "one cache"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_come_and_go_are_as_if_alone(kind: str, waste: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_slots, "_WASTE", waste)
    backend = backend_of(kind)
    slots, rows, token = PlainSlots(backend), [], 0

    def join(*new: tuple[int, Route]) -> None:
        prompts = [text(length, len(rows)) for length, _ in new]
        logits = slots.join(prompts, [route for _, route in new], [99] * len(new))
        rows.extend(Alone(backend, prompt, route) for prompt, (_, route) in zip(prompts, new, strict=True))
        assert all(near(got, row.logits()) for got, row in zip(logits, rows[-len(new) :], strict=True))

    def step() -> None:
        nonlocal token
        tokens = [(token + 7 * index) % 128 for index in range(len(rows))]
        token += 1
        logits = slots.step(torch.tensor(tokens))
        assert len(slots) == len(rows) == len(logits)
        for index, row in enumerate(rows):
            assert near(logits[index], row.step(tokens[index])), index

    def leave(*places: int) -> None:
        slots.leave(places)
        rows[:] = [row for index, row in enumerate(rows) if index not in places]

    join((5, Route("a")), (30, Route()), (12, Route("b", 0.5)))
    step(), step()
    join((40, Route("a", 1.5)))  # longer than those there
    step()
    leave(1)
    join((3, Route()), (3, Route("b")))
    step(), step()
    leave(0, 2)  # the longest among them
    step()
    leave(0, 1, 2)
    assert len(slots) == 0
    join((6, Route("b")))
    step()


def test_rows_that_fit_each_other_share_a_cache_without_common_padding() -> None:
    slots = PlainSlots(backend_of("full"))
    slots.join([text(40), text(7)], [Route(), Route("a")], [99, 99])
    slots.join([text(9)], [Route("b")], [99])
    assert [cohort.length for cohort in slots._cohorts] == [40]
    slots.leave([0])
    (cohort,) = slots._cohorts
    assert cohort.length == 9 and cohort.cache.layers[0].keys.shape[:3] == (2, 2, 9)
    slots.leave([0])
    assert slots._cohorts[0].mask is None


def test_a_long_row_does_not_make_many_short_ones_long() -> None:
    slots = PlainSlots(backend_of("full"))
    slots.join([text(8, seed) for seed in range(20)], [Route()] * 20, [99] * 20)
    slots.join([text(500)], [Route()], [999])
    assert [cohort.length for cohort in slots._cohorts] == [8, 500]


def test_a_join_that_fails_leaves_the_others_as_they_were() -> None:
    backend = backend_of("full")
    slots, row = PlainSlots(backend), Alone(backend, text(9), Route("a"))
    slots.join([text(9)], [Route("a")], [99])
    with pytest.raises(IndexError):
        slots.join([text(20), [5, 10**6]], [Route(), Route()], [99, 99])
    assert len(slots) == 1 and near(slots.step(torch.tensor([3]))[0], row.step(3))


def test_base_rows_are_the_base_to_the_bit_beside_any_strength() -> None:
    pure, mixed = PlainSlots(PlainBackend(model_of("full"), CPU, None)), PlainSlots(backend_of("full"))
    prompts = [text(9), text(9, 1), text(9, 2), text(9, 3)]
    routes = [Route("a"), Route(), Route("b", 0.3), Route("b", 0.0)]
    steps = [(slots.join(prompts, which, [20] * 4), slots.step(torch.tensor([1, 2, 3, 4])))
             for slots, which in ((pure, [Route()] * 4), (mixed, routes))]  # fmt: skip
    for one, other in zip(*steps, strict=True):
        assert torch.equal(one[[1, 3]], other[[1, 3]]) and not any(near(one[row], other[row]) for row in (0, 2))


def test_full_strength_has_the_bits_of_no_strength_and_half_of_it_half_the_change() -> None:
    backend = backend_of("full")
    one, two = (PlainSlots(backend).join([text(9)] * 2, [Route("a"), Route("a", s)], [20] * 2) for s in (1.0, 0.5))
    assert torch.equal(one[0], two[0]) and not near(one[1], two[1])
    layer = backend.model.model.layers[0].self_attn.q_proj  # type: ignore[attr-defined]
    x, changes = torch.randn(3, 5, 32), []
    for strength in (0.0, 0.5, 1.0, 1.5):
        with backend._answer_mode(backend.routing([Route(), Route("a", strength), Route("b")])):
            changes.append(layer(x)[1] - layer.base_layer(x)[1])
    assert not changes[0].any() and near(changes[1] * 2, changes[2]) and near(changes[1] * 3, changes[3])


def test_an_adapter_that_learns_between_two_tokens_counts_as_it_is_now() -> None:
    backend = backend_of("full")
    backend.add_adapter("d", replace(LoraConfig(r=4, target_modules=["q_proj"]), use_dora=True), seed=0)
    slots = PlainSlots(backend)
    slots.join([text(9)] * 2, [Route("d"), Route()], [99] * 2)
    before = slots.step(torch.tensor([3, 3])).clone()
    with torch.no_grad():
        for parameter in backend.adapter_parameters("d"):
            parameter.add_(0.1)
    backend.forget_norms()
    after = slots.step(torch.tensor([3, 3]))
    assert not near(after[0] - after[1], before[0] - before[1])
