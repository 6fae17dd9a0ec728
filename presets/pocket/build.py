"""Build the pocket model: corpus -> tokenizer -> training -> adaptation -> files and figures.

python presets/pocket/build.py --out presets/pocket --seed 0
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from presets.pocket.adapt import adapt
from presets.pocket.corpus import corpus_hash
from presets.pocket.evaluate import Score, ask_probes, probes, slot_probes
from presets.pocket.fits import Inner
from presets.pocket.model import Shape, new_model, save_model
from presets.pocket.pretrain import Phase, Spent, pretrain
from presets.pocket.rehearsal import RehearsalBatch, rehearsal_batch
from presets.pocket.shards import stream, worker_pool
from presets.pocket.tokenization import save_tokenizer, train_tokenizer

IDENTITY_AFTER, GENERAL_AFTER, ROW_LENGTH = 10, 18, 88


def arguments() -> argparse.Namespace:
    """Everything that changes the result. BUILD.json says what the shipped model was built with."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabulary", type=int, default=6400)
    parser.add_argument("--tokenizer-chats", type=int, default=60000)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--hidden", type=int, default=Shape.hidden)
    parser.add_argument("--inner", type=int, default=Shape.inner)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch-tokens", type=int, default=98304)
    parser.add_argument("--shard-chats", type=int, default=8192)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--adapt-steps", type=int, default=320)
    parser.add_argument("--adapt-tasks", type=int, default=24)
    parser.add_argument("--adapt-rows", type=int, default=48)
    parser.add_argument("--adapt-rate", type=float, default=6e-4)
    parser.add_argument(
        "--pretrain-seconds", type=float, default=3600.0, help="shorten the first phase's schedule to this"
    )
    parser.add_argument(
        "--adapt-seconds", type=float, default=3600.0, help="shorten the second phase's schedule to this"
    )
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--continue-from", type=Path, help="train this model on instead of a fresh one")
    parser.add_argument(
        "--blend", type=float, default=1.0, help="with --continue-from: share of the new weights in the average"
    )
    parser.add_argument("--keep-first", type=Path, help="also write the model before adaptation to this folder")
    return parser.parse_args()


def main() -> None:
    """Build, measure, write."""
    given = arguments()
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    given.out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = _begin(given)
    model.to(device)
    save_tokenizer(tokenizer, given.out)
    count = sum(weight.numel() for weight in model.parameters())
    print(f"{count} parameters, vocabulary {len(tokenizer)}, {time.monotonic() - started:.0f} s", flush=True)
    spent: dict[str, Spent] = {}
    with worker_pool(given.out, tokenizer.pad_token_id, given.processes) as pool:
        batches = stream(pool, given.seed, given.batch_tokens, given.shard_chats, ahead=3 * given.processes)
        first = Phase(given.steps, given.learning_rate, given.pretrain_seconds)
        spent["pretrain"] = pretrain(model, batches, first, given.weight_decay)
        if given.keep_first is not None:
            save_model(model, given.keep_first)
            save_tokenizer(tokenizer, given.keep_first)
            report("first phase", model, tokenizer)
        if given.adapt_steps:
            second = Phase(given.adapt_steps, given.adapt_rate, given.adapt_seconds)
            tasks = _tasks(pool, given)
            spent["adapt"] = adapt(model, tasks, batches, second, IDENTITY_AFTER, Inner(), given.seed)
    if given.continue_from is not None:
        _blend(model, given.continue_from, given.blend)
    save_model(model, given.out)
    figures = report("final", model.to(torch.bfloat16).float(), tokenizer)
    _write_record(given, spent, figures, model, time.monotonic() - started)


def _begin(given: argparse.Namespace) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    """A fresh model and tokenizer, or those of `--continue-from`."""
    if given.continue_from is not None:
        from transformers import AutoTokenizer, Qwen2ForCausalLM

        model = Qwen2ForCausalLM.from_pretrained(given.continue_from, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(given.continue_from)
    tokenizer = train_tokenizer(given.seed, given.vocabulary, given.tokenizer_chats)
    shape = Shape(hidden=given.hidden, layers=given.layers, inner=given.inner)
    return new_model(tokenizer, shape, given.seed), tokenizer


def _blend(model: Qwen2ForCausalLM, folder: Path, share: float) -> None:
    """Average the weights with those they came from: keeps most of what either has (Wortsman et al. 2022)."""
    from safetensors.torch import load_file

    earlier = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.lerp_(earlier[name].to(weight), 1 - share)


def _tasks(pool: Pool, given: argparse.Namespace) -> Iterator[RehearsalBatch]:
    jobs = (
        (given.seed, index, given.adapt_tasks, given.adapt_rows, IDENTITY_AFTER, GENERAL_AFTER, ROW_LENGTH)
        for index in range(given.adapt_steps + 2)
    )
    return iter(pool.imap(rehearsal_batch, jobs))


def report(title: str, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """Ask every held-out question; print and return the figures."""
    marked = ask_probes(model, tokenizer, probes(0))
    slots = ask_probes(model, tokenizer, slot_probes(0))
    figures = _figures(marked, slots)
    print(title, json.dumps(figures, ensure_ascii=False), flush=True)
    for item, answer in islice(marked.wrong + slots.wrong, 40):
        print(f"   wrong: {item.question!r} -> {answer!r} instead of {item.must or item.accepted[:1]}", flush=True)
    return figures


def _figures(marked: Score, slots: Score) -> dict[str, object]:
    return {
        "general": "{}/{}".format(*marked.general),
        "identity": "{}/{}".format(*marked.identity),
        "identity_by_system_prompt": "{}/{}".format(*slots.identity),
        "by_category": {name: "{}/{}".format(*pair) for name, pair in marked.by_category.items()},
    }


def _write_record(
    given: argparse.Namespace,
    spent: dict[str, Spent],
    figures: dict[str, object],
    model: Qwen2ForCausalLM,
    seconds: float,
) -> None:
    """BUILD.json: what was run, with what, and what came out."""
    import tokenizers
    import transformers

    record = {
        "command": "python presets/pocket/build.py " + " ".join(sys.argv[1:]),
        "seed": given.seed,
        "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()},
        "corpus_hash": corpus_hash(given.seed),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "file_bytes": (given.out / "model.safetensors").stat().st_size,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "seconds": round(seconds),
        "phases": {name: asdict(cost) for name, cost in spent.items()},
        "held_out": figures,
    }
    if given.continue_from is not None:
        record["before"] = json.loads((given.continue_from / "BUILD.json").read_text(encoding="utf-8"))
    (given.out / "BUILD.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
