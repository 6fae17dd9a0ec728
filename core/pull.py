"""An adapter of a hub brought into the library by its id: only the adapter's files, then checked as any foreign one.

One at a time, in the background or before a command. What came of a broken download is kept for the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core import adapters, hub, intake, storage
from core.download import connection
from core.downloads import downloads_of
from core.errand import Ended, Errand
from core.errors import ModelError, StorageError
from core.hub import Hub, HubName, Offer, hub_named
from core.intake import FolderSource
from core.library import AdapterChoice, Library
from core.models import Progress, Stopped
from core.sources import fetch
from core.sources.names import hub_set
from core.text import Text
from core.transfer import Transfer

_README = "README.md"
_TOLD = (adapters.CARD, _README, "args.json", "training_args.yaml", "llamaboard_config.yaml")
_PICKLED = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
_LOOKED_FOR = {adapters.CONFIG, adapters.WEIGHTS, *_TOLD, *_PICKLED, "config.json"}
_SPARE_BYTES = 200_000_000  # left free on the disk
_BUSY = Text(
    "正在取另一个适配器。请等它结束，或先取消它。", "Another adapter is being fetched. Wait for it, or cancel it first."
)


@dataclass(frozen=True)
class AdapterId:
    """An adapter of a hub: owner/name, and the hub where one is named."""

    id: str
    hub: HubName | None = None

    def __str__(self) -> str:
        prefix = {None: "", "hf": "hf::", "modelscope": "ms::"}[self.hub]
        return f"{prefix}{self.id}"


def adapter_id(typed: str) -> AdapterId | None:
    """What `typed` names if it is written [hf::|ms::]owner/name, else None."""
    found = hub_set(typed.strip())
    if found is None or found.subset or not hub.is_hub_name(found.id):
        return None
    return AdapterId(found.id, found.hub)


@dataclass
class HubSource(FolderSource):
    """The files of a hub's adapter; called after where they come from."""

    origin: str

    @property
    def name(self) -> str:
        """The id, with its revision."""
        return self.origin


class Pulls:
    """Adapters on their way into a library. The hub is the one chosen for models, unless an id names its own."""

    def __init__(self, home: Path, library: Library, pause: Callable[[int], float] | None = None) -> None:
        self._home, self._library, self._pause = home, library, pause
        self._errand: Errand[AdapterChoice] = Errand("pull", _BUSY)
        self.silent_seconds = 0.0
        """How late the hub's answer is; 0 as long as that need not be said."""

    @property
    def active(self) -> bool:
        """Whether one is on its way."""
        return self._errand.active

    @property
    def now(self) -> Transfer | None:
        """How far it is; None at rest, and while the hub is asked or the adapter is checked."""
        return self._errand.now

    @property
    def ended(self) -> Ended[AdapterChoice] | None:
        """How the last one ended."""
        return self._errand.ended

    def hub_of(self, wanted: AdapterId) -> Hub:
        """The hub that is asked for it."""
        chosen = downloads_of(self._home).hub
        return chosen if wanted.hub in (None, chosen.name) else hub_named(wanted.hub or "hf")

    def start(self, wanted: AdapterId, name: str = "") -> None:
        """Begin in the background; `name` is what to call it. Raises BusyError while another one is on its way."""
        self._errand.start(str(wanted), lambda stop, told: self._bring(wanted, name, stop, told))

    def stop(self) -> None:
        """Give up the one on its way; what came is kept."""
        self._errand.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; whether it ended."""
        return self._errand.wait(timeout)

    def _hear(self, seconds: float) -> None:
        self.silent_seconds = seconds

    def _bring(self, wanted: AdapterId, name: str, stop: threading.Event, told: Progress) -> AdapterChoice | None:
        with contextlib.suppress(Stopped):
            return self._fetched(wanted, name, stop, told)
        return None

    def _fetched(self, wanted: AdapterId, name: str, stop: threading.Event, told: Progress) -> AdapterChoice | None:
        with connection(stop, self._hear) as client:
            offer = _checked(hub.offered(client, wanted.id, self._allowed(wanted), _LOOKED_FOR.__contains__))
            folder = self._folder(offer)
            _check_room(offer, folder)
            done = 0

            def count(nbytes: int) -> None:
                nonlocal done
                done += nbytes
                told(wanted.id, min(done, offer.nbytes - 1), offer.nbytes)

            try:
                for file in offer.files:
                    part = folder / file.name
                    enough = fetch.Enough(file.nbytes)
                    if not fetch.fetch(client, offer.hub, file, part, enough, stop, count, self._pause):
                        return None
            except OSError as error:
                raise StorageError(storage.not_written(folder, str(error))) from error
        if stop.is_set():
            return None
        told(wanted.id, offer.nbytes, offer.nbytes)
        prefix = "hf" if offer.hub.name == "hf" else "ms"
        source = HubSource(folder, f"{prefix}::{wanted.id}@{offer.revision[:8]}")
        try:
            return self._library.bring(source, name or wanted.id.rpartition("/")[2], _untold)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _allowed(self, wanted: AdapterId) -> Hub:
        asked = self.hub_of(wanted)
        if (why := hub.offline(asked, wanted.id)) is not None:
            raise ModelError(why)
        return asked

    def _folder(self, offer: Offer) -> Path:
        """Where its files grow: another revision's are other files."""
        known = "\n".join([offer.hub.name, offer.name, offer.revision, *(str(file.digest) for file in offer.files)])
        digest = hashlib.sha256(known.encode()).hexdigest()[:12]
        return self._home / "cache" / "adapters" / f"{storage.slug(offer.name)}-{digest}"


def _untold(done: int, total: int) -> None:
    """Checking takes a moment where fetching takes minutes."""


def _checked(offer: Offer) -> Offer:
    """The adapter's files of what there is. Raises ModelError if it is no adapter that can be used."""
    files = {file.name: file for file in offer.files}
    label, name = offer.hub.label, offer.name
    if adapters.CONFIG not in files:
        whole = "config.json" in files
        hint_zh = "它是完整的模型：请在“模型”里填它的 ID" if whole else "请检查 ID"
        hint_en = "It is a whole model: enter its id as the model" if whole else "Check the id"
        raise ModelError(
            Text(
                f"{label.zh} 上的 {name} 最外层没有 {adapters.CONFIG}，不是适配器。{hint_zh}。",
                f"{name} on {label.en} has no {adapters.CONFIG} at its top level: it is no adapter. {hint_en}.",
            )
        )
    if adapters.WEIGHTS not in files:
        pickled = next((one for one in _PICKLED if one in files), "")
        why = Text("缺少", "lacks")
        if pickled:
            why = Text(
                f"只有 pickle 格式的权重（{pickled}，出于安全不读取），没有",
                f"has pickled weights only ({pickled}, not read for safety), no",
            )
        raise ModelError(
            Text(
                f"{label.zh} 上的 {name} {why.zh} {adapters.WEIGHTS}。请换一个适配器，或请作者另存为 safetensors。",
                f"{name} on {label.en} {why.en} {adapters.WEIGHTS}. Choose another adapter, or ask its author for safetensors.",
            )
        )
    for file in offer.files:
        most = intake.MAX_WEIGHTS_BYTES if file.name == adapters.WEIGHTS else intake.MAX_TEXT_BYTES
        if file.name in (adapters.CONFIG, adapters.WEIGHTS, *_TOLD) and file.nbytes > most:
            raise ModelError(
                Text(
                    f"{name} 的 {file.name} 有 {file.nbytes / 1e6:.0f} MB，最多 {most / 1e6:.0f} MB，没有下载。",
                    f"{file.name} of {name} has {file.nbytes / 1e6:.0f} MB, the limit is {most / 1e6:.0f} MB: not downloaded.",
                )
            )
    kept = tuple(files[one] for one in (adapters.CONFIG, *_TOLD, adapters.WEIGHTS) if one in files)
    return Offer(offer.name, offer.hub, offer.revision, kept)


def _check_room(offer: Offer, folder: Path) -> None:
    """Raise StorageError without room for the files as they come and as they are kept."""
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if 2 * offer.nbytes + _SPARE_BYTES > free:
        raise StorageError(
            Text(
                f"取 {offer.name} 需要 {2 * offer.nbytes / 1e9:.2f} GB，{there} 只剩 {free / 1e9:.2f} GB。请清理磁盘。",
                f"{offer.name} takes {2 * offer.nbytes / 1e9:.2f} GB and {there} has {free / 1e9:.2f} GB left. Make room.",
            )
        )
