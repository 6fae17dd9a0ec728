"""What ms-swift must be told of a model that it does not know by its folder's name. Checked with ms-swift 4.6.0."""

from __future__ import annotations

import json
from pathlib import Path

from core import models
from core.errors import ModelError
from core.text import Text

# Two of its model types and seven of its templates share the Qwen2 architecture, so it asks which; these two differ only
# in what they say where no system prompt is given.
_QWEN, _QWEN_25 = "qwen", "qwen2_5"
_QWEN_25_SAYS = "You are Qwen, created by Alibaba Cloud."
_UNKNOWN = Text(
    "ms-swift 按文件夹名认模型。它报 model_type 或 template 不明时，请加上基座在 ms-swift 支持列表里的 --model_type 和 --template。",
    "ms-swift knows models by their folder's name. If it asks for a model_type or template, add the --model_type and "
    "--template that its list of models gives for the base.",
)


def options(model: str) -> tuple[str, Text | None]:
    """(what goes behind `--model`, with a space in front, a note where that cannot be told). `model`: the base's name."""
    try:
        info = models.inspect(model)
    except ModelError:
        return "", _UNKNOWN
    if not models.is_pocket(model) and not Path(model).expanduser().is_dir():
        return "", None  # a hub's id, which it has in its list
    template = _template(info.folder)
    if info.family != "qwen2" or "<|im_start|>" not in template:
        return "", _UNKNOWN
    name = _QWEN_25 if _QWEN_25_SAYS in template or models.is_pocket(model) else _QWEN
    return f" --model_type qwen2 --template {name}", None


def merged_options(base: str) -> tuple[str, Text | None]:
    """The same for a folder that was merged from `base`, whatever that is called."""
    try:
        return options(str(models.inspect(base).folder))
    except ModelError:
        return "", _UNKNOWN


def _template(folder: Path) -> str:
    """The chat template's text as it lies beside a model, "" if there is none."""
    try:
        beside = folder / "chat_template.jinja"
        if beside.is_file():
            return beside.read_text("utf-8")
        found = json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""
