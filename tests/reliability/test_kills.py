"""Killed, cut off from power or out of disk at any instant: no run, table, proof or export is lost, and none is half there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Ask = Callable[..., list[dict[str, str]]]
pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (apt-get install strace)")
SOME = ["train", "choose", "dataset", "rename", "delete", "proof", "merged", "zip", "import", "remove", "create"]
EVERYTHING = [*SOME, "bnb", "gguf-adapter", "receipt"]  # these load models: seconds a case


@pytest.fixture(scope="module")
def ask(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Asks a process that has the model loaded, and forks for every case."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "LC_ALL": "en_US.UTF-8"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.faulty", str(tiny_model), str(tmp_path_factory.mktemp("lab"))],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    assert json.loads(process.stdout.readline()) == "ready"

    def asked(do: str, **how: object) -> list[dict[str, str]]:
        process.stdin.write(json.dumps({"do": do, **how}) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        answer = json.loads(process.stdout.readline())  # type: ignore[union-attr]
        assert isinstance(answer, list), answer
        return answer

    yield asked
    process.stdin.close()
    assert process.wait(60) == 0


def count(tally: Callable[..., None], fault: str, findings: list[dict[str, str]]) -> None:
    """One row of the table; every case that went wrong is printed first."""
    bad = [one for one in findings if one["why"]]
    for one in bad:
        print(f"{one['point']}: {one['why'][-2000:]}")
    lost = sum(one["why"].startswith("lost") for one in bad)
    tally(fault, cases=len(findings), lost=lost, wrong=len(bad) - lost)


@pytest.mark.timeout(1800)
def test_a_kill_at_any_change_of_the_disk_loses_nothing(ask: Ask, tally: Callable[..., None], full: bool) -> None:
    findings = ask("kills", names=EVERYTHING if full else SOME, every=1 if full else 37)
    count(
        tally,
        "SIGKILL before a system call that changes the disk: save, publish, prune, export, tables, runs",
        findings,
    )
    assert len(findings) > (300 if full else 5)


@pytest.mark.timeout(1800)
def test_a_power_cut_takes_nothing_that_was_said_to_be_saved(ask: Ask, tally: Callable[..., None], full: bool) -> None:
    names = ["train", "dataset", "merged", "import", *(["receipt", "gguf-adapter"] if full else [])]
    findings = ask("kills", names=names, every=2 if full else 61, power=True)
    count(tally, "power cut: killed, and every byte that was not flushed gone", findings)


@pytest.mark.timeout(1800)
def test_a_full_disk_is_named_and_takes_nothing(ask: Ask, tally: Callable[..., None], full: bool) -> None:
    names = [name for name in (EVERYTHING if full else SOME) if name not in ("delete", "rename", "remove")]
    findings = ask("full_disks", names=names, every=2 if full else 37)
    count(tally, "disk full from some write on (ENOSPC)", findings)
    assert sum("Disk full" in one["said"] for one in findings) > len(findings) / 3  # the others could do without


@pytest.mark.timeout(1800)
def test_a_run_killed_at_random_goes_on_to_the_same_bytes(ask: Ask, tally: Callable[..., None], full: bool) -> None:
    findings = ask("random_kills", cases=300 if full else 4, seed=8)
    count(tally, "SIGKILL at a random moment of training, once to thrice", findings)


def test_fifty_processes_that_start_at_once_give_one_run(ask: Ask, tally: Callable[..., None], full: bool) -> None:
    findings = ask("starts", processes=50 if full else 12)
    count(tally, "Start pressed in many processes on one home at once", findings)
