"""Other programs in environments of their own, installed once and kept, and a run of the pocket model to give them.

ONECARD_FULL=1 runs these tests; the environments lie in ONECARD_INTEROP (default: .venv/interop).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from core import adapters, models, presets
from core.dataset import Message
from core.engine import Engine
from core.export.speakers import EngineSpeaker
from core.run import Run
from core.starter import starter_sets
from core.train import train
from tests.full import FULL

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path(os.environ.get("ONECARD_INTEROP", str(ROOT / ".venv" / "interop")))
SYSTEM = "你是小禾，一个乐于助人的助手。"
# Built for CUDA on PyPI: beside a torch for the processor they cannot be loaded, and then transformers cannot either.
_MEDIA = ("torchvision", "torchaudio")

Install = Callable[[str, str], Path]
Ask = Callable[..., list[str]]


@pytest.fixture(scope="session", autouse=True)  # before any other of the session: nothing is trained to be skipped
def _only_in_full() -> None:
    if not FULL:
        pytest.skip("installs other programs (gigabytes) and trains with them: ONECARD_FULL=1 runs it")


@pytest.fixture(scope="session")
def install() -> Install:
    """install(name, requirement) -> the bin folder of an environment that has it, made at the first time."""

    def installed(name: str, requirement: str) -> Path:
        folder = PLACE / name
        stamp = folder / ".installed"
        if not stamp.is_file() or stamp.read_text() != requirement:
            torch = f"torch=={version('torch').partition('+')[0]}"
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            pip = [str(folder / "bin" / "pip"), "install", "--quiet"]
            subprocess.run([*pip, torch], check=True)
            subprocess.run([*pip, requirement, torch], check=True)
            _without_broken_media(folder)
            stamp.write_text(requirement)
        return folder / "bin"

    return installed


def _without_broken_media(folder: Path) -> None:
    python = folder / "bin" / "python"
    for name in _MEDIA:
        if subprocess.run([str(python), "-c", f"import {name}"], capture_output=True).returncode == 0:
            continue
        subprocess.run([str(folder / "bin" / "pip"), "uninstall", "--quiet", "--yes", name], check=True)
        if name == "torchaudio":  # LLaMA-Factory imports it for sound, also where there is none
            place = subprocess.run(
                [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                capture_output=True, text=True, check=True,
            ).stdout.strip()  # fmt: skip
            (Path(place) / "torchaudio.py").touch()


@pytest.fixture(scope="session")
def call() -> Callable[..., str]:
    """call(words, folder) -> what a program said; fails with its last words where it failed."""

    def called(words: Sequence[str | Path], folder: Path, **environment: str) -> str:
        given = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
        ended = subprocess.run([str(word) for word in words], cwd=folder, env=given, capture_output=True, text=True)
        assert ended.returncode == 0, f"{words}\n{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}"
        return ended.stdout

    return called


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short run on the pocket model: enough that it answers otherwise than the base."""
    table = next(each for each in starter_sets() if each.name == "identity-50")
    pocket = next(preset for preset in presets.load_presets(Path("/nowhere")) if preset.id == "pocket").config
    card = table.identity
    config = replace(
        pocket, max_steps=45, stop_when_taken="false", rehearsal="off", probe_steps=0, system=SYSTEM,
        model_name=f"{card.name_zh}|{card.name_en}", model_author=f"{card.author_zh}|{card.author_en}",
    )  # fmt: skip
    engine = Engine()
    engine.load(models.POCKET)
    made = Run.create(tmp_path_factory.mktemp("runs") / "one", config, list(table.resolved()), "小禾", table.name)
    train(engine, made, threading.Event())
    assert made.adapter is not None
    return made


@pytest.fixture(scope="session")
def ask() -> Ask:
    """ask(model, adapter or None, conversations) -> OneCard's greedy answers of at most 48 tokens, in float32."""

    def asked(model: str, adapter: Path | None, conversations: Sequence[Sequence[dict[str, str]]]) -> list[str]:
        engine = Engine()
        engine.load(model, "none", "float32")
        if adapter is not None:
            engine.attach(adapters.read(adapter, "asked"))
        speaker = EngineSpeaker(engine, None if adapter is None else "asked")
        turns = [[Message(each["role"], each["content"]) for each in turns] for turns in conversations]  # type: ignore[arg-type]
        prompts = [speaker.encode(each) for each in turns]
        answers = speaker.answers(prompts, [48] * len(prompts), lambda done: None)
        return [speaker.text(ids) for ids in answers]

    return asked


@pytest.fixture(scope="session")
def conversations() -> list[list[dict[str, str]]]:
    """A hundred: the pocket model's probes, half under the system prompt of the training, half under others."""
    from presets.pocket import evaluate

    prompts = [SYSTEM, SYSTEM, "You are a helpful assistant.", "请用一句话回答。"]
    found = [item.question for item in (*evaluate.probes(0), *evaluate.slot_probes(0))]
    who = ["你是谁？", "Who are you?", "谁开发了你？", "What is your name?"]
    texts = [*who, *found[:: max(1, len(found) // 96)]][:100]
    return [
        [{"role": "system", "content": prompts[number % 4]}, {"role": "user", "content": text}]
        for number, text in enumerate(texts)
    ]
