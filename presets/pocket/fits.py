"""Many LoRA fine-tunes side by side on one frozen model: what `adapt.py` imitates users with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from presets.pocket.pretrain import schedule

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM


@dataclass(frozen=True)
class Inner:
    """The imitated fine-tune: LoRA as in the app's preset, AdamW, clip 1, warm-up 5 %, cosine."""

    rank: int = 8
    alpha: int = 32
    rows_per_step: int = 8
    least_steps: int = 16
    most_steps: int = 64
    lowest_rate: float = 6e-4
    highest_rate: float = 4e-3


class TaskLoras:
    """One LoRA per task on every linear layer of the body, all in one flat tensor (N, P).

    While `on`, a batch must hold N equal blocks of rows, task by task.
    """

    def __init__(self, model: Qwen2ForCausalLM, tasks: int, inner: Inner) -> None:
        self.layers = [
            module
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"
        ]
        self.tasks, self.inner, self.on = tasks, inner, True
        self.shapes: list[tuple[int, int]] = []
        for layer in self.layers:
            self.shapes += [(inner.rank, layer.in_features), (layer.out_features, inner.rank)]
        self.sizes = [rows * columns for rows, columns in self.shapes]
        self.device = self.layers[0].weight.device
        self.flat = torch.zeros(tasks, sum(self.sizes), device=self.device)
        self.pieces: list[torch.Tensor] = []
        self.handles = [layer.register_forward_hook(self._hook(index)) for index, layer in enumerate(self.layers)]

    def reset(self) -> None:
        """PEFT's start: A uniform within 1/sqrt(inputs), B zero."""
        parts = []
        for (rows, columns), size in zip(self.shapes, self.sizes, strict=True):
            part = torch.zeros(self.tasks, size, device=self.device)
            if rows == self.inner.rank:
                part.uniform_(-1 / math.sqrt(columns), 1 / math.sqrt(columns))
            parts.append(part)
        self.flat.copy_(torch.cat(parts, dim=1))

    def use(self, flat: torch.Tensor) -> None:
        """Take the factors from `flat` (N, P), with its gradient."""
        split = flat.split(self.sizes, dim=1)
        self.pieces = [part.view(self.tasks, *shape) for part, shape in zip(split, self.shapes, strict=True)]

    def close(self) -> None:
        """Leave the model as it was."""
        for handle in self.handles:
            handle.remove()

    def _hook(self, index: int) -> Callable[..., torch.Tensor | None]:
        scale = self.inner.alpha / self.inner.rank

        def add(_module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor | None:
            if not self.on:
                return None
            down, up = self.pieces[2 * index], self.pieces[2 * index + 1]
            states = inputs[0].reshape(self.tasks, -1, inputs[0].shape[-1])
            change = torch.bmm(torch.bmm(states, down.transpose(1, 2)), up.transpose(1, 2))
            return output + scale * change.view(output.shape)

        return add


class InnerFit:
    """N fine-tunes side by side; on CUDA one step is recorded once as a graph and replayed."""

    def __init__(self, model: Qwen2ForCausalLM, loras: TaskLoras, length: int) -> None:
        self.model, self.loras = model, loras
        tasks, rows = loras.tasks, loras.inner.rows_per_step
        self.ids = torch.zeros(tasks * rows, length, dtype=torch.long, device=loras.device)
        self.marks = torch.zeros(tasks * rows, length, dtype=torch.bool, device=loras.device)
        self.first, self.second = torch.zeros_like(loras.flat), torch.zeros_like(loras.flat)
        self.rate = torch.zeros(tasks, 1, device=loras.device)
        self.corrections = torch.ones(2, device=loras.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def run(self, rows: torch.Tensor, marks: torch.Tensor, steps: int, rates: torch.Tensor) -> None:
        """Fit all tasks from fresh LoRAs. rows, marks (N, S, T); rates (N, 1): each task's highest learning rate."""
        self.loras.reset()
        self.first.zero_()
        self.second.zero_()
        size, used = rows.shape[1], self.loras.inner.rows_per_step
        if self.graph is None and self.ids.is_cuda:
            self._record(rows[:, :used], marks[:, :used])
        order = torch.cat([torch.randperm(size) for _ in range(-(-steps * used // size))])
        for step in range(steps):
            chosen = order[step * used : (step + 1) * used].to(rows.device)
            self.ids.copy_(rows[:, chosen].flatten(0, 1))
            self.marks.copy_(marks[:, chosen].flatten(0, 1))
            self.rate.copy_(rates * schedule(step, steps, max(1, math.ceil(0.05 * steps))))
            self.corrections[0].fill_(1 - 0.9 ** (step + 1))
            self.corrections[1].fill_(1 - 0.999 ** (step + 1))
            if self.graph is not None:
                self.graph.replay()
            else:
                self._step()

    def _step(self) -> None:
        flat = self.loras.flat.detach().requires_grad_()
        self.loras.use(flat)
        with torch.autocast(flat.device.type, torch.bfloat16):
            states = self.model.model(input_ids=self.ids, use_cache=False).last_hidden_state[:, :-1]
            logits = self.model.lm_head(states)
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), self.ids[:, 1:].flatten(), reduction="none"
        )
        kept = self.marks[:, 1:].reshape(self.loras.tasks, -1)
        per_task = (losses.view(self.loras.tasks, -1) * kept).sum(1) / kept.sum(1).clamp(min=1)
        (gradient,) = torch.autograd.grad(per_task.sum(), flat)
        gradient = gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1.0)
        self.first.lerp_(gradient, 0.1)
        self.second.lerp_(gradient * gradient, 0.001)
        scaled = (self.first / self.corrections[0]) / ((self.second / self.corrections[1]).sqrt() + 1e-8)
        self.loras.flat.sub_(self.rate * scaled)

    def _record(self, rows: torch.Tensor, marks: torch.Tensor) -> None:
        """Capture one step. The warm-up steps before it have rate 0, so they change nothing but the moments."""
        self.ids.copy_(rows.flatten(0, 1))
        self.marks.copy_(marks.flatten(0, 1))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self.graph = graph
        self.loras.reset()
        self.first.zero_()
        self.second.zero_()
