"""What happened, in a file of the home: rotating, without secrets, still there after a restart. Holds no row, no answer."""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
import threading
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType

from core import __version__, storage
from core.redact import RedactingFormatter

LOGGER = "onecard"
SHOWN = "onecard.shown"
"""Errors that the page has shown: for the file, not for the terminal."""
_NAME = "onecard.log"
_MOST_BYTES, _OLD_FILES = 1_000_000, 3
_ENTRY = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:,\d+)? ([A-Z]+) (\S+): (.*)")
_TROUBLE = ("WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True)
class Entry:
    """One entry of the log. `time` is the machine's own, as written; `text` has the traceback, if there is one."""

    time: str
    level: str
    source: str
    text: str

    @property
    def is_trouble(self) -> bool:
        """Whether something went wrong."""
        return self.level in _TROUBLE


class _Indented(logging.Formatter):
    """An entry's further lines indented: a new one begins at the first column."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).rstrip().replace("\n", "\n    ")


class _File(RotatingFileHandler):
    """Says once that it cannot write, and lets the program go on."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._said:
            self._said = True
            print(f"OneCard: {self.baseFilename} cannot be written: {sys.exception()}", file=sys.stderr)


def path_of(home: Path) -> Path:
    """The log's newest file."""
    return home / "logs" / _NAME


def begin(home: Path) -> None:
    """Write warnings and errors of every library, and what OneCard says of itself, to the home and to the terminal.

    Exceptions that nobody caught are among them. Once for each process and home.
    """
    root, path = logging.getLogger(), path_of(home)
    if any(isinstance(handler, _File) and handler.baseFilename == str(path) for handler in root.handlers):
        return
    storage.make_folder(path.parent)
    lines = RedactingFormatter(_Indented("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    terminal.addFilter(lambda record: record.name != SHOWN)
    # Opened with the first entry: a home that cannot be written is said where it matters.
    file = _File(path, maxBytes=_MOST_BYTES, backupCount=_OLD_FILES, encoding="utf-8", errors="replace", delay=True)
    for handler in (file, *(() if root.handlers else (terminal,))):
        handler.setFormatter(lines)
        root.addHandler(handler)
    log = logging.getLogger(LOGGER)
    log.setLevel(logging.INFO)
    log.info("OneCard %s, process %d, Python %s", __version__, os.getpid(), platform.python_version())
    _catch()


def end(home: Path) -> None:
    """Close the file of a home."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _File) and h.baseFilename == str(path_of(home))]:
        root.removeHandler(handler)
        handler.close()


def entries(home: Path, most: int = 200) -> list[Entry]:
    """The newest entries, oldest first; of the file before too, where the newest has few."""
    path = path_of(home)
    found: list[Entry] = []
    for file in (path.with_name(f"{path.name}.1"), path):
        found += _read(file)
    return found[-most:]


def tail(home: Path, lines: int = 200) -> str:
    """The log's last lines as they are written."""
    path = path_of(home)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return "\n".join(text.split("\n")[-lines - 1 :])


def _read(file: Path) -> list[Entry]:
    found: list[Entry] = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else ():
        head = _ENTRY.match(line)
        if head is not None:
            found.append(Entry(head[1], head[2], head[3], head[4]))
        elif found and line.strip():
            last = found.pop()
            found.append(Entry(last.time, last.level, last.source, f"{last.text}\n{line[4:]}"))
    return found


def _catch() -> None:
    """Exceptions that end a thread, or the program, are in the log."""
    log = logging.getLogger(LOGGER)

    def in_thread(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None and not issubclass(failed.exc_type, SystemExit):
            where = failed.thread.name if failed.thread is not None else "?"
            info = (failed.exc_type, failed.exc_value, failed.exc_traceback)
            log.error("thread %s ended by an exception", where, exc_info=info)

    def in_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("the program ended by an exception", exc_info=(kind, error, trace))

    threading.excepthook, sys.excepthook = in_thread, in_main
