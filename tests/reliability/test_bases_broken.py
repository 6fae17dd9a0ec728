"""Base models that are incomplete, lie about themselves or bring code: each is refused by its file, and nothing of it ever runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import models
from core.engine import Engine
from core.errors import ModelError

Spoil = Callable[[Path], object]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PWNED = "ONECARD_PWNED"
CODE = "import os, pathlib\npathlib.Path(os.environ['ONECARD_PWNED']).write_text('x')\nclass C: pass\nclass M: pass\n"


def config(**values: object) -> Spoil:
    return told("config.json", **values)


def told(name: str, **values: object) -> Spoil:
    """Other values in one of the model's JSON files."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return spoil


def written(name: str, text: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return spoil


def indexed(shards: int, missing: bool) -> Spoil:
    """The weights in several files and their index; the last file, or the index, is not there."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        names = [f"model-{n + 1:05d}-of-{shards:05d}.safetensors" for n in range(shards)]
        places = {key: names[n % shards] for n, key in enumerate(sorted(tensors))}
        for name in names:
            save_file({k: t for k, t in tensors.items() if places[k] == name}, folder / name, {"format": "pt"})
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
        (folder / WEIGHTS).unlink()
        (folder / (names[-1] if missing else INDEX)).unlink()

    return spoil


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def with_code(where: str, classes: dict[str, object], **values: object) -> Spoil:
    """Code beside the model, named by its configuration as the hubs' models do."""

    def spoil(folder: Path) -> None:
        (folder / "evil.py").write_text(CODE)
        told(where, auto_map=classes, **values)(folder)

    return spoil


class Runs:
    """What unpickling it would do: leave a file."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (os.environ[PWNED],)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs()))


def lying(folder: Path) -> None:
    """A header whose first tensor is a thousand times as large as its bytes."""
    data = (folder / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    first = next(key for key in header if key != "__metadata__")
    header[first]["shape"][0] *= 1000
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def template(text: str) -> Spoil:
    return written("chat_template.jinja", text)


MODEL = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
TREE = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}"
SHELL = "{{ cycler.__init__.__globals__.os.system('touch $ONECARD_PWNED') }}"
# Name -> what is done to it, what the sentence has to say.
BROKEN: dict[str, tuple[Spoil, str]] = {
    "a shard missing": (indexed(3, True), "model-00003-of-00003.safetensors"),
    "an index missing": (indexed(3, False), "model.safetensors"),
    "an index that is none": (written(INDEX, "[" * 100_000), "model.safetensors.index.json"),
    "cut off": (cut, "model.safetensors is incomplete"),
    "a header of 2**62 bytes": (written(WEIGHTS, struct.pack("<Q", 2**62)), "model.safetensors is incomplete"),
    "a header without an end": (
        written(WEIGHTS, struct.pack("<Q", 250_000) + b'{"a":' * 50_000), "model.safetensors is incomplete",
    ),
    "a header of lies": (lying, "model.safetensors|another shape"),
    "a tensor missing": (weights(lambda t: t.pop("model.norm.weight")), r"lack 1 tensors \(first: model.norm.weight"),
    "a tensor too many": (weights(lambda t: t.update({"extra": torch.ones(2)})), "no place for .first: extra"),
    "NaN": (weights(lambda t: t["model.norm.weight"].fill_(torch.nan)), "model.norm.weight .* holds NaN"),
    "infinity": (weights(lambda t: t["model.layers.1.mlp.up_proj.weight"].fill_(-torch.inf)), "up_proj.weight .* holds NaN"),
    "another width in config.json": (config(hidden_size=64, head_dim=8), "another shape than config.json"),
    "a width without end": (config(hidden_size=10**9), "config.json describes a model far larger"),
    "layers without end": (config(num_hidden_layers=10**7, layer_types=None), "config.json describes a model far larger"),
    "a width in words": (config(hidden_size="32"), "config.json does not describe a language model"),
    "no heads": (config(num_attention_heads=0), "config.json .*cannot be used"),
    "an activation that is none": (config(hidden_act="evil"), "config.json .*cannot be used: KeyError: 'evil'"),
    "another kind of model": (config(model_type="vit"), "config.json.* cannot be used"),
    "config.json without an end": (written("config.json", "[" * 100_000), "config.json is not valid JSON"),
    "a pickle": (pickled, "only .bin .pickle. weights"),
    "code for the model": (with_code("config.json", MODEL, model_type="evil"), "config.json wants code.*auto_map"),
    "code for the tokenizer": (
        with_code("tokenizer_config.json", {"AutoTokenizer": ["evil.C", None]}, tokenizer_class="Evil"), "",
    ),
    "code for a model that is known": (with_code("config.json", MODEL), ""),
    "a kernel from a hub": (config(attn_implementation="evil/kernel", _attn_implementation_internal="evil/kernel"), ""),
    "a tokenizer that is none": (written("tokenizer.json", "{}"), "tokenizer.json.* cannot be used"),
    "a tokenizer cut off": (written("tokenizer.json", '{"version": "1.0", "added_tokens": ['), "tokenizer.json"),
    "generation settings that are none": (written("generation_config.json", "{"), "generation_config.json"),
    "a template that asks for classes": (template("{{ ''.__class__.__mro__ }}"), "chat_template.*'__class__'.*unsafe"),
    "a template that calls a shell": (template(SHELL), "chat_template.*unsafe"),
    "a template without end": (template("{% for i in range(999999999) %}x{% endfor %}"), "chat_template.*Range too big"),
    "loops in loops": (template(NESTED), "chat_template.*over 10,000 steps"),
    "loops in loops once there are answers": (
        template("{% if messages|length > 2 %}" + NESTED + "{% endif %}U"), "chat_template.*over 10,000 steps",
    ),
    "a macro that calls itself twice": (template(TREE), "chat_template.*over 10,000 steps"),
    "a macro without end": (template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), "chat_template.*(recursion|steps)"),
    "a template that reads a file": (template("{% include '/etc/passwd' %}"), "chat_template.*no loader"),
    "a template that divides by zero": (template("{{ 1 / 0 }}"), "chat_template.*division by zero"),
}  # fmt: skip


def test_no_broken_base_is_loaded_and_none_of_its_code_runs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool, tally: Callable[..., None]
) -> None:
    engine, ran, wrong = Engine(), 0, list[str]()
    monkeypatch.setenv(PWNED, str(tmp_path / PWNED))
    cases = list(BROKEN.items())[:: 1 if full else 4]
    for number, (name, (spoil, words)) in enumerate(cases):
        folder = Path(shutil.copytree(tiny_model, tmp_path / f"base-{number}"))
        spoil(folder)
        try:
            models.inspect(str(folder))
            engine.load(str(folder))
            if words:
                wrong.append(f"{name}: loaded")
            resident = engine.resident
            assert resident is not None
            # Its own code and kernels are passed over: it is the class that transformers has, with torch's attention.
            model = resident.backend.model  # type: ignore[attr-defined]
            if type(model).__module__.split(".")[0] != "transformers" or model.config._attn_implementation != "sdpa":
                wrong.append(f"{name}: {type(model)} {model.config._attn_implementation}")
        except ModelError as error:
            try:
                assert words
                with pytest.raises(ModelError, match=words):
                    raise error
                assert str(folder) in error.of("zh") and str(folder) in error.of("en")
            except (AssertionError, pytest.fail.Exception):
                wrong.append(f"{name}: {error}")
        if (tmp_path / PWNED).exists():
            ran += 1
            wrong.append(f"{name}: its code ran")
    engine.load(str(tiny_model))
    assert engine.state == "ready"
    print(*wrong, sep="\n")
    tally("broken and hostile base models", cases=len(cases), lost=ran, wrong=len(wrong), note="; ".join(wrong))
