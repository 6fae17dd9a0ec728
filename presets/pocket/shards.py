"""Corpus -> batches: worker processes write and tokenise chats, the trainer reads them in a fixed order."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from presets.pocket.corpus import chats
from presets.pocket.tokenization import encode_chats

LONGEST = 256
"""Chats of more tokens are left out."""


@dataclass(frozen=True)
class Batch:
    """ids: int16 (B, T), right-padded; places: flat indices of the tokens in the loss, int64 (n,)."""

    ids: np.ndarray
    places: np.ndarray


# What a worker process holds for its whole life, set once by its initialiser; the parent leaves it empty.
_worker: dict[str, Any] = {}


@contextmanager
def worker_pool(folder: Path, pad_id: int, processes: int) -> Iterator[multiprocessing.pool.Pool]:
    """Processes that hold the tokenizer saved in `folder`."""
    context = multiprocessing.get_context("spawn")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pool = context.Pool(processes, _start, (str(folder / "tokenizer.json"), pad_id))
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


def _start(tokenizer_file: str, pad_id: int) -> None:
    from tokenizers import Tokenizer

    _worker["tokenizer"] = Tokenizer.from_file(tokenizer_file)
    _worker["pad"] = pad_id


def encode_rows(batch: list[list[dict[str, str]]]) -> list[tuple[list[int], list[bool]]]:
    """Tokenise chats inside a worker."""
    return encode_chats(_worker["tokenizer"], batch)


def pad_rows(rows: list[tuple[list[int], list[bool]]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """ids int64 (B, length) right-padded, in_loss bool (B, length)."""
    ids = np.full((len(rows), length), _worker["pad"], dtype=np.int64)
    in_loss = np.zeros((len(rows), length), dtype=bool)
    for row, (tokens, marks) in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        in_loss[row, : len(marks)] = marks
    return ids, in_loss


def _shard(job: tuple[int, int, int, int]) -> list[Batch]:
    """One shard as batches of rows of like length, shuffled."""
    seed, shard, count, tokens_per_batch = job
    rows = [row for row in encode_rows(list(chats(seed, shard, count))) if len(row[0]) <= LONGEST]
    rows.sort(key=lambda row: len(row[0]))
    batches = []
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and (end + 1 - start) * len(rows[end][0]) <= tokens_per_batch:
            end += 1
        ids, in_loss = pad_rows(rows[start:end], len(rows[end - 1][0]))
        batches.append(Batch(ids.astype(np.int16), np.flatnonzero(in_loss)))
        start = end
    random.Random(f"order/{seed}/{shard}").shuffle(batches)
    return batches


def stream(
    pool: multiprocessing.pool.Pool, seed: int, tokens_per_batch: int, chats_per_shard: int, ahead: int
) -> Iterator[Batch]:
    """Batches without end, the same for a seed whatever the number of processes, made `ahead` shards in advance."""
    pending = [pool.apply_async(_shard, ((seed, shard, chats_per_shard, tokens_per_batch),)) for shard in range(ahead)]
    shard = ahead
    while True:
        batches = pending.pop(0).get()
        pending.append(pool.apply_async(_shard, ((seed, shard, chats_per_shard, tokens_per_batch),)))
        shard += 1
        yield from batches
