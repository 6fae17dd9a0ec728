"""Before the start: how much memory a run will take, how long it will last, and how to fit it on the card.

Arithmetic on the model's shape; the constants were fitted to measured peaks (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.config import TrainConfig
from core.device import Device
from core.errors import WontFitError
from core.models import ModelInfo
from core.text import Text

Fits = Literal["fits", "tight", "too big", "unknown"]

# Bytes kept per token and layer by autograd through transformers + PEFT, in units of 16-bit hidden and MLP widths.
_HIDDEN_UNITS, _MLP_UNITS = 13.0, 4.0
# NF4 with double quantisation: 4 bits, plus 8-bit scales a 64-block and 32-bit scales a 256-block of those.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# CUDA's own memory, or torch and transformers in this process; and what the allocator holds but does not use.
_RUNTIME = {"cuda": 800_000_000, "cpu": 600_000_000}
_FRAGMENTS = 1.06
_PACK_CUDA, _PACK_CPU = 4096, 2048

# Dense 16-bit tensor-core peak by card, in TFLOP/s, from the vendors' data sheets; used for the first guess of time only.
_TFLOPS = {
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "5090": 210,
    "4090": 165,
    "4080": 97,
    "4070": 58,
    "3090": 71,
    "3080": 60,
    "A6000": 155,
    "L40": 181,
    "A10": 125,
    "V100": 125,
    "T4": 65,
}


@dataclass(frozen=True)
class Plan:
    """How the engine will run an optimizer step: tokens per pass, whether layers are recomputed, and the peak in bytes."""

    max_tokens: int
    recompute: bool
    memory_bytes: int


def adapter_parameters(info: ModelInfo, config: TrainConfig) -> int:
    """Trainable parameters of a LoRA on the named targets; 20,185,088 for Qwen2.5-7B at rank 8, all-linear."""
    hidden, mlp = info.hidden_size, info.intermediate_size
    query, key = info.heads * info.head_dim, info.kv_heads * info.head_dim
    sizes = {
        "q_proj": hidden + query,
        "k_proj": hidden + key,
        "v_proj": hidden + key,
        "o_proj": query + hidden,
        "gate_proj": hidden + mlp,
        "up_proj": hidden + mlp,
        "down_proj": mlp + hidden,
    }
    groups = {"all-linear": list(sizes), "attention": list(sizes)[:4], "mlp": list(sizes)[4:]}
    names = groups.get(config.target_modules, config.target_modules.split())
    return info.layers * config.lora_rank * sum(sizes.get(name, 0) for name in names)


def resident_bytes(info: ModelInfo, config: TrainConfig, device: Device) -> int:
    """Memory of the base model alone."""
    wide = 4 if config.torch_dtype == "float32" or (config.torch_dtype == "auto" and device.kind == "cpu") else 2
    linear = info.linear_parameters * (_NF4_BYTES if config.quant_method == "bnb" else wide)
    return int(linear + info.embedding_parameters * wide)


def peak_bytes(
    info: ModelInfo, config: TrainConfig, device: Device, pass_tokens: int, answer_tokens: int, recompute: bool
) -> int:
    """Peak memory of a step whose largest pass has `pass_tokens` tokens, `answer_tokens` of them in the loss."""
    wide = 2 if device.kind == "cuda" else 4
    layer = wide * (_HIDDEN_UNITS * info.hidden_size + _MLP_UNITS * info.intermediate_size)
    # 16-bit logits, their float32 copy and the gradient of both, on answer tokens only.
    logits = answer_tokens * info.vocab_size * (2 * wide + 8)
    if recompute:
        # A layer keeps its input only; the largest moment is the head's or the one layer that is whole again.
        work = pass_tokens * wide * info.hidden_size * info.layers + max(logits, pass_tokens * layer)
    else:
        work = pass_tokens * layer * info.layers + logits
    optimizer = 2 if config.optim == "paged_adamw_8bit" else 8
    adapter = adapter_parameters(info, config) * (4 + 4 + optimizer)
    fixed = resident_bytes(info, config, device) + adapter + _RUNTIME[device.kind]
    return int(fixed + work * _FRAGMENTS)


def plan(
    info: ModelInfo, config: TrainConfig, device: Device, lengths: Sequence[tuple[int, int]], free_bytes: int
) -> Plan:
    """The fastest way to run that fits `free_bytes` (the base included). Raises WontFitError if none does.

    `lengths`: (tokens, answer tokens) of each row.
    """
    longest = max((tokens for tokens, _ in lengths), default=1)
    total = sum(tokens for tokens, _ in lengths) or 1
    share = sum(answers for _, answers in lengths) / total
    step_tokens = int(total / max(1, len(lengths)) * config.rows_per_step * 1.3)
    cap = _PACK_CUDA if device.kind == "cuda" else _PACK_CPU
    modes = {"auto": (False, True), "on": (True,), "off": (False,)}[config.gradient_checkpointing]
    smallest: Plan | None = None
    for recompute in modes:
        for limit in dict.fromkeys((max(cap, longest), max(cap // 2, longest), max(cap // 4, longest), longest)):
            tokens = max(longest, min(step_tokens, limit))
            smallest = Plan(
                limit, recompute, peak_bytes(info, config, device, tokens, int(tokens * share) + 1, recompute)
            )
            if smallest.memory_bytes <= free_bytes:
                return smallest
    assert smallest is not None
    raise WontFitError(_wont_fit(smallest.memory_bytes, free_bytes), smallest.memory_bytes, free_bytes)


def _wont_fit(needed: int, free: int) -> Text:
    return Text(
        zh=f"预计需要 {needed / 1e9:.1f} GB,可用 {free / 1e9:.1f} GB,放不下。请改用 QLoRA(基座量化 = bnb)、"
        "调低“最大长度”,或关闭占用显存的其他程序。",
        en=f"This needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. Choose QLoRA (quantisation = bnb), "
        "lower Maximum length, or close other programs that use the card.",
    )


def judge(needed: int, free: int) -> Fits:
    """A word for the page: tight means less than a tenth is left over."""
    if needed > free:
        return "too big"
    return "tight" if needed > 0.9 * free else "fits"


def seconds(
    info: ModelInfo, config: TrainConfig, device: Device, tokens: int, steps: int, measured: float | None
) -> float:
    """Training time for `tokens` in all over `steps`. `measured`: tokens per second of an earlier run here, if any."""
    if measured:
        return tokens / measured
    if device.kind == "cpu":
        # 6 operations a weight and token; about 12 GFLOP/s a core reached on small matrices.
        return tokens * 6 * (info.linear_parameters + info.embedding_parameters) / 12e9 / 2 + steps * 0.02
    known = next((peak for name, peak in _TFLOPS.items() if name in device.name), 60)
    return tokens * 4 * (info.linear_parameters + info.embedding_parameters) / (known * 1e12 * 0.3) + steps * 0.15
