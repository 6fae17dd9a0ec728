"""The token loop: batched equals alone, base rows are the base, streams whole characters, stops at once."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
import torch

from core.config import TrainConfig
from core.dataset import Message
from core.engine import Engine
from core.errors import ConfigError
from core.generate import Column, Reply, Sampling, choose, stream, whole_text

QUESTIONS = ["hi", "a much longer question than the first one", "你是谁?"]


def ask(question: str) -> tuple[Message, ...]:
    return (Message("system", "s"), Message("user", question))


def last(engine: Engine, columns: list[Column], sampling: Sampling) -> list[Reply]:
    return list(stream(engine, columns, sampling))[-1]


def shaken(engine: Engine, name: str, config: TrainConfig) -> None:
    """An adapter whose effect is large."""
    engine.create_adapter(name, config)
    assert engine.resident is not None
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for parameter in engine.resident.backend.adapter_parameters(engine.handle(name)):
            parameter.normal_(0, 0.3, generator=generator)


def test_a_batch_of_base_and_two_adapters_answers_as_each_alone(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    for name in ("one", "three"):
        shaken(tiny_engine, name, tiny_config)
    columns = [Column(ask(q), adapter) for q in QUESTIONS for adapter in (None, "one", "three")]
    sampling = Sampling(max_new_tokens=20)
    together = [reply.ids for reply in last(tiny_engine, columns, sampling)]
    assert together == [last(tiny_engine, [column], sampling)[0].ids for column in columns]
    assert len({tuple(ids) for ids in together[:3]}) == 3  # base and the two adapters do differ


def test_base_rows_have_the_bases_own_logits_to_the_bit(tiny_model: Path, tiny_config: TrainConfig) -> None:
    clean, loaded = Engine(), Engine()
    for engine in (clean, loaded):
        engine.load(str(tiny_model))
    shaken(loaded, "one", tiny_config)
    assert clean.resident is not None and loaded.resident is not None
    ids = [clean.resident.encoder.prompt(ask(question)) for question in QUESTIONS]
    pad = clean.resident.pad_id
    pure, cache = clean.resident.backend.prefill(ids, [None] * 3, pad)
    mixed, cache2 = loaded.resident.backend.prefill(ids, [None, loaded.handle("one"), None], pad)
    assert torch.equal(pure[[0, 2]], mixed[[0, 2]]) and not torch.equal(pure[1], mixed[1])
    token = torch.tensor([5, 6, 7])
    pure, _ = clean.resident.backend.decode(token, [None] * 3, cache)
    mixed, _ = loaded.resident.backend.decode(token, [None, loaded.handle("one"), None], cache2)
    assert torch.equal(pure[[0, 2]], mixed[[0, 2]]) and not torch.equal(pure[1], mixed[1])


def test_greedy_equals_transformers_generate(tiny_engine: Engine) -> None:
    assert tiny_engine.resident is not None
    resident = tiny_engine.resident
    prompt = resident.encoder.prompt(ask(QUESTIONS[0]))
    out = resident.backend.model.generate(
        torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=resident.pad_id,
        eos_token_id=list(resident.encoder.stop_ids),
    )  # fmt: skip
    reference = [i for i in out[0, len(prompt) :].tolist() if i not in resident.encoder.stop_ids]
    assert last(tiny_engine, [Column(ask(QUESTIONS[0]))], Sampling(max_new_tokens=20))[0].ids == reference


def test_sampling_repeats_with_its_seed_and_leaves_the_global_state(tiny_engine: Engine) -> None:
    before = torch.random.get_rng_state()
    draw = [
        last(tiny_engine, [Column(ask("hi"))], Sampling(temperature=1.0, max_new_tokens=20, seed=seed))[0].ids
        for seed in (1, 1, 2)
    ]
    assert draw[0] == draw[1] != draw[2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_top_k_and_top_p_leave_out_the_unlikely() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0, -2.0]])

    def drawn(**rules: float) -> set[int]:
        sampling = Sampling(temperature=2.0, **rules)  # type: ignore[arg-type]
        return {choose(logits, sampling, [torch.Generator().manual_seed(seed)])[0] for seed in range(200)}

    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {0, 1} and drawn(top_p=0.6) == {0, 1} and drawn(top_p=0.1) == {0}


def test_stop_ends_within_one_token_and_keeps_the_text(tiny_engine: Engine) -> None:
    stop = threading.Event()
    stop.set()
    (reply,) = list(stream(tiny_engine, [Column(ask("hi"))], Sampling(max_new_tokens=4000), stop))[-1]
    assert reply.done and reply.finish == "cancelled" and reply.tokens <= 1


def test_the_limit_on_tokens_is_named_as_the_end(tiny_engine: Engine) -> None:
    (reply,) = last(tiny_engine, [Column(ask("hi"))], Sampling(max_new_tokens=3))
    assert reply.finish == "length" and reply.tokens == 3 and reply.first_token_seconds is not None


def test_a_character_is_shown_only_when_all_its_bytes_are_there(tiny_engine: Engine) -> None:
    assert tiny_engine.resident is not None
    encoder = tiny_engine.resident.encoder
    ids = encoder._plain("你😀")  # type: ignore[attr-defined]
    shown = [whole_text(encoder, ids[:n], done=False) for n in range(len(ids) + 1)]
    assert list(dict.fromkeys(shown)) == ["", "你", "你😀"]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(shown))


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"max_new_tokens": 0}, {"top_p": 0.0}]
)
def test_sampling_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
