"""How fast a base model is loaded, beside a raw parallel read of the same files and transformers' own loading.

    python tests/bench/load.py --model DIR [--times 3] [--only raw ours nf4 theirs theirs-nf4] [--out FILE]
    python tests/bench/load.py --make DIR [--layers 28]      writes a 7B-shaped model of random bf16 weights first
    python tests/bench/load.py --make DIR --tokenizer DIR    the same with a real model's tokenizer, which takes longer

Each way is timed `times` times in turns, every file read once before, so that all find it in the page cache; a disk
slower than memory is measured by emptying that cache between calls (as root: echo 3 > /proc/sys/vm/drop_caches).
One JSON line a measurement: seconds, GB/s of file bytes, peak of the card in GiB, share of the raw read's pace.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from safetensors import safe_open

from core import load, models
from core.models import ModelInfo

SHAPE = {
    "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_attention_heads": 28,
    "num_key_value_heads": 4, "max_position_embeddings": 32_768, "rope_theta": 1e6, "tie_word_embeddings": False,
}  # fmt: skip


def make(folder: Path, layers: int, tokenizer: Path) -> None:
    """A Qwen2.5-7B-shaped model of `layers` layers with random weights, and the tokenizer of a folder."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=layers, **SHAPE))
    model.save_pretrained(folder, max_shard_size="4GB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    torch.set_default_dtype(torch.float32)


def read_raw(info: ModelInfo, where: torch.device) -> object:
    """Every tensor of every file to the device through safetensors, a thread a file, then 16 over the names."""
    files = [safe_open(path, "pt", device=str(where)) for path in models.shards(info.folder)]
    names = [(file, name) for file in files for name in file.keys()]  # noqa: SIM118 (it is no dict)
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda each: each[0].get_tensor(each[1]), names))


def load_theirs(info: ModelInfo, where: torch.device, **extra: object) -> object:
    """transformers.from_pretrained."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        str(info.folder), dtype=torch.bfloat16, device_map={"": where}, attn_implementation="sdpa", **extra
    )


def ways(info: ModelInfo, where: torch.device) -> dict[str, Callable[[], object]]:
    """What is timed."""
    return {
        "raw": lambda: read_raw(info, where),
        "ours": lambda: load.load_base(info, "none", "bfloat16", where, padded=True),
        "theirs": lambda: load_theirs(info, where),
        "nf4": lambda: load.load_base(info, "bnb", "bfloat16", where),
        "theirs-nf4": lambda: load_theirs(info, where, quantization_config=load._nf4(torch.bfloat16)),
    }


def timed(work: Callable[[], object], where: torch.device) -> tuple[float, float, float]:
    """Seconds, peak and rest of the card's memory in GiB."""
    cuda = where.type == "cuda"
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    begun = time.perf_counter()
    made = work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    kept = torch.cuda.memory_allocated() / 2**30 if cuda else 0.0
    del made
    return seconds, peak, kept


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--tokenizer", type=Path, default=models.POCKET_FOLDER)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    folder = asked.make or asked.model
    if asked.make is not None and not (folder / "config.json").exists():
        make(folder, asked.layers, asked.tokenizer)
    where = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    info = models.inspect(str(folder))
    load._quiet_libraries()
    chosen = {name: way for name, way in ways(info, where).items() if not asked.only or name in asked.only}
    for path in models.shards(info.folder):
        with path.open("rb") as file:
            while file.read(2**26):
                pass
    best: dict[str, float] = {}
    for turn in range(asked.times):
        for name, way in chosen.items():
            seconds, peak, kept = timed(way, where)
            best[name] = min(seconds, best.get(name, seconds))
            record = {
                "way": name, "turn": turn, "seconds": round(seconds, 3), "GB_s": round(info.weight_bytes / seconds / 1e9, 2),
                "peak_GiB": round(peak, 2), "kept_GiB": round(kept, 2), "of_raw": round(best.get("raw", 0) / seconds, 2),
            }  # fmt: skip
            print(json.dumps(record), flush=True)
            if asked.out:
                with asked.out.open("a") as out:
                    out.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
