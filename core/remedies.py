"""What to change after a run that failed, did not learn or forgot: findings of its events and its proof, with settings.

Judges a run that goes on, and one that went as far as it should; of one that was cut off there is too little to say. Knows
no page.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from statistics import fmean

from core import models, scenarios
from core.advice import FEW_STEPS, Finding, Fix, show_rate, usual_learning_rate
from core.config import TrainConfig
from core.errors import UserError
from core.fact import Value
from core.proof import Proof
from core.run import Run
from core.text import Text

# Where a loss that has not fallen by a tenth, or is above this, is no beginning any more.
_FLAT, _STUCK, _RISEN = 0.9, 2.5, 1.5
_LEAST_POINTS, _LEAST_STEPS = 6, 20
_LATE = 0.5  # of its steps: a run that was stopped sooner was not given the time to learn
_WARMUP = 0.1
_FORGETS = ("drift", "text", "choice")


def of_run(run: Run, proof: Proof | None = None, available: Callable[[str], int] = lambda _: 0) -> list[Finding]:
    """What went wrong with the run, each with what would mend the next one; nothing where all is well.

    `available(name)`: how many rows a set to mix in has.
    """
    if run.status == "failed":
        return [_failed(run)]
    return [*_loss(run), *(_forgets(run, proof, available) if proof is not None else ())]


def _failed(run: Run) -> Finding:
    ending = run.ending or {}
    text = Text(str(ending.get("message_zh", "")), str(ending.get("message_en", "")))
    cause, config = ending.get("cause"), run.config
    fixes: list[Fix] = []
    if cause == "memory":
        if config.quant_method == "none" and importlib.util.find_spec("bitsandbytes") is not None:
            fixes.append(Fix(Text("改用 QLoRA", "Use QLoRA"), (("quant_method", "bnb"),)))
        if config.gradient_checkpointing == "off":
            fixes.append(Fix(Text("重算中间结果", "Recompute layers"), (("gradient_checkpointing", "auto"),)))
    elif cause == "diverged":
        if config.torch_dtype == "float16":
            fixes.append(Fix(Text("计算精度改为 bfloat16", "Compute type bfloat16"), (("torch_dtype", "bfloat16"),)))
        if ending.get("broken_step") != 1:  # by then nothing was learned: no learning rate is at fault
            fixes.append(_slower(config.learning_rate / 2, config))
    return Finding("bad", text, fixes=tuple(fixes), kind="failed")


def _loss(run: Run) -> list[Finding]:
    """A loss that rises, or does not fall."""
    points = [(int(str(e["step"])), float(str(e["loss"]))) for e in run.history if e["type"] == "step"]
    if len(points) < _LEAST_POINTS:
        return []
    last_step = points[-1][0]
    ended = run.status == "finished" or (run.status == "stopped" and last_step >= _LATE * run.steps)
    if not ended and (run.status != "running" or last_step < max(_LEAST_STEPS, run.steps // 4)):
        return []
    width = max(2, len(points) // 5)
    losses = [loss for _, loss in points]
    first, last = fmean(losses[:width]), fmean(losses[-width:])
    config, step = run.config, last_step
    usual = _usual(config)
    if last > _RISEN * first:
        rate = min(config.learning_rate / 2, usual or config.learning_rate)
        text = Text(
            f"损失在上升（{first:.2f} → {last:.2f}，第 {step} 步）：学习率多半太大，学到的会散掉。",
            f"The loss rises ({first:.2f} to {last:.2f} at step {step}): the learning rate is most likely too high, and what "
            "was learned is lost.",
        )
        return [Finding("warn", text, fixes=(_slower(rate, config),), kind="rising")]
    if last <= _FLAT * first and (last <= _STUCK or not ended):
        return []
    said = Text(
        f"损失停在 {last:.2f}（开始时 {first:.2f}）", f"The loss stays at {last:.2f} ({first:.2f} at the beginning)"
    )
    return [_flat(said, run, usual)]


def _flat(said: Text, run: Run, usual: float) -> Finding:
    """Too few steps comes first: no learning rate makes up for them."""
    config, rate = run.config, run.config.learning_rate
    if run.steps < FEW_STEPS:
        text = Text(
            f"{said.zh}：一共只有 {run.steps} 步，太少。", f"{said.en}: only {run.steps} steps in all, too few."
        )
        name = "max_steps" if config.max_steps else "min_steps"
        return Finding("warn", text, fixes=(Fix(_label(FEW_STEPS), ((name, FEW_STEPS),)),), kind="flat")
    if usual and rate < usual / 2:
        then = float(f"{usual:.0e}")
        text = Text(
            f"{said.zh}：学习率 {show_rate(rate)} 偏小。", f"{said.en}: a learning rate of {show_rate(rate)} is low."
        )
        fix = Fix(Text(f"学习率改为 {show_rate(then)}", f"Learning rate {show_rate(then)}"), (("learning_rate", then),))
        return Finding("warn", text, fixes=(fix,), kind="flat")
    text = Text(
        f"{said.zh}：学习率减半、预热加长，通常就会降下来。",
        f"{said.en}: half the learning rate with a longer warm-up usually brings it down.",
    )
    return Finding("warn", text, fixes=(_slower(rate / 2, config),), kind="flat")


def _forgets(run: Run, proof: Proof, available: Callable[[str], int]) -> list[Finding]:
    """Abilities that the proof found weakened: rows of a general kind beside the own ones keep them."""
    lost = [test for test in proof.tests if test.id in _FORGETS and test.light in ("yellow", "red")]
    if not lost:
        return []
    names = Text("、".join(test.name.zh for test in lost), ", ".join(test.name.en for test in lost))
    text = Text(
        f"检验发现原有能力受损（{names.zh}）：混入通用数据，或打开防遗忘，再训练一次。",
        f"The proof found other skills weakened ({names.en}): mix in general rows, or turn the rehearsal guard on, and train "
        "again.",
    )
    fixes: list[Fix] = []
    if run.config.rehearsal == "off":
        fixes.append(Fix(Text("打开防遗忘", "Rehearsal guard on"), (("rehearsal", "normal"),)))
    if not run.config.mix:
        start = scenarios.start(scenarios.scenario("identity"), len(run.table.rows), available)
        if start.mix:
            settings: tuple[tuple[str, Value], ...] = (("mix", start.mix), ("dataset_repeat", start.repeat))
            fixes.append(Fix(Text(f"混入 {start.mix}", f"Mix in {start.mix}"), settings))
    return [Finding("warn", text, fixes=tuple(fixes), kind="forgets")]


def _slower(rate: float, config: TrainConfig) -> Fix:
    """A lower learning rate and a warm-up of a tenth of the run."""
    then = float(f"{rate:.2g}")
    settings: tuple[tuple[str, Value], ...] = (("learning_rate", then),)
    zh, en = f"学习率改为 {show_rate(then)}", f"Learning rate {show_rate(then)}"
    if config.warmup_ratio < _WARMUP:
        settings = (*settings, ("warmup_ratio", _WARMUP))
        zh, en = f"{zh}，预热 {_WARMUP:g}", f"{en}, warm-up {_WARMUP:g}"
    return Fix(Text(zh, en), settings)


def _label(steps: int) -> Text:
    return Text(f"走满 {steps} 步", f"{steps} steps")


def _usual(config: TrainConfig) -> float:
    """The learning rate that is usual for the run's base; 0 where its size is not known any more."""
    try:
        info = models.inspect(config.model)
    except UserError:
        return 0.0
    return usual_learning_rate(config, info.linear_parameters + info.embedding_parameters)
