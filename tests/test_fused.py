"""The fused pass by its reference operations, on the processor: the same gradient as autograd, whatever is recomputed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from core import models
from core.backend import Route
from core.batch import pack, split
from core.encode import IGNORE, Example
from core.fused import family, reference
from core.fused.arena import Arena
from core.fused.backend import FusedBackend
from core.fused.nf4 import by_bitsandbytes
from core.fused.ops import Ops
from core.fused.rows import Size
from core.fused.sizes import PAD, Depth, Ranks, Shape, Way, arena_bytes
from core.fused.warm import warm
from core.load import load_base
from core.plain import PlainBackend

CPU = torch.device("cpu")
KEEP, WHOLE, MLP, BOTH = Depth(), Depth(whole=2), Depth(mlp=2), Depth(whole=1, mlp=1)


def load(folder: Path, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The model as transformers loads it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model


def fused(model: PreTrainedModel, spare: bool = True) -> FusedBackend:
    """A fused backend by reference operations; with room beside the weights, as on a card, or without."""
    assert family.refusal(model) is None
    return FusedBackend(model, CPU, None, reference, by_bitsandbytes, spare)


def adapt(backend: PlainBackend, **settings: object) -> None:
    """Put in an adapter "a" whose A and B are both random, so that every gradient is something."""
    options = {"r": 8, "lora_alpha": 24, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    backend.add_adapter("a", LoraConfig(**options), seed=0)
    kind = next(backend.model.parameters()).dtype
    for index, parameter in enumerate(backend.adapter_parameters("a")):
        values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
        parameter.data = (values * 0.1).to(kind if kind.is_floating_point else torch.float32)


def examples(*lengths: int, vocabulary: int = 250) -> list[Example]:
    """Rows of random tokens, the last two thirds of each in the loss."""
    draw = random.Random(0)
    rows = [tuple(draw.randrange(vocabulary) for _ in range(length)) for length in lengths]
    return [Example(row, (IGNORE,) * (len(row) // 3) + row[len(row) // 3 :]) for row in rows]


def gradients(backend: PlainBackend, groups: list[list[Example]], way: Way) -> tuple[float, list[torch.Tensor]]:
    """Loss and every gradient of one step over the groups, a pass each."""
    for parameter in backend.adapter_parameters("a"):
        parameter.grad = None
    total = sum(example.answer_tokens for group in groups for example in group)
    loss = sum(float(backend.loss_and_grads(pack(group, CPU), "a", total, way)[0]) for group in groups)
    found = [parameter.grad for parameter in backend.adapter_parameters("a")]
    return loss, [gradient.clone() for gradient in found if gradient is not None]


def worst(found: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """The largest relative difference of any tensor."""
    assert len(found) == len(right) > 0
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, right, strict=True))


@pytest.fixture(scope="module")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mistral, untied, with heads wider than hidden / heads."""
    folder = tmp_path_factory.mktemp("tiny-mistral")
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=None,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3, whose heads of q and k are normed, each element by a weight of its own."""
    folder = tmp_path_factory.mktemp("tiny-qwen3")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # ones would hide a weight that is left out
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("depth", [KEEP, WHOLE, MLP, BOTH], ids=["kept", "whole", "mlp", "both"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["up_proj", "down_proj"]], ids=str)
@pytest.mark.parametrize("spare", [True, False], ids=["spare", "tight"])
def test_the_gradient_is_autograds(tiny_model: Path, depth: Depth, targets: str | list[str], spare: bool) -> None:
    rows = examples(37, 64, 5, 80, 12)
    plain, ours = PlainBackend(load(tiny_model), CPU, None), fused(load(tiny_model), spare)
    for backend in (plain, ours):
        adapt(backend, target_modules=targets)
    right_loss, right = gradients(plain, [rows], Way())
    loss, found = gradients(ours, [rows], Way(depth))
    # transformers' RMSNorm computes in float32 whatever the model's type: that is the 1e-7 left between the two.
    assert loss == pytest.approx(right_loss, rel=1e-7)
    assert worst(found, right) < 1e-6


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_mistral", "tiny_qwen3"])
@pytest.mark.parametrize("depth", [KEEP, BOTH], ids=["kept", "both"])
def test_other_families_go_by_the_same_table(model: str, depth: Depth, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    plain, ours = PlainBackend(load(folder), CPU, None), fused(load(folder))
    for backend in (plain, ours):
        adapt(backend)
    rows = examples(30, 7, 51)
    assert worst(gradients(ours, [rows], Way(depth))[1], gradients(plain, [rows], Way())[1]) < 1e-6


@pytest.mark.parametrize("rank", [4, 16, 40], ids=lambda rank: f"r{rank}")
def test_a_rank_that_does_not_fit_beside_the_weight_takes_its_own_product(tiny_model: Path, rank: int) -> None:
    plain, ours = PlainBackend(load(tiny_model), CPU, None), fused(load(tiny_model))
    for backend in (plain, ours):
        adapt(backend, r=rank)
    rows = examples(30, 7, 51)
    assert 3 * rank % 8 or 3 * rank > PAD
    assert worst(gradients(ours, [rows], Way(MLP))[1], gradients(plain, [rows], Way())[1]) < 1e-6


def test_the_split_into_passes_does_not_matter(tiny_model: Path) -> None:
    rows = examples(37, 64, 5, 80, 12, 33)
    ours = fused(load(tiny_model))
    adapt(ours)
    once = gradients(ours, [rows], Way())
    for tokens in (1, 70, 150):
        loss, found = gradients(ours, list(split(rows, tokens)), Way())
        assert loss == pytest.approx(once[0], rel=1e-6) and worst(found, once[1]) < 1e-6


def test_the_evaluation_loss_is_fused_too_and_leaves_the_gradients_alone(tiny_model: Path) -> None:
    plain, ours = PlainBackend(load(tiny_model), CPU, None), fused(load(tiny_model))
    for backend in (plain, ours):
        adapt(backend)
    rows = examples(37, 12)
    _, before = gradients(ours, [rows], Way(WHOLE))
    batch = pack(examples(9, 70), CPU)
    assert float(ours.loss(batch, "a")) == pytest.approx(float(plain.loss(batch, "a")), rel=1e-7)
    assert float(ours.loss(batch, None)) == pytest.approx(float(plain.loss(batch, None)), rel=1e-7)
    assert all(torch.equal(p.grad, g) for p, g in zip(ours.adapter_parameters("a"), before, strict=True))


@pytest.fixture(scope="module")
def tiny_deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 of five layers: more than the two whose inputs stay on the device."""
    folder = tmp_path_factory.mktemp("tiny-deep")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("whole", "mlp"), [(0, 0), (0, 3), (2, 3), (5, 0)], ids=["kept", "some mlp", "some whole", "whole"]
)
def test_inputs_in_host_memory_give_the_same_gradient_to_the_bit(tiny_deep: Path, whole: int, mlp: int) -> None:
    ours = fused(load(tiny_deep))
    adapt(ours)
    rows = examples(20, 31)
    here = gradients(ours, [rows], Way(Depth(whole, mlp)))
    held = ours._arena.bytes
    ours.finish("a")
    away = gradients(ours, [rows], Way(Depth(whole, mlp, host_inputs=True)))
    assert away[0] == here[0] and all(torch.equal(a, b) for a, b in zip(away[1], here[1], strict=True))
    assert held - ours._arena.bytes == 3 * 64 * 32 * 8  # three of five inputs of 64 tokens in float64
    # Smaller, larger and smaller again, with the evaluation loss between them, in buffers that are shared and grow.
    plain = PlainBackend(load(tiny_deep), CPU, None)
    adapt(plain)
    for lengths in ((9,), (300, 20), (9,)):
        way = Way(Depth(whole, mlp, host_inputs=True))
        other = examples(*lengths)
        assert worst(gradients(ours, [other], way)[1], gradients(plain, [other], Way())[1]) < 1e-6
        batch = pack(other, CPU)
        assert float(ours.loss(batch, "a")) == pytest.approx(float(plain.loss(batch, "a")), rel=1e-7)
    assert worst(gradients(ours, [rows], Way())[1], here[1]) < 1e-9


def test_an_evaluation_pass_takes_no_more_room_than_the_training_pass_it_follows(tiny_deep: Path) -> None:
    ours = fused(load(tiny_deep))
    adapt(ours)
    rows = examples(90, 31)
    gradients(ours, [rows], Way(Depth.all(5, host_inputs=True)))
    held = ours._arena.bytes
    ours.loss(pack(rows, CPU), "a")
    assert ours._arena.bytes == held


def test_answers_have_the_place_of_a_steps_buffers_where_memory_is_short(tiny_deep: Path) -> None:
    ours = fused(load(tiny_deep))
    adapt(ours)
    rows = examples(90, 31)
    for short in (False, True):
        way = Way(Depth.all(5, host_inputs=True), host_embeddings=short)
        before = gradients(ours, [rows], way)
        held = ours._arena.bytes
        ours.slots()
        assert ours._arena.bytes == (0 if short else held)
        after = gradients(ours, [rows], way)
        assert ours._arena.bytes == held
        assert after[0] == before[0] and all(torch.equal(a, b) for a, b in zip(after[1], before[1], strict=True))


def test_a_pass_with_room_for_all_keeps_its_inputs_here(tiny_deep: Path) -> None:
    ours = fused(load(tiny_deep))
    adapt(ours)
    small, large = examples(20), examples(300)
    way = Way(Depth.all(5, host_inputs=True))
    gradients(ours, [large], way)
    room = ours._arena.bytes
    gradients(ours, [small], replace(way, room=room))
    gradients(ours, [large], replace(way, room=room))
    assert ours._arena.bytes == room
    assert list(ours._depths.values()) == [Depth(), Depth.all(5, host_inputs=True)]


def test_few_logits_at_a_time_change_nothing(tiny_model: Path) -> None:
    rows = examples(90, 64)
    ours = fused(load(tiny_model))
    adapt(ours)
    once = gradients(ours, [rows], Way())
    again = gradients(ours, [rows], Way(logit_rows=7))
    assert again[0] == pytest.approx(once[0]) and worst(again[1], once[1]) < 1e-9


def test_embeddings_in_host_memory_give_the_same_gradient_and_answers(tiny_llama: Path) -> None:
    ours = fused(load(tiny_llama))
    adapt(ours)
    rows = examples(20, 31)
    here = gradients(ours, [rows], Way())
    before = ours.slots().join([[1, 2, 3]], [Route("a")], [8]).clone()
    gradients(ours, [examples(31, 20)], Way())  # other rows of the same size in the same buffers
    away = gradients(ours, [rows], Way(host_embeddings=True))
    after = ours.slots().join([[1, 2, 3]], [Route("a")], [8])
    assert worst(away[1], here[1]) == 0 and torch.equal(before, after)
    assert worst(gradients(ours, [rows], Way())[1], here[1]) == 0


def test_laying_out_keeps_the_base_to_the_bit_and_its_answers(tiny_model: Path) -> None:
    untouched, model = load(tiny_model), load(tiny_model)
    ours = fused(model)
    adapt(ours)
    gradients(ours, [examples(20, 31)], Way(WHOLE))
    ours.delete_adapter("a")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, untouched.state_dict()[name]), name
    plain = PlainBackend(untouched, CPU, None)
    ids, most = [[1, 2, 3]], [8]
    assert torch.allclose(ours.slots().join(ids, [Route()], most), plain.slots().join(ids, [Route()], most), atol=1e-5)


def test_the_base_is_held_once(tiny_llama: Path) -> None:
    model = load(tiny_llama)
    ours = fused(model)
    adapt(ours)
    gradients(ours, [examples(20)], Way())
    attention = model.model.layers[0].self_attn
    stored = {getattr(attention, name).base_layer.weight.untyped_storage().data_ptr() for name in family.ATTENTION}
    assert len(stored) == 1


def test_a_base_read_with_room_beside_its_weights_is_not_moved(tiny_model: Path) -> None:
    rows = examples(37, 64, 5)
    read = load_base(models.inspect(str(tiny_model)), "none", "float32", CPU, padded=True).model
    linear = [name for name, _ in read.named_parameters() if "_proj.weight" in name]
    before = {name: read.get_parameter(name).data_ptr() for name in linear}
    found = []
    for model in (read, load(tiny_model, torch.float32)):
        ours = fused(model)
        if model is read:
            assert {name: read.get_parameter(name).data_ptr() for name in linear} == before and len(before) == 14
        adapt(ours)
        found.append(gradients(ours, [rows], Way(BOTH)))
    assert found[0][0] == found[1][0] and all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


class Watched:
    """The reference operations, and for each the types, widths and row strides it was given."""

    def __init__(self) -> None:
        self.seen: dict[str, set[object]] = {}

    def __getattr__(self, name: str) -> Callable[..., object]:
        work = getattr(reference, name)

        def run(*given: object) -> object:
            kinds = [(x.dtype, x.shape[1:], x.stride()) for x in given if isinstance(x, torch.Tensor)]
            self.seen.setdefault(name, set()).add(str(kinds))
            return work(*given)

        return run


@pytest.mark.parametrize("family_model", ["tiny_model", "tiny_mistral", "tiny_qwen3"])
def test_warming_runs_each_operation_as_a_real_pass_does(family_model: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family_model)
    warmed, real = Watched(), Watched()
    model = load(folder, torch.float32)
    warm(family.shape_of(model), torch.float32, CPU, warmed)
    backend = FusedBackend(model, CPU, None, real, by_bitsandbytes)
    adapt(backend)
    last = examples(32)[0]
    taught = replace(last, teacher=torch.zeros(last.answer_tokens, 32))
    backend.loss_and_grads(pack([*examples(32), taught], CPU), "a", 1, Way())
    other = {"rope"} if family_model == "tiny_qwen3" else {"head_norm_rope", "head_norm_backward"}
    assert warmed.seen.keys() == real.seen.keys() == {name for name in vars(Ops) if name[0] != "_"} - other
    for name, kinds in real.seen.items():
        # attention depends on the number of rows, thin products on the ranks: types and widths of the rest are fixed.
        if name not in ("accumulate", "attention", "attention_backward", "copies"):
            assert warmed.seen[name] == kinds, name


def test_warming_for_nf4_unpacks_weights_of_every_width() -> None:
    widths = []

    def unpack(
        packed: torch.Tensor,
        scales: torch.Tensor,
        nested: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
        levels: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        assert nested is not None
        codes, outer, offset = nested
        each = codes[scales.long()] * outer.repeat_interleave(256)[: scales.shape[0]] + offset
        halves = torch.stack([packed >> 4, packed & 15], 1).long().flatten()
        out.copy_((levels[halves] * each.repeat_interleave(64)).view(out.shape))
        widths.append(out.shape[1])

    warm(Shape(128, 4, 2, 16, 192, 28, 300), torch.bfloat16, CPU, reference, unpack)
    assert sorted(widths) == [64, 128, 192]


def test_nf4_bases_give_autograds_gradient(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import BitsAndBytesConfig

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    found = []
    for make in (lambda m: PlainBackend(m, CPU, None), fused):
        model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, quantization_config=nf4)
        for module in model.modules():
            if type(module).__name__ == "Linear4bit":
                module.support_avx512bf16_for_cpu = False
        backend: PlainBackend = make(model)
        backend._autocast = torch.bfloat16
        backend.add_adapter("a", LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"), 0)
        for index, parameter in enumerate(backend.adapter_parameters("a")):
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.1
        found.append(gradients(backend, [examples(37, 20)], Way(WHOLE))[1])
    assert worst(found[1], found[0]) < 0.05  # two ways of rounding to bfloat16; float64 shows them equal above


def test_each_pass_uses_the_weights_of_now_wherever_they_lie(tiny_model: Path) -> None:
    plain, ours = PlainBackend(load(tiny_model), CPU, None), fused(load(tiny_model))
    rows = examples(37, 12)
    for backend in (plain, ours):
        adapt(backend)
    for change in range(3):
        for backend in (plain, ours):
            for parameter in backend.adapter_parameters("a"):
                moved = parameter.detach().clone() if change == 1 else parameter.data  # as a flat adapter moves them
                parameter.data = moved.mul_(0.5)
        assert worst(gradients(ours, [rows], Way())[1], gradients(plain, [rows], Way())[1]) < 1e-6


def test_a_scaled_gradient_is_the_gradient_times_the_scale_and_the_loss_is_not(tiny_model: Path) -> None:
    ours = fused(load(tiny_model))
    adapt(ours)
    loss, once = gradients(ours, [examples(37)], Way())
    for parameter in ours.adapter_parameters("a"):
        parameter.grad = None
    batch = pack(examples(37), CPU)
    assert float(ours.loss_and_grads(batch, "a", batch.targets.shape[0], Way(), scale=4096.0)[0]) == pytest.approx(loss)
    scaled = [parameter.grad / 4096 for parameter in ours.adapter_parameters("a") if parameter.grad is not None]
    assert worst(scaled, once) < 1e-7


def test_a_pass_gives_up_no_more_than_its_room_asks(tiny_model: Path) -> None:
    ours = fused(load(tiny_model))
    adapt(ours)
    rows = examples(60, 60)
    once = gradients(ours, [rows], Way())[1]
    kept = ours._arena.bytes
    ours.finish("a")
    assert ours._arena.bytes == 0
    again = gradients(ours, [rows], Way(WHOLE, room=kept))[1]
    assert ours._arena.bytes == kept and worst(again, once) < 1e-9
    ours.finish("a")
    gradients(ours, [rows], Way(WHOLE, room=kept - 1))
    assert 0 < ours._arena.bytes < kept


def test_a_larger_pass_moves_the_buffers_and_smaller_ones_still_come_out_right(tiny_model: Path) -> None:
    ours = fused(load(tiny_model))
    adapt(ours)
    small = gradients(ours, [examples(20)], Way())[1]
    gradients(ours, [examples(300, 200)], Way())
    assert worst(gradients(ours, [examples(20)], Way())[1], small) < 1e-9


def test_the_estimate_counts_the_sizes_that_passes_are_filled_up_to() -> None:
    from core.estimate import _bucket

    for tokens in (1, 63, 64, 65, 1000, 1024, 1025, 2048, 2049, 4000):
        row = tuple(range(2, tokens + 2))
        size = Size.of(pack([Example(row, (IGNORE, *row[1:]))], CPU))
        least = 64 if tokens <= 1024 else 256
        assert _bucket(tokens, max(1, tokens - 1), 0) == (size.tokens, max(size.answers, least), 0)
        if tokens > 100:
            half = Example(row[:50], (IGNORE, *row[1:50]), torch.zeros(49, 8))
            size = Size.of(pack([Example(row[50:], (IGNORE, *row[51:])), half], CPU))
            assert _bucket(tokens, tokens - 2, 49) == (size.tokens, size.answers, size.taught)


def test_memory_is_what_the_sizes_say(tiny_model: Path) -> None:
    model = load(tiny_model)
    shape, ranks = family.shape_of(model), Ranks(24, 8, 16, 8)
    for depth in (KEEP, WHOLE, MLP, BOTH, Depth(host_inputs=True), Depth.all(2, host_inputs=True)):
        arena = Arena(shape, torch.float64, CPU)
        frame = arena.frame(ranks, 128, 64, depth, 16)
        assert (frame.last.data_ptr() == frame.saved[0].gu.data_ptr()) == bool(depth)
        assert arena.bytes == arena_bytes(shape, ranks, 128, 64, depth, 16, width=8)
        assert frame.saved[0].h.shape == (128, shape.hidden)
    kept, given_up = (arena_bytes(shape, ranks, 4096, 64, depth, 16) for depth in (KEEP, WHOLE))
    assert given_up < kept


def test_few_sizes_are_made_for_many_batches() -> None:
    rows = [examples(length, 40) for length in range(30, 90)]
    assert len({Size.of(pack(row, CPU)) for row in rows}) <= 4
    for row in rows:
        size, tokens = Size.of(pack(row, CPU)), sum(len(example) for example in row)
        assert tokens <= size.tokens < tokens + 64 and size.longest >= max(len(example) for example in row)


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_dropout": 0.1},
        {"use_dora": True},
        {"target_modules": ["q_proj", "lm_head"]},
        {"alpha_pattern": {"q_proj": 3}},
    ],
    ids=["dropout", "dora", "head", "alpha"],
)
def test_what_the_fused_pass_cannot_do_goes_the_plain_way_and_says_why(
    tiny_llama: Path, settings: dict[str, object]
) -> None:
    plain, ours = PlainBackend(load(tiny_llama), CPU, None), fused(load(tiny_llama))
    for backend in (plain, ours):
        adapt(backend, **settings)
    reason = ours.plain_reason("a")
    assert reason is not None and reason.zh and reason.en
    found = []
    for backend in (plain, ours):
        torch.manual_seed(1)
        found.append(gradients(backend, [examples(20, 9)], Way())[1])
    assert worst(found[1], found[0]) < 1e-12


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda config: setattr(config, "model_type", "gemma3"), "gemma3"),
        (lambda config: setattr(config, "hidden_act", "gelu"), "gelu"),
        (lambda config: setattr(config, "layer_types", ["full_attention", "sliding_attention"]), "sliding"),
        (lambda config: setattr(config, "rope_parameters", {"rope_type": "dynamic"}), "length"),
        (lambda config: setattr(config, "attention_dropout", 0.1), "dropout"),
        (lambda config: setattr(config, "head_dim", 20), "20"),
    ],
    ids=["family", "activation", "window", "rope", "dropout", "head"],
)
def test_a_model_the_table_does_not_cover_is_named(
    tiny_model: Path, change: Callable[[object], None], word: str
) -> None:
    model = load(tiny_model)
    change(model.config)
    reason = family.refusal(model)
    assert reason is not None and word in reason.en


def test_a_layer_the_pass_would_get_wrong_is_named(tiny_llama: Path) -> None:
    model = load(tiny_llama)
    block = model.model.layers[1]
    block.self_attn.o_proj = torch.nn.Linear(32, 32, bias=True)
    reason = family.refusal(model)
    assert reason is not None and "o_proj" in reason.en
    block.self_attn.o_proj = torch.nn.Bilinear(32, 32, 32)
    reason = family.refusal(model)
    assert reason is not None and "Bilinear" in reason.en
