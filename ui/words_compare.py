"""Compare's columns: who answered, how strongly, and the question set's progress. Sentences of the page, as in ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    # Who gave the answers, where the head names somebody else
    "who.spoke": ("这里的回答来自：{names}", "Answers here by: {names}"),
    "who.part": ("{name}（{count} 个）", "{name} ({count})"),
    "who.newer": ("有更新的适配器：{name}", "A newer adapter is there: {name}"),
    "who.use": ("换成它，重新开始", "Use it, start over"),
    "who.use.note": (
        "各栏的对话重新开始，问过的问题仍在导出的文件里",
        "The conversations begin anew; what was asked stays in the exported file",
    ),
    # The button of a column's settings
    "strength.now": ("强度 {value}", "Strength {value}"),
    "strength.none": ("设置", "Settings"),
    # The question set on its way
    "set.way": ("{done} / {count} 个回答", "{done} / {count} answers"),
    "set.pace": ("每分钟 {pace} 个问题", "{pace} questions a minute"),
    "set.stopped": ("停在第 {done} 个问题，共 {count} 个", "Stopped after {done} of {count} questions"),
    "set.too_long": (
        "这次问题集的回答太多，刷新页面后不会还在。要留下就先导出（Markdown 或 JSON）。",
        "These are too many answers to be kept over a reload. Export them first (Markdown or JSON).",
    ),
}
