"""The resident model: loading, refusing, attaching; a refused adapter leaves the base as it was."""

from __future__ import annotations

import json
import struct
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import adapters
from core.backend import Route
from core.config import TrainConfig, build
from core.dataset import Message
from core.engine import Engine
from core.errors import BusyError, ModelError
from core.fused.sizes import Way
from core.generate import Column, Sampling, stream

PROMPT = (Message("system", "s"), Message("user", "who are you?"))


def base_logits(engine: Engine) -> torch.Tensor:
    assert engine.resident is not None
    resident = engine.resident
    return resident.backend.slots().join([resident.encoder.prompt(PROMPT)], [Route()], [64]).clone()


@pytest.fixture
def saved(tmp_path: Path, tiny_engine: Engine, tiny_config: TrainConfig) -> Path:
    """A good adapter folder, its tensors not zero; nothing attached any more."""
    tiny_engine.create_adapter("made", tiny_config)
    assert tiny_engine.resident is not None
    with torch.no_grad():
        for parameter in tiny_engine.resident.backend.adapter_parameters(tiny_engine.handle("made")):
            parameter.fill_(0.05)
    tiny_engine.save_adapter("made", tmp_path / "made", {"system": "Be X.", "new_words": ["X"], "old_words": ["Y"]})
    tiny_engine.detach("made")
    return tmp_path / "made"


def test_a_saved_adapter_comes_back_the_same(tiny_engine: Engine, saved: Path, tiny_config: TrainConfig) -> None:
    adapter = adapters.read(saved, "again")
    assert (adapter.system, adapter.new_words, adapter.old_words, adapter.rank) == ("Be X.", ("X",), ("Y",), 8)
    before = base_logits(tiny_engine)
    tiny_engine.attach(adapter)
    tiny_engine.attach(adapter)  # twice is once
    assert tiny_engine.attached == ("again",) and tiny_engine.resident is not None
    assert all((p == 0.05).all() for p in tiny_engine.resident.backend.adapter_parameters(tiny_engine.handle("again")))
    assert torch.equal(base_logits(tiny_engine), before)
    tiny_engine.detach("again")
    assert torch.equal(base_logits(tiny_engine), before)
    assert not any("lora" in name for name, _ in tiny_engine.resident.backend.model.named_modules())


def with_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / adapters.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / adapters.WEIGHTS)


def with_config(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def to_pickle(folder: Path) -> None:
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "not a number": (lambda f: with_tensors(f, lambda t: t[next(iter(t))].fill_(float("nan"))), "NaN"),
    "missing tensors": (lambda f: with_tensors(f, lambda t: [t.pop(k) for k in list(t)[:4]]), "4 tensors missing"),
    "foreign tensors": (lambda f: with_tensors(f, lambda t: t.update({"other.weight": torch.ones(1)})), "1 foreign"),
    "another shape": (
        lambda f: with_tensors(f, lambda t: t.update({next(iter(t)): torch.ones(3, 3)})), "1 of another shape"),
    "a huge rank": (lambda f: with_config(f, r=1_000_000_000), "rank"),
    "a rank of text": (lambda f: with_config(f, r="8"), "rank"),
    "another method": (lambda f: with_config(f, peft_type="IA3"), "LoRA"),
    "layers it has not": (lambda f: with_config(f, target_modules=["nowhere"]), "another model"),
    "saved modules": (lambda f: with_config(f, modules_to_save=["lm_head"]), "modules_to_save"),
    "an init that rewrites the base": (lambda f: with_config(f, init_lora_weights="pissa"), "init_lora_weights"),
    "another such init": (lambda f: with_config(f, init_lora_weights="olora"), "init_lora_weights"),
    "replicated layers": (lambda f: with_config(f, layer_replication=[[0, 2], [1, 2]]), "layer_replication"),
    "a rank pattern": (lambda f: with_config(f, rank_pattern={"q_proj": 100_000_000}), "rank_pattern"),
    "a scale of text": (lambda f: with_config(f, lora_alpha="32"), "lora_alpha = '32'"),
    "no scale": (lambda f: with_config(f, lora_alpha=0), "lora_alpha = 0"),
    "an endless scale": (lambda f: with_config(f, lora_alpha=float("inf")), "lora_alpha = inf"),
    "a word for true": (lambda f: with_config(f, use_rslora="no"), "use_rslora = 'no'"),
    "a dropout of all": (lambda f: with_config(f, lora_dropout=1), "lora_dropout = 1"),
    "DoRA without its magnitudes": (lambda f: with_config(f, use_dora=True), "14 tensors missing"),
    "a pickle": (to_pickle, "pickled"),
    "no weights": (lambda f: (f / adapters.WEIGHTS).unlink(), "lacks"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "no adapter folder"),
    "a torn file": (lambda f: (f / adapters.WEIGHTS).write_bytes((f / adapters.WEIGHTS).read_bytes()[:200]), "damaged"),
    "a lying header": (lambda f: (f / adapters.WEIGHTS).write_bytes(struct.pack("<Q", 2**62)), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_adapter_is_refused_and_leaves_no_trace(
    tiny_engine: Engine, saved: Path, name: str, beside: bool
) -> None:
    if beside:
        tiny_engine.attach(adapters.read(saved, "good"))
    before, names = base_logits(tiny_engine), tiny_engine.attached
    breaking, words = BROKEN[name]
    breaking(saved)
    with pytest.raises(ModelError, match=words):
        tiny_engine.attach(adapters.read(saved, "bad"))
    assert tiny_engine.attached == names and torch.equal(base_logits(tiny_engine), before)


@pytest.mark.parametrize("name", ["out.v1", "train", "type", "layers", "self_attn", "目录 1"])
def test_an_adapter_may_have_any_name(tiny_engine: Engine, tiny_config: TrainConfig, name: str) -> None:
    tiny_engine.create_adapter(name, tiny_config)
    assert tiny_engine.resident is not None
    assert len(tiny_engine.resident.backend.adapter_parameters(tiny_engine.handle(name))) == 28


def test_a_held_model_is_not_exchanged_by_others(tiny_engine: Engine, tiny_model: Path, tiny_llama: Path) -> None:
    first = tiny_engine.resident
    with tiny_engine.held("run"):
        tiny_engine.load(str(tiny_model))  # the same one is fine
        with pytest.raises(BusyError):
            tiny_engine.load(str(tiny_llama))
        assert tiny_engine.resident is first
        tiny_engine.load(str(tiny_llama), holder="run")
    tiny_engine.load(str(tiny_model))


def test_an_answer_nobody_reads_on_keeps_no_model_in_memory(tiny_engine: Engine, tiny_llama: Path) -> None:
    replies = stream(tiny_engine, [Column(PROMPT)], Sampling(max_new_tokens=400))
    next(replies)
    gone = weakref.ref(tiny_engine.resident.backend.model)  # type: ignore[union-attr]
    tiny_engine.load(str(tiny_llama))
    assert gone() is None
    with pytest.raises(ModelError, match="exchanged"):
        list(replies)


def test_adapters_on_other_layers_live_side_by_side(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    before = base_logits(tiny_engine)
    for targets in ("mlp", "attention", "q_proj v_proj"):
        tiny_engine.create_adapter(targets.replace(" ", "-"), build({"target_modules": targets}, tiny_config))
    assert tiny_engine.resident is not None
    backend = tiny_engine.resident.backend
    assert [len(backend.adapter_parameters(tiny_engine.handle(n))) for n in ("mlp", "attention", "q_proj-v_proj")] == [
        12,
        16,
        8,
    ]
    assert torch.equal(base_logits(tiny_engine), before)


def test_trainable_parameters_are_counted_as_peft_counts_them(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    from core.estimate import adapter_parameters

    assert tiny_engine.resident is not None
    for targets in ("all-linear", "mlp", "attention", "q_proj v_proj"):
        config = build({"target_modules": targets}, tiny_config)
        tiny_engine.create_adapter("x", config)
        real = sum(p.numel() for p in tiny_engine.resident.backend.adapter_parameters(tiny_engine.handle("x")))
        assert adapter_parameters(tiny_engine.resident.info, config) == real
        tiny_engine.detach("x")


def test_loading_the_same_model_again_does_nothing_and_another_frees_the_first(
    tiny_engine: Engine, tiny_model: Path, tiny_llama: Path, tiny_config: TrainConfig
) -> None:
    first = tiny_engine.resident
    tiny_engine.load(str(tiny_model))
    assert tiny_engine.resident is first
    tiny_engine.create_adapter("a", tiny_config)
    tiny_engine.load(str(tiny_llama))
    assert tiny_engine.resident is not first and tiny_engine.attached == () and tiny_engine.state == "ready"


def test_a_quantised_base_trains_after_it_answered(tiny_model: Path, tiny_config: TrainConfig) -> None:
    pytest.importorskip("bitsandbytes")
    from core.batch import pack

    engine = Engine()
    engine.load(str(tiny_model), "bnb")
    engine.create_adapter("a", tiny_config)
    base_logits(engine)
    assert engine.resident is not None
    backend = engine.resident.backend
    example = engine.resident.encoder.example((*PROMPT, Message("assistant", "me")))
    loss = backend.loss_and_grads(pack([example], "cpu"), engine.handle("a"), example.answer_tokens, Way())
    gradients = [p.grad for p in backend.adapter_parameters(engine.handle("a")) if p.grad is not None]
    assert loss.isfinite().all() and any(g.abs().sum() > 0 for g in gradients)
