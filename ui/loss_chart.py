"""LossChart: the live loss curve as a gradio component, drawn by ui/static/loss_chart.js.

`metrics({"run": id or "", "cursor": n})` is asked once a second while the page is visible and answers
    {"run": id, "from": n, "cursor": m, "total_steps": N, "points": [[step, loss, smooth], ...],
     "eval": [[step, loss], ...], "probes": [step, ...], "drift": [[step, KL to the base, words], ...],
     "ruler": [[KL, what moves a model so far], ...], "broken": the step that became NaN, or 0, "state": "running"}
with what came after cursor n; `from` 0 means "everything anew". `smooth` is the average up to that step over every
point, those that were thinned out too; without it the browser averages over what it has. The function gets ONE
argument, may be called by anybody who sees the page, and so must only read. The component's value is the id of the run
to show, "" for the server's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import gradio as gr

from core.text import Language, Text
from ui import pieces

_STATIC = Path(__file__).parent / "static"
_SCRIPTS = ("loss_chart.js", "picture.js", "chart_save.js")
_STRINGS: dict[str, Text] = {
    "title": Text("训练损失曲线", "Training loss"),
    "summary": Text(
        "训练损失曲线：第 {step} 步，共 {total} 步，损失 {loss}", "Training loss: step {step} of {total}, loss {loss}"
    ),
    "empty": Text("曲线会在开始训练后出现", "The curve appears once training starts"),
    "raw": Text("原始值", "raw"),
    "smooth": Text("平滑值", "smoothed"),
    "evaluated": Text("验证损失", "eval"),
    "probed": Text("提问", "probe"),
    "drift": Text("遗忘（≈ 几比特量化）", "forgetting (≈ quantised to)"),
    "broken": Text("NaN，已停止", "NaN, stopped"),
    "moved": Text("别的回答偏移", "drift of other answers"),
    "step": Text("第 {n} 步", "Step {n}"),
    "log": Text("对数坐标", "Log scale"),
    "reset": Text("还原缩放", "Reset zoom"),
    "svg": Text("把曲线存为 SVG", "Save the chart as SVG"),
    "png": Text("把曲线存为 PNG", "Save the chart as PNG"),
    "trouble": Text("连接中断，正在重试…", "No connection, trying again…"),
}

Metrics = Callable[[Mapping[str, object]], dict[str, object]]


class LossChart(gr.HTML):
    """A chart that follows one run; `server_functions` must hold a function named `metrics`, see above."""

    def __init__(
        self,
        server_functions: Sequence[Metrics],
        language: Language = "zh",
        value: str = "",
        *,
        elem_id: str | None = None,
        render: bool = True,
    ) -> None:
        if "metrics" not in [getattr(function, "__name__", "") for function in server_functions]:
            raise ValueError("LossChart needs a server function named metrics")
        self.language = language
        words = {key: text.of(language) for key, text in _STRINGS.items()}
        super().__init__(
            value=value,
            html_template='<div class="lc"></div>',
            js_on_load=pieces.with_labels(words, "".join((_STATIC / name).read_text("utf-8") for name in _SCRIPTS)),
            head=f"<style>{(_STATIC / 'loss_chart.css').read_text('utf-8')}</style>",
            server_functions=list(server_functions),
            apply_default_css=False,
            elem_id=elem_id,
            render=render,
        )
