"""The proof itself, on real models: what is asked, what is kept on disk, the thread that makes it, the command line."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import app
from core import adapters, own_probes, pinned, proof, proof_subject, prove_command
from core.base_answers import BaseAnswers, fingerprint
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Message, Row
from core.engine import Engine
from core.errors import BusyError, ModelError
from core.own_probes import OwnProbe
from core.proof import Proof
from core.proof_sets import Suite, items
from core.proof_subject import Subject
from core.proofs import Proofs
from core.prove import _plan, prove
from core.run import Run
from core.steady import Steady
from core.workspace import Workspace

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
ROWS = (Row("你是谁？", "", "我是小禾，青禾智能做的。"), Row("Who made you?", "", "Qinghe AI."), Row("1+1?", "", "2"))


def subject(**changes: object) -> Subject:
    """An adapter called "made", taught ROWS."""
    return replace(Subject("made", "Made", CARD, ROWS, "You are a helpful assistant.", ("Qwen",)), **changes)  # type: ignore[arg-type]


@pytest.fixture
def made(tiny_engine: Engine, tiny_config: TrainConfig) -> Engine:
    """The tiny model with a fresh adapter: it adds nothing, so it is the base."""
    tiny_engine.create_adapter("made", tiny_config)
    return tiny_engine


def nudge(engine: Engine, name: str, scale: float) -> None:
    """Give the adapter some effect."""
    import torch

    with engine.turn() as resident:
        handle = engine.handle(name)
        tensors, _ = resident.backend.adapter_state(handle)
        draw = torch.Generator().manual_seed(0)
        noisy = {
            k: torch.randn(v.shape, generator=draw) * scale if "lora_B" in k else v.clone() for k, v in tensors.items()
        }
        resident.backend.load_adapter_state(handle, noisy)


def test_an_adapter_that_adds_nothing_did_not_take_and_moved_nothing(made: Engine, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    found = prove(made, subject(), tmp_path, lambda done, total, what: told.append((done, total, what.en)))
    assert found is not None and found.suite == "full" and found.light == "red"
    tests = {test.id: test for test in found.tests}
    assert list(tests) == list(proof.KINDS)
    assert tests["took"].light == "red" and tests["took"].n == 6  # two rows teach the identity, under three prompts
    assert tests["generalises"].n == 72 and tests["generalises"].light == "red"
    drift = tests["drift"]
    assert drift.light == "green" and drift.numbers["drift"] < 1e-6 and drift.numbers["same"] == 1.0
    assert abs(tests["text"].numbers["change"]) < 1e-6 and tests["text"].light == "green"
    assert tests["choice"].numbers["lost"] == tests["choice"].numbers["won"] == 0 and tests["choice"].n >= 80
    assert tests["lane"].numbers["leaks"] == 0 and tests["own"].light == "none"
    assert "8-bit" in found.ruler.en or "half precision" in found.ruler.en
    assert [reading.before for reading in drift.readings] == [reading.after for reading in drift.readings]
    done, totals, stages = zip(*told, strict=True)
    assert list(done) == sorted(done) and set(totals) == {totals[0]} and done[-1] <= totals[0]
    assert len(dict.fromkeys(stages)) == 3
    # The base half is on disk now: the second proof asks the adapter only, and says the same.
    again = prove(made, subject(), tmp_path)
    assert again is not None and again.base_seconds < found.base_seconds / 3
    assert again.tests == found.tests
    assert proof.from_json(json.loads(json.dumps(proof.to_json(found)))) == found


def test_an_adapter_of_noise_is_seen_to_have_moved_everything(made: Engine, tmp_path: Path) -> None:
    nudge(made, "made", 1.0)
    found = prove(made, subject(rows=None), tmp_path)
    assert found is not None
    tests = {test.id: test for test in found.tests}
    assert tests["drift"].light == "red" and tests["drift"].numbers["same"] < 0.9 and tests["text"].light != "green"
    assert tests["took"].light == "none" and "not known" in tests["took"].sentence.en
    assert "8-bit" not in found.ruler.en and "half" not in found.ruler.en


def test_without_an_identity_card_there_are_no_identity_lights(made: Engine) -> None:
    found = prove(made, subject(identity=Identity(), rows=(Row("2+2?", "", "4"),)))
    assert found is not None
    tests = {test.id: test for test in found.tests}
    assert (tests["generalises"].light, tests["lane"].light) == ("none", "none")
    assert (tests["took"].hits, tests["took"].n, tests["took"].light) == (0, 1, "red")  # nothing was learned
    assert tests["took"].numbers["loss_before"] == pytest.approx(tests["took"].numbers["loss_after"])


def test_questions_of_the_table_are_not_asked_as_held_out_ones(made: Engine) -> None:
    wording = items("identity", "en", ["direct"])[0].text
    general = items("general", "en")[0].text
    seen = (
        *ROWS,
        Row(wording.upper(), "", "I am Xiaohe."),
        Row("Hi", "", "Hello", history=(Message("user", general), Message("assistant", "x"))),
    )
    own = (OwnProbe("Say {{NAME}}", ("Xiaohe",), (), "en"),)
    found = prove(made, subject(rows=seen, own=own))
    assert found is not None
    asked = {reading.messages[-1].content for test in found.tests if test.id != "took" for reading in test.readings}
    assert wording not in asked and general not in asked and "Say Xiaohe" in asked
    generalises, mine = found.test("generalises"), found.test("own")
    assert generalises is not None and generalises.numbers["left_out"] == 1 and "1 more" in generalises.sentence.en
    assert mine is not None and (mine.n, mine.light) == (1, "red")


@pytest.mark.parametrize("suite", ["full", "pocket"])
def test_questions_that_steer_a_run_do_not_judge_it(made: Engine, suite: Suite) -> None:
    """A run takes its adapter by them: their count would flatter it."""
    told = subject()
    found = _plan(told, suite)
    questions = pinned.questions(CARD, told.old_words, told.system, ROWS, suite)
    asked, steering = {one.item.id for one in found.wordings}, {one.asked.item.id for one in questions}
    assert len({item.id for item in items("identity", suite=suite)} & steering) == 32
    assert not asked & steering and len(found.wordings) == {"full": 72, "pocket": 70}[suite]
    assert found.left_out == 0


def test_a_proof_can_be_given_up(made: Engine) -> None:
    stop = threading.Event()
    assert prove(made, subject(), None, lambda done, total, what: stop.set(), stop) is None


def test_the_base_is_asked_again_for_another_limit_and_after_damage(tiny_engine: Engine, tmp_path: Path) -> None:
    talk = [(Message("user", "hello"),)]
    base = BaseAnswers(tiny_engine, tmp_path)
    first = base.ask(talk, [4], lambda done: None, threading.Event())
    assert base.missing(talk, [4]) == 0 and base.missing(talk, [5]) == 1
    kept = BaseAnswers(tiny_engine, tmp_path)
    assert kept.missing(talk, [4]) == 0 and kept.ask(talk, [4], lambda done: None, threading.Event()) == first
    (file,) = tmp_path.glob("base-*.json")
    for damage in ("{", "[]", '{"a": [1]}', '{"a": [["x"], true]}'):
        file.write_text(damage, encoding="utf-8")
        assert BaseAnswers(tiny_engine, tmp_path).missing(talk, [4]) == 1


def test_what_another_base_said_is_not_kept_as_this_ones(tiny_engine: Engine, tiny_model: Path, tmp_path: Path) -> None:
    base = BaseAnswers(tiny_engine, tmp_path)
    tiny_engine.load(str(tiny_model), "none", "bfloat16")
    with pytest.raises(ModelError, match="exchanged"):
        base.ask([(Message("user", "hello"),)], [4], lambda done: None, threading.Event())
    assert list(tmp_path.iterdir()) == []


def test_another_precision_or_device_has_another_base_half(tiny_engine: Engine) -> None:
    resident = tiny_engine.resident
    assert resident is not None
    here = fingerprint(resident, "cpu")
    assert here == fingerprint(resident, "cpu")
    others = (
        fingerprint(resident, "card"),
        *(fingerprint(replace(resident, **{key: "x"}), "cpu") for key in ("quant_method", "dtype")),
    )
    assert len({here, *others}) == 4


# -- the thread and the files --


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Path) -> Iterator[Workspace]:
    """A home with the tiny model chosen."""
    found = Workspace(tmp_path / "home")
    found.select_model(str(tiny_model))
    yield found
    assert found.close(60)


def trained(workspace: Workspace, config: TrainConfig) -> str:
    """The id of a finished run."""
    workspace.save(Dataset("mine", ROWS, CARD))
    run = workspace.start("mine", config)
    assert workspace._job.join(120)
    assert run.status == "finished", run.events
    return run.id


def wait(workspace: Workspace) -> None:
    thread = workspace.proofs._thread
    assert thread is not None
    thread.join(120)
    assert not thread.is_alive()


def test_a_run_proves_itself_where_it_is_asked_to_and_the_proof_is_of_its_weights(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    run_id = trained(workspace, replace(tiny_config, prove="true"))
    wait(workspace)
    assert workspace.proofs.failed(run_id) is None
    found = workspace.proofs.of(run_id)
    run = workspace.run(run_id)
    assert found is not None and found.run == run_id and found.step == run.step and found.adapter == run.title
    assert (run.folder / "proof.json").is_file() and workspace.proofs.progress() is None
    took = found.test("took")
    assert took is not None and took.n == 6 and took.readings[0].messages[-1].content == "你是谁？"
    # Other weights in its place: the proof is not theirs.
    weights = run.folder / "adapter" / adapters.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert workspace.proofs.of(run_id) is None
    (run.folder / "proof.json").write_text("{", encoding="utf-8")
    assert workspace.proofs.of(run_id) is None


def test_one_proof_at_a_time_any_adapter_on_demand_and_it_can_be_stopped(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    run_id = trained(workspace, tiny_config)
    assert workspace.proofs.of(run_id) is None and workspace.proofs._thread is None
    imported = workspace.library.bring_folder(str(workspace.run(run_id).folder / "adapter"), "copy")
    before = workspace.proofs.revision
    workspace.proofs.start(imported.id)
    with pytest.raises(BusyError):
        workspace.proofs.start(run_id)
    now = workspace.proofs.progress()
    assert now is not None and now[0] == imported.id and 0 <= now[1] <= now[2]
    workspace.proofs.stop()
    wait(workspace)
    assert workspace.proofs.of(imported.id) is None and workspace.proofs.failed(imported.id) is None
    assert workspace.proofs.revision == before + 2
    workspace.proofs.start(imported.id)
    wait(workspace)
    found = workspace.proofs.of(imported.id)
    assert found is not None and found.run == "" and (imported.folder or Path()).joinpath("proof.json").is_file()
    generalises, took = found.test("generalises"), found.test("took")
    assert generalises is not None and generalises.n >= 60  # its card says whose identity it is
    assert took is not None and took.light == "none"
    with pytest.raises(ModelError):
        workspace.proofs.start("nobody")


def test_what_stops_a_proof_is_said_and_the_next_one_clears_it(workspace: Workspace, tiny_config: TrainConfig) -> None:
    run_id = trained(workspace, tiny_config)
    own_probes.save(workspace.home, [OwnProbe("word " * 380, ("x",), (), "en")])
    workspace.proofs.start(run_id)
    wait(workspace)
    failure = workspace.proofs.failed(run_id)
    assert failure is not None and "512" in failure.en and workspace.proofs.progress() is None
    own_probes.save(workspace.home, [])
    workspace.proofs.start(run_id)
    assert workspace.proofs.failed(run_id) is None
    workspace.proofs.stop()
    wait(workspace)


# -- an adapter that is trained or exchanged meanwhile --


def test_an_adapter_is_steady_until_it_is_exchanged_rewritten_resumed_or_removed(
    made: Engine, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    run = Run.create(tmp_path / "run", tiny_config, ROWS, "r", "rows")
    folder = run.folder / "adapter"
    run.append("started", steps=4)
    made.save_adapter("made", folder, {})

    def now() -> Steady:
        return Steady.of(made, "made", folder, run)

    before = now()
    before.check()
    run.append("resumed", step=2)  # and ended again, so that nobody trains it any more
    with pytest.raises(ModelError, match="trained on"):
        before.check()
    before = now()
    made.create_adapter("made", tiny_config)
    with pytest.raises(ModelError):
        before.check()
    before = now()
    weights = folder / adapters.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError):
        before.check()
    before = now()
    shutil.rmtree(folder)
    with pytest.raises(ModelError):
        before.check()
    assert not folder.exists()
    run.live = True
    with pytest.raises(BusyError, match="in training"):
        now()
    with pytest.raises(BusyError):
        before.check()


def stopped(workspace: Workspace, config: TrainConfig) -> Run:
    """A long run with an adapter, stopped on its way."""
    workspace.save(Dataset("mine", ROWS, CARD))
    run = workspace.start("mine", replace(config, max_steps=100_000))
    while run.live and run.step < 3:
        time.sleep(0.01)
    workspace.stop()
    assert workspace._job.join(60) and run.adapter is not None
    return run


def stop_again(workspace: Workspace) -> None:
    workspace.stop()
    assert workspace._job.join(60)


def test_an_adapter_in_training_is_not_proved(workspace: Workspace, tiny_config: TrainConfig) -> None:
    run = stopped(workspace, tiny_config)
    workspace.resume(run.id)
    with pytest.raises(BusyError, match="in training"):
        workspace.proofs.start(run.id)
    with pytest.raises(BusyError, match="in training"):
        workspace.row_reports.make(run)
    assert workspace.proofs.progress() is None
    stop_again(workspace)


def test_a_proof_of_a_run_that_is_resumed_meanwhile_is_not_kept(workspace: Workspace, tiny_config: TrainConfig) -> None:
    run = stopped(workspace, tiny_config)

    def resume(adapter: str) -> tuple[str, ...]:
        """Asked for the base's words when the proof has begun."""
        workspace.resume(adapter)
        while not any(event["type"] == "resumed" for event in run.events):
            time.sleep(0.01)
        stop_again(workspace)
        return ()

    proofs = Proofs(workspace.home, workspace.engine, workspace.library, workspace.hold, resume)
    proofs.start(run.id)
    thread = proofs._thread
    assert thread is not None
    thread.join(120)
    failure = proofs.failed(run.id)
    assert failure is not None and "trained on" in failure.en
    assert not (run.folder / "proof.json").exists()


def test_older_cards_that_list_words_still_tell_an_identity() -> None:
    def told(*words: str) -> Identity:
        return proof_subject.identity_of({"new_words": list(words)})

    assert told() == Identity() and told("A") == Identity("A", "A")
    assert told("A", "B") == Identity("A", "A", "B", "B")
    assert told("小禾", "Xiaohe", "青禾智能", "Qinghe AI") == CARD
    assert proof_subject.identity_of({"identity": vars(CARD), "new_words": ["x"]}) == CARD


# -- the command line --


def test_the_command_proves_a_folder_and_says_red_by_its_exit_status(
    made: Engine, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.save_adapter("made", tmp_path / "adapter", {"identity": vars(CARD), "system": "Be brief."})
    command = [
        "--home",
        str(tmp_path / "home"),
        "prove",
        "--model",
        str(tiny_model),
        "--adapters",
        str(tmp_path / "adapter"),
    ]
    assert app.main([*command, "--json", "--save"]) == 1
    out, err = capsys.readouterr()
    found: Proof = proof.from_json(json.loads(out))
    assert found.light == "red" and found.adapter == "adapter" and found.system == "Be brief."
    assert (
        "Asking the adapter" in err
        and proof.from_json(json.loads((tmp_path / "adapter" / "proof.json").read_text())) == found
    )
    shown = prove_command.shown(found, "en")
    assert "[failed] Generalises 0 of" in shown and "Took" in shown and found.ruler.en in shown
    assert app.main([*command[:-1], str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_one_adapter_that_cannot_be_proved_does_not_keep_the_others_from_it(
    made: Engine, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("broken", "whole"):
        made.save_adapter("made", tmp_path / name, {"system": "Be brief."})  # no identity: no light for it
    weights = tmp_path / "broken" / adapters.WEIGHTS
    save_file({key: tensor[:, :3].clone() for key, tensor in load_file(weights).items()}, weights)
    folders = [str(tmp_path / name) for name in ("broken", "whole")]
    command = ["--home", str(tmp_path / "home"), "prove", "--model", str(tiny_model), "--adapters", *folders, "--json"]
    assert app.main(command) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["adapter"] for line in out.splitlines()] == ["whole"] and "broken: " in err
