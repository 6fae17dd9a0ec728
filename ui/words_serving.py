"""Serving with vLLM: sentences of the page, as in ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "serving.title": ("在别处运行", "Serve elsewhere"),
    "serving.note": (
        "直接运行这个适配器，不用先导出；导出的文件各有各的命令，写在上面每一项里。",
        "This adapter as it is, no export needed; each export above has commands of its own.",
    ),
    "serving.start": ("用 vLLM 运行", "Serve with vLLM"),
    "serving.port": ("端口", "Port"),
    "serving.length": ("上下文长度", "Context length"),
    "serving.length.whole": ("全部", "whole"),
    "serving.length.odd": (
        "上下文长度应是 {least} 到 {most} 的整数；留空则用模型的全部长度。",
        "Context length must be a whole number from {least} to {most}; empty takes all of the model's.",
    ),
    "serving.key.set": (
        "只回答带着 {name} 中密钥的程序。",
        "It answers programs that bring the key in {name}.",
    ),
    "serving.key.made": (
        "只回答带着下面这个密钥的程序，停止 vLLM 后它就作废。想用固定的密钥，请设置 ONECARD_API_KEY 再启动 OneCard。",
        "It answers programs that bring the key below, which ends with this vLLM. For a fixed one set ONECARD_API_KEY and "
        "start OneCard again.",
    ),
    "serving.companions": ("同一基座的其他 {count} 个适配器也一起", "the {count} other adapters of this base, too"),
    "serving.lent": (
        "vLLM 要独占显卡：这里的模型会先卸下，停止 vLLM 之前这里不能训练和对话。",
        "vLLM needs the card to itself: the model here is unloaded first, and until vLLM is stopped nothing here can train "
        "or answer.",
    ),
    "serving.four": (
        "这次训练用的是 4 比特基座，vLLM 也会用 4 比特载入。{plugin}",
        "This run trained on a 4-bit base, and vLLM will load it in 4 bits, too. {plugin}",
    ),
    "serving.starting": (
        "vLLM 正在启动（进程 {pid}）。第一次要编译，可能要几分钟。",
        "vLLM is starting (process {pid}). The first time it compiles, which may take minutes.",
    ),
    "serving.ready": ("vLLM 已就绪：", "vLLM answers at"),
    "serving.models": ("模型：{names}", "Models: {names}"),
    "serving.stopping": ("vLLM 正在停止…", "vLLM is stopping…"),
    "serving.stop": ("停止", "Stop"),
    "serving.kill": ("立即结束", "End it now"),
    "serving.log": ("日志", "Log"),
    "serving.other": ("vLLM 正在运行另一个适配器“{name}”。", "vLLM is serving another adapter, “{name}”."),
    "serving.port.odd": ("端口应是 1024 到 65535 的整数。", "The port must be a whole number from 1024 to 65535."),
    "serving.port.taken": (
        "端口 {port} 已被占用{holder}。请换一个端口。",
        "Port {port} is in use{holder}. Choose another.",
    ),
    "serving.failed": ("与程序失去联系，请检查它是否还在运行。", "No answer from the program. Is it still running?"),
}
