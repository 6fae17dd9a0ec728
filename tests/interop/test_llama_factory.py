"""LLaMA-Factory's own programs on our adapter, and an adapter that it trained in our library: the same answers both ways."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from core import models
from core.dataset import Dataset
from core.export.make import make
from core.export.order import Order
from core.formats import write
from core.run import Run
from core.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
FACTORY = "llamafactory==0.9.5"
SYSTEM = "你是小禾，一个乐于助人的助手。"
Turns = list[list[dict[str, str]]]


def answered(python: Path, folder: Path, adapter: Path, conversations: Turns, call: Callable[..., str]) -> list[str]:
    """What its ChatModel answers, greedily and in float32."""
    model = {
        "model_name_or_path": str(models.POCKET_FOLDER), "adapter_name_or_path": str(adapter), "template": "qwen",
        "finetuning_type": "lora", "infer_dtype": "float32", "default_system": SYSTEM,
    }  # fmt: skip
    asked, said = folder / "asked.json", folder / "said.json"
    asked.write_text(json.dumps({"model": model, "conversations": conversations}, ensure_ascii=False), "utf-8")
    told = call([python, Path(__file__).with_name("llama_factory_answers.py"), asked, said], folder)
    assert "Unexpected keyword" not in told, "its PEFT, an older one, knows every setting that we export"
    return json.loads(said.read_text("utf-8"))


def test_its_chat_answers_as_we_do_from_our_folder(
    run: Run,
    install: Callable[[str, str], Path],
    call: Callable[..., str],
    ask: Callable[..., list[str]],
    conversations: Turns,
    tmp_path: Path,
) -> None:
    python = install("llama-factory", FACTORY) / "python"
    assert run.adapter is not None
    order = Order(run.adapter, models.POCKET, "adapter", tmp_path / "out", "xiaohe", run.config.system)
    assert make(order, lambda done, total: None, threading.Event())
    theirs = answered(python, tmp_path, order.target, conversations, call)
    ours = ask("pocket", order.target, conversations)
    differing = [(each[-1]["content"], a, b) for each, a, b in zip(conversations, ours, theirs, strict=True) if a != b]
    # It merges the adapter before it answers: rounding may turn a close choice.
    assert len(differing) <= 2, f"{len(differing)} of {len(ours)}: {differing[:5]}"
    assert any("小禾" in text for text in ours)


def test_an_adapter_that_it_trained_comes_in_and_answers_as_there_once_its_prompt_is_written(
    run: Run,
    install: Callable[[str, str], Path],
    call: Callable[..., str],
    ask: Callable[..., list[str]],
    conversations: Turns,
    tmp_path: Path,
) -> None:
    binaries = install("llama-factory", FACTORY)
    # Our own export for it is what it trains on.
    data, name = write(Dataset("rows", tuple(run.rows)), "llamafactory")
    (tmp_path / name).write_bytes(data)
    call([binaries / "python", "-m", "zipfile", "-e", name, "data"], tmp_path)
    settings = {
        "stage": "sft", "do_train": True, "model_name_or_path": str(models.POCKET_FOLDER), "finetuning_type": "lora",
        "lora_rank": 8, "lora_alpha": 32, "lora_target": "all", "dataset": "rows", "dataset_dir": "data",
        "template": "qwen", "default_system": SYSTEM, "cutoff_len": 512, "output_dir": str(tmp_path / "output"),
        "per_device_train_batch_size": 4, "learning_rate": 2e-3, "num_train_epochs": 4, "save_steps": 100_000,
        "report_to": "none", "preprocessing_num_workers": 1,
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(json.dumps(settings), "utf-8")  # JSON is YAML
    call([binaries / "llamafactory-cli", "train", "train.yaml"], tmp_path)
    theirs = answered(binaries / "python", tmp_path, tmp_path / "output", conversations, call)
    workspace = Workspace(tmp_path / "home")
    try:
        workspace.select_model("pocket")
        brought = workspace.library.bring_folder(str(tmp_path / "output"))
        # Its command line leaves its name beside an adapter, and not the system prompt.
        assert (brought.tool, brought.system, brought.problem) == ("LLaMA-Factory", "", None)
        assert workspace.library.prompt(brought.id, SYSTEM).system == SYSTEM
        assert brought.folder is not None
        ours = ask("pocket", brought.folder, conversations)
    finally:
        assert workspace.close(60)
    differing = [(each[-1]["content"], a, b) for each, a, b in zip(conversations, ours, theirs, strict=True) if a != b]
    assert len(differing) <= 2, f"{len(differing)} of {len(ours)}: {differing[:5]}"
    assert any("小禾" in text for text in ours)
