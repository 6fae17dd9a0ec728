"""Products of few rows on this card: every way to cut them that is worth a try, beside cuBLAS, for one model's shapes.

    python tests/bench/engine.py --kernels [--nf4] [--out FILE]

What it finds best belongs into core/fused/tuning.py. Weights change from one product to the next, so that none is read
from the card's cache; products are launched as a captured graph, as a step's are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import astuple
from typing import Any

import torch

from core.fused.tuning import Tile

CARD = torch.device("cuda", 0)
SHAPES = {  # Qwen2.5-7B: (width, inner, members)
    "qkv": (4608, 3584, 3),
    "out": (3584, 3584, 1),
    "gate_up": (37888, 3584, 2),
    "down": (3584, 18944, 1),
    "head": (152064, 3584, 1),
}
ROWS = (1, 2, 6, 16)
RANKS = 16
CUTS = (
    (16, 256, 4, 4), (16, 512, 4, 3), (32, 128, 4, 5), (32, 256, 4, 3), (32, 256, 4, 4), (32, 512, 4, 3),
    (64, 128, 4, 4), (64, 128, 4, 6), (64, 256, 4, 3), (64, 256, 8, 3), (128, 64, 4, 5), (128, 128, 4, 3),
    (128, 128, 8, 4),
)  # fmt: skip
NF4_CUTS = (
    (16, 512, 4, 1), (32, 256, 4, 1), (32, 512, 4, 1), (32, 512, 8, 1), (64, 128, 4, 1), (64, 256, 4, 1),
    (64, 256, 8, 1), (128, 128, 8, 1),
)  # fmt: skip
EACH = (3.0, 6.0)


def microseconds(launch: Callable[[int], None], count: int) -> float:
    """Time of one of `launch(0) .. launch(count - 1)`, as replayed from a graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for index in range(count):
            launch(index)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    rounds = max(1, 24 // count)
    with torch.cuda.graph(graph):
        for index in itertools.chain.from_iterable(itertools.repeat(range(count), rounds)):
            launch(index)
    graph.replay()
    best = float("inf")
    for _ in range(4):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, 1000 * begin.elapsed_time(end) / (count * rounds))
    return best


def _weights(width: int, inner: int, nf4: bool) -> list[Any]:
    """As many as the card's cache cannot hold (50 MB on an H200), five times over."""
    from core.fused.narrow import Packed

    size = width * inner // 2 if nf4 else 2 * width * inner
    count = max(1, -(-300_000_000 // size))
    if not nf4:
        return [torch.randn(width, inner + 32, device=CARD, dtype=torch.bfloat16)[:, :inner] for _ in range(count)]
    found = []
    for _ in range(count):
        data = torch.randint(0, 256, (width * inner // 2,), dtype=torch.uint8, device=CARD)
        scales = torch.randint(0, 256, (width * inner // 64,), dtype=torch.uint8, device=CARD)
        codes, levels = torch.rand(256, device=CARD), torch.rand(16, device=CARD)
        outer, offset = torch.rand(-(-scales.numel() // 256), device=CARD), torch.rand(1, device=CARD)
        parts = [data, scales, codes, outer, offset]
        table = torch.tensor([[part.data_ptr() for part in parts]], device=CARD)
        found.append(Packed(torch.empty(0), table, levels, nested=True, keep=parts))
    return found


def _cut(packed: Any, width: int, rows: int) -> Any:
    """The same weight in tiles of `rows` rows."""
    from dataclasses import replace

    tiles = [[0, first, min(rows, width - first), first] for first in range(0, width, rows)]
    return replace(packed, tiles=torch.tensor(tiles, dtype=torch.int32, device=CARD))


def measured(kind: str, nf4: bool) -> Iterator[dict[str, object]]:
    """A record for each number of rows: the best cuts, cuBLAS, and the time the weight takes at 4.2 TB/s."""
    from core.fused.bank import Pair
    from core.fused.narrow import Product, processors_of

    width, inner, members = SHAPES[kind]
    weights = _weights(width, inner, nf4)
    routed = kind != "head"
    pair = Pair(
        torch.randn(members * RANKS, inner, device=CARD, dtype=torch.bfloat16),
        torch.randn(width, RANKS, device=CARD, dtype=torch.bfloat16),
    )
    active = torch.zeros(RANKS, dtype=torch.int32, device=CARD)
    active[:8] = 1
    processors = processors_of(CARD)
    floor = width * inner * (0.5 + 1 / 64 if nf4 else 2) / 4.2e6
    times: dict[int, list[tuple[float, tuple[object, ...], int]]] = {rows: [] for rows in ROWS}
    seen = set()
    for cut, each in itertools.product(NF4_CUTS if nf4 else CUTS, EACH):
        tile = Tile(*cut, each)
        split = 1 if kind == "head" else tile.split(width, inner, processors)
        if (cut, split) in seen:
            continue
        seen.add((cut, split))
        try:
            products = [
                Product(width, inner, _cut(w, width, tile.rows) if nf4 else w, tile, processors, members)
                for w in weights
            ]
            for product in products:
                product.split = split
            for rows in ROWS:
                x = torch.randn(rows, inner, device=CARD, dtype=torch.bfloat16)
                parts = torch.empty(split, rows, width, device=CARD)
                low = torch.empty(split, rows, members * RANKS, device=CARD)
                one = microseconds(
                    lambda i, products=products, x=x, parts=parts, low=low: products[i](
                        x, pair if routed else None, active, parts, low
                    ),
                    len(products),
                )
                times[rows].append((round(one, 2), astuple(tile), split))
        except Exception as error:  # too much shared memory, for one
            yield {"what": f"{kind} {tile}", "error": f"{type(error).__name__}: {error}"[:200]}
            torch.cuda.synchronize()
    for rows in ROWS:
        record: dict[str, object] = {"what": f"product {kind}{' nf4' if nf4 else ''}", "rows": rows}
        if not nf4:
            x = torch.randn(rows, inner, device=CARD, dtype=torch.bfloat16)
            out = torch.empty(rows, width, device=CARD, dtype=torch.bfloat16)
            record["cublas_us"] = round(
                microseconds(lambda i, x=x, out=out: torch.mm(x, weights[i].t(), out=out), len(weights)), 2
            )
        yield record | {"floor_us": round(floor, 2), "best": sorted(times[rows])[:6]}


def every(nf4: bool) -> Iterator[dict[str, object]]:
    """All kinds, unquantised and, if asked, in NF4."""
    for kind in SHAPES:
        yield from measured(kind, False)
        torch.cuda.empty_cache()
    for kind in SHAPES if nf4 else ():
        if kind != "head":
            yield from measured(kind, True)
            torch.cuda.empty_cache()
