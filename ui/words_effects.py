"""What a setting does: sentences of the page, as in ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "effect.if": ("改了会怎样", "What if I change it"),
    "effect.measured": ("实测：口袋模型", "Measured: pocket model"),
    "effect.value": ("设为", "set to"),
    "effect.identity": ("身份题", "identity"),
    "effect.general": ("通用题", "general"),
    "effect.time": ("用时", "time"),
    "effect.memory": ("7B 显存", "7B memory"),
    "effect.seconds": ("{seconds} 秒", "{seconds} s"),
    "effect.with": ("{value}，同时{others}", "{value}, with {others}"),
    "effect.plain": ("{value}（对照）", "{value} (baseline)"),
    "effect.note": (
        "身份题：{of} 道没有训练过的问题里，用新名字回答的；换个随机种子，也在 {low} 到 {high} 之间变。通用题：{general_of} 道里"
        "答对的，训练前 {before}。为了看清每一项，测的时候关着“防遗忘”和“学会就停”。",
        "Identity: of {of} questions never trained on, those answered with the new name; other seeds alone give {low} to "
        "{high}. General: right of {general_of}, {before} before. Measured without the rehearsal guard and the early stop, "
        "so that each setting shows.",
    ),
    "effect.unmeasured": (
        "在口袋模型上量不出来：以上来自显卡上的实测或计算。",
        "Not to be measured on the pocket model: the above is from a card or by arithmetic.",
    ),
    "effect.name": ("命令行参数", "On the command line"),
    "effect.default": ("默认值", "if left out"),
    "effect.empty": ("空", "empty"),
}
