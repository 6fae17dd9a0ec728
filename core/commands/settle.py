"""What of a command can be settled only once its rows are counted: warm-up, evaluation, saving, several cards."""

from __future__ import annotations

import math

from core import config
from core.commands.draft import Draft, is_off, is_on
from core.commands.shell import Option
from core.config import TrainConfig
from core.errors import ConfigError
from core.text import Text

NEVER = 1_000_000
# The sentence Qwen's template puts before a conversation without a system prompt.
_TEMPLATE = Text(
    "命令里没有系统提示词：会用模型模板自带的那句（Qwen2.5 是“You are Qwen, created by Alibaba Cloud. …”），它和新身份相矛盾。"
    "想改可以在“系统提示词”里填。",
    "No system prompt is given: the model's template puts its own (Qwen2.5: “You are Qwen, created by Alibaba Cloud. …”), "
    "which contradicts a new identity. Another can be entered under System prompt.",
)


def cards(draft: Draft, environment: dict[str, str], gradient_given: bool) -> None:
    """Several processes become more accumulation: as many rows a step on one device."""
    text = environment.get("NPROC_PER_NODE", "")
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 1
    if count > 1:
        rows = int(draft.settings.get("gradient_accumulation_steps", 1))
        if gradient_given:
            draft.settings["gradient_accumulation_steps"] = min(4096, rows * count)
        draft.note(f"NPROC_PER_NODE={count}", "taken", Text(
            "这里只用一张卡；梯度累积相应加倍，每步的行数不变。",
            "One device here; gradient accumulation is raised so that a step has as many rows.",
        ))  # fmt: skip
    for name, why in _ENVIRONMENT.items():
        if name in environment:
            draft.note(f"{name}={environment[name]}", "ignored", why)


_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": Text(
        "用哪张卡在启动 OneCard 时决定：CUDA_VISIBLE_DEVICES=0 python app.py。",
        "The card is chosen when OneCard is started: CUDA_VISIBLE_DEVICES=0 python app.py.",
    ),
    **dict.fromkeys(("HF_ENDPOINT", "USE_HF", "USE_MODELSCOPE_HUB", "MODELSCOPE_CACHE", "HF_HOME"), Text(
        "从哪里下载在模型选择框下面的“下载来源”里选。", "Where models come from is chosen below the model picker."
    )),
}  # fmt: skip


def system(draft: Draft) -> None:
    """Without a system prompt the template's own counts."""
    if "system" not in draft.settings:
        draft.settings["system"] = ""
        draft.note("system", "notice", _TEMPLATE)


def build(draft: Draft) -> TrainConfig:
    """The settings so far. What excludes each other is said, and the evaluation split dropped."""
    try:
        return config.build(draft.settings)
    except ConfigError as error:
        draft.settings.pop("split_dataset_ratio", None)
        draft.note("", "wrong", error.text)
        return config.build(draft.settings)


def steps(draft: Draft, base: TrainConfig, rows: int, tool: str) -> TrainConfig:
    """Warm-up, evaluation and saving, for `rows` training rows (0 where they cannot be counted)."""
    held = base.held_out(rows) if rows else 0
    total, per_epoch = base.steps(rows - held), math.ceil((rows - held) / base.rows_per_step)
    _warmup(draft, total)
    checkpointing = draft.facts.pop("gradient_checkpointing", None)
    if checkpointing is not None:
        _checkpointing(draft, checkpointing)
    _saving(draft, total, per_epoch, tool)
    _evaluation(draft, total, per_epoch, tool, bool(base.split_dataset_ratio or base.val_dataset))
    return config.build(draft.settings)


def _warmup(draft: Draft, total: int) -> None:
    asked = draft.facts.pop("warmup_steps", None)
    if asked is None or is_off(asked.value):
        return
    try:
        count = float(asked.value)
    except ValueError:
        count = math.nan
    if not math.isfinite(count):
        draft.note(asked, "wrong", Text("应为数字，没有采用。", "It must be a number; not taken."))
        return
    if 0 < count < 1:  # transformers 5: a share of the steps
        draft.set(asked, "warmup_ratio", count)
    elif total:
        share = min(0.95, count / total)
        why = Text(
            f"这次共 {total} 步，{count:g} 步就是这个比例。",
            f"The run has {total} steps; {count:g} of them are this share.",
        )
        draft.set(asked, "warmup_ratio", f"{share:.6g}", why=why)
    else:
        draft.note(asked, "missing", Text(
            "这里按比例预热，行数未知时换算不出来；请填“预热比例”。",
            "Warm-up is a share here, which needs the number of rows; enter the Warm-up ratio.",
        ))  # fmt: skip


def _checkpointing(draft: Draft, asked: Option) -> None:
    if is_on(asked.value):
        draft.settings["gradient_checkpointing"] = "auto"
        draft.note(asked, "taken", Text(
            "自动：放不下时才打开，结果不变，放得下时更快。",
            "Automatic: on only where the run would not fit; the result is the same, and faster where it fits.",
        ))  # fmt: skip
    elif is_off(asked.value):
        draft.set(asked, "gradient_checkpointing", "off")


def _saving(draft: Draft, total: int, per_epoch: int, tool: str) -> None:
    strategy, every = draft.facts.pop("save_strategy", None), draft.facts.pop("save_steps", None)
    if strategy is not None and strategy.value == "no":
        draft.settings["save_steps"] = NEVER
        draft.note(strategy, "taken", Text("只保存最后一步。", "Only the last step is saved."))
        return
    if strategy is not None and strategy.value == "epoch" and per_epoch:
        why = Text(f"每轮一次，一轮 {per_epoch} 步。", f"Once an epoch, which has {per_epoch} steps.")
        draft.set(strategy, "save_steps", per_epoch, why=why)
        return
    if strategy is not None:
        draft.note(strategy, "taken", Text("按步数保存。", "Saved by steps."))
    if every is None:
        return
    count = _steps_of(every, total)
    if count is None:
        draft.note(every, "wrong", Text("应为数字，没有采用。", "It must be a number; not taken."))
        return
    draft.set(every, "save_steps", count)
    if total and count > total:
        draft.note(every, "notice", Text(
            f"这次一共只有 {total} 步，checkpoint-{count} 不会出现，只会保存最后一步（checkpoint-{total}）。",
            f"The run has {total} steps in all: there will be no checkpoint-{count}, only the last step is saved "
            f"(checkpoint-{total}).",
        ))  # fmt: skip


def _evaluation(draft: Draft, total: int, per_epoch: int, tool: str, held: bool) -> None:
    strategy, every = draft.facts.pop("eval_strategy", None), draft.facts.pop("eval_steps", None)
    if not held:
        for option in (strategy, every):
            if option is not None and not is_off(option.value):
                draft.note(option, "notice", Text(
                    f"没有验证集，也没有留出验证行，{tool} 里这一项永远不会执行。要验证损失，请设“验证集比例”，例如 0.1。",
                    f"There is no evaluation set and no split: in {tool} this never happens. For an evaluation loss set the "
                    "Evaluation split, to 0.1 for example.",
                ))  # fmt: skip
        return
    if strategy is not None and strategy.value == "epoch" and per_epoch:
        why = Text(f"每轮一次，一轮 {per_epoch} 步。", f"Once an epoch, which has {per_epoch} steps.")
        draft.set(strategy, "eval_steps", per_epoch, why=why)
        return
    if strategy is not None and is_off(strategy.value):
        draft.note(
            strategy,
            "missing",
            Text("有验证行时这里总会算验证损失。", "Where rows are held out their loss is always measured here."),
        )
    elif strategy is not None:
        draft.note(strategy, "taken", Text("按步数验证。", "Measured by steps."))
    if every is not None and (count := _steps_of(every, total)) is not None:
        draft.set(every, "eval_steps", count)
    elif every is None and "save_steps" in draft.settings:
        draft.settings.setdefault("eval_steps", draft.settings["save_steps"])


def _steps_of(option: Option, total: int) -> int | None:
    """Steps; below 1 a share of all of them."""
    try:
        number = float(option.value)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return max(1, math.ceil(number * total)) if 0 < number < 1 and total else max(1, int(number))
