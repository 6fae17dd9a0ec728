"""What a card says when its memory runs out or it is gone, in words: how much was missing, who holds the rest, what to do."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Literal

from core.device import Device, find_device, memory_free
from core.errors import DeviceLostError, UserError, WontFitError
from core.holders import held
from core.text import Text

Doing = Literal["load", "starting", "training", "answer", "export", "reading"]

_DOING = {
    "load": Text("载入基座模型时", " while the base model was loaded"),
    "starting": Text("开始训练时", " at the start of training"),
    "training": Text("训练时", " in training"),
    "answer": Text("回答时", " during an answer"),
    "export": Text("导出时", " during the export"),
    "reading": Text("", ""),
}
_ADVICE = {
    "load": Text(
        "请改用 QLoRA（基座量化 = bnb）或更小的基座，或先关掉占用显存的程序，再试一次。",
        "Choose QLoRA (quantisation = bnb) or a smaller base model, or end programs that use the card, and try again.",
    ),
    "starting": Text(
        "请调低“最大长度”或每步的行数，或改用 QLoRA（基座量化 = bnb），再重新开始。",
        "Lower Maximum length or the rows per step, or use QLoRA (quantisation = bnb), and start again.",
    ),
    "training": Text(
        "请调低“最大长度”或每步的行数，或改用 QLoRA（基座量化 = bnb）；已训练的步存在检查点里。",
        "Lower Maximum length or the rows per step, or use QLoRA (quantisation = bnb); the steps until then have a checkpoint.",
    ),
    "answer": Text(
        "请缩短对话，或调低“最长回复”；正在进行的训练不受影响。",
        "Shorten the conversation or the longest answer; a run in progress is not affected.",
    ),
    "export": Text(
        "请等训练结束，或先关掉占用显存的程序，再导出一次；没有留下不完整的文件。",
        "Wait for the run to end, or end programs that use the card, and export again; no half file is left.",
    ),
    "reading": Text(
        "请等训练结束，或先关掉占用显存的程序，再试一次。",
        "Wait for the run to end, or end programs that use the card, and try again.",
    ),
}
LOST = Text(
    zh="显卡不再响应（驱动报告了错误），这个程序已经用不了它；已经保存的数据和检查点都在。请重新启动 OneCard，没有走完的训练可以"
    "从最近的检查点继续。",
    en="The card stopped answering (the driver reported an error), and this process cannot use it any more; saved data and "
    "checkpoints are intact. Restart OneCard; a run that was under way can be resumed from its newest checkpoint.",
)
# Libraries beside torch raise plain RuntimeErrors.
_CARD = re.compile(r"CUDA error|CUDA driver error|Triton Error \[CUDA\]|CUDNN_STATUS|CUBLAS_STATUS")
_MEMORY = re.compile(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|DefaultCPUAllocator: can't allocate memory")
_TRIED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMGT]i?B)")
_FREE = re.compile(r"of which ([\d.]+) ([KMGT]i?B|bytes) is free")
_UNITS = {"bytes": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@contextlib.contextmanager
def device_errors(doing: Doing = "reading", needed_bytes: int = 0) -> Iterator[None]:
    """Turn a shortage of memory into a WontFitError, a lost card into a DeviceLostError; each says what to do.

    `needed_bytes`: what the whole of it takes, where that is known.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        named = explained(error, doing, needed_bytes)
        if named is None:
            raise
        raise named from None


def explained(error: BaseException, doing: Doing, needed_bytes: int = 0) -> UserError | None:
    """`error` by its cause; None where it is neither a shortage of memory nor a lost card."""
    if is_memory(error):
        return out_of_memory(error, doing, needed_bytes)
    return DeviceLostError(LOST) if is_lost(error) else None


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the card or in the machine."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError | WontFitError):
        return True
    if torch is None or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.OutOfMemoryError) or _MEMORY.search(str(error)) is not None


def is_lost(error: BaseException) -> bool:
    """Whether the card is gone for this process: it reported an error and does not answer when it is asked again."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError) or is_memory(error):
        return False
    if not isinstance(error, torch.AcceleratorError) and _CARD.search(str(error)) is None:
        return False
    if not torch.cuda.is_initialized():
        return True
    try:
        torch.zeros(1, device="cuda").item()
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        return True
    return False  # a call that was wrong, and our fault: the card itself is well


def out_of_memory(error: BaseException, doing: Doing, needed_bytes: int = 0) -> WontFitError:
    """How much was needed, how much was free, who holds the rest, and what to do."""
    if isinstance(error, WontFitError) and error.needed_bytes:
        return error.bare()
    said, device = str(error), find_device()
    tried, free = _size(_TRIED.search(said)), _size(_FREE.search(said))
    if not free:
        with contextlib.suppress(RuntimeError):  # a card in trouble may not say
            free = memory_free(device)
    card = device.kind == "cuda"
    others = held(device).said or Text("", "")
    whole = Text(f"一共约需 {_shown(needed_bytes)}，", f"about {_shown(needed_bytes)} needed in all, ")
    last = Text(f"最后一次申请 {_shown(tried)}，", f"{_shown(tried)} asked for last, ")
    numbers = [said for said, count in ((whole, needed_bytes), (last, tried)) if count]
    zh_numbers = "".join(one.zh for one in numbers) + f"空闲 {_shown(free)}。"
    en_numbers = "".join(one.en for one in numbers) + f"{_shown(free)} free."
    place, advice = _DOING[doing], _ADVICE[doing]
    return WontFitError(
        Text(
            zh=f"{place.zh}{'显存' if card else '内存'}不够：{zh_numbers}{others.zh}{advice.zh}",
            en=f"The {'card' if card else 'machine'} ran out of memory{place.en}: {en_numbers} "
            f"{others.en}{' ' if others.en else ''}{advice.en}",
        ),
        needed_bytes or tried,
        free,
    )


def no_cuda(device: Device) -> Text:
    """The sentence for a card that the installed torch cannot use."""
    import torch

    build = torch.__version__
    return Text(
        zh=f"这台机器有显卡 {device.name}，但安装的 torch {build} 用不了它：它是没有 CUDA 的版本，或者显卡驱动太旧。"
        "请按 pytorch.org 的说明安装带 CUDA 的 torch，或更新驱动；也可以先设置 CUDA_VISIBLE_DEVICES= （空）再启动，只用处理器。",
        en=f"This machine has a card, {device.name}, but the installed torch {build} cannot use it: a build without CUDA, or "
        "a driver that is too old. Install torch with CUDA as pytorch.org says, or update the driver; or start with "
        "CUDA_VISIBLE_DEVICES= (empty) to use the processor.",
    )


def _size(found: re.Match[str] | None) -> int:
    if found is None:
        return 0
    return int(float(found[1]) * (_UNITS["bytes"] if found[2] == "bytes" else _UNITS[found[2][0]]))


def _shown(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
