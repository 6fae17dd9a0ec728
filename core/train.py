"""One training run, from frozen rows to an adapter on disk: one turn per optimizer step, events as it goes.

The gradient of a step is that of (sum of answer-token losses) / (answer tokens of the whole step), whatever the split
into passes; this equals batch 1 x accumulation N with token-normalised loss.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import random
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core import estimate, models, probes
from core.batch import pack, split
from core.config import TrainConfig
from core.dataset import Identity
from core.device import Device, memory_errors, memory_free, memory_used
from core.encode import Example, encode_rows
from core.engine import NO_BITSANDBYTES, Engine, Resident
from core.errors import ConfigError, DivergedError, ModelError
from core.estimate import Plan
from core.generate import Column, Sampling, stream
from core.models import Progress
from core.probes import Probe
from core.run import Run
from core.text import Text

if TYPE_CHECKING:
    import torch

_PROBE_TOKENS = 64


def train(engine: Engine, run: Run, stop: threading.Event, progress: Progress | None = None) -> None:
    """Carry out `run`: load its base model, train, save, probe; appends every event up to finished or stopped.

    Raises UserError kinds for what a person can mend; the adapter is taken out of the model again when it fails.
    """
    config = run.config
    run.append("loading", model=config.model)
    with engine.held(run.id):
        engine.load(config.model, config.quant_method, config.torch_dtype, progress, holder=run.id)
        try:
            with memory_errors():
                _prepare(engine, run).run_steps(stop)
        except BaseException:
            engine.detach(run.id)
            raise


def check(config: TrainConfig, device: Device) -> None:
    """Refuse settings that this machine cannot carry out, before anything is loaded."""
    if config.optim == "paged_adamw_8bit" and device.kind != "cuda":
        raise ConfigError(
            Text(
                zh="paged_adamw_8bit 需要 CUDA 显卡;在处理器上请用 adamw_torch。",
                en="paged_adamw_8bit needs a CUDA card; use adamw_torch on the processor.",
            ),
            "optim",
        )
    needs = config.quant_method == "bnb" or config.optim == "paged_adamw_8bit"
    if needs and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(NO_BITSANDBYTES)


def learning_rate_at(step: int, total: int, config: TrainConfig) -> float:
    """The rate of optimizer step `step` (from 0) of `total`: linear warm-up, then the chosen curve down to zero."""
    warmup = math.ceil(total * config.warmup_ratio)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    if config.lr_scheduler_type == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
    return config.learning_rate * (1 - share if config.lr_scheduler_type == "linear" else 1.0)


def step_rows(rows: int, config: TrainConfig) -> Iterator[tuple[float, list[int]]]:
    """(epoch, row indices) of each optimizer step, without end. Each epoch is shuffled by (seed, epoch)."""
    epoch = 0
    while True:
        order = list(range(rows))
        random.Random(f"{config.seed}-{epoch}").shuffle(order)
        for start in range(0, rows, config.rows_per_step):
            chosen = order[start : start + config.rows_per_step]
            yield epoch + (start + len(chosen)) / rows, chosen
        epoch += 1


def divide(examples: Sequence[Example], config: TrainConfig) -> tuple[list[Example], list[Example]]:
    """(training, evaluation) examples; which ones are held out is drawn by the seed."""
    held = set(random.Random(config.seed).sample(range(len(examples)), config.held_out(len(examples))))
    return [e for i, e in enumerate(examples) if i not in held], [e for i, e in enumerate(examples) if i in held]


def _prepare(engine: Engine, run: Run) -> _Trainer:
    config = run.config
    resident = engine.resident
    assert resident is not None
    conversations = [row.messages(config.system) for row in run.rows]
    examples = encode_rows(resident.encoder, conversations, config.max_length, config.dataloader_num_workers)
    training, held_out = divide(examples, config)
    lengths = [(len(example), example.answer_tokens) for example in examples]
    base = estimate.resident_bytes(resident.info, config, engine.device)
    plan = estimate.plan(resident.info, config, engine.device, lengths, base + memory_free(engine.device))
    engine.create_adapter(run.id, config)
    identity = Identity.parse(config.model_name, config.model_author)
    old = models.old_words(resident.info)
    card: dict[str, object] = {
        "run": run.id,
        "system": config.system,
        "base_model": config.model,
        "new_words": list(identity.words),
        "old_words": list(old),
    }
    asked = probes.load_probes(identity, old, config.system)
    steps = config.steps(len(training))
    run.append(
        "started",
        steps=steps,
        rows=len(training),
        held_out=len(held_out),
        rows_per_step=config.rows_per_step,
        tokens=sum(len(example) for example in training),
        model=config.model,
        device=engine.device.name,
        trainable_parameters=estimate.adapter_parameters(resident.info, config),
        max_tokens=plan.max_tokens,
        recompute=plan.recompute,
    )
    return _Trainer(engine, run, training, held_out, asked, plan, steps, card)


@dataclass
class _Since:
    """What has happened since the last point of the curve."""

    loss: float = 0.0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    norm: float = 0.0


class _Trainer:
    """The loop's state: examples, optimizer, and the base's own answers to the probes."""

    def __init__(
        self,
        engine: Engine,
        run: Run,
        training: list[Example],
        held_out: list[Example],
        asked: list[Probe],
        plan: Plan,
        steps: int,
        card: dict[str, object],
    ) -> None:
        self._engine, self._run, self._config = engine, run, run.config
        self._training, self._held_out, self._probes = training, held_out, asked
        self._plan, self._steps, self._card = plan, steps, card
        self._before: dict[int, str] = {}
        resident = engine.resident
        assert resident is not None
        self._handle = engine.handle(run.id)
        self._parameters = resident.backend.adapter_parameters(self._handle)
        self._optimizer = _optimizer(self._parameters, self._config, engine.device.kind)
        self._scale = 2.0**12 if resident.dtype == "float16" else 1.0

    def run_steps(self, stop: threading.Event) -> None:
        """All optimizer steps, or until `stop`; then save, evaluate, probe and close the run."""
        config, begun = self._config, time.perf_counter()
        _reset_peak(self._engine)
        self._probe(0, stop)
        done, since = 0, _Since()
        order = step_rows(len(self._training), config)
        while done < self._steps and not stop.is_set():
            epoch, chosen = next(order)
            self._step(done, epoch, [self._training[i] for i in chosen], since)
            done += 1
            last = done == self._steps or stop.is_set()
            if done % config.logging_steps == 0 or done == 1 or last:
                self._log(done, epoch, since)
            if not last:
                self._now_and_then(done, stop)
        # Saved first: what may take a while comes after the weights are safe.
        self._close(done, stop)
        ending = "finished" if done == self._steps else "stopped"
        adapter = "adapter" if done else None
        self._run.append(ending, step=done, seconds=time.perf_counter() - begun, adapter=adapter)

    def _now_and_then(self, done: int, stop: threading.Event) -> None:
        config = self._config
        if self._held_out and done % config.eval_steps == 0:
            self._evaluate(done, stop)
        if config.probe_steps and done % config.probe_steps == 0:
            self._probe(done, stop)
        if done % config.save_steps == 0:
            self._checkpoint(done)

    def _close(self, done: int, stop: threading.Event) -> None:
        if not done:  # stopped before the first step: an adapter that changes nothing is not worth keeping
            self._engine.detach(self._run.id)
            return
        self._engine.save_adapter(self._run.id, self._run.folder / "adapter", {**self._card, "step": done})
        self._run.append("saved", step=done, path="adapter")
        if not stop.is_set():
            self._evaluate(done, stop)
        self._probe(done, None)

    def _step(self, step: int, epoch: float, examples: list[Example], since: _Since) -> None:
        rate = learning_rate_at(step, self._steps, self._config)
        with self._engine.turn() as resident, _own_randomness(resident, self._config, step):
            begun = time.perf_counter()
            loss, norm = self._update(resident, examples, rate)
            while self._scale > 1 and not (math.isfinite(loss) and math.isfinite(norm)):
                self._scale /= 2  # float16 gradients overflowed, not the model: the same step again, scaled less
                loss, norm = self._update(resident, examples, rate)
            since.seconds += time.perf_counter() - begun
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._keep_last_good(step)
            raise DivergedError(_diverged(step + 1, step), step + 1)
        since.loss += loss
        since.steps += 1
        since.tokens += sum(len(example) for example in examples)
        since.rate, since.norm = rate, norm

    def _log(self, done: int, epoch: float, since: _Since) -> None:
        """A point of the curve: means over the steps since the last one."""
        self._run.append(
            "step",
            step=done,
            epoch=round(epoch, 4),
            loss=since.loss / since.steps,
            learning_rate=since.rate,
            grad_norm=since.norm,
            tokens=since.tokens,
            tokens_per_second=since.tokens / since.seconds,
            seconds=since.seconds / since.steps,
            peak_memory_bytes=_peak(self._engine),
        )
        since.__init__()  # type: ignore[misc]

    def _keep_last_good(self, done: int) -> None:
        """The update that broke never reached the weights: keep them, unless they are what is broken."""
        import torch

        if done and all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters):
            self._checkpoint(done)

    def _update(self, resident: Resident, examples: list[Example], rate: float) -> tuple[float, float]:
        """One optimizer step inside a turn. Returns (loss, gradient norm before clipping)."""
        import torch

        answer_tokens = sum(example.answer_tokens for example in examples)
        backend = resident.backend
        parts = [
            backend.loss_and_grads(
                pack(group, backend.device), self._handle, answer_tokens, self._plan.recompute, self._scale
            )
            for group in split(examples, self._plan.max_tokens)
        ]
        if self._scale != 1.0:
            torch._foreach_div_([p.grad for p in self._parameters if p.grad is not None], self._scale)
        limit = self._config.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        # Read before the update: a step with a broken gradient must not reach the weights.
        loss, size = float(torch.stack(parts).sum()), float(norm)
        if math.isfinite(loss) and math.isfinite(size):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss, size

    def _evaluate(self, step: int, stop: threading.Event) -> None:
        """Evaluation loss, a turn for each pass; given up, without an event, when the run is stopped meanwhile."""
        total = 0.0
        for group in split(self._held_out, self._plan.max_tokens):
            if stop.is_set():
                return
            with self._engine.turn() as resident:
                total += float(resident.backend.loss(pack(group, resident.backend.device), self._handle))
        if self._held_out and math.isfinite(total):
            self._run.append("evaluated", step=step, loss=total / sum(e.answer_tokens for e in self._held_out))

    def _probe(self, step: int, stop: threading.Event | None) -> None:
        """Ask every probe in one batch: the base before the first step, the adapter afterwards."""
        if not self._probes:
            return
        adapter = self._run.id if step else None
        columns = [Column(probe.messages, adapter) for probe in self._probes]
        begun = time.perf_counter()
        replies = list(stream(self._engine, columns, Sampling(max_new_tokens=_PROBE_TOKENS), stop))[-1]
        if stop is not None and stop.is_set():
            return
        answers = []
        for index, (probe, reply) in enumerate(zip(self._probes, replies, strict=True)):
            answer = probes.judge(probe, reply.text, self._before.get(index))
            if not step:
                self._before[index] = reply.text
            marks = [vars(mark) for mark in answer.marks]
            answers.append(
                {
                    "question": answer.question,
                    "text": answer.text,
                    "kind": answer.kind,
                    "verdict": answer.verdict,
                    "marks": marks,
                }
            )
        identity = [answer for answer in answers if answer["kind"] == "identity"]
        hits = sum(answer["verdict"] == "hit" for answer in identity)
        self._run.append(
            "probed", step=step, seconds=time.perf_counter() - begun, hits=hits, total=len(identity), answers=answers
        )

    def _checkpoint(self, step: int) -> None:
        folder = self._run.folder / "checkpoints"
        self._engine.save_adapter(self._run.id, folder / f"step-{step:06d}", {**self._card, "step": step})
        self._run.append("saved", step=step, path=f"checkpoints/step-{step:06d}")
        # By step number, never by file time: a clock that steps back would delete the newest.
        for old in sorted(folder.glob("step-*"))[: -self._config.save_total_limit]:
            shutil.rmtree(old)


def _optimizer(parameters: list[torch.nn.Parameter], config: TrainConfig, device: str) -> torch.optim.Optimizer:
    import torch

    betas = (0.9, config.adam_beta2)
    if config.optim == "paged_adamw_8bit":
        import bitsandbytes

        paged: torch.optim.Optimizer = bitsandbytes.optim.PagedAdamW8bit(
            parameters, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay
        )
        return paged
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay, fused=device == "cuda"
    )


@contextlib.contextmanager
def _own_randomness(resident: Resident, config: TrainConfig, step: int) -> Iterator[None]:
    """Dropout's draws depend on (seed, step) alone, and leave the process's random state as it was."""
    if not config.lora_dropout:
        yield
        return
    import torch

    device = resident.backend.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed * 1_000_003 + step)
        yield


def _diverged(step: int, good: int) -> Text:
    return Text(
        zh=f"第 {step} 步的损失或梯度变成了 NaN 或无穷大,训练已停止(最后一个正常的步是第 {good} 步),没有保存坏的权重。"
        "请把学习率减半后再试。",
        en=f"Loss or gradient became NaN or infinite at step {step}; training stopped (the last good step was {good}) and "
        "no bad weights were saved. Halve the learning rate and try again.",
    )


def _reset_peak(engine: Engine) -> None:
    if engine.device.kind == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()


def _peak(engine: Engine) -> int:
    if engine.device.kind == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return memory_used(engine.device)
