"""Answers from one batched loop beside transformers.generate, in one process: columns, rows, first token, switching.

    python tests/bench/engine.py --answers --model DIR [--nf4] [--tokens 256] [--out FILE]

Weights may be random: speed does not depend on their values.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from core import adapters
from core.backend import Route
from core.config import TrainConfig
from core.dataset import Message
from core.engine import Engine
from core.generate import Column, Sampling, stream

MESSAGES = (Message("system", "You are a helpful assistant."), Message("user", "Please tell me about yourself."))
ROWS = (1, 2, 3, 6, 16, 32, 64)


def put(engine: Engine, name: str, config: TrainConfig) -> str:
    """An adapter whose B is not zero. Returns the backend's handle."""
    engine.create_adapter(name, config)
    with engine.turn() as resident:
        handle = engine.handle(name)
        for parameter in resident.backend.adapter_parameters(handle):
            parameter.data.normal_(0, 0.01)
    return handle


def _settled(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def steps(engine: Engine, handle: str, length: int = 33) -> Iterator[dict[str, object]]:
    """A row of the base, then of the adapter, and so on: milliseconds of joining and of a step, as each comes again."""
    for rows in ROWS:
        with engine.turn() as resident:
            backend = resident.backend
            slots = backend.slots()
            routes = [Route(handle if row % 2 or rows == 1 else None) for row in range(rows)]
            prompts = [list(range(100, 100 + length))] * rows
            joins, first = [], []
            for _ in range(3):
                slots.leave(range(len(slots)))
                begun = _settled(backend.device)
                token = slots.join(prompts, routes, [length + 600] * rows).argmax(-1)
                joins.append(_settled(backend.device) - begun)
            for _ in range(3):  # as it is, captured, replayed
                begun = _settled(backend.device)
                slots.step(token)
                first.append(_settled(backend.device) - begun)
            begun = _settled(backend.device)
            count = 100
            for _ in range(count):
                token = slots.step(token).argmax(-1)
            each = (_settled(backend.device) - begun) / count
        yield {
            "what": "slots", "rows": rows, "join_ms": [round(1000 * s, 1) for s in joins],
            "first_steps_ms": [round(1000 * s, 1) for s in first], "step_ms": round(1000 * each, 3),
            "tokens_per_second_a_row": round(1 / each, 1), "tokens_per_second": round(rows / each, 1),
        }  # fmt: skip


def columns(engine: Engine, name: str, tokens: int) -> Iterator[dict[str, object]]:
    """Through the product's own loop, sampling and text included."""
    for what, asked in (
        ("base alone", [None]),
        ("tuned alone", [name]),
        ("base + tuned", [None, name]),
        ("six columns", [None, name, None, name, name, name]),
    ):
        chosen = [Column(MESSAGES, adapter) for adapter in asked]
        for _ in stream(engine, chosen, Sampling(max_new_tokens=8)):
            pass  # warms up what this batch needs
        begun = time.perf_counter()
        replies = list(stream(engine, chosen, Sampling(max_new_tokens=tokens)))[-1]
        yield {
            "what": what, "tokens": [reply.tokens for reply in replies],
            "tokens_per_second_a_column": [round(reply.tokens_per_second, 1) for reply in replies],
            "first_token_ms": round(1000 * float(replies[0].first_token_seconds or 0)),
            "seconds": round(time.perf_counter() - begun, 2),
        }  # fmt: skip


def switching(engine: Engine, handles: list[str]) -> dict[str, object]:
    """A row of another adapter each time: joining and one step, beside the same with one adapter all the time."""
    with engine.turn() as resident:
        backend = resident.backend
        slots = backend.slots()
        found = []
        for names in (handles[:1] * 8, handles * (8 // len(handles))):
            for name in names:  # warm
                slots.join([[1, 2, 3]], [Route(name)], [100])
                slots.step(torch.zeros(1, dtype=torch.int64, device=backend.device))
                slots.leave([0])
            begun = _settled(backend.device)
            for name in names:
                slots.join([[1, 2, 3]], [Route(name)], [100])
                slots.step(torch.zeros(1, dtype=torch.int64, device=backend.device))
                slots.leave([0])
            found.append((_settled(backend.device) - begun) / len(names) * 1000)
    return {"what": "switching", "same_ms": round(found[0], 2), "other_ms": round(found[1], 2)}


def together(engine: Engine, names: list[str], tokens: int, requests: int = 16) -> dict[str, object]:
    """One request alone, and `requests` from as many threads over all adapters, as the API's come."""

    def ask(number: int) -> int:
        column = Column(MESSAGES, names[number % len(names)])
        return list(stream(engine, [column], Sampling(max_new_tokens=tokens, seed=number)))[-1][0].tokens

    rates = []
    with ThreadPoolExecutor(requests) as pool:
        for count in (1, requests):
            list(pool.map(ask, range(count)))  # warms up what this batch needs
            begun = time.perf_counter()
            total = sum(pool.map(ask, range(count)))
            rates.append(total / (time.perf_counter() - begun))
    return {"what": f"{requests} requests over {len(names)} adapters", "one": round(rates[0], 1), "all": round(rates[1], 1),
            "times": round(rates[1] / rates[0], 2)}  # fmt: skip


def attaching(engine: Engine, name: str) -> dict[str, object]:
    """From a folder on disk (page cache warm) to an adapter that answers, first and again."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        engine.save_adapter(name, Path(folder) / "saved", {})
        for number in range(3):
            begun = time.perf_counter()
            engine.attach(adapters.read(Path(folder) / "saved", f"again-{number}"))
            seconds.append(round(time.perf_counter() - begun, 3))
        for number in range(3):
            engine.detach(f"again-{number}")
    return {"what": "attach from disk", "seconds": seconds}


def peers(engine: Engine, handle: str, tokens: int) -> Iterator[dict[str, object]]:
    """transformers.generate: the base, then the adapter through PEFT, batch 1, one after the other as peers do."""
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    with engine.turn() as resident:
        backend: Any = resident.backend
        ids = torch.tensor([resident.encoder.prompt(MESSAGES)], device=backend.device)
        more = {**options, "pad_token_id": resident.pad_id}
        backend.model.eval()
        rates = []
        for adapter in (None, handle):
            peft = backend._require_peft()
            if adapter is not None:
                peft.base_model.set_adapter(adapter)
            with torch.inference_mode(), _without(peft, adapter is None):
                backend.model.generate(ids, **{**more, "max_new_tokens": 4, "min_new_tokens": 4})
                begun = _settled(backend.device)
                backend.model.generate(ids, **more)
                rates.append(tokens / (_settled(backend.device) - begun))
            who = "base" if adapter is None else "tuned"
            yield {"what": f"peer: transformers.generate, {who} alone", "tokens_per_second": round(rates[-1], 1)}
    both = 1 / (1 / rates[0] + 1 / rates[1])
    yield {"what": "peer: base, then tuned", "tokens_per_second_a_column": round(both, 1)}


def _without(peft: Any, off: bool) -> Any:
    """PEFT's layers without any adapter, if `off`."""
    import contextlib

    return peft.disable_adapter() if off else contextlib.nullcontext()


def measured(engine: Engine, config: TrainConfig, tokens: int) -> Iterator[dict[str, object]]:
    """Everything, on what is loaded."""
    handles = [put(engine, f"bench-{number}", config) for number in range(4)]
    yield from steps(engine, handles[0])
    yield from columns(engine, "bench-0", tokens)
    yield switching(engine, handles)
    names = [f"bench-{number}" for number in range(4)]
    yield together(engine, names, tokens)
    yield attaching(engine, names[0])
    with engine.turn() as resident:
        resident.backend.rest()
    yield from peers(engine, handles[0], min(tokens, 64))
    for number in range(4):
        engine.detach(f"bench-{number}")
