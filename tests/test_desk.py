"""Everybody's questions in one batch: who comes later, leaves early, waits, fails, or never reads on."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core import desk
from core.backend import Route
from core.config import TrainConfig
from core.dataset import Message
from core.device import Device
from core.engine import Engine
from core.errors import ConfigError, ModelError, WontFitError
from core.generate import Column, Reply, Sampling, stream
from core.plain import PlainBackend
from core.plain_slots import PlainSlots


def ask(question: str) -> tuple[Message, ...]:
    return (Message("system", "s"), Message("user", question))


LONG = Sampling(max_new_tokens=400, temperature=1.0)
SHORT = Sampling(max_new_tokens=12, temperature=1.0)


class Talker(threading.Thread):
    """Reads one answer on a thread of its own."""

    def __init__(self, engine: Engine, columns: list[Column], sampling: Sampling, stop: threading.Event | None = None):
        super().__init__()
        self.replies: list[Reply] = []
        self.error: BaseException | None = None
        self._ask = (engine, columns, sampling, stop)
        self.start()

    def run(self) -> None:
        try:
            for replies in stream(*self._ask):
                self.replies = replies
        except BaseException as error:
            self.error = error

    def result(self) -> list[Reply]:
        self.join(60)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.replies


@pytest.fixture
def endless(tiny_engine: Engine) -> Engine:
    """An engine whose answers end by their length alone."""
    assert tiny_engine.resident is not None
    tiny_engine.resident.encoder.stop_ids = ()
    return tiny_engine


@pytest.fixture
def counted(endless: Engine) -> Iterator[list[int]]:
    """The plain backend, and how many rows each of its passes had."""
    assert endless.resident is not None
    sizes: list[int] = []

    class Counted(PlainSlots):
        def step(self, tokens: torch.Tensor) -> torch.Tensor:
            sizes.append(len(tokens))
            return super().step(tokens)

    class Backend(PlainBackend):
        def slots(self) -> Counted:
            return Counted(self)

    use(endless, Backend(endless.resident.backend.model, torch.device("cpu"), None))  # type: ignore[attr-defined]
    yield sizes


def use(engine: Engine, backend: PlainBackend) -> None:
    with engine.turn() as resident:
        engine._resident = replace(resident, backend=backend)


def test_questions_asked_at_the_same_time_share_their_passes(endless: Engine, counted: list[int]) -> None:
    alone = [list(stream(endless, [Column(ask(f"q {n}"))], replace(LONG, max_new_tokens=60, seed=n)))[-1][0]
             for n in range(6)]  # fmt: skip
    counted.clear()
    talkers = [Talker(endless, [Column(ask(f"q {n}"))], replace(LONG, max_new_tokens=60, seed=n)) for n in range(6)]
    together = [talker.result()[0] for talker in talkers]
    assert [reply.ids for reply in together] == [reply.ids for reply in alone]
    assert max(counted) >= 3 and len(counted) < 6 * 59
    assert all(reply.prompt_tokens == one.prompt_tokens for reply, one in zip(together, alone, strict=True))


def test_a_question_joins_an_answer_under_way_and_leaves_before_it(endless: Engine, counted: list[int]) -> None:
    first = stream(endless, [Column(ask("hi"))], LONG)
    next(first)
    (short,) = list(stream(endless, [Column(ask("you"))], SHORT))[-1]
    (reply,) = list(first)[-1]
    assert short.tokens == 12 and reply.tokens == 400
    assert counted.count(2) == 11 and counted[0] == counted[-1] == 1


def test_an_answer_that_nobody_reads_on_keeps_nobody_waiting(endless: Engine, counted: list[int]) -> None:
    abandoned = [stream(endless, [Column(ask("hi"))], replace(LONG, max_new_tokens=450)) for _ in range(3)]
    for replies in abandoned:
        next(replies)
    (reply,) = list(stream(endless, [Column(ask("you"))], SHORT))[-1]
    assert reply.tokens == 12 and len(counted) < 450
    with endless.turn():
        pass
    for replies in abandoned:
        replies.close()
    wait_for(lambda: endless.desk._together is None)


def wait_for(condition: object) -> None:
    until = time.perf_counter() + 100
    while not condition():  # type: ignore[operator]
        assert time.perf_counter() < until
        time.sleep(0.005)


def test_a_reader_that_leaves_ends_its_own_answer_only(endless: Engine, counted: list[int]) -> None:
    stays = Talker(endless, [Column(ask("hi"))], LONG)
    leaves = stream(endless, [Column(ask("you")), Column(ask("me"))], LONG)
    next(leaves)
    leaves.close()
    assert stays.result()[0].tokens == 400
    assert counted.count(3) + counted.count(2) < 100


def test_a_stop_flag_ends_an_answer_at_once_wherever_it_is(endless: Engine) -> None:
    stop = threading.Event()
    answering = Talker(endless, [Column(ask("hi")), Column(ask("you"))], LONG, stop)
    wait_for(lambda: answering.replies and answering.replies[0].tokens)
    stop.set()
    replies = answering.result()
    assert {reply.finish for reply in replies} == {"cancelled"} and 0 < replies[0].tokens < 400
    assert replies[0].text == endless.resident.encoder.decode(replies[0].ids)  # type: ignore[union-attr]


def test_a_stop_flag_ends_a_question_that_still_waits_for_the_model(endless: Engine) -> None:
    stop = threading.Event()
    with endless.turn():
        waiting = Talker(endless, [Column(ask("hi"))], LONG, stop)
        wait_for(lambda: waiting.replies and waiting.replies[0].waiting)
        stop.set()
        assert [(reply.finish, reply.tokens) for reply in waiting.result()] == [("cancelled", 0)]
    assert list(stream(endless, [Column(ask("hi"))], SHORT))[-1][0].tokens == 12


def test_an_adapter_that_goes_ends_its_own_answers_only(endless: Engine, tiny_config: TrainConfig) -> None:
    for name in ("one", "two"):
        endless.create_adapter(name, tiny_config)
    talkers = [Talker(endless, [Column(ask("hi"), name)], LONG) for name in ("one", "two", None)]
    both = Talker(endless, [Column(ask("hi"), "two"), Column(ask("hi"), "one")], LONG)
    wait_for(lambda: all(t.replies and t.replies[0].tokens for t in (*talkers, both)))
    endless.detach("one")
    for talker in (talkers[0], both):
        with pytest.raises(ModelError, match="exchanged"):
            talker.result()
    assert [talker.result()[0].tokens for talker in talkers[1:]] == [400, 400]
    with pytest.raises(ModelError, match="not attached"):
        list(stream(endless, [Column(ask("hi"), "one")], SHORT))


@pytest.mark.parametrize("way", ["unload", "load"])
def test_a_model_that_goes_ends_the_answers_under_way(endless: Engine, tiny_llama: Path, way: str) -> None:
    talkers = [Talker(endless, [Column(ask("hi"))], LONG) for _ in range(3)]
    wait_for(lambda: all(t.replies and t.replies[0].tokens for t in talkers))
    if way == "unload":
        endless.unload()
    else:
        endless.load(str(tiny_llama))
    for talker in talkers:
        with pytest.raises(ModelError, match="exchanged"):
            talker.result()
    if way == "unload":
        with pytest.raises(ModelError, match="No model"):
            list(stream(endless, [Column(ask("hi"))], SHORT))
    else:
        assert list(stream(endless, [Column(ask("hi"))], SHORT))[-1][0].done


def test_one_that_cannot_be_answered_fails_alone(endless: Engine) -> None:
    good = Talker(endless, [Column(ask("hi"))], LONG)
    wait_for(lambda: good.replies and good.replies[0].tokens)
    too_long = Talker(endless, [Column(ask("x" * 600))], SHORT)
    with pytest.raises(ConfigError, match="longer than"):
        too_long.result()
    with pytest.raises(TypeError):
        list(stream(endless, [Column(None)], SHORT))  # type: ignore[arg-type]
    assert good.result()[0].tokens == 400


def test_more_questions_than_places_are_answered_in_turn(
    endless: Engine, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    endless.desk._room = 5
    monkeypatch.setattr(desk, "MOST_ROWS", 5)
    replies = list(stream(endless, [Column(ask(f"q {n}")) for n in range(17)], SHORT))[-1]
    assert [reply.tokens for reply in replies] == [12] * 17 and max(counted) == 5


class Small(PlainBackend):
    """Has memory for so many rows, and so many positions."""

    def __init__(self, backend: PlainBackend, rows: int, positions: int = 10**9) -> None:
        super().__init__(backend.model, torch.device("cpu"), None)
        self.rows, self.positions, self.rested = rows, positions, 0

    def slots(self) -> PlainSlots:
        return SmallSlots(self)

    def rest(self) -> None:
        self.rested += 1


class SmallSlots(PlainSlots):
    def _check(self, more: Sequence[Sequence[int]] = ()) -> None:
        counts = [count for cohort in self._cohorts for count in cohort.counts] + [len(prompt) for prompt in more]
        if len(counts) > self._backend.rows or sum(counts) > self._backend.positions:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("the card is full")

    def join(self, prompts: Sequence[Sequence[int]], routes: Sequence[Route], most: Sequence[int]) -> torch.Tensor:
        self._check(prompts)
        return super().join(prompts, routes, most)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self._check()
        return super().step(tokens)


@pytest.mark.parametrize(("rows", "positions"), [(3, 10**9), (10**9, 200)], ids=["joining", "going on"])
def test_what_does_not_fit_beside_the_others_waits_until_it_does(endless: Engine, rows: int, positions: int) -> None:
    columns = [Column(ask(f"q {n}")) for n in range(8)]
    sampling = [Sampling(temperature=1.0, max_new_tokens=20 + n, seed=n) for n in range(8)]
    expected = [list(stream(endless, [c], s))[-1][0].ids for c, s in zip(columns, sampling, strict=True)]
    small = Small(endless.resident.backend, rows, positions)  # type: ignore[union-attr, arg-type]
    use(endless, small)
    replies = list(stream(endless, columns, sampling))[-1]
    assert [reply.ids for reply in replies] == expected


def test_what_does_not_fit_alone_is_refused_and_the_others_go_on(endless: Engine) -> None:
    small = Small(endless.resident.backend, 8, 200)  # type: ignore[union-attr, arg-type]
    use(endless, small)
    other = Talker(endless, [Column(ask("hi"))], replace(LONG, max_new_tokens=100))
    with pytest.raises(WontFitError):
        list(stream(endless, [Column(ask("x" * 300))], SHORT))
    assert other.result()[0].tokens == 100
    with pytest.raises(WontFitError):
        list(stream(endless, [Column(ask("hi"))], LONG))  # its 400 tokens do not fit
    assert small.rested >= 1
    assert list(stream(endless, [Column(ask("hi"))], SHORT))[-1][0].tokens == 12


def test_a_bug_in_a_pass_reaches_those_who_asked_and_the_next_ones_are_answered(endless: Engine) -> None:
    model = endless.resident.backend.model  # type: ignore[union-attr]

    class Broken(PlainBackend):
        def slots(self) -> PlainSlots:
            slots, steps = PlainSlots(self), itertools.count()
            step = slots.step

            def breaking(tokens: torch.Tensor) -> torch.Tensor:
                if next(steps) == 5:
                    raise ZeroDivisionError("a bug")
                return step(tokens)

            slots.step = breaking  # type: ignore[method-assign]
            return slots

    good = endless.resident.backend  # type: ignore[union-attr]
    use(endless, Broken(model, torch.device("cpu"), None))
    with pytest.raises(ZeroDivisionError):
        list(stream(endless, [Column(ask("hi"))], SHORT))
    use(endless, good)  # type: ignore[arg-type]
    assert list(stream(endless, [Column(ask("hi"))], SHORT))[-1][0].tokens == 12


def test_numbers_that_are_none_end_their_own_answer_with_a_word_for_it(
    endless: Engine, tiny_config: TrainConfig
) -> None:
    endless.create_adapter("broken", tiny_config)
    with endless.turn() as resident, torch.no_grad():
        for parameter in resident.backend.adapter_parameters(endless.handle("broken")):
            parameter.fill_(1e30)  # what it adds is infinite
    fine = Talker(endless, [Column(ask("a"))], Sampling(max_new_tokens=60, temperature=1.0))
    for sampling in (Sampling(max_new_tokens=20), SHORT):
        with pytest.raises(ModelError, match="NaN"):
            list(stream(endless, [Column(ask("b"), "broken")], sampling))
    assert fine.result()[0].tokens == 60


def test_a_bug_ends_those_it_hits_and_not_those_who_wait(endless: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "MOST_ROWS", 1)
    endless.desk = desk.Desk(endless)
    real, broken = PlainSlots.step, threading.Event()

    def step(self: PlainSlots, tokens: torch.Tensor) -> torch.Tensor:
        if not broken.is_set():
            time.sleep(0.3)  # until the other one waits
            broken.set()
            raise IndexError("a bug")
        return real(self, tokens)

    use(endless, PlainBackend(endless.resident.backend.model, torch.device("cpu"), None))  # type: ignore[union-attr,attr-defined]
    monkeypatch.setattr(PlainSlots, "step", step)
    hit = Talker(endless, [Column(ask("a"))], SHORT)
    time.sleep(0.1)
    waiting = Talker(endless, [Column(ask("b"))], SHORT)
    with pytest.raises(IndexError):
        hit.result()
    assert waiting.result()[0].tokens == 12


def test_a_thread_that_could_not_start_is_tried_again(endless: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(desk.threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            list(stream(endless, [Column(ask("a"))], SHORT))
    assert list(stream(endless, [Column(ask("a"))], SHORT))[-1][0].tokens == 12


def test_the_thread_ends_when_there_is_nothing_to_do_and_begins_again(
    endless: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "_LINGER_SECONDS", 0.05)
    for _ in range(3):
        assert list(stream(endless, [Column(ask("hi"))], SHORT))[-1][0].tokens == 12
        wait_for(lambda: endless.desk._thread is None)


def test_seconds_and_speed_are_a_rows_own(endless: Engine) -> None:
    talker = Talker(endless, [Column(ask("hi"))], replace(LONG, max_new_tokens=300))
    wait_for(lambda: talker.replies and talker.replies[0].tokens)
    begun = time.perf_counter()
    (reply,) = list(stream(endless, [Column(ask("you"))], replace(LONG, max_new_tokens=100)))[-1]
    seconds = time.perf_counter() - begun
    assert reply.first_token_seconds is not None and reply.first_token_seconds < seconds
    rest = seconds - reply.first_token_seconds
    assert reply.tokens_per_second == pytest.approx(99 / rest, rel=0.3)
    talker.result()


def test_an_engine_without_a_model_says_so(tmp_path: Path) -> None:
    engine = Engine(Device("cpu", "processor", 10**9))
    with pytest.raises(ModelError, match="No model"):
        list(stream(engine, [Column(ask("hi"))], SHORT))
    wait_for(lambda: not engine.desk._has_work() and not engine.busy)  # nothing is tried again and again


def test_a_program_ends_at_once_and_cleanly_in_the_middle_of_an_answer(tiny_model: Path) -> None:
    script = f"""
from core.engine import Engine
from core.generate import Column, Sampling, stream
engine = Engine()
engine.load({str(tiny_model)!r})
answer = stream(engine, [Column((), ids=(5, 6, 7))] * 3, Sampling(max_new_tokens=480, temperature=1.0))
while not next(answer)[0].tokens:
    pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
