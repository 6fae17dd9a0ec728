"""Adapters that do not fit, are damaged or mean harm: each is refused by its tensor, setting or file, and the base stays as it was."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from core import adapters, anatomy, intake, storage
from core.config import TrainConfig
from core.dataset import Identity, Message, Row
from core.engine import Engine
from core.errors import ModelError
from core.generate import Column, Sampling
from core.workspace import Workspace

Spoil = Callable[[Path], object]
PWNED = "ONECARD_PWNED"


class Runs:
    """What unpickling it would do: leave a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    loaded = Engine()
    loaded.load(str(tiny_model))
    return loaded


@pytest.fixture(scope="module")
def good(engine: Engine, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on the tiny model with values that change every answer."""
    engine.create_adapter("made", TrainConfig(model=str(tiny_model), lora_rank=4))
    resident = engine.resident
    assert resident is not None
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in resident.backend.adapter_parameters(engine.handle("made")):
            parameter.normal_(0, 0.3)
    folder = tmp_path_factory.mktemp("made") / "mine"
    engine.save_adapter("made", folder, {})
    engine.detach("made")
    return folder


@pytest.fixture
def workspace(tmp_path: Path, engine: Engine, tiny_model: Path) -> Workspace:
    opened = Workspace(tmp_path / "home", engine)
    opened.create("rows", (Row("你是谁?", "", "我是{{NAME}}。"),), Identity("小禾", "Xiaohe", "青禾", "Qinghe"))
    opened.select_model(str(tiny_model))
    return opened


def change(**values: object) -> Spoil:
    """Other values in the configuration."""

    def spoil(folder: Path) -> None:
        path = folder / adapters.CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return spoil


def rewrite(changed: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    """Other tensors."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / adapters.WEIGHTS)
        changed(tensors)
        save_file(tensors, folder / adapters.WEIGHTS)

    return spoil


def first(tensors: dict[str, torch.Tensor], part: str = "lora_B") -> str:
    return next(key for key in sorted(tensors) if part in key)


def header(data: bytes) -> Spoil:
    return lambda folder: (folder / adapters.WEIGHTS).write_bytes(data)


def cut(folder: Path) -> None:
    path = folder / adapters.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def foreign(tensors: dict[str, torch.Tensor]) -> None:
    """The layers of another architecture."""
    for key in list(tensors):
        tensors[key.replace("model.layers", "transformer.h")] = tensors.pop(key)


def wider(tensors: dict[str, torch.Tensor]) -> None:
    """The right names, for a model twice as wide."""
    for key, tensor in tensors.items():
        tensors[key] = torch.cat([tensor, tensor], dim=1 if "lora_A" in key else 0).contiguous()


def doubled(tensors: dict[str, torch.Tensor]) -> None:
    """In 64 bits a number that 32 have not: infinite once it is in the model."""
    key = first(tensors)
    tensors[key] = tensors[key].double() + 1e39


def pickled(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / adapters.WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(Runs(folder.parent / PWNED)))

    return spoil


def linked(name: str, target: Callable[[Path], Path]) -> Spoil:
    """A file of the adapter is a link to one outside."""

    def spoil(folder: Path) -> None:
        aim = target(folder)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(aim)

    return spoil


def moved(folder: Path) -> Path:
    return Path(shutil.move(folder / adapters.WEIGHTS, folder.parent / "elsewhere.safetensors"))


# Name -> what is done to it, what the import has to say, what attaching the folder as it is has to say ("": it may).
HOSTILE: dict[str, tuple[Spoil, str, str]] = {
    "foreign layers": (rewrite(foreign), "28 tensors missing, 28 foreign", "28 foreign"),
    "half of its tensors": (
        rewrite(lambda t: [t.pop(key) for key in sorted(t) if "lora_A" in key]), "lora_A, lora_B", "14 tensors missing",
    ),
    "another base": (rewrite(wider), r"down_proj was trained for a layer of 64 x 96", "28 of another shape"),
    "NaN": (rewrite(lambda t: t[first(t)].view(-1).__setitem__(0, torch.nan)), "lora_B.* holds NaN", "lora_B.* holds NaN"),
    "infinity": (rewrite(lambda t: t[first(t)].fill_(-torch.inf)), "lora_B.* infinite", "lora_B.* infinite"),
    "infinity in 32 bits": (rewrite(doubled), "lora_B.* infinite", "lora_B.* infinite|lora_B"),
    "rank 1e9": (change(r=10**9), "1 to 1024", "1 to 1024"),
    "alpha 1e308": (change(lora_alpha=1e308), "lora_alpha = 1e", "lora_alpha = 1e"),
    "alpha of 400 digits": (change(lora_alpha=10**400), "lora_alpha = 1000", "lora_alpha = 1000"),
    "one shape": (
        rewrite(lambda t: t.update({first(t): torch.zeros(t[first(t)].shape[0], 5)})), "lora_B must be", "1 of another shape",
    ),
    "cut off": (cut, "damaged or incomplete", "damaged"),
    "a pickle, .bin": (pickled("adapter_model.bin"), r"pickled \(adapter_model.bin\)", "pickled"),
    "a pickle, .pt": (pickled("adapter_model.pt"), r"pickled \(adapter_model.pt\)", "pickled"),
    "a header of 2**62 bytes": (header(struct.pack("<Q", 2**62)), "damaged or incomplete", "damaged"),
    "a header of 50,000 brackets": (header(struct.pack("<Q", 250_000) + b'{"a":' * 50_000), "damaged", "damaged"),
    "weights that are a link": (linked(adapters.WEIGHTS, moved), "safetensors is a link out of the folder", ""),
    "a readme that is a link": (linked("README.md", lambda _: Path("/etc/passwd")), "README.md is a link out", ""),
    "weights without an end": (linked(adapters.WEIGHTS, lambda _: Path("/dev/zero")), "lacks adapter_model", "lacks"),
    "a PiSSA base": (change(init_lora_weights="pissa"), "init_lora_weights", "init_lora_weights"),
    "a saved head": (rewrite(lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(4)})), "lm_head", "lm_head"),
    "layers that are numbers": (change(target_modules=[1, 2]), "target_modules", "target_modules"),
    "a method with code of its own": (change(corda_config={"cache_file": "/tmp/x"}), "corda_config", "corda_config"),
}  # fmt: skip


# Whole adapters of another base: nothing is wrong with them until one is asked for here.
NEEDS_A_BASE = (HOSTILE["foreign layers"][1], HOSTILE["another base"][1])


def logits(engine: Engine) -> torch.Tensor:
    """What the base says of fixed tokens, read past everything that keeps adapters apart."""
    resident = engine.resident
    assert resident is not None
    model = resident.backend.model  # type: ignore[attr-defined]
    with torch.no_grad():
        return model(input_ids=torch.arange(24)[None] * 7 % 250).logits.clone()


@contextlib.contextmanager
def said(words: str) -> Iterator[list[str]]:
    """Collect what is wrong with how the block is refused."""
    found: list[str] = []
    try:
        with pytest.raises(ModelError, match=words) as caught:
            yield found
        if ".tmp" in str(caught.value) or not caught.value.of("zh"):
            found.append(str(caught.value))
    except (AssertionError, pytest.fail.Exception) as error:
        found.append(str(error)[:200])


def test_no_hostile_adapter_gets_in_and_the_base_answers_as_before(
    workspace: Workspace, engine: Engine, good: Path, tmp_path: Path, tally: Callable[..., None]
) -> None:
    before, changed, wrong = logits(engine), 0, list[str]()
    for name, (spoil, on_import, on_attach) in HOSTILE.items():
        folder = Path(shutil.copytree(good, tmp_path / "hostile" / storage.slug(name) / "mine"))
        spoil(folder)
        with said(on_import) as found:
            brought = workspace.library.bring_folder(str(folder))
            # What is whole but made for another base is refused where it would be used.
            list(workspace.answer([Column((Message("user", "?"),), brought.id)], Sampling(max_new_tokens=1)))
        wrong += [f"{name}, imported: {text}" for text in found]
        if on_attach:
            with said(on_attach) as found:
                engine.attach(adapters.read(folder, "x"))
            wrong += [f"{name}, attached: {text}" for text in found]
        engine.detach("x")
        changed += not torch.equal(logits(engine), before)
        if (folder.parent / PWNED).exists():
            wrong.append(f"{name}: its code ran")
        for left in workspace.library.folder.iterdir():
            if not (on_import in NEEDS_A_BASE and left.name == "mine"):
                wrong.append(f"{name}: left {left.name}")
            shutil.rmtree(left)
    print(*wrong, sep="\n")
    tally(
        "hostile adapters, imported and attached",
        cases=2 * len(HOSTILE),
        lost=changed,
        wrong=len(wrong),
        note="; ".join(wrong),
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from([
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora", "use_dora", "peft_type", "bias",
    "init_lora_weights", "base_model_name_or_path", "rank_pattern", "fan_in_fan_out", "task_type", "inference_mode",
    "auto_mapping", "revision", "layers_to_transform", "modules_to_save", "",
])  # fmt: skip


def properties(full: bool, default: int, whole: int) -> settings:
    """Without a deadline: other work may share the machine. The same examples each time."""
    return settings(
        max_examples=whole if full else default, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def test_any_configuration_is_an_adapter_that_attaches_or_one_sentence(
    engine: Engine, good: Path, tmp_path: Path, full: bool, tally: Callable[..., None]
) -> None:
    folder = Path(shutil.copytree(good, tmp_path / "fuzzed"))
    whole, before, seen = json.loads((folder / adapters.CONFIG).read_text()), logits(engine), list[bool]()

    @properties(full, 25, 300)
    @given(st.dictionaries(FIELDS, JSON, min_size=1, max_size=4))
    def hold(changed: dict[str, object]) -> None:
        try:
            (folder / adapters.CONFIG).write_text(json.dumps({**whole, **changed}))
        except ValueError:  # a number of more digits than Python writes
            return
        for look in (anatomy.examine, lambda path: engine.attach(adapters.read(path, "x"))):
            try:
                look(folder)
                seen.append(True)
            except ModelError as error:
                assert error.of("zh") and len(error.of("en")) < 900
                seen.append(False)
        engine.detach("x")

    hold()
    changed = not torch.equal(logits(engine), before)
    assert any(seen) and not all(seen)
    tally("adapter configurations of any values", cases=len(seen), lost=int(changed))


def test_any_damage_to_the_weights_is_found_or_does_no_harm(
    engine: Engine, good: Path, tmp_path: Path, full: bool, tally: Callable[..., None]
) -> None:
    folder = Path(shutil.copytree(good, tmp_path / "damaged"))
    path, before, seen = folder / adapters.WEIGHTS, logits(engine), list[bool]()
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    place = st.integers(0, 7) | st.integers(8, 7 + size) | st.integers(0, len(whole) - 1)

    @properties(full, 25, 300)
    @given(place, st.sampled_from(["flip", "cut", "double", "drop"]), st.integers(0, 7))
    def hold(at: int, how: str, bit: int) -> None:
        path.write_bytes({
            "flip": whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :],
            "cut": whole[:at],
            "double": whole[:at] + whole[at : at + 9] + whole[at:],
            "drop": whole[:at] + whole[at + 9 :],
        }[how])  # fmt: skip
        for look in (take, attach):
            try:
                look(folder)
                seen.append(True)
            except ModelError as error:
                assert error.of("zh") and len(error.of("en")) < 900
                seen.append(False)
        engine.detach("x")

    def take(place: Path) -> None:
        staged = tmp_path / "staged"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        intake.take(intake.FolderSource(place), staged, lambda done, total: None)

    def attach(place: Path) -> None:
        engine.attach(adapters.read(place, "x"))

    hold()
    assert seen.count(False) > len(seen) / 3
    tally("adapter weights damaged at random", cases=len(seen), lost=int(not torch.equal(logits(engine), before)))
