"""Loading on a CUDA card: through pinned buffers and side streams, and still from_pretrained's model to the bit.

ONECARD_TEST_CUDA=0 python -m pytest -m gpu tests/gpu/test_load_cuda.py
"""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest
import torch

from core import models
from core.load import load_base

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card (set ONECARD_TEST_CUDA to its number)"),
]
CARD = torch.device("cuda", 0)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A model of 0.2 GB in float32, in several files."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    config = Qwen2Config(vocab_size=8000, num_key_value_heads=2, tie_word_embeddings=False, **shape)
    shutil.copytree(tiny_model, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "m", max_shard_size="60MB")
    return tmp_path / "m"


def theirs(folder: Path, dtype: str, **extra: object) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=getattr(torch, dtype), device_map={"": CARD}, attn_implementation="sdpa", **extra
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_byte_arrives_on_the_card(folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.shards._PIECE_BYTES", 2**17)  # every buffer is used again and again
    expected = theirs(folder, dtype)
    for _ in range(3):
        made = load_base(models.inspect(str(folder)), "none", dtype, CARD).model
        for kind in ("named_parameters", "named_buffers"):
            wanted = dict(getattr(expected, kind)())
            for name, tensor in getattr(made, kind)():
                assert tensor.device == CARD and torch.equal(tensor, wanted[name]), name
        attention = made.model.layers[3].self_attn
        places = {p.weight.untyped_storage().data_ptr() for p in (attention.q_proj, attention.k_proj, attention.v_proj)}
        assert len(places) == 1
        del made


@pytest.mark.parametrize("padded", [False, True])
def test_a_model_is_on_the_card_once_while_it_is_read(folder: Path, padded: bool) -> None:
    info = models.inspect(str(folder))
    load_base(info, "none", "bfloat16", CARD, padded=padded)  # what libraries take once
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.shards._PIECE_BYTES", 2**20)
        made = load_base(info, "none", "bfloat16", CARD, padded=padded).model
    held = torch.cuda.memory_allocated() - before
    size = sum(parameter.nbytes for parameter in made.parameters())
    assert held < 1.15 * size if padded else held < 1.01 * size
    # A piece for each of eight threads on its way from float32, and that piece in the values it is laid out as.
    assert torch.cuda.max_memory_allocated() - before < held + 8 * 2 * 2**20


def test_nf4_is_the_same_and_never_whole_in_16_bits(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    expected = theirs(folder, "bfloat16", quantization_config=config)
    wanted = {name: tensor.cpu() for name, tensor in expected.state_dict().items()}
    in_16_bits = sum(2 * parameter.numel() for parameter in theirs(folder, "bfloat16").parameters())
    del expected
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.load_nf4.AHEAD_BYTES", 8_000_000)
        patch.setattr("core.shards._PIECE_BYTES", 2**20)
        made = load_base(models.inspect(str(folder)), "bnb", "bfloat16", CARD).model
    # transformers reserves, and lets go, more than the quantised model before it begins.
    assert torch.cuda.max_memory_allocated() - before < 0.9 * in_16_bits
    found = made.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name].cpu(), wanted[name]) for name in wanted)


def test_an_nf4_base_that_leaves_no_room_keeps_its_embedding_on_the_host(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    from core.dataset import Message
    from core.engine import Engine
    from core.generate import Column, Sampling, stream

    said = []
    for room in (True, False):
        monkeypatch.setattr("core.load_nf4.has_room", lambda needed, room=room: room)
        engine = Engine()
        engine.load(str(folder), "bnb", "bfloat16")
        assert engine.resident is not None
        model = engine.resident.backend.model  # type: ignore[attr-defined]
        assert model.get_input_embeddings().weight.device.type == ("cuda" if room else "cpu")
        columns = [Column((Message("user", text),)) for text in ("one", "two or three")]
        said.append([reply.ids for reply in list(stream(engine, columns, Sampling(max_new_tokens=24)))[-1]])
        engine.unload()
    assert said[0] == said[1] and len(said[0][0]) > 1
