"""Base model folders: what is there is described, what is missing is named, nothing is asked of the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core import models
from core.device import GB, Device
from core.errors import ModelError
from core.models import POCKET, RECOMMENDED, cached_models, default_model, inspect, old_words


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_folder_is_described_by_its_config(tiny_model: Path) -> None:
    info = inspect(str(tiny_model))
    assert (info.family, info.hidden_size, info.layers, info.kv_heads, info.head_dim) == ("qwen2", 32, 2, 2, 8)
    assert info.linear_parameters == 2 * (32 * 8 * (8 + 4) + 3 * 32 * 48)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "not a language model": (lambda f: (f / "config.json").write_text('{"model_type": "vit"}'), "language model"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "torn weights": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-7]), "incomplete"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "incomplete"),
    "only a pickle": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickle"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "a missing shard": (lambda f: (f / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})), "model-00001-of-00002"),
    "a shard outside": (lambda f: (f / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../etc/passwd"}})), "passwd"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_an_incomplete_folder_is_refused_by_the_files_name(copy: Path, name: str) -> None:
    breaking, words = BROKEN[name]
    breaking(copy)
    with pytest.raises(ModelError, match=words):
        inspect(str(copy))


@pytest.mark.parametrize("name", ["Qwen/No-Such-Model", "/no/such/folder", "", "../..", "https://example.invalid/x"])
def test_a_model_that_is_not_here_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        inspect(name)
    assert any(word in caught.value.of("zh") for word in ("下载", "重新", "换一个"))


def test_the_local_cache_is_listed_and_found_by_hub_id(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub" / "models--Qwen--Qwen2.5-7B-Instruct" / "snapshots" / "abc"
    shutil.copytree(copy, snapshot)
    half = tmp_path / "hub" / "models--Qwen--Half" / "snapshots" / "abc"
    shutil.copytree(copy, half)
    (half / "model.safetensors").write_bytes(b"half")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "nothing"))
    assert cached_models() == {RECOMMENDED: snapshot}
    assert inspect(RECOMMENDED).folder == snapshot
    card = Device("cuda", "RTX 4090", 24 * GB)
    assert default_model(card) == RECOMMENDED
    assert default_model(Device("cuda", "small", 6 * GB)) == default_model(Device("cpu", "laptop", 64 * GB)) == POCKET


def test_the_bases_own_words_are_known_by_family(tiny_model: Path) -> None:
    assert "通义" in old_words(inspect(str(tiny_model)))
    assert old_words(inspect(POCKET)) == ("PocketQwen", "Pocket Lab")


def test_the_real_seven_billion_counts_its_adapter(shared_data: Path) -> None:
    from core.config import TrainConfig
    from core.estimate import adapter_parameters

    config = json.loads((shared_data / "qwen2.5-7b-instruct-config" / "config.json").read_text())
    info = models.ModelInfo(
        "7b", Path("7b"), "qwen2", config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"],
        config["num_attention_heads"], config["num_key_value_heads"], 128, config["vocab_size"], False, 0,
    )  # fmt: skip
    assert adapter_parameters(info, TrainConfig()) == 20_185_088
