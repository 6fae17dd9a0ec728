"""Data and models are never code: pickles in every place that takes a file, and our source, read by its tree."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from core import adapters, checkpoints, formats, intake, models, storage
from core.config import TrainConfig, build
from core.dataset import Row
from core.engine import Engine
from core.errors import UserError
from core.run import Run
from core.train import train

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([ROOT / "app.py", *(ROOT / "core").rglob("*.py"), *(ROOT / "ui").rglob("*.py")])
PWNED = "ONECARD_PWNED"
ROWS = [Row(f"question {i}", "", f"answer {i}") for i in range(8)]


class Runs:
    """What unpickling it would do: make a folder."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (os.environ[PWNED],)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where code that ran would leave its trace. A pickle is proved to do so first: the test can fail."""
    monkeypatch.setenv(PWNED, str(tmp_path / "ran"))
    pickle.loads(pickle.dumps(Runs()))
    assert (tmp_path / "ran").is_dir()
    (tmp_path / "ran").rmdir()
    return tmp_path / "ran"


def test_no_pickle_is_ever_opened(
    tmp_path: Path, tiny_model: Path, tiny_config: TrainConfig, mark: Path, tally: Callable[..., None]
) -> None:
    """Seven carriers: weights of an adapter and of a base, a checkpoint's state, tool files beside both, data, a zip of them."""
    evil, refused, wrong = pickle.dumps(Runs()), 0, list[str]()
    engine, run = (
        Engine(),
        Run.create(tmp_path / "run", build({"max_steps": 2, "save_steps": 1}, tiny_config), ROWS, "t", "t"),
    )
    train(engine, run, threading.Event())
    adapter = run.adapter
    assert adapter is not None

    def attempt(what: str, act: Callable[[], object], must_refuse: bool) -> None:
        nonlocal refused
        try:
            act()
            if must_refuse:
                wrong.append(f"{what}: taken")
        except UserError as error:
            refused += 1
            if not must_refuse:
                wrong.append(f"{what}: {error}")
        if mark.exists():
            wrong.append(f"{what}: it ran")
            mark.rmdir()

    def brought(folder: Path) -> None:
        staged = tmp_path / "staged"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        intake.take(intake.FolderSource(folder), staged, lambda done, total: None)
        left = [path.name for path in staged.iterdir() if path.read_bytes() == evil]
        assert not left, left

    cases = 0
    for name in ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", adapters.WEIGHTS):
        folder = Path(shutil.copytree(adapter, tmp_path / f"adapter-{cases}"))
        (folder / adapters.WEIGHTS).unlink()
        (folder / name).write_bytes(evil)
        attempt(f"adapter {name}", lambda folder=folder: brought(folder), True)
        attempt(f"attach {name}", lambda folder=folder: engine.attach(adapters.read(folder, "x")), True)
        cases += 2
    for name in (
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "training_args.bin",
        "vhead.bin",
        "model.mdl",
        "state.pkl",
    ):
        folder = Path(shutil.copytree(adapter, tmp_path / f"beside-{cases}"))
        (folder / name).write_bytes(evil)
        attempt(f"beside it {name}", lambda folder=folder: brought(folder), False)
        cases += 1
    for name in ("pytorch_model.bin", "model.safetensors"):
        folder = Path(shutil.copytree(tiny_model, tmp_path / f"base-{cases}"))
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(evil)
        attempt(f"base {name}", lambda folder=folder: models.inspect(str(folder)), True)
        attempt(f"load {name}", lambda folder=folder: engine.load(str(folder)), True)
        cases += 2
    for name in (checkpoints.TENSORS, checkpoints.RECORD, adapters.WEIGHTS):
        for folder in (run.folder / "checkpoints").glob("step-*"):
            (folder / name).write_bytes(evil)
        attempt(f"checkpoint {name}", lambda: checkpoints.newest(run), False)
        cases += 1
    for name in ("a.json", "a.jsonl", "a.csv", "a.xlsx", "a.parquet", "a.zip", "a.pkl", "a.pt", "a.npy", "a.arrow"):
        attempt(f"data {name}", lambda name=name: formats.read(evil, name), True)
        cases += 1
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a/adapter_config.json", (adapter / adapters.CONFIG).read_text())
        packed.writestr("a/adapter_model.bin", evil)
    with intake.opened_zip(archive, "evil") as source:
        (tmp_path / "zipped").mkdir()
        attempt("zip", lambda: intake.take(source, tmp_path / "zipped", lambda done, total: None), True)
    tagged = "!!python/object/apply:os.mkdir [" + json.dumps(str(mark)) + "]\n"
    folder = Path(shutil.copytree(adapter, tmp_path / "yaml"))
    (folder / "training_args.yaml").write_text(f"template: qwen\ndefault_system: {tagged}")
    attempt("a YAML tag", lambda: brought(folder), False)
    attempt("a YAML tag as data", lambda: formats.read(tagged.encode(), "a.yaml"), True)
    print(*wrong, sep="\n")
    assert refused > 20
    tally("pickles and tags that would run code", cases=cases + 3, lost=0, wrong=len(wrong))


# -- the source --


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """(dotted name, call) of every call whose function is a plain name or attribute."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def named(call: ast.Call) -> dict[str, object]:
    """Keyword -> its constant value; what is no constant is left out."""
    return {k.arg: k.value.value for k in call.keywords if k.arg and isinstance(k.value, ast.Constant)}


FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.execvp", "os.spawnl", "pickle.load",
    "pickle.loads", "torch.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load",
    "subprocess.getoutput", "subprocess.getstatusoutput", "numpy.load", "np.load", "marshal.loads", "shelve.open",
    "runpy.run_path", "jinja2.Template", "jinja2.Environment", "Environment", "tempfile.mktemp",
    "dill.loads", "cloudpickle.loads", "code.interact",
}  # fmt: skip
# Harmless where what they load is named in our own source.
BY_NAME = {"importlib.import_module", "ctypes.CDLL"}
MODULES = {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib", "telnetlib", "ftplib", "pty", "commands"}


def outcomes(node: ast.expr) -> list[ast.expr]:
    """What an expression may be: both sides of a choice, else itself."""
    return [*outcomes(node.body), *outcomes(node.orelse)] if isinstance(node, ast.IfExp) else [node]


def unsafe(source: str) -> list[str]:
    """What in a module would run data as code, or could."""
    tree, found = ast.parse(source), list[str]()
    for name, call in calls(tree):
        options = named(call)
        method = name.rpartition(".")[2]
        if name in FORBIDDEN or (method == "compile" and name == "builtins.compile"):
            found.append(name)
        if name in BY_NAME and not all(isinstance(n, ast.Constant) for a in call.args for n in outcomes(a)):
            found.append(f"{name} of a computed name")
        if options.get("shell") is True:
            found.append(f"{name}(shell=True)")
        if options.get("trust_remote_code") is True or options.get("weights_only") is False:
            found.append(f"{name}: remote code or pickled weights")
        if method == "from_pretrained" and name.partition(".")[0] in (
            "AutoTokenizer",
            "AutoConfig",
            "AutoModelForCausalLM",
        ):
            if options.get("trust_remote_code") is not False:
                found.append(f"{name} without trust_remote_code=False")
            if "Model" in name and options.get("use_safetensors") is not True:
                found.append(f"{name} without use_safetensors=True")
        if name.startswith("subprocess.") and call.args and isinstance(call.args[0], ast.JoinedStr | ast.Constant):
            found.append(f"{name} of a line of text")
        if any(k.arg is None for k in call.keywords) and method == "from_pretrained" and "Auto" in name:
            given = {k.arg for k in call.keywords}
            if "trust_remote_code" not in given:
                found.append(f"{name}: options that are not seen here")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
    return found


@pytest.mark.parametrize(
    "line",
    ["eval(x)", "torch.load(p)", "subprocess.run(c, shell=True)", "import pickle", "from pickle import loads", "yaml.load(t)",
     "AutoTokenizer.from_pretrained(p)", "AutoConfig.from_pretrained(p, trust_remote_code=True)", "os.system(c)",
     "subprocess.run(f'ls {x}')", "AutoModelForCausalLM.from_pretrained(p, trust_remote_code=False)",
     "load(p, weights_only=False)", "importlib.import_module(name)", "jinja2.Environment()"],
)  # fmt: skip
def test_the_reader_of_sources_sees_what_it_looks_for(line: str) -> None:
    assert unsafe(line)


def test_no_source_of_ours_runs_data_as_code(tally: Callable[..., None]) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {what}" for path in SOURCES for what in unsafe(path.read_text(encoding="utf-8"))
    ]
    print(*found, sep="\n")
    tally("sources read for shells, eval, pickles and remote code", cases=len(SOURCES), wrong=len(found))


@pytest.mark.parametrize(
    "name", ["$(touch ran)", "`touch ran`", ";touch ran", "|touch ran", "&&ran", "-rf", "--config=/etc"]
)
def test_a_name_that_a_shell_would_run_is_a_name(name: str) -> None:
    made = storage.slug(name)
    assert made and not made.startswith("-") and not set(made) & set("$`;|&()<>/\\ '\"")
