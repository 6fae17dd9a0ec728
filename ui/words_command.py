"""Words of commands pasted and shown, in both languages; see ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "command.open": ("命令…", "Command…"),
    "command.title": ("命令", "Command"),
    "command.close": ("关闭", "Close"),
    "command.paste": ("粘贴命令", "Paste a command"),
    "command.show": ("显示为命令", "Show as a command"),
    "command.hint": (
        "粘贴 swift sft …、llamafactory-cli train …、它们的 YAML，或 python train.py --参数 …",
        "Paste swift sft …, llamafactory-cli train …, their YAML, or python train.py --flags …",
    ),
    "command.read": ("读取", "Read"),
    "command.apply": ("填入", "Fill in"),
    "command.apply.fetch": ("下载模型并填入", "Download the model and fill in"),
    "command.failed": (
        "没有完成：网络断开或程序已关闭。请刷新页面再试。",
        "This was not done: the connection is gone or the program has ended. Reload the page and try again.",
    ),
    "command.nothing": ("现在什么都没有改动。", "Nothing has been changed so far."),
    "command.model": ("基座模型", "Base model"),
    "command.model.absent": ("{name}（还没有下载）", "{name} (not downloaded)"),
    "command.model.keep": ("当前的 {name}", "the chosen {name}"),
    "command.table": ("要训练的表", "Table to train"),
    "command.table.own": ("{name}，{rows} 行", "{name}, {rows} rows"),
    "command.table.none": ("请选一张表", "Choose a table"),
    "command.mix": ("混入", "Mixed in"),
    "command.mix.part": ("{name}，{rows} 行", "{name}, {rows} rows"),
    "command.mix.absent": ("{part}（还没有下载）", "{part} (not here yet)"),
    "command.size": ("步数", "Steps"),
    "command.size.value": ("{steps} 步（{rows} 行）", "{steps} ({rows} rows)"),
    "command.size.share": ("，自己的行占 {share}", ", own rows {share}"),
    "command.preset": ("最接近的方案", "Nearest preset"),
    "command.card": ("身份卡", "Identity card"),
    "command.group.look": ("需要看一眼", "Worth a look"),
    "command.group.taken": ("照此填入", "Taken as they are"),
    "command.group.default": ("没有写，取 {tool} 的默认值", "Not given, {tool}'s defaults"),
    "command.group.ignored": ("没有影响", "Without effect here"),
    "command.filled": ("已填入：{what}。", "Filled in: {what}."),
    "command.filled.settings": ("{tool} 命令里的设置", "the settings of the {tool} command"),
    "command.filled.table": ("新数据集“{name}”", "the new dataset “{name}”"),
    "command.waiting": (
        "{name} 下载完成后，设置会自动填入。",
        "The settings are filled in by themselves once {name} has arrived.",
    ),
    "command.refused": (
        "现在用不了 {name}：连不上下载来源、没有这个模型，或正在用别的模型训练。可以在“基座模型”里改选当前的 {chosen}。",
        "{name} cannot be used now: its hub cannot be reached, there is no such model, or another one is training. Choose the "
        "present {chosen} under Base model instead.",
    ),
    "command.of.form": ("表单现在的设置", "The form as it stands"),
    "command.of.run": ("训练“{title}”", "The run “{title}”"),
    "command.copy": ("复制", "Copy"),
    "command.copied": ("已复制", "Copied"),
    "command.download": ("下载命令和数据", "Download with its rows"),
    "command.large": (
        "这些行超过 {most} MB，无法一次下载。请到“数据集”页导出。",
        "The rows take more than {most} MB, too much for one download. Export them on the Dataset tab.",
    ),
}
