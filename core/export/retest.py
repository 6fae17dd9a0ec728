"""Loading an export and asking it what the adapter was asked: how a receipt comes about."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from core import adapters, device, models, storage
from core.device_errors import device_errors
from core.errors import ModelError
from core.export import gguf_file, receipt
from core.export.make import read_facts, versions
from core.export.order import Format, Order
from core.export.receipt import Receipt, Said
from core.export.speakers import EngineSpeaker, GgufSpeaker, Speaker, llama_cpp_is_here
from core.export.weights import Weights
from core.models import ModelInfo
from core.proof_subject import Subject
from core.prove import questions, suite_of
from core.text import Text

if TYPE_CHECKING:
    from core.engine import Engine

Told = Callable[[int, int, Text], None]
"""Called with (answers that are done, answers in all, what is being done)."""
Hold = Callable[[], AbstractContextManager[None]]
"""While the block runs the base is loaded and the subject's adapter attached."""
_WRITTEN_LATER = (receipt.FILE, "README.md")
_CHECK = "export-check"
_MARGIN = 1.15  # of its weights, what a loaded model takes while it answers
_STAGES = {
    "tested": Text("问测试过的适配器", "Asking the adapter that was tested"),
    "load": Text("载入导出的文件", "Loading the exported file"),
    "file": Text("问导出的文件", "Asking the exported file"),
}


def retest(
    engine: Engine, subject: Subject, order: Order, hold: Hold, told: Told, stop: threading.Event
) -> Receipt | None:
    """The receipt of the export in `order.target`, written beside it; None if `stop` was set meanwhile.

    The adapter answers first, the file then: never both, unless there is room for both. Raises UserError.
    """
    storage.sweep_beside(order.target)  # what a test that was killed left is no part of the export
    with hold(), device_errors():
        resident = engine.resident
        assert resident is not None
        _check_base(resident.info, order)
        asked = receipt.chosen(questions(subject, suite_of(resident.info)))
        # Read at full strength only: what scores texts knows no other.
        readable = order.strength == 1.0
        speaker = EngineSpeaker(engine, subject.name, order.strength, stop)
        said = receipt.reference(speaker, asked, _counted(told, "tested", len(asked)), readable)
        four_bits = resident.quant_method == "bnb"
        against = {"model": resident.info.name, "quantisation": resident.quant_method, "dtype": resident.dtype}
        del resident
    if len(said) < len(asked):
        return None
    blank = _blank(order, against | {"adapter_sha256": subject.weights}, four_bits)
    made = _asked(engine, order, said, blank, told, stop, hold, readable)
    if made is not None:
        made = made if order.rows else receipt.without_rows(made, said)
        storage.write_json(order.target / receipt.FILE, receipt.to_json(made))
    return made


def _check_base(loaded: ModelInfo, order: Order) -> None:
    """What is asked must be what was merged: another base of the same shape would look well, and be another model."""
    base = models.inspect(order.model)
    if loaded.folder != base.folder:
        raise ModelError(
            Text(
                f"现在载入的基座是 {loaded.label}，这个导出用的是 {base.label}，没有复测。请在训练页选回那个基座，再按“再测一次”。",
                f"The base in memory is {loaded.label}, the export was made from {base.label}; it was not tested. Choose that "
                "base on the Train tab, then press Test again.",
            )
        )


def _blank(order: Order, against: Mapping[str, str], four_bits: bool) -> Receipt:
    files = [path for path in sorted(order.target.rglob("*")) if path.is_file() and path.name not in _WRITTEN_LATER]
    return Receipt(
        light="none",
        why=Text("", ""),
        file=order.target.name,
        form=f"{order.format} {order.quantisation}" if order.format == "gguf" else order.format,
        digests={str(path.relative_to(order.target)): _digest(path) for path in files},
        nbytes=sum(path.stat().st_size for path in files),
        usual=receipt.usual(order.format, order.quantisation, four_bits),
        against=against,
        versions=versions(),
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _asked(
    engine: Engine,
    order: Order,
    said: Sequence[Said],
    blank: Receipt,
    told: Told,
    stop: threading.Event,
    hold: Hold,
    readable: bool,
) -> Receipt | None:
    told(0, len(said), _STAGES["load"])
    try:
        with device_errors(), _speaker(engine, order, said, hold, stop) as speaker:
            return receipt.compare(said, speaker, _counted(told, "file", len(said)), blank, readable)
    except _NotHere as error:
        return replace(blank, why=error.text)


class _NotHere(ModelError):
    """The file is as it was ordered, but cannot be asked on this machine now."""


@contextlib.contextmanager
def _speaker(
    engine: Engine, order: Order, said: Sequence[Said], hold: Hold, stop: threading.Event
) -> Iterator[Speaker]:
    if order.format in ("adapter", "zip"):
        with hold(), _attached(engine, order) as name:
            yield EngineSpeaker(engine, name, 1.0, stop)
    elif order.format in ("merged", "merged-f32", "bnb"):
        with _loaded(engine, order) as other:
            yield EngineSpeaker(other, None, 1.0, stop)
    else:
        with _in_llama_cpp(order, said, stop) as speaker:
            yield speaker


@contextlib.contextmanager
def _attached(engine: Engine, order: Order) -> Iterator[str]:
    """The exported adapter beside the one that was tested, on the same base."""
    with storage.scratch_folder(order.target) as unpacked:
        folder = order.target
        if order.format == "zip":
            with zipfile.ZipFile(order.target / f"{order.name}.zip") as archive:
                archive.extractall(unpacked)
            folder = unpacked / order.name
        engine.attach(adapters.read(folder, _CHECK))
        try:
            yield _CHECK
        finally:
            engine.detach(_CHECK)


@contextlib.contextmanager
def _loaded(engine: Engine, order: Order) -> Iterator[Engine]:
    """The exported folder in an engine of its own; where memory is short the other one gives way until it is asked again."""
    from core.engine import Engine

    needed = int(_MARGIN * models.inspect(str(order.target)).weight_bytes)
    if device.memory_free(engine.device) < needed:
        if engine.kept:
            raise _NotHere(
                Text(
                    "训练占着内存，放不下导出的模型，所以还没有复测。训练结束后请按“再测一次”。",
                    "There is no room to load the exported model beside the run that trains, so it was not tested. Press Test "
                    "again once the run has ended.",
                )
            )
        engine.unload()
    other = Engine(engine.device)
    other.load(str(order.target), "none", "auto")
    try:
        yield other
    finally:
        other.unload()


@contextlib.contextmanager
def _in_llama_cpp(order: Order, said: Sequence[Said], stop: threading.Event) -> Iterator[GgufSpeaker]:
    if not llama_cpp_is_here():
        raise _NotHere(
            Text(
                "没有安装 llama-cpp-python，GGUF 没有复测。请运行 pip install llama-cpp-python，再按“再测一次”。",
                "llama-cpp-python is not installed, so the GGUF file was not tested. Run pip install llama-cpp-python and press "
                "Test again.",
            )
        )
    longest = max((len(each.prompt) + each.limit for each in said), default=0)
    context = -(-(longest + 8) // 64) * 64
    if order.format == "gguf":
        path = order.target / f"{order.name}-{order.quantisation}.gguf"
        with GgufSpeaker(path, None, context, stop).opened() as speaker:
            yield speaker
        return
    base = models.inspect(order.model).folder
    with storage.scratch_folder(order.target) as folder:
        whole = folder / "base.gguf"
        gguf_file.write(whole, base, Weights(base, None), "f16", "base", lambda nbytes: None)
        lora = order.target / f"{order.name}-lora.gguf"
        with GgufSpeaker(whole, lora, context, stop).opened() as speaker:
            yield speaker


def _counted(told: Told, stage: str, total: int) -> Callable[[int], None]:
    return lambda done: told(done, total, _STAGES[stage])


def load_receipt(folder: Path) -> Receipt | None:
    """The receipt of an export; None if it has none, or if a file is not the one that was tested any more."""
    try:
        found = receipt.from_json(storage.read_json(folder / receipt.FILE))
    except (OSError, ValueError, RecursionError):
        return None
    for name, digest in found.digests.items():
        path = folder / name
        if not path.is_file() or (path.stat().st_size < 50_000_000 and _digest(path) != digest):
            return None
    return found


def order_of(folder: Path, adapter: Path) -> Order:
    """The order that made an export, from its facts. Raises ModelError for a folder that is none."""
    facts = read_facts(folder)
    try:
        return Order(
            adapter=adapter,
            model=str(facts["base"]),
            format=cast("Format", facts["format"]),
            target=folder,
            name=str(facts["name"]),
            system=str(facts["system"]),
            quantisation=str(facts["quantisation"]) or "f16",
            strength=float(cast(float, facts["strength"])),
            language="en" if facts.get("language") == "en" else "zh",
            rows=facts.get("rows") is True,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            Text(
                f"{folder} 不是这里的导出（缺少 export.json）。",
                f"{folder} is no export of this program (no export.json).",
            )
        ) from error
