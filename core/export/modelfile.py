"""An Ollama Modelfile: the GGUF file, the template the model was trained with, and the system prompt of its training."""

from __future__ import annotations

import json

from core.errors import ModelError
from core.text import Text

# What core.encode's ChatMLEncoder writes, as a Go template. Ollama puts the system prompt first by itself.
_SYSTEM = "<|im_start|>system\n{{ .System }}<|im_end|>\n"
_TURNS = (
    '{{- range .Messages }}{{- if ne .Role "system" }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}'
    "{{- end }}<|im_start|>assistant\n"
)
_QUOTES = '"""'  # nothing in a Modelfile's text may hold them: Ollama knows no way to escape them


def modelfile(model: str, system: str, usual: str, chatml: bool, adapter: str = "") -> str:
    """The file's text. `model`: a GGUF file beside it, or a name that Ollama knows; `adapter`: a LoRA GGUF beside it.

    `usual`: what the model's own template says where nobody gives a system prompt. A template that is not ChatML is left
    to Ollama, which reads it from the GGUF file. Raises ModelError for a system prompt that cannot be written there.
    """
    lines = [f"FROM {model}"]
    if adapter:
        lines.append(f"ADAPTER {adapter}")
    if _QUOTES in system:
        if not chatml:
            raise ModelError(
                Text(
                    f"系统提示词里有 {_QUOTES}，Ollama 的 Modelfile 写不了。请去掉它再训练，或导出合并后的模型（merged）。",
                    f"The system prompt holds {_QUOTES}, which an Ollama Modelfile cannot. Train without it, or export the "
                    "merged model (merged).",
                )
            )
        usual, system = system, ""  # said by the template, where it can be escaped
    if chatml:
        lines += [f'TEMPLATE """{_template(usual)}"""', 'PARAMETER stop "<|im_end|>"', 'PARAMETER stop "<|im_start|>"']
    if system:
        lines.append(f"SYSTEM {_QUOTES}{system}{_QUOTES}")
    # As it was tested: older versions penalise repetition by 1.1 where nothing is said, also at temperature 0.
    return "\n".join([*lines, "PARAMETER temperature 0", "PARAMETER repeat_penalty 1", ""])


def _template(usual: str) -> str:
    given = f"{{{{- if .System }}}}{_SYSTEM}"
    if usual:
        # Go reads a JSON string as its own.
        given += f"{{{{ else }}}}{_SYSTEM.replace('.System', json.dumps(usual, ensure_ascii=False))}"
    return f"{given}{{{{ end }}}}{_TURNS}"
