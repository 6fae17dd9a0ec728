"""The page without a browser: its strings, its form, the guard at the door, and what the server answers."""

from __future__ import annotations

import ast
import asyncio
import string
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from core import config
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row
from core.errors import ConfigError, DatasetError, UserError
from core.run import Run
from core.workspace import Workspace
from ui import locale, prepare_environment
from ui.edits import Edits
from ui.guard import Guard

UI = Path(__file__).resolve().parent.parent / "ui"
LOCAL = {"127.0.0.1", "localhost", "::1"}

prepare_environment()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    from ui.server import create_app

    home = tmp_path_factory.mktemp("home")
    return TestClient(create_app(Workspace(home), LOCAL), base_url="http://127.0.0.1:7860", follow_redirects=False)


# Strings


def _constants() -> tuple[set[str], set[str]]:
    """Every string constant of ui/*.py, and those that are handed to t()."""
    constants, asked = set(), set()
    for path in UI.glob("*.py"):
        if path.name == "locale.py" or path.name.startswith("words_"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                constants.add(node.value)
            if isinstance(node, ast.Call) and (getattr(node.func, "attr", "") or getattr(node.func, "id", "")) == "t":
                asked |= {a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return constants, asked


def test_every_string_is_used_and_every_string_asked_for_exists() -> None:
    constants, asked = _constants()
    known = set(locale.table())
    assert asked - known == set()
    assert known - constants == set()


def test_both_languages_take_the_same_values() -> None:
    def braces(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}

    for key, text in locale.table().items():
        assert text.zh.strip() and text.en.strip(), key
        assert braces(text.zh) == braces(text.en), key


# The form


def test_a_config_shown_in_the_form_and_read_back_is_the_same() -> None:
    from ui import fields

    before = TrainConfig(
        model="pocket", learning_rate=2.5e-05, lora_rank=16, max_steps=7, system="你好", mix="general#10"
    )
    assert fields.read(fields.show(before), before) == before


def test_the_form_has_a_field_for_every_setting_that_is_not_hidden() -> None:
    from ui import fields

    shown = {name for name in config.names() if config.fact_of(name).group != "hidden"}
    assert set(fields.visible_names()) == shown


@pytest.mark.parametrize("typed", ["abc", "nan", "inf", "-1", "", None, [], True])
def test_what_is_no_learning_rate_is_refused_by_name(typed: object) -> None:
    from ui import fields

    values: list[object] = list(fields.show(TrainConfig()))
    values[fields.visible_names().index("learning_rate")] = typed
    with pytest.raises(ConfigError) as caught:
        fields.read(values, TrainConfig())
    assert caught.value.field == "learning_rate"


@pytest.mark.parametrize(
    "number", [1 / 3e4, 1.234567891e-4, 0.1 + 0.2, 12.3456789, 1e-4, 5e-324, 0.0, 1e16, 123456789.0]
)
def test_a_number_in_the_form_keeps_every_digit(number: float) -> None:
    from ui.fields import shown

    assert float(shown("learning_rate", number)) == number


def test_small_numbers_look_as_people_write_them() -> None:
    from ui import fields

    shown = dict(zip(fields.visible_names(), fields.show(TrainConfig(learning_rate=1e-4)), strict=True))
    assert shown["learning_rate"] == "1e-4"
    assert fields.show(TrainConfig(learning_rate=2.5e-5))[fields.visible_names().index("learning_rate")] == "2.5e-5"


# The guard

HOSTS = {
    "127.0.0.1:7860": True,
    "localhost:7860": True,
    "[::1]:7860": True,
    "evil.example": False,
    "evil.example@127.0.0.1": False,
    "127.0.0.1.evil.example:7860": False,
}


def _guarded(**rest: object) -> TestClient:
    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route("/", echo, methods=["GET", "POST"])])
    return TestClient(Guard(app, LOCAL, **rest))  # type: ignore[arg-type]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("origin", ["none", "same", "http://evil.example", "null"])
def test_only_our_own_hosts_and_pages_get_in(host: str, origin: str) -> None:
    headers = {"host": host}
    if origin != "none":
        headers["origin"] = f"http://{host}" if origin == "same" else origin
    expected = 421 if not HOSTS[host] else (200 if origin in ("none", "same") else 403)
    for method in ("GET", "POST"):
        answer = _guarded().request(method, "/", headers=headers)
        assert answer.status_code == expected
        assert "access-control-allow-origin" not in answer.headers


def test_a_page_on_another_port_of_this_machine_is_foreign() -> None:
    headers = {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:3000"}
    assert _guarded().post("/", headers=headers).status_code == 403


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://]", "//", ""])
def test_an_origin_that_is_none_is_foreign(origin: str) -> None:
    assert _guarded().get("/", headers={"host": "localhost", "origin": origin}).status_code == 403


def test_a_large_body_is_refused_with_and_without_its_length() -> None:
    client, headers = _guarded(max_body_bytes=1000), {"host": "localhost"}
    assert client.post("/", headers=headers, content=b"x" * 1000).text == "1000"
    assert client.post("/", headers=headers, content=b"x" * 1001).status_code == 413
    assert client.post("/", headers=headers, content=(b"x" * 400 for _ in range(4))).status_code == 413
    assert client.post("/", headers=headers | {"content-length": "-5"}).status_code in (400, 413)


def test_with_a_password_nothing_is_answered_without_it() -> None:
    client, headers = _guarded(password="geheim 密码"), {"host": "localhost"}
    assert client.get("/", headers=headers).status_code == 401
    assert client.get("/", headers=headers, auth=("any", "wrong")).status_code == 401
    assert client.get("/", headers=headers | {"authorization": "Basic %%%"}).status_code == 401
    import base64

    good = base64.b64encode("any:geheim 密码".encode()).decode()
    assert client.get("/", headers=headers | {"authorization": f"Basic {good}"}).status_code == 200


# The server


def test_health_names_version_model_and_run(client: TestClient) -> None:
    facts = client.get("/healthz").json()
    assert facts["status"] == "ok" and facts["run"] is None
    assert {"version", "model", "device"} <= set(facts)


@pytest.mark.parametrize(
    ("accept", "cookie", "page"),
    [
        ("", "", "/zh/"),
        ("en-GB,en;q=0.9", "", "/en/"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "", "/zh/"),
        ("fr-FR,fr;q=0.9,en;q=0.5", "", "/en/"),
        ("en-US", "zh", "/zh/"),
        ("zh-CN", "en", "/en/"),
        ("zh-CN", "../evil", "/zh/"),
    ],
)
def test_the_first_page_is_in_the_reader_s_language(client: TestClient, accept: str, cookie: str, page: str) -> None:
    headers = {"accept-language": accept} | ({"cookie": f"onecard_language={cookie}"} if cookie else {})
    answer = client.get("/", headers=headers)
    assert answer.status_code == 307 and answer.headers["location"] == page


@pytest.mark.parametrize("path", ["/zh/", "/en/", "/favicon.ico", "/static/onecard.css", "/static/plotly.min.js"])
def test_pages_and_files_are_there_under_a_policy_that_forbids_the_outside(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("name", ["../server.py", "..%2fserver.py", "nothing.js", "%2e%2e/server.py"])
def test_only_known_static_files_are_served(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


def test_a_dataset_is_exported_by_its_exact_name_only(client: TestClient) -> None:
    name = "identity-50"
    for kind in ("json", "jsonl", "csv", "messages"):
        answer = client.get(f"/export/dataset/{name}.{kind}")
        assert answer.status_code == 200 and answer.content
        assert answer.headers["content-disposition"].startswith("attachment")
    for path in (
        f"{name}.exe",
        "none.json",
        "..%2f..%2fetc%2fpasswd.json",
        f"%2e%2f{name}.json",
        f"{name.upper()}.json",
    ):
        assert client.get(f"/export/dataset/{path}").status_code == 404
    assert client.get("/export/adapter/..%2f..%2fruns.zip").status_code == 404


def test_an_adapter_is_one_zip_of_its_folder(tmp_path: Path) -> None:
    import io
    import zipfile

    from ui.server import create_app

    workspace = Workspace(tmp_path)
    run = Run.create(tmp_path / "runs" / "r1", TrainConfig(), [Row("a", "", "b")], "r", "d")
    (run.folder / "adapter").mkdir()
    (run.folder / "adapter" / "adapter_config.json").write_text("{}")
    client = TestClient(create_app(workspace, LOCAL), base_url="http://127.0.0.1")
    answer = client.get("/export/adapter/r1.zip")
    assert answer.status_code == 200
    assert zipfile.ZipFile(io.BytesIO(answer.content)).namelist() == ["r1/adapter_config.json"]


def test_a_port_in_use_is_said_with_a_way_out(workspace: Workspace) -> None:
    import socket

    from ui.server import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port + 1}"):
            serve(workspace, port=port, open_browser=False)


def test_other_machines_need_a_password(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from ui.server import serve

    monkeypatch.delenv("ONECARD_PASSWORD", raising=False)
    with pytest.raises(UserError, match="ONECARD_PASSWORD"):
        serve(workspace, host="0.0.0.0", open_browser=False)


ADDRESSES = {
    "127.0.0.1": ("http://127.0.0.1:7860", []),
    "127.0.0.2": ("http://127.0.0.2:7860", []),
    "localhost": ("http://localhost:7860", []),
    "::1": ("http://[::1]:7860", []),
    "[::1]": ("http://[::1]:7860", []),
    "192.168.7.5": ("http://192.168.7.5:7860", []),
    "0.0.0.0": ("http://127.0.0.1:7860", ["http://192.168.7.5:7860"]),
    "::": ("http://127.0.0.1:7860", ["http://192.168.7.5:7860", "http://[2001:db8::5]:7860"]),
}


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one network card beside the loopback, and one host name of its own choice."""
    import socket
    from types import SimpleNamespace

    import psutil

    entries = (socket.AF_INET, "192.168.7.5"), (socket.AF_INET6, "2001:db8::5"), (socket.AF_INET6, "fe80::5%eth0")
    addresses = [SimpleNamespace(family=family, address=address) for family, address in entries]
    loopback = [SimpleNamespace(family=socket.AF_INET, address="127.0.0.1")]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"lo": loopback, "eth0": addresses})
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    monkeypatch.setenv("ONECARD_HOSTS", "card.example, 10.0.0.9")


@pytest.mark.parametrize("host", ADDRESSES)
@pytest.mark.usefixtures("cards")
def test_the_printed_addresses_are_those_that_answer(host: str) -> None:
    from ui import address

    here, elsewhere = address.addresses(host, 7860)
    assert (here, elsewhere) == ADDRESSES[host]
    guard = Guard(Starlette(), address.host_names(host))
    for page in (here, *elsewhere, "http://card.example", "http://10.0.0.9:80"):
        assert guard.refusal(Headers({"host": page.removeprefix("http://")})) is None, page
    assert guard.refusal(Headers({"host": "evil.example"})) is not None


@pytest.mark.parametrize("how", ["not found", "cancelled"])
def test_a_stream_for_a_page_that_has_gone_ends_without_an_error(how: str) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"data: the last word\n\n"
        if how == "cancelled":
            raise KeyError("visit") from asyncio.CancelledError()
        raise HTTPException(404)

    routes = [
        Route(path, lambda _request: StreamingResponse(stream())) for path in ("/gradio_api/queue/data", "/other")
    ]
    page = TestClient(Guard(Starlette(routes=routes), LOCAL), base_url="http://localhost")
    assert page.get("/gradio_api/queue/data").text == "data: the last word\n\n"
    with pytest.raises((RuntimeError, KeyError)):
        page.get("/other")


def test_only_the_last_visits_are_remembered(tmp_path: Path) -> None:
    from ui.server import create_app

    app = create_app(Workspace(tmp_path))
    pages = [held for route in app.routes if (held := getattr(getattr(route, "app", None), "state_holder", None))]
    assert len(pages) == 2
    for page in pages:
        for visit in range(60):
            assert page[f"visit-{visit}"] is not None
        assert list(page.session_data) == [f"visit-{visit}" for visit in range(28, 60)]
        queue = page.blocks._queue
        waiting = queue.pending_messages_per_session
        for visit in range(80):
            waiting[f"visit-{visit}"] = None
            assert waiting["visit-0"] is None  # one that is answered all the while
        assert list(waiting) == [*(f"visit-{visit}" for visit in range(17, 79)), "visit-79", "visit-0"]
        assert queue.ANALYTICS_MAX_EVENTS == 1 and queue.ANAYLTICS_CACHE_FREQUENCY > 10**9, "no table after every event"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::", "::1", "127.0.0.2"])
def test_what_listens_is_reached_under_the_printed_address(host: str) -> None:
    import socket
    from urllib.parse import urlsplit

    from ui import address

    try:
        listener = address.listen(host, 0)
    except UserError:
        pytest.skip(f"this machine has no {host}")
    with listener:
        listener.listen()
        here = urlsplit(address.addresses(host, listener.getsockname()[1])[0])
        socket.create_connection((here.hostname, here.port), timeout=2).close()


def test_the_mode_that_lets_visitors_run_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_VIBE_MODE", "1")
    with pytest.raises(UserError, match="GRADIO_VIBE_MODE"):
        prepare_environment()


def test_a_proxy_never_stands_before_our_own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("NO_PROXY", "example.org")
    prepare_environment()
    prepare_environment()
    assert os.environ["NO_PROXY"] == "example.org,localhost,127.0.0.1,::1"


def test_opening_the_page_imports_no_torch() -> None:
    code = (
        "import sys, pathlib, tempfile; import app; from core.workspace import Workspace; from ui.server import create_app;"
        "create_app(Workspace(pathlib.Path(tempfile.mkdtemp())));"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=UI.parent, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


# Two pages on one table


def test_a_page_that_did_not_see_the_other_s_edit_cannot_overwrite_it(workspace: Workspace) -> None:
    edits, name = Edits(workspace), workspace.create("t", [Row("q", "", "a")]).name
    for page in ("one", "two"):
        edits.open(page, name)
    mine, theirs = Dataset(name, (Row("mine", "", "a"),)), Dataset(name, (Row("theirs", "", "a"),))
    assert edits.save("one", mine)
    assert edits.save("one", mine)  # the same again is no conflict
    assert not edits.save("two", theirs)
    assert workspace.dataset(name).rows[0].instruction == "mine"
    assert edits.save("two", theirs, force=True)
    assert not edits.save("one", mine.with_rows([Row("again", "", "a")]))
    edits.open("one", name)
    assert edits.save("one", mine)


def test_a_page_open_since_before_the_server_restarted_may_still_save(workspace: Workspace) -> None:
    name = workspace.create("t").name
    edits = Edits(workspace)
    assert edits.save("old page", Dataset(name, (Row("q", "", "a"),), Identity("小禾")))
    assert not edits.save("another old page", Dataset(name, (Row("x", "", "y"),)))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "nothing", ""])
def test_a_table_that_is_not_listed_is_never_written(workspace: Workspace, name: str) -> None:
    with pytest.raises(DatasetError):
        Edits(workspace).save("page", Dataset(name, ()))


def test_a_table_that_another_page_removed_does_not_hold_this_one(workspace: Workspace) -> None:
    data, *_ = _tabs(workspace)
    first, second = workspace.create("first").name, workspace.create("second").name
    held = (first, [Row("q", "", "a")], "", "", "", "")
    data.page.edits.open(_Visit.session_hash, first)
    workspace.delete(first)
    assert data.on_pick(_Visit, second, *held)[data.shown] == second
    assert data.on_new(_Visit, "third", *held)[data.shown] == "third"
    for handler in (data.on_rename, data.on_delete):
        assert handler(_Visit, "other", *held)[data.shown] in workspace.datasets()


def test_a_conflict_is_shown_whatever_was_asked_for(workspace: Workspace) -> None:
    data, *_ = _tabs(workspace)
    name = workspace.create("t").name
    for page in (_Visit.session_hash, "other"):
        data.page.edits.open(page, name)
    assert data.page.edits.save("other", Dataset(name, (Row("theirs", "", "a"),)))
    held = (name, [Row("mine", "", "a")], "", "", "", "")
    for handler, asked in ((data.on_pick, "identity-50"), (data.on_new, "u"), (data.on_rename, "u")):
        shown = handler(_Visit, asked, *held)
        assert shown[data.conflict]["visible"] and shown[data.picker] == name
    assert workspace.dataset(name).rows[0].instruction == "theirs"


def test_a_curve_read_at_once_is_smoothed_as_the_one_that_was_followed(tmp_path: Path) -> None:
    from ui.follow import Follow
    from ui.page import Page

    workspace = Workspace(tmp_path)
    run = Run.create(tmp_path / "runs" / "r1", TrainConfig(), [Row("a", "", "b")], "r", "d")
    follow, live = Follow(Page(workspace, "en", Edits(workspace))), {}
    run = workspace.run("r1")
    for step in range(1, 2001):
        run.events.append({"type": "step", "step": step, "loss": 2.0 / step + (step * 7 % 13) / 13})
        if step % 5 == 0:
            news = follow.metrics({"run": "r1", "cursor": len(run.events) - 5})
            live |= {at: smoothed for at, _, smoothed in news["points"]}  # type: ignore[union-attr]
    points = follow.metrics({"run": "r1", "cursor": 0})["points"]
    assert len(live) == 2000 and len(points) <= 600  # type: ignore[arg-type]
    assert all(live[at] == smoothed for at, _, smoothed in points)  # type: ignore[union-attr]


def test_an_interrupted_run_says_where_its_checkpoints_are(tmp_path: Path) -> None:
    from ui.follow import Follow
    from ui.page import Page

    workspace = Workspace(tmp_path)
    Run.create(tmp_path / "runs" / "r1", TrainConfig(), [Row("a", "", "b")], "r", "d")
    workspace.run("r1").events.append({"type": "step", "step": 7, "loss": 1.0})
    follow = Follow(Page(workspace, "en", Edits(workspace)))
    assert "step 7" in follow.draw_head("r1") and "checkpoints" not in follow.draw_head("r1")
    assert "again from step 0" in follow.draw_head("r1") and "Adapters kept" not in follow.draw_head("r1")
    for number in (2, 5, 6):
        kept = tmp_path / "runs" / "r1" / "probed" / f"step-{number:06d}"
        kept.mkdir(parents=True)
        (kept / "adapter_model.safetensors").touch()
    assert "(steps 2, 5, 6)" in follow.draw_head("r1")
    saved = tmp_path / "runs" / "r1" / "checkpoints" / "step-000005"
    saved.mkdir(parents=True)
    (saved / "trainer.json").touch()
    assert str(saved.parent) in follow.draw_head("r1") and "from the checkpoint of step 5" in follow.draw_head("r1")
    assert "(steps 6)" in follow.draw_head("r1") and "step 0" not in follow.draw_head("r1")


def test_without_a_card_no_preset_that_needs_one_is_chosen(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.device import Device

    workspace._model = "elsewhere/other-7b"  # not the pocket model, whose preset needs no card anyway
    for kind, marked in (("cpu", True), ("cuda", False)):
        monkeypatch.setattr(workspace.engine, "device", Device(kind, "d", 24_000_000_000))  # type: ignore[arg-type]
        _, train, *_ = _tabs(workspace)
        needing = {preset.id for preset in workspace.presets() if preset.cuda}
        assert (train.preset.value in needing) != marked
        assert {key for text, key in train.preset.choices if "needs a card" in text} == (needing if marked else set())


# Answers


def test_gradio_s_two_shapes_of_a_turn_read_the_same() -> None:
    from ui import talk

    blocks = {"role": "user", "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]}
    assert talk.text_of(blocks) == talk.text_of({"role": "user", "content": "你好"}) == "你好"
    asked = talk.asked(talk.plain([blocks]), "在吗?")  # the unanswered question gives way
    assert [turn["content"] for turn in asked] == ["在吗?"]
    assert [(m.role, m.content) for m in talk.messages(" 系统 ", asked)] == [("system", "系统"), ("user", "在吗?")]


def test_stop_reaches_the_answer_of_its_own_page_only() -> None:
    from ui.talk import Stops

    stops = Stops()
    one, two = stops.begin("one"), stops.begin("two")
    stops.stop("one")
    assert one.is_set() and not two.is_set()
    later = stops.begin("two")
    assert two.is_set() and not later.is_set()
    assert not stops.finish("two")  # the old answer's end is told late
    stops.stop("two")
    assert isinstance(later, threading.Event) and later.is_set()


class _Visit:
    """As much of a gradio request as the handlers read."""

    session_hash = "visit"


def _tabs(workspace: Workspace) -> tuple[object, object, object, object]:
    """(data, train, compare, chat) of one English page."""
    import gradio as gr

    from ui.chat import ChatTab
    from ui.compare import CompareTab
    from ui.data import DataTab
    from ui.page import Page
    from ui.train import TrainTab

    page = Page(workspace, "en", Edits(workspace))
    with gr.Blocks():
        return DataTab(page), TrainTab(page), CompareTab(page), ChatTab(page)


def _situation(compare: object) -> list[object]:
    """What the fresh Compare tab sends: session, columns, system prompt, sampling, and five values a column."""
    from core.comparison import Session

    return [Session(), 2, "", 0, 1, 0, 1, 16, 0, *(["", 1.0, False, "", []] * 6)]


def test_a_cleared_conversation_stays_empty_whenever_the_clearing_comes(workspace: Workspace) -> None:
    from core.comparison import Session
    from core.generate import Column, Reply, Sampling

    def answer(columns: list[Column], _: Sampling, __: threading.Event) -> object:
        for text in ("a", "ab", "abc"):
            yield [Reply(text, 1, 2, 0.1, 1.0, done=text == "abc") for _ in columns]

    workspace.answer = answer  # type: ignore[method-assign, assignment]
    _, _, compare, chat = _tabs(workspace)
    asks = {
        chat: lambda: chat.on_ask(_Visit, "q", [], "", "", 0.0, 16),
        compare: lambda: compare.on_ask(_Visit, None, "q", False, False, *_situation(compare)),
    }
    for tab, ask in asks.items():
        conversation = tab.chat if tab is chat else tab.sides[0].chat
        cleared = (_Visit, "", "", False) if tab is chat else (_Visit, Session())
        shown = list(ask())
        assert shown[-1][conversation][-1]["content"] == "abc"
        assert conversation not in tab.on_done(_Visit)
        for seen in range(1, len(shown) + 1):  # cleared after so many updates, the last time before the end is told
            answering = ask()
            for _ in range(seen):
                next(answering)
            assert tab.on_clear(*cleared)[conversation] == []
            assert all(update[conversation] == [] for update in answering)
            assert tab.on_done(_Visit)[conversation] == []
        answering = ask()
        next(answering), tab.on_clear(*cleared), list(answering)
        later = ask()  # asked again before the first end is told: that one must not empty it
        next(later)
        assert conversation not in tab.on_done(_Visit)


def test_a_folded_thought_is_no_part_of_the_conversation() -> None:
    import gradio as gr

    from ui import talk

    box = gr.Chatbot(reasoning_tags=talk.CHATBOT["reasoning_tags"])
    sent = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "one <think>hm</think> two"},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "<think>hm"},
    ]
    history = [message.model_dump() for message in box.postprocess(sent).root]
    assert len(history) == 6
    assert [(turn["role"], turn["content"]) for turn in talk.plain(history)] == [
        ("user", "q"), ("assistant", "one\n\ntwo"), ("user", "r")
    ]  # fmt: skip


def test_a_base_chosen_for_b_by_hand_stays_when_a_run_ends(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.comparison import Session
    from ui import talk

    _, _, compare, _ = _tabs(workspace)
    monkeypatch.setattr(talk, "choices", lambda page: [("base", ""), ("run", "r1")])
    monkeypatch.setattr(talk, "newest", lambda page: "r1")

    def picked(before: str, chosen: bool) -> str:
        sides = [["", 1.0, False, ""] for _ in range(6)]
        sides[1][0] = before
        sent = [Session(), 2, "", chosen, False, *(value for side in sides for value in side)]
        return compare.heads.on_changed(_Visit, *sent)[compare.pick_b].get("value", before)

    assert picked("", chosen=False) == "r1"
    assert picked("", chosen=True) == ""
    assert picked("gone", chosen=True) == "r1"


def test_nobody_else_answers_in_the_middle_of_a_chat_and_a_newer_one_is_told_of(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ui import talk

    chat = _tabs(workspace)[3]
    monkeypatch.setattr(talk, "choices", lambda page: [("the base", ""), ("run", "r1"), ("later run", "r2")])
    monkeypatch.setattr(talk, "newest", lambda page: "r2")
    said = [{"role": "user", "content": "q"}]

    def told(pick: str, chosen: bool, history: list[dict[str, object]]) -> tuple[object, object]:
        update = chat.on_changed(pick, "", chosen, history)[chat.pick]
        return update["value"], update["info"]

    assert told("r1", False, []) == ("r2", "")
    assert told("r1", False, said) == ("r1", "A newer adapter is there: later run")
    assert told("r1", True, said) == ("r1", "") and told("gone", True, said) == ("r2", "")
    assert chat.on_clear(_Visit, "r1", "", False)[chat.pick]["value"] == "r2"
    assert chat.on_clear(_Visit, "r1", "", True)[chat.pick]["value"] == "r1"


def test_errors_reach_the_page_in_its_language_and_without_internals() -> None:
    import gradio as gr

    from core.text import Text
    from ui.notify import shown

    @shown("zh")
    def refuses() -> None:
        raise UserError(Text(zh="不行 <b>", en="no"))

    @shown("en")
    def breaks() -> None:
        raise ValueError("/secret/path")

    @shown("en")
    def streams():  # type: ignore[no-untyped-def]
        yield 1
        raise UserError(Text(zh="不行", en="no way"))

    with pytest.raises(gr.Error, match="不行 &lt;b&gt;") as caught:
        refuses()
    assert not caught.value.print_exception
    with pytest.raises(gr.Error) as caught:
        breaks()
    assert "secret" not in str(caught.value) and "our fault" in str(caught.value)
    stream = streams()
    assert next(stream) == 1
    with pytest.raises(gr.Error, match="no way"):
        next(stream)
