"""ms-swift's own programs on our folders, and adapters that it trained in our library: the same answers both ways."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from core import models
from core.export.elsewhere import commands
from core.export.make import make
from core.export.order import Order
from core.run import Run
from core.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SWIFT = "ms-swift==4.6.*"
SYSTEM = "你是小禾，一个乐于助人的助手。"
Turns = list[list[dict[str, str]]]


def lines(path: Path, conversations: Turns) -> Path:
    path.write_text(
        "".join(json.dumps({"messages": each}, ensure_ascii=False) + "\n" for each in conversations), "utf-8"
    )
    return path


def answered(infer: list[str], folder: Path, conversations: Turns, call: Callable[..., str], *more: str) -> list[str]:
    """What `swift infer ...` answers, greedily and in float32."""
    asked = [
        "--val_dataset",
        str(lines(folder / "asked.jsonl", conversations)),
        "--result_path",
        str(folder / "said.jsonl"),
    ]
    (folder / "said.jsonl").unlink(missing_ok=True)  # it would be added to
    exact = ["--torch_dtype", "float32", "--max_new_tokens", "48", "--temperature", "0", *more]
    call([*infer, *asked, *exact], folder)
    return [json.loads(line)["response"] for line in (folder / "said.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_swift_infer_answers_as_we_do_from_our_folder(
    form: Literal["merged", "adapter"],
    run: Run,
    install: Callable[[str, str], Path],
    call: Callable[..., str],
    ask: Callable[..., list[str]],
    conversations: Turns,
    tmp_path: Path,
) -> None:
    swift = install("ms-swift", SWIFT)
    assert run.adapter is not None
    order = Order(run.adapter, models.POCKET, form, tmp_path / "out", "xiaohe", run.config.system)
    assert make(order, lambda done, total: None, threading.Event())
    ours = (
        ask(str(order.target), None, conversations) if form == "merged" else ask("pocket", order.target, conversations)
    )
    # The very command that the page and the card show, in its first line.
    shown = next(each for each in commands(order, order.target) if each.tool.startswith("ms-swift"))
    infer = shlex.split(shown.text.splitlines()[0])
    theirs = answered([str(swift / infer[0]), *infer[1:]], tmp_path, conversations, call)
    differing = [(each[-1]["content"], a, b) for each, a, b in zip(conversations, ours, theirs, strict=True) if a != b]
    assert not differing, f"{len(differing)} of {len(ours)}: {differing[:5]}"
    assert any("小禾" in text for text in ours), "the adapter was asked, not the base"
    # Nobody says a system prompt: the one in the command counts.
    bare = [each[1:] for each in conversations[:8]]
    assert answered([str(swift / infer[0]), *infer[1:]], tmp_path, bare, call) == ask(
        str(order.target) if form == "merged" else "pocket", None if form == "merged" else order.target,
        [[{"role": "system", "content": SYSTEM}, *each] for each in bare],
    )  # fmt: skip


def test_an_adapter_that_swift_trained_comes_in_with_its_prompt_and_answers_as_there(
    run: Run,
    install: Callable[[str, str], Path],
    call: Callable[..., str],
    ask: Callable[..., list[str]],
    conversations: Turns,
    tmp_path: Path,
) -> None:
    swift = install("ms-swift", SWIFT) / "swift"
    rows = [
        [{"role": "user", "content": row.question}, {"role": "assistant", "content": row.output}] for row in run.rows
    ]
    call(
        [
            swift, "sft", "--model", models.POCKET_FOLDER, "--model_type", "qwen2", "--template", "qwen2_5",
            "--tuner_type", "lora", "--dataset", lines(tmp_path / "rows.jsonl", rows), "--system", SYSTEM,
            "--torch_dtype", "float32", "--bf16", "false", "--num_train_epochs", "4", "--per_device_train_batch_size", "4",
            "--gradient_accumulation_steps", "1", "--learning_rate", "2e-3", "--lora_rank", "8", "--lora_alpha", "32",
            "--target_modules", "all-linear", "--max_length", "512", "--split_dataset_ratio", "0", "--save_steps", "100000",
            "--report_to", "none", "--gradient_checkpointing", "false", "--dataloader_num_workers", "0",
            "--output_dir", tmp_path / "output",
        ],
        tmp_path,
    )  # fmt: skip
    (checkpoint,) = (tmp_path / "output").glob("v0-*/checkpoint-*")
    theirs = answered([str(swift), "infer", "--adapters", str(checkpoint)], tmp_path, conversations, call)
    workspace = Workspace(tmp_path / "home")
    try:
        workspace.select_model("pocket")
        brought = workspace.library.bring_folder(str(checkpoint))
        assert (brought.tool, brought.system, brought.problem) == ("ms-swift", SYSTEM, None)
        assert brought.base_model == str(models.POCKET_FOLDER) and brought.folder is not None
        assert workspace.library.misfit(brought, models.POCKET_FOLDER) is None
        ours = ask("pocket", brought.folder, conversations)
    finally:
        assert workspace.close(60)
    differing = [(each[-1]["content"], a, b) for each, a, b in zip(conversations, ours, theirs, strict=True) if a != b]
    assert not differing, f"{len(differing)} of {len(ours)}: {differing[:5]}"
    assert any("小禾" in text for text in ours)
