"""Model families beyond Qwen2 through the plain backend: packed equals one row at a time, every row has its own adapter."""

from __future__ import annotations

import copy
import random
from functools import cache

import pytest
import torch
from transformers import PreTrainedModel

from core.backend import Route
from core.batch import pack
from core.encode import IGNORE, Example
from core.plain import PlainBackend

SHAPE = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = {
    "llama": ("Llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral with a window": ("Mistral", {"sliding_window": 12}),  # shorter than the rows
    "qwen3": ("Qwen3", {"head_dim": 16}),
}
LENGTHS = (17, 40, 5, 29)


@cache
def stored(family: str) -> PreTrainedModel:
    import transformers

    name, values = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SHAPE, **values)
    model: PreTrainedModel = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:  # they start at one, and would test nothing
                parameter.uniform_(0.5, 1.5)
    return model


def backend_of(family: str, names: tuple[str, ...] = ("a",), dtype: torch.dtype = torch.float64) -> PlainBackend:
    """A backend over a copy of the family's model, with adapters whose effect is large."""
    from peft import LoraConfig

    backend = PlainBackend(copy.deepcopy(stored(family)).to(dtype), torch.device("cpu"), None)
    for name in names:
        backend.add_adapter(
            name, LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM"), seed=len(name)
        )
        with torch.no_grad():
            for parameter in backend.adapter_parameters(name):
                parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(ord(name)))
    return backend


def rows() -> list[Example]:
    draw = random.Random(5)
    ids = [tuple(draw.randrange(3, 96) for _ in range(length)) for length in LENGTHS]
    return [Example(row, (IGNORE,) * (len(row) // 2) + row[len(row) // 2 :]) for row in ids]


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_step_is_the_one_row_loop(family: str, recompute: bool) -> None:
    backend, examples = backend_of(family), rows()
    total = sum(example.answer_tokens for example in examples)
    parameters = backend.adapter_parameters("a")
    assert len(parameters) == 28
    loss = float(backend.loss_and_grads(pack(examples, "cpu"), "a", total, recompute)[0])
    packed = [parameter.grad for parameter in parameters]
    backend._train_mode("a", recompute=False)
    expected = 0.0
    for parameter in parameters:
        parameter.grad = None
    for example in examples:
        logits = backend.model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
        labels = torch.tensor(example.labels[1:])
        part = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / total
        part.backward()
        expected += float(part.detach())
    assert loss == pytest.approx(expected, rel=1e-9)
    for mine, parameter in zip(packed, parameters, strict=True):
        assert mine is not None and parameter.grad is not None
        assert float((mine - parameter.grad).abs().max()) <= 1e-6 * float(parameter.grad.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_answered_by_their_own_adapters_and_base_rows_by_the_base_to_the_bit(family: str) -> None:
    prompts = [list(example.input_ids) for example in rows()]
    clean, loaded = backend_of(family, ()), backend_of(family, ("a", "b"))
    routing, most = [Route("a"), Route(), Route("b"), Route()], [128] * 4
    slots_pure, slots_mixed = clean.slots(), loaded.slots()
    pure, mixed = slots_pure.join(prompts, [Route()] * 4, most), slots_mixed.join(prompts, routing, most)
    token = torch.tensor([9, 8, 7, 6])
    pure_next, mixed_next = slots_pure.step(token), slots_mixed.step(token)
    for base, both in ((pure, mixed), (pure_next, mixed_next)):
        assert torch.equal(base[[1, 3]], both[[1, 3]])
        assert all(float((base[at] - both[at]).abs().max()) > 1e-2 for at in (0, 2))
    for at, route in enumerate(routing):
        single = loaded.slots()
        alone, following = single.join([prompts[at]], [route], [128]), single.step(token[at : at + 1])
        assert torch.allclose(alone[0], mixed[at], atol=1e-5) and torch.allclose(
            following[0], mixed_next[at], atol=1e-5
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_means_all_but_the_output_layer(family: str) -> None:
    wanted = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    for names in ((), ("a",)):
        backend = backend_of(family, names)
        assert backend.all_linear_names() == wanted and backend.linear_names() == wanted | {"lm_head"}
