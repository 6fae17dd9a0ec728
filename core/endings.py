"""Why a run ended before its last step, and which adapter it left, in words."""

from __future__ import annotations

from core.checkpoints import TrainerState
from core.taken import IN_A_ROW, Point
from core.text import Text


def stale(evaluations: int, state: TrainerState) -> Text:
    """The evaluation loss has not become better for so many evaluations."""
    zh = f"验证损失连续 {evaluations} 次没有变好，训练提前结束。"
    en = f"The run ended early: {evaluations} evaluations without a better loss."
    if not state.best_step:  # no loss was ever a number
        return Text(zh, en)
    return Text(
        zh=f"{zh}最低的是第 {state.best_step} 步的 {state.best_loss:.4f}，那时的适配器在 "
        f"checkpoints/step-{state.best_step:06d}。",
        en=f"{en} The lowest was {state.best_loss:.4f} at step {state.best_step}; the adapter of then is in "
        f"checkpoints/step-{state.best_step:06d}.",
    )


def taken(chosen: Point, step: int, stopped_early: bool) -> Text:
    """Why the run ended at `step`, and why its adapter is the one of `chosen.step`."""
    drift = "–" if chosen.drift is None else f"{chosen.drift:.4f}"
    zh = (
        f"没有训练过的身份问题连续 {IN_A_ROW} 次达标，别的回答也没有跑偏，训练在第 {step} 步提前结束。"
        if stopped_early
        else ""
    )
    en = (
        f"The identity held on questions it was never trained on {IN_A_ROW} times in a row without drift, so the run "
        f"ended early at step {step}. "
        if stopped_early
        else ""
    )
    return Text(
        zh=f"{zh}采用第 {chosen.step} 步的适配器：提问过的里面它身份命中最多（{chosen.hits}/{chosen.total}），"
        f"命中相同时取偏移最小的（{drift}）。",
        en=f"{en}The adapter is the one of step {chosen.step}: of those that were asked it has the most identity hits "
        f"({chosen.hits} of {chosen.total}), and among equals the least drift ({drift}).",
    )


def broken_weights(step: int, saved: int) -> Text:
    """The update of `step` left weights that are NaN or infinite. `saved`: the step of the newest checkpoint, 0 for none."""
    kept_zh, kept_en = _kept(saved)
    return Text(
        zh=f"第 {step} 步的更新把适配器的权重变成了 NaN 或无穷大，训练已停止，没有保存坏的权重；{kept_zh}。请把学习率减半后再试。",
        en=f"The update of step {step} left weights of the adapter NaN or infinite; training stopped and no bad weights were "
        f"saved. {kept_en}. Halve the learning rate and try again.",
    )


def broken_evaluation(step: int, saved: int) -> Text:
    """The evaluation loss after `step` is NaN or infinite. `saved`: as for `broken_weights`."""
    kept_zh, kept_en = _kept(saved)
    return Text(
        zh=f"第 {step} 步之后的验证损失是 NaN 或无穷大，训练已停止，这一步的适配器没有采用；{kept_zh}。请把学习率减半，"
        "或把计算精度（torch_dtype）改为 bfloat16 或 float32。",
        en=f"The evaluation loss after step {step} is NaN or infinite; training stopped and the adapter of this step is not "
        f"used. {kept_en}. Halve the learning rate, or set the compute type (torch_dtype) to bfloat16 or float32.",
    )


def _kept(saved: int) -> tuple[str, str]:
    if not saved:
        return "还没有保存过检查点", "There is no checkpoint yet"
    return f"第 {saved} 步的检查点完好", f"The checkpoint of step {saved} is intact"
