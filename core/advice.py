"""What settings would do to so many rows on a model of such a size, with the changes that would mend it.

Judges no rows, no model and no page: `core.doctor` has the rows, `core.schedule` the curve that is judged here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from core.config import TrainConfig
from core.dataset import Row
from core.fact import Value
from core.text import Text

Level = Literal["ok", "note", "warn", "bad"]
Act = Literal["remove", "replace", "rename", "name", "author", "add"]
# Fewer optimizer steps than this seldom change an identity: 8 rows at 16 a step and 10 epochs are 10 (see SEEDS).
FEW_STEPS = 30
# What the presets use, and what docs/pocket.md swept, lie on one line in the logarithms: 1e-4 for 7e9 parameters and
# 2e-3 for 5e6, at an adapter scaled by 4.
_USUAL_RATE, _USUAL_PARAMETERS, _SLOPE, _USUAL_SCALE = 1e-4, 7e9, 0.41, 4.0
_TOO_LOW, _TOO_HIGH = 10, 6
_LION = 5
_MOST_WARMUP = 0.3
_EVALUATIONS = 5
_TOY = 50_000_000  # parameters: below this a model knows only what it was made for


@dataclass(frozen=True)
class Fix:
    """Settings that would mend a finding, and the words of the button that sets them."""

    label: Text
    settings: tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Mend:
    """A change of the table that would mend a finding, and the words of the button that shows it; see core.doctor.mends.

    `rows` are the only ones that may change. For "replace", `words` are pairs of what is written and what shall be;
    `added` are the rows that "add" puts at the end.
    """

    act: Act
    label: Text
    rows: tuple[int, ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    added: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One thing to know. `rows` count from 0, in dataset.rows. A "bad" one means that training is refused.

    `kind` names the check, once in a list. `groups`: rows that belong together, where it is about pairs. `words`: what to
    look for in the rows.
    """

    level: Level
    text: Text
    rows: tuple[int, ...] = ()
    fixes: tuple[Fix, ...] = ()
    kind: str = ""
    mends: tuple[Mend, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    words: tuple[str, ...] = ()


def advise(config: TrainConfig, rows: int, parameters: int = 0) -> list[Finding]:
    """Findings on steps, learning rate, warm-up and evaluation for `rows` rows; `parameters` of the base, 0: unknown."""
    trained = rows - config.held_out(rows)
    steps = config.steps(trained)
    if steps < 1:
        return []
    return [
        _steps(config, trained, steps),
        *_learning_rate(config, parameters),
        *_warmup(config, steps),
        *_evaluation(config, steps),
        *_beyond_it(config, parameters),
    ]


def usual_learning_rate(config: TrainConfig, parameters: int) -> float:
    """The learning rate that such settings usually want on a base of this size."""
    root = math.sqrt(config.lora_rank) if config.use_rslora == "true" else config.lora_rank
    size = math.pow(_USUAL_PARAMETERS / parameters, _SLOPE)
    rate = _USUAL_RATE * size * _USUAL_SCALE * root / config.lora_alpha
    return rate / _LION if config.optim.startswith("lion") else rate


def show_rate(rate: float) -> str:
    """A learning rate as people write it: 1e-4, 0.002."""
    if rate >= 1e-3:
        return f"{rate:g}"
    digits, _, exponent = f"{rate:.3e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"


def _steps(config: TrainConfig, trained: int, steps: int) -> Finding:
    each, epochs = config.rows_per_step, f"{config.num_train_epochs:g}"
    zh = f"{trained} 行，每步 {each} 行，{epochs} 轮"
    en = f"{trained} rows, {each} rows per step, {epochs} epochs"
    if config.max_steps:
        zh, en = "最多步数", "Maximum steps"
    elif steps == config.min_steps:
        zh, en = f"{zh}，补足到最少步数", f"{en}, raised to Minimum steps"
    if steps >= FEW_STEPS:
        return Finding("ok", Text(f"{zh}：共 {steps} 步。", f"{en}: {steps} steps."), kind="steps")
    text = Text(
        f"{zh}：只有 {steps} 步，可能改不了口（建议不少于 {FEW_STEPS} 步）。请重复各行，或增加轮数。",
        f"{en}: only {steps} step{'s' * (steps != 1)}, likely too few ({FEW_STEPS} or more advised). "
        "Repeat the rows, or raise the epochs.",
    )
    return Finding("warn", text, fixes=_more_steps(config, trained), kind="steps")


def _more_steps(config: TrainConfig, trained: int) -> tuple[Fix, ...]:
    """Ways to `FEW_STEPS` steps."""
    if config.max_steps:
        label = Text(f"最多步数改为 {FEW_STEPS}", f"Maximum steps {FEW_STEPS}")
        return (Fix(label, (("max_steps", FEW_STEPS),)),)
    repeat = Text(f"重复各行，走满 {FEW_STEPS} 步", f"Repeat the rows for {FEW_STEPS} steps")
    fixes = [Fix(repeat, (("min_steps", FEW_STEPS),))]
    epochs = math.ceil(FEW_STEPS / math.ceil(trained / config.rows_per_step))
    raised = Text(f"轮数改为 {epochs}", f"{epochs} epochs")
    fixes.append(Fix(raised, (("num_train_epochs", float(epochs)),)))
    return tuple(fixes)


def _learning_rate(config: TrainConfig, parameters: int) -> list[Finding]:
    if not parameters:
        return []
    usual, rate = usual_learning_rate(config, parameters), config.learning_rate
    if usual / _TOO_LOW <= rate <= usual * _TOO_HIGH:
        return []
    advised = float(f"{usual:.0e}")
    size = f"{parameters / 1e9:.3g}B" if parameters >= 1e9 else f"{parameters / 1e6:.3g}M"
    now, then = show_rate(rate), show_rate(advised)
    if rate > usual:
        text = Text(
            f"学习率 {now} 对 {size} 参数的模型太大（通常约 {then}）：损失容易跳飞，原有能力也会受损。",
            f"A learning rate of {now} is high for a model of {size} parameters (about {then} is usual): the loss may "
            "jump, and other skills suffer.",
        )
    else:
        text = Text(
            f"学习率 {now} 对 {size} 参数的模型太小（通常约 {then}）：很可能学不会。",
            f"A learning rate of {now} is low for a model of {size} parameters (about {then} is usual): it will hardly "
            "learn.",
        )
    label = Text(f"学习率改为 {then}", f"Learning rate {then}")
    return [Finding("warn", text, fixes=(Fix(label, (("learning_rate", advised),)),), kind="learning_rate")]


def _warmup(config: TrainConfig, steps: int) -> list[Finding]:
    """Warm-up that takes so much of the run that little is left at the full learning rate."""
    warmup = math.ceil(steps * config.warmup_ratio)
    if warmup < 2 or warmup <= steps * _MOST_WARMUP:
        return []
    ratio = next((r for r in (0.1, 0.05) if math.ceil(steps * r) <= steps * _MOST_WARMUP), 0.0)
    text = Text(
        f"{steps} 步里有 {warmup} 步在预热（学习率还没升到设定值），剩下的太少。",
        f"{warmup} of {steps} steps are warm-up, below the learning rate that was set; too few are left.",
    )
    label = Text(f"预热比例改为 {ratio:g}", f"Warm-up ratio {ratio:g}")
    return [Finding("warn", text, fixes=(Fix(label, (("warmup_ratio", ratio),)),), kind="warmup")]


def _evaluation(config: TrainConfig, steps: int) -> list[Finding]:
    """An interval that is never reached: the evaluation loss would be known at the end only."""
    if not (config.split_dataset_ratio or config.val_dataset) or config.eval_steps < steps or steps < 2:
        return []
    every = max(1, steps // _EVALUATIONS)
    text = Text(
        f"每 {config.eval_steps} 步验证一次，而总共只有 {steps} 步：训练途中不会验证。",
        f"Evaluated every {config.eval_steps} steps, and there are only {steps}: no evaluation before the end.",
    )
    label = Text(f"验证间隔改为 {every} 步", f"Evaluate every {every} steps")
    return [Finding("warn", text, fixes=(Fix(label, (("eval_steps", every),)),), kind="evaluation")]


def _beyond_it(config: TrainConfig, parameters: int) -> list[Finding]:
    """Rows mixed in that the pocket model can only stammer: it loses what it could (docs/pocket.md)."""
    if not 0 < parameters < _TOY or not re.search(r"(^|\s)(general|code)(#|\s|$)", config.mix):
        return []
    text = Text(
        "内置的 general 和 code 是给大模型准备的长回答，口袋模型学不来，反而会忘：混入 100 行，480 道通用题的答对数从 470 降到 399。"
        "它用“防遗忘”就够了。",
        "The built-in general and code rows are long answers for large models. The pocket model cannot learn them and forgets: "
        "with 100 of them it keeps 399 of 480 general questions instead of 470. Its rehearsal guard is enough.",
    )
    label = Text("不混入，改用防遗忘", "Do not mix in, use the guard")
    return [Finding("warn", text, fixes=(Fix(label, (("mix", ""), ("rehearsal", "normal"))),), kind="beyond_it")]
