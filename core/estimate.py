"""Before the start: how much memory a run will take, and how to fit it on the card.

The fused pass's memory is added up buffer by buffer (fused/sizes.py); what autograd keeps, and what the runtime takes
beside it, are constants fitted to measured peaks (docs/performance.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Literal

from core.batch import split
from core.config import TrainConfig
from core.device import Device
from core.errors import WontFitError
from core.fused.room import answer_bytes
from core.fused.sizes import FAMILIES, HEAD_NORM, PAD, Depth, Ranks, Shape, Way, arena_bytes, shallowest
from core.lora import ALL_LINEAR, GROUPS
from core.models import ModelInfo
from core.schedule import step_rows
from core.text import Text

Fits = Literal["fits", "tight", "too big", "unknown"]

# Bytes kept per token and layer by autograd through transformers + PEFT, in units of 16-bit hidden and MLP widths.
_HIDDEN_UNITS, _MLP_UNITS = 13.0, 4.0
# NF4 with double quantisation: 4 bits, plus 8-bit scales a 64-block and 32-bit scales a 256-block of those.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# CUDA's own memory with our kernels loaded, or torch and transformers in this process; what the allocator holds unused.
_RUNTIME = {"cuda": 800_000_000, "cpu": 600_000_000}
_FRAGMENTS = 1.06
# What bitsandbytes' kernels add to that: runs over an NF4 base took 0.2 GiB more than the sum of their parts.
_QUANTISER = 200_000_000
_PACK_CUDA, _PACK_CPU = 4096, 2048
# From here on a row goes alone through the fused pass: cuDNN's attention for one row is twice as fast as any for several.
_ALONE = 1536
# Answers while a run is on: two columns of 2,048 tokens in the cache.
_CHAT_TOKENS, _CHAT_ROWS, _CHAT_LENGTH = 4096, 2, 128
# Positions whose logits exist at one time: at 1,024 the head runs at full speed, at 128 a tenth of it slower.
_LOGIT_ROWS = (1024, 256, 128)
# Rows whose steps are divided into passes to see how large these come out: 20 ms.
_MOST_SEEN = 10_000
# What the most tokens of a pass are divided by, in search of a size that fits.
_PARTS = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 6, 8)
USUAL_ANCHOR = (112, 111)
"""Tokens of one of the guard's anchors, and those held to a teacher, for a plan made before the base was asked."""

# A pass of T tokens takes the time of T + 130: measured between 704 and 2,048 tokens of a 7B on one H200.
_PASS_TOKENS = 130
# Time of a pass that makes gate/up, or whole layers, a second time; one that keeps everything is 1.
_MLP_AGAIN, _WHOLE_AGAIN = 1.27, 1.34
# What is added to that by an embedding matrix in host memory, and by layers' inputs that go there and come back: 14 KB a
# layer and token of a 7B, 7 us a token in all at 50 GB/s beside 55 us of computing, most of it at the same time.
_EMBEDDINGS_AWAY, _INPUTS_AWAY = 0.06, 0.03


@dataclass(frozen=True)
class Plan:
    """How the engine will run an optimizer step, and the peak in bytes, base included.

    max_tokens: of one pass; recompute: what layers give up; logit_rows: logits at one time; host_embeddings: whether
    the embedding matrix lies in the host's memory; room: bytes of buffers within which a smaller pass gives up less.
    """

    max_tokens: int
    recompute: Depth
    memory_bytes: int
    logit_rows: int = _LOGIT_ROWS[0]
    host_embeddings: bool = False
    room: int = 0

    @property
    def way(self) -> Way:
        """What a pass needs to know of it."""
        return Way(self.recompute, self.logit_rows, self.host_embeddings, self.room)


def adapter_parameters(info: ModelInfo, config: TrainConfig) -> int:
    """Trainable parameters of a LoRA on the named targets; 20,185,088 for Qwen2.5-7B at rank 8, all-linear."""
    chosen = _chosen(info, config)
    magnitudes = sum(out for _, out in chosen.values()) if config.use_dora == "true" else 0
    return info.layers * (config.lora_rank * sum(one + other for one, other in chosen.values()) + magnitudes)


def _chosen(info: ModelInfo, config: TrainConfig) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each target layer of a block."""
    hidden, mlp = info.hidden_size, info.intermediate_size
    query, key = info.heads * info.head_dim, info.kv_heads * info.head_dim
    sides = {
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
        "gate_proj": (hidden, mlp),
        "up_proj": (hidden, mlp),
        "down_proj": (mlp, hidden),
    }
    if config.target_modules == ALL_LINEAR:
        return sides
    names = GROUPS.get(config.target_modules) or config.target_modules.split()
    return {name: sides[name] for name in names if name in sides}


def fused(info: ModelInfo, config: TrainConfig, device: Device) -> bool:
    """Whether the fused pass is expected to take the run (the engine decides when the model is there)."""
    plain = (
        config.use_dora == "true" or config.lora_dropout or config.neftune_noise_alpha or "pissa" in config.init_weights
    )
    exact = width(config, device) == 4
    right = exact != (device.kind == "cuda") and not (exact and config.quant_method == "bnb") and device.ampere
    named = config.target_modules in (ALL_LINEAR, *GROUPS)
    inside = named or len(_chosen(info, config)) == len(set(config.target_modules.split()))
    return info.family in FAMILIES and right and inside and not plain


def resident_bytes(info: ModelInfo, config: TrainConfig, device: Device) -> int:
    """Memory of the base model alone."""
    wide = width(config, device)
    linear = info.linear_parameters * (_NF4_BYTES if config.quant_method == "bnb" else wide)
    if device.kind == "cuda" and info.family in FAMILIES and wide == 2:
        linear += _spare_bytes(info, config)
    return int(linear + info.embedding_parameters * wide)


def width(config: TrainConfig, device: Device) -> int:
    """Bytes of the base's type."""
    exact = config.torch_dtype == "float32" or (config.torch_dtype == "auto" and device.kind == "cpu")
    return 4 if exact else 2


def _spare_bytes(info: ModelInfo, config: TrainConfig) -> int:
    """What laying the weights out for the fused pass adds: room beside each, or NF4's scratch for the one in use."""
    groups = _groups(info)
    if config.quant_method == "bnb":
        pieces = [groups[0], groups[1], (info.intermediate_size, info.hidden_size), groups[3]]
        return 2 * max((rows + PAD) * (columns + PAD) for rows, columns in pieces)
    return 2 * info.layers * sum(PAD * (rows + columns + PAD) for rows, columns in groups)


def _groups(info: ModelInfo) -> list[tuple[int, int]]:
    """(outputs, inputs) of the layers of a block that read the same input, side by side."""
    shape = shape_of(info)
    attention = [(shape.qkv, shape.hidden), (shape.hidden, shape.query)]
    return [*attention, (2 * shape.mlp, shape.hidden), (shape.hidden, shape.mlp)]


def _copies_bytes(info: ModelInfo, config: TrainConfig, width: int) -> int:
    """The adapter's working copies, where they have no room beside the base's weights."""
    ranks: tuple[int, ...] = astuple(ranks_of(info, config))
    apart = [
        rank * (rows + columns)
        for rank, (rows, columns) in zip(ranks, _groups(info), strict=True)
        if config.quant_method == "bnb" or width == 4 or rank > PAD or rank % 8
    ]
    return width * info.layers * sum(apart)


def shape_of(info: ModelInfo) -> Shape:
    """The decoder's sizes as the fused pass counts them."""
    return Shape(
        hidden=info.hidden_size,
        heads=info.heads,
        kv_heads=info.kv_heads,
        head_dim=info.head_dim,
        mlp=info.intermediate_size,
        layers=info.layers,
        vocabulary=info.vocab_size,
        head_norm=info.family in HEAD_NORM,
    )


def ranks_of(info: ModelInfo, config: TrainConfig) -> Ranks:
    """Summed ranks of the groups."""
    chosen = _chosen(info, config)

    def rank(*names: str) -> int:
        return config.lora_rank * sum(name in chosen for name in names)

    return Ranks(rank("q_proj", "k_proj", "v_proj"), rank("o_proj"), rank("gate_proj", "up_proj"), rank("down_proj"))


def peak_bytes(
    info: ModelInfo,
    config: TrainConfig,
    device: Device,
    pass_tokens: int,
    answer_tokens: int,
    plan: Plan,
    ours: bool,
    taught: int = 0,
) -> int:
    """Peak memory of a step whose largest pass has `pass_tokens` tokens, `answer_tokens` of them in the loss.

    Of `plan` it takes how a pass is run, not its size. `ours`: by the fused pass. `taught`: of the answer tokens, those
    that are held to a teacher.
    """
    parameters = adapter_parameters(info, config)
    # Weights and gradients in float32, two moments (one for Lion); the paged optimizer's lie in memory CUDA pages out.
    optimizer = {"paged_adamw_8bit": 2, "lion_32bit": 4}.get(config.optim, 8)
    frozen = 4 * parameters if config.init_weights.startswith("pissa") else 0
    fixed = resident_bytes(info, config, device) + parameters * (4 + 4 + optimizer) + frozen + _RUNTIME[device.kind]
    if plan.host_embeddings:
        fixed -= embedding_bytes(info)
    if config.quant_method == "bnb":
        fixed += _QUANTISER
    if ours:
        fixed += _copies_bytes(info, config, width(config, device))
        return int(fixed + _fused_work(info, config, pass_tokens, answer_tokens, taught, plan, width(config, device)))
    return int(fixed + _plain_work(info, device, pass_tokens, answer_tokens, taught, bool(plan.recompute)) * _FRAGMENTS)


def embedding_bytes(info: ModelInfo) -> int:
    """Of a 16-bit embedding matrix that may lie in host memory; 0 for one that the output layer shares."""
    return 0 if info.tied_embeddings else 2 * info.vocab_size * info.hidden_size


def _plain_work(info: ModelInfo, device: Device, tokens: int, answers: int, taught: int, recompute: bool) -> float:
    wide = 2 if device.kind == "cuda" else 4
    layer = wide * (_HIDDEN_UNITS * info.hidden_size + _MLP_UNITS * info.intermediate_size)
    # 16-bit logits, their float32 copy and the gradient of both, on answer tokens only.
    logits = answers * info.vocab_size * (2 * wide + 8)
    # The teacher's, their logarithms and shares, and the products with them that wait for the backward pass.
    logits += taught * info.vocab_size * (wide + 16)
    if recompute:
        # A layer keeps its input only; the largest moment is the head's or the one layer that is whole again.
        return tokens * wide * info.hidden_size * info.layers + max(logits, tokens * layer)
    return tokens * layer * info.layers + logits


def _fused_work(
    info: ModelInfo, config: TrainConfig, tokens: int, answers: int, taught: int, plan: Plan, width: int
) -> int:
    tokens, answers, taught = _bucket(tokens, answers, taught)
    sizes = (shape_of(info), ranks_of(info, config), tokens, answers)
    return arena_bytes(*sizes, plan.recompute, plan.logit_rows, width, taught) + _attention_bytes(info, tokens)


def _bucket(tokens: int, answers: int, taught: int) -> tuple[int, int, int]:
    """What a pass is filled up to (fused/rows.py): `answers` positions in the loss, `taught` of them held to a teacher."""
    step, count = (64, 64) if tokens <= 1024 else (128, 256)
    held = math.ceil(taught / count) * count
    return math.ceil(tokens / step) * step, math.ceil((answers - taught) / count) * count + held, held


def _attention_bytes(info: ModelInfo, tokens: int) -> int:
    """Attention's own: output, float32 sums of dq, dk and dv a query head, log-sums of every layer."""
    return tokens * (12 * info.heads * info.head_dim + 4 * info.heads * (info.layers + 2))


@dataclass(frozen=True)
class _Rows:
    """What a plan needs to know of the rows: tokens of the longest, of all, of a usual step, and the answers' share.

    anchors: answer tokens of the guard's anchors that come with a step.
    """

    longest: int
    longest_answers: int
    share: float
    step: int
    most: int
    anchors: int = 0

    @classmethod
    def of(
        cls,
        lengths: Sequence[tuple[int, int]],
        config: TrainConfig,
        alone: bool,
        anchors: Sequence[tuple[int, int]] = (),
    ) -> _Rows:
        """`alone`: long rows had better not share a pass. `anchors`: those that come with a step."""
        tokens = sorted((tokens for tokens, _ in lengths), reverse=True) or [1]
        total = sum(tokens)
        long = sum(count for count in tokens if count >= _ALONE)
        beside = sum(count for count, _ in anchors)
        together = sum(tokens[: config.rows_per_step]) + beside
        return cls(
            longest=max(tokens[0], max((count for count, _ in anchors), default=0)),
            longest_answers=max((answers for _, answers in lengths), default=1),
            share=sum(answers for _, answers in lengths) / total,
            step=max(1, total * min(config.rows_per_step, len(tokens)) // len(tokens)) + beside,
            most=tokens[0] if alone and long > total / 2 else together,
            anchors=sum(answers for _, answers in anchors),
        )

    def answers(self, tokens: int) -> int:
        """Positions in the loss of a pass of so many tokens, rather too many: one row may be all answer."""
        return min(
            tokens, max(self.longest_answers, int(tokens * min(1.0, self.share * 1.15)) + 64) + self.taught(tokens)
        )

    def taught(self, tokens: int) -> int:
        """Those of them that may be an anchor's: a pass may be of anchors alone."""
        return min(tokens, self.anchors)


def plan(
    info: ModelInfo,
    config: TrainConfig,
    device: Device,
    lengths: Sequence[tuple[int, int]],
    free_bytes: int,
    fast: bool = True,
    anchors: Sequence[tuple[int, int]] = (),
) -> Plan:
    """The fastest way to run that fits `free_bytes` (the base included). Raises WontFitError if none does.

    `lengths`: (tokens, answer tokens) of each row. `fast`: False where the loaded model turned out to have no fused pass.
    `anchors`: those of the guard's anchors that come with a step.
    """
    limit = free_bytes if not config.max_memory_gb else min(free_bytes, int(config.max_memory_gb * 1e9))
    ours = fast and fused(info, config, device)
    rows = _Rows.of(lengths, config, ours and device.kind == "cuda", anchors)
    best = None
    # Where nothing fits beside answers, they make do with what a step leaves; one that finds no room says so.
    for beside in (_chat_bytes(info, config, device), 0):
        best = best or _fastest(info, config, device, rows, limit - beside, ours)
    if best is None:
        needed = [way.memory_bytes for way in _ways(info, config, device, rows, rows.longest, limit, ours)][-1]
        raise WontFitError(_wont_fit(needed, limit), needed, limit)
    largest = _largest_pass(lengths, config, best.max_tokens, anchors)
    sizes = (largest, min(largest, rows.answers(largest)))
    return replace(best, memory_bytes=peak_bytes(info, config, device, *sizes, best, ours, rows.taught(largest)))


def _fastest(info: ModelInfo, config: TrainConfig, device: Device, rows: _Rows, limit: int, ours: bool) -> Plan | None:
    """The fastest way to run within `limit` bytes, of passes of any size; None if none fits."""
    most = max(rows.longest, min(rows.most, _PACK_CUDA if device.kind == "cuda" else _PACK_CPU))
    caps = dict.fromkeys(max(rows.longest, math.ceil(most / parts)) for parts in _PARTS)
    found = [
        way
        for cap in (*caps, rows.longest)
        for way in _ways(info, config, device, rows, cap, limit, ours)
        if way.memory_bytes <= limit
    ]
    return min(found, key=lambda way: _cost(way, info, config, rows, width(config, device)), default=None)


def _largest_pass(
    lengths: Sequence[tuple[int, int]], config: TrainConfig, cap: int, anchors: Sequence[tuple[int, int]]
) -> int:
    """Tokens of the largest pass that the first epoch's steps are divided into; `cap` where there are too many to see."""
    if not 0 < len(lengths) <= _MOST_SEEN:
        return cap
    beside = [range(tokens) for tokens, _ in anchors]
    steps = itertools.islice(step_rows(len(lengths), config), math.ceil(len(lengths) / config.rows_per_step))
    passes = (
        sum(map(len, part))
        for _, step in steps
        for part in split([*(range(lengths[i][0]) for i in step), *beside], cap)
    )
    return max(passes)


def _ways(
    info: ModelInfo, config: TrainConfig, device: Device, rows: _Rows, cap: int, limit: int, ours: bool
) -> Iterator[Plan]:
    """Ways to run passes of up to `cap` tokens, each with its peak, those of the least memory last."""
    kept, least_kept = Depth(), Depth.all(info.layers)
    modes = {"auto": (kept, least_kept), "on": (least_kept,), "off": (kept,)}[config.gradient_checkpointing]
    answers, taught = rows.answers(cap), rows.taught(cap)

    def at(depth: Depth, logit_rows: int = _LOGIT_ROWS[0], host: bool = False, room: int = 0) -> Plan:
        draft = Plan(cap, depth, 0, logit_rows, host, room)
        return replace(draft, memory_bytes=peak_bytes(info, config, device, cap, answers, draft, ours, taught))

    if not ours:
        yield from (at(depth) for depth in modes)
        return
    away = (False, True) if device.kind == "cuda" else (False,)  # on a processor it is the same memory
    hosts = (False,) if info.tied_embeddings else away
    for host, inputs, logit_rows in itertools.product(hosts, away, _LOGIT_ROWS):
        whole = Depth.all(info.layers, inputs)
        least = at(replace(modes[-1], host_inputs=inputs), logit_rows, host)
        if config.gradient_checkpointing != "auto" or least.memory_bytes > limit:
            yield least
            continue
        tokens, positions, held = _bucket(cap, answers, taught)
        sizes, wide = (shape_of(info), ranks_of(info, config), tokens, positions), width(config, device)
        room = limit - least.memory_bytes + arena_bytes(*sizes, whole, logit_rows, wide, held)
        depth = shallowest(*sizes, logit_rows, room, wide, inputs, held)
        assert depth is not None
        yield at(depth, logit_rows, host, arena_bytes(*sizes, depth, logit_rows, wide, held))
        if depth == kept and not host and logit_rows == _LOGIT_ROWS[0]:
            return  # nothing is given up: what follows would give up something for no smaller a pass


def _cost(plan: Plan, info: ModelInfo, config: TrainConfig, rows: _Rows, width: int) -> float:
    """Time a token of a usual step, in units of one in an endless pass that keeps everything."""
    passes = math.ceil(rows.step / plan.max_tokens)
    tokens, depth = math.ceil(rows.step / passes), plan.recompute
    if plan.room and (depth or depth.host_inputs):
        filled, answers, held = _bucket(tokens, rows.answers(tokens), rows.taught(tokens))
        sizes = (shape_of(info), ranks_of(info, config), filled, answers)
        found = shallowest(*sizes, plan.logit_rows, plan.room, width, depth.host_inputs, held)
        depth = depth if found is None else found
    mlp, whole = depth.mlp / info.layers, depth.whole / info.layers
    again = 1 + mlp * (_MLP_AGAIN - 1) + whole * (_WHOLE_AGAIN - 1)
    small = 0.002 * _LOGIT_ROWS.index(plan.logit_rows) + _EMBEDDINGS_AWAY * plan.host_embeddings
    small += _INPUTS_AWAY * depth.host_inputs
    return again * (1 + _PASS_TOKENS / tokens) + small


def _chat_bytes(info: ModelInfo, config: TrainConfig, device: Device) -> int:
    """What answering a pair of short questions meanwhile takes; where memory runs out, answers wait or are divided."""
    if device.kind != "cuda":
        return 0
    if not fused(info, config, device):
        return _CHAT_TOKENS * info.layers * 2 * info.kv_heads * info.head_dim * 2  # keys and values of 16 bits
    return answer_bytes(shape_of(info), _CHAT_ROWS, _CHAT_LENGTH, config.lora_rank)


def _wont_fit(needed: int, free: int) -> Text:
    return Text(
        zh=f"预计需要 {needed / 1e9:.1f} GB，可用 {free / 1e9:.1f} GB，放不下。请改用 QLoRA（基座量化 = bnb）、"
        "调低“最大长度”，或关闭占用显存的其他程序。",
        en=f"This needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. Choose QLoRA (quantisation = bnb), "
        "lower Maximum length, or close other programs that use the card.",
    )


def judge(needed: int, free: int) -> Fits:
    """A word for the page: tight means less than a tenth is left over."""
    if needed > free:
        return "too big"
    return "tight" if needed > 0.9 * free else "fits"
