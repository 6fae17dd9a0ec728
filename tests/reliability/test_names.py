"""Forty hostile names for datasets, runs, adapters, exports and presets: each is a name or a sentence, and nothing leaves the home."""

from __future__ import annotations

import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from core import formats, lora, models, presets, storage
from core.config import TrainConfig
from core.dataset import Dataset, Row
from core.engine import Engine
from core.errors import UserError
from core.run import Run, new_folder
from core.workspace import Workspace
from ui import prepare_environment

prepare_environment()

NAMES = [
    "../../escaped", "..", ".", "...", "/tmp/escaped-abs", "/", "//escaped", "..\\..\\escaped", "C:\\escaped", "C:escaped",
    "~", "~root/escaped", "~/escaped", "a/../../escaped", "a/b/c", "./escaped", ".hidden", ".lock", "-rf", "--help",
    "$(touch escaped)", "`touch escaped`", ";touch escaped", "|escaped", "&escaped", "a\nb", "a\tb\r", "a\0b", "\0", "\ud800",
    "n" * 300, "名" * 300, "CON", "nul.jsonl", "com1", "é-twin", unicodedata.normalize("NFD", "é-twin"), "😀", " ", "",
]  # fmt: skip
ROWS = (Row("who?", "", "one"),)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine = Engine()
    engine.load(str(tiny_model))
    engine.create_adapter("made", TrainConfig(model=str(tiny_model), lora_rank=1))
    folder = tmp_path_factory.mktemp("made") / "mine"
    engine.save_adapter("made", folder, {})
    return folder


def below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Tried:
    """What was tried, and what went wrong: anything but a name or a sentence."""

    def __init__(self) -> None:
        self.cases, self.wrong = 0, list[str]()

    @contextmanager
    def one(self, what: str, name: str) -> Iterator[None]:
        self.cases += 1
        try:
            yield
        except UserError as error:
            if not (error.of("zh") and error.of("en")):
                self.wrong.append(f"{what} {name[:40]!r}: no words")
        except (OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError) as error:
            self.wrong.append(f"{what} {name[:40]!r}: {type(error).__name__}: {error}"[:300])


def test_no_name_leads_out_of_the_home(
    tmp_path: Path, tiny_model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, full: bool, tally: Callable[..., None],
) -> None:  # fmt: skip
    from ui.server import create_app

    assert len(NAMES) == len(set(NAMES)) == 40
    (tmp_path / "here").mkdir()
    (tmp_path / "secret.jsonl").write_text('{"instruction": "secret", "input": "", "output": "secret"}\n')
    monkeypatch.chdir(tmp_path / "here")
    outside = {name: data for name, data in below(tmp_path).items() if not name.startswith("home/")}
    workspace = Workspace(tmp_path / "home")
    workspace.select_model(str(tiny_model))
    workspace.library.bring_folder(str(adapter), name="kept")
    workspace.exports.folder.mkdir()
    client = TestClient(create_app(workspace), base_url="http://127.0.0.1:7860", follow_redirects=False)
    tried = Tried()
    names = NAMES if full else NAMES[::3]
    for name in names:
        of_datasets(tried, workspace, client, name)
        of_runs(tried, workspace, name, str(tiny_model))
        of_adapters(tried, workspace, adapter, tmp_path / "home" / "given.zip", name)
        of_exports_and_presets(tried, workspace, name)
    for path in workspace.home.rglob("*"):
        if path.is_symlink() or not path.resolve().is_relative_to(workspace.home):
            tried.wrong.append(f"{path} leads out")
    after = {name: data for name, data in below(tmp_path).items() if not name.startswith("home/")}
    strays = [*Path("/tmp").glob("escaped*"), *Path.home().glob("escaped*"), *tmp_path.parent.glob("escaped*")]
    print(*tried.wrong, *strays, sep="\n")
    tally(
        f"hostile names ({len(names)}) of datasets, runs, adapters, exports and presets",
        cases=tried.cases,
        lost=int(after != outside) + len(strays),
        wrong=len(tried.wrong),
    )


def of_datasets(tried: Tried, workspace: Workspace, client: TestClient, name: str) -> None:
    with tried.one("create", name):
        made = workspace.create(name, ROWS)
        assert workspace.dataset(made.name).rows == ROWS and made.name in workspace.datasets()
        other = workspace.create("other", ROWS)
        renamed = workspace.rename(other.name, name)
        assert workspace.dataset(renamed.name).rows == ROWS
        assert workspace.dataset(made.name).rows == ROWS  # twins in another writing take each other's place nowhere
        workspace.delete(renamed.name)
    with tried.one("save", name):
        workspace.save(Dataset(name, ROWS))
    for act in (workspace.dataset, workspace.delete, workspace.tables.versions, workspace.tables.bring_back):
        with tried.one(act.__name__, name):
            if name not in workspace.datasets():
                act(name)
    with tried.one("import", name):
        assert formats.read(b'[{"question": "who?", "answer": "one"}]', name).rows == ROWS
    with tried.one("download", name):
        path = quote(name.encode("utf-8", "replace"), safe="")
        for asked in (
            f"/export/dataset/{path}.jsonl",
            f"/export/dataset/..%2F{path}.jsonl",
            "/export/dataset/..%2Fsecret.jsonl",
        ):
            answer = client.get(asked)
            assert answer.status_code in (200, 400, 404, 422) and b"secret" not in answer.content, answer.status_code
            assert "\n" not in answer.headers.get("content-disposition", "")


def of_runs(tried: Tried, workspace: Workspace, name: str, model: str) -> None:
    with tried.one("run", name):
        folder = new_folder(workspace.home / "runs", name)
        run = Run.create(folder, TrainConfig(model=model), list(ROWS), name, name)
        assert run.folder.parent == workspace.home / "runs" and workspace.run(run.id).id == run.id
        workspace.library.find(run.id)
        run.describe(storage.slug(name), name)
        assert Run.open(run.folder).id == run.id
    for act in (workspace.run, workspace.delete_run, workspace.resume):
        with tried.one(act.__name__, name):
            act(name)
            raise AssertionError("it was found")


def of_adapters(tried: Tried, workspace: Workspace, adapter: Path, archive: Path, name: str) -> None:
    library = workspace.library
    with tried.one("adapter", name):
        brought = library.bring_folder(str(adapter), name=name)
        assert brought.folder is not None and brought.folder.parent == library.folder
        library.annotate(brought.id, name)
        with tried.one("rename", name):
            assert library.rename(brought.id, name).id == brought.id
        library.delete(brought.id)
    with tried.one("zip", name):
        with zipfile.ZipFile(archive, "w") as packed:
            for path in adapter.iterdir():
                packed.write(path, path.name)
        library.delete(library.bring_zip(archive, f"{name}.zip").id)
    for act in (library.get, library.delete):
        with tried.one(f"{act.__name__} adapter", name):
            act(name)
            raise AssertionError("it was found")
    with tried.one("folder", name):
        library.bring_folder(name)
        raise AssertionError("it was brought")


def of_exports_and_presets(tried: Tried, workspace: Workspace, name: str) -> None:
    with tried.one("export", name):
        order = workspace.exports.order("kept", format="adapter", name=name)
        order.check()
        assert order.target.parent == workspace.exports.folder, order.target
    with tried.one("remove export", name):
        workspace.exports.remove(name)
        raise AssertionError("it was found")
    for asked in (name, f"{name}.toml"):
        with tried.one("preset", asked):
            presets.preset(asked, workspace.home / "presets")
            raise AssertionError("it was found")
    # Names of what a run is made of may be paths: of anything but a model, an adapter and rows they are a sentence.
    with tried.one("base model", name):
        models.inspect(name)
        raise AssertionError("it was found")
    with tried.one("rows", name):
        workspace.sources.find(name)
    with tried.one("adapter to go on from", name):
        lora.check(TrainConfig(adapters=name or "x"))
        raise AssertionError("it was found")
