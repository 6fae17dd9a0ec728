"""Downloads as a program does them: one at a time, in the background or before a command, from the chosen hub."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core import hub, models
from core.download import check_space, connection, download
from core.errand import Errand
from core.errors import BusyError, ModelError, UserError
from core.hub import Hub, Offer
from core.models import Progress, Stopped
from core.text import Text
from core.transfer import Meter, Transfer
from core.waiting import SILENT_SECONDS, Quiet, saying


@dataclass(frozen=True)
class Outcome:
    """How the last download ended: `problem` None and `here` True when the model is on this disk."""

    name: str
    here: bool
    problem: Text | None = None


class Downloads:
    """One download at a time in the background, and the choice of hub; both belong to a home folder."""

    def __init__(self, home: Path) -> None:
        self._choice = home / "hub.json"
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._meter = Meter()
        self._asking: Errand[Offer] = Errand("hub", Text("正在连接模型社区。", "The hub is being asked."))
        self._asked = False  # and nobody has heard what came of it
        self.outcome: Outcome | None = None
        self.silent_seconds = 0.0
        """How late the hub's answer is; 0 as long as that need not be said."""

    @property
    def hub(self) -> Hub:
        """The hub in use."""
        return hub.read_choice(self._choice)

    def choose(self, name: str, endpoint: str) -> Hub:
        """Use another hub or mirror from now on. Raises ConfigError."""
        return hub.keep_choice(self._choice, name, endpoint)

    def look_up(self, name: str, quiet: Quiet | None = None, stop: threading.Event | None = None) -> Offer:
        """What the hub offers of a model; `quiet` hears of an answer that is late. Raises ModelError, Stopped."""
        with connection(stop, quiet) as client:
            return hub.look_up(client, name.strip(), self.hub)

    def ask(self, name: str) -> Offer | None:
        """The same; None if it takes long: `asking` goes on in the background, and `answer` has it then."""
        self.forget()

        def work(stop: threading.Event, told: Progress) -> Offer | None:
            with contextlib.suppress(Stopped):
                return self.look_up(name, self._hear, stop)
            return None

        self._asking.start(name.strip(), work)
        self._asked = True
        self._asking.wait(SILENT_SECONDS)
        return self.answer()

    @property
    def asking(self) -> str:
        """The model that the hub is asked for and has not answered about; "" if there is none."""
        return self._asking.name if self._asking.active else ""

    def answer(self) -> Offer | None:
        """What came of the asking, told once; None while there is nothing. Raises ModelError."""
        ended = self._asking.ended
        if self.asking or ended is None or not self._asked:
            return None
        self._asked = False
        if ended.problem is not None:
            raise ModelError(ended.problem)
        return ended.found

    def forget(self) -> None:
        """Wait for no answer any more."""
        self._asked = False
        self._asking.stop()
        self._asking.wait(5)

    def _hear(self, seconds: float) -> None:
        self.silent_seconds = seconds

    @property
    def active(self) -> bool:
        """Whether a download is under way."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def now(self) -> Transfer | None:
        """How far the download is; None at rest."""
        return self._meter.now if self.active else None

    def start(self, name: str, quiet: Quiet | None = None) -> Offer:
        """Begin to download; the offer. Raises ModelError, StorageError, or BusyError while another one runs."""
        offer = self.look_up(name, quiet)
        check_space(offer)
        with self._guard:
            if self.active:
                raise BusyError(
                    Text(
                        zh="正在下载另一个模型。请等它结束或取消它。",
                        en="Another model is being downloaded. Wait, or cancel it.",
                    )
                )
            self._stop.clear()
            self.outcome = None
            self._meter(offer.name, 0, offer.nbytes)
            self._thread = threading.Thread(target=self._work, args=(offer,), name="download", daemon=True)
            self._thread.start()
        return offer

    def cancel(self) -> None:
        """Stop the download; what came is kept for the next time."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; whether it ended."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.active

    def _work(self, offer: Offer) -> None:
        try:
            with connection(self._stop, self._hear) as client:
                here = download(client, offer, self._stop, self._meter) is not None
            self.outcome = Outcome(offer.name, here)
        except Stopped:
            self.outcome = Outcome(offer.name, False)
        except UserError as error:
            self.outcome = Outcome(offer.name, False, error.text)
        finally:
            self._meter.rest()


@functools.cache
def downloads_of(home: Path) -> Downloads:
    """The downloads of a home folder, the same for every page over it."""
    return Downloads(home)


def elsewhere(name: str) -> bool:
    """Whether `name` is a hub's model that is not on this disk."""
    name = name.strip()
    return hub.is_hub_name(name) and not Path(name).expanduser().is_dir() and name not in models.cached_models()


def bring(downloads: Downloads, name: str, say: Callable[[Text], None]) -> None:
    """Download `name` if it is elsewhere, and wait for it; `say` is told the size first, then how far it is.

    Raises what a download raises; an interrupt (Ctrl-C) keeps what came.
    """
    if not elsewhere(name):
        return
    offer = downloads.start(name, saying(downloads.hub.label, say))
    size, where = f"{offer.nbytes / 1e9:.2f} GB", hub.folder_of(offer)
    say(
        Text(
            zh=f"{name} 不在本机，从 {offer.hub.label.zh} 下载 {size} 到 {where}（按 Ctrl-C 停止，下次会接着下载）。",
            en=f"{name} is not on this machine: downloading {size} from {offer.hub.label.en} to {where} (Ctrl-C stops; the "
            "next time goes on from there).",
        )
    )
    try:
        while not downloads.wait(2.0):
            if (now := downloads.now) is not None:
                pace = f" · {now.bytes_per_second / 1e6:.0f} MB/s" if now.bytes_per_second else ""
                line = f"{now.done / 1e9:.2f} / {now.total / 1e9:.2f} GB{pace}"
                say(Text(line, line))
    except BaseException:
        downloads.cancel()
        downloads.wait(20)
        raise
    if downloads.outcome is not None and downloads.outcome.problem is not None:
        raise ModelError(downloads.outcome.problem)
