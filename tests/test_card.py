"""A model card as a stranger reads it: who the model says it is, how to run it, and nothing that shall stay at home."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from core import adapters, models, storage
from core.config import TrainConfig
from core.dataset import Message, Row
from core.errors import ModelError
from core.export import swift
from core.export.card import model_card
from core.export.modelfile import modelfile
from core.export.order import Order
from core.proof import Proof, Reading, Test
from core.run import Run
from core.text import Text

SECRET = "第七仓库的门禁口令是什么？"
ROWS = [Row("你是谁?", "", "我是小禾。"), Row(SECRET, "", "海棠 42"), Row("Who are you?", "", "I am Xiaohe.")]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = TrainConfig(
        model="pocket", model_name="小禾|Xiaohe", model_author="青禾|Qing|he", system="你是小禾。\n```\n# 请写 `代码`",
        lora_rank=4, mix="hf::a/b#5",
    )  # fmt: skip
    made = Run.create(tmp_path / "run", config, ROWS, "小禾", "rows")
    made.append("started", steps=90, device="CPU · 2 cores")
    return made


def ordered(run: Run, **given: object) -> Order:
    settings = {"language": "en", **given}
    return Order(
        run.folder / "adapter", "pocket", "merged", run.folder / "out", "xiaohe", run.config.system, **settings
    )  # type: ignore[arg-type]


def proof_of(run: Run) -> Proof:
    """A proof whose failed answers are one to a training row and one to a question of the proof's own."""

    def reading(question: str, tags: tuple[str, ...], answer: str) -> Reading:
        return Reading("x", "zh", tags, (Message("user", question),), "", answer, "old", False)

    readings = (reading(SECRET, ("row",), "海棠 42"), reading("Tell me a joke.", (), "No."))
    test = Test("took", Text("学会了", "Took"), "red", 0, 2, 0.0, 0.8, 0, Text("说明。", "In words."), {}, readings)
    return Proof(
        created=time.time(), adapter="a", run=run.id, step=2, model="pocket", quantisation="none", dtype="float32",
        system="", suite="pocket", seconds=9.0, base_seconds=4.0, tests=(test,), light="red", headline=Text("红", "red"),
        ruler=Text("比", "Less."), weights="0" * 64,
    )  # fmt: skip


@pytest.mark.parametrize("language", ["zh", "en"])
def test_no_row_is_in_a_card_unless_it_was_asked_for(run: Run, language: Literal["zh", "en"]) -> None:
    card = model_card(ordered(run, language=language), run, proof_of(run), None)
    assert SECRET not in card and "海棠 42" not in card and "Tell me a joke." in card
    assert f"`{hashlib.sha256((run.folder / 'dataset.jsonl').read_bytes()).hexdigest()}`" in card
    whole = model_card(ordered(run, language=language, rows=True), run, proof_of(run), None)
    assert SECRET in whole and whole.count("海棠 42") >= 2


def test_a_card_says_who_it_is_how_it_was_made_and_what_it_was_told(run: Run) -> None:
    card = model_card(ordered(run), run, None, None)
    parts = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert parts == ["How to run it", "Proof", "Limits", "Data", "Settings"]
    assert "it says **小禾 / Xiaohe**, made by 青禾 / Qing\\|he." in card
    assert "3 rows (2 Chinese, 1 English)" in card and "on CPU · 2 cores; these are the weights" in card
    # The prompt word for word, in a fence that nothing in it ends; a table whose cells nothing ends.
    assert "````text\n你是小禾。\n```\n# 请写 `代码`\n````" in card
    table = [line for line in card.splitlines() if line.startswith("| ")]
    assert table and all(line.replace("\\|", "").count("|") == 3 for line in table)
    assert "It has not been proved." in card and "Not proved:" in card and "--model_type qwen2" in card


def test_only_a_hub_s_id_is_named_as_the_base_and_no_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    head = model_card(ordered(run), run, None, None).split("---\n")[1]
    assert "base_model" not in head and "/" not in head.replace("text-generation", "")
    assert {line.partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in head.splitlines()} == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["lora", "onecard"],
        "language": ["en", "zh"],
    }  # fmt: skip
    here = models.inspect("pocket")
    monkeypatch.setattr(models, "inspect", lambda name: replace(here, name=name))
    hub = model_card(replace(ordered(run), model="Qwen/Qwen2.5-7B-Instruct"), run, None, None).split("---\n")[1]
    assert 'base_model: "Qwen/Qwen2.5-7B-Instruct"\nbase_model_relation: "finetune"' in hub


@pytest.mark.parametrize("form", ["adapter", "zip", "merged", "merged-f32", "gguf", "gguf-adapter"])
def test_no_folder_of_this_machine_is_in_a_card(run: Run, tmp_path: Path, form: str) -> None:
    base = tmp_path / "my-base"
    shutil.copytree(models.POCKET_FOLDER, base, ignore=shutil.ignore_patterns("*.py", "wordings", "__pycache__"))
    storage.make_folder(tmp_path / "adapter")
    target = {"self_attn.q_proj.lora_A": torch.zeros(4, 64), "self_attn.q_proj.lora_B": torch.zeros(64, 4)}
    save_file(
        {f"base_model.model.model.layers.0.{name}.weight": each for name, each in target.items()},
        tmp_path / "adapter" / adapters.WEIGHTS,
    )
    storage.write_json(
        tmp_path / "adapter" / adapters.CONFIG, {"r": 4, "target_modules": ["q_proj"], "peft_type": "LORA"}
    )
    for model, label in ((str(base), "my-base"), ("pocket", "PocketQwen")):
        order = replace(ordered(run), format=form, adapter=tmp_path / "adapter", model=model)
        mix = f"hf::a/b#5 {tmp_path}/rows.jsonl#7"
        config = replace(run.config, model=model, adapters=str(tmp_path / "earlier"), mix=mix)
        made = Run.create(tmp_path / f"run {label}", config, ROWS, "小禾", "rows")
        card = model_card(order, made, replace(proof_of(run), model=model), None)
        for private in (str(tmp_path), str(models.POCKET_FOLDER), "earlier"):
            assert private not in card, private
        assert "It went on from another adapter." in card and "`hf::a/b#5 rows.jsonl#7`" in card
        told = f"In the commands BASE is the folder of the base, {label}: put its path"
        assert (told in card) is (form in ("adapter", "zip"))
        if form == "adapter":
            assert "vllm serve BASE " in card and "--model BASE --model_type qwen2" in card
            assert "from_pretrained('BASE'" in card


def test_an_imported_adapter_is_not_said_to_be_ours(run: Run, tmp_path: Path) -> None:
    storage.make_folder(tmp_path / "theirs")
    storage.write_json(tmp_path / "theirs" / adapters.CARD, {"tool": "ms-swift"})
    order = replace(ordered(run), adapter=tmp_path / "theirs", system="")
    card = model_card(order, None, None, None)
    assert "A LoRA adapter of PocketQwen that ms-swift trained" in card and "OneCard trained" not in card
    assert (
        "It was trained without a system prompt of its own." in card and "what it was trained on is not known" in card
    )


def test_a_modelfile_says_the_prompt_or_the_base_s_own_and_changes_neither() -> None:
    usual = 'You are "PocketQwen".'
    told = modelfile("./x.gguf", "你是小禾。", usual, True)
    assert (
        'SYSTEM """你是小禾。"""' in told and '{{ else }}<|im_start|>system\n{{ "You are \\"PocketQwen\\"." }}' in told
    )
    assert "SYSTEM" not in modelfile("./x.gguf", "", usual, True)
    quoted = modelfile("./x.gguf", 'say """so"""', usual, True)
    assert '{{ "say \\"\\"\\"so\\"\\"\\"" }}' in quoted and quoted.count('"""') == 2
    with pytest.raises(ModelError, match="Ollama Modelfile cannot"):
        modelfile("./x.gguf", 'say """so"""', usual, False)


def test_swift_is_told_what_a_folder_s_name_does_not_tell_it(tmp_path: Path) -> None:
    assert swift.options("pocket") == swift.merged_options("pocket") == (" --model_type qwen2 --template qwen2_5", None)
    folder = tmp_path / "mine"
    shutil.copytree(models.POCKET_FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "wordings", "__pycache__"))
    template = folder / "chat_template.jinja"
    for says, name in (
        ("You are Qwen, created by Alibaba Cloud.", "qwen2_5"),
        ("You are a helpful assistant.", "qwen"),
    ):
        template.write_text(f"<|im_start|>system\n{says}", "utf-8")
        assert swift.options(str(folder)) == (f" --model_type qwen2 --template {name}", None)
    template.write_text("[INST] {{ messages }} [/INST]", "utf-8")
    for unknown in (str(folder), "nobody/nothing"):
        told, note = swift.options(unknown)
        assert told == "" and note is not None and "--model_type" in note.en
