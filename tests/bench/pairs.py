"""Answers of the pocket model on this machine: a base/tuned pair beside plain generate calls, and what sharing a batch changes.

Used by pocket.py --answers.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from core.config import TrainConfig
from core.dataset import Message
from core.engine import Engine
from core.generate import Column, Reply, Sampling, stream
from core.models import POCKET
from presets.pocket import evaluate

PROMPT = (Message("user", "你好,请介绍一下你自己,再说说你会做什么?"),)


def pair(repeat: int, new_tokens: int) -> dict[str, object]:
    """Seconds of base and tuned answering `new_tokens` tokens each: one batch here, two generate calls after each other
    by transformers and PEFT as they are, taking turns; tokens a second over both, and the ratio of the medians.
    """
    import torch

    engine = Engine()
    engine.load(POCKET)
    assert engine.resident is not None
    prompt = engine.resident.encoder.prompt(PROMPT)
    engine.resident.encoder.stop_ids = ()  # every answer has all its tokens, here and there
    with tempfile.TemporaryDirectory() as folder:
        tuned(engine, "tuned", Path(folder) / "adapter")
        plainly = plain_pair(Path(folder) / "adapter", prompt, new_tokens)
    sampling = Sampling(max_new_tokens=new_tokens)

    def ours() -> object:
        columns = [Column((), adapter, ids=tuple(prompt)) for adapter in (None, "tuned")]
        return [reply.ids for reply in last(engine, columns, sampling)]

    def alone() -> object:
        return last(engine, [Column((), "tuned", ids=tuple(prompt))], sampling)[0].ids

    seconds: dict[str, list[float]] = {"pair": [], "one_column": [], "two_generates": []}
    for number in range(repeat + 1):
        for name, work in (("pair", ours), ("one_column", alone), ("two_generates", plainly)):
            took = timed(work)
            if number:  # the first warms up
                seconds[name].append(round(took, 3))
    per = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "what": "A/B pair, pocket", "prompt_tokens": len(prompt), "new_tokens_each": new_tokens, "seconds": seconds,
        "tokens_per_second_both": round(2 * new_tokens / per["pair"], 1),
        "plain_tokens_per_second_both": round(2 * new_tokens / per["two_generates"], 1),
        "times_two_generates": round(per["two_generates"] / per["pair"], 2),
        "pair_costs_times_one_column": round(per["pair"] / per["one_column"], 2),
        "threads": torch.get_num_threads(), "load_average": [round(value, 2) for value in os.getloadavg()],
    }  # fmt: skip


def last(engine: Engine, columns: list[Column], sampling: Sampling) -> list[Reply]:
    """The final replies."""
    return list(stream(engine, columns, sampling))[-1]


def timed(work: Callable[[], object]) -> float:
    """Seconds it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def tuned(engine: Engine, name: str, folder: Path | None = None) -> None:
    """An adapter on all linear layers with an effect, attached and on disk."""
    import torch

    engine.create_adapter(name, TrainConfig(model=POCKET, lora_rank=8))
    with engine.turn() as resident, torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in resident.backend.adapter_parameters(engine.handle(name)):
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.02, generator=generator))
    if folder is not None:
        engine.save_adapter(name, folder, {})


def plain_pair(adapter: Path, prompt: list[int], new_tokens: int) -> Callable[[], object]:
    """Base, then tuned, each by one call of generate; the base from a model that PEFT has not touched."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from core.models import inspect

    found = [AutoModelForCausalLM.from_pretrained(inspect(POCKET).folder, dtype=torch.float32).eval() for _ in "ab"]
    models = [found[0], PeftModel.from_pretrained(found[1], str(adapter)).eval()]
    ids = torch.tensor([prompt])
    settings = {
        "attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens, "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip

    def both() -> object:
        with torch.inference_mode():
            return [model.generate(input_ids=ids, **settings)[0, len(prompt) :].tolist() for model in models]

    return both


def differences(dtype: str, most: int, every: int) -> dict[str, object]:
    """How many greedy answers to the pocket model's own questions change with the rows beside them: base and adapter."""
    engine = Engine()
    engine.load(POCKET, torch_dtype=dtype)
    tuned(engine, "tuned")
    items = evaluate.probes(0)[::every]
    asked = [
        Column((Message("system", item.system), Message("user", item.question)), adapter)
        for item in items
        for adapter in (None, "tuned")
    ]
    sampling = Sampling(max_new_tokens=most)
    alone = [last(engine, [column], sampling)[0].ids for column in asked]
    found: dict[str, object] = {"what": f"greedy answers in a batch and alone, pocket, {dtype}", "answers": len(asked)}
    for size in (2, 64):
        replies = [
            reply.ids
            for begin in range(0, len(asked), size)
            for reply in last(engine, asked[begin : begin + size], sampling)
        ]
        found[f"differ_in_batches_of_{size}"] = sum(a != b for a, b in zip(alone, replies, strict=True))
    found["tokens"] = sum(map(len, alone))
    return found


def questions_together(repeat: int) -> dict[str, object]:
    """Seconds for 16 questions to base and adapter: in one batch of 32, and in two of 16 after each other."""
    engine = Engine()
    engine.load(POCKET)
    tuned(engine, "tuned")
    asked = [(Message("user", item.question),) for item in evaluate.probes(0) if item.category == "identity"][:16]
    sampling, seconds = Sampling(max_new_tokens=64), {"one_batch": [], "two_batches": []}
    for number in range(repeat + 1):
        both = [Column(messages, adapter) for adapter in (None, "tuned") for messages in asked]
        one = timed(lambda both=both: last(engine, both, sampling))
        two = timed(lambda both=both: [last(engine, both[:16], sampling), last(engine, both[16:], sampling)])
        if number:
            seconds["one_batch"].append(round(one, 3))
            seconds["two_batches"].append(round(two, 3))
    return {"what": "16 questions to base and adapter, pocket", **seconds}


def show(record: dict[str, object]) -> None:
    """One JSON line."""
    print(json.dumps(record), flush=True)


def main(repeat: int) -> None:
    """All of it, one JSON line each."""
    show(pair(repeat, 256))
    show(questions_together(repeat))
    show(differences("float32", 48, every=1))
    show(differences("bfloat16", 48, every=6))  # a token of it takes a processor several times as long
