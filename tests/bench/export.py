"""How long a merge takes beside writing the same bytes plain, and how much memory it holds.

    python tests/bench/export.py --model DIR [--times 2] [--peer] [--work DIR] [--out FILE]

In turns: as many bytes as the base's weights have, from one buffer of 64 MiB into files of 4 GB, flushed to the disk
(`plain`); `export --format merged --no_test` in a process of its own (`ours`); with --peer, transformers + PEFT's
merge_and_unload and save_pretrained on the processor (`theirs`). One JSON line each: seconds, GB/s, times the plain
write of the same turn, peak of memory that is not the page cache's (VmRSS less mapped files, sampled every 20 ms), and what of
that the interpreter with its libraries holds before any weight is read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core import adapters, models

_ROOT = Path(__file__).resolve().parents[2]
_CHUNK = 1 << 26
_FILE = 4_000_000_000
_PEER = """
import sys, torch, json
from transformers import AutoModelForCausalLM
from peft import PeftModel
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, local_files_only=True)
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3], max_shard_size="4GB")
"""
# What `app.py export` runs, on a machine that lacks the page's packages.
_OURS = """
import argparse, sys
from pathlib import Path
from core import cli, export_command
root = argparse.ArgumentParser()
root.add_argument("--home", type=Path)
export_command.add_command(root.add_subparsers())
sys.exit(cli.run(root.parse_args()))
"""
_EMPTY = "import torch, numpy, safetensors; torch.zeros(8) @ torch.zeros(8)"


def make_adapter(base: Path, folder: Path, rank: int) -> None:
    """A random LoRA on every linear layer of the base's blocks, of a size at which merging changes weights."""
    import torch
    from safetensors.torch import save_file

    from core.export.weights import Weights

    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    tensors = {}
    for entry in Weights(base, None).entries:
        path = entry.name.removesuffix(".weight")
        if path.rpartition(".")[2] in names:
            head = f"base_model.model.{path}.lora_"
            tensors[f"{head}A.weight"] = torch.randn(rank, entry.shape[1]) / 8
            tensors[f"{head}B.weight"] = torch.randn(entry.shape[0], rank) / 64
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / adapters.WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0,
        "target_modules": list(names), "bias": "none", "base_model_name_or_path": str(base),
    }  # fmt: skip
    (folder / adapters.CONFIG).write_text(json.dumps(config))


def plain(folder: Path, nbytes: int) -> float:
    """Seconds of writing `nbytes` into files and flushing them."""
    folder.mkdir()
    data = memoryview(os.urandom(1 << 20) * (_CHUNK >> 20))
    begun = time.perf_counter()
    left, number = nbytes, 0
    while left:
        with (folder / f"{number}.bin").open("wb", buffering=0) as file:
            room = min(_FILE, left)
            left -= room
            while room:
                room -= file.write(data[: min(_CHUNK, room)])
            os.fsync(file.fileno())
        number += 1
    return time.perf_counter() - begun


def _own_bytes(pid: int) -> int:
    """Resident bytes of a process without the pages of files it has mapped; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return 1024 * (int(found.get("RssAnon", 0)) + int(found.get("RssShmem", 0)))


def watched(command: list[str]) -> tuple[float, int]:
    """(seconds, peak bytes of its own) of a command. Raises RuntimeError with its last words if it fails."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "LANG": "en_US.UTF-8"}
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout or ()))
    reader.start()
    peak = 0
    while process.poll() is None:
        peak = max(peak, _own_bytes(process.pid))
        time.sleep(0.02)
    seconds = time.perf_counter() - begun
    reader.join()
    if process.returncode:
        raise RuntimeError(b"".join(said[-20:]).decode(errors="replace"))
    return seconds, peak


def main() -> int:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--work", type=Path, default=Path.cwd() / ".export-bench")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    base = models.inspect(arguments.model).folder
    nbytes = sum(path.stat().st_size for path in models.shards(base))
    work: Path = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    make_adapter(base, work / "adapter", arguments.rank)
    out = work / "merged"
    ours = [
        sys.executable, "-c", _OURS, "--home", str(work / "home"), "export", "--model", arguments.model, "--adapters",
        str(work / "adapter"), "--format", "merged", "--no_test", "--output_dir", str(out),
    ]  # fmt: skip
    theirs = [sys.executable, "-c", _PEER, str(base), str(work / "adapter"), str(out)]
    _, empty = watched([sys.executable, "-c", _EMPTY])
    for turn in range(arguments.times):
        floor = plain(work / "plain", nbytes)
        shutil.rmtree(work / "plain")
        record: dict[str, object] = {"way": "plain", "turn": turn, "seconds": round(floor, 2), "bytes": nbytes}
        _told(record | {"gb_s": round(nbytes / floor / 1e9, 2)}, arguments.out)
        for way, command in (("ours", ours), ("theirs", theirs)):
            if way == "theirs" and not (arguments.peer and turn == 0):
                continue
            seconds, peak = watched(command)
            shutil.rmtree(out)
            record = {"way": way, "turn": turn, "seconds": round(seconds, 2), "times_plain": round(seconds / floor, 2)}
            _told(
                record | {"peak_gb": round(peak / 1e9, 2), "empty_gb": round(empty / 1e9, 2)},
                arguments.out,
            )
    shutil.rmtree(work)
    return 0


def _told(record: dict[str, object], out: Path | None) -> None:
    print(json.dumps(record), flush=True)
    if out is not None:
        with out.open("a") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    sys.exit(main())
