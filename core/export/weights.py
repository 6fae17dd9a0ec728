"""A base's weights with an adapter added, one tensor at a time, and their way into safetensors files.

Always from the base's own files, never from weights that were quantised for training. No more of a model than
`_AHEAD_BYTES` and a few tensors is in memory at once.
"""

from __future__ import annotations

import json
import math
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, cast

from core import adapters, anatomy, storage
from core.errors import ModelError, StorageError
from core.text import Text

if TYPE_CHECKING:
    import torch

    from core.anatomy import Anatomy
    from core.shards import Stored, Weight

Told = Callable[[int], None]
"""Called with the bytes written since the last call; raises what ends the work."""
SHARD_BYTES = 4_000_000_000
_AHEAD_BYTES = 1_500_000_000
_WAITING = 2  # tensors that are done and not yet written
_SUM_VALUES = 1 << 20  # 4 MB of float32: stays in the processor's cache
_FLUSH_BYTES = 1 << 28
_BESIDE = re.compile(
    r"(config|generation_config|preprocessor_config|vocab|added_tokens|special_tokens_map|tokenizer\w*)\.json|merges\.txt"
    r"|chat_template\.(jinja|json)|\w+\.(model|tiktoken)|(LICEN[CS]E|NOTICE)(\.\w+)?"
)
_INDEX = "model.safetensors.index.json"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_NAMES = {"torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32", "torch.float64": "F64"}


Wide = Literal["", "sums", "all"]


@dataclass(frozen=True)
class Low:
    """What an adapter has for one weight: `scale` times B (out, r) @ A (r, in), and DoRA's magnitudes (out,)."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None = None

    def add_to(self, weight: torch.Tensor, strength: float) -> bool:
        """Add `strength` times the adapter's change to `weight` (out, in), in place; whether all of it is finite.

        The sum is taken in float32, some rows at a time in memory that is used again: for a 7B, fresh memory for whole
        matrices would take longer than the sum.
        """
        import torch

        a, b = self.a.to(torch.float32), self.b.to(torch.float32)
        most = max(1, _SUM_VALUES // weight.shape[1])
        room = torch.empty((min(most, weight.shape[0]), weight.shape[1]), dtype=torch.float32)
        finite, most_of_kind = True, torch.finfo(weight.dtype).max
        for start in range(0, weight.shape[0], most):
            part, rows = weight[start : start + most], slice(start, start + most)
            full = room[: part.shape[0]].copy_(part)
            if self.magnitude is None:
                full.addmm_(b[rows], a, alpha=self.scale * strength)
            else:
                tuned = torch.addmm(full, b[rows], a, alpha=self.scale)
                norm = torch.linalg.vector_norm(tuned, dim=1, keepdim=True)
                tuned *= self.magnitude[rows].to(torch.float32).reshape(-1, 1) / norm
                full = full + strength * (tuned - full) if strength != 1.0 else tuned
            part.copy_(full)
            # Of the sum, not of what was made of it: torch looks at 16-bit values twenty times as slowly.
            finite = bool(torch.stack(full.aminmax()).abs().amax() <= most_of_kind) and finite
        return finite


@dataclass(frozen=True)
class Entry:
    """One tensor to come: its name, type and shape, the base's tensor it is made of, and what is added to that."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    source: str
    low: Low | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return int(self.dtype.itemsize * math.prod(self.shape))


class Weights:
    """The tensors of a base model with an adapter (None: the base as it is) added at a strength."""

    def __init__(self, base: Path, adapter: Path | None, strength: float = 1.0, float32: Wide = "") -> None:
        """Raises ModelError for a base that is quantised or not whole, and for an adapter that is not its own.

        `float32`: what is given in it: the sums, for whoever rounds them once to a type of his own, or all tensors.
        """
        import torch

        self.base, self.strength = base, strength
        stored = _stored(base)
        low = _low(adapter, base) if adapter is not None and strength else {}
        self.unties = f"{_HEAD}" in low and _HEAD not in stored
        self._stored = stored
        self.entries = [
            Entry(name, tensor.dtype, tensor.shape, name, low.pop(name, None)) for name, tensor in stored.items()
        ]
        if self.unties:  # one matrix for both ends, and only one of them was trained: two from now on
            like = stored[_EMBEDDING]
            self.entries.append(Entry(_HEAD, like.dtype, like.shape, _EMBEDDING, low.pop(_HEAD)))
        if float32:
            wide = [entry.dtype.itemsize < 4 and (float32 == "all" or entry.low is not None) for entry in self.entries]
            self.entries = [
                replace(entry, dtype=torch.float32) if widened else entry
                for entry, widened in zip(self.entries, wide, strict=True)
            ]
        if low:
            raise _not_found(next(iter(low)), base)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.entries)

    @contextmanager
    def read(self) -> Iterator[Iterator[tuple[Entry, torch.Tensor]]]:
        """(entry, tensor on the host) in the order of `entries`; files are read ahead."""
        import torch

        from core import shards

        stored = {name: self._stored[name] for name in dict.fromkeys(entry.source for entry in self.entries)}
        place = {name: index for index, name in enumerate(stored)}
        with shards.Reader(torch.device("cpu"), ahead_bytes=_AHEAD_BYTES) as reader:
            weights = reader.weights(stored, torch.bfloat16, place.__getitem__, {})
            yield self._made(weights)

    def _made(self, weights: Mapping[str, Weight]) -> Iterator[tuple[Entry, torch.Tensor]]:
        kept: dict[str, torch.Tensor] = {}  # only what a second entry is made of
        twice = {entry.source for entry in self.entries if entry.source != entry.name}
        for entry in self.entries:
            tensor = kept.pop(entry.source, None)
            if tensor is None:
                tensor = weights[entry.source][...]
            if entry.source in twice and entry.name == entry.source:
                kept[entry.source] = tensor.clone()
            yield entry, self._finished(entry, tensor)

    def _finished(self, entry: Entry, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(entry.dtype)
        if entry.low is not None and not entry.low.add_to(tensor, self.strength):
            raise ModelError(
                Text(
                    zh=f"合并后 {entry.name} 超出了 {entry.dtype} 的范围（无穷大或 NaN）。请降低强度，或换一个适配器。",
                    en=f"{entry.name} would not be finite as {entry.dtype} after merging. Lower the strength, or choose "
                    "another adapter.",
                )
            )
        return tensor


def _stored(base: Path) -> dict[str, Stored]:
    from core import shards

    config = cast("dict[str, object]", storage.read_json(base / "config.json"))
    found = None if "quantization_config" in config else shards.stored_tensors(base)
    if found is None or not all(tensor.dtype.is_floating_point for tensor in found.values()):
        raise ModelError(
            Text(
                zh=f"{base} 里的权重是量化过的，合并会把误差固定下来。请选它原来的 16 位模型文件夹。",
                en=f"The weights in {base} are quantised; merging would make their error permanent. Choose the original "
                "16-bit model folder.",
            )
        )
    return found


def _low(folder: Path, base: Path) -> dict[str, Low]:
    """Base weight's name -> what the adapter has for it. Raises ModelError for an adapter that is not this base's."""
    found = anatomy.examine(folder)
    unlike = anatomy.misfit(found, base)
    if unlike is not None:
        raise ModelError(unlike)
    from safetensors import safe_open

    layers: dict[str, Low] = {}
    with safe_open(str(folder / adapters.WEIGHTS), framework="pt", device="cpu") as file:
        names = set(file.keys())
        for path in found.layers:
            head = f"base_model.model.{path}."
            vector = f"{head}lora_magnitude_vector"
            vector = vector if vector in names else f"{vector}.weight"
            magnitude = file.get_tensor(vector) if vector in names else None
            a, b = (file.get_tensor(f"{head}lora_{part}.weight") for part in "AB")
            layers[f"{path}.weight"] = Low(a, b, scale_of(found), magnitude)
    return layers


def scale_of(found: Anatomy) -> float:
    """What B @ A is multiplied by."""
    return found.alpha / (math.sqrt(found.rank) if found.kind in ("rsLoRA", "rsDoRA") else found.rank)


def _not_found(name: str, base: Path) -> ModelError:
    return ModelError(
        Text(
            zh=f"{base} 里没有 {name}，这个适配器不能合并进去。请选它训练时用的基座模型。",
            en=f"{base} has no {name}, so this adapter cannot be merged into it. Choose the base it was trained on.",
        )
    )


# -- into files --


def save(folder: Path, weights: Weights, told: Told, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `weights` into `folder` as safetensors files of at most about `shard_bytes`, with an index where several.

    Raises StorageError for a disk that is full; the folder is the caller's to clear away.
    """
    groups = _groups(weights.entries, shard_bytes)
    names = [file_name(i, len(groups)) for i in range(len(groups))]
    with weights.read() as tensors, _Writer(told) as writer:
        for name, group in zip(names, groups, strict=True):
            writer.open(folder / name, group)
            for _ in group:
                entry, tensor = next(tensors)
                writer.put(entry, tensor)
                del tensor
    if len(groups) > 1:
        places = {entry.name: name for name, group in zip(names, groups, strict=True) for entry in group}
        index = {"metadata": {"total_size": weights.nbytes}, "weight_map": places}
        storage.write_json(folder / _INDEX, index)


def file_name(index: int, of: int) -> str:
    """The name transformers looks for."""
    return "model.safetensors" if of == 1 else f"model-{index + 1:05d}-of-{of:05d}.safetensors"


def _groups(entries: Sequence[Entry], most: int) -> list[list[Entry]]:
    groups: list[list[Entry]] = [[]]
    for entry in entries:
        if groups[-1] and sum(other.nbytes for other in groups[-1]) + entry.nbytes > most:
            groups.append([])
        groups[-1].append(entry)
    return groups


class _Writer:
    """Writes tensors behind the back of who makes them; use it in a `with` block, which waits for the last.

    What is written is sent to the disk while more is made: a folder is flushed before it gets its name, and 15 GB that
    wait in memory until then are 10 seconds of a disk that had nothing to do before.
    """

    def __init__(self, told: Told) -> None:
        self._told = told
        self._work: queue.Queue[tuple[Path, Sequence[Entry]] | torch.Tensor | None] = queue.Queue(_WAITING)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._file: IO[bytes] | None = None
        self._path = Path()
        self._flusher = ThreadPoolExecutor(1)
        self._flushing: Future[None] | None = None
        self._unflushed = 0

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None and self._failure is None:
            self._failure = RuntimeError("nothing more is to be written")
        self._work.put(None)
        self._thread.join()
        self._flusher.shutdown()
        if kind is None:
            self._check()

    def open(self, path: Path, entries: Sequence[Entry]) -> None:
        """Begin the next file, which will hold `entries` in this order."""
        self._put((path, entries))

    def put(self, entry: Entry, tensor: torch.Tensor) -> None:
        """The next tensor of the file."""
        assert tuple(tensor.shape) == entry.shape and tensor.dtype == entry.dtype
        self._put(tensor)
        self._told(entry.nbytes)

    def _put(self, work: tuple[Path, Sequence[Entry]] | torch.Tensor) -> None:
        self._check()
        self._work.put(work)

    def _check(self) -> None:
        if isinstance(self._failure, OSError):
            raise StorageError(storage.not_written(self._path, str(self._failure))) from self._failure
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if self._failure is not None:
                continue  # whoever waits to put is let go
            try:
                self._write(work)
            except BaseException as error:
                self._failure = error
        try:
            if self._flushing is not None:
                self._flushing.result()
        except OSError as error:
            self._failure = self._failure or error
        if self._file is not None:
            self._file.close()

    def _write(self, work: tuple[Path, Sequence[Entry]] | torch.Tensor) -> None:
        import torch

        if isinstance(work, tuple):
            if self._file is not None:
                self._file.close()
            self._path, entries = work
            self._file = self._path.open("wb", buffering=0)
            self._all(header(entries))
        else:
            self._all(cast("bytearray", work.contiguous().view(-1).view(torch.uint8).numpy()))

    def _all(self, data: bytes | bytearray) -> None:
        assert self._file is not None
        view = memoryview(data)
        while len(view):
            written = self._file.write(view)
            view = view[written:]
            self._unflushed += written
        if self._unflushed >= _FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            if self._flushing is not None:
                self._flushing.result()  # a disk says once that it did not take what it was given
            self._unflushed = 0
            self._flushing = self._flusher.submit(storage.sync_file, self._path)


def header(entries: Sequence[Entry]) -> bytes:
    """The start of a safetensors file that holds `entries` one behind the other."""
    value: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for entry in entries:
        end = begin + entry.nbytes
        value[entry.name] = {
            "dtype": _NAMES[str(entry.dtype)],
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(value, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text


def model_files(base: Path) -> list[Path]:
    """What belongs to the model beside its weights: configuration, tokenizer, template, licence."""
    return [path for path in sorted(base.iterdir()) if path.is_file() and _BESIDE.fullmatch(path.name)]
