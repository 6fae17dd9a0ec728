"""The fused pass on a card: every kernel against its reference, gradients against float64-exact ones, graphs, memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen2Config, Qwen2ForCausalLM

from core.batch import pack
from core.encode import IGNORE, Example
from core.fused import family, nf4, reference
from core.fused.sizes import Depth, Way
from core.plain import PlainBackend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]
CARD = torch.device("cuda", 0)
BF16, FP16 = torch.bfloat16, torch.float16


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    """The kernels' module, which needs Triton."""
    from core.fused import kernels

    return kernels


def drawn(*dims: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    """Normal values on the card."""
    return torch.randn(*dims, device=CARD, dtype=torch.float32).to(dtype)


def close(found: torch.Tensor, right: torch.Tensor, bound: float = 2e-3) -> None:
    """Relative distance; a poisoned or unwritten element fails it."""
    distance = (found.double() - right.double()).norm() / right.double().norm()
    assert float(distance) < bound


def both(kernels: ModuleType, work: Callable[[ModuleType], list[torch.Tensor]]) -> None:
    """Run the same work by kernels and by reference on the same inputs."""
    state = torch.cuda.get_rng_state()
    found = work(kernels)
    torch.cuda.set_rng_state(state)
    for mine, right in zip(found, work(reference), strict=True):
        close(mine, right)


def empty(*dims: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    """Poisoned: what is not written shows."""
    return torch.full(dims, float("nan"), device=CARD, dtype=dtype)


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize(("rows", "width"), [(1, 64), (77, 3584), (130, 1000)])
def test_norms(kernels: ModuleType, dtype: torch.dtype, rows: int, width: int) -> None:
    def work(ops: ModuleType) -> list[torch.Tensor]:
        x, y, weight = drawn(rows, width, dtype=dtype), drawn(rows, width, dtype=dtype), drawn(width, dtype=dtype)
        total, out, grad, again = (empty(rows, width + 32, dtype=dtype)[:, :width] for _ in range(4))
        rstd, rstd2 = (empty(rows, dtype=torch.float32) for _ in range(2))
        ops.add_rms(x, y, weight, 1e-6, total, out, rstd)
        alone = empty(rows, width, dtype=dtype)
        ops.rms(x, weight, 1e-6, alone, rstd2)
        ops.rms_backward(y, x, weight, rstd2, total, grad, again)
        first = grad.clone()
        ops.rms_backward(y, x, weight, rstd2, None, grad, again)
        return [total, out, rstd, alone, rstd2, first, grad, again]

    both(kernels, work)


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_turning_heads_and_back(kernels: ModuleType, dtype: torch.dtype, head_dim: int) -> None:
    def work(ops: ModuleType) -> list[torch.Tensor]:
        tokens, heads, kv = 33, 7, 2
        qkv = drawn(tokens, (heads + 2 * kv) * head_dim, dtype=dtype)
        angle = torch.rand(tokens, head_dim // 2, device=CARD) * 6
        cos, sin = (torch.cat([f(angle)] * 2, 1).to(dtype) for f in (torch.cos, torch.sin))
        grads = [drawn(heads, tokens, head_dim, dtype=dtype).transpose(0, 1)]
        grads += [drawn(tokens, kv, head_dim, dtype=dtype) for _ in range(2)]
        ops.rope(qkv, cos, sin, heads + kv, head_dim)
        out = empty(tokens, qkv.shape[1] + 32, dtype=dtype)[:, : qkv.shape[1]]
        ops.unrope(*grads, cos, sin, out)
        return [qkv, out]

    both(kernels, work)


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_normed_heads(kernels: ModuleType, dtype: torch.dtype, head_dim: int) -> None:
    def work(ops: ModuleType) -> list[torch.Tensor]:
        tokens, heads, kv = 33, 7, 2
        qkv = drawn(tokens, (heads + 2 * kv) * head_dim, dtype=dtype)
        angle = torch.rand(tokens, head_dim // 2, device=CARD) * 6
        cos, sin = (torch.cat([f(angle)] * 2, 1).to(dtype) for f in (torch.cos, torch.sin))
        weights = (drawn(head_dim, dtype=dtype), drawn(head_dim, dtype=dtype))
        turned = empty(tokens, (heads + kv) * head_dim, dtype=dtype)
        ops.head_norm_rope(qkv, weights, 1e-6, cos, sin, heads, turned)
        grad = drawn(tokens, qkv.shape[1] + 32, dtype=dtype)
        ops.head_norm_backward(grad, qkv, weights, 1e-6, heads, kv)
        return [turned, grad]

    both(kernels, work)


@pytest.mark.parametrize("width", [96, 4864, 18944])
@pytest.mark.parametrize("ranks", [(8, 8, 8), (0, 16, 64), (0, 0, 0), (24, 8, 128)])
def test_swiglu(kernels: ModuleType, width: int, ranks: tuple[int, int, int]) -> None:
    tokens = 1203

    def work(ops: ModuleType) -> list[torch.Tensor]:
        gate_up, grad, out = drawn(tokens, 2 * width + 32), drawn(tokens, width + 32), empty(tokens, width + 32)
        ops.swiglu(gate_up[:, : 2 * width], out[:, :width])
        factors = [0.02 * drawn(tokens, rank + 8) for rank in ranks]
        totals = [drawn(width, rank, dtype=torch.float32) for rank in ranks[:2]]
        totals.append(drawn(ranks[2], width, dtype=torch.float32))
        thin = [
            (factor[:, :rank], total) if rank else None
            for factor, total, rank in zip(factors, totals, ranks, strict=True)
        ]
        ops.swiglu_backward(gate_up[:, : 2 * width], grad[:, :width], *thin)
        return [out[:, :width], gate_up, *(total for total, rank in zip(totals, ranks, strict=True) if rank)]

    both(kernels, work)


@pytest.mark.parametrize("words", [300, 20_000, 152_064])
def test_cross_entropy(kernels: ModuleType, words: int) -> None:
    def work(ops: ModuleType) -> list[torch.Tensor]:
        logits, losses = 3 * drawn(9, words), empty(9, dtype=torch.float32)
        targets = torch.tensor([0, words - 1, -1, 5, 7, -1, 200, 1, 2], device=CARD)
        ops.cross_entropy(logits, targets, losses, torch.tensor([0.01], device=CARD))
        assert float(logits[2].abs().max()) == 0 == float(losses[5])
        return [logits, losses]

    both(kernels, work)


@pytest.mark.parametrize("lengths", [[5, 70, 1, 129], [1100], [1500]], ids=str)
def test_attention_stays_inside_each_row(kernels: ModuleType, lengths: list[int]) -> None:
    tokens, heads, kv, width = sum(lengths), 8, 2, 128
    q, k, v = drawn(tokens, heads, width), drawn(tokens, kv, width), drawn(tokens, kv, width)
    grad = drawn(tokens, heads, width)
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32, device=CARD)
    exact = [x.double() for x in (q, k, v)]
    right, _ = reference.attention(*exact, starts, max(lengths))
    out, lse = kernels.attention(q, k, v, starts, max(lengths))
    close(out, right, 5e-3)
    found = kernels.attention_backward(grad, q, k, v, out, lse, starts, max(lengths))
    wanted = reference.attention_backward(grad.double(), *exact, right, lse, starts, max(lengths))
    for mine, true in zip(found, wanted, strict=True):
        close(mine, true, 8e-3)


def test_working_copies_are_rounded_in_one_launch(kernels: ModuleType) -> None:
    sources = [drawn(8, 3000, dtype=torch.float32), drawn(777, 8, dtype=torch.float32)]
    buffer = torch.zeros(900, 3032, device=CARD, dtype=BF16)
    targets = [buffer[800:808, :3000], buffer[:777, 3000:3008]]
    kernels.copies(sources, targets)()
    assert all(torch.equal(a.to(BF16), b) for a, b in zip(sources, targets, strict=True))
    assert float(buffer[808:].abs().max()) == 0


@pytest.mark.parametrize("dims", [(48, 128), (17, 3584)])
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_nf4_weights_are_the_librarys_to_the_bit(dims: tuple[int, int], dtype: torch.dtype) -> None:
    import bitsandbytes

    linear = bitsandbytes.nn.LinearNF4(dims[1], dims[0], bias=False, compute_dtype=dtype, device="cpu")
    linear.weight.data = torch.randn(dims).to(dtype)
    linear = linear.to(CARD)
    ours, theirs = empty(dims[0] + 1, dims[1] + 32, dtype=dtype), empty(*dims, dtype=dtype)
    nf4.by_kernel(linear, ours[: dims[0], : dims[1]])
    nf4.by_bitsandbytes(linear, theirs)
    assert torch.equal(ours[: dims[0], : dims[1]], theirs) and bool(ours[dims[0]].isnan().all())


# -- whole passes --


def small() -> Qwen2ForCausalLM:
    """Three layers with the widths of a real head, on the card."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=20_000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=4096,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0, 0.1)
    return model


def adapted(make: Callable[[], PlainBackend]) -> PlainBackend:
    """A backend with an adapter "a" whose A and B are the same random ones each time."""
    backend = make()
    backend.add_adapter("a", LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"), 0)
    for index, parameter in enumerate(backend.adapter_parameters("a")):
        parameter.data.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.02)
    return backend


def fused(model: object, dtype: torch.dtype) -> PlainBackend:
    """The backend the engine would choose."""
    from core.fused import kernels
    from core.fused.backend import FusedBackend

    assert family.refusal(model) is None  # type: ignore[arg-type]
    return FusedBackend(model, CARD, dtype, kernels, nf4.by_kernel)  # type: ignore[arg-type]


def rows(*lengths: int) -> list[Example]:
    """Random rows, half of each in the loss."""
    draw = random.Random(0)
    ids = [tuple(draw.randrange(20_000) for _ in range(length)) for length in lengths]
    return [Example(row, (IGNORE,) * (len(row) // 2) + row[len(row) // 2 :]) for row in ids]


def gradients(backend: PlainBackend, examples: list[Example], way: Way, scale: float = 1.0) -> list[torch.Tensor]:
    """Every gradient of one pass, less the scale."""
    for parameter in backend.adapter_parameters("a"):
        if parameter.grad is not None:
            parameter.grad.zero_()
    total = sum(example.answer_tokens for example in examples)
    backend.loss_and_grads(pack(examples, CARD), "a", total, way, scale)
    return [p.grad.double() / scale for p in backend.adapter_parameters("a") if p.grad is not None]


def worst(found: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """The largest relative distance of any tensor."""
    assert len(found) == len(right) > 0
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, right, strict=True))


WAYS = [Way(), Way(Depth(whole=3)), Way(Depth(mlp=3)), Way(Depth(1, 1), logit_rows=64), Way(host_embeddings=True)]


@pytest.mark.parametrize("lengths", [(37, 64, 5, 300, 129), (1500,)], ids=str)
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_gradients_are_as_near_to_the_exact_ones_as_autograds(lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    examples = rows(*lengths)
    scale = 4096.0 if dtype == FP16 else 1.0
    exact = gradients(adapted(lambda: PlainBackend(small().to(dtype).double().to(CARD), CARD, None)), examples, Way())
    plain = gradients(adapted(lambda: PlainBackend(small().to(CARD, dtype), CARD, dtype)), examples, Way(), scale)
    ours = adapted(lambda: fused(small().to(CARD, dtype), dtype))
    for way in WAYS:
        for _ in range(3):  # as it is, captured, replayed
            assert worst(gradients(ours, examples, way, scale), exact) < max(1.2 * worst(plain, exact), 0.004)


def test_nf4_bases(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("nf4")
    small().to(BF16).save_pretrained(folder)
    options = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=BF16
    )

    def load() -> Qwen2ForCausalLM:
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
            folder, dtype=BF16, quantization_config=options, device_map={"": 0}
        )

    examples = rows(37, 300, 129)
    plain = gradients(adapted(lambda: PlainBackend(load(), CARD, BF16)), examples, Way())
    ours = adapted(lambda: fused(load(), BF16))
    for way in WAYS:
        assert worst(gradients(ours, examples, way), plain) < 0.04


def test_a_replayed_graph_gives_what_the_pass_gave(tmp_path_factory: pytest.TempPathFactory) -> None:
    ours = adapted(lambda: fused(small().to(CARD, BF16), BF16))
    first = gradients(ours, rows(37, 64, 5), Way())
    for _ in range(3):
        assert worst(gradients(ours, rows(37, 64, 5), Way()), first) < 1e-6
    other = gradients(ours, rows(30, 60, 16), Way())  # another batch of the same size goes through the same graph
    fresh = gradients(adapted(lambda: fused(small().to(CARD, BF16), BF16)), rows(30, 60, 16), Way())
    assert worst(other, fresh) < 1e-6


def test_memory_goes_back_when_training_ends() -> None:
    ours = adapted(lambda: fused(small().to(CARD, BF16), BF16))
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        gradients(ours, rows(900, 700), Way())
    assert torch.cuda.memory_reserved() > before + 20e6
    ours.finish("a")
    torch.cuda.empty_cache()
    # cuBLAS keeps 32 MiB for the stream that passes ran on; captured answers may know others of its workspaces.
    assert torch.cuda.memory_reserved() < before + 50e6
