"""Second phase of training: make the weights easy to re-identify by a LoRA without harm to the rest.

First-order meta-learning (after FOMAML, Finn et al. 2017; first-order gradients after Nichol et al. 2018): fit
many made-up identities at once, each with its own LoRA, as a user's fine-tune would; then ask, with those LoRAs
on, general questions and identity questions in other wordings, and move the base weights by that gradient.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from presets.pocket.fits import Inner, InnerFit, TaskLoras
from presets.pocket.model import optimisers, token_losses
from presets.pocket.pretrain import Phase, Spent, schedule, to_device
from presets.pocket.rehearsal import RehearsalBatch
from presets.pocket.shards import Batch

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM


def adapt(
    model: Qwen2ForCausalLM,
    tasks: Iterator[RehearsalBatch],
    plain: Iterator[Batch],
    phase: Phase,
    identity_rows: int,
    inner: Inner,
    seed: int,
) -> Spent:
    """Meta-train the weights in place; each step also takes one plain corpus batch, with the LoRAs off.

    `identity_rows`: how many of a task's rows-to-hold are identity questions; they come first.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    batch = next(tasks)
    loras = TaskLoras(model, batch.rows.shape[0], inner)
    fit = InnerFit(model, loras, batch.rows.shape[2])
    chosen = optimisers(model, phase.learning_rate, weight_decay=0.0)
    weights = list(model.parameters())
    started, tokens, done = time.monotonic(), 0, 0
    while (place := phase.place(done, time.monotonic() - started)) < phase.steps:
        inner_steps = _fit_tasks(fit, weights, batch, inner, generator)
        identity_loss, general_loss = _outer(model, loras, batch, identity_rows)
        ids, places = to_device(next(plain), device)
        loras.on = False
        with torch.autocast(device.type, torch.bfloat16):
            base = token_losses(model, ids, places).mean()
        base.backward()
        loras.on = True
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimiser in chosen:
            for group in optimiser.param_groups:
                group["lr"] = phase.learning_rate * schedule(place, phase.steps, warmup=20)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        done += 1
        tokens += ids.numel() + batch.after.size + inner_steps * fit.ids.numel()
        if done == 1 or done % 20 == 0:
            losses = f"plain {base.item():.4f} after: identity {identity_loss:.4f} general {general_loss:.4f}"
            print(f"adapt {done}/{phase.steps} {losses} {time.monotonic() - started:.0f} s", flush=True)
        batch = next(tasks)
    loras.close()
    return Spent(done, tokens, time.monotonic() - started)


def _fit_tasks(
    fit: InnerFit, weights: list[torch.Tensor], batch: RehearsalBatch, inner: Inner, generator: torch.Generator
) -> int:
    """Run all fine-tunes of a batch; the base weights take no gradient. Returns the number of steps drawn."""
    for weight in weights:
        weight.requires_grad_(False)
    steps = int(torch.randint(inner.least_steps, inner.most_steps + 1, (1,), generator=generator))
    spread = torch.rand(batch.rows.shape[0], 1, generator=generator)
    rates = inner.lowest_rate * (inner.highest_rate / inner.lowest_rate) ** spread
    rates = rates * (40 / max(40, steps)) ** 0.5
    rows, marks = (torch.from_numpy(part).to(fit.ids.device) for part in (batch.rows, batch.rows_in_loss))
    fit.run(rows.long(), marks, steps, rates.to(fit.ids.device))
    for weight in weights:
        weight.requires_grad_(True)
    return steps


def _outer(model: Qwen2ForCausalLM, loras: TaskLoras, batch: RehearsalBatch, identity_rows: int) -> tuple[float, float]:
    """Gradient of what should hold after the fine-tunes. Returns the identity and the general loss."""
    loras.use(loras.flat.detach())
    ids = torch.from_numpy(batch.after).to(loras.device).long()
    marks = torch.from_numpy(batch.after_in_loss).to(loras.device)
    is_identity = torch.zeros(marks.shape, dtype=torch.bool, device=loras.device)
    is_identity[:, :identity_rows] = True
    places = marks.flatten().nonzero().squeeze(1)
    with torch.autocast(loras.device.type, torch.bfloat16):
        losses = token_losses(model, ids.flatten(0, 1), places)
    chosen = is_identity.flatten()[places]
    identity_loss, general_loss = losses[chosen].mean(), losses[~chosen].mean()
    (identity_loss + 2 * general_loss).backward()
    return identity_loss.item(), general_loss.item()
