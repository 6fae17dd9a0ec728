"""A base model's configuration and tokenizer as transformers reads them; what it raises over a file names that file.

Needs no torch: a preview has the tokenizer long before the weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from core.errors import ModelError, UserError
from core.text import Text

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_OF_MEMORY = ("MemoryError", "OutOfMemoryError")


def config_of(folder: Path) -> PreTrainedConfig:
    """The configuration in a model's folder. Raises ModelError for one that is damaged or wants code of its own."""
    from transformers import AutoConfig

    with named(folder, "config.json"):
        made = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return cast("PreTrainedConfig", made)


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder. Raises ModelError for one that is damaged or wants code of its own."""
    from transformers import AutoTokenizer

    with named(folder, "tokenizer.json, tokenizer_config.json"):
        made = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return cast("PreTrainedTokenizerBase", made)


@contextlib.contextmanager
def named(folder: Path, files: str) -> Iterator[None]:
    """Let whatever a library raises over `files` of a model's folder be a ModelError that names them and the reason.

    Our own errors, and what is said of memory, go through.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        kind = type(error).__name__
        # What tokenizers cannot go on from is no Exception.
        if kind in _OF_MEMORY or not (isinstance(error, Exception) or kind == "PanicException"):
            raise
        reason = " ".join(f"{kind}: {error}".split())[:300].rstrip(".")
        raise ModelError(_wants_code(folder, reason) or _cannot_be_used(folder, files, reason)) from error


def _cannot_be_used(folder: Path, files: str, reason: str) -> Text:
    return Text(
        zh=f"{folder} 里的 {files} 无法使用：{reason}。请重新下载这个模型，或换一个。",
        en=f"{files} in {folder} cannot be used: {reason}. Download the model again, or choose another.",
    )


def _wants_code(folder: Path, reason: str) -> Text | None:
    """What to say where one of the model's configurations names code of its own."""
    for name in ("config.json", "tokenizer_config.json"):
        with contextlib.suppress(OSError):
            if '"auto_map"' in (folder / name).read_text(encoding="utf-8", errors="replace"):
                return Text(
                    zh=f"{folder / name} 要运行模型自带的程序代码（auto_map），出于安全从不运行。请换一个不带代码的模型。"
                    f"（{reason}）",
                    en=f"{folder / name} wants code that comes with the model to be run (auto_map), which is never done, "
                    f"for safety. Choose a model without code. ({reason})",
                )
    return None
