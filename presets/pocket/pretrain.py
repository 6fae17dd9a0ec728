"""From-scratch training on the corpus: batches in, weights changed in place."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from presets.pocket.model import optimisers, token_losses
from presets.pocket.shards import Batch

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM


@dataclass(frozen=True)
class Phase:
    """How long to train and how fast. A machine too slow for `limit_seconds` runs through the schedule in fewer steps."""

    steps: int
    learning_rate: float
    limit_seconds: float

    def place(self, step: int, seconds: float) -> int:
        """Where in the schedule to be; at `steps` the phase is over."""
        return max(step, int(self.steps * seconds / self.limit_seconds))


@dataclass(frozen=True)
class Spent:
    """What a phase of training cost."""

    steps: int
    tokens: int
    seconds: float


def schedule(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then cosine to zero."""
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def to_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (B, T) and places (n,), both int64 on the device."""
    ids = torch.from_numpy(batch.ids).to(device, non_blocking=True).long()
    return ids, torch.from_numpy(batch.places).to(device, non_blocking=True)


def pretrain(model: Qwen2ForCausalLM, batches: Iterator[Batch], phase: Phase, weight_decay: float) -> Spent:
    """Minimise the mean loss of answer tokens, in bfloat16 with float32 weights."""
    device = next(model.parameters()).device
    chosen = optimisers(model, phase.learning_rate, weight_decay)
    started, tokens, done = time.monotonic(), 0, 0
    model.train()
    running = torch.zeros((), device=device)
    while (place := phase.place(done, time.monotonic() - started)) < phase.steps:
        ids, places = to_device(next(batches), device)
        for optimiser in chosen:
            for group in optimiser.param_groups:
                group["lr"] = phase.learning_rate * schedule(place, phase.steps, warmup=max(20, phase.steps // 50))
        with torch.autocast(device.type, torch.bfloat16):
            loss = token_losses(model, ids, places).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in chosen:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        done += 1
        tokens += ids.numel()
        running += (loss.detach() - running) * (1.0 if done == 1 else 0.02)
        if done % 250 == 0:
            seconds = time.monotonic() - started
            rate = tokens / seconds / 1e6
            print(
                f"pretrain {done}/{phase.steps} loss {running.item():.4f} {rate:.2f} M tokens/s {seconds:.0f} s",
                flush=True,
            )
    return Spent(done, tokens, time.monotonic() - started)
