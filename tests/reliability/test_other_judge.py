"""Another program's verdict: ckpt-chaos kills the command line at the file changes of a run and judges what came back.

Its faults are put into Python (a file is cut in half, the process ends at an open or a rename), ours into the system's
calls; and it knows nothing of our checkpoints but the adapter that an undisturbed run ends in.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
POINTS = 24


@pytest.mark.timeout(3600)
def test_ckpt_chaos_finds_no_kill_that_loses_a_run(
    tiny_model: Path, tmp_path: Path, full: bool, tally: Callable[..., None]
) -> None:
    if not full:
        pytest.skip("another program's kills with ONECARD_FULL=1: minutes")
    if importlib.util.find_spec("ckpt_chaos") is None:
        pytest.skip("ckpt-chaos is not installed: pip install -e .[reliability]")
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"instruction": f"q{i}", "output": f"a{i}"} for i in range(4)]), "utf-8")
    words = [
        sys.executable, "-m", "ckpt_chaos", "run", "--work", tmp_path / "kills", "--max-points", POINTS, "--step-regex",
        r"resumed after step (\d+)", "--result-file", "{out}/run/adapter/adapter_model.safetensors",
        "--", sys.executable, "-m", "tests.reliability.again", "{out}", tiny_model, rows,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    ended = subprocess.run([str(word) for word in words], cwd=ROOT, env=environment, capture_output=True, text=True)
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "kills").glob("pt_*/result.json"))]
    bad = [each for each in results if each["outcome"]["raised"] is not None or each["outcome"]["weights_diff"] != 0]
    for each in bad:
        print(each["label"], each["outcome"], each.get("resume_tail", "")[-500:])
    kinds = Counter(str(each["rc"]) for each in results)
    assert len(results) == POINTS + 1 and kinds["0"] == 1, f"{kinds} {ended.stdout[-3000:]} {ended.stderr[-3000:]}"
    tally("ckpt-chaos: killed before a file change, or with a file cut in half", cases=POINTS, lost=len(bad))
    assert ended.returncode == 0, ended.stdout[-3000:]
