"""vLLM as a process beside ours: started from a list of arguments, its log followed, ended with its whole group.

Knows no model and no page.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Literal

from core import vllm
from core.errors import BusyError, UserError
from core.text import Text

State = Literal["off", "starting", "ready", "stopping", "failed"]
LINES = 400
_SHOWN = 12
_LONGEST_LINE = 4096
_PAUSE_SECONDS = 0.25
PATIENCE_SECONDS = 20.0
"""How long vLLM may take to end when it is asked to."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# What vLLM says of causes that a person can mend, and what to do.
_CAUSES = (
    ("Unknown quantization method: bitsandbytes", vllm.BNB_PLUGIN),
    (
        "less than desired GPU memory utilization",
        Text(
            "显存被别的程序占用：请先结束它们，或在命令行用 -- --gpu-memory-utilization 0.5 让 vLLM 少占一些。",
            "Other programs hold memory of the card: end them, or let vLLM take less, on the command line with "
            "-- --gpu-memory-utilization 0.5.",
        ),
    ),
    (
        "larger than the available KV cache memory",
        Text(
            "显存放不下模型的整个上下文：请把“上下文长度”设成 8192 之类的值（命令行：-- --max-model-len 8192）。",
            "The card has no room for the model's whole context: set Context length to 8192 for example (on the command line: "
            "-- --max-model-len 8192).",
        ),
    ),
    (
        "CUDA out of memory",
        Text("显存不够：请换 4 比特，或换小一些的模型。", "Out of memory on the card: use 4 bits, or a smaller model."),
    ),
)  # fmt: skip


class VllmServer:
    """At most one vLLM. `told` is called with each line of its log, on another thread. `revision` counts changes."""

    def __init__(self, told: Callable[[str], None] = lambda line: None) -> None:
        self.state: State = "off"
        self.revision = 0
        self.failure: Text | None = None
        self.place = ("127.0.0.1", 0)
        self._told = told
        self._lines: deque[str] = deque(maxlen=LINES)
        self._guard = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._watcher: threading.Thread | None = None
        self._deadline = 0.0

    @property
    def running(self) -> bool:
        """Whether there is a vLLM, answering or not."""
        return self.state in ("starting", "ready", "stopping")

    @property
    def lines(self) -> list[str]:
        """The last lines of its log."""
        return list(self._lines)

    @property
    def pid(self) -> int | None:
        """Its process, which leads a group of its own."""
        return self._process.pid if self._process is not None else None

    def start(self, command: Sequence[str], environment: Mapping[str, str], host: str, port: int) -> None:
        """Start `command`; it is ready when http://host:port/health answers. Raises BusyError, or UserError if it
        cannot be started at all."""
        with self._guard:
            if self.running:
                raise BusyError(Text("vLLM 已经在运行。请先停止它。", "vLLM is running already. Stop it first."))
            self._lines.clear()
            self.failure, self.place = None, (host, port)
            begun: Future[subprocess.Popen[str]] = Future()
            self._watcher = threading.Thread(
                target=self._watch, args=(_bound(command), dict(environment), begun), name="vllm", daemon=True
            )
            self._watcher.start()
            try:
                self._process = begun.result()
            except (OSError, ValueError) as error:
                raise UserError(_unstartable(command[0], getattr(error, "strerror", None) or str(error))) from None
            self._set("starting")

    def stop(self, patience: float = PATIENCE_SECONDS, wait: bool = True) -> None:
        """Ask vLLM to end, and `wait` for it; after `patience` seconds, or when it is asked once more, it is killed."""
        with self._guard:
            process, watcher = self._process, self._watcher
            if not self.running or process is None or watcher is None:
                return
            if self.state == "stopping":
                self._deadline = 0.0
            else:
                self._deadline = time.monotonic() + patience
                self._set("stopping")
                _signal(process, signal.SIGTERM)
        if wait:
            watcher.join()

    def wait(self) -> None:
        """Return when there is no vLLM any more. Raises UserError with its last lines if it ended by itself."""
        watcher = self._watcher
        while watcher is not None and watcher.is_alive():
            watcher.join(0.2)  # short: a signal is only handled between two waits
        if self.failure is not None:
            raise UserError(self.failure)

    def _set(self, state: State) -> None:
        self.state = state
        self.revision += 1

    def _watch(self, command: list[str], environment: dict[str, str], begun: Future[subprocess.Popen[str]]) -> None:
        try:
            # A group of its own: Ctrl+C in our terminal is ours to hand on, and its workers end with it.
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, encoding="utf-8", errors="replace", start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:  # a zero byte in an argument is no OSError
            begun.set_exception(error)
            return
        begun.set_result(process)
        reader = threading.Thread(target=self._read, args=(process,), name="vllm log", daemon=True)
        reader.start()
        while process.poll() is None:
            if self.state == "starting" and _answers(*self.place):
                with self._guard:
                    if self.state == "starting":
                        self._set("ready")
            if self.state == "stopping" and time.monotonic() > self._deadline:
                _signal(process, signal.SIGKILL)
            time.sleep(_PAUSE_SECONDS)
        # Its workers: a leader that was killed, or crashed, leaves them, and they hold the card.
        _signal(process, signal.SIGKILL)
        reader.join(5)
        with self._guard:
            if self.state == "stopping":
                self._set("off")
            else:
                self.failure = self._why(process.returncode)
                self._set("failed")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            while line := process.stdout.readline(_LONGEST_LINE):
                said = _COLOURS.sub("", line).rstrip()
                if said:
                    self._lines.append(said)
                    self.revision += 1
                    # Whoever is told may be a closed terminal; vLLM stands still if nobody reads its output on.
                    with contextlib.suppress(OSError, ValueError):
                        self._told(said)

    def _why(self, status: int) -> Text:
        lines = self.lines
        cause = next((text for words, text in _CAUSES if any(words in line for line in lines)), Text("", ""))
        last = "\n".join(lines[-_SHOWN:]) or "(–)"
        how = signal.Signals(-status).name if status < 0 else str(status)
        return Text(
            f"vLLM 已退出（状态 {how}）。{cause.zh}它最后的输出：\n{last}",
            f"vLLM has ended (status {how}). {cause.en + ' ' if cause.en else ''}Its last lines:\n{last}",
        )


def _bound(command: Sequence[str]) -> list[str]:
    """The command, told to end when the thread that starts it does: the watcher's, so with us, however we end.

    Without util-linux's setpriv one that outlives us must be ended by hand. Raises UserError if there is no such program.
    """
    if shutil.which(command[0]) is None:
        raise UserError(_unstartable(command[0], os.strerror(errno.ENOENT)))
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []), *command]


def _unstartable(program: str, why: str | None) -> Text:
    return Text(f"无法启动 {program}：{why}。", f"{program} cannot be started: {why}.")


def _answers(host: str, port: int) -> bool:
    """Whether /health says that requests are answered."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    connection = http.client.HTTPConnection(here, port, timeout=2)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to the process's whole group, as long as anybody is in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
