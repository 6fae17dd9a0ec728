"""The resident engine as a person meets it: load, the 50 rows x 10 epochs job with its questions, a base/tuned pair of answers.

    python tests/bench/engine.py --model DIR [--rows presets/starter/identity-50.jsonl] [--nf4] [--out FILE]

    python tests/bench/engine.py --answers --model DIR [--nf4]     answers alone, see answers.py
    python tests/bench/engine.py --kernels [--nf4]                 the products of a decoding step, see products.py

Beside the answers stands transformers.generate, in the same process; the training loop's own figures are train.py's.
Prints one JSON line a measurement. Weights may be random: speed and memory do not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core import dataset, presets, storage
from core.config import TrainConfig
from core.dataset import Identity, Message, Row
from core.engine import Engine
from core.generate import Column, Sampling, stream
from core.run import Run
from core.train import train

IDENTITY = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")


def read_rows(path: Path) -> list[Row]:
    """The rows of a file in the program's own format, placeholders replaced."""
    return [dataset.from_json(v, i).resolved(IDENTITY) for i, v in enumerate(storage.read_json_lines(path))]


def gigabytes() -> dict[str, float]:
    """Torch's peaks since the last reset, and what the whole card has in use."""
    import torch

    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "card_used_gib": round((total - free) / 2**30, 2),
    }


def reset() -> None:
    """Start the peaks anew."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def headline(engine: Engine, config: TrainConfig, rows: list[Row], folder: Path) -> dict[str, object]:
    """The articles' job through the product's own path, base resident: from Start to adapter on disk."""
    reset()
    run = Run.create(folder, config, rows, "bench", "bench")
    begun = time.time()
    train(engine, run, threading.Event())
    steps = [event for event in run.events if event["type"] == "step"]
    probed = [event for event in run.events if event["type"] == "probed"]
    saved = run.last("saved") or {}
    return {
        "what": f"headline {config.quant_method} {config.torch_dtype}",
        "start_to_adapter_on_disk_s": round(float(str(saved["time"])) - begun, 2),
        "start_to_finished_s": round(time.time() - begun, 2),
        "steps": len(steps),
        "loop_s": round(sum(float(str(e["seconds"])) for e in steps), 2),
        "probes_s": [round(float(str(e["seconds"])), 2) for e in probed],
        "tokens": sum(int(str(e["tokens"])) for e in steps),
        "steady_tokens_per_second": round(sorted(float(str(e["tokens_per_second"])) for e in steps)[len(steps) // 2]),
        "losses": [round(float(str(e["loss"])), 3) for e in (steps[0], steps[len(steps) // 2], steps[-1])],
        "recompute": run.first("started")["recompute"],  # type: ignore[index]
        **gigabytes(),
    }


def pair(engine: Engine, adapter: str, tokens: int) -> list[dict[str, object]]:
    """Base alone, tuned alone, and both in one batch; greedy."""
    messages = (Message("system", "You are a helpful assistant."), Message("user", "Please tell me about yourself."))
    found = []
    for what, columns in (
        ("base alone", [Column(messages)]),
        ("tuned alone", [Column(messages, adapter)]),
        ("base + tuned", [Column(messages), Column(messages, adapter)]),
    ):
        for _ in stream(engine, columns, Sampling(max_new_tokens=8)):
            pass  # warms up what this batch needs
        reset()
        begun = time.perf_counter()
        replies = list(stream(engine, columns, Sampling(max_new_tokens=tokens)))[-1]
        wall = time.perf_counter() - begun
        found.append({
            "what": what,
            "tokens": [reply.tokens for reply in replies],
            "tokens_per_second_a_column": [round(reply.tokens_per_second, 1) for reply in replies],
            "first_token_ms": round(1000 * float(replies[0].first_token_seconds or 0)),
            "seconds": round(wall, 2),
            **gigabytes(),
        })  # fmt: skip
    return found


def plain_generate(engine: Engine, tokens: int) -> dict[str, object]:
    """transformers.generate on the base, batch 1, in the same process."""
    import torch

    with engine.turn() as resident:
        messages = (
            Message("system", "You are a helpful assistant."),
            Message("user", "Please tell me about yourself."),
        )
        ids = torch.tensor([resident.encoder.prompt(messages)], device=resident.backend.device)
        options = {
            "max_new_tokens": tokens,
            "min_new_tokens": tokens,
            "do_sample": False,
            "pad_token_id": resident.pad_id,
        }
        with torch.inference_mode():
            resident.backend.model.generate(ids, **{**options, "max_new_tokens": 4, "min_new_tokens": 4})
            begun = time.perf_counter()
            resident.backend.model.generate(ids, **options)
            wall = time.perf_counter() - begun
    return {"what": "peer: transformers.generate, base alone", "tokens_per_second": round(tokens / wall, 1)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="pocket")
    arguments.add_argument("--rows", type=Path, default=presets.FOLDER / "starter" / "identity-50.jsonl")
    arguments.add_argument("--preset", default="identity")
    arguments.add_argument("--tokens", type=int, default=128)
    arguments.add_argument("--nf4", action="store_true", help="also the QLoRA preset")
    arguments.add_argument("--answers", action="store_true", help="answers alone")
    arguments.add_argument("--kernels", action="store_true", help="the products of a decoding step alone")
    arguments.add_argument("--out", type=Path)
    parsed = arguments.parse_args()
    rows = read_rows(parsed.rows)
    lines: list[str] = []

    def show(record: dict[str, object]) -> None:
        lines.append(json.dumps(record, ensure_ascii=False))
        print(lines[-1], flush=True)
        if parsed.out:
            parsed.out.write_text("\n".join(lines) + "\n")

    if parsed.kernels:
        import products

        for record in products.every(parsed.nf4):
            show(record)
        return
    for preset in [parsed.preset, *(["qlora"] if parsed.nf4 else [])]:
        config = replace(
            presets.preset(preset).config,
            model=parsed.model,
            model_name="小禾|Xiaohe",
            model_author="青禾智能|Qinghe AI",
            rehearsal="off",
            stop_when_taken="false",
            prove="false",
        )
        engine = Engine()
        begun = time.time()
        import torch  # noqa: F401
        import transformers  # noqa: F401
        from peft import PeftModel  # noqa: F401

        imported = time.time()
        engine.load(config.model, config.quant_method, config.torch_dtype)
        show({"what": f"load {config.quant_method}", "imports_s": round(imported - begun, 2),
              "load_s": round(time.time() - imported, 2), **gigabytes()})  # fmt: skip
        if parsed.answers:
            import answers

            for record in answers.measured(engine, config, parsed.tokens):
                show(record)
            engine.unload()
            continue
        with tempfile.TemporaryDirectory() as home:
            for number in (1, 2):  # the second one shows the job without the first one's warming up
                show(headline(engine, config, rows, Path(home) / f"run-{number}"))
            for record in pair(engine, "run-2", parsed.tokens):
                show(record)
            engine.detach("run-1")
            engine.detach("run-2")
            show(plain_generate(engine, parsed.tokens))
        engine.unload()


if __name__ == "__main__":
    main()
