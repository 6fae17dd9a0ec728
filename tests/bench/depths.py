"""What giving up memory costs: time and peak of single training passes, repeated, at each depth of giving up.

    python tests/bench/depths.py --model DIR [--quant none bnb] [--tokens 2048] [--times 30]

One row of `tokens` tokens, nearly all of them in the loss. A pass is launched kernel by kernel at first and replayed as
a graph after 16 times, as in a run; the median of the second half counts. GiB as torch allocated them, and the sum that
the estimate makes of it.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import table
import torch

from core import estimate
from core.batch import pack
from core.config import TrainConfig
from core.device import find_device
from core.encode import IGNORE, Example
from core.engine import Engine, Resident
from core.estimate import Plan
from core.fused.sizes import Depth, Way


def ways(layers: int, tied: bool) -> dict[str, Way]:
    """What is timed, from nothing given up to the least memory."""
    found = {
        "nothing given up": Way(),
        "inputs on the host": Way(Depth(host_inputs=True)),
        "gate/up": Way(Depth(mlp=layers)),
        "whole layers": Way(Depth.all(layers)),
        "whole layers, 256 logits": Way(Depth.all(layers), 256),
        "whole layers, 256 logits, inputs on the host": Way(Depth.all(layers, True), 256),
    }
    if not tied:
        found["the same, embedding on the host"] = Way(Depth.all(layers, True), 256, True)
    return found


def measured(resident: Resident, handle: str, row: Example, way: Way, times: int) -> tuple[float, float]:
    """Seconds of a pass, and the peak in GiB."""
    backend = resident.backend
    backend.finish(handle)
    backend.settle(way)
    gc.collect()
    cuda = backend.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        float(backend.loss_and_grads(pack([row], backend.device), handle, row.answer_tokens, way)[0])
        seconds.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    return statistics.median(seconds[times // 2 :]), peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--quant", nargs="+", default=["none"], choices=["none", "bnb"])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--times", type=int, default=30)
    asked = parser.parse_args()
    engine, lines = Engine(find_device()), []
    for quant in asked.quant:
        config = replace(TrainConfig(), model=asked.model, quant_method=quant)
        engine.load(asked.model, quant)
        engine.create_adapter("depths", config)
        handle = engine.handle("depths")
        with engine.turn() as resident:
            info = resident.info
            ids = tuple(i % (info.vocab_size - 10) for i in range(asked.tokens))
            row = Example(ids, (IGNORE,) * 48 + ids[48:])
            for name, way in ways(info.layers, info.tied_embeddings).items():
                seconds, peak = measured(resident, handle, row, way, asked.times)
                plan = Plan(asked.tokens, way.recompute, 0, way.logit_rows, way.host_embeddings)
                whole = estimate.peak_bytes(info, config, engine.device, asked.tokens, row.answer_tokens, plan, True)
                # No optimizer here: two moments in float32. What is beside torch's own is a constant.
                whole -= 8 * estimate.adapter_parameters(info, config) + estimate._RUNTIME[engine.device.kind]
                whole -= estimate._QUANTISER if quant == "bnb" else 0
                lines.append([quant, name, f"{1000 * seconds:.1f}", f"{asked.tokens / seconds:,.0f}", f"{peak:.2f}",
                              f"{whole / 2**30:.2f}"])  # fmt: skip
                print(lines[-1], flush=True)
            resident.backend.finish(handle)
        engine.unload()
    print("\n" + table._markdown(["base", "given up", "ms a pass", "tok/s", "GiB allocated", "GiB by the sum"], lines))


if __name__ == "__main__":
    main()
