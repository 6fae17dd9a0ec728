"""What a real card says when memory runs out, when it is lost, and when others hold it: named, and survived."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from core import holders
from core.config import TrainConfig
from core.dataset import Dataset, Message, Row
from core.device import find_device
from core.errors import WontFitError
from core.generate import Column, Sampling, stream
from core.workspace import Workspace

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]
ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
HOLDING = """
import sys, torch
held = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
print("holding", flush=True)
sys.stdin.read()
"""
LOSING = """
import torch
from core.device_errors import device_errors
from core.errors import DeviceLostError
torch.zeros(1, device="cuda")
try:
    with device_errors("training"):
        torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")]
        torch.cuda.synchronize()
except DeviceLostError as lost:
    print(lost.text.en)
"""


def ended(workspace: Workspace) -> bool:
    """Wait for the run; whether it has ended."""
    limit = time.monotonic() + 120
    while workspace.active is not None and time.monotonic() < limit:
        time.sleep(0.05)
    return workspace.active is None


def test_another_program_is_counted_and_we_are_not() -> None:
    ours = torch.empty(3 * GIB, dtype=torch.uint8, device="cuda")
    card = find_device()
    holders._held.cache_clear()
    before = holders.held(card).others_bytes
    other = subprocess.Popen([sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert other.stdout is not None and other.stdout.readline() == b"holding\n"
        holders._held.cache_clear()
        found = holders.held(card)
        print(before, found)
        assert 2 * GIB <= found.others_bytes - before <= 3 * GIB
        assert found.said is not None and "0.0 GB" not in found.said.en
    finally:
        other.communicate(b"")
    del ours


def test_a_card_that_is_lost_is_told_from_a_failed_call() -> None:
    done = subprocess.run([sys.executable, "-c", LOSING], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "The card stopped answering" in done.stdout, done.stdout + done.stderr[-2000:]


def test_memory_that_runs_out_in_every_pass_ends_the_run_with_numbers_and_comes_back(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "home")
    workspace.save(Dataset("few", tuple(Row(f"question {i}", "", f"answer {i}") for i in range(8))))
    settings = TrainConfig(
        model=str(tiny_model), torch_dtype="bfloat16", max_steps=4, probe_steps=0, rehearsal="off",
        stop_when_taken="false", prove="false",
    )  # fmt: skip
    try:
        workspace.engine.load(str(tiny_model), "none", "bfloat16")
        resident = workspace.engine.resident
        assert resident is not None
        backend: Any = resident.backend
        whole = backend.loss_and_grads

        def greedy(*given: Any, **named: Any) -> Any:
            kept = torch.empty(GIB, dtype=torch.uint8, device="cuda")  # what a failed pass had made by then
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
            return kept, whole(*given, **named)

        gc.collect()
        before = torch.cuda.memory_allocated()
        monkeypatch.setattr(backend, "loss_and_grads", greedy)
        run = workspace.start("few", settings)
        assert ended(workspace) and run.status == "failed"
        failed = run.events[-1]
        assert failed["needed_bytes"] >= 1 << 50 > failed["free_bytes"] > 0
        gc.collect()
        assert torch.cuda.memory_allocated() - before < GIB / 2
        monkeypatch.undo()
        said = list(stream(workspace.engine, [Column((Message("user", "question 1"),))], Sampling(max_new_tokens=4)))
        assert said
        again = workspace.start("few", settings)
        assert ended(workspace) and again.status == "finished"
    finally:
        workspace.close()


def test_a_base_too_large_for_what_is_left_is_refused_with_numbers(tiny_model: Path) -> None:
    from core.device_errors import device_errors

    with pytest.raises(WontFitError) as short, device_errors("load"):
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    assert short.value.needed_bytes >= 1 << 50 > short.value.free_bytes > GIB
