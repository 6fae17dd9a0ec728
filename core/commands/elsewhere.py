"""Commands that train nothing here: where on the page each of them is done, or that it is not."""

from __future__ import annotations

from core.commands.draft import Draft, Note
from core.commands.pasted import Command
from core.commands.swift import OFFLOAD
from core.errors import UserError
from core.text import Text

_CHAT = Text(
    "这是对话命令。在“对话”或“对比”里选适配器提问；命令行用 python app.py chat。",
    "A command to chat. Choose the adapter in Chat or Compare; without the page: python app.py chat.",
)
_EXPORT = Text(
    "这是合并导出命令。在适配器库里点“导出”。在 ms-swift 里，--output_dir 已存在时会报错，除非加 --exist_ok true。",
    "A command to merge and export. Choose Export in the adapter library. ms-swift itself refuses an --output_dir that "
    "exists unless --exist_ok true is given.",
)
_SERVE = Text(
    "这是部署命令。OneCard 自带 OpenAI 兼容接口：python app.py serve；请求里用 model 选适配器（不是 lora_name）。",
    "A command to serve. OneCard has an OpenAI-compatible API: python app.py serve; a request chooses the adapter by its "
    "model (not lora_name).",
)
_EVAL = Text("这是评测命令。训练后的“检验”会做这件事。", "A command to evaluate. The proof after a run does that.")
_PLACES = {
    "infer": _CHAT, "chat": _CHAT, "webchat": _CHAT, "app": _CHAT, "export": _EXPORT, "merge-lora": _EXPORT,
    "merge_lora": _EXPORT, "deploy": _SERVE, "api": _SERVE, "serve": _SERVE, "eval": _EVAL,
}  # fmt: skip
_OTHER_STAGE = Text(
    "这里只做监督微调（SFT），不做 {verb}。请粘贴 swift sft 或 stage: sft 的命令。",
    "Only supervised fine-tuning (SFT) is done here, no {verb}. Paste a command of swift sft or with stage: sft.",
)
_THERE = Text("在那里选。", "It is chosen there.")
_REMARKS = {
    "cpu_offload_gb": OFFLOAD,
    "infer_backend": Text(
        "4.6 里叫 transformers；pt 仍能用，会有警告。",
        "It is called transformers in 4.6; pt still works, with a warning.",
    ),
    "lora_name": Text(
        "vLLM 按请求里的 model 选适配器，没有 lora_name。",
        "vLLM picks the adapter by the request's model; there is no lora_name.",
    ),
    "ckpt_dir": Text("2.x 的写法，现在是 --adapters。", "The name in 2.x; it is --adapters now."),
}


def notes(command: Command) -> tuple[Note, ...]:
    """Where on this page a command that trains nothing is done. Raises UserError for one that has no place here."""
    place = _PLACES.get(command.verb)
    if place is None:
        raise _other_stage(command.verb or "?")
    draft = Draft()
    draft.note("", "notice", place)
    for option in command.options:
        remark = _REMARKS.get(option.name)
        draft.note(
            option, "ignored" if remark is None else "wrong" if remark is OFFLOAD else "renamed", remark or _THERE
        )
    return tuple(draft.notes)


def beside(verb: str) -> Text:
    """What is said of another command of the same paste."""
    return _PLACES.get(verb, Text("另一条命令，没有采用。", "Another command; not taken."))


def refuse_other_stages(command: Command) -> None:
    """Raise UserError for a command that trains otherwise than SFT."""
    stage = next((option.value for option in command.options if option.name in ("stage", "rlhf_type")), "sft")
    if stage != "sft":
        raise _other_stage(stage)


def _other_stage(verb: str) -> UserError:
    return UserError(Text(_OTHER_STAGE.zh.format(verb=verb), _OTHER_STAGE.en.format(verb=verb)))
