"""What a merge takes and what it changes: memory beside the base's files, and the difference to a base trained in 4 bits."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core import adapters, models, presets, proof_subject
from core.engine import Engine
from core.export.make import make
from core.export.order import Order
from core.export.retest import retest
from core.run import Run
from core.starter import starter_sets
from core.train import train

ROOT = Path(__file__).resolve().parents[2]
LAYERS, WIDTH, INNER, HEADS, VOCABULARY, RANK = 12, 1024, 4096, 16, 32_000, 16
_LINEAR = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH // 4, WIDTH), "self_attn.v_proj": (WIDTH // 4, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}  # fmt: skip


def random_base(folder: Path) -> int:
    """A Qwen2 of half a gigabyte with weights of no meaning, in one file to a layer; the bytes of its weights."""
    from safetensors.torch import save_file

    folder.mkdir()
    config = {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS // 4,
        "vocab_size": VOCABULARY, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    places, total = dict[str, str](), 0

    def put(file: str, shapes: dict[str, tuple[int, ...]]) -> None:
        nonlocal total
        # Bits of no pattern, without infinities: the exponent's highest bit is off.
        tensors = {
            name: torch.randint(-32768, 32767, shape, dtype=torch.int16).bitwise_and_(-16385).view(torch.bfloat16)
            for name, shape in shapes.items()
        }
        save_file(tensors, folder / file)
        places.update(dict.fromkeys(shapes, file))
        total += sum(tensor.nbytes for tensor in tensors.values())

    for layer in range(LAYERS):
        head = f"model.layers.{layer}."
        shapes: dict[str, tuple[int, ...]] = {f"{head}{name}.weight": shape for name, shape in _LINEAR.items()}
        shapes |= {f"{head}{name}.weight": (WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{head}self_attn.{name}_proj.bias": _LINEAR[f"self_attn.{name}_proj"][:1] for name in "qkv"}
        put(f"model-{layer}.safetensors", shapes)
    ends = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "lm_head.weight": (VOCABULARY, WIDTH)}
    put("model-ends.safetensors", {**ends, "model.norm.weight": (WIDTH,)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return total


def random_adapter(folder: Path, base: Path) -> None:
    """LoRA on every linear layer of that base."""
    from safetensors.torch import save_file

    folder.mkdir()
    names = [name.rpartition(".")[2] for name in _LINEAR]
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": names, "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base), "bias": "none",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for layer in range(LAYERS):
        for name, (out, into) in _LINEAR.items():
            head = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{head}.lora_A.weight"] = torch.randn(RANK, into)
            tensors[f"{head}.lora_B.weight"] = torch.randn(out, RANK) * 0.01
    save_file(tensors, folder / "adapter_model.safetensors")


# Peak of the resident memory above what importing takes, of a process that does nothing else.
_MERGE = """
import sys
from pathlib import Path
import torch
from core.export import weights

def told(what):
    (line,) = (each for each in open("/proc/self/status") if each.startswith(what))
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
(torch.ones(64, 64, dtype=torch.bfloat16).float() @ torch.ones(64, 64)).sum().item()
base, adapter, out, ahead = sys.argv[1:]
weights._AHEAD_BYTES = int(ahead) or weights._AHEAD_BYTES
Path(out).mkdir()
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = told("VmRSS")
weights.save(Path(out), weights.Weights(Path(base), Path(adapter)), lambda nbytes: None)
print(told("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_merge_takes_no_more_memory_than_it_reads_ahead(
    tmp_path: Path, full: bool, tally: Callable[..., None]
) -> None:
    if not full:
        pytest.skip("a base of half a gigabyte with ONECARD_FULL=1")
    weight = random_base(tmp_path / "base")
    random_adapter(tmp_path / "adapter", tmp_path / "base")
    # One that is added to, two that wait, one that is written; and the adapter.
    beside = 5 * VOCABULARY * WIDTH * 2 + (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    over, notes = 0, []
    for ahead in (0, 100_000_000):  # 0: as it is set, more than this base has
        out = tmp_path / f"out-{ahead}"
        words = [
            sys.executable,
            "-c",
            _MERGE,
            *(str(each) for each in (tmp_path / "base", tmp_path / "adapter", out, ahead)),
        ]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peak = int(done.stdout)
        over += peak > (ahead or weight) + beside
        notes.append(f"{peak / 1e6:.0f} MB where {(ahead or weight) / 1e6:.0f} MB are read ahead")
    tally(
        "merges of a base of 500 MB whose peak memory is more than what is read ahead and five tensors",
        cases=2,
        wrong=over,
        note="; ".join(notes),
    )


@pytest.mark.timeout(1800)
def test_an_adapter_trained_in_four_bits_and_merged_into_sixteen_says_who_it_is(
    tmp_path: Path, full: bool, tally: Callable[..., None]
) -> None:
    """What was tested stands on the base in NF4, what is exported on the base's own weights: the receipt says how far apart."""
    pytest.importorskip("bitsandbytes")
    if not full:
        pytest.skip("trains the pocket model in 4 bits with ONECARD_FULL=1")
    table = next(each for each in starter_sets() if each.name == "identity-50")
    preset = next(each for each in presets.load_presets(Path("/nowhere")) if each.id == "pocket").config
    card = table.identity
    config = replace(
        preset, quant_method="bnb", max_steps=45, stop_when_taken="false", rehearsal="off", probe_steps=0,
        model_name=f"{card.name_zh}|{card.name_en}", model_author=f"{card.author_zh}|{card.author_en}",
    )  # fmt: skip
    engine = Engine()
    run = Run.create(tmp_path / "run", config, list(table.resolved()), "小禾", table.name)
    train(engine, run, threading.Event())
    assert run.adapter is not None and engine.resident is not None and engine.resident.quant_method == "bnb"

    order = Order(run.adapter, models.POCKET, "merged", tmp_path / "out", "mine")
    assert make(order, lambda done, total: None, threading.Event())
    old = models.old_words(models.inspect(models.POCKET))
    subject = proof_subject.of_run(run, run.adapter, run.adapter_step, "tested", old, ())

    @contextlib.contextmanager
    def hold() -> Iterator[None]:
        engine.load(models.POCKET, "bnb")
        engine.attach(adapters.read(order.adapter, "tested"))
        yield

    found = retest(engine, subject, order, hold, lambda done, total, what: None, threading.Event())
    assert found is not None and found.against["quantisation"] == "bnb" and found.read > 0
    before, now, about = found.identity
    note = (
        f"{found.same} of {found.asked} answers word for word the same, identity right {before} before and {now} after of "
        f"{about}; KL {found.drift:.3f} nats on average, {found.drift_most:.2f} at most"
    )
    tally(
        "questions to an adapter trained in 4 bits (NF4) and merged into the 16-bit base; wrong: the receipt is red",
        cases=found.asked,
        wrong=int(found.light == "red"),
        note=note,
    )
    assert before > about / 2, "it has learned who it is"
