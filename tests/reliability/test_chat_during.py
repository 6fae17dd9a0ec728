"""Fifty-seven sampled chats while a run trains, through what the page uses: the run's weights are those of a quiet one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from core.config import TrainConfig, build
from core.dataset import Identity, Message, Row
from core.generate import Column, Sampling
from core.run import Event, Run
from core.workspace import Workspace

CHATS = 57
ROWS = [Row(f"question {i}", "", f"answer {i} " + "y" * i) for i in range(8)]
QUESTION = (Message("system", "s"), Message("user", "who are you?"))


def trained(home: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch, chats: int) -> tuple[Run, bytes]:
    """A run that trains while somebody talks to it, once a step."""
    workspace, during, failures = Workspace(home), [], []
    workspace.create("mine", ROWS, Identity("小禾", "Xiaohe", "青禾", "Qinghe"))
    asked, original = threading.Condition(), Run.append

    def append(run: Run, kind: str, **fields: object) -> Event:
        event = original(run, kind, **fields)
        if kind == "step":
            with asked:  # between two steps, as whoever asks comes at no better time
                assert asked.wait_for(lambda: failures or len(during) >= min(chats, int(str(fields["step"]))), 120)
        return event

    def talk(run: Run) -> None:
        try:
            while run.id not in workspace.engine.attached:
                threading.Event().wait(0.005)
            for number in range(chats):
                which = run.id if number % 3 else None
                sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=8, seed=number, repetition_penalty=1.1)
                replies = list(workspace.answer([Column(QUESTION, which)], sampling))[-1]
                with asked:
                    during.append((run.live, replies[0].finish))
                    asked.notify_all()
        except BaseException as error:
            failures.append(error)
            with asked:
                asked.notify_all()

    with monkeypatch.context() as patched:
        patched.setattr(Run, "append", append)
        run = workspace.start("mine", config)
        talker = threading.Thread(target=talk, args=(run,))
        talker.start()
        assert workspace._job.join(500)
        talker.join()
    assert not failures and run.status == "finished" and run.adapter is not None, (failures, run.last("failed"))
    assert len(during) == chats and all(live and finish in ("stop", "length") for live, finish in during)
    return run, (run.adapter / "adapter_model.safetensors").read_bytes()


def test_chats_during_a_run_leave_its_weights_as_they_would_be(
    tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tally: Callable[..., None]
) -> None:
    config = build({"max_steps": 60, "lora_dropout": 0.1, "save_steps": 7}, tiny_config)
    quiet, expected = trained(tmp_path / "quiet", config, monkeypatch, 0)
    noisy, found = trained(tmp_path / "noisy", config, monkeypatch, CHATS)
    losses = [[e["loss"] for e in one.events if e["type"] == "step"] for one in (quiet, noisy)]
    assert len(losses[1]) == 60
    tally("sampled chats during a run: its weights against those of a quiet one", cases=CHATS,
          wrong=int(found != expected or losses[0] != losses[1]))  # fmt: skip
