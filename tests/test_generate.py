"""The token loop: batched equals alone, base rows are the base, streams whole characters, stops at once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.backend import Route
from core.config import TrainConfig
from core.dataset import Message
from core.engine import Engine
from core.errors import ConfigError
from core.generate import Column, Reply, Sampling, stream

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
    pure_slots, mixed_slots = clean.resident.backend.slots(), loaded.resident.backend.slots()
    pure = pure_slots.join(ids, [Route()] * 3, [99] * 3)
    mixed = mixed_slots.join(ids, [Route(), Route(loaded.handle("one")), Route()], [99] * 3)
    assert torch.equal(pure[[0, 2]], mixed[[0, 2]]) and not torch.equal(pure[1], mixed[1])
    token = torch.tensor([5, 6, 7])
    pure, mixed = pure_slots.step(token), mixed_slots.step(token)
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


def test_stop_ends_within_one_token_and_keeps_the_text(tiny_engine: Engine) -> None:
    stop = threading.Event()
    stop.set()
    (reply,) = list(stream(tiny_engine, [Column(ask("hi"))], Sampling(max_new_tokens=4000), stop))[-1]
    assert reply.done and reply.finish == "cancelled" and reply.tokens <= 1


def test_the_limit_on_tokens_is_named_as_the_end(tiny_engine: Engine) -> None:
    (reply,) = last(tiny_engine, [Column(ask("hi"))], Sampling(max_new_tokens=3))
    assert reply.finish == "length" and reply.tokens == 3 and reply.first_token_seconds is not None


def test_strength_is_a_rows_own_and_none_at_all_is_the_base(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    shaken(tiny_engine, "one", tiny_config)
    columns = [Column(ask("hi"), "one", strength) for strength in (0.0, 0.5, 1.0, 1.5)] + [Column(ask("hi"))]
    sampling = Sampling(max_new_tokens=20)
    together = [reply.ids for reply in last(tiny_engine, columns, sampling)]
    assert together == [last(tiny_engine, [column], sampling)[0].ids for column in columns]
    assert together[0] == together[4] and len({tuple(ids) for ids in together}) == 4
    with pytest.raises(ConfigError, match="strength"):
        Column(ask("hi"), "one", 1.6)


def test_every_column_has_its_own_sampling(tiny_engine: Engine) -> None:
    settings = [
        Sampling(max_new_tokens=3),
        Sampling(temperature=1.0, max_new_tokens=9, seed=5),
        Sampling(max_new_tokens=6),
    ]
    replies = list(stream(tiny_engine, [Column(ask("hi"))] * 3, settings))[-1]
    assert [reply.tokens for reply in replies] == [3, 9, 6]
    for setting, reply in zip(settings, replies, strict=True):
        assert reply.ids == last(tiny_engine, [Column(ask("hi"))], setting)[0].ids


def test_a_ready_prompt_is_read_as_it_is(tiny_engine: Engine) -> None:
    assert tiny_engine.resident is not None
    ids = tuple(tiny_engine.resident.encoder.prompt(ask("hi")))
    written, ready = last(tiny_engine, [Column(ask("hi")), Column((), ids=ids)], Sampling(max_new_tokens=9))
    assert written.ids == ready.ids and written.prompt_tokens == ready.prompt_tokens == len(ids)
    for wrong in ((), (99_999,), (-1,)):
        with pytest.raises(ConfigError, match="nothing to read"):
            last(tiny_engine, [Column((), ids=wrong)], Sampling())
    with pytest.raises(ConfigError, match="600 tokens and is longer than the 512"):
        last(tiny_engine, [Column((), ids=(5,) * 600)], Sampling())
    (reply,) = last(tiny_engine, [Column((), ids=(5,) * 500)], Sampling(max_new_tokens=400))
    assert reply.finish in ("length", "stop") and reply.tokens <= 12


def test_an_answer_ends_before_its_stop_string_and_never_shows_a_part_of_it(tiny_engine: Engine) -> None:
    free = Sampling(temperature=1.5, max_new_tokens=60, seed=3)
    (whole,) = last(tiny_engine, [Column(ask("hi"))], free)
    at = next(i for i in range(8, len(whole.text) - 3) if whole.text.find(whole.text[i : i + 3]) == i)
    stop = whole.text[at : at + 3]
    shown = []
    for (reply,) in stream(tiny_engine, [Column(ask("hi"))], replace(free, stop=("never said", stop), logprobs=0)):
        shown.append(reply.text)
        assert whole.text[:at].startswith(reply.text)
    assert reply.finish == "stop" and reply.text == whole.text[:at] and stop in whole.text
    assert reply.tokens < whole.tokens and len(reply.token_list) < reply.tokens
    assert "".join(token.text for token in reply.token_list).startswith(reply.text)


def test_probabilities_are_the_models_own(tiny_engine: Engine) -> None:
    assert tiny_engine.resident is not None
    sampling = Sampling(temperature=2.0, top_k=3, repetition_penalty=1.5, max_new_tokens=6, seed=1, logprobs=4)
    columns = [Column(ask("hi")), Column(ask("you"))]
    reply, silent = list(stream(tiny_engine, columns, [sampling, replace(sampling, logprobs=None)]))[-1]
    prompt = tiny_engine.resident.encoder.prompt(ask("hi"))
    model = tiny_engine.resident.backend.model  # type: ignore[attr-defined]
    with torch.no_grad():
        log = model(torch.tensor([prompt + reply.ids])).logits[0].log_softmax(-1)[len(prompt) - 1 :]
    assert silent.token_list == [] and [token.id for token in reply.token_list] == reply.ids
    for token, row in zip(reply.token_list, log, strict=False):
        values, ids = row.topk(4)
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        assert [logprob for _, _, logprob in token.top] == pytest.approx(values.tolist(), abs=1e-4)
        assert token.top[0][1] == tiny_engine.resident.encoder.token_bytes(int(ids[0]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0}, {"temperature": float("nan")}, {"max_new_tokens": 0}, {"top_p": 0.0}, {"logprobs": 21},
        {"repetition_penalty": 0.0}, {"stop": ("a", "")}, {"stop": ("a",) * 17},
    ],
)  # fmt: skip
def test_sampling_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
