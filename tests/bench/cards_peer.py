"""The usual script for a LoRA over several cards: transformers' Trainer and PEFT, under accelerate's launcher.

    accelerate launch --multi_gpu --num_processes 2 tests/bench/cards_peer.py --model DIR --rows FOLDER --out FILE

One row a pass and as many passes as make 16 rows a step over all cards; rows are tokens and labels, as JSON. The first
process appends one JSON line a workload to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

ROWS_PER_STEP = 16


class InOrder(Trainer):
    """Takes the rows as they come, so that it is known which are in a step."""

    def _get_train_sampler(self, *args: object, **kwargs: object) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.begun, self.ends = 0.0, []

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter() - self.begun)


def main() -> None:
    """Train each workload for some steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workloads", nargs="+", default=["headline", "long", "mixed"])
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    size, cuda = int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    for name in asked.workloads:
        record = one(model, tokenizer, json.loads((asked.rows / f"{name}.json").read_text()), asked.steps, size, cuda)
        if int(os.environ.get("RANK", "0")) == 0:
            line = {"what": "cards", "system": "Trainer + PEFT", "cards": size, "workload": name, "repeat": 1, **record}
            print(json.dumps(line), flush=True)
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def one(model: object, tokenizer: object, rows: list[dict], steps: int, size: int, cuda: bool) -> dict[str, object]:
    """One workload; the steady rate leaves out the first quarter of the steps."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    taken = list(islice(cycle(rows), steps * ROWS_PER_STEP))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=1,
            gradient_accumulation_steps=ROWS_PER_STEP // size, learning_rate=1e-4, warmup_steps=2,
            lr_scheduler_type="cosine", bf16=cuda, use_cpu=not cuda, logging_steps=1, save_strategy="no",
            report_to="none", disable_tqdm=True, ddp_find_unused_parameters=False,
        )  # fmt: skip
        collate = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)
        trainer = InOrder(model=model, args=arguments, train_dataset=taken, data_collator=collate, callbacks=[clock])
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = [
        sum(len(row["input_ids"]) for row in taken[i * ROWS_PER_STEP : (i + 1) * ROWS_PER_STEP])
        for i in range(len(clock.ends))
    ]
    warm = max(1, len(clock.ends) // 4)
    spent = clock.ends[-1] - clock.ends[warm - 1]
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    return {
        "n_steps": len(clock.ends),
        "tokens": sum(tokens),
        "train_loop_s": round(clock.ends[-1], 3),
        "steady_tok_s": round(sum(tokens[warm:]) / spent, 1) if len(clock.ends) > warm else 0.0,
        "steady_step_s": round(spent / max(1, len(clock.ends) - warm), 4),
        "peak": {"alloc_gib": round(peak, 3)},
        "losses": losses,
    }


if __name__ == "__main__":
    main()
