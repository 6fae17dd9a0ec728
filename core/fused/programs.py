"""The Triton programs that `kernels` launches.

One program works on one token unless said otherwise; offsets are 64-bit, since T x 2F passes 2^31 at 57k tokens. Sums
are taken in float32, results rounded to the output's type.
"""

import triton
import triton.language as tl


@triton.jit
def rms_kernel(
    X,
    Y,
    W,
    TOTAL,
    OUT,
    RSTD,
    x_row,
    y_row,
    total_row,
    out_row,
    eps,
    D: tl.constexpr,
    B: tl.constexpr,
    ADD: tl.constexpr,
):
    """x / root mean square * weight, of x + y with ADD."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, B)
    inside = column < D
    kind = OUT.dtype.element_ty
    x = tl.load(X + row * x_row + column, mask=inside, other=0).to(tl.float32)
    if ADD:
        y = tl.load(Y + row * y_row + column, mask=inside, other=0).to(tl.float32)
        total = (x + y).to(kind)
        tl.store(TOTAL + row * total_row + column, total, mask=inside)
        x = total.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(x * x) / D + eps)
    tl.store(RSTD + row, inverse)
    weight = tl.load(W + column, mask=inside, other=0)
    tl.store(OUT + row * out_row + column, (x * inverse).to(kind) * weight, mask=inside)


@triton.jit
def rms_backward_kernel(
    G,
    X,
    W,
    RSTD,
    RES,
    OUT,
    AGAIN,
    g_row,
    x_row,
    res_row,
    out_row,
    again_row,
    D: tl.constexpr,
    B: tl.constexpr,
    ADD: tl.constexpr,
):
    """Gradient by x of the norm, with the residual's added with ADD; and the norm once more."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, B)
    inside = column < D
    kind = OUT.dtype.element_ty
    inverse = tl.load(RSTD + row)
    normal = tl.load(X + row * x_row + column, mask=inside, other=0).to(tl.float32) * inverse
    weight = tl.load(W + column, mask=inside, other=0)
    tl.store(AGAIN + row * again_row + column, normal.to(kind) * weight, mask=inside)
    g = tl.load(G + row * g_row + column, mask=inside, other=0).to(tl.float32) * weight.to(tl.float32)
    gradient = inverse * (g - normal * (tl.sum(g * normal) / D))
    if ADD:
        gradient += tl.load(RES + row * res_row + column, mask=inside, other=0).to(tl.float32)
    tl.store(OUT + row * out_row + column, gradient.to(kind), mask=inside)


@triton.jit
def _turn(
    IN,
    OUT,
    COS,
    SIN,
    row,
    in_row,
    out_row,
    in_head,
    sign,
    HEADS: tl.constexpr,
    HEADS_B: tl.constexpr,
    HALF: tl.constexpr,
    HALF_B: tl.constexpr,
):
    """Turn HEADS heads of one token; heads of OUT lie side by side, those of IN in_head apart."""
    head = tl.arange(0, HEADS_B)[:, None]
    column = tl.arange(0, HALF_B)[None, :]
    inside = (head < HEADS) & (column < HALF)
    cos = tl.load(COS + row * 2 * HALF + column, mask=column < HALF, other=0).to(tl.float32)
    sin = tl.load(SIN + row * 2 * HALF + column, mask=column < HALF, other=0).to(tl.float32) * sign
    source = IN + row * in_row + head * in_head + column
    a = tl.load(source, mask=inside, other=0).to(tl.float32)
    b = tl.load(source + HALF, mask=inside, other=0).to(tl.float32)
    target = OUT + row * out_row + head * 2 * HALF + column
    kind = OUT.dtype.element_ty
    tl.store(target, (a * cos - b * sin).to(kind), mask=inside)
    tl.store(target + HALF, (b * cos + a * sin).to(kind), mask=inside)


@triton.jit
def rope_kernel(
    X, COS, SIN, x_row, HEADS: tl.constexpr, HEADS_B: tl.constexpr, HALF: tl.constexpr, HALF_B: tl.constexpr
):
    """Turn heads in place."""
    row = tl.program_id(0).to(tl.int64)
    _turn(X, X, COS, SIN, row, x_row, x_row, 2 * HALF, 1.0, HEADS, HEADS_B, HALF, HALF_B)


@triton.jit
def unrope_kernel(
    DQ,
    DK,
    DV,
    COS,
    SIN,
    OUT,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    out_row,
    H: tl.constexpr,
    H_B: tl.constexpr,
    K: tl.constexpr,
    K_B: tl.constexpr,
    HALF: tl.constexpr,
    HALF_B: tl.constexpr,
):
    """Gradients of q and k turned back, v's beside them."""
    row = tl.program_id(0).to(tl.int64)
    _turn(DQ, OUT, COS, SIN, row, q_row, out_row, q_head, -1.0, H, H_B, HALF, HALF_B)
    _turn(DK, OUT + H * 2 * HALF, COS, SIN, row, k_row, out_row, k_head, -1.0, K, K_B, HALF, HALF_B)
    head = tl.arange(0, K_B)[:, None]
    column = tl.arange(0, 2 * HALF_B)[None, :]
    inside = (head < K) & (column < 2 * HALF)
    v = tl.load(DV + row * v_row + head * v_head + column, mask=inside, other=0)
    tl.store(OUT + row * out_row + (H + K + head) * 2 * HALF + column, v, mask=inside)


@triton.jit
def _norm_turn(
    IN,
    OUT,
    W,
    COS,
    SIN,
    row,
    in_row,
    out_row,
    eps,
    HEADS: tl.constexpr,
    HEADS_B: tl.constexpr,
    HALF: tl.constexpr,
    HALF_B: tl.constexpr,
):
    """Norm and turn HEADS heads of one token."""
    head = tl.arange(0, HEADS_B)[:, None]
    column = tl.arange(0, HALF_B)[None, :]
    within = column < HALF
    inside = (head < HEADS) & within
    cos = tl.load(COS + row * 2 * HALF + column, mask=within, other=0).to(tl.float32)
    sin = tl.load(SIN + row * 2 * HALF + column, mask=within, other=0).to(tl.float32)
    source = IN + row * in_row + head * 2 * HALF + column
    a = tl.load(source, mask=inside, other=0).to(tl.float32)
    b = tl.load(source + HALF, mask=inside, other=0).to(tl.float32)
    inverse = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
    kind = OUT.dtype.element_ty
    a = ((a * inverse).to(kind) * tl.load(W + column, mask=within, other=0)).to(tl.float32)
    b = ((b * inverse).to(kind) * tl.load(W + HALF + column, mask=within, other=0)).to(tl.float32)
    target = OUT + row * out_row + head * 2 * HALF + column
    tl.store(target, (a * cos - b * sin).to(kind), mask=inside)
    tl.store(target + HALF, (b * cos + a * sin).to(kind), mask=inside)


@triton.jit
def head_norm_rope_kernel(
    X,
    WQ,
    WK,
    COS,
    SIN,
    OUT,
    x_row,
    out_row,
    eps,
    H: tl.constexpr,
    H_B: tl.constexpr,
    K: tl.constexpr,
    K_B: tl.constexpr,
    HALF: tl.constexpr,
    HALF_B: tl.constexpr,
):
    """Norm and turn q's and k's heads."""
    row = tl.program_id(0).to(tl.int64)
    _norm_turn(X, OUT, WQ, COS, SIN, row, x_row, out_row, eps, H, H_B, HALF, HALF_B)
    start = H * 2 * HALF
    _norm_turn(X + start, OUT + start, WK, COS, SIN, row, x_row, out_row, eps, K, K_B, HALF, HALF_B)


@triton.jit
def _norm_heads_backward(
    G,
    X,
    W,
    row,
    g_row,
    x_row,
    eps,
    HEADS: tl.constexpr,
    HEADS_B: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_B: tl.constexpr,
):
    head = tl.arange(0, HEADS_B)[:, None]
    column = tl.arange(0, WIDTH_B)[None, :]
    inside = (head < HEADS) & (column < WIDTH)
    place = head * WIDTH + column
    x = tl.load(X + row * x_row + place, mask=inside, other=0).to(tl.float32)
    weight = tl.load(W + column, mask=column < WIDTH, other=0).to(tl.float32)
    g = tl.load(G + row * g_row + place, mask=inside, other=0).to(tl.float32) * weight
    inverse = tl.rsqrt(tl.sum(x * x, 1) / WIDTH + eps)[:, None]
    normal = x * inverse
    gradient = inverse * (g - normal * (tl.sum(g * normal, 1) / WIDTH)[:, None])
    tl.store(G + row * g_row + place, gradient.to(G.dtype.element_ty), mask=inside)


@triton.jit
def head_norm_backward_kernel(
    G,
    X,
    WQ,
    WK,
    g_row,
    x_row,
    eps,
    H: tl.constexpr,
    H_B: tl.constexpr,
    K: tl.constexpr,
    K_B: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_B: tl.constexpr,
):
    """In place: the gradient by normed heads becomes that by the heads."""
    row = tl.program_id(0).to(tl.int64)
    _norm_heads_backward(G, X, WQ, row, g_row, x_row, eps, H, H_B, WIDTH, WIDTH_B)
    _norm_heads_backward(G + H * WIDTH, X + H * WIDTH, WK, row, g_row, x_row, eps, K, K_B, WIDTH, WIDTH_B)


@triton.jit
def swiglu_kernel(GU, OUT, gu_row, out_row, F, B: tl.constexpr):
    """silu(gate) * up."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * B + tl.arange(0, B)
    inside = column < F
    kind = OUT.dtype.element_ty
    gate = tl.load(GU + row * gu_row + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(GU + row * gu_row + F + column, mask=inside, other=0)
    tl.store(OUT + row * out_row + column, (gate * tl.sigmoid(gate)).to(kind) * up, mask=inside)


@triton.jit
def _swiglu_gradients(gate, up, g, kind: tl.constexpr):
    """Gradients by gate and up, and the forward result; up comes in its own type."""
    s = tl.sigmoid(gate)
    gated = gate * s
    by_gate = (g * up.to(tl.float32) * (s + gated * (1 - s))).to(kind)
    return by_gate, (g * gated).to(kind), gated.to(kind) * up


@triton.jit
def swiglu_gradients_kernel(GU, G, gu_row, g_row, F, B: tl.constexpr):
    """In place: gate and up become their gradients, the gradient becomes the forward result."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * B + tl.arange(0, B)
    inside = column < F
    gate = tl.load(GU + row * gu_row + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(GU + row * gu_row + F + column, mask=inside, other=0)
    g = tl.load(G + row * g_row + column, mask=inside, other=0).to(tl.float32)
    by_gate, by_up, forward = _swiglu_gradients(gate, up, g, G.dtype.element_ty)
    tl.store(G + row * g_row + column, forward, mask=inside)
    tl.store(GU + row * gu_row + column, by_gate, mask=inside)
    tl.store(GU + row * gu_row + F + column, by_up, mask=inside)


@triton.jit
def _thin(FACTOR, row, within, stride, value, total, RANK: tl.constexpr, RANK_B: tl.constexpr):
    """total (RANK_B, columns) + factor^T value."""
    rank = tl.arange(0, RANK_B)
    inside = (rank < RANK)[:, None] & within[None, :]
    factor = tl.load(FACTOR + row[None, :] * stride + rank[:, None], mask=inside, other=0)
    return tl.dot(factor, value, total)


@triton.jit
def _add(TOTAL, total, column, inside, column_step, rank_step, RANK: tl.constexpr, RANK_B: tl.constexpr):
    rank = tl.arange(0, RANK_B)
    inside = (rank < RANK)[:, None] & inside[None, :]
    tl.atomic_add(TOTAL + column[None, :] * column_step + rank[:, None] * rank_step, total, mask=inside, sem="relaxed")


@triton.jit
def swiglu_backward_kernel(
    GU,
    G,
    KG,
    TG,
    KU,
    TU,
    KD,
    TD,
    gu_row,
    g_row,
    kg_row,
    ku_row,
    kd_row,
    tokens,
    F,
    span,
    RG: tl.constexpr,
    RU: tl.constexpr,
    RD: tl.constexpr,
    R_B: tl.constexpr,
    BT: tl.constexpr,
    B: tl.constexpr,
):
    """Program (columns, span of tokens): gate and up become their gradients; each factor's product is added to its total.

    Spans are added in no fixed order. Factors KG, KU, KD (tokens, R); totals TG, TU (F, R) and TD (R, F).
    """
    column = tl.program_id(0) * B + tl.arange(0, B)
    inside = column < F
    kind = G.dtype.element_ty
    by_gate = tl.zeros((R_B, B), tl.float32)
    by_up = tl.zeros((R_B, B), tl.float32)
    by_down = tl.zeros((R_B, B), tl.float32)
    first = tl.program_id(1) * span
    for start in range(first, min(first + span, tokens), BT):
        row = (start + tl.arange(0, BT)).to(tl.int64)
        within = row < tokens
        here = within[:, None] & inside[None, :]
        at = GU + row[:, None] * gu_row + column[None, :]
        gate = tl.load(at, mask=here, other=0).to(tl.float32)
        up = tl.load(at + F, mask=here, other=0)
        g = tl.load(G + row[:, None] * g_row + column[None, :], mask=here, other=0).to(tl.float32)
        gate, other, forward = _swiglu_gradients(gate, up, g, kind)
        tl.store(at, gate, mask=here)
        tl.store(at + F, other, mask=here)
        if RG:
            by_gate = _thin(KG, row, within, kg_row, gate, by_gate, RG, R_B)
        if RU:
            by_up = _thin(KU, row, within, ku_row, other, by_up, RU, R_B)
        if RD:
            by_down = _thin(KD, row, within, kd_row, forward, by_down, RD, R_B)
    if RG:
        _add(TG, by_gate, column, inside, RG, 1, RG, R_B)
    if RU:
        _add(TU, by_up, column, inside, RU, 1, RU, R_B)
    if RD:
        _add(TD, by_down, column, inside, 1, F, RD, R_B)


@triton.jit
def nf4_kernel(
    Q, SCALES, CODES, SCALES2, OFFSET, LEVELS, OUT, out_row, columns, NESTED: tl.constexpr, BYTES: tl.constexpr
):
    """Program (row, chunk): BYTES packed bytes, high nibble first, 64 weights a scale, 256 scales a scale of scales."""
    row = tl.program_id(0).to(tl.int64)
    byte = tl.program_id(1) * BYTES + tl.arange(0, BYTES)
    half = columns // 2
    inside = byte < half
    at = row * half + byte
    packed = tl.load(Q + at, mask=inside, other=0).to(tl.int32)
    block = at // 32
    if NESTED:
        code = tl.load(SCALES + block, mask=inside, other=0).to(tl.int32)
        scale = tl.load(CODES + code) * tl.load(SCALES2 + block // 256, mask=inside, other=0) + tl.load(OFFSET)
    else:
        scale = tl.load(SCALES + block, mask=inside, other=0)
    high = tl.load(LEVELS + (packed >> 4)) * scale
    low = tl.load(LEVELS + (packed & 15)) * scale
    column = tl.program_id(1) * BYTES * 2 + tl.arange(0, 2 * BYTES)
    weight = tl.interleave(high, low).to(OUT.dtype.element_ty)
    tl.store(OUT + row * out_row + column, weight, mask=column < columns)


@triton.jit
def copies_kernel(TABLE, KIND, B: tl.constexpr):
    """Program (copy, block): a float32 matrix to one of KIND's type, whose rows are `stride` apart; see `copies`."""
    row = TABLE + tl.program_id(0) * 5
    source = tl.load(row).to(tl.pointer_type(tl.float32))
    target = tl.load(row + 1).to(tl.pointer_type(KIND.dtype.element_ty))
    columns = tl.load(row + 3)
    stride = tl.load(row + 4)
    count = tl.load(row + 2) * columns
    at = tl.program_id(1) * B + tl.arange(0, B)
    inside = at < count
    value = tl.load(source + at, mask=inside, other=0)
    tl.store(target + (at // columns) * stride + at % columns, value.to(KIND.dtype.element_ty), mask=inside)
