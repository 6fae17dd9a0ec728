"""Tensors of safetensors files, read in parallel straight to where they will live. Knows no model and no transformers.

Several threads read pieces of the files (`preadv`, which lets other threads run) into small buffers. For a card these
are pinned, and each thread copies from two of them in turn on a stream of its own, so that disk, copy and card work
at once; nothing ever holds a second copy of a tensor.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import cast

import torch

from core import models
from core.errors import ModelError
from core.text import Text

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
# A multiple of every element's size. Python's part of a piece waits for whoever else has Python meanwhile: into padded
# buffers 14.6 GB/s in pieces of 4 MiB, 23 of 8, 28 of 16 (one H200; a raw read 28).
_PIECE_BYTES = 16 * 2**20
_THREADS = 8
_REPORTS = 256  # progress is told this often in all, at most


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: `offset` and `nbytes` of its data."""

    name: str
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def stored_tensors(folder: Path) -> dict[str, Stored] | None:
    """Every tensor of a model's safetensors files; None if one has a type or a layout that is not read here.

    Raises ModelError for a file that is missing or not whole.
    """
    found: dict[str, Stored] = {}
    for path in models.shards(folder):
        for name, entry in models.read_header(path).items():
            dtype = _DTYPES.get(entry.dtype)
            if dtype is None:
                return None
            stored = Stored(name, path, dtype, entry.shape, entry.begin, entry.end - entry.begin)
            if stored.nbytes != dtype.itemsize * torch.Size(entry.shape).numel():
                return None
            found[name] = stored
    return found


Allocate = Callable[[int, int, torch.dtype, torch.device], torch.Tensor]
"""(rows, columns, type, device) -> an uninitialised matrix that has at least those."""


class Block:
    """One buffer (sum of rows, ...) whose consecutive row slices are tensors of several names. Made on first use.

    `allocate` makes the buffer of matrices that want room beside them; without it the buffer is as large as its parts.
    """

    def __init__(self, parts: Sequence[Stored], allocate: Allocate | None = None) -> None:
        self._rows = [part.shape[0] for part in parts]
        self._rest = parts[0].shape[1:]
        self._allocate = allocate
        self._whole: torch.Tensor | None = None

    def slice(self, index: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """The part `index`, a view of the whole."""
        if self._whole is None:
            self._whole = self._make(dtype, device)
        start = sum(self._rows[:index])
        return self._whole[start : start + self._rows[index]]

    def _make(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        rows = sum(self._rows)
        if self._allocate is None:
            return torch.empty((rows, *self._rest), dtype=dtype, device=device)
        (columns,) = self._rest
        return self._allocate(rows, columns, dtype, device)[:rows, :columns]


class Weight:
    """A tensor that is still in its file; `weight[...]` is the tensor itself, as a slice of safetensors answers."""

    def __init__(self, reader: Reader, stored: Stored, dtype: torch.dtype, place: tuple[Block, int] | None) -> None:
        self.stored, self.dtype, self._reader, self._place = stored, dtype, reader, place
        self.tensor: torch.Tensor | None = None
        self.left = -1  # pieces still to be read; -1 before the first
        self.wanted = False
        self.events: list[torch.cuda.Event] = []

    def __getitem__(self, all_of_it: EllipsisType) -> torch.Tensor:
        return self._reader.take(self)

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        return self.dtype.itemsize * torch.Size(self.stored.shape).numel()

    def allocate(self, device: torch.device) -> list[Piece]:
        """Make the tensor, uninitialised; the pieces to read into it."""
        if self._place is not None:
            block, index = self._place
            self.tensor = block.slice(index, self.dtype, device)
        else:
            self.tensor = torch.empty(self.stored.shape, dtype=self.dtype, device=device)
        width = self.stored.dtype.itemsize
        pieces, offset = [], self.stored.offset
        for target in _cut(self.tensor, _PIECE_BYTES // width):
            pieces.append(Piece(self, offset, target))
            offset += target.numel() * width
        self.left = len(pieces)
        return pieces


def _cut(tensor: torch.Tensor, most: int) -> list[torch.Tensor]:
    """Views of at most `most` elements, in the order of the file: flat, or whole rows of a matrix whose rows lie apart."""
    if tensor.is_contiguous():
        return list(torch.split(tensor.view(-1), most))
    if tensor.shape[1] > most:
        return [part for row in tensor for part in torch.split(row, most)]
    return list(torch.split(tensor, most // tensor.shape[1]))


@dataclass(frozen=True)
class Piece:
    """Consecutive elements of one tensor: where they are in the file, where they go (a flat view, or rows that lie apart)."""

    weight: Weight
    offset: int
    target: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.target.numel() * self.weight.stored.dtype.itemsize

    @property
    def as_stored(self) -> bool:
        """Whether the target's memory is what the file holds, byte by byte."""
        return self.weight.stored.dtype == self.target.dtype and self.target.is_contiguous()

    def shaped(self, raw: torch.Tensor) -> torch.Tensor:
        """The file's bytes as values of the target's shape."""
        return raw.view(self.weight.stored.dtype).view(self.target.shape)


class Reader:
    """Reads weights in the background, in the order given and as asked for; use it in a `with` block.

    `ahead_bytes` limits what is read but not yet taken (None: everything may be). `progress` is told (bytes read) by
    one thread at a time. What goes wrong in a reading thread is raised by `take`.
    """

    def __init__(
        self, device: torch.device, ahead_bytes: int | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        self._device, self._ahead_limit, self._progress = device, ahead_bytes, progress
        self._changed = threading.Condition()
        self._made: dict[str, Weight] = {}
        self._waiting: deque[Weight] = deque()
        self._pieces: deque[Piece] = deque()
        self._ahead = self._done = self._told = 0
        self._total = 1
        self._failure: BaseException | None = None
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._files: dict[Path, int] = {}
        # Tensors are made, and later freed, in the order of this stream; the copying streams wait for it.
        self._home = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def weights(
        self,
        tensors: Mapping[str, Stored],
        dtype: torch.dtype,
        order: Callable[[str], object],
        places: Mapping[str, tuple[Block, int]],
        every: bool = False,
    ) -> dict[str, Weight]:
        """A weight for each tensor, in `dtype` if it has a place in a block; read ahead in `order` of their names.

        `every`: all that are no integers are in `dtype`.
        """

        def kind(name: str, stored: Stored) -> torch.dtype:
            return dtype if name in places or (every and stored.dtype.is_floating_point) else stored.dtype

        made = {name: Weight(self, stored, kind(name, stored), places.get(name)) for name, stored in tensors.items()}
        self._waiting.extend(made[name] for name in sorted(made, key=order))  # type: ignore[arg-type]
        self._made |= made
        self._total = sum(stored.nbytes for stored in tensors.values()) or 1
        return made

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        self._made.clear()
        self._waiting.clear()
        self._pieces.clear()

    def start(self) -> None:
        """Begin to read, before anything is asked for."""
        with self._changed:
            self._start()

    def take_all(self) -> dict[str, torch.Tensor]:
        """Every tensor, read, by its name; none may have been taken, and what is read ahead must not be limited.

        Raises ModelError if a file cannot be read.
        """
        self.start()
        for thread in self._threads:
            thread.join()  # each has waited for its copies
        if self._failure is not None:
            raise self._failure
        found: dict[str, torch.Tensor] = {}
        for name, weight in self._made.items():
            assert weight.tensor is not None
            found[name], weight.tensor = weight.tensor, None
        return found

    def take(self, weight: Weight) -> torch.Tensor:
        """The weight's tensor, read; it is the caller's from then on. Raises ModelError if its file cannot be read."""
        with self._changed:
            weight.wanted = True
            self._start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: weight.left == 0 or self._failure is not None or self._closed)
            if self._failure is not None:
                raise self._failure
            assert weight.tensor is not None, "a weight is taken once, while its reader is open"
            tensor, weight.tensor = weight.tensor, None
            self._ahead -= weight.nbytes
            self._changed.notify_all()
        for event in weight.events:
            torch.cuda.current_stream(self._device).wait_event(event)
        weight.events.clear()
        return tensor

    def _start(self) -> None:
        if not self._threads and not self._closed:
            self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_THREADS)]
            for thread in self._threads:
                thread.start()

    def _work(self) -> None:
        try:
            buffers = _PinnedBuffers(self._device, self._home) if self._home is not None else _Buffer()
            while (piece := self._next()) is not None:
                event = buffers.read(self._descriptor(piece.weight.stored.path), piece)
                self._finish(piece, event)
                del piece
            buffers.close()
        except BaseException as error:
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _next(self) -> Piece | None:
        """The next piece to read, waiting for room if need be; None when nothing is left to do."""
        with self._changed:
            while True:
                if self._closed or self._failure is not None:
                    return None
                if self._pieces:
                    return self._pieces.popleft()
                weight = self._choose()
                if weight is not None:
                    self._ahead += weight.nbytes
                    with torch.cuda.stream(self._home):  # does nothing for None
                        self._pieces.extend(weight.allocate(self._device))
                    self._changed.notify_all()
                elif not self._waiting:
                    return None
                else:
                    self._changed.wait()

    def _choose(self) -> Weight | None:
        for weight in self._waiting:
            if weight.wanted:
                self._waiting.remove(weight)
                return weight
        first = next(iter(self._waiting), None)
        if first is None or (self._ahead_limit is not None and self._ahead + first.nbytes > self._ahead_limit):
            return None
        return self._waiting.popleft()

    def _finish(self, piece: Piece, event: torch.cuda.Event | None) -> None:
        with self._changed:
            if event is not None:
                piece.weight.events.append(event)
            piece.weight.left -= 1
            self._done += piece.nbytes
            if self._progress is not None and (self._done - self._told) * _REPORTS >= self._total:
                self._told = self._done
                self._progress(self._done)
            if piece.weight.left == 0:
                self._changed.notify_all()

    def _descriptor(self, path: Path) -> int:
        with self._changed:
            if path not in self._files:
                try:
                    self._files[path] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise _unreadable(path, error) from error
            return self._files[path]


class _Buffer:
    """Reads into memory of the processor: in place, or through a buffer where type or layout are not the file's."""

    def __init__(self) -> None:
        self._bytes: torch.Tensor | None = None

    def read(self, descriptor: int, piece: Piece) -> None:
        if piece.as_stored:
            _read(descriptor, piece, piece.target.view(torch.uint8))
            return
        if self._bytes is None:
            self._bytes = torch.empty(_PIECE_BYTES, dtype=torch.uint8)
        part = self._bytes[: piece.nbytes]
        _read(descriptor, piece, part)
        piece.target.copy_(piece.shaped(part))

    def close(self) -> None:
        self._bytes = None


class _PinnedBuffers:
    """Reads into two pinned buffers in turn, and copies each to the card while the other is filled.

    What is not laid out as in the file passes through one more buffer, on the card; the stream's order keeps it safe.
    """

    def __init__(self, device: torch.device, home: torch.cuda.Stream) -> None:
        self._home, self._stream = home, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._host = [torch.empty(_PIECE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._staged: torch.Tensor | None = None
        self._device, self._turn = device, 0

    def read(self, descriptor: int, piece: Piece) -> torch.cuda.Event:
        self._turn = 1 - self._turn
        copied = self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        part = self._host[self._turn][: piece.nbytes]
        _read(descriptor, piece, part)
        # The memory may have been another tensor's, which work queued on the home stream still reads.
        self._stream.wait_stream(self._home)
        with torch.cuda.stream(self._stream):
            if piece.as_stored:
                piece.target.view(torch.uint8).copy_(part, non_blocking=True)
            else:
                if self._staged is None:
                    self._staged = torch.empty(_PIECE_BYTES, dtype=torch.uint8, device=self._device)
                raw = self._staged[: piece.nbytes]
                raw.copy_(part, non_blocking=True)
                piece.target.copy_(piece.shaped(raw))
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        self._copied[self._turn] = event
        return event

    def close(self) -> None:
        self._stream.synchronize()
        self._staged = None


def _read(descriptor: int, piece: Piece, into: torch.Tensor) -> None:
    """Fill `into` (uint8, on the processor) from the piece's place in its file."""
    view, done = memoryview(cast("bytearray", into.numpy())), 0
    while done < len(view):
        try:
            count = os.preadv(descriptor, [view[done:]], piece.offset + done)
        except OSError as error:
            raise _unreadable(piece.weight.stored.path, error) from error
        if count == 0:
            raise models.incomplete(piece.weight.stored.path)
        done += count


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(
        Text(
            zh=f"读取 {path} 失败：{error.strerror}。请检查磁盘，或重新下载这个模型。",
            en=f"Reading {path} failed: {error.strerror}. Check the disk, or download the model again.",
        )
    )
