"""Loading: what core.load makes is what from_pretrained makes, to the bit; laid out for fused products; nothing twice."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import models
from core.base_parts import tokenizer_of
from core.device import Device
from core.engine import Engine, _beside
from core.errors import ModelError
from core.fused.sizes import PAD
from core.fused.weights import lay_out
from core.load import load_base
from core.shards import Block, Reader, stored_tensors
from core.text import Text

CPU = torch.device("cpu")
_LOOKING = threading.Lock()


def make(folder: Path, tokenizer: Path, family: str, tied: bool, dtype: str, shard: str) -> Path:
    """A tiny model of a family, in files of `shard` bytes at most."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {
        "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "tie_word_embeddings": tied,
    }  # fmt: skip
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.generation_config.max_new_tokens = 7
    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "generation*"))
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    return folder


def theirs(folder: Path, dtype: str = "float32", **extra: object) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=getattr(torch, dtype), device_map={"": CPU}, attn_implementation="sdpa", **extra
    )


def ours(folder: Path, dtype: str = "float32", quant_method: str = "none", padded: bool = False) -> torch.nn.Module:
    return load_base(models.inspect(str(folder)), quant_method, dtype, CPU, padded=padded).model


@torch.no_grad()
def assert_the_same(made: torch.nn.Module, expected: torch.nn.Module) -> None:
    for kind in ("named_parameters", "named_buffers"):
        a, b = (dict(getattr(model, kind)(remove_duplicate=False)) for model in (made, expected))
        assert list(a) == list(b)
        for name, tensor in a.items():
            assert (tensor.dtype, tensor.device, tensor.shape) == (b[name].dtype, b[name].device, b[name].shape), name
            assert torch.equal(tensor, b[name]), name
            assert tensor.requires_grad == b[name].requires_grad
    assert [type(m) for m in made.modules()] == [type(m) for m in expected.modules()]
    ids = torch.arange(24)[None] * 7 % 260
    assert torch.equal(made(input_ids=ids).logits, expected(input_ids=ids).logits)
    assert not any(module.training for module in made.modules())
    assert made.config.to_dict() == expected.config.to_dict()
    assert made.config._attn_implementation == expected.config._attn_implementation
    assert made.generation_config.to_dict() == expected.generation_config.to_dict()
    assert made.name_or_path == expected.name_or_path and made.config.name_or_path == expected.config.name_or_path


KINDS = {
    "qwen2, tied": ("qwen2", True, "float32", "10GB"),
    "qwen2, untied, many files": ("qwen2", False, "bfloat16", "20KB"),
    "llama, float16 files": ("llama", False, "float16", "20KB"),
    "qwen3, tied, many files": ("qwen3", True, "bfloat16", "20KB"),
    "mistral": ("mistral", False, "bfloat16", "10GB"),
}


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, tiny_model: Path) -> Path:
    return make(tmp_path / "model", tiny_model, *KINDS[request.param])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_what_from_pretrained_makes_of_it(folder: Path, dtype: str) -> None:
    assert_the_same(ours(folder, dtype), theirs(folder, dtype))


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("kind", ["yarn", "llama3", "linear"])
def test_what_is_in_no_file_is_computed_as_from_pretrained_does(
    tmp_path: Path, tiny_model: Path, family: str, kind: str
) -> None:
    folder = make(tmp_path / "model", tiny_model, family, False, "bfloat16", "10GB")
    config = json.loads((folder / "config.json").read_text())
    more = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    config["rope_parameters"] = {
        "rope_type": kind, "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 256, **more,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    made = ours(folder, "bfloat16", padded=True)
    assert_the_same(made, theirs(folder, "bfloat16"))
    assert made.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_known_model_is_held_once_while_it_is_loaded(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, only_new_objects: None
) -> None:
    folder = make(tmp_path / "model", tiny_model, "llama", False, "float32", "20KB")
    monkeypatch.setattr("core.shards._PIECE_BYTES", 4000)
    info, kinds, peaks = models.inspect(str(folder)), (torch.float32, torch.bfloat16, torch.uint8), []
    before = live_bytes(kinds)
    model = load_base(
        info, "none", "bfloat16", CPU, lambda *moment: peaks.append(live_bytes(kinds) - before), padded=True
    ).model
    buffers = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    # Beside the model: a reading buffer for each of eight threads, and the tables of angles.
    assert max(peaks) <= sum(buffers.values()) + 8 * 4000 + 2000 and len(peaks) > 20


@pytest.mark.parametrize("piece_bytes", [40, 1000, 2**23], ids=["parts of a row", "rows", "all"])
def test_a_model_with_room_beside_its_weights_is_the_same(
    folder: Path, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.shards._PIECE_BYTES", piece_bytes)
    for dtype in ("float32", "bfloat16"):
        assert_the_same(ours(folder, dtype, padded=True), theirs(folder, dtype))


def test_room_beside_the_weights_is_as_the_fused_pass_wants_it(folder: Path) -> None:
    model = ours(folder, "bfloat16", padded=True)
    for layer in model.model.layers:
        for group in (
            [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj],
            [layer.self_attn.o_proj],
            [layer.mlp.gate_proj, layer.mlp.up_proj],
            [layer.mlp.down_proj],
        ):
            before = [(linear.weight.data_ptr(), linear.weight.clone()) for linear in group]
            buffer = lay_out(group, spare=True).piece(0)
            rows, columns = sum(linear.out_features for linear in group), group[0].in_features
            assert buffer.data_ptr() == before[0][0] and buffer.shape == (rows + PAD, columns + PAD)
            for linear, (place, values) in zip(group, before, strict=True):
                assert linear.weight.data_ptr() == place and torch.equal(linear.weight, values)
            assert torch.equal(buffer[:rows, :columns], torch.cat([values for _, values in before]))
            assert not buffer[rows:].any() and not buffer[:, columns:].any()
            assert buffer.untyped_storage().nbytes() == buffer.nbytes


@pytest.mark.parametrize("padded", [False, True])
def test_what_a_family_keeps_in_float32_is_not_narrowed_on_the_way(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, padded: bool
) -> None:
    from transformers import Qwen2ForCausalLM

    folder = make(tmp_path / "model", tiny_model, "qwen2", False, "float32", "10GB")
    for kept in ("k_proj", "o_proj"):
        monkeypatch.setattr(Qwen2ForCausalLM, "_keep_in_fp32_modules_strict", [kept])
        made, expected = ours(folder, "bfloat16", padded=padded), theirs(folder, "bfloat16")
        name = f"model.layers.1.self_attn.{kept}.weight"
        assert made.get_parameter(name).dtype == torch.float32
        assert torch.equal(made.get_parameter(name), expected.get_parameter(name))
        assert made.get_parameter("model.layers.1.mlp.up_proj.weight").dtype == torch.bfloat16


def test_products_that_share_an_input_lie_in_one_buffer(folder: Path) -> None:
    model = ours(folder, "bfloat16")
    names = dict(model.named_parameters())
    groups = [("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj"))]
    for layer in range(3):
        for block, members in groups:
            for kind in ("weight", "bias"):
                parts = [names.get(f"model.layers.{layer}.{block}.{member}.{kind}") for member in members]
                if parts[0] is None:
                    continue
                whole = torch.as_strided(
                    parts[0].data, (sum(p.shape[0] for p in parts), *parts[0].shape[1:]), parts[0].stride()
                )
                assert torch.equal(whole, torch.cat(parts)) and all(p.is_contiguous() for p in parts)
                assert len({p.untyped_storage().data_ptr() for p in parts}) == 1
                assert parts[0].untyped_storage().nbytes() == sum(p.nbytes for p in parts)


@pytest.mark.parametrize("padded", [False, True])
def test_a_laid_out_model_is_saved_as_any_other(folder: Path, tmp_path: Path, padded: bool) -> None:
    made = ours(folder, padded=padded)
    # transformers asks where tensors that share memory end, of contiguous ones only.
    state = {name: tensor.contiguous() for name, tensor in made.state_dict().items()} if padded else None
    made.save_pretrained(tmp_path / "ours", max_shard_size="30KB", state_dict=state)
    theirs(folder).save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    saved = {path.name for path in (tmp_path / "theirs").glob("*.safetensors")}
    assert saved == {path.name for path in (tmp_path / "ours").glob("*.safetensors")} and len(saved) > 1
    for name in saved:
        mine, other = load_file(tmp_path / "ours" / name), load_file(tmp_path / "theirs" / name)
        assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


def test_training_a_merged_weight_leaves_its_neighbours_alone(folder: Path) -> None:
    model = ours(folder)
    attention = model.model.layers[1].self_attn
    before = [attention.q_proj.weight.clone(), attention.v_proj.weight.clone()]
    with torch.no_grad():
        attention.k_proj.weight += 1
    assert torch.equal(attention.q_proj.weight, before[0]) and torch.equal(attention.v_proj.weight, before[1])


def state(weight: torch.Tensor) -> dict[str, object]:
    """All that bitsandbytes keeps of a quantised weight."""
    quantised = weight.quant_state
    inner = quantised.state2
    return {
        "bytes": weight.data, "absmax": quantised.absmax, "code": quantised.code, "offset": quantised.offset,
        "absmax2": inner.absmax, "code2": inner.code, "blocksize": quantised.blocksize, "blocksize2": inner.blocksize,
        "dtype": quantised.dtype, "dtype2": inner.dtype, "type": quantised.quant_type, "shape": quantised.shape,
        "bnb": weight.bnb_quantized, "compressed": weight.compress_statistics, "storage": weight.quant_storage,
    }  # fmt: skip


def test_nf4_is_what_transformers_quantises_to(folder: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    made, expected = ours(folder, "bfloat16", "bnb"), theirs(folder, "bfloat16", quantization_config=config)
    quantised = {name for name, m in expected.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    assert len(quantised) == 3 * 7 and "lm_head" not in quantised
    for name in quantised:
        a, b = made.get_submodule(name), expected.get_submodule(name)
        assert type(a.weight) is type(b.weight) and a.compute_dtype == b.compute_dtype
        pairs = list(zip(state(a.weight).items(), state(b.weight).items(), strict=True))
        for (key, value), (_, other) in pairs:
            same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
            assert same, f"{name} {key}"
        assert a.weight.module is a and not a.support_avx512bf16_for_cpu
        b.support_avx512bf16_for_cpu = False
    assert made.is_loaded_in_4bit and made.is_quantized and made.hf_quantizer is not None
    assert_the_same(made, expected)


@pytest.fixture
def only_new_objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While the test runs, the collector lists only what was made since: looking at all of torch takes a second.

    No tokenizer is made while it looks: to Python, a tuple that is still growing in another thread and is looked at is an
    error of that thread's (SystemError, https://github.com/python/cpython/issues/39117).
    """

    def alone(folder: Path) -> object:
        with _LOOKING:
            return tokenizer_of(folder)

    monkeypatch.setattr("core.load.tokenizer_of", alone)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_bytes(kinds: tuple[torch.dtype, ...]) -> int:
    """Memory of all live tensors of these types, each storage counted once."""
    storages = {}
    with _LOOKING:
        things = gc.get_objects()
    for thing in things:
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu" and thing.dtype in kinds:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_nf4_never_holds_the_whole_model_in_16_bits(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, only_new_objects: None
) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    wide = Qwen2Config(
        vocab_size=260,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=24,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    shutil.copytree(tiny_model, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    Qwen2ForCausalLM(wide).bfloat16().save_pretrained(tmp_path / "m")
    info = models.inspect(str(tmp_path / "m"))
    largest = 2 * 128 * 256
    monkeypatch.setattr("core.load_nf4.AHEAD_BYTES", 2 * largest)
    gc.collect()
    before, peaks = live_bytes((torch.bfloat16,)), []

    def watch(name: str, done: int, total: int) -> None:
        peaks.append(live_bytes((torch.bfloat16,)) - before)

    model = load_base(info, "bnb", "bfloat16", CPU, watch).model
    kept = live_bytes((torch.bfloat16,)) - before
    quantised = sum(
        p.numel() * 2 for name, p in model.named_parameters() if "layers" in name and p.dtype == torch.uint8
    )
    assert len(peaks) > 50 and quantised * 2 > 20 * largest  # numel of packed bytes is half of the weights'
    # What stays in 16 bits, what is read ahead, the one being quantised, and what bitsandbytes computes it with.
    assert max(peaks) <= kept + 2 * largest + 5 * largest, (max(peaks), kept, largest)


def damage(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


NORM, LINEAR = "model.layers.1.input_layernorm.weight", "model.layers.0.mlp.up_proj.weight"
BROKEN: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "missing": (lambda t: [t.pop(NORM), t.pop("model.norm.weight")], f"lack 2 tensors .first: {NORM}"),
    "unexpected": (lambda t: t.update({"model.extra": torch.ones(2)}), "1 tensors the model has no place for"),
    "another shape": (lambda t: t.update({NORM: torch.ones(31)}), r"\(31,\) in the file, \(32,\) expected"),
    "another width": (lambda t: t.update({LINEAR: torch.ones(64, 32)}), r"\(64, 32\) in the file, \(48, 32\) expected"),
}


@pytest.mark.parametrize("quant_method", ["none", "bnb"])
@pytest.mark.parametrize("name", BROKEN)
def test_files_of_another_model_are_refused_and_leave_nothing_behind(
    tmp_path: Path, tiny_model: Path, name: str, quant_method: str, only_new_objects: None
) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    change, words = BROKEN[name]
    damage(tmp_path / "m", change)
    gc.collect()
    kinds = (torch.float32, torch.uint8)
    engine, before, seen = Engine(Device("cpu", "test", 10**10)), live_bytes(kinds), []

    def watch(what: str, done: int, total: int) -> None:
        with _LOOKING:
            things = gc.get_objects()
        seen.extend(weakref.ref(x) for x in things if issubclass(type(x), torch.nn.Linear))

    with pytest.raises(ModelError, match=words) as caught:
        engine.load(str(tmp_path / "m"), quant_method, progress=watch)
    # The error is still held here, as the page holds it while it is shown.
    assert caught.value is not None and engine.state == "failed" and engine.resident is None
    assert engine.loading.now is None
    if quant_method == "bnb":  # shapes are compared before anything is read; otherwise while it is
        assert bool(seen) != (name in ("another shape", "another width"))
    assert not any(ref() is not None and ref().weight.device.type == "cpu" for ref in seen)
    gc.collect()
    assert live_bytes(kinds) <= before
    engine.load(str(tiny_model))
    assert engine.state == "ready"


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    info = models.inspect(str(tmp_path / "m"))
    tensors = stored_tensors(info.folder)
    assert tensors is not None
    (tmp_path / "m" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"model\.safetensors is incomplete"), Reader(CPU) as reader:
        weights = reader.weights(tensors, torch.float32, str, {})
        weights["model.norm.weight"][...]
    with pytest.raises(ModelError, match=r"model\.safetensors is incomplete"), Reader(CPU) as reader:
        reader.weights(tensors, torch.float32, str, {})
        reader.take_all()


def test_how_threads_take_turns_is_as_before_after_a_load(tiny_model: Path) -> None:
    before = sys.getswitchinterval()
    seen = []
    load_base(
        models.inspect(str(tiny_model)), "none", "float32", CPU, lambda *moment: seen.append(sys.getswitchinterval())
    )
    assert min(seen) < before / 10 and sys.getswitchinterval() == before


def test_progress_goes_up_to_the_whole_and_an_error_in_it_ends_the_load(tiny_model: Path) -> None:
    info, told = models.inspect(str(tiny_model)), []
    load_base(info, "none", "float32", CPU, lambda *moment: told.append(moment))
    done = [moment[1] for moment in told]
    assert done == sorted(done) and done[0] == 0 and done[-1] == info.weight_bytes and len(set(done)) > 10
    assert {(name, total) for name, _, total in told} == {(info.label, info.weight_bytes)}

    def enough(name: str, done: int, total: int) -> None:
        if done:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError):
        load_base(info, "none", "float32", CPU, enough)


def test_loading_is_silent_on_the_console_but_errors_come_through(tiny_model: Path) -> None:
    told: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = told.append  # type: ignore[method-assign]
    library = logging.getLogger("transformers")
    library.addHandler(listener)
    try:
        ours(tiny_model)
        ours(tiny_model)
        assert [record.getMessage() for record in told if record.levelno >= library.level] == []
        logging.getLogger("transformers.modeling_utils").error("a word")
        assert [record.getMessage() for record in told] == ["a word"]
    finally:
        library.removeHandler(listener)


def test_what_goes_wrong_beside_a_load_is_raised_at_its_end() -> None:
    ended = []

    def fail() -> None:
        raise torch.OutOfMemoryError("beside")

    with pytest.raises(torch.OutOfMemoryError, match="beside"), _beside(fail):
        ended.append("load")
    assert ended == ["load"]
    with pytest.raises(ModelError), _beside(fail):  # of two errors, the load's own
        raise ModelError(Text(zh="坏了", en="broken"))
    with _beside(lambda: ended.append("work")), _beside(None):
        pass
    assert ended == ["load", "work"]


def test_weights_are_read_in_any_order_with_little_room(tmp_path: Path) -> None:
    stored = {f"layer.{i}": torch.randn(1000 + i) for i in range(40)}
    (tmp_path / "config.json").write_text("{}")
    save_file(stored, tmp_path / "model.safetensors")
    tensors = stored_tensors(tmp_path)
    assert tensors is not None
    with Reader(CPU, ahead_bytes=9000) as reader:
        weights = reader.weights(tensors, torch.float32, str, {})
        for name in sorted(stored, key=lambda name: -int(name.split(".")[1])):
            assert torch.equal(weights[name][...], stored[name])


def test_a_tensor_of_many_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.shards._PIECE_BYTES", 64)
    stored = {"a": torch.randn(37, 11).half(), "b": torch.arange(5), "empty": torch.empty(0), "one": torch.tensor(3.5),
              "yes": torch.tensor([True, False])}  # fmt: skip
    save_file(stored, tmp_path / "model.safetensors")
    tensors = stored_tensors(tmp_path)
    assert tensors is not None
    for dtype in (torch.float16, torch.float32):
        with Reader(CPU) as reader:
            weights = reader.weights(tensors, dtype, str, {"a": (Block([tensors["a"]]), 0)})
            for name, tensor in stored.items():
                wanted = tensor.to(dtype) if name == "a" else tensor
                assert torch.equal(weights[name][...], wanted) and weights[name].dtype == wanted.dtype
        with Reader(CPU) as reader:
            reader.weights(tensors, dtype, str, {"a": (Block([tensors["a"]]), 0)}, every=True)
            found = reader.take_all()
            assert found.keys() == stored.keys()
            for name, tensor in stored.items():
                wanted = tensor.to(dtype) if tensor.is_floating_point() else tensor
                assert torch.equal(found[name], wanted) and found[name].dtype == wanted.dtype


def test_experts_in_pieces_are_put_together_as_transformers_does(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {
        "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **shape))
    shutil.copytree(tiny_model, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(tmp_path / "m", max_shard_size="20KB")
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert any("experts.0.gate_proj" in name for name in index["weight_map"])  # not one to one with the model's names
    assert_the_same(ours(tmp_path / "m"), theirs(tmp_path / "m"))


def test_files_of_a_type_that_is_not_read_here_go_through_from_pretrained(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    damage(tmp_path / "m", lambda t: t.update({NORM: torch.ones(32).to(torch.float8_e5m2)}))
    assert stored_tensors(tmp_path / "m") is None
    assert_the_same(ours(tmp_path / "m"), theirs(tmp_path / "m"))
