"""Exports on their way to a hub and adapters on their way back, against a stand-in on this machine: confirmed, whole, said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from core import publish_command, storage
from core.errors import BusyError, ConfigError, ModelError, StorageError, UserError
from core.hub import Hub
from core.publish import parcel, push
from core.publish.push import Plan, Pushed
from core.publish.pushes import Pushes
from core.publish.wire import Wire
from core.pull import AdapterId, adapter_id
from core.workspace import Workspace
from tests.writing_hub import READING, TOKEN, Repo, WritingHub
from ui.edits import Edits
from ui.library import Library
from ui.page import Page
from ui.publishing import PublishDialog, account_state, plan_state, push_state

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = "adapter_model.safetensors"
HUBS = pytest.mark.parametrize("name", ["hf", "modelscope"])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritingHub]:
    """Both hubs at one address, and the token in the environment only."""
    made = WritingHub()
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ONECARD_HUB", "USE_MODELSCOPE_HUB"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_ENDPOINT", made.address)
    monkeypatch.setenv("MODELSCOPE_DOMAIN", made.address)
    monkeypatch.delenv("MODELSCOPE_ENDPOINT", raising=False)
    yield made
    if made.faults.hold is not None:
        made.faults.hold.set()
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real PEFT adapter of the tiny model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


@pytest.fixture
def export(tmp_path: Path, adapter: Path) -> Path:
    """A folder as an export of an adapter leaves it: the adapter, a card, a receipt, the facts."""
    folder = tmp_path / "home" / "exports" / "xiaohe-adapter"
    shutil.copytree(adapter, folder)
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n\n# 小禾\n\n检验：绿色\n", encoding="utf-8")
    (folder / "receipt.json").write_text("{}", encoding="utf-8")
    storage.write_json(folder / "export.json", {"name": "xiaohe", "format": "adapter"})
    return folder


def sent(plan: Plan, stop: threading.Event | None = None, told: list[tuple[int, int]] | None = None) -> Pushed | None:
    heard = told if told is not None else []
    return push.push(
        plan, stop or threading.Event(), lambda name, done, total: heard.append((done, total)), lambda attempt: 0.0
    )


def until(reached: Callable[[], bool]) -> None:
    """Wait for it, a minute at most."""
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def on_disk(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -- out


@HUBS
def test_an_export_arrives_whole_in_a_new_private_repository_in_one_commit(
    server: WritingHub, export: Path, name: str
) -> None:
    plan = push.prepare(export, name, "lab/xiaohe", True)  # type: ignore[arg-type]
    assert (plan.account, plan.private, plan.there) == ("ada", True, False)
    assert server.repos == {} and not any(method != "GET" for method, *_ in server.asked), "a plan writes nothing"
    told: list[tuple[int, int]] = []
    pushed = sent(plan, told=told)
    assert pushed is not None and pushed.page.endswith("lab/xiaohe")
    repo = server.repos["lab/xiaohe"]
    assert repo.private and len(repo.commits) == 1 and repo.files == on_disk(export)
    assert told[0][0] == 0 and told[-1] == (plan.parcel.nbytes, plan.parcel.nbytes) and told == sorted(told)


@HUBS
def test_what_is_sent_twice_replaces_files_and_sends_no_large_file_again(
    server: WritingHub, export: Path, name: str
) -> None:
    sent(push.prepare(export, name, "ada/x", True))  # type: ignore[arg-type]
    received = server.received
    (export / "README.md").write_text("---\n---\nnew", encoding="utf-8")
    plan = push.prepare(export, name, "ada/x", True)  # type: ignore[arg-type]
    assert plan.there and sent(plan) is not None
    assert server.received == received and server.repos["ada/x"].files["README.md"] == b"---\n---\nnew"


def test_a_large_file_goes_in_the_pieces_that_the_hub_asks_for(server: WritingHub, export: Path) -> None:
    server.part_bytes = 4000
    server.faults.status["POST /done"] = [(403, "no space")]
    with pytest.raises(ModelError, match=r"writing to ada/x \(HTTP 403\).*a place in ada,"):
        sent(push.prepare(export, "hf", "ada/x", True))
    assert (export / WEIGHTS).stat().st_size > 2 * server.part_bytes
    assert sent(push.prepare(export, "hf", "ada/x", True)) is not None
    assert server.repos["ada/x"].files == on_disk(export)


def test_only_what_programs_load_is_sent_and_the_rest_is_named(
    server: WritingHub, export: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    (export / "config.json").symlink_to(tmp_path / "secret.txt")
    for extra in (".env", "adapter_model.bin", "notes.txt"):
        (export / extra).write_text("no")
    (export / "sub").mkdir()
    config = json.loads((export / "adapter_config.json").read_text())
    addresses = "http://127.0.0.1:8000/v1/chat and/or https://a.b/tmp/c, ./x/y, ~/a/b, /nowhere/at/all"
    with (export / "README.md").open("a", encoding="utf-8") as card:
        card.write(f"vllm serve '{tmp_path}/base' {addresses} `{tmp_path}/base`\n")
    plan = push.prepare(export, "hf", "ada/x", True)
    assert plan.parcel.left == (".env", "adapter_model.bin", "config.json", "notes.txt", "sub/")
    of_here = (("README.md", f"{tmp_path}/base"), ("adapter_config.json", config["base_model_name_or_path"]))
    assert plan.parcel.told == of_here, "paths of this machine"
    assert sent(plan) is not None
    assert set(server.repos["ada/x"].files) == {
        "README.md",
        "adapter_config.json",
        WEIGHTS,
        "export.json",
        "receipt.json",
    }


def test_the_clients_own_program_writes_to_the_stand_in_too(
    server: WritingHub, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what our requests are tested against is Hugging Face's interface and not a picture of it."""
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    api = HfApi(endpoint=server.address, token=TOKEN)
    assert api.whoami()["name"] == "ada"
    for server.part_bytes, name in ((0, "ada/one"), (4000, "ada/two")):
        api.create_repo(name, private=True)
        (export / WEIGHTS).write_bytes((export / WEIGHTS).read_bytes() + name.encode())
        api.upload_folder(repo_id=name, folder_path=export)
        assert server.repos[name].private and server.repos[name].files == on_disk(export)


def test_modelscopes_own_program_writes_to_the_stand_in_too(
    server: WritingHub, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_of = pytest.importorskip("modelscope_hub.api", reason="pip install modelscope-hub: ModelScope's own client")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    api = api_of.HubApi(token=TOKEN, endpoint=server.address)
    api.create_repo("ada/x", "model", visibility="private")
    api.upload_folder(repo_id="ada/x", repo_type="model", folder_path=export)
    assert server.repos["ada/x"].private and server.repos["ada/x"].files == on_disk(export)


# -- nothing happens unconfirmed


def test_what_changed_after_it_was_confirmed_is_not_sent(server: WritingHub, export: Path) -> None:
    plan = push.prepare(export, "hf", "ada/x", True)
    (export / "README.md").write_text("another", encoding="utf-8")
    with pytest.raises(ConfigError, match="changed after you confirmed"):
        sent(plan)
    again = push.prepare(export, "hf", "ada/x", True)
    server.repos["ada/x"] = Repo(private=True)
    with pytest.raises(ConfigError, match="changed after you confirmed"):
        sent(again)
    pushes = Pushes(export.parent)
    with pytest.raises(ConfigError, match="changed after you confirmed"):
        pushes.start(export.name, "hf", "ada/x", True, again.seal)
    with pytest.raises(ConfigError, match="no export"):
        pushes.plan("../exports/xiaohe-adapter", "hf", "ada/x", True)
    assert server.repos["ada/x"].files == {} and not server.blobs


@HUBS
def test_nothing_private_goes_where_others_see_it(server: WritingHub, export: Path, name: str) -> None:
    server.repos["ada/open"] = Repo(private=False)
    with pytest.raises(ConfigError, match="is public"):
        push.prepare(export, name, "ada/open", True)  # type: ignore[arg-type]
    plan = push.prepare(export, name, "ada/new", True)  # type: ignore[arg-type]
    server.faults.always_public = True
    with pytest.raises(ModelError, match="did not make ada/new private"):
        sent(plan)
    assert server.repos["ada/new"].files == {} and not server.blobs
    opened = push.prepare(export, name, "ada/open", False)  # type: ignore[arg-type]
    assert not opened.private and sent(opened) is not None


@pytest.mark.parametrize(
    "repository", ["xiaohe", "ada/", "ada/a/b", "ada/x.git", "ada/a..b", "阿达/小禾", " /x", "ada/x y"]
)
def test_what_is_no_repository_is_refused(server: WritingHub, export: Path, repository: str) -> None:
    with pytest.raises(ConfigError, match=r"is no repository. It looks like ada/"):
        push.prepare(export, "hf", repository, True)


def test_what_is_no_export_is_refused(tmp_path: Path, server: WritingHub, export: Path) -> None:
    with pytest.raises(ModelError, match="There is no folder"):
        parcel.read(tmp_path / "none")
    (export / "README.md").unlink()
    with pytest.raises(ModelError, match="is no export"):
        parcel.read(export)
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    (zipped / "README.md").touch()
    (zipped / "x.zip").touch()
    with pytest.raises(ModelError, match="holds a zip"):
        parcel.read(zipped)


# -- what goes wrong is said


def test_without_a_token_nothing_is_asked(server: WritingHub, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(variable)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match=r"no token for Hugging Face.*hf auth login"):
        push.prepare(export, "hf", "ada/x", True)
    with pytest.raises(ConfigError, match=r"no token for ModelScope|no token for 魔搭"):
        push.prepare(export, "modelscope", "ada/x", True)
    assert server.asked == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    with pytest.raises(ConfigError, match="no https address"):
        push.prepare(export, "hf", "ada/x", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        push.prepare(export, "hf", "ada/x", True)


def test_modelscopes_own_login_is_read_by_its_own_library(
    server: WritingHub, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "modelscope_hub"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    login = f"class Config:\n    token = {TOKEN!r}\ndef get_default_config():\n    return Config()\n"
    (package / "config.py").write_text(login)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    for known in [module for module in sys.modules if module.startswith("modelscope_hub")]:
        monkeypatch.delitem(sys.modules, known)
    try:
        assert push.prepare(export, "modelscope", "ada/x", True).account == "ada"
    finally:
        for known in ("modelscope_hub", "modelscope_hub.config"):
            sys.modules.pop(known, None)


@HUBS
def test_a_hub_that_is_not_there_is_said(
    server: WritingHub, export: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.shutdown()
    server.server_close()
    monkeypatch.setattr("core.publish.wire._pause", lambda attempt: 0.0)
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:\d+ cannot be reached"):
        push.prepare(export, name, "ada/x", True)  # type: ignore[arg-type]


@HUBS
@pytest.mark.parametrize(
    ("where", "status", "said"),
    [
        ("GET /api/whoami", 401, "does not accept the token"),
        ("GET /openapi/v1/users", 401, "does not accept the token"),
        ("GET /openapi/v1/users", 429, "too many requests"),
        ("GET /api/whoami", 429, "too many requests"),
        ("models/ada/x/commit", 403, r"does not allow writing to ada/x .*“storage limit”"),
        ("models/ada/x/commit", 400, r"did not accept ada/x \(HTTP 400\).*“storage limit”"),
        ("models/ada/x/commit", 404, "has no ada/x"),
        ("objects/batch", 403, "does not allow writing"),
        ("objects/batch", 500, "HTTP 500"),
        ("PUT /store", 500, "broke off"),
    ],
)
def test_refusals_are_sentences_without_the_token(
    server: WritingHub, export: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str, status: int, said: str
) -> None:
    if ("whoami" in where and name != "hf") or ("openapi" in where and name != "modelscope"):
        return
    monkeypatch.setattr("core.publish.wire._pause", lambda attempt: 0.0)
    said_by_hub: dict[str, object] = {"error": "storage limit", "Message": f"storage limit {TOKEN}"}
    server.faults.status[where] = [(status, said_by_hub)] * 9
    with pytest.raises(UserError, match=said) as refused:
        sent(push.prepare(export, name, "ada/x", True))  # type: ignore[arg-type]
    assert TOKEN not in refused.value.text.en + refused.value.text.zh
    assert server.repos.get("ada/x", Repo(True)).files == {}, "nothing is visible before the one commit"


def test_a_refusal_in_a_success_is_a_refusal(server: WritingHub, export: Path) -> None:
    said: dict[str, object] = {"Code": 10030000009, "Success": False, "Message": f"policy {TOKEN}"}
    server.faults.status["/commit/master"] = [(200, said)]
    with pytest.raises(ModelError, match=r"did not accept ada/x \(10030000009\): “policy \[redacted\]”"):
        sent(push.prepare(export, "modelscope", "ada/x", True))


def test_a_token_that_may_only_read_and_a_foreign_owner_are_said_before_anything_is_sent(
    server: WritingHub, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"ada may not push in the name of google. There are: ada, lab"):
        push.prepare(export, "hf", "google/x", True)
    monkeypatch.setenv("HF_TOKEN", READING)
    with pytest.raises(ModelError, match="may only read"):
        push.prepare(export, "hf", "ada/x", True)
    assert server.repos == {}


@HUBS
def test_an_upload_that_breaks_off_is_taken_up_and_one_that_stays_broken_is_said(
    server: WritingHub, export: Path, name: str
) -> None:
    server.faults.break_after = [1000, 5000]
    assert sent(push.prepare(export, name, "ada/x", True)) is not None  # type: ignore[arg-type]
    assert server.repos["ada/x"].files == on_disk(export)
    server.blobs.clear()
    server.faults.break_after = [1000] * 5
    with pytest.raises(ModelError, match="Nothing was committed"):
        sent(push.prepare(export, name, "ada/y", True))  # type: ignore[arg-type]
    assert server.repos["ada/y"].files == {} and server.repos["ada/y"].commits == []
    assert sent(push.prepare(export, name, "ada/y", True)) is not None  # type: ignore[arg-type]


def test_the_commit_is_asked_for_once_where_it_may_have_been_made(server: WritingHub, export: Path) -> None:
    plan = push.prepare(export, "hf", "ada/x", True)
    server.faults.status["/commit/main"] = [(503, {}), (500, {"error": "boom"})]
    with pytest.raises(ModelError, match="HTTP 500"):
        sent(plan)
    assert sum("/commit/" in path for _, path, _ in server.asked) == 2, "again after a 503, not after a 500"


def test_a_file_that_goes_away_or_changes_meanwhile_is_said(server: WritingHub, export: Path) -> None:
    plan = push.prepare(export, "hf", "ada/x", True)
    server.faults.hold = threading.Event()
    failed: list[UserError] = []

    def work() -> None:
        try:
            sent(plan)
        except UserError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert server.held.wait(60)
    (export / "README.md").unlink()
    server.faults.hold.set()
    thread.join(60)
    assert isinstance(failed[0], StorageError) and "README.md cannot be read" in failed[0].text.en
    assert server.repos["ada/x"].files == {}


# -- who hears the token


def test_the_token_goes_to_the_hub_and_to_nobody_else(server: WritingHub, export: Path) -> None:
    import httpx

    wire = Wire(httpx.Client(), Hub("modelscope", "https://www.modelscope.cn"), TOKEN)
    heard = {
        "https://www.modelscope.cn/api": True, "https://lfs.modelscope.cn/x": True, "https://modelscope.cn/x": True,
        "http://www.modelscope.cn/api": False, "https://modelscope.cn.example/x": False, "https://notmodelscope.cn/x": False,
        "https://bucket.oss-cn-beijing.aliyuncs.com/x": False, "http://127.0.0.1:9/x": False,
    }  # fmt: skip
    assert {url: bool(wire.authority(url)) for url in heard} == heard
    assert wire.authority("https://www.modelscope.cn/api")["Cookie"] == f"m_session_id={TOKEN}"
    sent(push.prepare(export, "hf", "ada/x", True))
    stored = [key for method, path, key in server.asked if method == "PUT" or path.startswith("/done/")]
    assert stored and set(stored) == {None}, "an address that is signed needs no token"


def test_a_push_leaves_no_token_in_any_file(server: WritingHub, export: Path, tmp_path: Path) -> None:
    assert sent(push.prepare(export, "hf", "ada/x", True)) is not None
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


# -- in the background


def test_a_push_in_the_background_tells_how_far_it_is_and_is_cancelled(server: WritingHub, export: Path) -> None:
    pushes = Pushes(export.parent)
    plan = pushes.plan(export.name, "hf", "ada/x", True)
    server.faults.hold = threading.Event()
    pushes.start(export.name, "hf", "ada/x", True, plan.seal)
    assert server.held.wait(60) and pushes.active and pushes.name == export.name
    with pytest.raises(BusyError):
        pushes.start(export.name, "hf", "ada/x", True, pushes.plan(export.name, "hf", "ada/x", True).seal)
    pushes.stop()
    assert pushes.wait(20), "though the hub says nothing"
    server.faults.hold.set()
    ended = pushes.ended
    assert ended is not None and ended.found is None and ended.problem is None
    assert server.repos["ada/x"].files == {} and pushes.now is None
    again = pushes.plan(export.name, "hf", "ada/x", True)
    pushes.start(export.name, "hf", "ada/x", True, again.seal)
    assert pushes.wait(60)
    assert pushes.ended is not None and pushes.ended.found is not None
    assert server.repos["ada/x"].files == on_disk(export)


# -- back


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("hf::lab/xiaohe", AdapterId("lab/xiaohe", "hf")), (" ms::lab/xiaohe ", AdapterId("lab/xiaohe", "modelscope")),
        ("lab/xiaohe", AdapterId("lab/xiaohe")), ("xiaohe", None), ("hf::xiaohe", None), ("/a/b", None), ("a/b/c", None),
        ("hf::../x", None), ("hf::lab/x:sub", None), ("", None),
    ],
)  # fmt: skip
def test_ids_of_adapters(typed: str, found: AdapterId | None) -> None:
    assert adapter_id(typed) == found


def pulled(workspace: Workspace, typed: str, name: str = "") -> str:
    """The sentence of its end, "" where there is none."""
    wanted = adapter_id(typed)
    assert wanted is not None
    workspace.pulls.start(wanted, name)
    assert workspace.pulls.wait(60)
    ended = workspace.pulls.ended
    assert ended is not None
    return ended.problem.en if ended.problem is not None else ""


@pytest.mark.parametrize(("name", "prefix"), [("hf", "hf"), ("modelscope", "ms")])
def test_what_was_pushed_is_pulled_and_answers_the_same(
    server: WritingHub, export: Path, tmp_path: Path, name: str, prefix: str
) -> None:
    assert sent(push.prepare(export, name, "lab/xiaohe", True)) is not None  # type: ignore[arg-type]
    server.repos["lab/xiaohe"].files |= {"optimizer.pt": b"pickle", "run.py": b"code", "adapter_model.bin": b"pickle"}
    workspace = Workspace(tmp_path / "other")
    assert pulled(workspace, f"{prefix}::lab/xiaohe") == ""
    (choice,) = workspace.library.all()
    assert choice.name == "xiaohe" and choice.origin.startswith(f"{prefix}::lab/xiaohe@") and choice.problem is None
    assert choice.folder is not None and (choice.folder / WEIGHTS).read_bytes() == (export / WEIGHTS).read_bytes()
    assert {path.name for path in choice.folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        WEIGHTS,
        "onecard.json",
    }
    asked = [path for _, path, _ in server.asked]
    assert not any("pt" in path.rpartition(".")[2] or path.endswith((".py", ".bin")) for path in asked)
    assert not list((tmp_path / "other" / "cache").rglob("*.safetensors"))
    assert pulled(workspace, f"{prefix}::lab/xiaohe", "second") == "" and len(workspace.library.all()) == 2


def test_what_cannot_be_pulled_is_said_and_leaves_nothing(
    server: WritingHub, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = on_disk(export)
    server.repos |= {
        "lab/model": Repo(False, {"config.json": b"{}", "model.safetensors": b"x"}),
        "lab/pickled": Repo(False, {"adapter_config.json": b"{}", "adapter_model.bin": b"x"}),
        "lab/broken": Repo(False, files | {WEIGHTS: files[WEIGHTS][:-100]}),
        "lab/long": Repo(False, files | {"README.md": b"x" * 5_000_000}),
        "lab/secret": Repo(True, files),
    }
    workspace = Workspace(tmp_path / "other")
    assert "It is a whole model" in pulled(workspace, "hf::lab/model")
    assert "pickled weights only (adapter_model.bin" in pulled(workspace, "hf::lab/pickled")
    assert f"{WEIGHTS} is damaged" in pulled(workspace, "hf::lab/broken")
    assert "README.md of lab/long has 5 MB, the limit is 4 MB" in pulled(workspace, "hf::lab/long")
    assert "has no lab/none" in pulled(workspace, "ms::lab/none")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "or it is private" in pulled(workspace, "hf::lab/secret")
    assert pulled(workspace, "ms::lab/secret") == "", "ModelScope's token is still there"
    workspace.library.delete("secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in pulled(workspace, "hf::lab/model")
    assert workspace.library.all() == [] and all(
        left.name.endswith(".gone") for left in (tmp_path / "other" / "adapters").iterdir()
    ), "nothing but what can be brought back"


def test_a_pull_is_cancelled_and_goes_on_where_it_was(server: WritingHub, export: Path, tmp_path: Path) -> None:
    server.repos["lab/x"] = Repo(False, on_disk(export))
    workspace = Workspace(tmp_path / "other")
    server.faults.hold = threading.Event()
    workspace.pulls.start(AdapterId("lab/x", "hf"))
    assert server.held.wait(60)
    size = (export / WEIGHTS).stat().st_size
    until(lambda: (now := workspace.pulls.now) is not None and now.done >= size // 2)
    workspace.pulls.stop()
    server.faults.hold.set()
    assert workspace.pulls.wait(60)
    ended = workspace.pulls.ended
    assert ended is not None and ended.found is None and ended.problem is None and workspace.library.all() == []
    server.faults.hold = None
    assert pulled(workspace, "hf::lab/x") == ""
    (choice,) = workspace.library.all()
    assert choice.folder is not None and (choice.folder / WEIGHTS).read_bytes() == (export / WEIGHTS).read_bytes()


# -- on the command line


def command(*given: str, home: Path, answer: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **variables}
    words = [sys.executable, str(ROOT / "app.py"), "--home", str(home), *given]
    return subprocess.run(
        words, cwd=home.parent, capture_output=True, text=True, timeout=120, env=environment, input=answer
    )


def test_push_and_pull_as_commands(server: WritingHub, export: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    asked = ("push", "--to", "hf", "--repo", "ada/x", str(export))
    unconfirmed = command(*asked, home=home, answer="")
    assert unconfirmed.returncode == 2 and "--yes" in unconfirmed.stderr and server.repos == {}
    for shown in ("to Hugging Face", "as ada", "ada/x: private; it is made now", WEIGHTS, "5 files"):
        assert shown in unconfirmed.stderr
    done = command(*asked, "--yes", "--json", home=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["page"] == f"{server.address}/ada/x" and server.repos["ada/x"].files == on_disk(
        export
    )
    back = command("pull", "hf::ada/x", "--json", home=tmp_path / "other")
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["id"] == "x"
    wrong = command("pull", "nothing", home=tmp_path / "other")
    assert wrong.returncode == 2 and "is no adapter's id" in wrong.stderr
    assert TOKEN not in done.stdout + done.stderr + back.stdout + back.stderr


def test_ctrl_c_ends_a_push_with_nothing_committed(server: WritingHub, export: Path, tmp_path: Path) -> None:
    server.faults.hold = threading.Event()
    words = [sys.executable, str(ROOT / "app.py"), "push", "--yes", "--to", "hf", "--repo", "ada/x", str(export)]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert server.held.wait(60)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1 and "nothing was committed" in said
    assert server.repos["ada/x"].files == {}


# -- on the page


@pytest.fixture
def page(server: WritingHub, export: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A page over the home that holds the export."""
    workspace = Workspace(export.parents[1])
    yield Page(workspace, "en", Edits(workspace))
    assert workspace.close(60)


def test_the_dialog_names_all_that_is_confirmed_and_sends_only_that(
    server: WritingHub, export: Path, page: Page
) -> None:
    form: dict[str, object] = {"export": export.name, "hub": "modelscope", "repo": "ada/x", "private": "yes"}
    who = account_state(page, form)
    assert (who["account"], who["repo"], who["said"]) == ("As ada", "ada/xiaohe-adapter", "")
    (export / "<b>.txt").touch()
    plan = plan_state(page, form)
    for shown in ("ada/x", "made now", "Private", WEIGHTS, "5, ", "&lt;b&gt;.txt", "Apache-2.0", "of this machine"):
        assert shown in str(plan["html"]), shown
    on_the_terminal = [
        publish_command.shown(push.prepare(export, hub, "ada/x", True)).en for hub in ("modelscope", "hf")
    ]
    assert ["Apache-2.0" in told for told in on_the_terminal] == [True, False], "a hub's own default is said there, too"
    assert plan_state(page, form | {"repo": "x"})["said"] and push_state(page, export.name)["active"] is False
    dialog = PublishDialog(page)
    press = {**form, "act": "send", "seal": "another"}
    assert "changed after you confirmed" in json.loads(dialog.on_pressed(SimpleNamespace(**press)))["said"]
    assert server.repos == {}
    assert json.loads(dialog.on_pressed(SimpleNamespace(**press | {"seal": plan["seal"]})))["said"] == ""
    assert page.workspace.pushes.wait(60)
    assert push_state(page, export.name)["page"] == f"{server.address}/models/ada/x" and server.repos["ada/x"].commits


def test_the_dialog_says_how_far_a_push_is_and_that_it_was_cancelled(
    server: WritingHub, export: Path, page: Page
) -> None:
    form: dict[str, object] = {"export": export.name, "hub": "hf", "repo": "ada/x", "private": "yes"}
    dialog, seal = PublishDialog(page), plan_state(page, form)["seal"]
    server.faults.hold = threading.Event()
    dialog.on_pressed(SimpleNamespace(**form, act="send", seal=seal))
    assert server.held.wait(60)
    until(lambda: "Sending" in str(push_state(page, export.name)["way"]))
    assert push_state(page, "another")["busy"] == f"{export.name} is being sent. Wait for it to end."
    dialog.on_pressed(SimpleNamespace(**form, act="cancel"))
    assert page.workspace.pushes.wait(20)
    assert "nothing was committed" in str(push_state(page, export.name)["said"])


def test_an_id_in_the_librarys_field_is_fetched_and_its_end_is_said(
    server: WritingHub, export: Path, page: Page
) -> None:
    server.repos["lab/x"] = Repo(False, on_disk(export))
    library = Library(page)
    for typed, said in (("ms::lab/none", "has no lab/none"), (" ms::lab/x ", "“x”")):
        assert json.loads(library.on_bring(SimpleNamespace(folder=typed)))["pulling"]
        assert page.workspace.pulls.wait(60)
        assert said in json.loads(library.on_pulled())["said"]
    assert "There is no folder" in json.loads(library.on_bring(SimpleNamespace(folder="lab/x")))["said"]
