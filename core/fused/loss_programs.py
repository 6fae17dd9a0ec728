"""The Triton programs of the losses that `kernels` launches. One program works on one position's logits.

Sums are taken in float32, results rounded to the logits' type.
"""

import triton
import triton.language as tl


@triton.jit
def _log_sum(L, V: tl.constexpr, B: tl.constexpr):
    """log of the sum of exponentials of a row."""
    top = -float("inf")
    total = 0.0
    for start in range(0, V, B):
        column = start + tl.arange(0, B)
        x = tl.load(L + column, mask=column < V, other=-float("inf")).to(tl.float32)
        new = tl.maximum(top, tl.max(x))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(x - new))
        top = new
    return top + tl.log(total)


@triton.jit
def cross_entropy_kernel(L, TARGETS, LOSSES, SCALE, l_row, V: tl.constexpr, B: tl.constexpr):
    """In place: a row of logits becomes its gradient; its loss beside it."""
    row = tl.program_id(0).to(tl.int64)
    L += row * l_row
    target = tl.load(TARGETS + row)
    scale = tl.where(target >= 0, tl.load(SCALE), 0.0)
    kind = L.dtype.element_ty
    log_sum = _log_sum(L, V, B)
    chosen = tl.load(L + tl.maximum(target, 0)).to(tl.float32)
    tl.store(LOSSES + row, tl.where(target >= 0, log_sum - chosen, 0.0))
    tl.debug_barrier()  # every thread has read the target's logit before one of them overwrites it
    for start in range(0, V, B):
        column = start + tl.arange(0, B)
        x = tl.load(L + column, mask=column < V, other=-float("inf")).to(tl.float32)
        gradient = tl.exp(x - log_sum) - tl.where(column == target, 1.0, 0.0)
        gradient = tl.where(target >= 0, gradient * scale, 0.0)
        tl.store(L + column, gradient.to(kind), mask=column < V)


@triton.jit
def kl_divergence_kernel(L, TEACHER, WEIGHTS, LOSSES, SCALE, l_row, teacher_row, V: tl.constexpr, B: tl.constexpr):
    """In place: a row of logits becomes its gradient, held to the teacher's; the weighted divergence beside it."""
    row = tl.program_id(0).to(tl.int64)
    L += row * l_row
    TEACHER += row * teacher_row
    weight = tl.load(WEIGHTS + row)
    factor = weight * tl.load(SCALE)
    kind = L.dtype.element_ty
    found_sum = _log_sum(L, V, B)
    right_sum = _log_sum(TEACHER, V, B)
    drift = tl.zeros((B,), tl.float32)
    for start in range(0, V, B):
        column = start + tl.arange(0, B)
        inside = column < V
        found = tl.load(L + column, mask=inside, other=0).to(tl.float32) - found_sum
        right = tl.load(TEACHER + column, mask=inside, other=0).to(tl.float32) - right_sum
        share = tl.exp(right)
        drift += tl.where(inside, share * (right - found), 0.0)
        gradient = tl.where(weight > 0, (tl.exp(found) - share) * factor, 0.0)
        tl.store(L + column, gradient.to(kind), mask=inside)
    tl.store(LOSSES + row, tl.where(weight > 0, tl.sum(drift) * weight, 0.0))
