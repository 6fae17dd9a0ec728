"""Carrying out an order: every file of an export in a staged folder, which gets its name once all is there."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from core import adapters, anatomy, models, storage
from core.device_errors import device_errors
from core.errors import StorageError
from core.export import gguf_file, llama_quantize
from core.export.modelfile import modelfile
from core.export.order import Order
from core.export.weights import Weights, model_files, save
from core.models import ModelInfo
from core.proof_subject import digest

FACTS = "export.json"
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""
_OFF: tuple[object, ...] = (None, False, "", [], {})
# What every PEFT has known since it can do rsLoRA and DoRA, whether it is off or not.
_ALWAYS = {
    "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights", "lora_alpha",
    "lora_dropout", "modules_to_save", "peft_type", "r", "target_modules", "task_type", "use_dora", "use_rslora",
}  # fmt: skip
_NEWER = ("megatron_core", "qalora_group_size", "peft_version")  # of no effect
_LIBRARIES = ("torch", "transformers", "peft", "safetensors", "gguf", "llama-cpp-python", "bitsandbytes")


class _Stopped(Exception):
    """Whoever waits for the export does not want it any more."""


def make(order: Order, told: Progress, stop: threading.Event, readme: Callable[[Path], str] | None = None) -> bool:
    """Write the export into `order.target`; False, and nothing is left of it, if `stop` was set meanwhile.

    `readme` gives the text of its README.md from the staged folder. Raises what `order.check` does, and StorageError.
    """
    order.check()
    total = order.nbytes()
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        if stop.is_set():
            raise _Stopped
        done += nbytes
        told(min(done, total), total)

    told(0, total)
    storage.sweep_beside(order.target)
    with contextlib.suppress(_Stopped), device_errors("export"), storage.staged_folder(order.target) as staged:
        with _disk(staged):
            _write(order, staged, count)
            storage.write_json(staged / FACTS, facts(order))
            if readme is not None:
                storage.write_text(staged / "README.md", readme(staged))
            if order.format == "zip":
                _pack(staged, order.name)
        count(0)
        told(total, total)
    return not stop.is_set() or order.target.exists()


def facts(order: Order) -> dict[str, object]:
    """What the export was made of, for programs."""
    return {
        "name": order.name,
        "format": order.format,
        "quantisation": order.quantisation if order.format == "gguf" else "",
        "strength": order.strength,
        "base": order.model,
        "adapter_sha256": digest(order.adapter),
        "system": order.system,
        "language": order.language,
        "rows": order.rows,
        "created": time.time(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of the libraries that made it; those that are not installed are left out."""
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _write(order: Order, staged: Path, count: Callable[[int], None]) -> None:
    info = models.inspect(order.model)
    if order.format in ("adapter", "zip"):
        _adapter(order, staged, count)
    elif order.format in ("merged", "merged-f32"):
        _merged(order, info, staged, count)
    elif order.format == "bnb":
        _four_bits(order, info, staged, count)
    elif order.format == "gguf":
        _gguf(order, info, staged, count)
    else:
        path = staged / f"{order.name}-lora.gguf"
        gguf_file.write_adapter(path, info.folder, order.adapter, order.strength, order.name)
        text = modelfile("./base.gguf", order.system, *_template(info), f"./{path.name}")
        note = f"# ./base.gguf: {info.label} as GGUF, or its name in Ollama\n"
        storage.write_text(staged / "Modelfile", note + text)


def _adapter(order: Order, staged: Path, count: Callable[[int], None]) -> None:
    config = _portable(cast("dict[str, Any]", storage.read_json(order.adapter / adapters.CONFIG)), order.model)
    if order.strength != 1.0:  # what it adds is proportional to alpha; DoRA was refused
        config["lora_alpha"] = config.get("lora_alpha", 8) * order.strength
    storage.write_json(staged / adapters.CONFIG, config)
    shutil.copyfile(order.adapter / adapters.WEIGHTS, staged / adapters.WEIGHTS)
    count((staged / adapters.WEIGHTS).stat().st_size)
    if (order.adapter / adapters.CARD).is_file():
        shutil.copyfile(order.adapter / adapters.CARD, staged / adapters.CARD)
    anatomy.examine(staged)


def _portable(config: dict[str, Any], model: str) -> dict[str, Any]:
    """An adapter's configuration as any version of PEFT takes it: without what is off and only newer ones know.

    A base that a hub has is named by its id: where it lies on this machine helps nobody elsewhere.
    """
    kept = {
        key: value for key, value in sorted(config.items()) if key in _ALWAYS or not (value in _OFF or key in _NEWER)
    }
    if isinstance(kept.get("target_modules"), list):
        kept["target_modules"] = sorted(kept["target_modules"])
    if not models.is_pocket(model) and not Path(model).expanduser().is_dir():
        kept["base_model_name_or_path"] = model
    return kept


def _merged(order: Order, info: ModelInfo, staged: Path, count: Callable[[int], None]) -> None:
    wide = order.format == "merged-f32"
    weights = Weights(info.folder, order.adapter, order.strength, float32="all" if wide else "")
    for path in model_files(info.folder):
        shutil.copyfile(path, staged / path.name)
    config = cast("dict[str, object]", storage.read_json(staged / "config.json"))
    changed: dict[str, object] = {"tie_word_embeddings": False} if weights.unties else {}
    if wide:
        changed |= {key: "float32" for key in ("dtype", "torch_dtype") if key in config} or {"dtype": "float32"}
    if changed:
        storage.write_json(staged / "config.json", config | changed)
    save(staged, weights, count)


def _four_bits(order: Order, info: ModelInfo, staged: Path, count: Callable[[int], None]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    whole = staged / ".whole"
    whole.mkdir()
    _merged(order, info, whole, lambda nbytes: count(nbytes // 8))
    wanted = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    where = 0 if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        str(whole),
        quantization_config=wanted,
        dtype=torch.bfloat16,
        device_map={"": where},
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation="sdpa",  # whatever config.json asks for
    )
    model.save_pretrained(str(staged))
    del model
    for path in model_files(whole):
        if path.name != "config.json":
            shutil.copyfile(path, staged / path.name)
    shutil.rmtree(whole)


def _gguf(order: Order, info: ModelInfo, staged: Path, count: Callable[[int], None]) -> None:
    # The file has a type of its own: a sum rounded to the base's first would be rounded twice.
    weights = Weights(info.folder, order.adapter, order.strength, float32="sums")
    path = staged / f"{order.name}-{order.quantisation}.gguf"
    if order.quantisation in gguf_file.KINDS:
        scale = order.nbytes() / max(1, weights.nbytes)
        gguf_file.write(
            path, info.folder, weights, order.quantisation, order.name,
            lambda nbytes: count(int(nbytes * scale)),
        )  # fmt: skip
    else:
        whole = staged / "whole.gguf"
        gguf_file.write(whole, info.folder, weights, "f16", order.name, lambda nbytes: count(0))
        llama_quantize.quantise(whole, path, order.quantisation)
        whole.unlink()
    storage.write_text(staged / "Modelfile", modelfile(f"./{path.name}", order.system, *_template(info)))


def _template(info: ModelInfo) -> tuple[str, bool]:
    """(the system prompt that the base's template has of its own, whether it is ChatML)."""
    from core.encode import ChatMLEncoder
    from core.preview import encoder_of

    encoder = encoder_of(info)
    return encoder.default_system, isinstance(encoder, ChatMLEncoder)


def _pack(staged: Path, name: str) -> None:
    """Everything in one archive; stored, for weights do not shrink. The facts stay beside it: what the folder is."""
    files = [path for path in sorted(staged.iterdir()) if path.is_file()]
    with zipfile.ZipFile(staged / f"{name}.zip", "w", zipfile.ZIP_STORED) as archive:
        for path in files:
            archive.write(path, f"{name}/{path.name}")
    for path in files:
        if path.name != FACTS:
            path.unlink()


@contextlib.contextmanager
def _disk(staged: Path) -> Iterator[None]:
    """A disk that fills up in the middle, however the writing library words it."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise StorageError(storage.not_written(staged, str(error))) from error
    except OSError as error:
        if error.errno is not None:
            raise
        # numpy tells how many items were written, and not why no more.
        raise StorageError(storage.not_written(staged, str(error))) from error


def read_facts(folder: Path) -> dict[str, object]:
    """The facts of an export; nothing where there are none."""
    try:
        found = storage.read_json(folder / FACTS)
    except (OSError, json.JSONDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
