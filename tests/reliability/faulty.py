"""A process that has everything loaded and forks for every case: the child is killed, or its disk fails, at one system call.

python -m tests.reliability.faulty MODEL SCRATCH: a request a line on stdin, {"do": NAME, ...}; a list of findings a line
on stdout. Importing torch takes six seconds and a fork some hundredths: hundreds of cases are affordable this way.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# What changes files or says that they are safe; a kill anywhere else finds the same disk as one of these.
CHANGES = (
    "mkdir", "openat", "write", "pwrite64", "ftruncate", "rename", "renameat", "renameat2", "link", "unlink", "unlinkat",
    "rmdir", "chmod", "fchmod", "fchmodat", "fsync", "fdatasync", "copy_file_range", "sendfile",
)  # fmt: skip
_CALL = re.compile(r"(?:\d+ +)?(\w+)\((.*)")


@dataclass(frozen=True)
class Point:
    """The `number`-th call (from 1) of one system call after a process began its work."""

    call: str
    number: int
    line: str = ""

    def __str__(self) -> str:
        return f"{self.call} {self.number}: {self.line[:160]}"


class Said:
    """What a child has to say, in memory that it shares: a full disk fails every write, to a pipe too."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 65536)

    def put(self, text: str) -> None:
        data = text.encode()[:65000]
        self._memory.seek(0)
        self._memory.write(len(data).to_bytes(4, "little") + data)

    def take(self) -> str:
        self._memory.seek(0)
        return self._memory.read(4 + int.from_bytes(self._memory[:4], "little"))[4:].decode(errors="replace")


def forked(work: Callable[[], str | None], stopped: bool = False) -> tuple[int, Said]:
    """The id of a child that does `work`, and what it will say; `stopped`: it waits for SIGCONT first."""
    said = Said()
    child = os.fork()
    if child:
        if stopped:
            os.waitpid(child, os.WUNTRACED)
        return child, said
    code = 1
    try:
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        said.put(work() or "")
        code = 0
    except BaseException:
        said.put(traceback.format_exc())
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Its exit status: negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def done(work: Callable[[], str | None]) -> str:
    """What a child that does `work` undisturbed says. Raises RuntimeError if it fails."""
    child, said = forked(work)
    if ended(child):
        raise RuntimeError(said.take())
    return said.take()


def struck(work: Callable[[], str | None], log: Path, inject: str = "") -> tuple[int, str]:
    """(exit status, what it said) of a child that does `work` under strace, with a fault; its calls are in `log`."""
    child, said = forked(work, stopped=True)
    command = ["strace", "-y", "-s", "0", "-p", str(child), "-o", str(log), "-e", f"trace={','.join(CHANGES)}"]
    tracer = subprocess.Popen([*command, *(["-e", f"inject={inject}"] if inject else [])], stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    first = tracer.stderr.readline()
    assert b"attached" in first, first
    os.kill(child, signal.SIGCONT)
    status = ended(child)
    tracer.communicate()
    return status, said.take()


def points(log: Path, home: Path) -> list[Point]:
    """The calls of a log that changed something below `home`, in their order."""
    found, counts = [], dict.fromkeys(CHANGES, 0)
    for line in log.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        if call is None or call[1] not in counts:
            continue
        counts[call[1]] += 1
        reads = call[1] == "openat" and not re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", line)
        if str(home) in line and not reads:
            found.append(Point(call[1], counts[call[1]], line.replace(str(home), "")))
    return found


def unsafe(log: Path, home: Path, before: Path) -> dict[Path, int]:
    """Files below `home` of which a power cut loses something, and how many bytes of each were flushed.

    `before`: the home as it was when the log began, all of it on disk.
    """
    sizes: dict[Path, list[int]] = {}  # path -> [written, flushed]
    for line in log.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        paths = [Path(path) for path in re.findall(r'[<"](/[^>"]*)[>"]', line)]
        paths = [path for path in paths if path.is_relative_to(home)]
        if call is None or not paths or not (answer := re.search(r"\) = (\d+)", line)):
            continue
        kind, path = call[1], paths[-1]
        if path not in sizes and not kind.startswith("rename"):
            old = before / path.relative_to(home)
            sizes[path] = [old.stat().st_size] * 2 if old.is_file() else [0, 0]
        if kind == "openat" and "O_TRUNC" in line:
            sizes[path] = [0, 0]
        elif kind in ("write", "pwrite64", "copy_file_range", "sendfile"):
            sizes[path][0] += int(answer[1])
        elif kind in ("fsync", "fdatasync"):
            sizes[path][1] = sizes[path][0]
        elif kind.startswith("rename") and len(paths) == 2:
            ways = [(paths[0], paths[1]), *([(paths[1], paths[0])] if "RENAME_EXCHANGE" in line else [])]
            moved = {
                new / one.relative_to(old): size
                for old, new in ways
                for one, size in sizes.items()
                if one.is_relative_to(old)
            }
            gone = [one for one in sizes if any(one.is_relative_to(place) for place in paths)]
            sizes = {one: size for one, size in sizes.items() if one not in gone} | moved
    return {path: flushed for path, (written, flushed) in sizes.items() if flushed < written and path.is_file()}


def copied(source: Path, target: Path) -> Path:
    """A fresh copy of a home, for one case."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target, symlinks=True)


def main() -> None:
    """Load, say that it is done, and serve requests until stdin ends."""
    from tests.reliability.cases import Lab

    lab = Lab(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer: object = list(_answer(lab, asked))
        except Exception:
            answer = traceback.format_exc()
        print(json.dumps(answer), flush=True)


def _answer(lab: object, asked: dict[str, object]) -> Iterator[object]:
    yield from getattr(lab, str(asked.pop("do")))(**asked)


if __name__ == "__main__":
    main()
