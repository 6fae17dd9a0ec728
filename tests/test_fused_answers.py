"""Answering on the fused layers, on the processor: the logits that transformers gives for each row alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from core.backend import Route, Slots
from core.batch import pack
from core.encode import IGNORE, Example
from core.errors import ModelError
from core.fused import answers, family, reference
from core.fused.backend import FusedBackend
from core.fused.nf4 import by_bitsandbytes
from core.fused.room import LENGTH, bank_bytes, cache_bytes, length_bucket, rows_bucket
from core.fused.sizes import Shape, Way
from core.fused.slots import FusedSlots, MixedSlots
from core.plain import PlainBackend
from core.plain_slots import PlainSlots

CPU = torch.device("cpu")
BASE = Route()


def load(folder: Path, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The model as transformers loads it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def fused(model: PreTrainedModel, spare: bool = False) -> FusedBackend:
    """A fused backend by reference operations."""
    assert family.refusal(model) is None
    return FusedBackend(model, CPU, None, reference, by_bitsandbytes, spare)


def adapt(backend: PlainBackend, name: str, seed: int = 0, **settings: object) -> str:
    """Put in an adapter whose A and B are random. Returns its name."""
    options = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    backend.add_adapter(name, LoraConfig(**options), seed=0)
    kind = backend.model.get_input_embeddings().weight.dtype
    for index, parameter in enumerate(backend.adapter_parameters(name)):
        if parameter.dim() == 2:
            draw = torch.Generator().manual_seed(1000 * seed + index)
            parameter.data = (torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.1).to(kind)
    return name


def prompts(*lengths: int) -> list[list[int]]:
    """Rows of random tokens."""
    draw = random.Random(0)
    return [[draw.randrange(250) for _ in range(length)] for length in lengths]


def right(backend: PlainBackend, row: list[int], route: Route) -> torch.Tensor:
    """The next token's logits (V,) for this row alone, read at once by transformers and PEFT."""
    return PlainSlots(backend).join([row], [route], [len(row)])[0]


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """transformers' RMSNorm computes in float32 whatever the model's type: that is what is left between the two."""
    assert found.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < 2e-6


class Rows:
    """Slots and, beside them, what each row has read so far: every call is held against every row alone."""

    def __init__(self, backend: FusedBackend) -> None:
        self.backend, self.slots = backend, backend.slots()
        self.rows: list[tuple[list[int], Route]] = []
        self._draw = random.Random(1)

    def join(self, new: list[list[int]], routes: list[Route], most: int = 400) -> None:
        """Rows join; their logits are right."""
        logits = self.slots.join(new, routes, [most] * len(new))
        for found, row, route in zip(logits, new, routes, strict=True):
            same(found, right(self.backend, row, route))
            self.rows.append((list(row), route))

    def step(self, times: int = 1) -> None:
        """A random token into each row; after the last of `times` all logits are right."""
        for _ in range(times):
            tokens = [self._draw.randrange(250) for _ in self.rows]
            logits = self.slots.step(torch.tensor(tokens))
            for (row, _), token in zip(self.rows, tokens, strict=True):
                row.append(token)
        assert len(logits) == len(self.slots) == len(self.rows)
        for found, (row, route) in zip(logits, self.rows, strict=True):
            same(found, right(self.backend, row, route))

    def leave(self, *rows: int) -> None:
        """These rows are done."""
        self.slots.leave(rows)
        self.rows = [row for index, row in enumerate(self.rows) if index not in rows]


@pytest.fixture
def backend(tiny_model: Path) -> FusedBackend:
    """The tiny Qwen2 in float64 with adapters of different ranks, scalings and layers."""
    made = fused(load(tiny_model))
    adapt(made, "one", 1)
    adapt(made, "two", 2, r=3, lora_alpha=12, target_modules=["v_proj", "gate_proj", "down_proj"])
    return made


def test_ragged_rows_of_several_adapters_and_strengths_in_one_batch(backend: FusedBackend) -> None:
    rows = Rows(backend)
    routes = [BASE, Route("one"), Route("two", 0.5), Route("one", 1.5), Route("two", 0.0), BASE]
    rows.join(prompts(9, 40, 1, 17, 5, 33), routes)
    rows.step(3)


def test_rows_join_and_leave_in_the_middle(backend: FusedBackend) -> None:
    rows = Rows(backend)
    rows.join(prompts(5), [BASE])
    rows.step()
    rows.join(prompts(12, 7), [Route("one"), BASE])
    rows.step(2)
    rows.leave(0, 2)
    rows.step()
    rows.join(prompts(20, 3, 8), [Route("two"), Route("one", 0.3), BASE])
    rows.leave(2)
    rows.step(2)
    rows.leave(0, 1, 2)
    assert len(rows.slots) == 0
    rows.join(prompts(6), [Route("two")])
    rows.step()


def test_a_row_grows_over_its_room(backend: FusedBackend) -> None:
    rows = Rows(backend)
    rows.join(prompts(LENGTH - 3, 10), [Route("one"), BASE], most=LENGTH + 200)
    rows.step(6)


@pytest.mark.parametrize("spare", [True, False], ids=["spare", "tight"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_families_go_by_the_same_table(kind: str, spare: bool, tiny_llama: Path, tmp_path: Path) -> None:
    shape = {
        "vocab_size": 256, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "mistral":
        MistralForCausalLM(MistralConfig(**shape, sliding_window=None)).save_pretrained(tmp_path)
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
        for name, parameter in model.named_parameters():
            if "norm" in name:  # ones would hide a weight that is left out
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        model.save_pretrained(tmp_path)
    made = fused(load(tiny_llama if kind == "llama" else tmp_path), spare)
    adapt(made, "one")
    rows = Rows(made)
    rows.join(prompts(9, 21), [Route("one"), BASE])
    rows.step(2)


def test_a_base_row_is_the_base_to_the_bit(tiny_model: Path) -> None:
    def logits(routes: list[Route], adapters: int) -> list[torch.Tensor]:
        made = fused(load(tiny_model, torch.float32))
        for number in range(adapters):
            adapt(made, f"a{number}", number)
        slots = made.slots()
        found = [slots.join(prompts(9, 9, 14), routes, [40] * 3)[0].clone()]
        for token in (5, 6, 7):
            found.append(slots.step(torch.tensor([token] * 3))[0].clone())
        return found

    alone = logits([BASE] * 3, 0)
    mixed = logits([BASE, Route("a0"), Route("a1", 0.7)], 2)
    assert all(torch.equal(a, b) for a, b in zip(alone, mixed, strict=True))


def test_a_broken_adapter_does_not_reach_the_rows_of_others(tiny_model: Path) -> None:
    made = fused(load(tiny_model, torch.float32))
    adapt(made, "broken")
    slots = made.slots()
    for parameter in made.adapter_parameters("broken"):
        if parameter.shape[0] == 8:
            parameter.data.fill_(float("inf"))
    logits = slots.join(prompts(9, 9), [BASE, Route("broken")], [40] * 2)
    assert bool(logits[0].isfinite().all()) and not bool(logits[1].isfinite().all())
    logits = slots.step(torch.tensor([1, 2]))
    assert bool(logits[0].isfinite().all())


def test_the_adapter_in_training_answers_with_its_present_weights(tiny_model: Path) -> None:
    made = fused(load(tiny_model))
    adapt(made, "one")
    rows = Rows(made)
    rows.join(prompts(9, 6), [Route("one"), BASE])
    ids = prompts(12)[0]
    batch = pack([Example(tuple(ids), (IGNORE, *ids[1:]))], CPU)
    for _ in range(2):
        made.loss_and_grads(batch, "one", 11, Way())
        with torch.no_grad():
            for parameter in made.adapter_parameters("one"):
                parameter.data.sub_(parameter.grad, alpha=0.5)  # past any version counter, as a flat optimizer does
        before = rows.slots.step(torch.tensor([1, 2])).clone()
        for (row, _), token in zip(rows.rows, (1, 2), strict=True):
            row.append(token)
        # What it read before stays as it read it then, so a row alone is no measure; that weights count is.
        fresh = made.slots()
        fresh.join([rows.rows[0][0]], [Route("one")], [40])
        held = made._answering._answers.bank
        span, pair = held.span("one"), held.layers[0][0]
        a = made.adapter_parameters("one")[0]
        assert torch.equal(pair.a[span.first : span.first + 8], a.data)
        same(before[1], right(made, rows.rows[1][0], BASE))
    made.finish("one")
    moved = [parameter.data.clone() for parameter in made.adapter_parameters("one")]
    for parameter, data in zip(made.adapter_parameters("one"), moved, strict=True):
        parameter.data = data * 2  # elsewhere now, and different
    made.load_adapter_state("one", made.adapter_state("one")[0])
    rows.slots.step(torch.tensor([3, 4]))
    assert torch.equal(pair.a[span.first : span.first + 8], moved[0] * 2)


def test_adapters_come_and_go_while_others_answer(tiny_model: Path) -> None:
    made = fused(load(tiny_model))
    adapt(made, "one", 1)
    rows = Rows(made)
    rows.join(prompts(9, 5), [Route("one"), BASE])
    for number in range(2, 8):  # more than the bank held at first
        name = adapt(made, f"a{number}", number, r=number)
        rows.join(prompts(6), [Route(name)])
        rows.step()
        if number % 2:
            gone = rows.rows[2][1].adapter
            rows.leave(2)
            assert gone is not None
            made.delete_adapter(gone)
    rows.step(2)
    made.rest()
    rows.step(2)
    rows.leave(*range(1, len(rows.rows)))
    made.delete_adapter("one")
    with pytest.raises(ModelError):
        rows.slots.step(torch.tensor([1]))


def test_nobody_needed_makes_room_first(tiny_model: Path) -> None:
    made = fused(load(tiny_model))
    bank = made._answering._answers.bank
    for number in range(6):
        slots = made.slots()
        route = Route(adapt(made, f"a{number}", number))
        same(slots.join(prompts(6), [route], [40])[0], right(made, prompts(6)[0], route))
    assert bank.ranks == 32 and "a5" in bank and "a0" not in bank
    stamp = bank.stamp
    for name in ("a2", "a5", "a3", "a2"):  # a change between those that are there moves nothing
        slots = made.slots()
        same(slots.join(prompts(6), [Route(name)], [40])[0], right(made, prompts(6)[0], Route(name)))
    assert bank.stamp is stamp


def test_rows_of_the_plain_way_keep_their_places(tiny_model: Path) -> None:
    made = fused(load(tiny_model))
    adapt(made, "one", 1)
    adapt(made, "dora", 2, use_dora=True)
    rows = Rows(made)
    rows.join(prompts(9, 6, 11), [BASE, Route("dora"), Route("one")])
    rows.step(2)
    rows.join(prompts(4, 8), [Route("dora", 0.5), BASE])
    rows.step()
    rows.leave(0, 1)
    rows.step()
    rows.leave(0, 2)
    rows.step()


def test_a_pissa_adapter_counts_with_its_frozen_part(tiny_model: Path) -> None:
    made = fused(load(tiny_model, torch.float32))
    made.add_adapter("pissa", LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", init_lora_weights="pissa"), 0)
    for parameter in made.adapter_parameters("pissa"):
        parameter.data.mul_(1.3)
    slots = made.slots()
    assert isinstance(slots, MixedSlots)
    found = slots.join(prompts(9), [Route("pissa")], [40])[0]
    assert torch.allclose(found, right(made, prompts(9)[0], Route("pissa")), atol=1e-4)
    assert len(slots._fast) == 1
    assert not torch.allclose(found, right(made, prompts(9)[0], BASE), atol=1e-2)


def test_long_prompts_are_read_in_pieces(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fused(load(tiny_model))
    adapt(made, "one")
    made._answering._answers._at_once = 16
    rows = Rows(made)
    rows.join(prompts(50, 3, 9, 16, 40), [Route("one"), BASE, Route("one"), BASE, BASE])
    rows.step(2)


def test_passes_hold_whole_prompts_or_pieces_of_one() -> None:
    assert list(answers.portions([5, 6, 30, 2, 8], 12)) == [
        [(0, 0, 5), (1, 0, 6)],
        [(2, 0, 12)],
        [(2, 12, 24)],
        [(2, 24, 30)],
        [(3, 0, 2), (4, 0, 8)],
    ]


class _Full(torch.OutOfMemoryError):
    """What torch raises."""


def test_an_error_while_joining_leaves_the_rows_as_they_were(
    backend: FusedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(backend)
    rows.join(prompts(9, 6), [Route("one"), BASE])
    used = backend._answering._answers

    def full(*_: object) -> Slots:
        raise _Full

    for routes in ([Route("two")], [Route("two"), BASE]):
        with monkeypatch.context() as patch:
            patch.setattr(used, "run", full)
            with pytest.raises(torch.OutOfMemoryError):
                rows.slots.join(prompts(*([5] * len(routes))), routes, [40] * len(routes))
        rows.step()


def test_nf4_bases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=None,
    )  # fmt: skip
    MistralForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    options = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, quantization_config=options)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # or it rewrites its weight at the first answer
            module.support_avx512bf16_for_cpu = False
    made = fused(model, spare=True)
    adapt(made, "one")
    routes = [BASE, Route("one")]
    ours, plain = made.slots(), PlainSlots(made)
    for found, wanted in (
        (ours.join(prompts(9, 6), routes, [40] * 2), plain.join(prompts(9, 6), routes, [40] * 2)),
        (ours.step(torch.tensor([3, 4])), plain.step(torch.tensor([3, 4]))),
    ):
        assert float((found - wanted).norm() / wanted.norm()) < 0.03


def test_memory_is_counted_as_it_is_taken(backend: FusedBackend) -> None:
    shape = family.shape_of(backend.model)
    slots = FusedSlots(backend._answering._answers, backend._answering._stepping)
    slots.join(prompts(9, 6), [BASE, Route("one")], [LENGTH + 100] * 2)
    taken = sum(row.region.numel() * row.region.element_size() for row in slots._rows)
    assert taken == cache_bytes(shape, 2, LENGTH, 8)
    bank = backend._answering._answers.bank
    held = sum(t.numel() * 8 for layer in bank.layers for pair in layer for t in (pair.a, pair.b))
    assert held == bank_bytes(shape, 8, 8)
    assert [length_bucket(n, 1000) for n in (1, 256, 257, 600, 1000)] == [256, 256, 512, 1000 + 24, 1000 + 24]
    assert [rows_bucket(n) for n in (1, 2, 5, 16, 17, 64, 65)] == [1, 2, 6, 16, 24, 64, 128]
    seven = Shape(3584, 28, 4, 128, 18944, 28, 152064)
    assert cache_bytes(seven, 1, 1024) == 1024 * 57344
