"""An Ollama Modelfile: the GGUF file, the template the model was trained with, and the system prompt of its training."""

from __future__ import annotations

# What core.encode's ChatMLEncoder writes, as a Go template. Ollama puts the system prompt first by itself.
_CHATML = (
    "{{- if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{- range .Messages }}"
    '{{- if ne .Role "system" }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}'
    "{{- end }}<|im_start|>assistant\n"
)


def modelfile(model: str, system: str, chatml: bool, adapter: str = "") -> str:
    """The file's text. `model`: a GGUF file beside it, or a name that Ollama knows; `adapter`: a LoRA GGUF beside it.

    A template that is not ChatML is left to Ollama, which reads it from the GGUF file.
    """
    lines = [f"FROM {model}"]
    if adapter:
        lines.append(f"ADAPTER {adapter}")
    if chatml:
        lines += [f'TEMPLATE """{_CHATML}"""', 'PARAMETER stop "<|im_end|>"', 'PARAMETER stop "<|im_start|>"']
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    return "\n".join([*lines, "PARAMETER temperature 0", ""])


def _quoted(text: str) -> str:
    """Between triple quotes, which nothing inside may end: Ollama knows no way to escape them."""
    return f'"""{text.replace(chr(34) * 3, chr(39) * 3)}"""'
