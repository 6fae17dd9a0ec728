"""The plan before the start: what fits, what is given up for it, and how near its memory is to what was measured."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from core import estimate
from core.config import TrainConfig
from core.device import Device
from core.errors import WontFitError
from core.fused.sizes import Depth, Ranks, Shape, arena_bytes, shallowest
from core.models import ModelInfo

GIB = 2**30
QWEN_7B = ModelInfo("7b", Path("7b"), "qwen2", 3584, 18944, 28, 28, 4, 128, 152_064, False, 15_231_233_024, 32_768)
CARD = Device("cuda", "H200", 140 * GIB)
IDENTITY, LONG = [(44, 25)] * 50, [(2048, 2000)] * 96
_DRAW = random.Random(0)
MIXED = [(max(20, int(_DRAW.lognormvariate(5, 0.8))), 100) for _ in range(1050)]


def plan(rows: list[tuple[int, int]], gib: float, **settings: object) -> estimate.Plan:
    """The plan for a 7B on a card with so much memory."""
    return estimate.plan(QWEN_7B, replace(TrainConfig(), **settings), CARD, rows, int(gib * GIB))  # type: ignore[arg-type]


# Whole card in use at the peak less nothing, in GiB, read on one H200 (docs/performance.md).
MEASURED = [
    ("none", IDENTITY, 24, 17.98),
    ("none", LONG, 24, 21.80),
    ("bnb", IDENTITY, 24, 9.04),
]


@pytest.mark.parametrize(("quant", "rows", "gib", "measured"), MEASURED, ids=["bf16", "bf16-2048", "nf4"])
def test_the_estimate_is_within_five_percent_of_what_was_measured(
    quant: str, rows: list[tuple[int, int]], gib: float, measured: float
) -> None:
    # The longest step of the identity rows has 789 tokens.
    found = plan([(49, 28)] * 50 if rows is IDENTITY else rows, gib, quant_method=quant)
    assert abs(found.memory_bytes / GIB - measured) / measured < 0.05


@pytest.mark.parametrize("rows", [IDENTITY, LONG, MIXED], ids=["identity", "long", "mixed"])
@pytest.mark.parametrize(("quant", "cards"), [("none", (80, 24, 20, 16)), ("bnb", (24, 16, 12, 10, 8, 7))])
def test_a_smaller_card_gives_up_more_and_never_asks_for_more_than_it_has(
    rows: list[tuple[int, int]], quant: str, cards: tuple[float, ...]
) -> None:
    plans = [plan(rows, gib, quant_method=quant) for gib in cards]
    for gib, found in zip(cards, plans, strict=True):
        assert found.memory_bytes <= gib * GIB
        assert found.max_tokens >= max(tokens for tokens, _ in rows)
    assert plans[0].recompute == Depth() and not plans[0].host_embeddings
    assert plans[-1].recompute or plans[-1].host_embeddings or plans[-1].max_tokens < plans[0].max_tokens


def test_what_cannot_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(WontFitError) as refused:
        plan(LONG, 13)
    assert refused.value.needed_bytes > refused.value.free_bytes > 0


def test_a_limit_of_ones_own_counts_like_a_smaller_card() -> None:
    free = plan(LONG, 140, max_memory_gb=18.0)
    assert free.memory_bytes <= 18e9 and free.recompute


def test_checkpointing_on_or_off_is_kept_to() -> None:
    assert plan(LONG, 140, gradient_checkpointing="on").recompute == Depth.all(28)
    with pytest.raises(WontFitError):
        plan(LONG, 18, gradient_checkpointing="off")


def test_long_rows_go_one_by_one_and_short_ones_together() -> None:
    assert plan(LONG, 140).max_tokens == 2048
    assert plan(MIXED, 140).max_tokens == 4096


def test_what_the_fused_pass_does_not_do_is_counted_as_autograd() -> None:
    ours, plain = plan(LONG, 140), plan(LONG, 140, lora_dropout=0.1)
    assert plain.memory_bytes > 1.2 * ours.memory_bytes and plain.room == 0


@pytest.mark.parametrize("room_share", [1.0, 0.8, 0.5, 0.3])
def test_the_shallowest_depth_is_the_first_that_fits(room_share: float) -> None:
    shape, ranks = Shape(64, 4, 2, 16, 128, 6, 1000), Ranks(24, 8, 16, 8)
    whole, kept = (arena_bytes(shape, ranks, 512, 64, depth, 64) for depth in (Depth.all(6), Depth()))
    room = int(whole + (kept - whole) * room_share)
    found = shallowest(shape, ranks, 512, 64, 64, room)
    assert found is not None and arena_bytes(shape, ranks, 512, 64, found, 64) <= room
    order = [Depth(mlp=n) for n in range(6)] + [Depth(n, 6 - n) for n in range(7)]
    assert found == next(depth for depth in order if arena_bytes(shape, ranks, 512, 64, depth, 64) <= room)
    assert shallowest(shape, ranks, 512, 64, 64, whole - 1) is None


@pytest.mark.parametrize("share", [1.0, 0.99, 0.8, 0.5, 0.2, 0.0])
def test_inputs_go_to_the_host_before_anything_is_computed_again(share: float) -> None:
    shape, ranks = Shape(64, 4, 2, 16, 128, 6, 1000), Ranks(24, 8, 16, 8)
    order = [Depth()] + [Depth(0, n, True) for n in range(6)] + [Depth(n, 6 - n, True) for n in range(7)]
    sums = [arena_bytes(shape, ranks, 512, 64, depth, 64) for depth in order]
    assert sums[0] - sums[1] == (6 - 2) * 512 * 64 * 2
    room = int(sums[-1] + (sums[0] - sums[-1]) * share)
    found = shallowest(shape, ranks, 512, 64, 64, room, host_inputs=True)
    assert found == next(depth for depth, size in zip(order, sums, strict=True) if size <= room)
    assert shallowest(shape, ranks, 512, 64, 64, sums[-1] - 1, host_inputs=True) is None


def test_the_least_memory_of_long_rows_is_what_was_asked() -> None:
    # 15.0 GiB of a card, and 5.3 GiB that torch allocates: what CUDA and bitsandbytes take is beside that.
    bf16, nf4 = plan(LONG, 15.0), plan(LONG, 6.22, quant_method="bnb")
    assert bf16.recompute == nf4.recompute == Depth.all(28, host_inputs=True)
    assert bf16.memory_bytes < 14.8 * GIB and nf4.memory_bytes - 1e9 < 5.1 * GIB


def test_a_run_that_fits_only_without_room_for_answers_is_not_refused() -> None:
    config = replace(TrainConfig(), quant_method="bnb")
    least, beside = plan(LONG, 6.22, quant_method="bnb").memory_bytes, estimate._chat_bytes(QWEN_7B, config, CARD)
    assert beside > 0
    found = plan(LONG, (least + beside / 2) / GIB, quant_method="bnb")
    assert found.memory_bytes <= least + beside / 2
    with pytest.raises(WontFitError):
        plan(LONG, (found.memory_bytes - beside) / GIB, quant_method="bnb")


def test_on_a_processor_nothing_goes_to_the_host_since_it_is_there() -> None:
    processor = Device("cpu", "test", 64 * GIB)
    config = TrainConfig()
    most = estimate.plan(QWEN_7B, config, processor, LONG, 64 * GIB)
    for share in (0.99, 0.98, 0.97):
        try:
            found = estimate.plan(QWEN_7B, config, processor, LONG, int(most.memory_bytes * share))
        except WontFitError:
            continue
        assert not found.host_embeddings and not found.recompute.host_inputs


def test_a_shared_embedding_never_goes_to_the_host() -> None:
    tied = replace(QWEN_7B, tied_embeddings=True)
    found = estimate.plan(tied, TrainConfig(), CARD, LONG, int(15.5 * GIB))
    assert not found.host_embeddings and plan(LONG, 16).host_embeddings


def test_a_card_without_the_kernels_is_counted_as_autograd() -> None:
    old = Device("cuda", "T4", 15 * GIB, ampere=False)
    rows = [(700, 300)] * 50
    config = TrainConfig(quant_method="bnb")
    found = estimate.plan(QWEN_7B, config, old, rows, 15 * GIB)
    assert not estimate.fused(QWEN_7B, config, old) and found.room == 0
    assert found.max_tokens < estimate.plan(QWEN_7B, config, CARD, rows, 15 * GIB).max_tokens
    assert estimate.plan(QWEN_7B, config, CARD, rows, 15 * GIB, fast=False) == found


def test_an_adapter_on_the_output_layer_is_counted_as_autograd() -> None:
    assert not estimate.fused(QWEN_7B, TrainConfig(target_modules="q_proj lm_head"), CARD)
    assert estimate.fused(QWEN_7B, TrainConfig(target_modules="q_proj v_proj"), CARD)


@pytest.mark.parametrize("rank", [8, 64])
def test_more_rank_takes_more_memory_by_what_it_trains(rank: int) -> None:
    found = plan(IDENTITY, 140, lora_rank=rank).memory_bytes
    parameters = estimate.adapter_parameters(QWEN_7B, TrainConfig(lora_rank=rank))
    assert parameters == 20_185_088 * rank // 8
    base = estimate.resident_bytes(QWEN_7B, TrainConfig(), CARD)
    assert found > base + 16 * parameters


def test_anchors_of_the_guard_take_room_and_find_it() -> None:
    anchors = [estimate.USUAL_ANCHOR] * 16
    alone = plan(IDENTITY, 140)
    both = estimate.plan(QWEN_7B, TrainConfig(), CARD, IDENTITY, 140 * GIB, anchors=anchors)
    assert both.max_tokens == alone.max_tokens + 16 * 112 and both.memory_bytes > alone.memory_bytes
    assert both.recompute == Depth() and not both.host_embeddings
    # The teacher's logits share the room that is there for logits: only its states come to that.
    sizes = (QWEN_7B, TrainConfig(), CARD, 2048, 1536, both, True)
    assert estimate.peak_bytes(*sizes, 512) - estimate.peak_bytes(*sizes) == 512 * 3584 * 2
    for gib in (24, 18, 16):
        found = estimate.plan(QWEN_7B, TrainConfig(), CARD, IDENTITY, gib * GIB, anchors=anchors)
        assert found.memory_bytes <= gib * GIB and found.max_tokens >= 112
    old = replace(CARD, ampere=False)
    sums = [
        estimate.plan(QWEN_7B, TrainConfig(), old, IDENTITY, 140 * GIB, anchors=some).memory_bytes
        for some in ((), anchors)
    ]
    assert sums[1] - sums[0] > 16 * 56 * QWEN_7B.vocab_size * 16  # by autograd every logit is there at one time
