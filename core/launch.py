"""A run on other cards than the page's, or on several: other processes train it, this one follows its folder and stops it.

accelerate's launcher starts one process a card; they load bases of their own, and what this process holds on its card
stays there as long as there is room for both.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from core import estimate, models, spread, storage
from core.config import TrainConfig
from core.device import CONTEXT_BYTES, Device, memory_free, nvidia_smi
from core.engine import Engine
from core.errors import BusyError, ConfigError, UserError
from core.run import Event, Run
from core.text import Text

LOG = "cards.log"
_FOLLOWED_BY = "ONECARD_FOLLOWED_BY"  # the page's process, for those that it starts
_WATCH_SECONDS = 1.0
_HANGS_SECONDS = 600.0  # a step and the save after it take seconds
_APP = Path(__file__).resolve().parent.parent / "app.py"
_LOOK_SECONDS = 0.2
_SAID = 600  # characters of the log that an error repeats
# What a run takes of a card beside its base, roughly: what a 7B's adapter, optimizer and passes take.
_BESIDE_BASE = 6_000_000_000
_SPARE_BYTES = 1_000_000_000  # what answering takes beside its base


def visible_cards() -> tuple[str, ...]:
    """The cards that runs may use, as CUDA_VISIBLE_DEVICES names them; the first is this process's own."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(str(index) for index in range(len(nvidia_smi("name"))))
    return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))


def choices() -> list[tuple[Text, int]]:
    """What a user with several cards can choose: how many, 0 being this process's own as ever; none with one card.

    Fewer than all are those beside the first, so that chat keeps that one to itself.
    """
    count = len(visible_cards())
    if count < 2:
        return []
    one = Text("第 1 张卡，和对话共用", "Card 1, shared with chat")
    others = [
        (
            Text(f"另外 {number} 张卡，对话不用等", f"{number} other card{'s' * (number > 1)}: chat never waits"),
            number,
        )
        for number in range(1, count)
    ]
    every = Text("两张卡都用", "Both cards") if count == 2 else Text(f"全部 {count} 张卡", f"All {count} cards")
    return [(one, 0), *others, (every, count)]


def chosen_cards(number: int, config: TrainConfig, engine: Engine) -> tuple[str, ...]:
    """The cards that `number` of `choices` stands for; none for this process's own.

    Raises ConfigError for more than there are, and for settings that cards together cannot follow.
    """
    cards = visible_cards()
    if number > len(cards):
        raise ConfigError(
            Text(
                f"选了 {number} 张卡，但现在只看得到 {len(cards)} 张。请重新选择。",
                f"{number} cards were chosen, but only {len(cards)} are visible now. Choose again.",
            ),
            "cards",
        )
    found = cards if number == len(cards) else cards[1 : 1 + number]
    is_spread(config, engine.device, found)
    return found


def is_spread(config: TrainConfig, device: Device, cards: Sequence[str]) -> bool:
    """Whether the base has to be spread over the cards, because one is too small. Raises ConfigError, see spread.check."""
    base = estimate.resident_bytes(models.inspect(config.model), config, device)
    found = len(cards) > 1 and device.kind == "cuda" and base + CONTEXT_BYTES > device.memory_total
    if found:
        spread.check(config)
    return found


def train_elsewhere(run: Run, stop: threading.Event, engine: Engine, home: Path, cards: Sequence[str]) -> bool:
    """Have `run` trained on `cards` until it ends; `stop` ends it after its step, as ever. Whether its base fits one card.

    Its claims are given back before: the other process takes them. Raises UserError if that ends without saying why.
    """
    over = is_spread(run.config, engine.device, cards)
    if visible_cards()[:1] == tuple(cards)[:1]:
        _give_way(engine, run.config)
    tail = Tail(run)
    with (run.folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            command(home, run.folder, len(cards), over),
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(cards), _FOLLOWED_BY: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl+C is this process's to hear
        )
        try:
            _follow(process, run, stop, tail)
        finally:
            _end(process)
    tail.read()
    if run.ending is None:
        raise UserError(_unexplained(run, process.returncode))
    return not over


def end_with_the_page() -> None:
    """In a process that `train_elsewhere` started: end in order, as by Stop, once whoever follows it is gone.

    A page that was killed could neither show nor stop what goes on, and would offer to resume and to delete it.
    """
    page = os.environ.pop(_FOLLOWED_BY, "")
    if page.isdigit():
        threading.Thread(target=_watch, args=(int(page),), name="page watch", daemon=True).start()


def _watch(page: int) -> None:
    import psutil

    while psutil.pid_exists(page):
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def command(home: Path, folder: Path, cards: int, over: bool) -> list[str]:
    """What trains the run in `folder` on so many cards; `over`: its base is spread over them."""
    work = [str(_APP), "--home", str(home), "train", "--resume", str(folder)]
    if cards < 2:
        return [sys.executable, *work]
    how = ["--use_fsdp", "--fsdp_version", "2"] if over else ["--multi_gpu"]
    machine = ["--num_processes", str(cards), "--num_machines", "1", "--main_process_port", "0"]
    plain = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return [sys.executable, "-m", "accelerate.commands.launch", *how, *machine, *plain, *work]


class Tail:
    """What another process adds to a run's events, put into the run's own list as it comes."""

    def __init__(self, run: Run) -> None:
        self._run, self._path = run, run.folder / "events.jsonl"
        self._at = self._path.stat().st_size if self._path.is_file() else 0

    def read(self) -> bool:
        """Take in the lines that are whole; whether there were any."""
        whole = b""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._at)
            whole, mark, _ = file.read().rpartition(b"\n")
            self._at += len(whole) + len(mark)
            for line in whole.split(b"\n"):
                with contextlib.suppress(ValueError):  # a tail that was torn before
                    event: Event = json.loads(line)
                    self._run.events.append(event)
        return bool(whole)


def _follow(process: subprocess.Popen[bytes], run: Run, stop: threading.Event, tail: Tail) -> None:
    """Until the process ends: take in events, and pass the wish to stop on, once, to the one that leads.

    After a stop, a process that says nothing for minutes hangs, and is ended.
    """
    told, heard = False, time.monotonic()
    while True:
        try:
            process.wait(_LOOK_SECONDS)
            return
        except subprocess.TimeoutExpired:
            if tail.read() or not stop.is_set():
                heard = time.monotonic()
        if stop.is_set() and not told:
            told = _ask_to_end(run)
        if time.monotonic() - heard > _HANGS_SECONDS:
            return


def _ask_to_end(run: Run) -> bool:
    """Whether the process that leads could be told; it holds the run's folder from its first moments on."""
    lock = run.folder / ".lock"
    leader = storage.holder(lock)
    if not (storage.is_held(lock) and leader.isdigit()):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(leader), signal.SIGTERM)
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let nothing go on that nobody follows."""
    if process.poll() is None:
        process.terminate()  # the launcher ends its processes in order, and after half a minute at once
        process.wait()


def _give_way(engine: Engine, config: TrainConfig) -> None:
    """Unload this process's base if the run's own does not fit beside it; the next question loads it again."""
    needed = estimate.resident_bytes(models.inspect(config.model), config, engine.device) + _BESIDE_BASE
    if engine.resident is not None and engine.device.kind == "cuda" and memory_free(engine.device) < needed:
        engine.unload()


def make_sure_of_room(engine: Engine, config: TrainConfig, run: Run | None, cards: Sequence[str]) -> None:
    """Raise BusyError if a base that answers, not loaded yet, would take memory that `run` on all `cards` counts on."""
    if run is None or engine.device.kind != "cuda" or visible_cards()[:1] != tuple(cards)[:1] or not cards:
        return
    asked, theirs = (models.inspect(one.model) for one in (config, run.config))
    own = estimate.resident_bytes(asked, config, engine.device) + _SPARE_BYTES
    # By the card's size, not by what is free alone: the run may not have taken its part yet.
    beside = estimate.resident_bytes(theirs, run.config, engine.device) + _BESIDE_BASE
    if engine.resident is None and (memory_free(engine.device) < own or engine.device.memory_total < own + beside):
        raise BusyError(
            Text(
                f"“{run.title}”正在所有卡上训练，{asked.label} 放不进剩下的显存。"
                "请等训练结束再提问；下次训练时选“另外的卡”，对话就不用等。",
                f"“{run.title}” is training on all cards, and {asked.label} does not fit beside it. Ask when it has ended; a "
                "run on the other cards only never makes chat wait.",
            )
        )


def _unexplained(run: Run, status: int) -> Text:
    """The process's last words."""
    path = run.folder / LOG
    said = path.read_text("utf-8", errors="replace").strip()[-_SAID:] if path.is_file() else ""
    return Text(
        zh=f"在所选的卡上训练的进程意外结束（退出码 {status}），详情见 {path}。可以从最近的检查点继续，或改用一张卡。"
        f"最后的输出：{said}",
        en=f"The process that trained on the chosen cards ended unexpectedly (exit status {status}); see {path}. Resume from "
        f"the newest checkpoint, or use one card. Its last words: {said}",
    )
