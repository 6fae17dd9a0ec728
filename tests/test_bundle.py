"""A run in one file: what goes in comes out elsewhere, byte for byte; and what somebody made up is refused by name."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

import app
from core import bundle, proof, proof_subject, storage, typed
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row
from core.errors import BusyError, DatasetError, UserError
from core.proof import Proof, Test
from core.proof_stats import wilson
from core.run import Run
from core.text import Text
from core.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
ROWS = tuple(Row(f"Who are you, {i}?", "", f"I am {{{{NAME}}}}, number {i}.") for i in range(8))
Files = dict[str, bytes]
Spoil = Callable[[Files], Files]


def trained(home: Path, model: Path, **given: object) -> Run:
    """A run of the page's own kind on a tiny model: curve, evaluation, probings, checkpoints, row report."""
    workspace = Workspace(home)
    usual = {
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "probe_steps": 3,
        "save_steps": 2,
        "eval_steps": 2,
    }
    values = {"model": str(model), "learning_rate": 1e-2, "split_dataset_ratio": 0.25, "probe_share": 1.0, **usual}
    run = workspace.start(
        Dataset("set", ROWS, Identity("小禾", "Xiaohe", "青禾", "Qinghe")),
        TrainConfig(**{**values, **given}),
        "一次训练",
    )
    workspace._job.join(120)
    assert not run.live
    return run


def proved(run: Run) -> None:
    """A proof of the run's adapter as it is now."""
    found = wilson(7, 8)
    test = Test(
        "took",
        Text("学会", "Took"),
        "green",
        7,
        8,
        found.low,
        found.high,
        1,
        Text("一句话", "A sentence"),
        {"margin": 1.5},
    )
    folder = run.adapter
    assert folder is not None
    made = Proof(
        created=time.time(), adapter=run.title, run=run.id, step=run.adapter_step, model=run.config.model, quantisation="none",
        dtype="float32", system="", suite="pocket", seconds=1.0, base_seconds=0.5, tests=(test,), light="green",
        headline=Text("一行字", "A headline"), ruler=Text("尺子", "A ruler"), weights=proof_subject.digest(folder),
    )  # fmt: skip
    storage.write_json(run.folder / "proof.json", proof.to_json(made))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    """A finished run with everything a run can have."""
    run = trained(tmp_path_factory.mktemp("bundle") / "home", tiny_model)
    proved(run)
    run.describe("第二个名字", "一条备注")
    assert run.status == "finished" and run.probings and (run.folder / "rows.json").is_file()
    return run


@pytest.fixture(scope="module")
def packed(made: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file."""
    path = tmp_path_factory.mktemp("packed") / "run.zip"
    assert bundle.write(made, path) is not None
    return path


def digests(folder: Path) -> Mapping[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): bundle.digest_of(path) for path in files}


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def shown(workspace: Workspace, run: Run) -> list[object]:
    """What every view of the page says of the run, but for where its folder is."""
    from ui import prepare_environment

    prepare_environment()
    from ui import proof_draw, runs
    from ui.edits import Edits
    from ui.follow import Follow
    from ui.page import Page

    page = Page(workspace, "zh", Edits(workspace))
    follow, found = Follow(page), workspace.proofs.of(run.id)
    assert found is not None
    views = [follow.draw_head, follow.draw_strip, follow.draw_how, follow.draw_probes, follow.draw_points]
    report = workspace.row_reports.of(run)
    listed = [(choice.id, choice.name, choice.system, choice.words) for choice in workspace.library.all()]
    drawn = [view(run.id).replace(str(workspace.home), "") for view in views]
    return [
        *drawn,
        follow.metrics({"run": run.id}),
        proof_draw.draw(page, found),
        report,
        runs.draw(page, [run], None),
        listed,
    ]


def test_a_run_opened_elsewhere_is_the_same_file_by_file_and_in_every_view(
    made: Run, tmp_path: Path, packed: Path
) -> None:
    whole = tmp_path / "whole.zip"
    written = bundle.write(made, whole, with_checkpoints=True)
    assert written is not None and written.left_out == ()
    here, there = Workspace(made.folder.parents[1]), Workspace(tmp_path / "elsewhere")
    told: list[tuple[int, int]] = []
    run, fresh = there.bring_run(whole, "whole.zip", lambda done, total: told.append((done, total)))
    assert fresh and told[-1][0] == told[-1][1] > 0 and run.id == made.id
    assert digests(run.folder) == digests(made.folder)
    assert shown(there, run) == shown(here, here.run(made.id))
    assert (run.title, run.note, run.status, run.hits) == ("第二个名字", "一条备注", "finished", made.hits)
    # Twice does no harm; and packed there it is the same file, byte for byte.
    assert there.bring_run(whole, "whole.zip") == (run, False)
    again = tmp_path / "again.zip"
    bundle.write(run, again, with_checkpoints=True)
    assert again.read_bytes() == whole.read_bytes()
    # The smaller file leaves the checkpoints out, says so, and adds nothing to what is here.
    plain = bundle.contents(made)
    assert plain.left_out and all(path.startswith("checkpoints/") for path in plain.left_out)
    assert there.bring_run(packed, "run.zip") == (run, False)
    # Nothing that was on its way is left in the folder of runs.
    assert visible(tmp_path / "elsewhere" / "runs") == [run.id] and not list(there.home.glob("runs/.bundle-*"))


def test_the_manifest_says_what_the_run_was_trained_with_and_equal_weights_are_in_it_once(
    made: Run, packed: Path
) -> None:
    files = contents(packed)
    manifest = json.loads(files["manifest.json"])
    started = made.first("started")
    assert started is not None and manifest["versions"] == started["versions"] and "torch" in manifest["versions"]
    assert (manifest["run"], manifest["device"], manifest["title"]) == (made.id, started["device"], made.title)
    for path, fact in manifest["files"].items():
        data = files[fact.get("same_as", path)]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (fact["bytes"], fact["sha256"]), path
    weights = [fact for path, fact in manifest["files"].items() if path.endswith("adapter_model.safetensors")]
    assert len(weights) > sum("same_as" not in fact for fact in weights) == len({fact["sha256"] for fact in weights})
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None and not {".lock", "checkpoints"} & {
            path.split("/")[1] for path in archive.namelist()
        }


def test_a_run_of_the_same_id_that_is_another_one_is_refused_and_nothing_changes(
    made: Run, packed: Path, tmp_path: Path
) -> None:
    there = Workspace(tmp_path / "home")
    run, _ = there.bring_run(packed, "run.zip")
    run.describe("mine", "")
    before = digests(run.folder)
    with pytest.raises(DatasetError, match=r"There is a run .* not the same \(card\.json\), so nothing was changed"):
        there.bring_run(packed, "run.zip")
    run.append("chosen", step=1)
    with pytest.raises(DatasetError, match=r"card\.json, events\.jsonl"):
        there.bring_run(packed, "run.zip")
    assert {**digests(run.folder), "events.jsonl": ""} == {**before, "events.jsonl": ""}


def test_a_run_that_was_cut_off_goes_on_elsewhere_and_ends_with_the_same_bytes(
    tmp_path: Path, tiny_model: Path
) -> None:
    from core.checkpoints import newest_step

    settings = {"num_train_epochs": 3, "probe_steps": 0, "split_dataset_ratio": 0.0, "save_total_limit": 9}
    straight = trained(tmp_path / "a", tiny_model, **settings)
    cut = trained(tmp_path / "b", tiny_model, **settings)
    # As a kill after the checkpoint of step 4 leaves it: no end, no adapter, no later checkpoint.
    lines = (cut.folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if json.loads(line).get("path") == "checkpoints/step-000004")
    (cut.folder / "events.jsonl").write_bytes(b"".join(lines[: at + 1]))
    for gone in (cut.folder / "adapter", *(cut.folder / "checkpoints").glob("step-*")):
        if gone.name != "step-000004":
            shutil.rmtree(gone, ignore_errors=True)
    (cut.folder / "rows.json").unlink(missing_ok=True)
    bundle.write(Run.open(cut.folder), tmp_path / "cut.zip", with_checkpoints=True)
    there = Workspace(tmp_path / "c")
    run, _ = there.bring_run(tmp_path / "cut.zip", "cut.zip")
    assert run.status == "interrupted" and newest_step(run) == 4
    there.resume(run.id)
    there._job.join(120)
    assert run.status == "finished"
    assert run.adapter is not None and straight.adapter is not None
    assert proof_subject.digest(run.adapter) == proof_subject.digest(straight.adapter)


def test_what_cannot_be_packed_is_said_and_leaves_nothing(made: Run, tmp_path: Path) -> None:
    target = tmp_path / "run.zip"
    target.write_bytes(b"mine")
    with pytest.raises(DatasetError, match="is there already"):
        bundle.write(made, target)
    assert target.read_bytes() == b"mine"
    stop = threading.Event()
    assert bundle.write(made, tmp_path / "b.zip", told=lambda done, total: stop.set(), stop=stop) is None
    copy = tmp_path / "runs" / made.id
    shutil.copytree(made.folder, copy)
    run = Run.open(copy)
    with pytest.raises(BusyError, match="changed while it was packed"):
        bundle.write(run, tmp_path / "c.zip", told=lambda done, total: (copy / "card.json").write_text("{}"))
    run.live = True
    with pytest.raises(BusyError, match="is training"):
        bundle.write(run, tmp_path / "d.zip")
    run.live = False
    # Another program trains it: that is told by the lock alone.
    holding = "import sys, core.storage as s, pathlib; f = s.lock_file(pathlib.Path(sys.argv[1])); print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", holding, str(copy / ".lock")], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == b"1\n"
        with pytest.raises(BusyError, match="is training"):
            bundle.write(run, tmp_path / "e.zip")
    finally:
        other.communicate(b"\n", timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.zip", "runs"]


def test_a_command_that_cannot_be_done_says_why_and_makes_no_home(
    tmp_path: Path, made: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    home, no_run = tmp_path / "a" / "home", tmp_path / "no-run.zip"
    with zipfile.ZipFile(no_run, "w") as file:
        file.writestr("a/b", "c")
    for wrong, said in (
        (["nope", str(tmp_path / "out.zip")], "There is no run “nope”"),
        ([str(tmp_path), str(tmp_path / "out.zip")], "it is no run's folder"),
        (["--open", str(no_run)], "there is no manifest.json in it"),
        (["--open", str(tmp_path / "nope.zip")], "There is no file"),
    ):
        assert app.main(["--home", str(home), "bundle", *wrong]) == 2
        assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [no_run]
    known = made.folder.parents[1]
    assert app.main(["--home", str(known), "bundle", "nope", str(tmp_path / "out.zip")]) == 2
    assert f"The newest there: {made.id}." in capsys.readouterr().err


def test_the_command_packs_a_folder_opens_a_file_and_says_a_full_disk(made: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "app.py", "--home", str(home), "bundle"]

    def call(*arguments: str, limit: str = "unlimited") -> subprocess.CompletedProcess[str]:
        line = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "-", *command, *arguments]
        return subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, timeout=300, env={"PATH": "/usr/bin:/bin", "LANG": "C"}
        )

    named = tmp_path / "Mine & yours"  # as --output_dir may be called
    shutil.copytree(made.folder, named)
    full = call(str(named), str(tmp_path / "full.zip"), limit="40")
    assert full.returncode == 2 and "could not be written" in full.stderr and "Traceback" not in full.stderr
    done = call(str(named), str(tmp_path / "a.zip"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["left_out"] and told["bytes"] == (tmp_path / "a.zip").stat().st_size and "--checkpoints" in done.stderr
    opened = call("--open", str(tmp_path / "a.zip"))
    assert opened.returncode == 0 and opened.stdout.strip() == told["run"] and told["run"].endswith("-mine-yours")
    assert [run.title for run in Workspace(home).runs()] == [made.title]
    wrong = call("--open", str(made.folder / "rows.json"))
    assert wrong.returncode == 2 and "rows.json was not imported" in wrong.stderr
    assert call("only").returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Mine & yours", "a.zip", "home"]


# -- files that somebody made up --


def contents(path: Path) -> Files:
    """The members of a file, by their paths inside its one folder."""
    with zipfile.ZipFile(path) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def repacked(files: Files, target: Path, top: str = "r") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"{top}/{name}" if not name.startswith(("/", "../")) else name, data)
    return target


def manifest_of(files: Files) -> dict[str, dict[str, dict[str, object]]]:
    found: dict[str, dict[str, dict[str, object]]] = json.loads(files["manifest.json"])
    return found


def told(change: Callable[[dict[str, object]], object]) -> Spoil:
    """The manifest changed."""

    def spoil(files: Files) -> Files:
        manifest = json.loads(files["manifest.json"])
        change(manifest)
        return files | {"manifest.json": json.dumps(manifest).encode()}

    return spoil


def put(path: str, data: bytes | Callable[[bytes], bytes]) -> Spoil:
    """A file changed or added, and the manifest made to agree: whoever means harm can count digests too."""

    def spoil(files: Files) -> Files:
        new = data if isinstance(data, bytes) else data(files[path])
        manifest = json.loads(files["manifest.json"])
        manifest["files"][path] = {"bytes": len(new), "sha256": hashlib.sha256(new).hexdigest()}
        return files | {path: new, "manifest.json": json.dumps(manifest).encode()}

    return spoil


def event(**fields: object) -> Spoil:
    """One more event."""
    line = json.dumps({"time": 1.0, **fields}).encode()
    return put("events.jsonl", lambda data: data + line + b"\n")


def in_proof(change: Callable[[dict[str, list[dict[str, object]]]], object]) -> Spoil:
    def edit(data: bytes) -> bytes:
        value = json.loads(data)
        change(value)
        return json.dumps(value).encode()

    return put("proof.json", edit)


def without(path: str) -> Spoil:
    return lambda files: {name: data for name, data in files.items() if name != path}


def with_nan(data: bytes) -> bytes:
    return data[:-4] + b"\x00\x00\xc0\x7f"


ATTACK = "<img src=x onerror=alert(1)>"
MADE_UP: dict[str, tuple[Spoil, str]] = {
    "a path out": (lambda files: files | {"../../evil": b"x"}, "points outside"),
    "an absolute path": (lambda files: files | {"/etc/evil": b"x"}, "points outside"),
    "a second folder": (lambda files: files | {"x/../../../evil": b"x"}, "points outside"),
    "no manifest": (without("manifest.json"), "no manifest.json"),
    "a manifest that is none": (lambda files: files | {"manifest.json": b"[1"}, "makes no sense"),
    "a manifest of something else": (lambda files: files | {"manifest.json": b"[]"}, "makes no sense"),
    "another format": (told(lambda m: m.update(format="onecard-run-9")), "Update OneCard"),
    "an id that is a path": (told(lambda m: m.update(run="../../x")), "makes no sense"),
    "an id of Windows": (told(lambda m: m.update(run="CON")), "makes no sense"),
    "an id that hides": (told(lambda m: m.update(run=".x")), "makes no sense"),
    "an id that is a number": (told(lambda m: m.update(run=7)), "makes no sense"),
    "a file that is not listed": (lambda files: files | {"adapter/extra.json": b"{}"}, "is not in its manifest"),
    "a pickle that is listed": (put("adapter/adapter_model.bin", b"x"), "is no file of a run"),
    "a program that is listed": (put("adapter/modeling.py", b"x"), "is no file of a run"),
    "a lock that is listed": (put(".lock", b""), "is no file of a run"),
    "a file that is missing": (without("dataset.jsonl"), "it lacks dataset.jsonl"),
    "one byte of the weights": (lambda f: f | {"adapter/adapter_model.safetensors": f["adapter/adapter_model.safetensors"][:-1] + b"x"},
                                "SHA-256"),
    "one word of the rows": (lambda f: f | {"dataset.jsonl": f["dataset.jsonl"].replace(b"number 1", b"number 9")}, "SHA-256"),
    "rows that were not frozen": (put("dataset.jsonl", lambda data: data.replace(b"number 1", b"number 9")), "changed after"),
    "no rows": (lambda f: put("dataset.jsonl", b"")(without("mix.json")(told(lambda m: m["files"].pop("mix.json"))(f))), "no rows"),
    "a size below nothing": (told(lambda m: m["files"]["config.json"].update(bytes=-1)), "has -1 bytes"),
    "a twin of nothing": (told(lambda m: m["files"]["config.json"].update(same_as="nowhere")), "points at something else"),
    "a twin of itself": (told(lambda m: m["files"]["config.json"].update(same_as="config.json")), "points at something else"),
    "a setting out of range": (put("config.json", lambda f: f.replace(b'"lora_rank": 8', b'"lora_rank": -8')), "not a complete run"),
    "settings that are none": (put("config.json", b"{}"), "not a complete run"),
    "a base that is a number": (put("card.json", b'{"name": "x", "note": NaN}'), "not valid JSON"),
    "weights that are no numbers": (put("probed/step-000003/adapter_model.safetensors", with_nan), "NaN or infinite"),
    "weights cut short": (
        put("probed/step-000003/adapter_model.safetensors", lambda data: data[: len(data) // 2]),
        "damaged|incomplete",
    ),
    "a rank beyond reason": (put("adapter/adapter_config.json", lambda f: f.replace(b'"r": 8', b'"r": 1000000000')), "no usable LoRA"),
    "an event with markup": (event(type="chosen", step=ATTACK), "chosen"),
    "a reason with markup": (
        event(type="failed", step=9, message_zh="", message_en="", broken_step=ATTACK), "broken_step",
    ),
    "sizes that are none": (
        event(type="failed", step=9, message_zh="", message_en="", cause="memory", needed_bytes=[1]), "needed_bytes",
    ),
    "an event without its numbers": (event(type="step", step=9), "loss"),
    "a loss that is none": (event(type="evaluated", step=9, loss=1e400), "loss"),
    "a number without end": (event(type="chosen", step=10**400), "chosen"),
    "an answer with marks of text": (
        event(type="probed", step=9, hits=0, total=1, seconds=1.0,
              answers=[{"question": "q", "text": "t", "kind": "identity", "verdict": "hit", "marks": [{"start": ATTACK}]}]),
        "marks",
    ),
    "a proof with markup": (in_proof(lambda p: p["tests"][0].update(hits=ATTACK)), "proof.json makes no sense"),
    "a proof of another light": (in_proof(lambda p: p["tests"][0].update(light=ATTACK)), "proof.json makes no sense"),
    "a proof with words for numbers": (in_proof(lambda p: p["tests"][0].update(numbers={"margin": "1"})), "proof.json makes no sense"),
}  # fmt: skip


@pytest.mark.parametrize("how", MADE_UP, ids=lambda how: how.replace(" ", "-"))
def test_a_file_that_was_made_up_is_refused_by_name_and_leaves_nothing(how: str, packed: Path, tmp_path: Path) -> None:
    spoil, said = MADE_UP[how]
    there = Workspace(tmp_path / "home")
    path = repacked(spoil(contents(packed)), tmp_path / "客人的.zip")
    with pytest.raises(UserError, match=said) as caught:
        there.bring_run(path, "客人的.zip")
    assert str(tmp_path) not in str(caught.value) and ".bundle-" not in str(caught.value)
    assert list((tmp_path / "home" / "runs").iterdir()) == [] and there.runs() == []
    assert sorted(one.name for one in tmp_path.iterdir()) == ["home", "客人的.zip"]


def test_a_bomb_a_link_a_twin_name_and_no_zip_at_all_are_refused(packed: Path, tmp_path: Path) -> None:
    there, files = Workspace(tmp_path / "home"), contents(packed)
    bomb = repacked(put("events.jsonl", b"\n" * 50_000_000)(files), tmp_path / "bomb.zip")
    assert bomb.stat().st_size < 2_000_000
    link = tmp_path / "link.zip"
    shutil.copyfile(packed, link)
    with zipfile.ZipFile(link, "a") as archive:
        one = zipfile.ZipInfo(f"{manifest_of(files)['run']}/card.json")
        one.external_attr = 0o120777 << 16
        archive.writestr(one, "/etc/passwd")
    twice = tmp_path / "twice.zip"
    shutil.copyfile(packed, twice)
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"{manifest_of(files)['run']}/config.json", "{}")
    (tmp_path / "none.zip").write_bytes(b"PK\x03\x04" + b"\0" * 4000)
    for name, said in (
        ("bomb", "grows beyond reason"),
        ("link", "is a link"),
        ("twice", "is in it twice"),
        ("none", "unpacked"),
    ):
        with pytest.raises(UserError, match=said):
            there.bring_run(tmp_path / f"{name}.zip", f"{name}.zip")
    assert list((tmp_path / "home" / "runs").iterdir()) == []


def test_rows_that_shrink_beyond_reason_are_packed_as_they_are(tmp_path: Path) -> None:
    """A table that is repeated a thousand times is no bomb, and must not look like one when it is opened."""
    rows = [Row("Who?", "", "I am Xiaohe.")] * 40_000
    run = Run.create(tmp_path / "runs" / "many", TrainConfig(model="pocket"), rows, "many", "many")
    run.append("started", steps=1)
    assert (run.folder / "dataset.jsonl").stat().st_size > 1_000_000
    bundle.write(run, tmp_path / "many.zip")
    found, _ = Workspace(tmp_path / "home").bring_run(tmp_path / "many.zip", "many.zip")
    assert len(found.rows) == 40_000


def test_a_value_is_held_to_its_declared_type_all_the_way_down() -> None:
    made = Test("took", Text("a", "b"), "green", 1, 2, 0.0, 1.0, None, Text("", ""))
    typed.check(made, Test)
    for wrong in (
        replace(made, hits=True),
        replace(made, low=float("nan")),
        replace(made, name="x"),
        replace(made, readings=[]),
    ):  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            typed.check(wrong, Test)


def test_both_routes_carry_a_run_from_one_home_to_another(made: Run, tmp_path: Path) -> None:
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from ui import run_files

    def client_of(workspace: Workspace) -> TestClient:
        app = FastAPI()
        run_files.add(app, workspace)
        return TestClient(app)

    with client_of(Workspace(made.folder.parents[1])) as client:
        answer = client.get(f"/export/run/{made.id}.zip")
        assert answer.status_code == 200 and made.id in unquote(answer.headers["content-disposition"])
        assert len(client.get(f"/export/run/{made.id}.zip?checkpoints=1").content) > len(answer.content)
        assert client.get("/export/run/..%2f..%2fx.zip").status_code == 404
        assert [path for path in made.folder.parent.iterdir() if path.name.startswith(".")] == []
    there = Workspace(tmp_path / "home")
    with client_of(there) as client:
        token, data, half = "0" * 32, answer.content, len(answer.content) // 2
        headers = {"x-name": "a.zip", "x-size": str(len(data))}
        first = client.put(f"/import/run/{token}", content=data[:half], headers=headers | {"x-offset": "0"})
        assert first.json() == {"received": half} and there.runs() == []
        last = client.put(f"/import/run/{token}", content=data[half:], headers=headers | {"x-offset": str(half)})
        assert last.json() == {"id": made.id, "name": made.title, "new": True}
    assert digests(there.run(made.id).folder).keys() == bundle.contents(made).files.keys()


def test_a_file_that_nobody_waits_for_any_more_is_not_packed_on(
    made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastapi import FastAPI

    from ui import run_files

    begun, real = threading.Event(), bundle.write

    def write(run: Run, target: Path, whole: bool, told: bundle.Told, stop: threading.Event) -> bundle.Bundle | None:
        begun.set()
        assert stop.wait(60), "whoever asked went away"
        return real(run, target, whole, told, stop)

    monkeypatch.setattr(bundle, "write", write)
    there, sent, app = Workspace(tmp_path / "home"), list[dict[str, object]](), FastAPI()
    shutil.copytree(made.folder, there.home / "runs" / made.id)
    run_files.add(app, there)
    path = f"/export/run/{made.id}.zip"
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }

    async def receive() -> dict[str, object]:
        while not begun.is_set():
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    with ThreadPoolExecutor(1) as pool:  # a browser's loop may run in this thread
        pool.submit(asyncio.run, app(scope, receive, send)).result()  # type: ignore[arg-type]
    assert sent[0]["status"] == 400 and visible(there.home / "runs") == [made.id]
    assert [each.name for each in (there.home / "runs").iterdir()] == [made.id]
    # One whose program was killed while it was sent is cleared away as the next start does.
    storage.under_way(there.home / "runs" / "download~").write_bytes(b"PK")
    storage.sweep(there.home)
    assert [each.name for each in (there.home / "runs").iterdir()] == [made.id]
