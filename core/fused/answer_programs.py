# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""The Triton programs of answering that `answer_kernels` and `narrow` launch, but for the products (product_programs).

What a product leaves for the next program: PARTS (split, rows, N), whose sum is the base's product, and LOW
(split, rows, members * R), whose sum is x A^T. The next program adds them up, and B on the columns of the row's adapter:
SPANS (rows, 2) says which, in eights, SCALES (rows,) how much. A row of no adapter has no columns, hence adds nothing.
Sums are taken in float32.
"""

import triton
import triton.language as tl


@triton.jit
def _whole(PARTS, row, rows, width, column, inside, SPLIT: tl.constexpr):
    """The base's product at these columns of a row."""
    at = PARTS + row * width + column
    total = tl.load(at, mask=inside, other=0).to(tl.float32)
    for part in tl.static_range(1, SPLIT):
        total += tl.load(at + part * rows * width, mask=inside, other=0)
    return total


@triton.jit
def _raised(
    total, LOW, B, SPANS, SCALES, row, rows, column, inside, member, ranks, MEMBERS: tl.constexpr, SPLIT: tl.constexpr
):
    """What the row's adapter adds to `total` at these columns of one member."""
    first = tl.load(SPANS + row * 2)
    last = tl.load(SPANS + row * 2 + 1)
    scale = tl.load(SCALES + row)
    eight = tl.arange(0, 8)
    for step in range(first, last):
        rank = step * 8 + eight
        at = LOW + row * (MEMBERS * ranks) + member * ranks + rank
        low = tl.load(at)
        for part in tl.static_range(1, SPLIT):
            low += tl.load(at + part * rows * (MEMBERS * ranks))
        b = tl.load(B + column.to(tl.int64)[:, None] * ranks + rank[None, :], mask=inside[:, None], other=0)
        total += tl.sum(b.to(tl.float32) * (low * scale)[None, :], 1)
    return total


@triton.jit(do_not_specialize=["rows"])
def join_kernel(
    H, PARTS, LOW, B, SPANS, SCALES, TABLE, IDS, W, OUT, rows, ranks, eps,
    D: tl.constexpr, D_B: tl.constexpr, FIRST: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """A row's residual H += product; RMSNorm of it to OUT. FIRST: H = the row's token in TABLE instead."""
    row = tl.program_id(0)
    column = tl.arange(0, D_B)
    inside = column < D
    kind = OUT.dtype.element_ty
    if FIRST:
        token = tl.load(IDS + row)
        x = tl.load(TABLE + token * D + column, mask=inside, other=0)
    else:
        total = _whole(PARTS, row, rows, D, column, inside, SPLIT)
        total = _raised(total, LOW, B, SPANS, SCALES, row, rows, column, inside, 0, ranks, 1, SPLIT)
        x = (tl.load(H + row * D + column, mask=inside, other=0).to(tl.float32) + total).to(kind)
    tl.store(H + row * D + column, x, mask=inside)
    x = x.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(x * x) / D + eps)
    weight = tl.load(W + column, mask=inside, other=0)
    tl.store(OUT + row * D + column, (x * inverse).to(kind) * weight, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def gate_kernel(
    PARTS, LOW, B, SPANS, SCALES, OUT, rows, ranks, F, SPLIT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Program (row, block): silu(gate) * up."""
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < F
    gate = _whole(PARTS, row, rows, 2 * F, column, inside, SPLIT)
    up = _whole(PARTS, row, rows, 2 * F, F + column, inside, SPLIT)
    gate = _raised(gate, LOW, B, SPANS, SCALES, row, rows, column, inside, 0, ranks, 2, SPLIT)
    up = _raised(up, LOW, B, SPANS, SCALES, row, rows, F + column, inside, 1, ranks, 2, SPLIT)
    tl.store(OUT + row * F + column, (gate * tl.sigmoid(gate) * up).to(OUT.dtype.element_ty), mask=inside)


@triton.jit
def _region(ADDRESS, ROOM, POSITIONS, token, layer, side, head, KIND, KV: tl.constexpr, HD: tl.constexpr):
    """Where a token's row keeps `side` (0 keys, 1 values) of a head, and the token's position."""
    base = tl.load(ADDRESS + token).to(tl.pointer_type(KIND.dtype.element_ty))
    room = tl.load(ROOM + token)
    return base + ((layer * 2 + side) * KV + head) * room * HD, tl.load(POSITIONS + token)


@triton.jit(do_not_specialize=["rows", "layer"], do_not_specialize_on_alignment=["ADDRESS", "ROOM", "POSITIONS"])
def turn_kernel(
    PARTS, LOW, B, SPANS, SCALES, BIAS, WQ, WK, COS, SIN, ADDRESS, ROOM, POSITIONS, OUT, rows, ranks, layer, eps,
    H: tl.constexpr, KV: tl.constexpr, HD: tl.constexpr, HALF_B: tl.constexpr, OUT_ROW: tl.constexpr,
    BIASED: tl.constexpr, NORMED: tl.constexpr, LORA: tl.constexpr, SPLIT: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Program (token, head of q, k or v): complete it, norm and turn q and k; q to OUT, k and v to the row's region.

    KEEP: k to OUT as well.
    """
    token = tl.program_id(0)
    head = tl.program_id(1)
    half: tl.constexpr = HD // 2
    width: tl.constexpr = (H + 2 * KV) * HD
    kind = OUT.dtype.element_ty
    place = tl.arange(0, HALF_B)
    inside = place < half
    column = head * HD + place
    a = _whole(PARTS, token, rows, width, column, inside, SPLIT)
    b = _whole(PARTS, token, rows, width, column + half, inside, SPLIT)
    if BIASED:
        a += tl.load(BIAS + column, mask=inside, other=0).to(tl.float32)
        b += tl.load(BIAS + column + half, mask=inside, other=0).to(tl.float32)
    if LORA:
        member = (head >= H).to(tl.int32) + (head >= H + KV).to(tl.int32)
        a = _raised(a, LOW, B, SPANS, SCALES, token, rows, column, inside, member, ranks, 3, SPLIT)
        b = _raised(b, LOW, B, SPANS, SCALES, token, rows, column + half, inside, member, ranks, 3, SPLIT)
    a = a.to(kind).to(tl.float32)
    b = b.to(kind).to(tl.float32)
    if head < H + KV:
        if NORMED:
            inverse = tl.rsqrt((tl.sum(a * a) + tl.sum(b * b)) / HD + eps)
            W = WQ
            if head >= H:
                W = WK
            a = ((a * inverse).to(kind) * tl.load(W + place, mask=inside, other=0)).to(tl.float32)
            b = ((b * inverse).to(kind) * tl.load(W + half + place, mask=inside, other=0)).to(tl.float32)
        cos = tl.load(COS + token * HD + place, mask=inside, other=0).to(tl.float32)
        sin = tl.load(SIN + token * HD + half + place, mask=inside, other=0).to(tl.float32)
        turned = a * cos - b * sin
        b = b * cos + a * sin
        a = turned
        if KEEP or head < H:
            target = OUT + token.to(tl.int64) * OUT_ROW + column
            tl.store(target, a.to(kind), mask=inside)
            tl.store(target + half, b.to(kind), mask=inside)
    if head >= H:
        side = (head >= H + KV).to(tl.int32)
        kept = head - H - side * KV
        region, position = _region(ADDRESS, ROOM, POSITIONS, token, layer, side, kept, OUT, KV, HD)
        target = region + position * HD + place
        tl.store(target, a.to(kind), mask=inside)
        tl.store(target + half, b.to(kind), mask=inside)


@triton.jit(do_not_specialize=["layer"])
def attend_kernel(
    Q, ADDRESS, ROOM, POSITIONS, OUT, SUMS, layer, scale, q_row,
    H: tl.constexpr, KV: tl.constexpr, HD: tl.constexpr, HD_B: tl.constexpr, G_B: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (row, key head, split): its query heads over one of SPLITS parts of what the row keeps.

    How a row is parted depends on its length alone. OUT (rows, H, SPLITS, HD), SUMS (rows, H, SPLITS), base 2.
    """
    row = tl.program_id(0)
    key_head = tl.program_id(1)
    split = tl.program_id(2)
    group: tl.constexpr = H // KV
    keys, position = _region(ADDRESS, ROOM, POSITIONS, row, layer, 0, key_head, Q, KV, HD)
    values, _ = _region(ADDRESS, ROOM, POSITIONS, row, layer, 1, key_head, Q, KV, HD)
    length = (position + 1).to(tl.int32)
    part = tl.cdiv(length, BLOCK * SPLITS) * BLOCK
    first = split * part
    if first < length:
        head = tl.arange(0, G_B)
        column = tl.arange(0, HD_B)
        place = tl.arange(0, BLOCK)
        heads = key_head * group + head
        inside = (head < group)[:, None] & (column < HD)[None, :]
        q = tl.load(Q + row * q_row + heads[:, None] * HD + column[None, :], mask=inside, other=0)
        top = tl.full((G_B,), -float("inf"), tl.float32)
        total = tl.zeros((G_B,), tl.float32)
        out = tl.zeros((G_B, HD_B), tl.float32)
        for start in range(first, min(first + part, length), BLOCK):
            at = start + place
            there = (at < length)[:, None] & (column < HD)[None, :]
            offset = at[:, None] * HD + column[None, :]
            # Of an address that was itself loaded the compiler knows nothing.
            k = tl.load(tl.multiple_of(keys + offset, (1, 16)), mask=there, other=0)
            score = tl.dot(q, tl.trans(k)) * scale
            score = tl.where((at < length)[None, :], score, -float("inf"))
            new = tl.maximum(top, tl.max(score, 1))
            weight = tl.exp2(score - new[:, None])
            shrink = tl.exp2(top - new)
            total = total * shrink + tl.sum(weight, 1)
            v = tl.load(tl.multiple_of(values + offset, (1, 16)), mask=there, other=0)
            out = tl.dot(weight.to(v.dtype), v, out * shrink[:, None])
            top = new
        target = (row * H + heads) * SPLITS + split
        tl.store(OUT + target[:, None] * HD + column[None, :], out / total[:, None], mask=inside)
        tl.store(SUMS + target, top + tl.log2(total), mask=head < group)


@triton.jit
def combine_kernel(
    PARTS, SUMS, POSITIONS, OUT,
    H: tl.constexpr, HD: tl.constexpr, HD_B: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (row, head): the splits' results, weighed by their sums. SPLITS a power of two."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    length = (tl.load(POSITIONS + row) + 1).to(tl.int32)
    part = tl.cdiv(length, BLOCK * SPLITS) * BLOCK
    split = tl.arange(0, SPLITS)
    there = split * part < length
    at = (row * H + head) * SPLITS + split
    sums = tl.load(SUMS + at, mask=there, other=-float("inf"))
    weight = tl.exp2(sums - tl.max(sums))
    column = tl.arange(0, HD_B)
    inside = there[:, None] & (column < HD)[None, :]
    parts = tl.load(PARTS + at[:, None] * HD + column[None, :], mask=inside, other=0)
    out = tl.sum(parts * weight[:, None], 0) / tl.sum(weight)
    tl.store(OUT + (row * H + head) * HD + column, out.to(OUT.dtype.element_ty), mask=column < HD)


@triton.jit(do_not_specialize=["tokens"])
def raise_kernel(
    OUT, LOW, MASK, B, tokens, out_row, low_row, ranks, N0, N1, N2,
    MEMBERS: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Program (tokens, columns): OUT += (LOW * MASK) B^T, each member's columns by its own part of LOW."""
    token = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)
    begin = tl.program_id(1) * BN
    column = begin + tl.arange(0, BN)
    there = token < tokens
    total = tl.zeros((BT, BN), tl.float32)
    start = 0
    for member in tl.static_range(MEMBERS):
        stop = start + (N0 if member == 0 else (N1 if member == 1 else N2))
        if (begin < stop) & (begin + BN > start):
            mine = (column >= start) & (column < stop)
            for first in range(0, ranks, BR):
                rank = first + tl.arange(0, BR)
                inside = there[:, None] & (rank < ranks)[None, :]
                mask = tl.load(MASK + token[:, None] * ranks + rank[None, :], mask=inside, other=0)
                low = tl.load(LOW + token[:, None] * low_row + member * ranks + rank[None, :], mask=inside, other=0)
                low = tl.where(mask == 0, 0.0, low.to(tl.float32) * mask)
                here = mine[:, None] & (rank < ranks)[None, :]
                b = tl.load(B + column.to(tl.int64)[:, None] * ranks + rank[None, :], mask=here, other=0)
                total = tl.dot(low.to(b.dtype), tl.trans(b), total)
        start = stop
    at = OUT + token[:, None] * out_row + column[None, :]
    inside = there[:, None] & (column < start)[None, :]
    found = tl.load(at, mask=inside, other=0).to(tl.float32)
    tl.store(at, (found + total).to(OUT.dtype.element_ty), mask=inside)
