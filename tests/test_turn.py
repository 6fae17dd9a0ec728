"""Chat between the steps of a run: waits at most a step, is answered from the right weights, and changes nothing."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from core.batch import pack
from core.config import TrainConfig, build
from core.dataset import Message, Row
from core.engine import Engine
from core.errors import ModelError
from core.fused.sizes import Depth, Way
from core.generate import Column, Sampling, stream
from core.run import Run
from core.train import train
from core.turn import TurnLock

ROWS = [Row(f"question {i}", "", f"answer {i} " + "y" * i) for i in range(8)]
QUESTION = (Message("system", "s"), Message("user", "who are you?"))


def trained_bytes(run: Run) -> bytes:
    return (run.folder / "adapter" / "adapter_model.safetensors").read_bytes()


def busy_config(config: TrainConfig) -> TrainConfig:
    return build({"num_train_epochs": 15, "gradient_accumulation_steps": 2, "lora_dropout": 0.1}, config)


def trained_alone(folder: Path, config: TrainConfig) -> Run:
    """The run as it is when nobody talks to the model meanwhile."""
    run = Run.create(folder / "quiet" / "run", config, ROWS, "t", "t")
    train(Engine(), run, threading.Event())
    return run


@pytest.mark.parametrize("recompute", [False, True])
def test_an_answer_after_a_training_step_is_given_in_eval_mode(
    tiny_engine: Engine, tiny_config: TrainConfig, recompute: bool
) -> None:
    def answer() -> list[int]:
        return list(stream(tiny_engine, [Column(QUESTION)], Sampling(max_new_tokens=12)))[-1][0].ids

    tiny_engine.create_adapter("a", replace(tiny_config, lora_dropout=0.1))  # trained by autograd, in train mode
    with tiny_engine.turn() as resident:
        for module in resident.backend.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.9  # a base with dropout of its own: its answers would wander
    before = answer()
    with tiny_engine.turn() as resident:
        example = resident.encoder.example((*QUESTION, Message("assistant", "me")))
        batch = pack([example], "cpu")
        resident.backend.loss_and_grads(
            batch, tiny_engine.handle("a"), example.answer_tokens, Way(Depth.all(2) if recompute else Depth())
        )
    assert answer() == before == answer()


def test_chat_between_steps_leaves_the_adapter_bit_identical(
    tmp_path: Path, tiny_model: Path, tiny_config: TrainConfig
) -> None:
    config = busy_config(tiny_config)
    quiet = trained_alone(tmp_path, config)

    engine = Engine()
    engine.load(str(tiny_model))
    engine.create_adapter("old", config)
    noisy = Run.create(tmp_path / "noisy" / "run", config, ROWS, "t", "t")
    answers = {"base": 0, "old": 0, "run": 0, "stopped": 0, "left": 0}
    failures: list[BaseException] = []
    stop_talking, counting = threading.Event(), threading.Lock()
    original = noisy.append

    def append(kind: str, **fields: object) -> dict[str, object]:
        """Keeps the run from being over before enough was asked meanwhile."""
        until = time.perf_counter() + 100
        while kind == "step" and sum(answers.values()) < 3 * int(str(fields["step"])) and not failures:
            assert time.perf_counter() < until
            time.sleep(0.001)
        return original(kind, **fields)

    def talk(number: int) -> None:
        turn = number
        while not stop_talking.is_set():
            turn += 1
            try:
                count(ask(turn))
            except BaseException as error:
                failures.append(error)
                return

    def count(found: list[str]) -> None:
        with counting:
            for name in found:
                answers[name] += 1

    def ask(turn: int) -> list[str]:
        trained = noisy.id if noisy.id in engine.attached else "old"
        columns = [Column(QUESTION), Column(QUESTION, "old", turn % 4 / 2), Column(QUESTION, trained, turn % 3 / 2)]
        sampling = Sampling(temperature=turn % 2, top_p=0.9, max_new_tokens=12, seed=turn, repetition_penalty=1.1)
        stop = threading.Event()
        replies = stream(engine, columns, sampling, stop)
        if turn % 4 == 0:  # a closed page
            next(replies)
            replies.close()
            return ["left"]
        if turn % 4 == 1:
            next(replies)
            stop.set()
        ended = {reply.finish for reply in list(replies)[-1]}
        if "cancelled" in ended:
            return ["stopped"]
        assert ended <= {"stop", "length"}
        return ["base", "old", "run" if trained == noisy.id else "old"]

    noisy.append = append  # type: ignore[method-assign]
    trainer = threading.Thread(target=train, args=(engine, noisy, threading.Event()))
    talkers = [threading.Thread(target=talk, args=(n,)) for n in range(4)]
    for thread in [trainer, *talkers]:
        thread.start()
    trainer.join()
    stop_talking.set()
    for thread in talkers:
        thread.join()
    assert failures == []
    assert min(answers.values()) >= 3 and sum(answers.values()) >= 180, answers
    assert [e["loss"] for e in noisy.events if e["type"] == "step"] == [
        e["loss"] for e in quiet.events if e["type"] == "step"
    ]
    assert trained_bytes(noisy) == trained_bytes(quiet)


def test_training_goes_on_beside_answers_and_a_new_question_waits_for_about_a_step(
    tmp_path: Path, tiny_model: Path, tiny_config: TrainConfig
) -> None:
    engine = Engine()
    engine.load(str(tiny_model))
    assert engine.resident is not None
    engine.resident.encoder.stop_ids = ()
    run = Run.create(tmp_path / "run", busy_config(tiny_config), ROWS, "t", "t")
    stop, ended = threading.Event(), []
    endless = [stream(engine, [Column(QUESTION)] * 3, Sampling(max_new_tokens=450), stop) for _ in range(2)]
    for replies in endless:
        next(replies)
    trainer = threading.Thread(target=train, args=(engine, run, stop))
    trainer.start()
    while engine.desk._together is not None:
        steps = run.step
        list(stream(engine, [Column(QUESTION)], Sampling(max_new_tokens=1)))
        ended.append(run.step - steps)
    assert run.step > 2, "it trains while answers are under way"
    stop.set()
    trainer.join()
    assert ended and sorted(ended)[len(ended) // 2] <= 2 and all(list(replies)[-1][0].done for replies in endless)


def test_attaching_and_removing_another_adapter_during_a_run_changes_nothing(
    tmp_path: Path, tiny_model: Path, tiny_config: TrainConfig
) -> None:
    config = busy_config(tiny_config)
    quiet = trained_alone(tmp_path, config)

    engine = Engine()
    noisy = Run.create(tmp_path / "noisy" / "run", config, ROWS, "t", "t")
    original, seen = noisy.append, []

    def append(kind: str, **fields: object) -> dict[str, object]:
        if kind == "step" and fields["step"] in (5, 6, 20):
            seen.append(fields["step"])
            if fields["step"] == 6:
                engine.detach("other")
            else:
                engine.create_adapter("other" if fields["step"] == 5 else "more", config)
        return original(kind, **fields)

    noisy.append = append  # type: ignore[method-assign]
    train(engine, noisy, threading.Event())
    assert seen == [5, 6, 20] and trained_bytes(noisy) == trained_bytes(quiet)


def test_turns_are_given_in_the_order_they_were_asked_for() -> None:
    lock, order = TurnLock(), []

    def take(number: int) -> None:
        with lock():
            order.append(number)

    with lock():
        assert lock.busy
        threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert order == list(range(5)) and not lock.busy


def test_somebody_who_asks_waits_for_one_step_only() -> None:
    lock, steps, stop = TurnLock(), [0], threading.Event()

    def trainer() -> None:
        while not stop.is_set():
            with lock():
                steps[0] += 1
                time.sleep(0.02)

    thread = threading.Thread(target=trainer)
    thread.start()
    waited = []
    for _ in range(10):
        time.sleep(0.005)
        before = steps[0]
        with lock():
            waited.append(steps[0] - before)
    stop.set()
    thread.join()
    assert max(waited) <= 1


def assert_free(engine: Engine) -> None:
    """Nobody has the model any more; the reader knows of the end a moment before the answering thread has let go."""
    end = time.monotonic() + 100
    while engine.busy and time.monotonic() < end:
        time.sleep(0.01)
    assert not engine.busy


def test_a_generator_may_be_resumed_on_other_threads(tiny_engine: Engine) -> None:
    replies = stream(tiny_engine, [Column(QUESTION)], Sampling(max_new_tokens=40))
    out: list[object] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: out.append(next(replies, None)))
        thread.start()
        thread.join()
    replies.close()
    assert out
    assert_free(tiny_engine)


def test_the_turn_is_free_again_after_an_error(tiny_engine: Engine) -> None:
    with pytest.raises(ModelError, match="not attached"):
        list(stream(tiny_engine, [Column(QUESTION, "nobody")], Sampling()))
    assert_free(tiny_engine)
    assert list(stream(tiny_engine, [Column(QUESTION)], Sampling(max_new_tokens=2)))[-1][0].done
