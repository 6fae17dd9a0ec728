"""What is done while a process is killed or its disk fails, and how to tell afterwards that nothing was lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from core import adapters, checkpoints, pinned, proof_subject, storage
from core.attached import Attached
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row
from core.engine import Engine
from core.errors import BusyError, UserError
from core.export import gguf_file, receipt
from core.export.card import model_card
from core.export.make import make
from core.export.order import Order
from core.export.retest import load_receipt, retest
from core.job import Job
from core.library import Library
from core.run import Event, Run
from core.tables import Tables
from core.text import Text
from core.train import train
from core.workspace import Workspace
from tests.reliability.faulty import Point, copied, done, ended, forked, points, struck, unsafe

ROWS = [Row(f"question {i} " + "x" * (3 * i), "", f"answer {i}" * (1 + i % 3)) for i in range(10)]
OTHERS = [Row(f"another {i}", "", "answer " * 400) for i in range(12)]
CARDS = (Identity("小禾", "Xiaohe", "青禾", "Qinghe"), Identity("新名", "Newname", "新人", "Author"))
EXPORTS = ("merged", "zip", "bnb", "gguf-adapter")
_WEIGHTS = (".safetensors", ".gguf")  # an archive has times in it
FULL = ("write", "pwrite64", "ftruncate", "copy_file_range", "sendfile", "mkdir", "openat", "fsync")
Finding = dict[str, str]


class Lab:
    """One loaded engine and a folder of homes to begin from."""

    def __init__(self, model: Path, scratch: Path) -> None:
        import torch

        torch.set_num_threads(1)
        pinned._HARDER, pinned._GENERAL = 2, 1  # type: ignore[misc]
        receipt.QUESTIONS = 2
        # The small model has a tokenizer that llama.cpp does not know; an adapter's file holds none.
        gguf_file.check = lambda base: None
        self.scratch, self.engine = scratch, Engine()
        self.engine.load(str(model))
        self.config = TrainConfig(
            model=str(model),
            learning_rate=1e-2,
            max_steps=4,
            save_steps=1,
            gradient_accumulation_steps=4,
            probe_steps=0,
        )
        # So that no child has to import these anew. Nothing is trained here: autograd would not survive the fork.
        self.engine.create_adapter("warm", self.config)
        self.engine.save_adapter("warm", scratch / "warm", {})
        self.engine.detach("warm")
        __import__("core.export.weights"), __import__("core.flat"), __import__("core.optimizer")
        self._templates: dict[str, Path] = {}
        self._whole: dict[str, Mapping[str, str]] = {}
        self._straight: list[str] = []

    # -- the work --

    def train(self, home: Path) -> str:
        """Go on with the run, or begin it; as the product does, on this thread. Says what it failed of."""
        folder = home / "runs" / "r"
        begun = (folder / "config.json").exists()
        run = Run.open(folder) if begun else Run.create(folder, self.config, ROWS, "r", "mine")
        job = Job(lambda run, stop: train(self.engine, run, stop), lambda: None)
        job.run, run.live = run, True
        job._train(run)
        ending = run.ending
        return f"failed: {ending['message_en']}" if ending and ending["type"] == "failed" else ""

    def _stopped_at(self, home: Path, step: int) -> None:
        run, stop = Run.create(home / "runs" / "r", self.config, ROWS, "r", "mine"), threading.Event()
        original = run.append

        def append(kind: str, **fields: object) -> Event:
            if kind == "saved" and fields["step"] == step:
                stop.set()
            return original(kind, **fields)

        run.append = append  # type: ignore[method-assign]
        train(self.engine, run, stop)

    def choose(self, home: Path) -> str:
        Run.open(home / "runs" / "r").choose(3)
        return ""

    def save_table(self, home: Path) -> str:
        Tables(home / "datasets", home / "history").save(
            Dataset("mine", tuple(OTHERS), CARDS[1]), Text("改", "changed")
        )
        return ""

    def rename_table(self, home: Path) -> str:
        Tables(home / "datasets", home / "history").rename("mine", "yours")
        return ""

    def delete_table(self, home: Path) -> str:
        Tables(home / "datasets", home / "history").delete("mine")
        return ""

    def write_proof(self, home: Path) -> str:
        storage.write_json(home / "runs" / "r" / "proof.json", _PROOFS[1])
        return ""

    def _export(self, kind: str) -> Callable[[Path], str]:
        def work(home: Path) -> str:
            make(self._order(home, kind), lambda done, total: None, threading.Event(), lambda staged: "card\n")
            return ""

        return work

    def _order(self, home: Path, kind: str) -> Order:
        return Order(home / "runs" / "r" / "adapter", self.config.model, kind, home / "exports" / "out", "out")  # type: ignore[arg-type]

    def test_again(self, home: Path) -> str:
        """Load the export, ask it, and put the receipt and a card that tells of it beside it."""
        order = self._order(home, "adapter")
        subject = proof_subject.of_folder(order.adapter, "tested", order.name, None, ())

        @contextlib.contextmanager
        def hold() -> Iterator[None]:
            self.engine.attach(adapters.read(order.adapter, subject.name))
            yield

        found = retest(self.engine, subject, order, hold, lambda done, total, what: None, threading.Event())
        assert found is not None
        storage.write_text(order.target / "README.md", model_card(order, None, None, found))
        return ""

    def bring(self, home: Path) -> str:
        self._library(home).bring_folder(str(home / "runs" / "r" / "adapter"), "guest")
        return ""

    def _library(self, home: Path) -> Library:
        return Library(home / "adapters", lambda: [], lambda: None, Attached(self.engine, set))

    def delete_run(self, home: Path) -> str:
        Workspace(home, self.engine).delete_run("r")
        return ""

    def create_run(self, home: Path) -> str:
        Run.create(home / "runs" / "new", self.config, OTHERS, "new", "mine", evaluation=ROWS)
        return ""

    # -- what must be true afterwards; the answer says what is not --

    def _resumes(self, home: Path) -> str:
        folder = home / "runs" / "r"
        if not (folder / "config.json").exists():  # killed before there was a run
            return "" if not (folder / "adapter").exists() else "lost: the run's settings"
        run = Run.open(folder)
        adapter, told = _digest(folder / "adapter"), run.adapter_step
        if run.status not in ("new", "interrupted", "finished", "failed", "stopped"):
            return f"the run is {run.status}"
        if adapter and (adapter not in self._straight or self._straight.index(adapter) + 1 != told):
            return f"adapter/ is said to be of step {told}, and is not"
        saved = [event["step"] for event in run.events if event["type"] == "saved" and event["path"] != "adapter"]
        newest, damaged = checkpoints.newest(run)
        if not adapter and "adapter" in [event["path"] for event in run.events if event["type"] == "saved"]:
            return "lost: adapter/ is gone"
        if damaged or (newest.state.step if newest else 0) < max(map(int, map(str, saved)), default=0):
            return f"lost: {damaged or (newest and newest.state.step)} where {saved} were saved"
        why = self.train(home) if run.resumable else ""
        if why or _digest(folder / "adapter") != self._straight[-1]:
            return why or "lost: it went on to other weights"
        left = [path.name for path in folder.rglob(".*") if path.name != ".lock"]
        return f"left behind: {left}" if left and run.resumable else ""

    def _chosen(self, home: Path) -> str:
        run = Run.open(home / "runs" / "r")
        step = run.adapter_step
        if step not in (3, 4) or _digest(home / "runs" / "r" / "adapter") != self._straight[step - 1]:
            return f"adapter/ is said to be of step {step}, and is not"
        for step in (3, 4, 3):
            run.choose(step)
        return ""

    def _table(self, *allowed: tuple[str, int]) -> Callable[[Path], str]:
        """The dataset is one of (name, which): rows and card together, and its history tells the same."""

        def check(home: Path) -> str:
            tables = Tables(home / "datasets", home / "history")
            for name, which in allowed:
                if name in tables.names():
                    found = tables.get(name)
                    if (list(found.rows), found.identity) != ([ROWS, OTHERS][which], CARDS[which]):
                        continue
                    history = tables.versions(name)
                    if history[0].rows != len(found.rows):
                        return f"its history says {history[0]}"
                    tables.save(replace(found, rows=tuple(ROWS[:3])))
                    return "" if len(tables.get(name).rows) == 3 else "it cannot be saved again"
            back = [gone.history for gone in tables.deleted() if gone.name == "mine"]
            if ("", 0) in allowed and back and list(tables.bring_back(back[0]).rows) == ROWS:
                return ""
            return f"lost: {[(name, len(tables.get(name).rows)) for name in tables.names()]}"

        return check

    def _proof(self, home: Path) -> str:
        return "" if storage.read_json(home / "runs" / "r" / "proof.json") in _PROOFS else "lost"

    def _exported(self, kind: str) -> Callable[[Path], str]:
        def check(home: Path) -> str:
            out, whole = home / "exports" / "out", self._whole[kind]
            if out.exists() and _digests(out).keys() != whole.keys():
                return f"a part of an export: {sorted(_digests(out))}"
            if out.exists() and any(_digests(out)[name] != whole[name] for name in whole if name.endswith(_WEIGHTS)):
                return "an export of other weights"
            if out.exists() and any(path.stat().st_mode & 0o777 != 0o644 for path in out.iterdir()):
                return "not readable by others"
            if not out.exists():
                self._export(kind)(home)
            left = [path.name for path in out.parent.glob(".*")]
            return f"left behind: {left}" if left else ""

        return check

    def _tested(self, home: Path) -> str:
        out = home / "exports" / "out"
        if load_receipt(out) is None or not (out / "README.md").read_text("utf-8").endswith("\n"):
            return "lost: the receipt of the test before"
        self.test_again(home)
        left = [path.name for path in out.parent.rglob(".*")]
        return f"left behind: {left}" if left or load_receipt(out) is None else ""

    def _brought(self, home: Path) -> str:
        library = self._library(home)
        found = library.find("guest")
        if found is None:
            return "" if library.bring_folder(str(home / "runs" / "r" / "adapter"), "guest").folder else "lost"
        same = found.folder is not None and _digest(found.folder) == self._straight[-1]
        return "" if same and found.problem is None else f"a part of an adapter: {found.problem}"

    def _deleted(self, home: Path) -> str:
        run = next((run for run in Workspace(home, self.engine).runs() if run.id == "r"), None)
        whole = run is None or (run.rows == ROWS and _digest(run.folder / "adapter") == self._straight[-1])
        return "" if whole else "half a run is listed"

    def _created(self, home: Path) -> str:
        runs = [run for run in Workspace(home, self.engine).runs() if run.id == "new"]
        whole = all((run.rows, run.evaluation_rows, run.status) == (OTHERS, ROWS, "new") for run in runs)
        return "" if whole else "half a run is listed"

    # -- campaigns --

    def _cases(self) -> dict[str, tuple[str, Callable[[Path], str], Callable[[Path], str]]]:
        """name -> (home to begin from, work, check)."""
        return {
            "train": ("stopped", self.train, self._resumes),
            "choose": ("finished", self.choose, self._chosen),
            "dataset": ("finished", self.save_table, self._table(("mine", 0), ("mine", 1))),
            "rename": ("finished", self.rename_table, self._table(("yours", 0), ("mine", 0))),
            "delete": ("finished", self.delete_table, self._table(("mine", 0), ("", 0))),
            "proof": ("finished", self.write_proof, self._proof),
            "merged": ("finished", self._export("merged"), self._exported("merged")),
            "zip": ("finished", self._export("zip"), self._exported("zip")),
            "bnb": ("finished", self._export("bnb"), self._exported("bnb")),
            "gguf-adapter": ("finished", self._export("gguf-adapter"), self._exported("gguf-adapter")),
            "receipt": ("tested", self.test_again, self._tested),
            "import": ("finished", self.bring, self._brought),
            "remove": ("finished", self.delete_run, self._deleted),
            "create": ("finished", self.create_run, self._created),
        }

    def kills(self, names: list[str], every: int, power: bool = False) -> Iterator[Finding]:
        """A kill before every `every`-th change of each case; `power`: what was not flushed is lost as well."""
        return self._faults(names, every, lambda point: f"{point.call}:signal=SIGKILL:when={point.number}", power)

    def full_disks(self, names: list[str], every: int) -> Iterator[Finding]:
        """From every `every`-th write on, the disk is full; the user is told so, and has what there was before."""
        return self._faults(names, every, lambda point: f"{point.call}:error=ENOSPC:when={point.number}{_for(point)}")

    def _faults(
        self, names: list[str], every: int, inject: Callable[[Point], str], power: bool = False
    ) -> Iterator[Finding]:
        home, log, kept = self.scratch / "home", self.scratch / "log", 0
        full = "ENOSPC" in inject(Point("write", 1))
        for name in names:
            template, work, check = self._cases()[name]
            copied(self._template(template), home)
            if name in EXPORTS:
                done(lambda work=work: work(home))  # type: ignore[misc]
                self._whole[name] = _digests(home / "exports" / "out")
                copied(self._template(template), home)
            status, said = struck(lambda work=work: work(home), log)  # type: ignore[misc]
            assert status == 0 and not said, said
            for point in points(log, home):
                kept += 1
                if kept % every or (full and (point.call not in FULL or "O_DIRECTORY" in point.line)):
                    continue
                copied(self._template(template), home)
                status, said = struck(lambda work=work: _told(work, home), self.scratch / "one", inject(point))  # type: ignore[misc]
                why = _honest(said, status) if full else ""
                if power:
                    for path, flushed in unsafe(self.scratch / "one", home, self._template(template)).items():
                        os.truncate(path, flushed)
                yield {"point": f"{name}, {point}", "why": why or self._checked(check, home), "said": said}

    def _checked(self, check: Callable[[Path], str], home: Path) -> str:
        try:
            return done(lambda: check(home))
        except RuntimeError as error:
            return f"wrong: {error}"

    def random_kills(self, cases: int, seed: int) -> Iterator[Finding]:
        """SIGKILL at a random moment of a run that saves every step, or of the attempt to go on with one."""
        chance, home = random.Random(seed), self.scratch / "home"
        copied(self._template("new"), home)
        begun = time.perf_counter()
        done(lambda: self.train(home))
        whole = time.perf_counter() - begun
        for number in range(cases):
            copied(self._template("new"), home)
            kills = 1 + number % 3
            for _ in range(kills):
                child, _said = forked(lambda: self.train(home))
                time.sleep(chance.uniform(0, whole / kills))
                os.kill(child, signal.SIGKILL)
                ended(child)
            yield {"point": f"kill {number}", "why": self._checked(self._resumes, home)}

    def starts(self, processes: int) -> Iterator[Finding]:
        """As many processes on one home press Start at once, and a second server opens it."""
        home = copied(self._template("new"), self.scratch / "home")
        read, write = os.pipe()

        def start() -> str:
            workspace = Workspace(home, self.engine)
            signal.signal(signal.SIGUSR1, lambda *_: workspace.stop())
            os.close(write)
            os.read(read, 1)  # returns when the last holder of the other end lets go of it
            try:
                workspace.start("mine", replace(self.config, max_steps=100_000, model_name="x"))
            except BusyError as error:
                return f"busy: {error}"
            workspace._job.join()
            return "began"

        children = [forked(start) for _ in range(processes)]
        os.close(read)
        os.close(write)
        open_ones = dict(children)
        while len(open_ones) > 1:
            child, status = os.wait()
            said = open_ones.pop(child).take()
            yield {"point": "start", "why": "" if status == 0 and "is training in" in said else f"wrong: {said}"}
        (winner,) = open_ones
        os.kill(winner, signal.SIGUSR1)
        status = ended(winner)
        runs = [path.name for path in (home / "runs").iterdir()]
        good = status == 0 and open_ones[winner].take() == "began" and len(runs) == 1
        yield {"point": "start", "why": "" if good else f"wrong: {runs}, {open_ones[winner].take()}"}

    # -- homes --

    def _template(self, name: str) -> Path:
        if name not in self._templates:
            home = self.scratch / f"template-{name}"
            made = {
                "new": self._make_new, "stopped": self._make_stopped, "finished": self._make_finished,
                "tested": self._make_tested,
            }  # fmt: skip
            self._templates[name] = home
            made[name](home)
        return self._templates[name]

    def _make_new(self, home: Path) -> None:
        tables = Tables(home / "datasets", home / "history")
        tables.create("mine", ROWS, CARDS[0])
        if not self._straight:
            self._straight = [self._weights_after(step) for step in range(1, 5)]

    def _weights_after(self, step: int) -> str:
        home = self.scratch / f"straight-{step}"
        done(lambda: self._stopped_at(home, step) or "")  # type: ignore[func-returns-value]
        return _digest(home / "runs" / "r" / "adapter")

    def _make_stopped(self, home: Path) -> None:
        self._make_new(home)
        done(lambda: self._stopped_at(home, 2) or "")  # type: ignore[func-returns-value]

    def _make_finished(self, home: Path) -> None:
        self._make_new(home)
        done(lambda: self.train(home))
        storage.write_json(home / "runs" / "r" / "proof.json", _PROOFS[0])

    def _make_tested(self, home: Path) -> None:
        copied(self._template("finished"), home)
        done(lambda: self._export("adapter")(home) + self.test_again(home))


_PROOFS = [{"answers": [{"question": f"{i} 你是谁？", "answer": "x" * 200} for i in range(n)]} for n in (30, 70)]


def _for(point: Point) -> str:
    return "" if point.call == "openat" else "+"  # what is opened for reading stays readable on a full disk


def _told(work: Callable[[Path], str], home: Path) -> str:
    """What the work says, or the sentence it gave up with."""
    try:
        return work(home)
    except UserError as error:
        return f"failed: {error}"


def _honest(said: str, status: int) -> str:
    """Nothing if a full disk was named; whoever could do without that write may say nothing."""
    if status == 0 and (not said or ("isk" in said and "full" in said)):
        return ""
    return f"wrong: {status} {said[-1500:]}"


def _digest(adapter: Path) -> str:
    path = adapter / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _digests(folder: Path) -> Mapping[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}
