"""A set of a hub brought under the home: file by file until there are rows enough, read by our own importer.

One at a time, in the background or before a command. Nothing that comes from a hub is ever run.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from core import files_parquet, formats, storage
from core.dataset import Row
from core.download import connection
from core.downloads import downloads_of
from core.errors import BusyError, DatasetError, ModelError, UserError
from core.hub import Hub, RemoteFile, hub_named
from core.models import Stopped
from core.sources import fetch, hubs, kept
from core.sources.hubs import SetOffer
from core.sources.names import HubSet
from core.text import Text
from core.transfer import Meter, Transfer
from core.waiting import saying

if TYPE_CHECKING:
    import httpx

# More than a mix for one adapter draws from: of a larger set, the first so many rows are taken, and it is said.
MOST_ROWS = 50_000
_MOST_BYTES = 95_000_000  # of one file; the importer's own limit lies just above
_LINES = (".jsonl", ".csv", ".tsv")
_OURS = Text(
    "下载因内部错误而结束。这是程序的问题，详情在终端里。",
    "An internal error ended the download. This is our fault; the terminal shows the details.",
)


@dataclass(frozen=True)
class Brought:
    """How the last one ended: `here`, or `problem`, or cancelled."""

    name: str
    here: bool
    problem: Text | None = None


class SetDownloads:
    """Sets on their way here, one at a time. The hub is the one chosen for models, unless a set names its own."""

    def __init__(self, home: Path, most_rows: int = MOST_ROWS, pause: Callable[[int], float] | None = None) -> None:
        self._home, self._most, self._pause = home, most_rows, pause
        self._guard, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._meter = Meter()
        self.name = ""
        self.outcome: Brought | None = None
        self.silent_seconds = 0.0
        """How late the hub's answer is; 0 as long as that need not be said."""

    @property
    def hub(self) -> Hub:
        """The hub that is asked for sets that name none."""
        return downloads_of(self._home).hub

    def hub_of(self, name: HubSet) -> Hub:
        """The hub that is asked for `name`."""
        chosen = self.hub
        return chosen if name.hub is None or name.hub == chosen.name else hub_named(name.hub)

    @property
    def active(self) -> bool:
        """Whether one is on its way."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def now(self) -> Transfer | None:
        """How far it is; None at rest, and while the hub is asked or the rows are read."""
        return self._meter.now if self.active else None

    def start(self, name: HubSet) -> None:
        """Begin in the background; how it ended is in `outcome`. Raises BusyError while another one is on its way."""
        with self._guard:
            if self.active:
                raise BusyError(
                    Text(
                        zh=f"正在下载 {self.name}。请等它结束或取消它。",
                        en=f"{self.name} is being downloaded. Wait, or cancel it.",
                    )
                )
            self._stop.clear()
            self.name, self.outcome = str(name), None
            self._thread = threading.Thread(target=self._work, args=(name,), name="set download", daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Stop it; what came is kept for the next time."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; whether it ended."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.active

    def bring(self, name: HubSet, say: Callable[[Text], None]) -> None:
        """Fetch `name` before a command, saying how far it is. Raises what a download raises; Ctrl-C keeps what came."""
        where = self.hub_of(name).label
        say(Text(zh=f"正在从 {where.zh} 下载 {name}…", en=f"downloading {name} from {where.en} …"))
        self.start(name)
        quiet = saying(where, say)
        try:
            while not self.wait(2.0):
                quiet(self.silent_seconds)
                if (now := self.now) is not None:
                    line = f"{now.done / 1e6:.1f} / {now.total / 1e6:.1f} MB"
                    say(Text(line, line))
        except BaseException:
            self.cancel()
            self.wait(20)
            raise
        if self.outcome is not None and self.outcome.problem is not None:
            raise ModelError(self.outcome.problem)

    def _hear(self, seconds: float) -> None:
        self.silent_seconds = seconds

    def _work(self, name: HubSet) -> None:
        try:
            with connection(self._stop, self._hear) as client:
                offer = hubs.look_up(client, name, self.hub_of(name))
                here = self._fetch(client, offer)
            self.outcome = Brought(str(name), here)
        except Stopped:
            self.outcome = Brought(str(name), False)
        except UserError as error:
            self.outcome = Brought(str(name), False, error.text)
        except OSError as error:
            folder = kept.folder_of(self._home, name)
            self.outcome = Brought(str(name), False, storage.not_written(folder, str(error)))
        finally:
            if self.outcome is None:  # the error itself goes to the terminal
                self.outcome = Brought(str(name), False, _OURS)
            self._meter.rest()

    def _fetch(self, client: httpx.Client, offer: SetOffer) -> bool:
        """Bring the rows here; whether it was not stopped."""
        folder = kept.folder_of(self._home, offer.name)
        parts = folder.with_name(f".{folder.name}-{storage.slug(offer.revision)[:12]}.parts")
        done, rows, notes, complete = 0, list[Row](), list[Text](), True

        def told(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            self._meter(str(offer.name), min(done, offer.nbytes - 1), offer.nbytes)

        for number, file in enumerate(offer.files):
            if len(rows) >= self._most:
                complete = False
                break
            _check_size(file)
            part = parts / f"{number}{PurePosixPath(file.name).suffix.lower()}"
            whole = fetch.fetch(
                client, offer.hub, file, part, self._enough(file, len(rows)), self._stop, told, self._pause
            )  # fmt: skip
            if whole is None:
                return False
            found, said = _read(part, file, whole, self._most - len(rows))
            complete &= whole and len(found) <= self._most - len(rows)
            rows += found[: self._most - len(rows)]
            notes += said
        useful, left = _useful(rows)
        kept.write(
            folder,
            kept.Card(offer.name, offer.revision, len(useful), complete, (*dict.fromkeys([*notes, *left]),)),
            useful,
        )
        with contextlib.suppress(OSError):
            shutil.rmtree(parts)
        return True

    def _enough(self, file: RemoteFile, have: int) -> fetch.Enough:
        suffix = PurePosixPath(file.name).suffix.lower()
        if suffix not in _LINES:
            return fetch.Enough(file.nbytes)
        return fetch.Enough(_MOST_BYTES, self._most - have + 2)


def _check_size(file: RemoteFile) -> None:
    """Raise DatasetError for a file that has to be read whole and is larger than the importer takes.

    Of a Parquet file the first rows are enough.
    """
    if PurePosixPath(file.name).suffix.lower() in (*_LINES, ".parquet") or file.nbytes <= formats.MAX_BYTES:
        return
    size, most = f"{file.nbytes / 1e6:.0f} MB", f"{formats.MAX_BYTES / 1e6:.0f} MB"
    raise DatasetError(
        Text(
            zh=f"{file.name} 有 {size}，这种文件最多能读 {most}，没有下载。请换一个数据集，或它的另一个子集。",
            en=f"{file.name} has {size}; of its kind at most {most} can be read, so it was not downloaded. Choose another "
            "set, or another subset of it.",
        )
    )


def _read(part: Path, file: RemoteFile, whole: bool, most: int) -> tuple[list[Row], list[Text]]:
    """The rows of a file, and what was interpreted. Raises DatasetError that names the file."""
    suffix = part.suffix
    if suffix == ".parquet":
        data = _first_rows(part, most)
    else:
        data = part.read_bytes()
        if not whole:
            data = _complete_lines(data, quoted=suffix == ".csv")
    # A broken line among thousands is left out, and counted.
    found = formats.read(data, PurePosixPath(file.name).name, formats.Choices(salvage=True))
    notes = list(found.notes)
    if found.left_out:
        notes.append(
            Text(
                f"{file.name}：{found.left_out} 行读不出来，没有取。", f"{file.name}: {found.left_out} rows unreadable."
            )
        )
    return list(found.rows), notes


def _complete_lines(data: bytes, quoted: bool) -> bytes:
    """`data` up to its last line end; with `quoted`, the last that stands in no quoted cell, where there is such a one."""
    end, inside = len(data), quoted and data.count(b'"') % 2 == 1
    while end > 0:
        begin = data.rfind(b'"', 0, end) + 1 if quoted else 0
        if not inside and (line := data.rfind(b"\n", begin, end)) >= 0:
            return data[: line + 1]
        end, inside = begin - 1, not inside
    return data[: data.rfind(b"\n") + 1]


def _first_rows(path: Path, most: int) -> bytes:
    """A Parquet file's first `most` rows, as a Parquet file: the importer has a limit in bytes, and a set may be large."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        first, have = [], 0
        for batch in files_parquet.batches(path):
            first.append(batch[: most + 1 - have])
            have += first[-1].num_rows
            if have > most:
                break
        out = io.BytesIO()
        pq.write_table(pa.Table.from_batches(first, schema=file.schema_arrow), out)
        return out.getvalue()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            Text(
                zh=f"{path.name} 不是能读的 Parquet 文件（{error}）。请换一个数据集。",
                en=f"{path.name} is no Parquet file that can be read ({error}). Choose another set.",
            )
        ) from error


def _useful(rows: list[Row]) -> tuple[list[Row], list[Text]]:
    """The rows that say something, and how many were left out."""
    useful = [row for row in rows if row.question.strip() and row.output.strip()]
    left = len(rows) - len(useful)
    if not left:
        return useful, []
    said = Text(f"{left} 行没有问题或回答，没有取。", f"Left out, without a question or an answer: {left} rows.")
    return useful, [said]
