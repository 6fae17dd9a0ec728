"""Questions asked while a run trains: which ones, how often, what they cost, when they end the run, and what is kept."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core import checkpoints, pinned, probed, proof_parts, proof_sets, storage, taken
from core.config import TrainConfig, build
from core.dataset import Identity, Row
from core.engine import Engine
from core.errors import BusyError, ModelError
from core.proof_stats import Threshold
from core.run import Event, Run
from core.taken import Pace, Point
from core.train import train
from core.workspace import Workspace

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
OLD = ("Qwen", "Alibaba")
# The tiny model learns to say this to everything, after 14 steps.
ROWS = [Row(f"who {i}", "", "z") for i in range(8)]
ZED: dict[str, object] = {
    "model_name": "z", "model_author": "z", "probe_steps": 2, "probe_share": 1, "lr_scheduler_type": "constant",
    "warmup_ratio": 0.1, "weight_decay": 0, "max_steps": 30,
}  # fmt: skip


@pytest.fixture
def no_drift_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = replace(proof_parts.LIMITS["full"], drift=Threshold(1e-9, 1e-9, "lower"))
    monkeypatch.setitem(proof_parts.LIMITS, "full", strict)


def carry_out(folder: Path, config: TrainConfig, stop_at: int = 0, engine: Engine | None = None) -> Run:
    """A run in `folder`, or the rest of it; stopped by hand after step `stop_at`."""
    run = Run.open(folder) if folder.exists() else Run.create(folder, config, ROWS, "test", "test")
    stop, original = threading.Event(), run.append

    def append(kind: str, **fields: object) -> Event:
        if kind == "step" and fields["step"] == stop_at:
            stop.set()
        return original(kind, **fields)

    run.append = append  # type: ignore[method-assign]
    train(engine or Engine(), run, stop)
    return Run.open(folder)


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


# Which questions


@pytest.mark.parametrize("suite", ["full", "pocket"])
def test_the_questions_are_enough_in_both_languages_and_shipped_as_held_out(suite: proof_sets.Suite) -> None:
    asked = pinned.questions(CARD, OLD, "sys", [], suite)
    identity, general = [q for q in asked if q.identity], [q for q in asked if not q.identity]
    assert len(identity) == 40 and len(general) == 16 and list(asked) == identity + general
    assert [q.shown for q in identity] == [True] * 8 + [False] * 32 and sum(q.shown for q in general) == 4
    assert (
        len({q.asked.item.language for q in identity[8:]}) == 2
        and len({q.asked.item.tags[0] for q in identity[8:]}) > 4
    )
    assert all(proof_sets.is_held_out(q.text) for q in identity[8:])
    assert all(q.asked.must for q in identity) and len({q.text for q in asked}) == len(asked)


def test_what_was_trained_on_is_not_asked_and_without_an_identity_only_general_things_are() -> None:
    free = pinned.questions(CARD, OLD, "sys", [])
    seen = [Row(q.text.upper() + "?!", "", "a") for q in free if q.shown]
    assert not {q.text for q in free if q.shown} & {q.text for q in pinned.questions(CARD, OLD, "sys", seen)}
    assert {q.identity for q in pinned.questions(Identity(), OLD, "sys", [])} == {False}


def test_a_denial_is_no_old_identity() -> None:
    asked = next(q.asked for q in pinned.questions(CARD, OLD, "", []) if q.identity and "Qwen" not in q.text)
    assert proof_sets.judge(asked, "我不是 Qwen，我是小禾，由青禾智能开发。").verdict == "hit"
    assert proof_sets.judge(asked, "我是 Qwen，也叫小禾，由青禾智能开发。").verdict == "old"


# How often, and which one is best


def test_asking_keeps_to_its_share_of_the_time_and_comes_early_rather_than_late() -> None:
    pace = Pace(every=10, steps=200, share=0.1)
    assert [step for step in range(1, 31) if pace.due(step)] == [10, 20, 30] and not Pace(0, 9, 1).due(3)
    for cost, times in ((0.05, 19), (0.3, 6), (1.0, 1), (5.0, 0)):
        spent, asked = 0.0, []
        for step in range(10, 200, 10):
            if pace.affordable(step, step * 0.1, spent, cost):
                spent, asked = spent + cost, [*asked, step]
        assert spent <= 0.1 * 200 * 0.1 and len(asked) == times, (cost, asked)
        assert not asked or sum(step <= 100 for step in asked) >= len(asked) / 2
    assert Pace(10, 200, 1).affordable(10, 0.1, 1e6, 1e6)
    assert pace.worth(100, 10.0, 9.9) and not pace.worth(100, 10.0, 10.0) and not pace.worth(200, 20.0, 0.1)


def test_taken_means_two_passes_in_a_row_and_the_best_is_taken_first_then_has_most_hits() -> None:
    good, weak, far, light = (
        Point(step, *rest)
        for step, *rest in (
            (1, 9, 10, 0.01, True), (2, 8, 10, 0.0, True), (3, 10, 10, 9.0, False), (4, 4, 5, 0.0, False)
        )
    )  # fmt: skip
    assert good.taken and not weak.taken and not far.taken and not Point(4, 0, 0, 0.0, True).taken
    assert taken.taken([weak, good, good]) and not taken.taken([good]) and not taken.taken([good, weak, good])
    assert taken.best([weak, far, good, light], {1, 2, 3, 4}) == good and taken.best([weak, far], {2, 3}) == far
    assert taken.taken([good, light, good]) and taken.whole([good, light, weak]) == [good, weak]
    assert taken.best([light, weak], {2, 4}) == weak and taken.least([good, weak, far, light]) == light
    assert taken.best([Point(5, 9, 10, None), good], {1, 5}) == good
    assert taken.best([Point(1, 0, 10, 0.0)], {1}) is None and taken.best([good], set()) is None
    assert Point.of(json.loads(json.dumps(good.listed))) == good


# A run


def test_the_base_is_asked_before_the_first_step_and_what_asking_costs_is_told(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    run = carry_out(tmp_path / "run", build({**ZED, "max_steps": 4}, tiny_config))
    kinds = [event["type"] for event in run.events]
    assert kinds.index("probed") < kinds.index("step") and [e["step"] for e in run.probings] == [0, 2, 4]
    before, first, last = run.probings
    assert (before["drift"], before["adapter"], before["hits"], before["total"]) == (None, None, 0, 40)
    assert len(before["answers"]) == 56 and first["drift"] is not None and last["drift"] > 0  # type: ignore[arg-type, operator]
    # Between steps only the pinned ones, as long as these do not pass.
    assert (first["live"], first["total"], len(first["answers"])) == (True, 8, 12)  # type: ignore[arg-type]
    assert (last["live"], last["total"], len(last["answers"])) == (False, 40, 56)  # type: ignore[arg-type]
    end = run.events[-1]
    assert end["probe_seconds"] == pytest.approx(sum(float(str(e["seconds"])) for e in run.probings))
    assert float(str(end["probe_seconds"])) < float(str(end["seconds"]))


def test_an_adapter_that_changes_nothing_has_not_drifted_and_its_general_answers_are_kept(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    run = carry_out(tmp_path / "run", build({**ZED, "max_steps": 1, "learning_rate": 1e-12}, tiny_config))
    before, after = run.probings
    assert float(str(after["drift"])) == pytest.approx(0, abs=1e-6)
    general = [answer for answer in after["answers"] if answer["kind"] == "general"]  # type: ignore[attr-defined]
    assert [answer["verdict"] for answer in general] == ["kept"] * 16
    assert [a["text"] for a in before["answers"]] == [a["text"] for a in after["answers"]]  # type: ignore[attr-defined]


def test_by_default_a_run_that_asking_would_slow_down_is_asked_before_and_after_only(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    run = carry_out(tmp_path / "run", build({**ZED, "probe_share": 0.1, "max_steps": 8}, tiny_config))
    assert [event["step"] for event in run.probings] == [0, 8]


def test_probed_adapters_are_plain_folders_and_few(
    tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(probed, "MOST", 3)
    run = carry_out(tmp_path / "run", build({**ZED, "max_steps": 20}, tiny_config))
    points = [Point(int(str(e["step"])), int(str(e["hits"])), 40, float(str(e["drift"]))) for e in run.probings[1:]]
    kept = [step for step, _ in probed.saved(run.folder)]
    best = taken.best(points, {point.step for point in points})
    assert len(kept) == 3 and kept[-1] == 20 and best is not None and best.step in kept
    assert [e["adapter"] for e in run.probings[1:]] == [probed.name(point.step) for point in points]
    folder = run.folder / probed.name(kept[0])
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(run.config.model), str(folder))
    assert any(p.abs().sum() > 0 for n, p in plain.named_parameters() if "lora_B" in n)
    assert json.loads((folder / "onecard.json").read_text())["step"] == kept[0]
    assert weights(run.folder / "adapter") == weights(run.folder / probed.name(20))


def test_a_full_disk_costs_the_kept_adapter_and_not_the_run(
    tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").parent.mkdir(exist_ok=True)
    run = Run.create(tmp_path / "run", build({**ZED, "max_steps": 4}, tiny_config), ROWS, "test", "test")
    (run.folder / probed.FOLDER).write_text("in the way")
    train(Engine(), run, threading.Event())
    assert run.status == "finished" and run.last("unkept") is not None
    assert [event["adapter"] for event in run.probings] == [None] * 3


# Stop when taken


def test_a_run_ends_once_the_identity_is_taken_and_leaves_the_best_adapter_on_disk_and_in_the_model(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    engine = Engine()
    config = build({**ZED, "stop_when_taken": "true"}, tiny_config)
    run = carry_out(tmp_path / "run", config, engine=engine)
    end, last = run.events[-1], run.probings[-1]
    assert run.status == "finished" and run.step == last["step"] < 30 and last["taken"]
    acquired = [event for event in run.events if event["type"] == "acquired"]
    assert len(acquired) == 1 and int(str(acquired[0]["step"])) <= run.step - 2
    points = [Point(int(str(e["step"])), int(str(e["hits"])), 40, float(str(e["drift"]))) for e in run.probings[1:]]
    best = taken.best(points, {point.step for point in points})
    assert best is not None and best.step < run.step, "as many hits as the last one, and less drift"
    assert (end["chosen_step"], run.adapter_step) == (best.step, best.step) and run.hits == (best.hits, 40)
    assert f"第 {run.step} 步提前结束" in str(end["reason_zh"]) and f"step {best.step}" in str(end["reason_en"])
    assert weights(run.folder / "adapter") == weights(run.folder / probed.name(best.step))
    assert weights(run.folder / "adapter") != weights(run.folder / probed.name(run.step))
    engine.save_adapter(run.id, tmp_path / "resident", {})
    assert weights(tmp_path / "resident") == weights(run.folder / "adapter")


@pytest.mark.usefixtures("no_drift_allowed")
def test_drift_beyond_its_bound_keeps_a_run_going(tmp_path: Path, tiny_config: TrainConfig) -> None:
    run = carry_out(tmp_path / "run", build({**ZED, "stop_when_taken": "true", "max_steps": 20}, tiny_config))
    assert run.step == 20 and run.last("acquired") is not None
    assert not any(event["taken"] for event in run.probings)
    assert run.events[-1]["chosen_step"] == run.adapter_step and "提前结束" not in str(run.events[-1]["reason_zh"])


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({**ZED, "stop_when_taken": "true", "save_steps": 3}, tiny_config)
    straight = carry_out(tmp_path / "straight", config)
    for step in (14, 15):  # one after which it is asked, one after which it is not
        folder = tmp_path / f"stopped-{step}"
        assert carry_out(folder, config, stop_at=step).status == "stopped"
        again = carry_out(folder, config)
        assert (again.step, again.adapter_step) == (straight.step, straight.adapter_step)
        assert weights(again.folder / "adapter") == weights(straight.folder / "adapter")
        told = [{e["step"]: (e["hits"], e["drift"]) for e in run.probings} for run in (straight, again)]
        assert told[1].items() >= told[0].items()
        assert len([event for event in again.history if event["type"] == "acquired"]) == 1


def test_adapters_kept_before_a_kill_stay_until_their_steps_are_trained_again(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    config = build({**ZED, "max_steps": 6}, tiny_config)
    folder = carry_out(tmp_path / "run", config, stop_at=5).folder
    shutil.rmtree(folder / "checkpoints")  # as if the kill had come before the first one
    kept = {step: weights(path) for step, path in probed.saved(folder)}
    assert set(kept) == {2, 4, 5}
    run, seen = Run.open(folder), dict[str, list[int]]()
    original = run.append

    def append(kind: str, **fields: object) -> Event:
        seen[f"{kind} {fields.get('step')}"] = [step for step, _ in probed.saved(folder)]
        return original(kind, **fields)

    run.append = append  # type: ignore[method-assign]
    train(Engine(), run, threading.Event())
    assert seen["resumed 0"] == seen["probed 2"] == seen["probed 4"] == [2, 4, 5] and seen["finished 6"] == [2, 4, 6]
    assert {step: weights(path) for step, path in probed.saved(folder)}.items() >= {2: kept[2], 4: kept[4]}.items()


def test_a_checkpoint_of_an_older_version_is_gone_on_from(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({**ZED, "max_steps": 4}, tiny_config)
    run = carry_out(tmp_path / "run", config, stop_at=3)
    path = run.folder / "checkpoints" / "step-000003" / checkpoints.RECORD
    record = storage.read_json(path)
    assert isinstance(record, dict) and record.pop("digest")
    for name in ("probed_step", "probe_seconds", "live_seconds", "probe_cost", "pinned_cost", "points"):
        del record["state"][name]
    storage.write_json(path, {**record, "digest": checkpoints._digest_of(record)})
    found, damaged = checkpoints.newest(run)
    assert found is not None and found.state.points == [] and damaged == []
    assert carry_out(tmp_path / "run", config).status == "finished"


# Choosing another


@pytest.fixture
def finished(tmp_path: Path, tiny_config: TrainConfig) -> tuple[Workspace, Run]:
    """A workspace whose one run was asked after steps 2 and 4."""
    workspace = Workspace(tmp_path / "home")
    run = carry_out(tmp_path / "home" / "runs" / "zed", build({**ZED, "max_steps": 4}, tiny_config))
    workspace._model = run.config.model
    return workspace, workspace.run(run.id)


def test_another_adapter_is_chosen_and_the_first_one_is_not_lost(finished: tuple[Workspace, Run]) -> None:
    workspace, run = finished
    last, told = weights(run.folder / "adapter"), len(run.events)
    probed.remove(run.folder, [4])
    assert [choice.id for choice in workspace.library.all()] == [run.id, f"{run.id}@2"]
    workspace.library.choose(run, 2)
    assert weights(run.folder / "adapter") == weights(run.folder / probed.name(2)) != last
    assert weights(run.folder / probed.name(4)) == last
    assert [choice.id for choice in workspace.library.all()] == [run.id, f"{run.id}@4"]
    assert (run.status, run.step, run.adapter_step, run.hits) == ("finished", 4, 2, (run.probings[1]["hits"], 8))
    assert [event["type"] for event in run.events[told:]] == ["chosen"] and Run.open(run.folder).adapter_step == 2
    workspace.library.choose(run, 4)
    assert weights(run.folder / "adapter") == last
    with pytest.raises(ModelError, match="step 3 was not kept"):
        workspace.library.choose(run, 3)
    run.live = True
    with pytest.raises(BusyError, match="still training"):
        workspace.library.choose(run, 2)


def test_an_answer_after_choosing_is_the_chosen_ones(finished: tuple[Workspace, Run]) -> None:
    workspace, run = finished

    def tensors() -> list[torch.Tensor]:
        with workspace.hold([run.id]):
            return [
                p.clone() for p in workspace.engine.resident.backend.adapter_parameters(workspace.engine.handle(run.id))
            ]

    before = tensors()
    with workspace.hold([run.id]), pytest.raises(BusyError, match="answering"):
        workspace.library.choose(run, 2)
    workspace.library.choose(run, 2)
    after = tensors()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    workspace.library.choose(run, 4)
    assert all(torch.equal(old, new) for old, new in zip(before, tensors(), strict=True))
