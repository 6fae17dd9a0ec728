"""One optimizer step: packed passes, one clip over the whole gradient, one update; or the weights as they were before.

On a card a step is launched and read later, so that the host prepares the next one meanwhile (2 to 5 ms a step there).
Evaluation passes go the same way, without the gradient: memory that runs out is told, and met with smaller passes.

The gradient is that of (sum of answer-token losses) / (answer tokens of the whole step), whatever the split into
passes; this equals batch 1 x accumulation N with token-normalised loss. Examples with a teacher add their weighted
divergence to the sum and nothing to the count.

Over several cards each takes a share of the step's examples, and the gradients are summed before the one clip and the
same update everywhere: the gradient is that of one card, up to rounding.
"""

from __future__ import annotations

import contextlib
import gc
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.batch import pack, shares, split
from core.config import TrainConfig
from core.device_errors import device_errors
from core.encode import Example
from core.engine import Engine, Resident
from core.errors import DivergedError, WontFitError
from core.estimate import Plan
from core.fused.sizes import Depth
from core.orders import Measure
from core.ranks import ALONE, Ranks, ShortTogetherError
from core.run import Tell
from core.text import Text

if TYPE_CHECKING:
    import torch

    from core.flat import FlatAdapter
    from core.optimizer import FlatOptimizer

_GROWTH_STEPS = 200
"""Steps in a row without overflow after which float16's scale is doubled, as torch's GradScaler does after 2,000."""


@dataclass(frozen=True)
class Taken:
    """What a step came to: its loss, the gradient's length before clipping, seconds, and the rehearsal's part of the loss.

    They are the step's own: on a card from its first kernel to its last, elsewhere without the wait for the turn.
    """

    loss: float
    norm: float
    seconds: float
    rehearsal: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether all are numbers; otherwise the weights were not touched."""
        return all(map(math.isfinite, (self.loss, self.norm, self.rehearsal)))


class Launched:
    """A step under way. Its update leaves the weights alone, and so does every later one, if it turns out broken."""

    waited = 0.0
    """Seconds that it waited for its turn."""

    def __init__(self, step: int, taken: Taken | None = None) -> None:
        self._step, self._taken = step, taken

    @property
    def ready(self) -> bool:
        """Whether `result` is there without waiting."""
        return self._taken is not None

    def result(self) -> Taken:
        """Wait for it. Raises DivergedError if loss or gradient is no number; the weights are then those of before."""
        if self._taken is None:
            self._taken = self._read()
        if not self._taken.sound:
            raise DivergedError(_diverged(self._step + 1), self._step + 1)
        return self._taken

    def _read(self) -> Taken:
        raise NotImplementedError


class _OnCard(Launched):
    """What comes back from the card: see Stepper._gradient; copied to pinned memory behind the step's last kernel."""

    def __init__(self, step: int, found: torch.Tensor, begin: torch.cuda.Event, ranks: Ranks) -> None:
        import torch

        super().__init__(step)
        self._ranks = ranks
        self._host = torch.empty(3, pin_memory=True)
        self._host.copy_(found, non_blocking=True)
        self._begin, self._end = begin, torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end.record()

    def _read(self) -> Taken:
        self._ranks.wait(self._end)
        loss, rehearsal, norm = self._host.tolist()
        return Taken(loss, norm, self._begin.elapsed_time(self._end) / 1e3, rehearsal)


class Stepper:
    """Takes the steps of one run, and measures losses. `plan` shrinks when memory runs out.

    `scale` is float16's, 1 for other types: halved when gradients overflow, doubled after 200 `clean_steps` in a row.
    """

    def __init__(
        self,
        engine: Engine,
        handle: str,
        config: TrainConfig,
        flat: FlatAdapter,
        optimizer: FlatOptimizer,
        plan: Plan,
        scale: float,
        clean_steps: int,
        tell: Tell,
        ranks: Ranks = ALONE,
    ) -> None:
        self._engine, self._handle, self._config = engine, handle, config
        self._flat, self._optimizer, self._tell, self._ranks = flat, optimizer, tell, ranks
        self.plan, self.scale, self.clean_steps = plan, scale, clean_steps
        self._broken: torch.Tensor | None = None  # (), 1 once a guarded step was broken
        self._shortage = WontFitError(Text("", ""), 0, 0)  # the last one, to be told if a smaller pass does not help

    def take(self, step: int, examples: Sequence[Example], rate: float) -> Taken:
        """Launch a step and wait for it; errors of both."""
        return self.launch(step, examples, rate).result()

    def launch(self, step: int, examples: Sequence[Example], rate: float) -> Launched:
        """Step `step` (from 0) over `examples` at learning rate `rate`; done already where it cannot be read later.

        Out of memory, it is told and tried once more in smaller passes. Raises WontFitError if that is not enough.
        """
        launched = self._tried(step, examples, rate)
        if launched is None:
            self._free()
            self._shrink(step, examples, training=True)
            launched = self._tried(step, examples, rate)
        if launched is None:
            self._free()
            raise self._shortage.bare()
        return launched

    def measure(self, step: int, examples: Sequence[Example], stop: threading.Event) -> float | None:
        """Mean loss of the answer tokens of `examples` after `step` steps, a turn for each pass; None if `stop` is set.

        Out of memory, it is told and tried once more in smaller passes. Raises WontFitError if that is not enough.
        """
        total = self._measured(step, examples, stop)
        if total is None:
            self._free()
            self._shrink(step, examples, training=False)
            total = self._measured(step, examples, stop)
        if total is None:
            self._free()
            raise self._shortage.bare()
        return None if stop.is_set() else total / sum(example.answer_tokens for example in examples)

    def _measured(self, step: int, examples: Sequence[Example], stop: threading.Event) -> float | None:
        """Sum of the losses of what was measured before `stop`. None if memory ran out, see `_tried`."""
        total, groups = 0.0, list(split(examples, self.plan.max_tokens))
        for first in range(0, len(groups), self._ranks.size):
            if stop.is_set():
                break
            self._ranks.tell(Measure(step, first))
            found = self._measured_from(first, groups)
            if found is None:
                return None
            total += found
        return total

    def measure_part(self, step: int, examples: Sequence[Example], first: int) -> None:
        """What another card than the leader's does of `measure`: its pass of those from `first` on."""
        if self._measured_from(first, list(split(examples, self.plan.max_tokens))) is None:
            self._free()
            self._shrink(step, examples, training=False)

    def _measured_from(self, first: int, groups: Sequence[Sequence[Example]]) -> float | None:
        """Sum of the losses of as many passes from `first` on as there are cards. None if memory ran out."""
        import torch

        place = first + self._ranks.rank
        # Where the base is spread out every card passes something each time, though it may not count.
        mine = groups[place : place + 1] or (groups[:1] if self._ranks.spread_out else [])
        try:
            with self._engine.turn() as resident:
                found = torch.zeros(1, device=resident.backend.device)
                with self._ranks.together(), device_errors("training"):
                    for group in mine:
                        loss = resident.backend.loss(pack(group, resident.backend.device), self._handle)
                        found += loss if place < len(groups) else 0
                self._ranks.sum(found)
                return float(found)
        except WontFitError as error:
            self._note(error)
            return None

    def _tried(self, step: int, examples: Sequence[Example], rate: float) -> Launched | None:
        """None if memory ran out. A value, not an error: a traceback would keep the failed pass's tensors alive."""
        asked = time.perf_counter()
        try:
            with self._engine.turn() as resident, device_errors("training" if step else "starting"):
                waited = time.perf_counter() - asked
                if self._optimizer.guarded and resident.dtype != "float16" and self.scale == 1:
                    launched = self._guarded(resident, step, examples, rate)
                    launched.waited = waited
                    return launched
                begun, before = time.perf_counter(), self.scale
                taken = self._update(resident, step, examples, rate, begun)
                while self.scale > 1 and not taken.sound:
                    self.scale /= 2  # float16 gradients overflowed, not the model: the same step again, scaled less
                    taken = self._update(resident, step, examples, rate, begun)
                if not taken.sound:
                    self.scale = before  # the model broke, whatever the scale
                elif resident.dtype == "float16":
                    self._count_clean(self.scale == before)
                launched = Launched(step, taken)
                launched.waited = waited
                return launched
        except WontFitError as error:
            self._note(error)
            return None

    def _note(self, error: WontFitError) -> None:
        """Remember a shortage. Raises it where the other cards do not know of it: they cannot try again."""
        if self._ranks.spread_out or (self._ranks.size > 1 and not isinstance(error, ShortTogetherError)):
            self._ranks.abandon()  # a card may be waiting for a part of a layer that comes no more
            raise error.bare()
        self._shortage = error.bare()

    def _count_clean(self, clean: bool) -> None:
        self.clean_steps = self.clean_steps + 1 if clean else 0
        if self.clean_steps == _GROWTH_STEPS:
            self.scale, self.clean_steps = self.scale * 2, 0

    def _guarded(self, resident: Resident, step: int, examples: Sequence[Example], rate: float) -> Launched:
        """The whole step without a read from the device: whether it may change the weights is decided there."""
        import torch

        device, begun, begin = resident.backend.device, time.perf_counter(), None
        if device.type == "cuda":
            begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            begin.record()
        found = self._gradient(resident, step, examples)
        broken = 1 - torch.isfinite(found).all().float()
        self._broken = broken if self._broken is None else torch.maximum(self._broken, broken)
        limit = self._config.max_grad_norm or math.inf
        self._optimizer.step(rate, ((found[2] + 1e-6) / limit).clamp(min=1), self._broken)
        self._flat.zero_grad()
        if begin is not None:
            return _OnCard(step, found, begin, self._ranks)
        loss, rehearsal, norm = found.tolist()
        return Launched(step, Taken(loss, norm, time.perf_counter() - begun, rehearsal))

    def _gradient(self, resident: Resident, step: int, examples: Sequence[Example]) -> torch.Tensor:
        """The step's gradient times `scale`, added to what is there; loss, rehearsal's part, and its length, float32 (3,)."""
        import torch

        backend, plan = resident.backend, self.plan
        # What is taught has its own weight: the rows' loss is the same with it and without.
        answer_tokens = max(1, sum(example.answer_tokens for example in examples if example.teacher is None))
        losses = torch.zeros(2, device=backend.device)
        with self._together(step), _own_randomness(backend.device, self._config.seed, step, self._ranks.rank):
            for group, counts in self._passes(examples):
                batch, scale = pack(group, backend.device), self.scale * counts
                found = backend.loss_and_grads(batch, self._handle, answer_tokens, plan.way, scale)
                losses += found * counts
        self._ranks.sum(self._flat.grad, losses)
        return torch.cat([losses, self._flat.norm().float()[None]])

    def _passes(self, examples: Sequence[Example]) -> list[tuple[list[Example], int]]:
        """This card's passes of a step, each with whether it counts, 1 or 0.

        Where the base is spread out all cards have as many: whoever has fewer passes another row, which does not count.
        """
        parts = [list(split(part, self.plan.max_tokens)) for part in shares(examples, self._ranks.size)]
        mine = [(group, 1) for group in parts[self._ranks.rank]]
        most = max(map(len, parts)) if self._ranks.spread_out else 0
        return mine + [([examples[0]], 0)] * (most - len(mine))

    @contextlib.contextmanager
    def _together(self, step: int) -> Iterator[None]:
        """Around the passes of a step: memory that runs out on one card is known by its name on all of them."""
        with self._ranks.together(), device_errors("training" if step else "starting"):
            yield

    def _update(self, resident: Resident, step: int, examples: Sequence[Example], rate: float, begun: float) -> Taken:
        # The step's one read from the device, before the update: a broken gradient must not reach the weights.
        loss, rehearsal, norm = self._gradient(resident, step, examples).tolist()
        norm /= self.scale
        taken = Taken(loss, norm, 0.0, rehearsal)
        if taken.sound:
            limit = self._config.max_grad_norm or math.inf
            factor = min(1.0, limit / (norm + 1e-6)) / self.scale
            if factor != 1.0:
                self._flat.scale_grad(factor)
            self._optimizer.step(rate)
        self._flat.zero_grad()
        return replace(taken, seconds=time.perf_counter() - begun)

    def _free(self) -> None:
        """After a step that broke off: no gradient of it stays, and the device has its memory back."""
        with self._engine.turn() as resident:
            resident.backend.finish(self._handle)
            resident.backend.rest()
        self._flat.zero_grad()
        gc.collect()
        if self._engine.device.kind == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _shrink(self, step: int, examples: Sequence[Example], training: bool) -> None:
        """Halve the passes, or recompute every layer where a pass is hardly divisible and the settings allow it.

        Layers' inputs go to host memory then, too, where the backend can do that. Passes that train nothing keep nothing
        for recomputation to spare.
        """
        with self._engine.turn() as resident:
            fused = resident.backend.fast and resident.backend.plain_reason(self._handle) is None
        before = self.plan
        least = Depth.all(resident.info.layers, host_inputs=fused and self._engine.device.kind == "cuda")
        # Of all cards: each makes the same plan.
        parts = [examples] if not training else shares(examples, self._ranks.size)
        groups = [group for part in parts for group in split(part, before.max_tokens)]
        largest = max(sum(len(example) for example in group) for group in groups)
        limit = max(max(len(example) for example in examples), largest // 2)
        deeper = training and limit > 0.75 * largest and self._config.gradient_checkpointing != "off"
        depth = least if deeper else before.recompute
        # Without the plan's room: that was too much, and a smaller pass would fill it again by giving up less.
        self.plan = replace(before, max_tokens=min(limit, before.max_tokens), recompute=depth, room=0)
        if self.plan.max_tokens >= largest and self.plan.recompute == before.recompute:
            raise self._shortage.bare()
        self._tell(
            "smaller_split",
            step=step,
            tokens=largest,
            max_tokens=self.plan.max_tokens,
            recompute=self.plan.recompute != before.recompute,
        )


@contextlib.contextmanager
def _own_randomness(device: torch.device, seed: int, step: int, rank: int) -> Iterator[None]:
    """Dropout's and noise's draws depend on (seed, step, rank) alone, and leave the process's random state as it was."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((seed + rank * 2**31) * 1_000_003 + step)
        yield


def _diverged(step: int) -> Text:
    if step == 1:  # nothing has been learned yet: it cannot be the learning rate
        return Text(
            zh="第 1 步的损失或梯度就是 NaN 或无穷大，训练已停止，什么都没有保存。这时还什么都没学，与学习率无关：请把计算精度"
            "（torch_dtype）改为 bfloat16 或 float32，或重新下载基座模型。",
            en="Loss or gradient is NaN or infinite at step 1; training stopped and nothing was saved. Nothing has been "
            "learned by then, so it is not the learning rate: set the compute type (torch_dtype) to bfloat16 or float32, or "
            "download the base model again.",
        )
    return Text(
        zh=f"第 {step} 步的损失或梯度变成了 NaN 或无穷大，训练已停止（最后一个正常的步是第 {step - 1} 步），没有保存坏的权重。"
        "请把学习率减半后再试。",
        en=f"Loss or gradient became NaN or infinite at step {step}; training stopped (the last good step was {step - 1}) "
        "and no bad weights were saved. Halve the learning rate and try again.",
    )
