"""Merged weights are the base's plus what the adapter adds, for every kind of adapter, in files that others read."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core import adapters, models, storage
from core.errors import ConfigError, ModelError, StorageError
from core.export import gguf_file, make, order, retest, weights
from core.export.order import Order
from core.export.weights import Weights

KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "head": {"target_modules": ["q_proj", "lm_head"]},
}


@pytest.fixture(scope="module")
def adapter_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes an adapter of PEFT's own making, with something learned."""

    def made(base: Path, **given: object) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        folder = tmp_path_factory.mktemp("adapter")
        config = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"], **given}
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**config))
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_magnitude" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder)
        return folder

    return made


def logits(folder: Path, adapter: Path | None = None, strength: float = 1.0) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        base = model(ids).logits
        if adapter is None:
            return base
        tuned = PeftModel.from_pretrained(model, str(adapter))
        if strength != 1.0:
            for module in tuned.modules():
                if isinstance(getattr(module, "scaling", None), dict):
                    module.scaling = {key: value * strength for key, value in module.scaling.items()}
        return tuned(ids).logits


def ordered(adapter: Path, base: Path, target: Path, **given: object) -> Order:
    return Order(adapter, str(base), given.pop("format", "merged"), target, "mine", "Be kind.", **given)  # type: ignore[arg-type]


def done(wanted: Order, told: Callable[[int, int], None] = lambda done, total: None) -> bool:
    return make.make(wanted, told, threading.Event())


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_folder_answers_as_peft_does(
    kind: str, tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = adapter_of(tiny_model, **KINDS[kind])
    assert done(ordered(adapter, tiny_model, tmp_path / "out"))
    wanted = logits(tiny_model, adapter)
    assert (wanted - logits(tiny_model)).abs().max() > 0.01, "the adapter must do something"
    assert torch.allclose(logits(tmp_path / "out"), wanted, atol=2e-5)


def test_a_strength_is_folded_in(tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path) -> None:
    adapter = adapter_of(tiny_model)
    assert done(ordered(adapter, tiny_model, tmp_path / "merged", strength=0.5))
    assert done(ordered(adapter, tiny_model, tmp_path / "adapter", strength=0.5, format="adapter"))
    wanted = logits(tiny_model, adapter, 0.5)
    assert torch.allclose(logits(tmp_path / "merged"), wanted, atol=2e-5)
    assert torch.allclose(logits(tiny_model, tmp_path / "adapter"), wanted, atol=2e-5)
    assert not torch.allclose(wanted, logits(tiny_model, adapter), atol=1e-3)


def test_a_dora_at_half_strength_lies_half_way(
    tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = adapter_of(tiny_model, use_dora=True)
    found = {strength: {e.name: t for e, t in read(Weights(tiny_model, adapter, strength))} for strength in (0.5, 1.0)}
    base = {entry.name: tensor for entry, tensor in read(Weights(tiny_model, None))}
    for name, tensor in base.items():
        assert torch.allclose(found[0.5][name], (tensor + found[1.0][name]) / 2, atol=1e-6), name
    with pytest.raises(ModelError, match="DoRA"):
        done(ordered(adapter, tiny_model, tmp_path / "x", strength=0.5, format="adapter"))


def read(given: Weights) -> list[tuple[weights.Entry, torch.Tensor]]:
    with given.read() as tensors:
        return [(entry, tensor.clone()) for entry, tensor in tensors]


def test_a_trained_head_that_shared_the_embedding_becomes_its_own(
    tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path
) -> None:
    assert done(ordered(adapter_of(tiny_model, target_modules=["lm_head"]), tiny_model, tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert "lm_head.weight" in models.read_header(tmp_path / "out" / "model.safetensors")


def test_several_files_hold_what_one_does(tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path) -> None:
    adapter = adapter_of(tiny_model)
    for name, most in (("one", 10**9), ("many", 6_000)):
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        weights.save(folder, Weights(tiny_model, adapter), lambda nbytes: None, shard_bytes=most)
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert torch.equal(logits(tmp_path / "many"), logits(tmp_path / "one"))


def test_sixteen_bits_are_rounded_once(tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    half = tmp_path / "half"
    shutil.copytree(tiny_model, half)
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(half)
    adapter = adapter_of(tiny_model)
    low = weights._low(adapter, half)
    for (entry, tensor), (_, base) in zip(read(Weights(half, adapter)), read(Weights(half, None)), strict=True):
        assert tensor.dtype == base.dtype == torch.bfloat16
        part = low.get(entry.name)
        exact = base.double() + (3.0 * part.b.double() @ part.a.double() if part else 0)
        # Half of a step of bfloat16, and no more: nothing was rounded on the way.
        assert ((tensor.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-9).all(), entry.name


def test_what_cannot_be_merged_is_refused_before_anything_is_written(
    tiny_model: Path, tiny_llama: Path, adapter_of: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = adapter_of(tiny_model)
    quantised = tmp_path / "quantised"
    shutil.copytree(tiny_model, quantised)
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}})
    )
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    cases: list[tuple[type[Exception], str, Order]] = [
        (ModelError, "16-bit", ordered(adapter, quantised, tmp_path / "a")),
        (StorageError, "not empty", ordered(adapter, tiny_model, full)),
        (ConfigError, "trength", ordered(adapter, tiny_model, tmp_path / "a", strength=9)),
        (ConfigError, "q9", ordered(adapter, tiny_model, tmp_path / "a", format="gguf", quantisation="q9")),
        (ModelError, "Qwen2", ordered(adapter, tiny_llama, tmp_path / "a", format="gguf")),
    ]
    for kind, said, wanted in cases:
        with pytest.raises(kind, match=said):
            done(wanted)
    assert not (tmp_path / "a").exists() and (full / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "quantised"]


def test_a_sum_out_of_range_is_named(tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    half = tmp_path / "half"
    shutil.copytree(tiny_model, half)
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float16).save_pretrained(half)
    adapter = adapter_of(tiny_model, lora_alpha=1_000_000)
    saved = adapter / adapters.WEIGHTS
    save_file({name: 1000 * tensor for name, tensor in load_file(saved).items()}, saved)
    with pytest.raises(ModelError, match=r"layers\.0\.\w+\.\w+\.weight would not be finite"):
        done(ordered(adapter, half, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_named_first(
    tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=20_000)
    monkeypatch.setattr(order.shutil, "disk_usage", lambda path: free)
    with pytest.raises(StorageError, match=r"takes .* GB"):
        done(ordered(adapter_of(tiny_model), tiny_model, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", range(0, 24, 5))
def test_cancelled_anywhere_nothing_is_left(
    at: int, tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path
) -> None:
    stop, calls = threading.Event(), 0

    def told(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            stop.set()

    assert not make.make(ordered(adapter_of(tiny_model), tiny_model, tmp_path / "out"), told, stop)
    assert list(tmp_path.iterdir()) == []


def test_estimates_are_near_what_is_written(adapter_of: Callable[..., Path], tmp_path: Path) -> None:
    base = models.POCKET_FOLDER
    adapter = adapter_of(base)
    for form, quantisation in (
        ("merged", "f16"),
        ("merged-f32", "f16"),
        ("gguf", "f16"),
        ("gguf", "q8_0"),
        ("gguf", "q4_0"),
    ):
        wanted = ordered(adapter, base, tmp_path / f"{form}-{quantisation}", format=form, quantisation=quantisation)
        guess = wanted.nbytes()
        assert done(wanted)
        size = sum(path.stat().st_size for path in wanted.target.iterdir())
        assert 0.8 * guess < size < 1.02 * guess, (form, quantisation)


def test_a_gguf_file_rounds_the_sum_once(adapter_of: Callable[..., Path], tmp_path: Path) -> None:
    import gguf

    base, key = models.POCKET_FOLDER, "model.layers.2.mlp.down_proj.weight"
    adapter = adapter_of(base)
    exact = next(t for e, t in read(Weights(base, adapter, float32="sums")) if e.name == key)
    short = next(t for e, t in read(Weights(base, adapter)) if e.name == key)
    assert exact.dtype == torch.float32 and torch.equal(exact.to(torch.bfloat16), short)
    for kind, dtype in (("f16", torch.float16), ("f32", torch.float32)):
        target = tmp_path / kind
        assert done(ordered(adapter, base, target, format="gguf", quantisation=kind))
        tensors = gguf.GGUFReader(target / f"mine-{kind}.gguf").tensors
        found = next(tensor for tensor in tensors if tensor.name == "blk.2.ffn_down.weight")
        assert torch.equal(torch.tensor(found.data), exact.to(dtype)), kind


def test_a_weight_that_float16_cannot_hold_is_named_by_the_export() -> None:
    import gguf

    from core.export.gguf_file import _parts

    large = torch.tensor([[1.0, -70_000.0]])
    with pytest.raises(ModelError, match="float16"):
        list(_parts(large, gguf.GGMLQuantizationType.F16))
    assert len(list(_parts(large, gguf.GGMLQuantizationType.F32))) == 1


def test_a_gguf_file_holds_the_merged_weights_and_the_tokenizer(
    adapter_of: Callable[..., Path], tmp_path: Path
) -> None:
    import gguf

    base = models.POCKET_FOLDER
    adapter = adapter_of(base)
    assert done(ordered(adapter, base, tmp_path / "out", format="gguf", quantisation="q8_0"))
    reader = gguf.GGUFReader(tmp_path / "out" / "mine-q8_0.gguf")
    wanted = {entry.name: tensor for entry, tensor in read(Weights(base, adapter))}
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert len(found) == len(wanted)
    for name, key in (
        ("blk.2.ffn_down.weight", "model.layers.2.mlp.down_proj.weight"),
        ("token_embd.weight", "model.embed_tokens.weight"),
    ):
        values = torch.from_numpy(gguf.quants.dequantize(found[name].data, found[name].tensor_type))
        exact = wanted[key].float()
        assert values.shape == exact.shape
        assert (values - exact).abs().max() <= exact.abs().max() / 127, name
    told = {key: field.contents() for key, field in reader.fields.items()}
    tokens = json.loads((base / "tokenizer.json").read_text("utf-8"))
    assert told["tokenizer.ggml.model"] == "gpt2" and told["tokenizer.ggml.pre"] == "qwen2"
    assert told["tokenizer.ggml.tokens"][tokens["model"]["vocab"]["a"]] == "a"
    assert told["tokenizer.ggml.eos_token_id"] == 6397 and told["qwen2.block_count"] == 6
    assert "generation" not in told["tokenizer.chat_template"].replace("add_generation_prompt", "")
    modelfile = (tmp_path / "out" / "Modelfile").read_text("utf-8")
    assert modelfile.startswith("FROM ./mine-q8_0.gguf\n") and 'SYSTEM """Be kind."""' in modelfile


@pytest.mark.parametrize("messages", [1, 3])
def test_a_template_without_its_marks_prints_the_same(messages: int) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.POCKET_FOLDER)
    turns = [{"role": ("user", "assistant")[i % 2], "content": f" turn\n{i} "} for i in range(messages)]
    plain = gguf_file.plain_template(tokenizer.chat_template)
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(plain)
    assert made.render(messages=turns, add_generation_prompt=True) == tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )


def test_an_adapter_as_gguf_has_its_scale(tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path) -> None:
    import gguf

    base = models.POCKET_FOLDER
    adapter = adapter_of(base, use_rslora=True)
    wanted = ordered(adapter, base, tmp_path / "out", format="gguf-adapter", strength=0.5)
    assert done(wanted)
    reader = gguf.GGUFReader(tmp_path / "out" / "mine-lora.gguf")
    alpha = reader.fields["adapter.lora.alpha"].contents()
    assert alpha / 4 == pytest.approx(0.5 * 12 / 4**0.5), "llama.cpp divides by the rank"
    assert {tensor.name for tensor in reader.tensors} >= {"blk.0.attn_q.weight.lora_a", "blk.5.ffn_down.weight.lora_b"}
    with pytest.raises(ModelError, match="DoRA"):
        done(ordered(adapter_of(base, use_dora=True), base, tmp_path / "other", format="gguf-adapter"))


def test_an_exported_adapter_is_an_adapter_of_ours(
    tiny_model: Path, adapter_of: Callable[..., Path], tmp_path: Path
) -> None:
    made = adapter_of(tiny_model, task_type="CAUSAL_LM")
    assert done(ordered(made, tiny_model, tmp_path / "out", format="adapter"))
    assert adapters.read(tmp_path / "out").rank == 4
    # An older PEFT warns of settings that it does not know, and refuses where they are of another kind: none is left.
    config = storage.read_json(tmp_path / "out" / "adapter_config.json")
    assert isinstance(config, dict) and set(config) == {
        "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights", "lora_alpha",
        "lora_dropout", "modules_to_save", "peft_type", "r", "target_modules", "task_type", "use_dora", "use_rslora",
    }  # fmt: skip
    assert config["target_modules"] == sorted(config["target_modules"])
    again = ordered(made, tiny_model, tmp_path / "told", format="adapter", language="en", rows=True)
    assert done(again) and retest.order_of(again.target, made) == again
    told = make.read_facts(tmp_path / "out")
    assert told["format"] == "adapter" and told["system"] == "Be kind." and len(str(told["adapter_sha256"])) == 64
