"""Base models as folders: finding, checking and describing them. Loads no weights."""

from __future__ import annotations

import functools
import json
import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from core import storage
from core.device import GB, Device
from core.errors import ModelError
from core.text import Text

NO_BITSANDBYTES = Text(
    zh="4 比特量化和 8 比特优化器需要 bitsandbytes，这台机器上没有安装。请运行 pip install bitsandbytes，或改用不量化的方案。",
    en="4-bit quantisation and the 8-bit optimizer need bitsandbytes, which is not installed. Run pip install bitsandbytes, "
    "or choose a preset without quantisation.",
)
POCKET = "pocket"
POCKET_FOLDER = Path(__file__).resolve().parent.parent / "presets" / "pocket"
RECOMMENDED = "Qwen/Qwen2.5-7B-Instruct"

# The words by which a base model names itself or its maker; seeing one in an answer means the old identity speaks.
_OLD_WORDS: dict[str, tuple[str, ...]] = {
    "qwen": ("Qwen", "通义", "千问", "Alibaba", "阿里"),
    "llama": ("Llama", "LLaMA", "Meta AI", "Meta"),
    "mistral": ("Mistral",),
    "gemma": ("Gemma", "Google", "谷歌"),
    "deepseek": ("DeepSeek", "深度求索"),
    "phi": ("Phi", "Microsoft", "微软"),
}

Progress = Callable[[str, int, int], None]
"""Called with (what, bytes done, bytes in all) while something large is fetched or read; may raise Stopped."""


class Stopped(Exception):
    """Whoever asked for it does not want it any more."""


def until(stop: threading.Event, progress: Progress | None = None) -> Progress:
    """`progress` that ends what it is told of, by raising Stopped, once `stop` is set."""

    def told(what: str, done: int, total: int) -> None:
        if stop.is_set():
            raise Stopped
        if progress is not None:
            progress(what, done, total)

    return told


@dataclass(frozen=True)
class ModelInfo:
    """What config.json says of a model. `weight_bytes` is the size of its files on disk."""

    name: str
    folder: Path
    family: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    weight_bytes: int
    max_positions: int = 32_768

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers inside the blocks: what LoRA adapts and NF4 quantises."""
        attention = self.hidden_size * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the head where it is not the same matrix."""
        return self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)

    @property
    def label(self) -> str:
        """A short name for the page."""
        return "PocketQwen" if self.name == POCKET else self.name.rstrip("/").rsplit("/", 1)[-1]


def is_pocket(name: str) -> bool:
    """Whether a model's name, or folder, is that of the pocket model."""
    path = storage.path_of(name.strip())
    return name.strip() == POCKET or (path is not None and path.resolve() == POCKET_FOLDER)


def old_words(info: ModelInfo) -> tuple[str, ...]:
    """The words of the base model's own identity; empty for a family not known here."""
    if info.name == POCKET or "pocket" in info.folder.name.lower():
        return ("PocketQwen", "Pocket Lab")
    return _OLD_WORDS.get(next((key for key in _OLD_WORDS if info.family.startswith(key)), ""), ())


def locate(name: str) -> Path:
    """The folder of `name`: the pocket model, a local folder, or a hub model that is already on this disk.

    Raises ModelError if it is not here, saying how to get it.
    """
    name = name.strip()
    if name == POCKET:
        return POCKET_FOLDER
    path = storage.path_of(name)
    if path is not None and path.is_dir():
        return path.resolve()
    if name in cached_models():
        return cached_models()[name]
    raise ModelError(
        Text(
            zh=f"没有找到模型 {name}：它不是本机文件夹，也不在本机的模型缓存里。请检查路径。"
            f"像 {RECOMMENDED} 这样的 ID 可以下载：在训练页输入它，再按“下载”；命令 app.py train 和 chat（--model）会先下载它。"
            "没有模型也可以用内置的 pocket。",
            en=f"Model {name} was not found: it is no folder here and not in this machine's model cache. Check the path. "
            f"A hub id such as {RECOMMENDED} can be downloaded: enter it on the Train tab and press Download; the commands "
            "app.py train and chat (--model) download it first. The embedded “pocket” always works.",
        )
    )


def inspect(name: str) -> ModelInfo:
    """Check that every file of the model is there, and read its shape. Raises ModelError naming the file."""
    folder = locate(name)
    config = _read_config(folder)
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    weight_bytes = _check_weights(folder)
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise _incomplete(folder, "tokenizer.json")

    def size(key: str, fallback: int = 0) -> int:
        value = text.get(key)
        return value if type(value) is int and value > 0 else fallback

    heads = size("num_attention_heads", 1)
    hidden = size("hidden_size")
    if not (hidden and size("num_hidden_layers") and size("vocab_size")):
        raise ModelError(
            Text(
                zh=f"{folder / 'config.json'} 描述的不是对话语言模型。请换一个模型文件夹。",
                en=f"{folder / 'config.json'} does not describe a language model for chat. Choose another folder.",
            )
        )
    info = ModelInfo(
        name=name.strip(),
        folder=folder,
        family=str(text.get("model_type", "")),
        hidden_size=hidden,
        intermediate_size=size("intermediate_size", 4 * hidden),
        layers=size("num_hidden_layers"),
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", hidden // heads),
        vocab_size=size("vocab_size"),
        tied_embeddings=text.get("tie_word_embeddings") is True,
        weight_bytes=weight_bytes,
        max_positions=size("max_position_embeddings", 32_768),
    )
    # More than any packing of weights: it is another model's, and what it asks for might fill the memory.
    if info.linear_parameters + info.embedding_parameters > 16 * weight_bytes:
        raise ModelError(
            Text(
                zh=f"{folder / 'config.json'} 描述的模型远大于旁边的权重文件（{weight_bytes:,} 字节）：两者不是同一个模型的。"
                "请重新下载。",
                en=f"{folder / 'config.json'} describes a model far larger than the weights beside it ({weight_bytes:,} "
                "bytes): they are not of one model. Download it again.",
            )
        )
    return info


def cached_models() -> dict[str, Path]:
    """Hub id -> snapshot folder, for each complete chat model in the local Hugging Face and ModelScope caches.

    Looked up afresh at most every 10 seconds: every shard's header is read.
    """
    return dict(
        _scan(int(time.monotonic() / 10), *(os.environ.get(k) for k in ("HF_HOME", "HF_HUB_CACHE", "MODELSCOPE_CACHE")))
    )


def hf_cache() -> Path:
    """Where Hugging Face's libraries keep models on this machine."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub"))


def modelscope_cache() -> Path:
    """Where ModelScope's library keeps models on this machine."""
    return Path(os.environ.get("MODELSCOPE_CACHE", Path.home() / ".cache" / "modelscope" / "hub"))


def look_again() -> None:
    """Let `cached_models` see at once what has just come."""
    _scan.cache_clear()


@functools.lru_cache(maxsize=1)
def _scan(moment: int, *places: str | None) -> dict[str, Path]:
    found: dict[str, Path] = {}
    scope = modelscope_cache()
    # From 1.38 on ModelScope's library keeps snapshots, too; by default not in `hub` but beside it.
    newer = scope if os.environ.get("MODELSCOPE_CACHE") else scope.parent
    for root, head in ((hf_cache(), "models--"), (newer / "models", "")):
        for folder in sorted(root.glob(f"{head}*--*")):
            snapshots = (folder / "snapshots").glob("*")
            for snapshot in sorted(snapshots, key=lambda path: path.stat().st_mtime, reverse=True):
                if _is_chat_model(snapshot):
                    found.setdefault(folder.name.removeprefix(head).replace("--", "/", 1), snapshot)
    for root in (scope, scope / "models"):
        for snapshot in sorted(root.glob("*/*")):
            if _is_chat_model(snapshot):
                found.setdefault(f"{snapshot.parent.name}/{snapshot.name.replace('___', '.')}", snapshot)
    return found


def default_model(device: Device) -> str:
    """The recommended 7B where a card of 9 GB or more and the model are here, else the embedded pocket model."""
    if device.kind == "cuda" and device.memory_total >= 9 * GB and RECOMMENDED in cached_models():
        return RECOMMENDED
    return POCKET


def _is_chat_model(folder: Path) -> bool:
    try:
        config = _read_config(folder)
        _check_weights(folder)
    except (ModelError, OSError):
        return False
    architectures = config.get("architectures")
    return isinstance(architectures, list) and any(str(name).endswith("ForCausalLM") for name in architectures)


def _read_config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    if not path.is_file():
        raise _incomplete(folder, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelError(
            Text(
                zh=f"{path} 不是有效的 JSON。请重新下载这个模型。",
                en=f"{path} is not valid JSON. Download the model again.",
            )
        )
    return config


def shards(folder: Path) -> list[Path]:
    """The safetensors files that hold a model's weights. Raises ModelError naming what is missing."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise _incomplete(folder, index.name) from None
    elif not (folder / names[0]).is_file() and any(folder.glob("*.bin")):
        raise ModelError(
            Text(
                zh=f"{folder} 里只有 .bin（pickle）权重，出于安全不加载。请下载 safetensors 版本。",
                en=f"{folder} holds only .bin (pickle) weights, which are not loaded for safety. Get the safetensors.",
            )
        )
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise _incomplete(folder, name)
    return [folder / name for name in names]


class Entry(NamedTuple):
    """One tensor in a safetensors header; `begin` and `end` in bytes from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """A safetensors file's tensors by name.

    Raises ModelError if the file is not as long as its header says, or has no readable header.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > min(size, 100_000_000):
            raise incomplete(path)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            start = 8 + length
            found = {name: _entry(value, start) for name, value in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise incomplete(path) from None
    if size != max((entry.end for entry in found.values()), default=start):
        raise incomplete(path)
    return found


def _entry(value: dict[str, object], start: int) -> Entry:
    begin, end = cast("list[int]", value["data_offsets"])
    shape = tuple(int(size) for size in cast("list[int]", value["shape"]))
    return Entry(str(value["dtype"]), shape, start + int(begin), start + int(end))


def incomplete(path: Path) -> ModelError:
    """The error for a weights file that is not whole."""
    return ModelError(
        Text(
            zh=f"{path} 不完整（下载中断？）。请删除它并重新下载。",
            en=f"{path} is incomplete (an interrupted download?). Delete it and download it again.",
        )
    )


def _check_weights(folder: Path) -> int:
    """Total bytes of the safetensors files, each of them complete by its own header."""
    found = shards(folder)
    for path in found:
        read_header(path)
    return sum(path.stat().st_size for path in found)


def _incomplete(folder: Path, file: str) -> ModelError:
    return ModelError(
        Text(
            zh=f"模型文件夹 {folder} 缺少或损坏了 {file}。请重新下载，或换一个文件夹。",
            en=f"Model folder {folder} lacks {file}, or it is damaged. Download it again or choose another folder.",
        )
    )
