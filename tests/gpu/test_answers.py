"""Answering on a card: products and attention against exact ones, whole steps against transformers, graphs, memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen2Config, Qwen2ForCausalLM

from core.backend import Route
from core.batch import pack
from core.encode import IGNORE, Example
from core.fused import family, nf4
from core.fused.bank import Pair
from core.fused.room import LENGTH
from core.fused.sizes import Shape, Way
from core.fused.slots import FusedSlots
from core.fused.tuning import DENSE, NF4, Tile
from core.plain import PlainBackend
from core.plain_slots import PlainSlots

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]
CARD = torch.device("cuda", 0)
BF16, FP16 = torch.bfloat16, torch.float16
BASE = Route()
WORDS = 20_000


def drawn(*dims: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    """Normal values on the card."""
    return torch.randn(*dims, device=CARD, dtype=torch.float32).to(dtype)


def distance(found: torch.Tensor, right: torch.Tensor) -> float:
    """Relative; nan where anything is."""
    return float((found.double() - right.double()).norm() / right.double().norm())


def poisoned(*dims: int) -> torch.Tensor:
    """What is not written shows."""
    return torch.full(dims, float("nan"), device=CARD)


# -- products --


@pytest.mark.parametrize("rows", [1, 2, 6, 16])
@pytest.mark.parametrize(("width", "inner"), [(4608, 3584), (37888, 3584), (3584, 18944), (1000, 1056)])
@pytest.mark.parametrize("tile", [*dict.fromkeys(DENSE.values()), Tile(64, 128, 4, 4, 4)], ids=str)
def test_products_of_few_rows(rows: int, width: int, inner: int, tile: Tile) -> None:
    from core.fused.narrow import Product, processors_of

    weight = drawn(width, inner + 32)[:, :inner]
    members, ranks = 2, 32
    pair = Pair(drawn(members * ranks, inner), drawn(width, ranks))
    active = torch.zeros(ranks, dtype=torch.int32, device=CARD)
    active[8:16] = 1
    product = Product(width, inner, weight, tile, processors_of(CARD), members)
    x, parts = drawn(rows, inner), poisoned(product.split, rows, width)
    low = poisoned(product.split, rows, members * ranks)
    product(x, pair, active, parts, low)
    assert distance(parts.sum(0), x.double() @ weight.double().t()) < 1e-5
    wanted = (x.double() @ pair.a.double().t()).view(rows, members, ranks)[:, :, 8:16]
    assert distance(low.sum(0).view(rows, members, ranks)[:, :, 8:16], wanted) < 1e-5


@pytest.mark.parametrize("rows", [1, 6, 16, 40])
@pytest.mark.parametrize("inner", [3584, 18944, 192])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "plain"])
def test_nf4_products_of_few_rows(rows: int, inner: int, nested: bool) -> None:
    import bitsandbytes

    from core.fused.narrow import Product, pack, processors_of

    linears = []
    for width in (512, 48, 80):
        linear = bitsandbytes.nn.LinearNF4(
            inner, width, bias=False, compute_dtype=BF16, compress_statistics=nested, device="cpu"
        )
        linear.weight.data = torch.randn(width, inner).to(BF16)
        linears.append(linear.to(CARD))
    tile = NF4["down"]
    product = Product(640, inner, pack(linears, tile.rows), tile, processors_of(CARD), 3)
    x, parts, low = drawn(rows, inner), poisoned(product.split, rows, 640), poisoned(product.split, rows, 1)
    active = torch.zeros(1, dtype=torch.int32, device=CARD)
    product(x, None, active, parts, low)
    weights = []
    for linear in linears:
        weights.append(torch.empty(linear.out_features, inner, dtype=BF16, device=CARD))
        nf4.by_bitsandbytes(linear, weights[-1])
    assert distance(parts.sum(0), x.double() @ torch.cat(weights).double().t()) < 1e-5


@pytest.mark.parametrize("length", [1, 31, 33, 1024, 1025, 5000])
@pytest.mark.parametrize("heads", [(28, 4, 128), (8, 8, 64), (6, 2, 96)], ids=str)
def test_a_step_attends_to_all_that_is_kept(length: int, heads: tuple[int, int, int]) -> None:
    from core.fused.answer_kernels import attend_step, attention_parts

    shape = Shape(heads[0] * heads[2], *heads, 64, 2, 100)
    regions = [drawn(2, 2, heads[1], length + more, heads[2]) for more in (0, 40)]
    lengths = [length, max(1, length // 3)]
    q = drawn(2, shape.query)
    place = torch.tensor([[r.data_ptr() for r in regions], [r.shape[3] for r in regions]], device=CARD)
    positions = torch.tensor(lengths, device=CARD) - 1
    out = poisoned(2, shape.query).to(BF16)
    attend_step(shape, 1, q, place, positions, out, *attention_parts(shape, q))
    for row in range(2):
        key, value = (x[:, : lengths[row]].double().repeat_interleave(heads[0] // heads[1], 0) for x in regions[row][1])
        score = torch.einsum("hd,hld->hl", q[row].view(heads[0], heads[2]).double(), key) / heads[2] ** 0.5
        wanted = torch.einsum("hl,hld->hd", score.softmax(1), value)
        assert distance(out[row], wanted.flatten()) < 5e-3


# -- whole models --


def small(**more: int) -> Qwen2ForCausalLM:
    """Three layers with the widths of a real head, on the card."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": WORDS, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 8192, **more,
    }  # fmt: skip
    model = Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=False))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0, 0.1)
    return model.eval()


def adapted(backend: PlainBackend) -> PlainBackend:
    """With adapters "a" (rank 8), "b" (rank 20, some layers), always the same ones."""
    for seed, (name, settings) in enumerate(
        (("a", {"r": 8, "target_modules": "all-linear"}), ("b", {"r": 20, "target_modules": ["v_proj", "down_proj"]}))
    ):
        backend.add_adapter(name, LoraConfig(lora_alpha=32, task_type="CAUSAL_LM", **settings), 0)
        for index, parameter in enumerate(backend.adapter_parameters(name)):
            draw = torch.Generator().manual_seed(100 * seed + index)
            parameter.data.copy_(torch.randn(parameter.shape, generator=draw) * 0.02)
    return backend


def fused(model: object, dtype: torch.dtype = BF16) -> PlainBackend:
    """The backend the engine would choose, with both adapters."""
    from core.fused import kernels
    from core.fused.backend import FusedBackend

    assert family.refusal(model) is None  # type: ignore[arg-type]
    return adapted(FusedBackend(model, CARD, dtype, kernels, nf4.by_kernel))  # type: ignore[arg-type]


def prompts(*lengths: int) -> list[list[int]]:
    """Rows of random tokens."""
    draw = random.Random(0)
    return [[draw.randrange(WORDS) for _ in range(length)] for length in lengths]


def course(
    make: Callable[[], PlainBackend], lengths: list[int], routes: list[Route], steps: int, plain: bool = False
) -> list[torch.Tensor]:
    """Logits of joining and of some steps of the same random tokens."""
    backend = make()
    slots = PlainSlots(backend) if plain else backend.slots()
    found = [slots.join(prompts(*lengths), routes, [length + 600 for length in lengths]).clone()]
    draw = random.Random(1)
    for _ in range(steps):
        tokens = torch.tensor([draw.randrange(WORDS) for _ in lengths], device=CARD)
        found.append(slots.step(tokens).clone())
    return found


def worst(found: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """The largest relative distance of any row at any step."""
    return max(
        distance(a, b) for some, wanted in zip(found, right, strict=True) for a, b in zip(some, wanted, strict=True)
    )


MIX = [BASE, Route("a"), Route("b", 0.5), Route("a", 1.5), BASE, Route("b")]


@pytest.mark.parametrize("rows", [1, 2, 6, 16, 20, 70])
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_logits_are_as_near_to_the_exact_ones_as_transformers(rows: int, dtype: torch.dtype) -> None:
    lengths = [(33, 5, 270, 40, 1, 64)[row % 6] for row in range(rows)]
    routes = [MIX[row % 6] for row in range(rows)]
    exact = course(
        lambda: adapted(PlainBackend(small().to(dtype).double().to(CARD), CARD, None)), lengths, routes, 4, True
    )
    plain = course(lambda: adapted(PlainBackend(small().to(CARD, dtype), CARD, dtype)), lengths, routes, 4, True)
    ours = course(lambda: fused(small().to(CARD, dtype), dtype), lengths, routes, 4)
    assert worst(ours, exact) < max(1.2 * worst(plain, exact), 0.004)


def test_nf4_bases(tmp_path: Path) -> None:
    small().to(BF16).save_pretrained(tmp_path)
    options = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=BF16
    )

    def load() -> Qwen2ForCausalLM:
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
            tmp_path, dtype=BF16, quantization_config=options, device_map={"": 0}
        )

    for rows in (2, 20, 70):
        lengths, routes = [9 + row for row in range(rows)], [MIX[row % 6] for row in range(rows)]
        plain = course(lambda: adapted(PlainBackend(load(), CARD, BF16)), lengths, routes, 3, True)
        ours = course(lambda: fused(load()), lengths, routes, 3)
        assert worst(ours, plain) < 0.04


def test_a_replayed_graph_gives_what_the_step_gave() -> None:
    backend = fused(small().to(CARD, BF16))
    first = course(lambda: backend, [33, 9], [BASE, Route("a")], 4)  # as it is, captured, replayed
    again = course(lambda: backend, [33, 9], [BASE, Route("a")], 4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = course(lambda: backend, [20, 50], [Route("b"), Route("a", 0.5)], 4)  # through the same graph
    fresh = course(lambda: fused(small().to(CARD, BF16)), [20, 50], [Route("b"), Route("a", 0.5)], 4)
    assert worst(other, fresh) < 1e-6


def test_a_step_of_a_row_is_the_same_to_the_bit_in_any_company() -> None:
    backend = fused(small().to(CARD, BF16))
    rows = prompts(33, 300, 7)

    def steps(chosen: list[int], routes: list[Route]) -> list[torch.Tensor]:
        slots = backend.slots()
        for index, route in zip(chosen, routes, strict=True):
            slots.join([rows[index]], [route], [900])
        tokens = torch.tensor([index + 1 for index in chosen], device=CARD)
        return [slots.step(tokens).clone() for _ in range(5)]

    together = steps([0, 1, 2], [BASE, Route("a"), Route("b")])
    for index, route in enumerate([BASE, Route("a"), Route("b")]):
        alone = steps([index], [route])
        assert all(torch.equal(a[0], b[index]) for a, b in zip(alone, together, strict=True))
    for name in ("a", "b"):
        backend.delete_adapter(name)
    base = steps([0], [BASE])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(base, together, strict=True))


def test_rows_join_leave_and_grow_between_replays() -> None:
    backend, right = fused(small().to(CARD, BF16)), adapted(PlainBackend(small().to(CARD, BF16), CARD, BF16))
    slots, plain = backend.slots(), PlainSlots(right)
    draw = random.Random(2)

    def both(work: Callable[[object], torch.Tensor | None]) -> None:
        found, wanted = work(slots), work(plain)
        if found is not None and wanted is not None:
            assert worst([found], [wanted]) < 0.03

    both(lambda s: s.join(prompts(LENGTH - 4, 9), [Route("a"), BASE], [LENGTH * 4] * 2))  # type: ignore[attr-defined]
    for moment in range(16):
        tokens = torch.tensor([draw.randrange(WORDS) for _ in range(len(slots))], device=CARD)
        both(lambda s, tokens=tokens: s.step(tokens))  # type: ignore[attr-defined,misc]
        if moment == 5:
            both(lambda s: s.join(prompts(40), [Route("b")], [600]))  # type: ignore[attr-defined]
        if moment == 10:
            both(lambda s: s.leave([1]))  # type: ignore[attr-defined]


def test_long_prompts_are_read_in_pieces() -> None:
    backend = fused(small().to(CARD, BF16))
    whole = course(lambda: backend, [3000, 20], [Route("a"), BASE], 2)
    backend._answering._answers._at_once = 512  # type: ignore[attr-defined]
    assert worst(course(lambda: backend, [3000, 20], [Route("a"), BASE], 2), whole) < 0.02


def test_an_embedding_on_the_host_answers_the_same() -> None:
    backend = fused(small().to(CARD, BF16))
    before = course(lambda: backend, [33, 9], [BASE, Route("a")], 4)
    for host in (True, False):
        backend.settle(Way(host_embeddings=host))
        after = course(lambda: backend, [33, 9], [BASE, Route("a")], 4)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_adapter_in_training_answers_with_its_present_weights() -> None:
    backend = fused(small().to(CARD, BF16))
    slots = backend.slots()
    slots.join(prompts(9, 9), [Route("a"), BASE], [200] * 2)
    token = torch.tensor([5, 5], device=CARD)
    for _ in range(3):
        slots.step(token)
    ids = prompts(40)[0]
    backend.loss_and_grads(pack([Example(tuple(ids), (IGNORE, *ids[1:]))], CARD), "a", 39, Way())
    for parameter in backend.adapter_parameters("a"):
        parameter.data.mul_(3)
    found = slots.step(token)
    fresh = backend.slots()
    fresh.join(prompts(9, 9), [Route("a"), BASE], [200] * 2)
    bank = backend._answering._answers.bank  # type: ignore[attr-defined]
    span, a = bank.span("a"), backend.adapter_parameters("a")[0]
    assert torch.equal(bank.layers[0][0].a[span.first : span.first + 8], a.data.to(BF16))
    assert bool(found.isfinite().all())


def test_memory_goes_back_at_rest() -> None:
    backend = fused(small().to(CARD, BF16))
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    slots = backend.slots()
    slots.join(prompts(*[300] * 20), [MIX[row % 6] for row in range(20)], [900] * 20)
    for _ in range(3):
        slots.step(torch.zeros(20, dtype=torch.int64, device=CARD))
    assert torch.cuda.memory_reserved() > before + 20e6
    backend.rest()
    found = slots.step(torch.zeros(20, dtype=torch.int64, device=CARD))  # what lives goes on
    assert bool(found.isfinite().all())
    slots.leave(range(20))
    backend.rest()
    torch._C._cuda_clearCublasWorkspaces()  # 32 MiB for each stream that products ran on
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < before + 40e6  # 21e6 measured: pages in which something else lives, too


def test_the_first_answer_compiles_nothing_once_warm() -> None:
    from core.fused import answer_programs, answer_warm, product_programs

    def compiled() -> int:
        kernels = [*vars(answer_programs).values(), *vars(product_programs).values()]
        caches = [kernel.device_caches for kernel in kernels if hasattr(kernel, "device_caches")]
        return sum(len(cache[0][0]) for cache in caches if 0 in cache)

    backend = fused(small(hidden_size=1280, intermediate_size=3072, num_attention_heads=10).to(CARD, BF16))
    backend.delete_adapter("b")
    answer_warm.warm(family.shape_of(backend.model), BF16, CARD, nf4=False, biased=True)  # type: ignore[attr-defined]
    before = compiled()
    course(lambda: backend, [33, 9], [BASE, Route("a")], 3)
    course(lambda: backend, [33] * 6, [Route("a")] * 6, 2)
    assert before > 10 and compiled() == before


def test_nobody_allocates_while_a_step_is_replayed() -> None:
    backend = fused(small().to(CARD, BF16))
    slots = backend.slots()
    slots.join(prompts(9, 9), [Route("a"), BASE], [200] * 2)
    token = torch.tensor([5, 5], device=CARD)
    for _ in range(3):
        slots.step(token)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        slots.step(token)
    assert torch.cuda.max_memory_allocated() <= before + 4096
    assert isinstance(slots._fast, FusedSlots)  # type: ignore[attr-defined]
