"""Which cards a run uses: sentences of the page, as in ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "cards.label": ("用哪些显卡训练", "Cards to train on"),
    "cards.note": (
        "用别的卡或几张卡时，会另开进程，每张卡各自载入基座，进度照样显示在这里。第 1 张卡放不下两份基座时，对话用的那份先卸下，"
        "下次提问时再载入。",
        "On other or several cards the run is processes of its own, each with its own copy of the base, and is followed here "
        "as ever. Where card 1 has no room for two copies, chat's is unloaded and comes back with the next question.",
    ),
    "how.device.several": ("{count} 张 {name}", "{count} × {name}"),
}
