"""The adapter library: what is brought in is checked, whole and safe; what is listed can be named, used and removed."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from core import adapters, anatomy, intake
from core.attached import Attached
from core.config import TrainConfig
from core.dataset import Identity, Message, Row
from core.engine import Engine
from core.errors import BusyError, ModelError, StorageError, UserError
from core.generate import Column, Sampling
from core.library import AdapterChoice
from core.run import Run
from core.workspace import Workspace

ROWS = (Row("你是谁?", "", "我是{{NAME}}。"),)
CARD = Identity("小禾", "Xiaohe", "青禾", "Qinghe")
QUESTION = (Message("user", "你是谁?"),)


def peft_adapter(model: Path, folder: Path, seed: int = 0, rank: int = 4, **settings: object) -> Path:
    """An adapter folder as PEFT itself makes and saves it, with values that change every answer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    wanted = {"r": rank, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    tuned = get_peft_model(base, LoraConfig(**wanted))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.normal_(0, 0.3)
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain LoRA of rank 4 on the tiny model."""
    return peft_adapter(tiny_model, tmp_path_factory.mktemp("made") / "mine")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(made, tmp_path / "mine"))


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Path) -> Iterator[Workspace]:
    opened = Workspace(tmp_path / "home")
    opened.create("rows", ROWS, CARD)
    opened.select_model(str(tiny_model))
    yield opened
    assert opened.close(60)


def zipped(folder: Path, target: Path, inside: str = "") -> Path:
    """The folder as a zip, below `inside`."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{inside}{path.relative_to(folder)}")
    return target


def left_in(workspace: Workspace) -> list[str]:
    """Everything in the library's folder, hidden or not."""
    return sorted(path.name for path in workspace.library.folder.iterdir())


def answers(workspace: Workspace, *names: str | None, tokens: int = 8) -> list[tuple[int, ...]]:
    columns = [Column(QUESTION, name) for name in names]
    return [tuple(reply.ids) for reply in list(workspace.answer(columns, Sampling(max_new_tokens=tokens)))[-1]]


def change(folder: Path, **settings: object) -> None:
    path = folder / adapters.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def rewrite(folder: Path, changed: Callable[[dict[str, torch.Tensor]], None]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / adapters.WEIGHTS)
    changed(tensors)
    save_file(tensors, folder / adapters.WEIGHTS)


# -- bringing in --


def test_a_folder_that_peft_wrote_is_brought_in_answers_and_survives_a_restart(
    workspace: Workspace, folder: Path
) -> None:
    brought = workspace.library.bring_folder(str(folder))
    assert (brought.id, brought.name, brought.source) == ("mine", "mine", "imported") and brought.body is not None
    body = brought.body
    assert (body.rank, body.alpha, body.kind, len(body.layers)) == (4, 8.0, "LoRA", 14)
    assert body.targets == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert [choice.id for choice in workspace.adapters()] == ["mine"]
    shutil.rmtree(folder)  # a copy was made
    base, tuned = answers(workspace, None, "mine")
    assert base != tuned
    again = Workspace(workspace.home)
    again.select_model(workspace.model)
    assert answers(again, None, "mine") == [base, tuned]
    assert {path.name for path in (workspace.library.folder / "mine").iterdir()} == {
        adapters.CONFIG, adapters.WEIGHTS, adapters.CARD, "README.md",
    }  # fmt: skip


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"use_rslora": True}, {"use_dora": True, "use_rslora": True}])
def test_the_kinds_of_peft_answer_as_peft_computes_them(
    workspace: Workspace, tiny_model: Path, tmp_path: Path, settings: dict[str, bool]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = peft_adapter(tiny_model, tmp_path / "kind", **settings)
    brought = workspace.library.bring_folder(str(folder))
    assert brought.body is not None
    assert brought.body.kind == ("rs" if "use_rslora" in settings else "") + (
        "DoRA" if "use_dora" in settings else "LoRA"
    )
    (ours,) = answers(workspace, brought.id)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder).eval()
    resident = workspace.engine.resident
    assert resident is not None
    prompt = torch.tensor([resident.encoder.prompt(QUESTION)])
    with torch.inference_mode():
        theirs = tuned.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
    length = min(len(ours), 8)
    assert length and tuple(theirs[0, prompt.shape[1] :].tolist())[:length] == ours[:length]


def test_sixteen_bit_weights_and_a_pattern_of_targets_are_taken(
    workspace: Workspace, tiny_model: Path, tmp_path: Path
) -> None:
    pattern = r"model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
    folder = peft_adapter(tiny_model, tmp_path / "vision-style", target_modules=pattern)
    rewrite(folder, lambda tensors: tensors.update({key: value.bfloat16() for key, value in tensors.items()}))
    brought = workspace.library.bring_folder(str(folder))
    # The pattern is never run: its place is taken by the layers that the weights are of.
    kept = json.loads((workspace.library.folder / brought.id / adapters.CONFIG).read_text())["target_modules"]
    assert kept == sorted(f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qv")
    base, tuned = answers(workspace, None, brought.id)
    assert base != tuned


def test_a_checkpoint_of_ms_swift_brings_its_system_prompt(workspace: Workspace, made: Path, tmp_path: Path) -> None:
    run = tmp_path / "output" / "v0-20261122-101500"
    checkpoint = Path(shutil.copytree(made, run / "checkpoint-60"))
    args = {"model": "Qwen/Qwen2.5-7B-Instruct", "template": "qwen2_5", "system": "你是小禾。", "hub_token": "secret-1"}
    (run / "args.json").write_text(json.dumps(args), encoding="utf-8")
    (checkpoint / "args.json").write_text(json.dumps(args), encoding="utf-8")
    (checkpoint / "additional_config.json").write_text('{"lora_dtype": null, "lorap_lr_ratio": null}')
    change(checkpoint, modules_to_save=[], rank_pattern={}, lora_bias=False, eva_config=None)
    for name in ("optimizer.pt", "rng_state.pth", "training_args.bin"):
        (checkpoint / name).write_bytes(b"\x80\x04pickle")
    brought = workspace.library.bring_folder(str(checkpoint))
    assert (brought.name, brought.tool, brought.system) == (
        "v0-20261122-101500-checkpoint-60",
        "ms-swift",
        "你是小禾。",
    )
    assert brought.base_model == "Qwen/Qwen2.5-7B-Instruct"
    # What else lay there stays there, tokens too.
    kept = workspace.library.folder / brought.id
    assert not any(path.suffix in (".pt", ".pth", ".bin") for path in kept.iterdir())
    assert "secret-1" not in "".join(path.read_text(errors="ignore") for path in kept.iterdir())
    # Without a prompt of its own the template's counts; the whole output as a zip does as well.
    for path in (run / "args.json", checkpoint / "args.json"):
        path.write_text(json.dumps({"model": "x", "template": "qwen", "system": None}))
    archive = zipped(run, tmp_path / "swift.zip", "v0/")
    assert workspace.library.bring_zip(archive, "swift.zip").system == "You are a helpful assistant."


def test_a_checkpoint_of_llama_factory_brings_its_system_prompt(
    workspace: Workspace, made: Path, tmp_path: Path
) -> None:
    train = tmp_path / "saves" / "Qwen2.5-7B" / "lora" / "train_2026-11-22-10-15-00"
    shutil.copytree(made, train)
    shutil.copytree(made, train / "checkpoint-50")
    (train / "training_args.bin").write_bytes(b"\x80\x04pickle")
    text = 'model_name_or_path: Qwen/Qwen2.5-7B-Instruct\ntemplate: qwen\ndefault_system: "\\u4F60\\u662F\\u5C0F\\u79BE\\u3002"\n'
    (train / "training_args.yaml").write_text(text)
    brought = workspace.library.bring_folder(str(train))  # the outer one: what it became, not a checkpoint
    assert (brought.tool, brought.system) == ("LLaMA-Factory", "你是小禾。")
    (train / "training_args.yaml").unlink()
    (train / "llamaboard_config.yaml").write_text("top.template: qwen\ntop.model_path: Qwen/Qwen2.5-7B-Instruct\n")
    checkpoint = workspace.library.bring_folder(str(train / "checkpoint-50"))
    assert checkpoint.system.startswith("You are Qwen") and checkpoint.base_model == "Qwen/Qwen2.5-7B-Instruct"
    # What is no settings file of a person's training is passed over, not read for minutes.
    for odd in ("x: 1\n" * 50_001 + "template: qwen\n", "template: qwen\nx: !!bool maybe\n", "x: !!timestamp soon"):
        (train / "llamaboard_config.yaml").write_text(odd)
        assert workspace.library.bring_folder(str(train)).tool == ""


def test_what_llama_factory_s_command_line_leaves_out_can_be_written_in_the_library(
    workspace: Workspace, made: Path, tmp_path: Path
) -> None:
    # It leaves its name in the card, as a tag, and nothing of its settings.
    train = Path(shutil.copytree(made, tmp_path / "sft"))
    tags = "---\nlibrary_name: peft\ntags:\n- llama-factory\n- lora\n---\n\n# sft\n\n---\ntags:\n- x\n"
    (train / "README.md").write_text(tags)
    brought = workspace.library.bring_folder(str(train))
    assert (brought.tool, brought.system) == ("LLaMA-Factory", "")
    assert workspace.library.prompt(brought.id, "  你是小禾。\n").system == "你是小禾。"
    with pytest.raises(ModelError, match="30,000 characters"):
        workspace.library.prompt(brought.id, "长" * 30_000)
    assert workspace.library.get(brought.id).system == "你是小禾。"
    assert workspace.library.get(brought.id).tool == "LLaMA-Factory", "the rest of its card is as it was"
    for odd in ("---\ntags: llama-factory\n---\n", "llama-factory", "---\n: [\n---\n", ""):
        (train / "README.md").write_text(odd)
        assert workspace.library.bring_folder(str(train)).tool == ""


def test_our_own_export_comes_back_with_its_card(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    card = {"system": "你是小禾。", "new_words": ["小禾"], "old_words": ["Qwen"], "note": "best", "step": 60}
    (folder / adapters.CARD).write_text(json.dumps(card), encoding="utf-8")
    brought = workspace.library.bring_zip(zipped(folder, tmp_path / "x.zip", "xiaohe/"), "小禾 V2.zip")
    assert (brought.name, brought.system, brought.note, brought.tool) == ("小禾-v2", "你是小禾。", "best", "OneCard")
    assert workspace.identity_words(brought.id) == (("小禾",), ("Qwen",))


# -- refused --


def nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[sorted(tensors)[5]].view(-1)[3] = float("nan")


def wide(tensors: dict[str, torch.Tensor]) -> None:
    key = next(key for key in sorted(tensors) if "lora_B" in key)
    tensors[key] = torch.zeros(tensors[key].shape[0], 5)


def beside(key: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """One tensor more, that is no LoRA of a linear layer."""
    return lambda tensors: tensors.update({f"base_model.model.{key}": torch.ones(4)})


def to_pickle(folder: Path) -> None:
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin")


def torn(folder: Path) -> None:
    path = folder / adapters.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def lying(folder: Path) -> None:
    path = folder / adapters.WEIGHTS
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    first = next(key for key in header if key != "__metadata__")
    header[first]["shape"] = [10**9, 10**9]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a value that is no number": (lambda f: rewrite(f, nan), r"lora_B.weight in adapter_model.safetensors holds NaN"),
    "an infinite one": (lambda f: rewrite(f, lambda t: t[max(t)].fill_(-torch.inf)), "v_proj.lora_B.weight .* infinite"),
    "another rank": (lambda f: change(f, r=5), r"lora_A must be \(5, 48\) and is \(4, 48\)"),
    "one layer of another rank": (lambda f: rewrite(f, wide), r"lora_B must be .*, 4\)"),
    "half a layer": (lambda f: rewrite(f, lambda t: t.pop(next(k for k in t if "lora_A" in k))), "lora_A, lora_B"),
    "a saved module": (lambda f: rewrite(f, beside("lm_head.weight")), "modules_to_save"),
    "modules to save": (lambda f: change(f, modules_to_save=["lm_head"]), "modules_to_save"),
    "an adapter on embeddings": (lambda f: rewrite(f, beside("model.embed_tokens.lora_embedding_A")), "embeddings"),
    "another method": (lambda f: change(f, peft_type="IA3"), "no usable LoRA"),
    "an endless rank": (lambda f: change(f, r=10**9), "1 to 1024"),
    "ranks by pattern": (lambda f: change(f, rank_pattern={"q_proj": 512}), "rank_pattern"),
    "a base that was changed": (lambda f: change(f, init_lora_weights="pissa"), "init_lora_weights"),
    "a setting of tomorrow": (lambda f: change(f, use_new_thing=True), "use_new_thing"),
    "alpha in words": (lambda f: change(f, lora_alpha="16"), "lora_alpha = '16'"),
    "a number that is none": (lambda f: change(f, lora_alpha=float("nan")), "not valid JSON"),
    "no JSON": (lambda f: (f / adapters.CONFIG).write_text("{"), "no valid JSON|not valid JSON"),
    "JSON without an end": (lambda f: (f / adapters.CONFIG).write_text("[" * 100_000), "not valid JSON"),
    "integers": (lambda f: rewrite(f, lambda t: t.update({k: v.to(torch.int8) for k, v in t.items()})), "type I8"),
    "a pickle": (to_pickle, "pickled"),
    "no weights": (lambda f: (f / adapters.WEIGHTS).unlink(), "lacks adapter_model.safetensors"),
    "no configuration": (lambda f: (f / adapters.CONFIG).unlink(), "no adapter_config.json in it"),
    "a torn file": (torn, "damaged or incomplete"),
    "a header of lies": (lying, "damaged or incomplete"),
    "a header without an end": (lambda f: (f / adapters.WEIGHTS).write_bytes(struct.pack("<Q", 2**62)), "damaged"),
    "an empty file": (lambda f: (f / adapters.WEIGHTS).write_bytes(b""), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("way", ["folder", "zip"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_in_order_is_refused_by_name_and_leaves_nothing(
    workspace: Workspace, folder: Path, tmp_path: Path, name: str, way: str
) -> None:
    spoil, words = BROKEN[name]
    spoil(folder)
    with pytest.raises(ModelError, match=words) as caught:
        if way == "folder":
            workspace.library.bring_folder(str(folder))
        else:
            workspace.library.bring_zip(zipped(folder, tmp_path / "a.zip", "a/"), "a.zip")
    assert left_in(workspace) == [] and ".tmp" not in str(caught.value)


def test_a_path_that_is_no_folder_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in ("", "  ", "/no/such/folder", str(tmp_path / "file")):
        with pytest.raises(ModelError, match="no folder"):
            workspace.library.bring_folder(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no adapter_config"):
        workspace.library.bring_folder(str(tmp_path / "empty"))


def test_a_folder_of_several_adapters_asks_which(workspace: Workspace, made: Path, tmp_path: Path) -> None:
    for step in (10, 20):
        shutil.copytree(made, tmp_path / "run" / f"checkpoint-{step}")
    with pytest.raises(ModelError, match=r"2 adapters in it .*checkpoint-10, checkpoint-20"):
        workspace.library.bring_folder(str(tmp_path / "run"))
    with pytest.raises(ModelError, match="2 adapters"):
        workspace.library.bring_zip(zipped(tmp_path / "run", tmp_path / "r.zip"), "r.zip")


def hostile(made: Path, name: str) -> bytes:
    """A zip of the adapter with one thing wrong."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in made.iterdir():
            archive.write(path, f"a/{path.name}")
        if name == "a way out":
            archive.writestr("a/../../escaped.txt", "x")
        elif name == "a way out, on Windows":
            archive.writestr("a\\..\\..\\escaped.txt", "x")
        elif name == "an absolute path":
            archive.writestr("/tmp/escaped.txt", "x")
        elif name == "a drive":
            archive.writestr("C:/escaped.txt", "x")
        elif name == "a link":
            link = zipfile.ZipInfo("a/link")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/passwd")
        elif name == "a bomb":
            archive.writestr("a/zeros", b"\0" * 20_000_000)
        elif name == "another compression":
            archive.writestr("a/notes", "x", zipfile.ZIP_LZMA)
        elif name == "a file twice":
            with pytest.warns(UserWarning):
                archive.writestr(f"a/{adapters.CONFIG}", "{}")
        elif name == "too many files":
            for number in range(intake.MAX_ENTRIES + 1):
                archive.writestr(f"a/{number}", "")
    return buffer.getvalue()


HOSTILE = [
    "a way out", "a way out, on Windows", "an absolute path", "a drive", "a link", "a bomb", "a file twice",
    "another compression", "too many files",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_that_means_harm_is_refused(workspace: Workspace, made: Path, tmp_path: Path, name: str) -> None:
    archive = tmp_path / "inner" / "a.zip"
    archive.parent.mkdir()
    archive.write_bytes(hostile(made, name))
    before = sorted(path for path in tmp_path.rglob("*") if "home" not in path.parts)
    with pytest.raises(ModelError, match=r"a was not imported"):
        workspace.library.bring_zip(archive, "a.zip")
    assert left_in(workspace) == [] and not Path("/tmp/escaped.txt").exists()
    assert sorted(path for path in tmp_path.rglob("*") if "home" not in path.parts) == before


def test_any_damage_to_an_archive_is_one_sentence(workspace: Workspace, made: Path, tmp_path: Path) -> None:
    whole = zipped(made, tmp_path / "whole.zip").read_bytes()
    spoiled = tmp_path / "spoiled.zip"
    refused = 0
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            spoiled.write_bytes(damaged)
            try:
                brought = workspace.library.bring_zip(spoiled, "spoiled.zip")
            except UserError:
                refused += 1
            else:  # a bit of a file that is not taken, or of a date
                workspace.library.delete(brought.id)
                workspace.library.removed.forget()
            assert left_in(workspace) == []
    assert refused > 100


@pytest.mark.parametrize("way", ["folder", "zip"])
def test_a_full_disk_is_told_as_one_not_as_damage(workspace: Workspace, made: Path, tmp_path: Path, way: str) -> None:
    def fill(done: int, total: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="Disk full"):
        if way == "folder":
            workspace.library.bring_folder(str(made), told=fill)
        else:
            workspace.library.bring_zip(zipped(made, tmp_path / "a.zip"), "a.zip", told=fill)
    assert left_in(workspace) == []


def test_a_locked_archive_is_refused(workspace: Workspace, made: Path, tmp_path: Path) -> None:
    archive = zipped(made, tmp_path / "a.zip")
    data = bytearray(archive.read_bytes())
    at = data.find(b"PK\x01\x02")
    while at >= 0:  # every entry of the directory says that it is encrypted
        data[at + 8] |= 1
        at = data.find(b"PK\x01\x02", at + 4)
    archive.write_bytes(data)
    with pytest.raises(ModelError, match="password"):
        workspace.library.bring_zip(archive, "a.zip")


# -- which base --


def of_three_layers(model: str, folder: Path) -> Path:
    """The tiny model, one layer deeper."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    shutil.copytree(model, folder)
    config = Qwen2Config.from_pretrained(model, num_hidden_layers=3, layer_types=["full_attention"] * 3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_shapes_decide_which_base_an_adapter_is_for(
    workspace: Workspace, folder: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    change(folder, base_model_name_or_path="/root/.cache/modelscope/Qwen/Qwen2___5-7B-Instruct")
    brought = workspace.library.bring_folder(str(folder))
    assert workspace.library.misfit(brought, Path(workspace.model)) is None  # by shapes, whatever it is called
    deeper = of_three_layers(workspace.model, tmp_path / "deeper")
    assert "of 2 layers, this base has 3" in str(workspace.library.misfit(brought, deeper))
    workspace.select_model(str(deeper))
    assert workspace.adapters() == []
    with pytest.raises(ModelError, match="trained for a model of 2 layers"):
        answers(workspace, brought.id)
    assert workspace.engine.attached == ()
    other = anatomy.examine(folder)
    wider = replace(other, layers={**other.layers, "model.layers.0.self_attn.q_proj": (32, 64)})
    assert "32 x 64" in str(anatomy.misfit(wider, Path(tiny_llama)))
    absent = replace(other, layers={"model.layers.7.self_attn.q_proj": (32, 32)})
    assert "no layer model.layers.7" in str(anatomy.misfit(absent, Path(tiny_llama)))


# -- names, notes, removal --


def test_a_renamed_adapter_answers_to_its_id_and_its_new_name(workspace: Workspace, folder: Path) -> None:
    brought = workspace.library.bring_folder(str(folder))
    before = answers(workspace, brought.id)
    renamed = workspace.library.rename(brought.id, " 小禾 / V2 ")
    assert (renamed.id, renamed.name) == ("mine", "小禾-v2")
    assert answers(workspace, "mine") == answers(workspace, "小禾-v2") == before
    assert workspace.engine.attached == ("mine",)  # one adapter, whatever it is called by
    assert workspace.library.annotate("小禾-v2", "  好用 \n").note == "好用"
    again = Workspace(workspace.home).library.get("小禾-v2")
    assert (again.id, again.note) == ("mine", "好用")
    second = workspace.library.bring_folder(str(folder))
    assert second.id == "mine-2"  # an old name is still somebody's id
    for name in ("小禾-V2", "mine", "", "///"):
        with pytest.raises(ModelError):
            workspace.library.rename(second.id, name)
    for name in ("../x", "/etc/passwd", ".", "mine/../mine"):
        with pytest.raises(ModelError, match="no adapter"):
            workspace.library.get(name)


def test_a_slow_import_keeps_nobody_from_renaming_and_finds_its_name_at_the_end(
    workspace: Workspace, folder: Path
) -> None:
    first = workspace.library.bring_folder(str(folder), "first")
    begun, go_on = threading.Event(), threading.Event()

    def wait(done: int, total: int) -> None:
        begun.set()
        assert go_on.wait(20)

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(workspace.library.bring_folder, str(folder), "second", wait)
        try:
            assert begun.wait(20)
            assert pool.submit(workspace.library.rename, first.id, "second").result(5).name == "second"
        finally:
            go_on.set()
        assert slow.result(20).name == "second-2"
    assert left_in(workspace) == ["first", "second-2"]


def test_an_imported_adapter_is_deleted_but_not_while_it_answers(workspace: Workspace, folder: Path) -> None:
    brought = workspace.library.bring_folder(str(folder))
    reading = workspace.answer([Column(QUESTION, brought.id)], Sampling(max_new_tokens=200))
    next(reading)
    assert workspace.library.use(brought) == "answering"
    with pytest.raises(BusyError, match="answering"):
        workspace.library.delete(brought.id)
    reading.close()
    assert workspace.library.use(brought) == "attached"
    workspace.library.delete(brought.id)
    assert workspace.engine.attached == () and workspace.library.all() == []
    with pytest.raises(ModelError, match="no adapter"):
        answers(workspace, brought.id)
    # Brought back it answers again; forgotten, nothing of it is on the disk.
    assert workspace.library.removed.bring_back("adapter").name == brought.name
    assert answers(workspace, brought.id)
    workspace.library.delete(brought.id)
    workspace.library.removed.forget()
    assert left_in(workspace) == []


def test_a_run_goes_on_from_an_imported_adapter_which_stays_until_it_ends(
    workspace: Workspace, folder: Path, tiny_config: TrainConfig
) -> None:
    brought = workspace.library.bring_folder(str(folder))
    config = replace(tiny_config, adapters=brought.name, lora_rank=4, lora_alpha=8, num_train_epochs=400)
    run = workspace.start("rows", config)
    assert run.config.adapters == str(brought.folder)
    assert workspace.library.use(brought) == "training"
    with pytest.raises(BusyError, match="training on"):
        workspace.library.delete(brought.id)
    workspace.stop()
    assert workspace.close(60) and workspace.library.use(brought) != "training"
    workspace.library.delete(brought.id)


def test_runs_and_their_checkpoints_are_listed_named_and_answer(workspace: Workspace, tiny_config: TrainConfig) -> None:
    run = workspace.start("rows", replace(tiny_config, num_train_epochs=25, save_steps=10), "first")
    end = time.monotonic() + 60
    while workspace.active is not None and time.monotonic() < end:
        time.sleep(0.02)
    listed = workspace.library.all()
    assert [(c.id, c.source) for c in listed] == [
        (run.id, "run"), (f"{run.id}@20", "checkpoint"), (f"{run.id}@10", "checkpoint"),
    ]  # fmt: skip
    last, middle, early = answers(workspace, *(choice.id for choice in listed))
    assert len({last, middle, early}) > 1
    renamed = workspace.library.rename(run.id, "小禾")
    workspace.library.annotate("小禾", "第一次")
    assert (renamed.name, workspace.library.get("小禾@20").id) == ("小禾", f"{run.id}@20")
    reopened = Run.open(run.folder)
    assert (reopened.title, reopened.name, reopened.note) == (
        "小禾",
        "小禾",
        "第一次",
    ) and reopened.config == run.config
    for name in (run.id, f"{run.id}@20"):
        with pytest.raises(ModelError, match="delete that on the Train tab"):
            workspace.library.delete(name)
    workspace.delete_run(run.id)
    assert workspace.library.all() == [] and workspace.engine.attached == ()


def test_one_broken_adapter_hides_none_of_the_others(workspace: Workspace, folder: Path) -> None:
    workspace.library.bring_folder(str(folder))
    broken = Path(shutil.copytree(folder, workspace.library.folder / "broken"))  # put there by hand
    torn(broken)
    listed = {choice.id: choice for choice in workspace.library.all()}
    assert set(listed) == {"mine", "broken"} and listed["broken"].body is None
    assert "damaged" in str(listed["broken"].problem) and [c.id for c in workspace.adapters()] == ["mine"]
    with pytest.raises(ModelError, match="damaged"):
        answers(workspace, "broken")


def test_what_a_kill_left_behind_is_swept_up_a_day_later(workspace: Workspace) -> None:
    old, new = workspace.library.folder / ".old.1.tmp", workspace.library.folder / ".new.zip"
    old.mkdir()
    (old / "part").write_text("x")
    new.write_text("another process is at it")
    assert workspace.library.all() == []
    os.utime(old, (0, 0))
    assert Workspace(workspace.home).library.all() == [] and left_in(workspace) == [".new.zip"]


# -- attached when asked for --


@pytest.fixture
def several(workspace: Workspace, tiny_model: Path, tmp_path: Path) -> list[AdapterChoice]:
    """Four imported adapters, each different."""
    made = (peft_adapter(tiny_model, tmp_path / f"a{n}", seed=n) for n in range(4))
    return [workspace.library.bring_folder(str(folder)) for folder in made]


def test_the_least_recently_used_adapter_makes_room(workspace: Workspace, several: list[AdapterChoice]) -> None:
    workspace.attached._most = 2
    answers(workspace, "a0")
    answers(workspace, "a1")
    answers(workspace, "a0")
    answers(workspace, "a2")
    assert set(workspace.engine.attached) == {"a0", "a2"}  # a1 was used longest ago, a0 attached longest ago
    four = answers(workspace, "a0", "a1", "a2", "a3")  # asked for together they are all needed
    assert len(set(four)) == 4 and set(workspace.engine.attached) == {"a0", "a1", "a2", "a3"}
    assert answers(workspace, "a3") == four[3:]


def test_an_adapter_that_answers_is_never_let_go(workspace: Workspace, several: list[AdapterChoice]) -> None:
    workspace.attached._most = 1
    alone = answers(workspace, "a0", tokens=40)
    reading = workspace.answer([Column(QUESTION, "a0")], Sampling(max_new_tokens=40))
    next(reading)
    others = [threading.Thread(target=answers, args=(workspace, f"a{n}")) for n in (1, 2, 3)]
    for thread in others:
        thread.start()
    (last,) = list(reading)[-1]
    for thread in others:
        thread.join()
    assert [tuple(last.ids)] == alone and workspace.attached.users("a0") == 0


def test_short_memory_lets_idle_adapters_go(
    tiny_engine: Engine, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Attached(tiny_engine, set)
    with held.held({"a": made}), held.held({"b": made}):
        pass
    monkeypatch.setattr("core.attached.memory_free", lambda device: 10_000)
    with held.held({"b": made}), held.held({"c": made}):
        assert set(tiny_engine.attached) == {"b", "c"}


def test_two_who_ask_at_once_attach_it_once(workspace: Workspace, several: list[AdapterChoice]) -> None:
    workspace.prepare()
    begin = threading.Barrier(6)
    found: list[object] = []

    def ask() -> None:
        begin.wait()
        found.extend(answers(workspace, "a1"))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1 and workspace.engine.attached == ("a1",)


def test_what_is_attached_is_the_file_to_the_bit_and_leaves_the_base_alone(
    tiny_engine: Engine, made: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    for name in ("first", "second"):  # onto bare layers, and onto layers that hold another
        tiny_engine.attach(adapters.read(made, name))
        tiny_engine.save_adapter(name, tmp_path / name, {})
        theirs, ours = load_file(made / adapters.WEIGHTS), load_file(tmp_path / name / adapters.WEIGHTS)
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)
    with tiny_engine.turn() as resident:
        parameters = list(resident.backend.model.parameters())  # type: ignore[attr-defined]
    assert all(parameter.device.type == "cpu" and not parameter.requires_grad for parameter in parameters)


# -- over HTTP --


@pytest.fixture
def client(workspace: Workspace) -> TestClient:
    from ui.server import create_app

    return TestClient(create_app(workspace, {"127.0.0.1"}), base_url="http://127.0.0.1")


TOKEN = "0123456789abcdef" * 2


def put(
    client: TestClient, data: bytes, size: int, offset: int = 0, token: str = TOKEN, language: str = "en"
) -> dict[str, object]:
    headers = {"x-name": "%E5%B0%8F%E7%A6%BE.zip", "x-offset": str(offset), "x-size": str(size)}
    return dict(client.put(f"/import/adapter/{token}?language={language}", content=data, headers=headers).json())


def test_a_zip_comes_in_pieces_and_goes_out_whole(
    workspace: Workspace, client: TestClient, made: Path, tmp_path: Path
) -> None:
    data = zipped(made, tmp_path / "a.zip").read_bytes()
    size, half = len(data), len(data) // 2
    assert put(client, data[:half], size) == {"received": half}
    assert put(client, data[half + 5 :], size, half + 5) == {"received": half}  # a piece is missing before it
    assert put(client, data[half:], size, half) == {"id": "小禾", "name": "小禾"}
    assert left_in(workspace) == ["小禾"]
    answer = client.get("/export/adapter/小禾.zip")
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert f"小禾/{adapters.WEIGHTS}" in archive.namelist()
    assert archive.read(f"小禾/{adapters.WEIGHTS}") == (made / adapters.WEIGHTS).read_bytes()
    head = client.head("/export/adapter/小禾.zip")
    assert head.status_code == 200 and head.headers["content-disposition"] == answer.headers["content-disposition"]
    assert left_in(workspace) == ["小禾"]
    for path in ("..%2F..%2Fetc", "no", "%2Fetc%2Fpasswd"):
        assert client.get(f"/export/adapter/{path}.zip").status_code == 404


def test_a_last_piece_that_is_sent_again_brings_nothing_twice(
    workspace: Workspace, client: TestClient, made: Path, tmp_path: Path
) -> None:
    data = zipped(made, tmp_path / "a.zip").read_bytes()
    size, half = len(data), len(data) // 2
    with client, ThreadPoolExecutor(4) as pool:
        firsts = [pool.submit(put, client, data[:half], size) for _ in range(4)]
        assert [one.result(20) for one in firsts] == [{"received": half}] * 4
        (growing,) = workspace.library.folder.iterdir()
        assert growing.read_bytes() == data[:half]
        with workspace.library._guard:  # an import ends only after this
            again = [pool.submit(put, client, data[half:], size, half) for _ in range(3)]
            end = time.monotonic() + 200
            while not any(name.endswith(".new") for name in left_in(workspace)):
                assert time.monotonic() < end
                time.sleep(0.01)
            too_late = pool.submit(client.delete, f"/import/adapter/{TOKEN}?language=en")
            time.sleep(0.1)
            assert not any(one.done() for one in (*again, too_late))
        brought = {"id": "小禾", "name": "小禾"}
        assert [one.result(20) for one in again] == [brought] * 3
        assert too_late.result(20).json() == {"error": "Too late: it has been imported as “小禾”.", **brought}
        assert put(client, data[half:], size, half) == brought  # its answer was lost on the way
    assert left_in(workspace) == ["小禾"]


def test_the_zips_of_exports_are_made_one_at_a_time(
    workspace: Workspace, client: TestClient, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ui import adapter_files

    workspace.library.bring_folder(str(made))
    write, under_way, seen = adapter_files._zip, [0], []

    def watched(*given: object) -> None:
        under_way[0] += 1
        seen.append(under_way[0])
        time.sleep(0.05)
        write(*given)  # type: ignore[arg-type]
        under_way[0] -= 1

    monkeypatch.setattr(adapter_files, "_zip", watched)
    with client, ThreadPoolExecutor(3) as pool:
        sizes = {len(answer.content) for answer in pool.map(client.get, ["/export/adapter/mine.zip"] * 3)}
    client.head("/export/adapter/mine.zip")
    assert len(sizes) == 1 and seen == [1, 1, 1] and left_in(workspace) == ["mine"]


def test_what_cannot_be_uploaded_is_said_in_the_page_s_language(workspace: Workspace, client: TestClient) -> None:
    assert "没有导入" in str(put(client, b"no zip", 6, language="zh")["error"])
    assert "unpacked" in str(put(client, b"no zip", 6)["error"])
    assert "limit" in str(put(client, b"x", 5_000_000_000)["error"])
    assert "announced" in str(put(client, b"too much", 3, token="1" * 32)["error"]) and left_in(workspace) == []
    assert client.put("/import/adapter/..%2Fx", content=b"x").status_code in (400, 404)
    assert client.put(f"/import/adapter/{TOKEN}", content=b"x", headers={"x-size": "many"}).status_code == 400
    assert client.delete(f"/import/adapter/{TOKEN}").json() == {"received": 0}
    assert put(client, b"half", 8) == {"received": 4} and len(left_in(workspace)) == 1
    assert client.delete(f"/import/adapter/{TOKEN}").status_code == 200 and left_in(workspace) == []
    foreign = client.put(f"/import/adapter/{TOKEN}", content=b"x", headers={"origin": "http://evil.example"})
    assert foreign.status_code == 403
    for number in range(4):
        assert put(client, b"x", 8, token=f"{number:032x}") == {"received": 1}
    assert "Too many" in str(put(client, b"x", 8)["error"])
