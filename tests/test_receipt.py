"""An export of the pocket model is loaded, asked, and says the same; a wrong file is found out; a kill leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core import adapters, models, presets, proof_sets, proof_subject, storage
from core.dataset import Dataset, Message
from core.engine import Engine
from core.errors import ModelError
from core.export import receipt
from core.export.card import receipt_text
from core.export.make import make
from core.export.order import Order
from core.export.retest import load_receipt, retest
from core.export.speakers import llama_cpp_is_here
from core.run import Run
from core.starter import starter_sets
from core.text import Text
from core.train import train
from tests.full import full

ROOT = Path(__file__).resolve().parents[1]
FORMS = [
    ("merged", "f16", 100),
    pytest.param("merged-f32", "f16", 100, marks=full),
    pytest.param("adapter", "f16", 100, marks=full),  # the zip holds the same
    ("zip", "f16", 100),
    ("gguf", "f16", 98),
    pytest.param("gguf", "q8_0", 95, marks=full),
    pytest.param("gguf", "q4_k_m", 60, marks=full),
    ("gguf-adapter", "f16", 98),
    pytest.param("bnb", "f16", 50, marks=full),
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    made = Engine()
    made.load(models.POCKET)
    return made


@pytest.fixture(scope="module")
def run(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short run on the pocket model: enough that it answers otherwise than the base."""
    table: Dataset = next(each for each in starter_sets() if each.name == "identity-50")
    pocket = next(preset for preset in presets.load_presets(Path("/nowhere")) if preset.id == "pocket").config
    card = table.identity
    config = replace(
        pocket, max_steps=45, stop_when_taken="false", rehearsal="off", probe_steps=0,
        model_name=f"{card.name_zh}|{card.name_en}", model_author=f"{card.author_zh}|{card.author_en}",
    )  # fmt: skip
    made = Run.create(tmp_path_factory.mktemp("runs") / "one", config, list(table.resolved()), "小禾", table.name)
    train(engine, made, threading.Event())
    assert made.adapter is not None
    return made


def ordered(run: Run, target: Path, form: str, quantisation: str = "f16", **given: object) -> Order:
    assert run.adapter is not None
    return Order(run.adapter, models.POCKET, form, target, "xiaohe", run.config.system, quantisation, **given)  # type: ignore[arg-type]


def receipt_of(engine: Engine, run: Run, order: Order) -> receipt.Receipt:
    assert run.adapter is not None
    old = models.old_words(models.inspect(models.POCKET))
    subject = proof_subject.of_run(run, run.adapter, run.adapter_step, "tested", old, ())

    @contextmanager
    def hold() -> Iterator[None]:
        engine.load(models.POCKET)
        engine.attach(adapters.read(order.adapter, "tested"))
        yield

    found = retest(engine, subject, order, hold, lambda done, total, what: None, threading.Event())
    assert found is not None
    return found


def needs(form: str) -> None:
    if form.startswith("gguf") and not llama_cpp_is_here():
        if os.environ.get("CI"):
            pytest.fail("llama-cpp-python is not installed")
        pytest.skip("llama-cpp-python is not installed: pip install -e .[gguf]")


@pytest.mark.parametrize(("form", "quantisation", "same"), FORMS)
def test_the_file_answers_as_the_adapter_did(
    form: str, quantisation: str, same: int, engine: Engine, run: Run, tmp_path: Path
) -> None:
    needs(form)
    order = ordered(run, tmp_path / "out", form, quantisation)
    assert make(order, lambda done, total: None, threading.Event())
    (tmp_path / ".out.0123abcd.tmp").mkdir()  # of a test that was killed: a base as GGUF, a receipt half written
    (order.target / f".{receipt.FILE}.0123abcd.tmp").touch()
    found = receipt_of(engine, run, order)
    assert not list(tmp_path.rglob(".*")) and not any(name.startswith(".") for name in found.digests)
    assert (found.light, found.asked, found.prompts_alike) == ("green", 100, 100), found.why.en
    assert found.same >= same and found.identity[2] >= 40 and found.identity[0] >= 20
    assert found.read > 100 and 0 <= found.drift < 0.2 and found.apart >= 0
    assert all(each.gap is None for each in found.answers if each.whole)
    assert all(each.gap is None or each.gap >= 0 for each in found.answers)
    assert load_receipt(order.target) == found
    rows = [each for each in found.answers if each.question.startswith("row-")]
    assert rows and not any(each.before or each.after for each in rows), "the words of training rows stay at home"
    next(path for path in order.target.iterdir() if path.suffix in (".gguf", ".safetensors", ".zip")).write_bytes(b"x")
    assert load_receipt(order.target) is None, "it is of another file now"


def test_a_file_that_cannot_be_asked_here_is_made_and_its_receipt_says_why(
    engine: Engine, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["core.export.retest"], "llama_cpp_is_here", lambda: False)
    order = ordered(run, tmp_path / "out", "gguf")
    assert make(order, lambda done, total: None, threading.Event())
    found = receipt_of(engine, run, order)
    assert (found.light, found.asked, found.answers) == ("none", 0, ()) and "llama-cpp-python" in found.why.en
    assert load_receipt(order.target) == found


def test_a_file_of_another_model_is_found_out(engine: Engine, run: Run, tmp_path: Path) -> None:
    order = ordered(run, tmp_path / "out", "merged")
    assert make(order, lambda done, total: None, threading.Event())
    shutil.copyfile(models.POCKET_FOLDER / "model.safetensors", order.target / "model.safetensors")
    found = receipt_of(engine, run, order)
    assert found.light == "red" and found.identity[1] < found.identity[0] - 10
    assert any(each.before != each.after for each in found.answers)


def test_where_two_answers_part_is_said_by_how_much_the_file_prefers_its_own_word() -> None:
    class Stubborn:
        """Likes token 3 best and token 2 by `gap` less, at every place."""

        def __init__(self, gap: float) -> None:
            self.gap = gap

        def encode(self, messages: object) -> list[int]:
            return [9]

        def answers(self, prompts: Sequence[object], limits: object, told: object) -> list[list[int]]:
            return [[1, 3, 3] for _ in prompts]

        def logits(self, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
            return torch.tensor([[0.0, 0.0, 5.0 - self.gap, 5.0]]).repeat(len(answer), 1)

        def text(self, ids: Sequence[int]) -> str:
            return str(ids)

    blank = receipt.Receipt("none", Text("", ""), "x", "merged", {}, 1, usual=0.5)
    item = proof_sets.Item("one", "en", "refusal", (), "Hi?")
    asked = proof_sets.Asked(item, (Message("user", "Hi?"),), (), ())
    for answer, gap, near in (((1, 2, 0), 0.05, True), ((1, 2, 0), 2.0, False), ((1,), 0.05, False)):
        said = [receipt.Said(asked, 8, (9,), answer, ""), receipt.Said(asked, 8, (9,), (1, 3, 3), "")]
        made = receipt.compare(said, Stubborn(gap), lambda done: None, blank)
        assert made is not None and (made.same, made.light) == (1, "green")
        first = made.answers[0]
        assert (first.gap is None) == (len(answer) == 1) and first.near is near
        assert first.gap is None or first.gap == pytest.approx(gap, abs=1e-6)
        assert ("1 more chose the other of two words" in made.why.en) is near
        assert receipt.from_json(json.loads(json.dumps(receipt.to_json(made)))).answers == made.answers


def test_another_template_is_found_out(engine: Engine, run: Run, tmp_path: Path) -> None:
    order = ordered(run, tmp_path / "out", "merged")
    assert make(order, lambda done, total: None, threading.Event())
    template = order.target / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("<|im_start|>", "<|im_start|> ", 1), "utf-8")
    found = receipt_of(engine, run, order)
    assert found.light == "red" and found.prompts_alike < 100 and "template" in found.why.en


def test_another_base_of_the_same_shape_is_not_taken_for_the_one_that_was_merged(run: Run, tmp_path: Path) -> None:
    order = ordered(run, tmp_path / "out", "merged")
    assert make(order, lambda done, total: None, threading.Event())
    shutil.copytree(
        models.POCKET_FOLDER, tmp_path / "base", ignore=shutil.ignore_patterns("*.py", "wordings", "__pycache__")
    )
    engine = Engine()
    subject = proof_subject.of_run(run, order.adapter, run.adapter_step, "tested", (), ())

    @contextmanager
    def hold() -> Iterator[None]:
        engine.load(str(tmp_path / "base"))
        engine.attach(adapters.read(order.adapter, "tested"))
        yield

    with pytest.raises(ModelError, match="The base in memory is base, the export was made from PocketQwen"):
        retest(engine, subject, order, hold, lambda done, total, what: None, threading.Event())
    assert not (order.target / receipt.FILE).exists()


def test_a_strength_is_what_was_tested(engine: Engine, run: Run, tmp_path: Path) -> None:
    order = ordered(run, tmp_path / "out", "merged", strength=0.5)
    assert make(order, lambda done, total: None, threading.Event())
    found = receipt_of(engine, run, order)
    assert found.light == "green" and found.same >= 98 and found.read == 0, "logits are read at full strength only"


def test_the_command_writes_the_file_its_receipt_and_a_card(run: Run, tmp_path: Path) -> None:
    assert run.adapter is not None
    command = ["--home", str(tmp_path / "home"), "export", "--adapters", str(run.adapter), "--format", "merged"]
    ended = subprocess.run(
        [sys.executable, "app.py", *command, "--output_dir", str(tmp_path / "out"), "--language", "en", "--json"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "LC_ALL": "en_US.UTF-8"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["receipt"]["light"] == "green" and told["receipt"]["asked"] == 100
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "You are a helpful assistant." in card and "asked 100 questions" in card and "vllm serve out" in card
    assert storage.read_json(tmp_path / "out" / "receipt.json") == told["receipt"]
    again = subprocess.run(
        [sys.executable, "app.py", *command, "--output_dir", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "LC_ALL": "en_US.UTF-8"},
    )  # fmt: skip
    assert again.returncode == 2 and "not empty" in again.stderr and "Traceback" not in again.stderr


# Each point in a child of its own; the libraries are imported once, and have no threads yet when it is made.
_CHILDREN = """
import json, os, resource, sys, threading
from pathlib import Path
import numpy, torch, transformers, safetensors.torch, gguf
import app
from core.export import make, weights, llama_quantize
from core.export.order import Order
adapter, folder, form, points, kind = sys.argv[1:]

def killed(target, at):
    left = at
    def count(done, total):
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
    make.make(Order(Path(adapter), "pocket", form, target, "mine"), count, threading.Event())

def full(target, most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.exit(app.main(["export", "--adapters", adapter, "--format", form, "--no_test", "--output_dir", str(target)]))

for at in json.loads(points):
    target = Path(folder) / str(at) / "out"
    target.parent.mkdir()
    child = os.fork()
    if child == 0:
        globals()[kind](target, at)
        os._exit(0)
    print(at, os.waitpid(child, 0)[1], flush=True)
"""


def children(run: Run, folder: Path, form: str, points: list[int], kind: str) -> tuple[dict[int, int], str]:
    """({point: how its process ended}, what they said)."""
    ended = subprocess.run(
        [sys.executable, "-c", _CHILDREN, str(run.adapter), str(folder), form, json.dumps(points), kind],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "LC_ALL": "en_US.UTF-8"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return {int(at): int(status) for at, status in map(str.split, ended.stdout.splitlines())}, ended.stderr


@pytest.mark.parametrize("form", ["merged", pytest.param("gguf", marks=full)])
def test_killed_anywhere_there_is_no_half_folder(form: str, run: Run, tmp_path: Path) -> None:
    points = [0, 1, 13, 37, 60, 74]
    statuses, _ = children(run, tmp_path, form, points, "killed")
    assert statuses == dict.fromkeys(points, signal.SIGKILL)
    for at in points:
        target = tmp_path / str(at) / "out"
        assert not target.exists()
    assert any((tmp_path / "37").iterdir()), "it was killed in the middle"
    assert make(ordered(run, tmp_path / "37" / "out", form), lambda done, total: None, threading.Event())
    assert [path.name for path in (tmp_path / "37").iterdir()] == ["out"], "what the killed one left is gone"


@pytest.mark.parametrize(
    ("form", "points"), [("merged", [3_000, 100_000, 11_000_000]), ("gguf", [50_000, 9_000_000]), ("zip", [300_000])]
)
def test_a_disk_that_fills_up_leaves_nothing(form: str, points: list[int], run: Run, tmp_path: Path) -> None:
    statuses, said = children(run, tmp_path, form, points, "full")
    assert statuses == dict.fromkeys(points, 2 << 8), said
    assert said.lower().count("disk") >= len(points) and "Traceback" not in said
    for at in points:
        assert list((tmp_path / str(at)).iterdir()) == []


def test_a_true_copy_of_an_adapter_that_learned_nothing_is_not_called_passed() -> None:
    told = receipt.Receipt(
        "green", Text("相同。", "The same."), "f", "merged", {}, 1, asked=100, same=100, identity=(0, 0, 50)
    )
    said = receipt_text(told)
    assert "还没有学会新身份" in said.zh and "has not taken on the new identity" in said.en
    assert "taken on" not in receipt_text(replace(told, identity=(45, 44, 50))).en
    assert receipt.VERDICTS["green"].en == "as tested"


def test_half_of_the_questions_are_about_the_identity() -> None:
    from core.proof_sets import Asked, items

    def many(kind: str, count: int) -> list[tuple[Asked, int]]:
        item = items(kind)[0]  # type: ignore[arg-type]
        return [(Asked(item, (), (), ()), i) for i in range(count)]

    for identity, others in ((200, 300), (10, 300), (200, 10), (0, 300), (30, 20)):
        chosen = receipt.chosen([*many("identity", identity), *many("general", others)])
        assert len(chosen) == min(100, identity + others) and len({id(pair) for pair in chosen}) == len(chosen)
        about = sum(pair[0].item.kind == "identity" for pair in chosen)
        assert about == min(identity, max(50, 100 - others))


def test_the_commands_are_those_of_the_programs(run: Run, tmp_path: Path) -> None:
    from core.export.elsewhere import commands, where_it_lies

    unpack, first, *_ = where_it_lies(ordered(run, tmp_path / "z", "zip"), tmp_path / "z")
    assert unpack.text == f"unzip {tmp_path}/z/xiaohe.zip -d {tmp_path}/z"
    assert f"xiaohe={tmp_path}/z/xiaohe" in first.text
    found = {each.tool: each for each in commands(ordered(run, tmp_path / "a b", "adapter"), tmp_path / "a b")}
    assert "--max-lora-rank 8" in found["vLLM"].text and f"'xiaohe={tmp_path}/a b'" in found["vLLM"].text
    assert "--merge_lora true" in found["ms-swift 4.6"].text
