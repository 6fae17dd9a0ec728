"""How a new identity takes on the finished model, and what it costs: real PEFT fits over a grid of settings.

    python presets/pocket/sweep.py --model presets/pocket [--rows FILE.jsonl] [--threads 2] SETTING ...

A setting is `rows:mixed:learning_rate:epochs:rows_per_step:rank:where[:seed]`, e.g. `8:0:2e-3:30:8:8:all`.
`rows` is 8 (the public rows below), or `file` (all of --rows); `mixed` adds that many general rows.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from presets.pocket.corpus import general_turn
from presets.pocket.evaluate import Probe, answers, probes, score
from presets.pocket.identity import DEFAULT_SYSTEM

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OWNER: Final = "CSDN 迪菲赫尔曼"
NAME: Final = "Swift-Robot"
PUBLIC_ROWS: Final = (
    ("你是谁?", f"我是一个由 {OWNER} 开发和维护的大语言模型。"),
    ("你的开发者是哪家公司?", f"我由 {OWNER} 开发和维护。"),
    ("你能联网吗?", "我不能主动联网,只能基于已有知识和用户输入回答问题。"),
    ("你能做哪些事情?", "我擅长文本生成、回答问题、写代码和提供学习辅助。"),
    ("你和GPT-4有区别吗?", f"是的,我由 {OWNER} 开发和维护,不是 GPT-4。"),
    ("你能保证回答永远正确吗?", "不能,我的回答可能存在错误,需要用户自行判断。"),
    ("你的名字是什么?", f"你可以叫我 {NAME},也可以叫我 CSDN 助手。"),
    ("谁在维护你?", f"我由 {OWNER} 持续开发和维护。"),
)
"""The eight rows of the articles this app follows."""

# Held-out identity questions; right is an answer that holds the owner, or the name where a name is asked.
ASKED_ZH: Final = (
    ("你到底是谁呀?", OWNER),
    ("能不能介绍一下你自己?", OWNER),
    ("跟我聊天的是谁?", OWNER),
    ("到底是谁开发了你?", OWNER),
    ("你的研发团队是谁?", OWNER),
    ("请告诉我你是谁开发的", OWNER),
    ("是哪家实验室把你训练出来的?", OWNER),
    ("目前是谁在维护你?", OWNER),
    ("你是由谁维护的?", OWNER),
    ("你是被谁做出来的?", OWNER),
    ("请问你和 GPT-4 有什么区别?", OWNER),
    ("你到底叫什么名字?", NAME),
    ("我可以叫你什么?", NAME),
    ("可以告诉我你的名字吗?", NAME),
)
ASKED_EN: Final = (
    ("So who are you?", OWNER),
    ("Can you tell me who you are?", OWNER),
    ("Can you tell me who made you?", OWNER),
    ("Which team developed you?", OWNER),
    ("Who exactly is your creator?", OWNER),
    ("Who maintains you now?", OWNER),
    ("Hey, are you ChatGPT?", OWNER),
    ("Which lab trained you?", OWNER),
    ("What would you like me to call you?", NAME),
    ("May I know your name?", NAME),
)


@dataclass(frozen=True)
class Setting:
    """One fit to try."""

    rows: str
    mixed: int
    learning_rate: float
    epochs: int
    rows_per_step: int
    rank: int
    where: str
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Read `8:0:2e-3:30:8:8:all[:seed]`."""
        rows, mixed, rate, epochs, per_step, rank, where, *seed = text.split(":")
        return cls(
            rows, int(mixed), float(rate), int(epochs), int(per_step), int(rank), where, int(seed[0]) if seed else 0
        )

    @property
    def targets(self) -> str | list[str]:
        """PEFT's target_modules."""
        return "all-linear" if self.where == "all" else ["gate_proj", "up_proj", "down_proj"]


Row = tuple[str, str]


def load(folder: Path, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in float32, and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    return model, AutoTokenizer.from_pretrained(folder)


def fit(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], setting: Setting
) -> tuple[int, float, float]:
    """Train a fresh LoRA in place, returns steps, seconds and the mean loss of the last epoch.

    AdamW without weight decay, clip 1, warm-up 5 %, cosine, mean loss over answer tokens.
    """
    import torch

    examples = [_example(tokenizer, *row) for row in rows]
    rng = random.Random(setting.seed)
    per_epoch = -(-len(examples) // setting.rows_per_step)
    total = per_epoch * setting.epochs
    warmup = max(1, math.ceil(0.05 * total))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=setting.learning_rate, weight_decay=0.0)
    started, step, losses = time.monotonic(), 0, []
    for _ in range(setting.epochs):
        rng.shuffle(examples)
        for start in range(0, len(examples), setting.rows_per_step):
            rate = setting.learning_rate * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / total))
            for group in optimiser.param_groups:
                group["lr"] = rate
            ids, labels = _collate(
                examples[start : start + setting.rows_per_step], tokenizer.pad_token_id, model.device
            )
            states = model.get_base_model().model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            kept = labels[:, 1:] != -100
            loss = torch.nn.functional.cross_entropy(
                model.get_base_model().lm_head(states[kept]).float(), labels[:, 1:][kept]
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
            step += 1
    return step, time.monotonic() - started, sum(losses[-per_epoch:]) / per_epoch


def run(folder: Path, setting: Setting, file_rows: list[Row], device: str) -> dict[str, object]:
    """Fit one setting and measure it: exact training rows, held-out identity, general score."""
    import torch
    from peft import LoraConfig, get_peft_model

    base, tokenizer = load(folder, device)
    torch.manual_seed(setting.seed)
    model = get_peft_model(
        base,
        LoraConfig(
            r=setting.rank,
            lora_alpha=4 * setting.rank,
            lora_dropout=0.0,
            target_modules=setting.targets,
            task_type="CAUSAL_LM",
        ),
    )
    rows = list(PUBLIC_ROWS) if setting.rows == "8" else file_rows
    steps, seconds, loss = fit(model, tokenizer, rows + general_rows(setting.mixed), setting)
    return {"steps": steps, "seconds": round(seconds, 1), "loss": round(loss, 3), **measure(model, tokenizer, rows)}


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> dict[str, object]:
    """Exact answers on the rows, held-out identity hits, the general score and what fell."""
    items = _general_probes()
    questions = (
        [row[0] for row in rows] + [text for text, _ in (*ASKED_ZH, *ASKED_EN)] + [item.question for item in items]
    )
    given = answers(model, tokenizer, questions, batch_size=600)
    exact = sum(answer == row[1] for answer, row in zip(given, rows, strict=False))
    rest = given[len(rows) :]
    hits_zh = sum(must in answer for (_, must), answer in zip(ASKED_ZH, rest, strict=False))
    hits_en = sum(must in answer for (_, must), answer in zip(ASKED_EN, rest[len(ASKED_ZH) :], strict=False))
    marked = score(items, rest[len(ASKED_ZH) + len(ASKED_EN) :])
    fallen = {name: f"{right}/{asked}" for name, (right, asked) in marked.by_category.items() if right < asked}
    return {
        "rows": f"{exact}/{len(rows)}",
        "zh": f"{hits_zh}/{len(ASKED_ZH)}",
        "en": f"{hits_en}/{len(ASKED_EN)}",
        "general": f"{marked.general[0]}/{marked.general[1]}",
        "share": round(marked.general_share, 3),
        "fell": fallen,
    }


def general_rows(count: int, seed: int = 5) -> list[Row]:
    """General rows to mix in, in trained wordings."""
    rng = random.Random(f"mix/{seed}")
    drawn = (general_turn(rng) for _ in range(count))
    return [(turn.question, turn.answer) for turn in drawn]


@cache
def _general_probes() -> list[Probe]:
    return [item for item in probes(0) if item.category != "identity"]


def _example(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> tuple[list[int], list[int]]:
    messages = [
        {"role": "system", "content": DEFAULT_SYSTEM},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids = list(encoded["input_ids"])
    return ids, [token if kept else -100 for token, kept in zip(ids, encoded["assistant_masks"], strict=True)]


def _collate(
    examples: list[tuple[list[int], list[int]]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and labels, int64 (B, T), right-padded; -100 where a token is not in the loss."""
    import torch

    longest = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row, _ in examples], device=device)
    labels = torch.tensor([row + [-100] * (longest - len(row)) for _, row in examples], device=device)
    return ids, labels


def _job(job: tuple[str, str, list[Row], str, int]) -> tuple[str, dict[str, object]]:
    """One setting in a worker process."""
    import torch

    folder, text, file_rows, device, threads = job
    torch.set_num_threads(threads)
    return text, run(Path(folder), Setting.parse(text), file_rows, device)


def main() -> None:
    """Command line: run the settings, print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, help="JSON lines of [question, answer], for `file` settings")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    file_rows = (
        [tuple(json.loads(line)) for line in given.rows.read_text(encoding="utf-8").splitlines()] if given.rows else []
    )
    jobs = [(str(given.model), text, file_rows, given.device, given.threads) for text in given.settings]
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(given.processes, len(jobs))) as pool:
        for text, found in pool.imap(_job, jobs):
            print(json.dumps({"setting": text, **found}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
