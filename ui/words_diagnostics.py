"""Diagnostics, restart, and what is offered after a run or an answer went wrong: sentences of the page, as in ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "diagnostics.open": ("诊断", "Diagnostics"),
    "diagnostics.title": ("诊断", "Diagnostics"),
    "diagnostics.close": ("关闭", "Close"),
    "diagnostics.failed": ("没有取到，稍后再试。", "Could not be read; try again in a moment."),
    "diagnostics.lost.pill": ("显卡失联", "Card lost"),
    "diagnostics.well": ("没有发现问题。", "Nothing is wrong that could be seen from here."),
    "diagnostics.restart": ("重新启动", "Restart"),
    "diagnostics.restart.note": (
        "重新启动前会先保存正在进行的训练，页面随后会自动恢复。",
        "A restart saves a run in progress first; the page comes back by itself.",
    ),
    "diagnostics.restart.ask": (
        "重新启动 OneCard？正在进行的训练会先保存，之后可以继续。",
        "Restart OneCard? A run in progress is saved first and can be resumed.",
    ),
    "diagnostics.restart.cancel": ("取消", "Cancel"),
    "diagnostics.restarting": ("正在重新启动…页面会自动恢复。", "Restarting ... the page comes back by itself."),
    "diagnostics.restart.late": (
        "还没有起来。请看启动程序的终端。",
        "It is not back yet. Look at the terminal that started it.",
    ),
    "diagnostics.zip": ("下载诊断包（zip）", "Download diagnostics (zip)"),
    "diagnostics.zip.note": (
        "版本、设备、日志和最近三次训练的设置与过程；密钥和密码已经隐去，不含任何一行数据和回答。",
        "Versions, device, log, and settings and progress of the last three runs. Secrets are hidden; no row and no answer "
        "is in it.",
    ),
    "diagnostics.zip.contents": ("也放进这些训练的数据、回答和检验", "With the rows, answers and proofs of these runs"),
    "diagnostics.device": ("设备", "Device"),
    "diagnostics.memory": ("显存", "Card memory"),
    "diagnostics.memory.ram": ("内存（本程序）", "Memory (this program)"),
    "diagnostics.memory.value": ("已用 {used}，共 {total}", "{used} of {total} used"),
    "diagnostics.holders": ("谁占着显存", "Who holds it"),
    "diagnostics.holders.none": ("没有别的程序", "No other program"),
    "diagnostics.unseen": ("看不到的程序（别的用户或容器）{size}", "Programs of other users or containers: {size}"),
    "diagnostics.model": ("基座模型", "Base model"),
    "diagnostics.home": ("数据文件夹", "Home folder"),
    "diagnostics.readonly": ("不能写入", "read-only"),
    "diagnostics.disk": ("磁盘", "Disk"),
    "diagnostics.disk.value": ("空闲 {free}，共 {total}", "{free} of {total} free"),
    "diagnostics.run": ("正在训练", "Run in progress"),
    "diagnostics.run.none": ("没有", "None"),
    "diagnostics.troubles": ("最近的错误（{count}）", "Last errors ({count})"),
    "diagnostics.troubles.none": ("没有记录到错误。", "No error is on record."),
    "diagnostics.versions": ("版本", "Versions"),
    "diagnostics.system": ("系统", "System"),
    "diagnostics.log": ("日志的最后几行", "End of the log"),
    "fault.longer": ("最长回复改为 {count}，再答一次", "Answer again with up to {count} tokens"),
    "fault.warmer": ("温度改为 {value}，再答一次", "Answer again at temperature {value}"),
    "fault.shorter": ("请它简短回答，再答一次", "Answer again, briefly"),
    "diagnostics.log.none": ("日志还是空的。", "The log is empty."),
}
