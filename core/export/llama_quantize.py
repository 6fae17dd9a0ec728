"""K-quants of a GGUF file, which the `gguf` package cannot make: by llama.cpp, through llama-cpp-python where it is."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from core.errors import ModelError
from core.export.speakers import llama_cpp_is_here
from core.text import Text

# llama.cpp's numbers of file types (llama.h, enum llama_ftype).
_TYPES = {"q3_k_m": 12, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}


def check(quantisation: str) -> None:
    """Raise ModelError if it cannot be made here."""
    if quantisation in _TYPES and not llama_cpp_is_here():
        raise ModelError(
            Text(
                f"{quantisation} 要用 llama.cpp 来做，这里没有安装。请运行 pip install llama-cpp-python，或选 q8_0。",
                f"{quantisation} is made by llama.cpp, which is not installed here. Run pip install llama-cpp-python, or "
                "choose q8_0.",
            )
        )


@functools.cache
def _silent() -> Any:
    """A log that is not written: it names every tensor on stderr."""
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda level, text, data: None)


def quantise(source: Path, target: Path, quantisation: str) -> None:
    """Write `source` (F16 or BF16) as `target`. Raises ModelError if llama.cpp refuses."""
    import llama_cpp

    llama_cpp.llama_log_set(_silent(), None)
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = _TYPES[quantisation]
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), settings)
    if status != 0:
        raise ModelError(
            Text(
                f"llama.cpp 没能做出 {quantisation}（状态 {status}）。请检查磁盘空间，或选 q8_0。",
                f"llama.cpp could not make {quantisation} (status {status}). Check the disk's space, or choose q8_0.",
            )
        )
