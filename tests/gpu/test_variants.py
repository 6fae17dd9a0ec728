"""Every kind of adapter and optimizer on a card, 16-bit and NF4: it learns, and answers the same from its folder."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from core import adapters
from core.backend import Route
from core.config import TrainConfig, build
from core.dataset import Row
from core.engine import Engine
from core.run import Run
from core.train import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]
ROWS = [Row(f"question {i} " + "x" * (5 * i), "", f"answer {i}") for i in range(6)]
PROMPTS = [[5, 9, 200, 31, 7], [8, 8, 120], [77, 3, 14, 15, 92, 65, 1, 4]]
KINDS: dict[str, dict[str, object]] = {
    "lora": {},
    "wide lora": {"lora_rank": 72, "lora_alpha": 72},
    "attention only": {"target_modules": "attention"},
    "some layers": {"target_modules": "q_proj up_proj down_proj"},
    "rslora": {"use_rslora": "true"},
    "dora": {"use_dora": "true"},
    "pissa": {"init_weights": "pissa"},
    "pissa, approximate": {"init_weights": "pissa_niter_16"},
    "dropout": {"lora_dropout": 0.1},
    "neftune": {"neftune_noise_alpha": 5.0},
    "lora+": {"lorap_lr_ratio": 4.0},
    "lion": {"optim": "lion_32bit", "learning_rate": 2e-3},
    "paged 8-bit": {"optim": "paged_adamw_8bit"},
}


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Wide enough for the fused pass and for NF4's blocks; the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("small")
    for file in tiny_model.iterdir():
        if not file.name.startswith("model") and file.name != "config.json":
            (folder / file.name).write_bytes(file.read_bytes())
    given = Qwen2Config.from_pretrained(tiny_model)
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": False}
    ids = {key: getattr(given, key) for key in ("vocab_size", "eos_token_id", "pad_token_id", "bos_token_id")}
    Qwen2ForCausalLM(Qwen2Config(**shape, **ids)).save_pretrained(folder)
    return folder


def answers(engine: Engine, name: str) -> torch.Tensor:
    """Logits of the next tokens, (prompts, V), by the named adapter."""
    with engine.turn() as resident:
        route = Route(engine.handle(name))
        found = resident.backend.slots().join(PROMPTS, [route] * len(PROMPTS), [16] * len(PROMPTS))
        return found.clone()


@pytest.mark.parametrize("quant", ["none", "bnb"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_answers_the_same_from_its_folder(
    tmp_path: Path, small_model: Path, kind: str, quant: str
) -> None:
    if quant == "bnb" or kind == "paged 8-bit":
        pytest.importorskip("bitsandbytes")
    base = TrainConfig(model=str(small_model), num_train_epochs=20, gradient_accumulation_steps=6, probe_steps=0)
    config = build({"lora_rank": 8, "learning_rate": 1e-2, "quant_method": quant, **KINDS[kind]}, base)
    engine = Engine()
    run = Run.create(tmp_path / "run", config, ROWS, "t", "t")
    train(engine, run, threading.Event())
    losses = [float(str(event["loss"])) for event in run.events if event["type"] == "step"]
    assert losses[-1] < losses[0] - 1
    fast = (run.first("started") or {})["plain_en"] is None
    assert fast == (kind not in ("dora", "pissa", "pissa, approximate", "dropout", "neftune"))
    here = answers(engine, run.id)
    adapter = adapters.read(run.folder / "adapter", "again")
    engine.attach(adapter)
    again = answers(engine, "again")
    # PiSSA comes back as one LoRA of twice the rank, whose halves cancel: rounding to 16 bits tells them apart.
    assert float((again - here).norm() / here.norm()) < (0.05 if "pissa" in kind else 0.01)
