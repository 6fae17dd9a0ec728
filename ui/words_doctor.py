"""Words of what is found of a table and how it is mended, in both languages; see ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "doctor.look": ("看这 {count} 行", "Show {count} rows"),
    "doctor.look.one": ("看这一行", "Show the row"),
    "doctor.more": ("还有 {count} 项", "{count} more"),
    "doctor.show": ("到表格里看第 {row} 行", "Go to row {row} in the table"),
    "doctor.place": ("{first}–{last}，共 {total} 行", "{first}–{last} of {total}"),
    "doctor.back": ("上一页", "Back"),
    "doctor.on": ("下一页", "Next"),
    "doctor.close": ("关闭", "Close"),
    "doctor.added": ("新增", "added"),
    "doctor.removed": ("删除", "removed"),
    "doctor.system": ("系统提示词：", "System prompt:"),
    "doctor.stale": (
        "表格在检查之后又改过，没有动它。请等体检更新后再试。",
        "The table changed after this check, so nothing was done. Try again once the check is up to date.",
    ),
    "doctor.done": ("{what}。在表格里按 Ctrl+Z 可以撤销。", "{what}. Ctrl+Z in the table undoes it."),
    "doctor.set": ("已在“训练”里设好：{settings}", "Set on the Train tab: {settings}"),
}
