"""Why a run ended before its last step, and which adapter it left, in words."""

from __future__ import annotations

from core.checkpoints import TrainerState
from core.taken import IN_A_ROW, Point
from core.text import Text


def stale(evaluations: int, state: TrainerState) -> Text:
    """The evaluation loss has not become better for so many evaluations."""
    zh = f"验证损失连续 {evaluations} 次没有变好,训练提前结束。"
    en = f"The run ended early: {evaluations} evaluations without a better loss."
    if not state.best_step:  # no loss was ever a number
        return Text(zh, en)
    return Text(
        zh=f"{zh}最低的是第 {state.best_step} 步的 {state.best_loss:.4f},那时的适配器在 "
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
