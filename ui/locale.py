"""Every sentence of the page, in both languages, in one table. Values go into {braces}."""

from __future__ import annotations

from core.text import Language, Text

_TEXTS: dict[str, tuple[str, str]] = {
    # The frame
    "app.name": ("单卡工坊", "OneCard"),
    "app.title": ("单卡工坊 OneCard", "OneCard"),
    "app.switch": ("EN", "中文"),
    "app.switch.title": ("Switch to English", "切换到中文"),
    "app.theme": ("切换浅色与深色", "Switch between light and dark"),
    "tab.data": ("1 数据集", "1 Dataset"),
    "tab.train": ("2 训练", "2 Train"),
    "tab.compare": ("3 对比", "3 Compare"),
    "tab.chat": ("4 对话", "4 Chat"),
    "top.model": ("基座模型 {model}({state})", "Base model {model} ({state})"),
    "top.absent": ("第一次用到时载入", "loads on first use"),
    "top.loading": ("正在载入", "loading"),
    "top.ready": ("已载入", "loaded"),
    "top.failed": ("载入失败", "failed to load"),
    "top.memory": ("{device},已用 {amount}", "{device}, {amount} used"),
    "top.memory.process": (
        "{device},进程占用 / 内存总量:{amount}",
        "{device}, used by this process / memory of the machine: {amount}",
    ),
    "top.training": ("训练中 · 第 {step}/{steps} 步", "Training · step {step}/{steps}"),
    "top.loading.model": ("正在载入模型", "Loading the model"),
    "top.stopping": ("正在停止", "Stopping"),
    "ask.ok": ("确定", "OK"),
    "ask.cancel": ("取消", "Cancel"),
    "ask.delete": ("删除", "Delete"),
    "error.ours": (
        "程序内部出错,这是我们的问题。详情在日志里:{where}",
        "An internal error; this is our fault. Details are in the log: {where}",
    ),
    "place.terminal": ("启动程序的终端", "the terminal that started the program"),
    # Tab 1
    "data.dataset": ("数据集", "Dataset"),
    "data.new": ("新建", "New"),
    "data.rename": ("改名", "Rename"),
    "data.delete": ("删除", "Delete"),
    "data.new.ask": ("新数据集的名字", "Name of the new dataset"),
    "data.rename.ask": ("这个数据集的新名字", "New name of this dataset"),
    "data.delete.ask": (
        "删除当前数据集?训练过的记录各有自己的副本,不受影响。",
        "Delete this dataset? Runs keep their own copy of the rows.",
    ),
    "data.untitled": ("未命名", "untitled"),
    "data.next": ("下一步:训练", "Next: train"),
    "data.conflict": (
        "另一个页面改过这个数据集,这里的改动还没有保存。",
        "This dataset was changed on another page; the changes made here are not saved yet.",
    ),
    "data.gone": (
        "“{name}”已经在另一个页面删除或改名了。",
        "“{name}” was deleted or renamed on another page.",
    ),
    "data.conflict.reload": ("读取另一个页面的版本", "Take the other version"),
    "data.conflict.keep": ("保存这里的版本", "Keep this version"),
    "identity.title": ("身份", "Identity"),
    "identity.note": ("填一次,占位符全部跟着变", "Filled in once, used by every placeholder"),
    "identity.name_zh": ("名字(中文)", "Name (Chinese)"),
    "identity.name_en": ("名字(英文)", "Name (English)"),
    "identity.author_zh": ("开发者(中文)", "Author (Chinese)"),
    "identity.author_en": ("开发者(英文)", "Author (English)"),
    "health.title": ("数据体检", "Health check"),
    "health.waiting": ("正在检查…", "Checking…"),
    "files.title": ("导入与导出", "Import and export"),
    "files.note": ("JSON · JSONL · CSV", "JSON · JSONL · CSV"),
    "files.import": ("导入文件", "Import a file"),
    "files.export": ("导出", "Export"),
    "import.found": ("{file}:{count} 行,编码 {encoding}", "{file}: {count} rows, encoding {encoding}"),
    "import.replace": ("替换全表", "Replace the table"),
    "import.append": ("加到末尾", "Add to the end"),
    "import.cancel": ("取消", "Cancel"),
    "import.refused": ("没有导入,表格没有变。{why}", "Nothing was imported; the table is as it was. {why}"),
    "import.done": ("已导入 {count} 行", "Imported {count} rows"),
    # Tab 2
    "train.preset": ("方案", "Preset"),
    "train.needs_card": ("需要显卡", "needs a card"),
    "train.dataset": ("数据集", "Dataset"),
    "train.model": ("基座模型(可输入)", "Base model (editable)"),
    "train.advanced": ("高级设置", "Advanced"),
    "train.start": ("开始训练", "Start training"),
    "train.stop": ("停止并保存", "Stop and save"),
    "train.stopping": ("正在停止…", "Stopping…"),
    "group.lora": ("适配器", "Adapter"),
    "group.optimizer": ("优化", "Optimisation"),
    "group.data": ("数据", "Data"),
    "group.probes": ("提问、验证与保存", "Probes, evaluation, checkpoints"),
    "group.memory": ("显存与精度", "Memory and precision"),
    "field.unit": ("({unit})", " ({unit})"),
    "preview.rows": ("行数", "Rows"),
    "preview.tokens": ("词元", "Tokens"),
    "preview.steps": ("优化步数", "Optimizer steps"),
    "preview.time": ("预计时间", "Estimated time"),
    "preview.memory.label": ("预计占用", "Estimated memory"),
    "preview.memory": ("{needed} / 可用 {free}", "{needed} of {free} free"),
    "preview.fits": ("够用", "fits"),
    "preview.tight": ("偏紧", "tight"),
    "preview.too_big": ("放不下", "too big"),
    "preview.unknown": ("未知", "unknown"),
    "runs.title": ("训练记录", "Runs"),
    "runs.none": ("还没有训练过", "No runs yet"),
    "runs.download": ("下载“{title}”的适配器", "Download the adapter of “{title}”"),
    "runs.delete": ("删除“{title}”", "Delete “{title}”"),
    "runs.delete.ask": (
        "删除“{title}”?它的适配器和检查点会一起删除,不能恢复。",
        "Delete “{title}”? Its adapter and checkpoints go with it, for good.",
    ),
    "run.nothing": ("还没有训练", "No run yet"),
    "run.new": ("准备中", "starting"),
    "run.running": ("进行中", "running"),
    "run.finished": ("已完成", "finished"),
    "run.stopped": ("已停止", "stopped"),
    "run.failed": ("失败", "failed"),
    "run.interrupted": ("中断", "interrupted"),
    "run.interrupted.note": (
        "程序在这次训练的第 {step} 步退出,训练中断了。可以用同样的设置重新开始。",
        "The program ended at step {step} of this run, which was interrupted. It can be started again from the "
        "beginning with the same settings.",
    ),
    "run.interrupted.saved": (
        "中断前存下的检查点在文件夹 {folder} 里。",
        "The checkpoints saved before that are in the folder {folder}.",
    ),
    "chart.title": ("训练损失", "Training loss"),
    "probes.title": ("固定提问", "Fixed questions"),
    "probes.note": (
        "训练前后和途中各问一次,看模型何时改口",
        "Asked before, during and after: when does the model change?",
    ),
    # Tabs 3 and 4
    "compare.a": ("左栏的模型", "Model on the left"),
    "compare.b": ("右栏的模型", "Model on the right"),
    "compare.ask": ("同一个问题,同时问两边", "One question, asked of both"),
    "compare.empty": ("选一个问题,或在下面输入", "Pick a question or type one below"),
    "compare.questions": ("常用问题", "Stock questions"),
    "compare.clear": ("清空两栏", "Clear both"),
    "ask.who": ("你是谁?", "Who are you?"),
    "ask.maker": ("你的开发者是哪家公司?", "Which company made you?"),
    "ask.other": ("你是 ChatGPT 吗?", "Are you ChatGPT?"),
    "ask.introduce": ("用一句话介绍你自己", "Introduce yourself in one sentence"),
    "ask.fact": ("法国的首都是哪里?", "What is the capital of France?"),
    "ask.code": ("用 Python 写一个加法函数", "Write an add function in Python"),
    "talk.base": ("{model}(原始模型)", "{model} (base)"),
    "talk.system": ("系统提示词", "System prompt"),
    "talk.system.note": (
        "默认是训练时用的那一句;没有它,微调后的模型可能答回旧身份",
        "By default the one used in training; without it a tuned model may answer as its old self",
    ),
    "talk.starting": ("正在思考…", "thinking…"),
    "talk.waiting": ("正在训练,等当前一步结束…", "waiting for a training step…"),
    "talk.meter": (
        "首字 {first} 秒 · {speed} 词元/秒 · {tokens} 词元",
        "first token {first} s · {speed} tokens/s · {tokens} tokens",
    ),
    "talk.cut": ("到达长度上限", "length limit reached"),
    "talk.stopped": ("已停止", "stopped"),
    "verdict.hit": ("身份命中", "identity hit"),
    "verdict.old": ("旧身份", "old identity"),
    "chat.title": ("对话", "Chat"),
    "chat.settings": ("模型与设置", "Model and settings"),
    "chat.model": ("模型", "Model"),
    "chat.ask": ("发一条消息", "Send a message"),
    "chat.empty": ("和基座模型或任何一次训练的结果聊天", "Talk to the base model or to any run's result"),
    "chat.temperature": ("温度", "Temperature"),
    "chat.temperature.note": ("0 表示每次都取最可能的词", "0 always takes the likeliest token"),
    "chat.length": ("最长回复(词元)", "Longest answer (tokens)"),
    "chat.clear": ("清空对话", "Clear the conversation"),
    "chat.hint": (
        "训练进行时也能对话:回答排在两个训练步之间,不影响训练结果。Esc 停止回答。",
        "You can chat while a run trains: answers fit between steps and do not change its result. Esc stops an answer.",
    ),
}


def t(language: Language, key: str, **values: object) -> str:
    """The sentence `key` in `language`, with `values` in its braces. Raises KeyError for an unknown key."""
    zh, en = _TEXTS[key]
    text = zh if language == "zh" else en
    return text.format(**values) if values else text


def table() -> dict[str, Text]:
    """Every key with both sentences, for the checks."""
    return {key: Text(zh, en) for key, (zh, en) in _TEXTS.items()}
