# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""The Triton programs of products with few rows: the weight is read once, at the speed of memory, whatever the rows.

Program (tile, part): BN rows of the weight times all rows of X over one of SPLIT parts of K, to PARTS (SPLIT, rows, N).
Tiles after the weight's do the same with A, the stacked adapters' (LOW rows), to T (SPLIT, rows, LOW); those whose
columns are not ACTIVE (R,) are skipped. X (rows, K).
"""

import triton
import triton.language as tl


@triton.jit
def _dense(acc, X, W, stride, line, row, rows, first, stop, K: tl.constexpr, BK: tl.constexpr, HINT: tl.constexpr):
    """acc (BN, BB) + W X^T over columns [first, stop); `line` (BN,): rows of W."""
    k = tl.arange(0, BK)
    w_at = W + line[:, None] * stride + (first + k)[None, :]
    x_at = X + row[:, None] * K + (first + k)[None, :]
    there = (row < rows)[:, None]
    for at in range(first, stop, BK):
        if K % BK == 0:
            w = tl.load(w_at, eviction_policy=HINT)
            x = tl.load(x_at, mask=there, other=0)
        else:
            inside = (at + k < K)[None, :]
            w = tl.load(w_at, mask=inside, other=0, eviction_policy=HINT)
            x = tl.load(x_at, mask=there & inside, other=0)
        acc = tl.dot(w, tl.trans(x), acc)
        w_at += BK
        x_at += BK
    return acc


@triton.jit
def _store(OUT, acc, part, rows, row, column, width):
    at = OUT + (part * rows + row)[None, :] * width + column[:, None]
    tl.store(at, acc, mask=(column < width)[:, None] & (row < rows)[None, :])


@triton.jit
def _low(X, A, T, ACTIVE, tile, part, rows, row, LOW, RANKS, first, stop, BN: tl.constexpr, K: tl.constexpr,
         BK: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    """A tile of A's; nothing is read where no row's adapter is."""
    column = tile * BN + tl.arange(0, BN)
    active = tl.load(ACTIVE + column % RANKS, mask=column < LOW, other=0)
    if tl.max(active) == 0:
        stop = first
    line = tl.minimum(column, LOW - 1)
    acc = tl.zeros((BN, BB), tl.float32)
    acc = _dense(acc, X, A, K, line, row, rows, first, stop, K, BK, "evict_last")
    _store(T, acc, part, rows, row, column, LOW)


@triton.jit(do_not_specialize=["rows"])
def product_kernel(
    X, W, A, PARTS, T, ACTIVE, rows, w_row, N, LOW, RANKS,
    K: tl.constexpr, SPLIT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """A weight of 16 bits, whose rows are w_row apart."""
    tile = tl.program_id(0)
    part = tl.program_id(1)
    share: tl.constexpr = ((K + BK - 1) // BK + SPLIT - 1) // SPLIT * BK
    first = part * share
    stop = min(first + share, K)
    row = tl.arange(0, BB)
    tiles = tl.cdiv(N, BN)
    if tile < tiles:
        begin = tile * BN
        line = tl.minimum(tl.arange(0, BN), N - 1 - begin)
        acc = tl.zeros((BN, BB), tl.float32)
        weight = W + begin.to(tl.int64) * w_row
        acc = _dense(acc, X, weight, w_row, line, row, rows, first, stop, K, BK, "evict_first")
        _store(PARTS, acc, part, rows, row, begin + tl.arange(0, BN), N)
    else:
        _low(X, A, T, ACTIVE, tile - tiles, part, rows, row, LOW, RANKS, first, stop, BN, K, BK, BB)


@triton.jit
def _nf4(
    Q, SCALES, CODES, SCALES2, offset, line, first, inside, NESTED: tl.constexpr, K: tl.constexpr, BK: tl.constexpr
):
    """Packed bytes (BN, BK / 2) and scales (BN, BK / 64) of the columns from `first` on."""
    byte = tl.arange(0, BK // 2)
    block = tl.arange(0, BK // 64)
    at = line.to(tl.int64)[:, None] * (K // 2) + (first // 2 + byte)[None, :]
    packed = tl.load(tl.multiple_of(Q + at, (1, 16)), mask=inside & (first // 2 + byte < K // 2)[None, :], other=0,
                     eviction_policy="evict_first")  # fmt: skip
    at = line[:, None] * (K // 64) + (first // 64 + block)[None, :]
    within = inside & (first // 64 + block < K // 64)[None, :]
    if NESTED:
        code = tl.load(SCALES.to(tl.pointer_type(tl.uint8)) + at, mask=within, other=0).to(tl.int32)
        scale = tl.load(CODES + code) * tl.load(SCALES2 + at // 256, mask=within, other=0) + offset
    else:
        scale = tl.load(SCALES.to(tl.pointer_type(tl.float32)) + at, mask=within, other=0)
    return packed, scale


@triton.jit
def _scaled(level, scale, kind, BN: tl.constexpr, BK: tl.constexpr):
    """Levels (BN, BK / 2) times their blocks' scales."""
    blocks = tl.reshape(level, (BN, BK // 64, 32)) * scale[:, :, None]
    return tl.reshape(blocks, (BN, BK // 2)).to(kind)


@triton.jit(do_not_specialize=["rows"])
def nf4_product_kernel(
    X, TILES, TABLE, LEVELS, A, PARTS, T, ACTIVE, rows, tiles, N, LOW, RANKS,
    K: tl.constexpr, SPLIT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BB: tl.constexpr, NESTED: tl.constexpr,
):  # fmt: skip
    """Weights in NF4. TILES int32 (tiles, 4): member, its first row here, how many, and its first column of PARTS.

    TABLE int64 (members, 5): where a member's bytes, scales, codes, scales of scales and their offset lie; the same bytes
    as programs.nf4_kernel reads, and the same weights: level * scale, rounded to X's type.
    """
    tile = tl.program_id(0)
    part = tl.program_id(1)
    share: tl.constexpr = ((K + BK - 1) // BK + SPLIT - 1) // SPLIT * BK
    first = part * share
    stop = min(first + share, K)
    row = tl.arange(0, BB)
    if tile < tiles:
        member = tl.load(TILES + tile * 4)
        begin = tl.load(TILES + tile * 4 + 1)
        count = tl.load(TILES + tile * 4 + 2)
        column = tl.load(TILES + tile * 4 + 3) + tl.arange(0, BN)
        at = TABLE + member * 5
        Q = tl.load(at).to(tl.pointer_type(tl.uint8))
        SCALES = tl.load(at + 1)
        CODES = tl.load(at + 2).to(tl.pointer_type(tl.float32))
        SCALES2 = tl.load(at + 3).to(tl.pointer_type(tl.float32))
        offset = 0.0
        if NESTED:
            offset = tl.load(tl.load(at + 4).to(tl.pointer_type(tl.float32)))
        line = begin + tl.minimum(tl.arange(0, BN), count - 1)
        kind = X.dtype.element_ty
        k = tl.arange(0, BK)
        there = (row < rows)[:, None]
        always = tl.full((BN, 1), True, tl.int1)
        acc = tl.zeros((BN, BB), tl.float32)
        packed, scale = _nf4(Q, SCALES, CODES, SCALES2, offset, line, first, always, NESTED, K, BK)
        for start in range(first, stop, BK):
            # The next bytes are asked for before these are worked on; past the end none are.
            more = always & (start + BK < stop)
            packed2, scale2 = _nf4(Q, SCALES, CODES, SCALES2, offset, line, start + BK, more, NESTED, K, BK)
            x = tl.load(X + row[:, None] * K + (start + k)[None, :], mask=there & (start + k < K)[None, :], other=0)
            even, odd = tl.split(tl.reshape(x, (BB, BK // 2, 2)))
            byte = packed.to(tl.int32)
            high = _scaled(tl.load(LEVELS + (byte >> 4)), scale, kind, BN, BK)
            acc = tl.dot(high, tl.trans(even), acc)
            low = _scaled(tl.load(LEVELS + (byte & 15)), scale, kind, BN, BK)
            acc = tl.dot(low, tl.trans(odd), acc)
            packed, scale = packed2, scale2
        wide = tl.where(tl.arange(0, BN) < count, column, N)  # what is past the member's end is not stored
        _store(PARTS, acc, part, rows, row, wide, N)
    else:
        _low(X, A, T, ACTIVE, tile - tiles, part, rows, row, LOW, RANKS, first, stop, BN, K, BK, BB)
