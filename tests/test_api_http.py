"""The API over a real socket, driven by the official client: what a program sees, and what happens when it goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn

openai = pytest.importorskip("openai", reason="pip install -e .[dev]")
from openai import OpenAI  # noqa: E402

from core.config import TrainConfig  # noqa: E402
from core.dataset import Message  # noqa: E402
from core.engine import Engine  # noqa: E402
from core.generate import Column, Sampling, stream  # noqa: E402
from core.served import ServedFolders, ServedWorkspace  # noqa: E402
from core.workspace import Workspace  # noqa: E402
from ui import answering  # noqa: E402
from ui.answering import Floor  # noqa: E402
from ui.endpoint import Endpoint  # noqa: E402
from ui.guard import Guard  # noqa: E402
from ui.serve_command import create_app  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
LOCAL = {"127.0.0.1", "localhost"}
ASK = [{"role": "user", "content": "你是谁?"}]
SYSTEM = "You are tested."


class Server:
    """The API on a free port."""

    def __init__(self, engine: Engine, served: ServedFolders, floor: Floor | None = None, **guard: object) -> None:
        self.engine, self.floor = engine, floor or Floor()
        self.endpoint = Endpoint(served, self.floor)
        app = create_app(served, self.endpoint, LOCAL, guard.get("api_keys", ()))  # type: ignore[arg-type]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started)

    def client(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(100)
        self._listener.close()


def wait_for(condition: Callable[[], object], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four adapters on disk, each with a large effect of its own."""
    engine, made = Engine(), {}
    engine.load(str(tiny_model))
    config = TrainConfig(model=str(tiny_model))
    for seed, name in enumerate(("one", "二", "three", "four")):
        engine.create_adapter(name, config)
        assert engine.resident is not None
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in engine.resident.backend.adapter_parameters(engine.handle(name)):
                parameter.normal_(0, 0.3, generator=generator)
        made[name] = tmp_path_factory.mktemp("adapters") / f"a{seed}"
        engine.save_adapter(name, made[name], {"system": SYSTEM if name == "one" else ""})
    return made


@pytest.fixture(scope="module")
def served(tiny_model: Path, folders: dict[str, Path]) -> tuple[Engine, ServedFolders]:
    engine = Engine()
    engine.load(str(tiny_model))
    return engine, ServedFolders(engine, str(tiny_model), folders)


@pytest.fixture(scope="module")
def server(served: tuple[Engine, ServedFolders]) -> Iterator[Server]:
    running = Server(*served)
    yield running
    running.close()


@pytest.fixture
def client(server: Server) -> OpenAI:
    return server.client()


@pytest.fixture
def start(served: tuple[Engine, ServedFolders]) -> Iterator[Callable[..., Server]]:
    """start(floor, api_keys=...) -> another server over the same model."""
    running: list[Server] = []

    def begin(floor: Floor | None = None, **guard: object) -> Server:
        running.append(Server(*served, floor, **guard))
        return running[-1]

    yield begin
    for one in running:
        one.close()


def direct(server: Server, model: str | None, question: str = "你是谁?", **sampling: object) -> str:
    """What core itself answers."""
    head = (Message("system", SYSTEM),) if model == "one" else ()
    column = Column((*head, Message("user", question)), model)
    (reply,) = list(stream(server.engine, [column], Sampling(**sampling)))[-1]  # type: ignore[arg-type]
    return reply.text


def said(client: OpenAI, model: str = "base", **fields: object) -> str:
    fields = {"temperature": 0, "max_tokens": 20, "messages": ASK, **fields}
    return str(client.chat.completions.create(model=model, **fields).choices[0].message.content)  # type: ignore[call-overload]


# What is there


def test_every_model_is_listed_and_found_by_its_name(client: OpenAI, tiny_model: Path) -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == [tiny_model.name, "one", "二", "three", "four"]
    assert all(model.object == "model" and model.owned_by == "onecard" for model in listed)
    assert client.models.retrieve("二").id == "二" and client.models.retrieve("base").id == tiny_model.name
    with pytest.raises(openai.NotFoundError, match="three"):
        client.models.retrieve("nobody")


# Chat


def test_each_model_answers_as_core_does_under_its_training_prompt(server: Server, client: OpenAI) -> None:
    models = {"base": None, "one": "one", "二": "二"}
    answers = {name: said(client, name) for name in models}
    assert answers == {name: direct(server, adapter, max_new_tokens=20) for name, adapter in models.items()}
    assert len(set(answers.values())) == 3
    assert said(client, "one", messages=[{"role": "system", "content": ""}, *ASK]) != answers["one"]


def test_strength_reaches_the_adapter(client: OpenAI) -> None:
    full, base = said(client, "二"), said(client)
    assert said(client, "二", extra_body={"strength": 0}) == base != full
    assert said(client, "二", extra_body={"strength": 1}) == full


def test_a_stream_says_the_same_and_counts_the_same(client: OpenAI) -> None:
    fields = {"model": "二", "messages": ASK, "temperature": 0, "max_tokens": 30}
    whole = client.chat.completions.create(**fields)  # type: ignore[call-overload]
    chunks = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    *spoken, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in spoken) == whole.choices[0].message.content
    assert spoken[0].choices[0].delta.role == "assistant"
    ends = [chunk.choices[0].finish_reason for chunk in spoken if chunk.choices[0].finish_reason]
    assert ends == [whole.choices[0].finish_reason] and last.choices == [] and last.usage == whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.completion_tokens == 30 or whole.choices[0].finish_reason == "stop"


def test_n_answers_differ_and_the_seed_brings_them_back(client: OpenAI) -> None:
    def answers(n: int, seed: int) -> list[str | None]:
        done = client.chat.completions.create(model="base", messages=ASK, n=n, seed=seed, max_tokens=12, temperature=1)
        return [choice.message.content for choice in done.choices]

    three = answers(3, 7)
    assert len(set(three)) == 3 and answers(3, 7) == three and answers(1, 7) == three[:1]
    assert answers(3, 8)[:2] == three[1:]


def test_a_stop_string_ends_the_answer_before_it(client: OpenAI) -> None:
    whole = said(client, "二", max_tokens=30)
    stop = whole[5:7]
    assert whole.index(stop) > 0
    fields = {"model": "二", "messages": ASK, "temperature": 0, "max_tokens": 30, "stop": [stop, "never comes"]}
    done = client.chat.completions.create(**fields).choices[0]  # type: ignore[call-overload]
    assert done.message.content == whole[: whole.index(stop)] and done.finish_reason == "stop"
    parts = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**fields, stream=True)]  # type: ignore[call-overload]
    assert "".join(parts) == done.message.content


def test_logprobs_are_those_of_the_likeliest_at_temperature_zero(client: OpenAI) -> None:
    fields = {"model": "base", "messages": ASK, "temperature": 0, "max_tokens": 9, "logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**fields).choices[0]  # type: ignore[call-overload]
    content = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in content).decode(errors="replace") == choice.message.content
    for token in content:
        likely = [other.logprob for other in token.top_logprobs]
        assert likely == sorted(likely, reverse=True) and len(likely) == 3
        assert token.logprob == pytest.approx(likely[0]) and token.logprob < 0
    streamed = []
    for chunk in client.chat.completions.create(**fields, stream=True):  # type: ignore[call-overload]
        streamed += chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else []
    assert [bytes(token.bytes) for token in streamed] == [bytes(token.bytes) for token in content]


def test_conversations_and_parts_are_read(server: Server, client: OpenAI) -> None:
    parts = [{"type": "text", "text": "你是"}, {"type": "text", "text": "谁?"}]
    parted = said(client, "二", messages=[{"role": "user", "content": parts}])
    assert parted == direct(server, "二", "你是\n谁?", max_new_tokens=20)
    turns = [*ASK, {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
    assert said(client, "二", messages=turns) != said(client, "二")


# Completions


def test_completions_go_on_from_text_or_ids(server: Server, client: OpenAI) -> None:
    assert server.engine.resident is not None
    ids = server.engine.resident.encoder.plain("once <|im_end|>")
    fields = {"model": "二", "temperature": 0, "max_tokens": 8}
    by_text = client.completions.create(**fields, prompt="once <|im_end|>")  # type: ignore[call-overload]
    by_ids = client.completions.create(**fields, prompt=ids)  # type: ignore[call-overload]
    assert by_text.choices[0].text == by_ids.choices[0].text
    assert by_text.usage.prompt_tokens == len(ids) == len("once <|im_end|>")  # bytes: what is typed stays text
    several = client.completions.create(**fields, prompt=["once <|im_end|>", "more"], n=2, echo=True)  # type: ignore[call-overload]
    texts = [choice.text for choice in several.choices]
    assert texts[0] == texts[1] == "once <|im_end|>" + by_text.choices[0].text and texts[2].startswith("more")
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    streamed = client.completions.create(**fields, prompt=ids, echo=True, stream=True)  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in streamed) == texts[0]
    told = client.completions.create(**fields, prompt=ids, logprobs=2).choices[0].logprobs  # type: ignore[call-overload]
    assert told.text_offset[0] == 0 and len(told.tokens) == len(told.token_logprobs) == 8


# What is refused


def test_bad_requests_are_the_client_s_own_exceptions(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        said(client, temperature=9)
    assert caught.value.param == "temperature" and caught.value.code == "invalid_value"
    with pytest.raises(openai.NotFoundError, match="three"):
        said(client, "gpt-4")
    for stream_it in (False, True):  # also of a stream: nothing is out yet, so the status is its own
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="base", messages=[{"role": "user", "content": "x" * 600}], stream=stream_it
            )
        assert caught.value.code == "context_length_exceeded" and caught.value.param == "messages"
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="base", prompt=[10**6], stream=stream_it)
        assert caught.value.param == "prompt"


def post(url: str, **rest: object) -> httpx.Response:
    fields = {"model": "base", "messages": ASK, "max_tokens": 2}
    with httpx.Client(trust_env=False) as web:
        return web.post(f"{url}/v1/chat/completions", **{"json": fields, **rest})  # type: ignore[arg-type]


def test_what_is_ignored_or_added_is_said_in_headers(server: Server) -> None:
    answer = post(server.url, json={"model": "one", "messages": ASK, "max_tokens": 2, "min_p": 1, "bö\r\nse": 1})
    assert answer.status_code == 200 and answer.headers["x-onecard-ignored"] == "min_p, b???se"
    assert answer.headers["x-onecard-system"] == "trained"
    assert "x-onecard-ignored" not in post(server.url).headers


def test_everything_under_v1_is_json_with_the_right_status(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as web:
        table = [
            (web.get("/v1/nothing"), 404), (web.get("/v1/chat/completions"), 405), (web.post("/v1/models"), 405),
            (web.delete("/v1/models/one"), 405), (web.get("/v1/models/"), 200), (web.get("/v1/models/..%2fx"), 404),
            (post(server.url, json=None, content=b"{}", headers={"content-type": "text/plain"}), 415),
            (post(server.url, json=None, content=b"{}"), 415), (post(server.url, json={}), 400),
            (post(server.url, json=None, content=b"{", headers={"content-type": "application/json"}), 400),
            (post(server.url, json={"x": "y" * 2_100_000}), 413), (post(server.url, headers={"host": "evil.example"}), 421),
        ]  # fmt: skip
        for answer, status in table:
            assert answer.status_code == status, answer.text
            assert answer.json().get("error", {"message": "."})["message"]
        assert web.get("/v1/chat/completions").headers["allow"] == "POST"
        endless = (b" " * 100_000 for _ in range(50))
        chunked = post(server.url, json=None, content=endless, headers={"content-type": "application/json"})
        assert chunked.status_code == 413
    assert "没有填" in post(server.url, json={}, headers={"accept-language": "zh-CN"}).text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", ""])
def test_a_page_of_another_site_cannot_ask(server: Server, origin: str) -> None:
    answer = post(server.url, headers={"origin": origin})
    assert answer.status_code == 403 and answer.json()["error"]["message"]
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert post(server.url, headers={"origin": server.url}).status_code == 200


def test_with_keys_nobody_is_answered_without_one(start: Callable[..., Server]) -> None:
    server = start(api_keys=("first-key", "second-key"))
    for key in ("first-key", "second-key"):
        assert said(server.client(key))
    for key in ("first", "first-key2", "Second-key", "密"):
        answer = post(server.url, headers={"authorization": f"Bearer {key}".encode()})
        assert answer.status_code == 401 and key not in answer.text, key
    with pytest.raises(openai.AuthenticationError, match="ONECARD_API_KEY"):
        server.client("wrong").models.list()
    assert post(server.url).status_code == 401
    assert post(server.url, headers={"authorization": "Basic first-key"}).status_code == 401


def test_a_page_behind_a_password_has_no_open_api_beside_it() -> None:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    routes = [Route(path, lambda _: PlainTextResponse("in")) for path in ("/v1/models", "/", "/v1x")]
    for keys, bearer in (((), None), (("k1",), "Bearer k1")):
        web = TestClient(Guard(Starlette(routes=routes), LOCAL, "secret", api_keys=keys), base_url="http://localhost")
        basic = {"authorization": "Basic OnNlY3JldA=="}
        assert web.get("/", headers=basic).status_code == 200
        assert web.get("/v1/models", headers=basic).status_code == web.get("/v1/models").status_code == 401
        if bearer:
            assert web.get("/v1/models", headers={"authorization": bearer}).status_code == 200
            for path in ("/", "/v1x"):  # a key opens the API alone
                assert web.get(path, headers={"authorization": bearer}).status_code == 401
        assert "需要密码" in web.get("/").text and "Password needed" in web.get("/").text


def test_a_large_body_is_refused_to_a_program_as_json_and_to_a_person_in_both_languages() -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    async def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    routes = [Route(path, read, methods=["POST"]) for path in ("/v1/chat/completions", "/")]
    web = TestClient(Guard(Starlette(routes=routes), LOCAL, max_body_bytes=1000), base_url="http://localhost")
    for content in (b"x" * 1001, (b"x" * 400 for _ in range(4))):  # with its length, and without
        answer = web.post("/v1/chat/completions", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    answer = web.post("/", content=b"x" * 1001)
    assert answer.status_code == 413 and "请求太大" in answer.text and "too large" in answer.text


# Many at once, and those who go away


def test_sixteen_at_once_over_five_models_are_answered_as_each_alone(server: Server, client: OpenAI) -> None:
    models = ["base", "one", "二", "three", "four"]
    asked = [(models[i % 5], f"question {i}") for i in range(16)]

    def one(model: str, question: str) -> str:
        return said(client, model, messages=[{"role": "user", "content": question}], max_tokens=24)

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda pair: one(*pair), asked))
    alone = [direct(server, None if m == "base" else m, q, max_new_tokens=24) for m, q in asked]
    assert together == alone


@pytest.mark.parametrize("stream_it", [True, False])
def test_an_answer_nobody_waits_for_ends_at_once(server: Server, stream_it: bool) -> None:
    fields = {"model": "base", "messages": ASK, "max_tokens": 400, "n": 6, "stream": stream_it, "temperature": 1.0}
    with server.engine.turn():  # so that it cannot be done before the client goes
        with contextlib.suppress(httpx.TimeoutException), httpx.Client(trust_env=False) as web:
            web.post(f"{server.url}/v1/chat/completions", json=fields, timeout=0.4)
        wait_for(lambda: not server.floor._inside)
    wait_for(lambda: not server.engine.busy)


def test_a_stream_that_is_closed_midway_stops_being_written(server: Server) -> None:
    fields = {"model": "base", "messages": ASK, "max_tokens": 450, "n": 6, "stream": True, "temperature": 1.0}
    for _ in range(5):  # on a busy machine the first line may be read when the last was written
        with (
            httpx.Client(trust_env=False) as web,
            web.stream("POST", f"{server.url}/v1/chat/completions", json=fields) as answer,
        ):
            next(answer.iter_lines())
            midway = bool(server.floor._inside)
        wait_for(lambda: not server.floor._inside, 2)
        if midway:
            return
    pytest.fail("the answer was always complete before its first line was read")


def test_a_full_line_turns_away_and_says_when_to_come_back(start: Callable[..., Server]) -> None:
    floor = Floor(most_answers=1, most_waiting=1)
    server = start(floor)
    with ThreadPoolExecutor(2) as pool:
        with server.engine.turn():
            first = pool.submit(said, server.client())
            wait_for(lambda: floor._inside)
            second = pool.submit(said, server.client())
            wait_for(lambda: floor._line)
            with pytest.raises(openai.RateLimitError) as caught:
                said(server.client())
            assert caught.value.response.headers["retry-after"] == "2" and caught.value.code == "queue_full"
        assert first.result(20) == second.result(20) == said(server.client())


def test_who_stops_waiting_stops_nobody_behind() -> None:
    async def line() -> None:
        floor = Floor(most_answers=1, most_waiting=4)
        first, second, third = (floor.join(1) for _ in range(3))
        second.called.cancel()  # its client goes, and before it has left itself
        floor.leave(first)
        assert third.called.done() and not floor._line
        floor.leave(second)
        floor.leave(third)
        assert floor.join(1).called.done()

    with ThreadPoolExecutor(1) as pool:  # this thread may have a browser's loop
        pool.submit(lambda: asyncio.run(line())).result()


def test_one_request_for_more_answers_than_there_is_room_waits_its_turn(start: Callable[..., Server]) -> None:
    server = start(Floor(most_answers=32, most_waiting=4))
    fields = {"model": "base", "max_tokens": 3, "temperature": 0, "n": 2, "prompt": ["a"] * 15}
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: server.client().completions.create(**fields), range(3)))  # type: ignore[call-overload]
    assert [len(one.choices) for one in done] == [30, 30, 30]


def test_a_long_wait_is_filled_with_comments_that_the_client_passes_over(
    server: Server, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "KEEP_ALIVE_SECONDS", 0.1)
    fields = {"model": "base", "messages": ASK, "max_tokens": 5, "temperature": 0, "stream": True}
    with httpx.Client(trust_env=False) as web:
        with server.engine.turn():
            request = web.build_request("POST", f"{server.url}/v1/chat/completions", json=fields)
            lines = web.send(request, stream=True).iter_lines()
            assert [next(lines) for _ in range(4)] == [": keep-alive", "", ": keep-alive", ""]
        rest = list(lines)
    assert rest[-2] == "data: [DONE]" and all(line.startswith(("data: ", ": keep-alive")) for line in rest if line)
    with server.engine.turn():
        answer = client.chat.completions.create(**fields)  # type: ignore[call-overload]
    assert "".join(c.choices[0].delta.content or "" for c in answer) == said(client, max_tokens=5)


def test_closing_ends_a_stream_with_an_error_the_client_knows(start: Callable[..., Server]) -> None:
    server = start()
    fields = {"model": "base", "messages": ASK, "max_tokens": 480, "n": 6, "temperature": 1}
    chunks = server.client().chat.completions.create(**fields, stream=True)  # type: ignore[call-overload]
    next(iter(chunks))
    server.endpoint.close()
    with pytest.raises(openai.APIError, match="closing"):
        list(chunks)
    with pytest.raises(openai.InternalServerError):
        said(server.client())


def test_a_fault_of_ours_is_500_without_its_inside(
    start: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    server = start()

    def broken(*_: object) -> Iterator[None]:
        raise ZeroDivisionError("/secret/place")
        yield

    whole = server.endpoint._served
    parts = {"models": whole.models, "engine": whole.engine, "prepare": print, "answer": broken}
    server.endpoint._served = type("Broken", (), parts)()  # type: ignore[assignment]
    answer = post(server.url)
    assert answer.status_code == 500 and "secret" not in answer.text and answer.headers["x-should-retry"] == "false"
    assert "ZeroDivisionError" in caplog.text


# The page's own door


def test_the_page_serves_its_base_and_its_runs(tiny_model: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from core.dataset import Row
    from core.run import Run
    from ui.server import create_app as create_page

    workspace = Workspace(tmp_path)
    config = TrainConfig(model=str(tiny_model), system=SYSTEM)
    run = Run.create(tmp_path / "runs" / "r1", config, [Row("a", "", "b")], "小禾", "d")
    shutil.copytree(folders["one"], run.folder / "adapter")
    workspace.select_model(str(tiny_model))
    web = TestClient(create_page(workspace, LOCAL), base_url="http://127.0.0.1:7860")
    entries = web.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in entries] == [tiny_model.name, "r1"] and entries[1]["system"] == SYSTEM
    asked = {"model": "r1", "messages": ASK, "max_tokens": 5, "temperature": 0}
    assert workspace.engine.state == "absent"  # loaded by the first question
    answer = web.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 5
    assert answer.headers["content-security-policy"] and "r1" in workspace.engine.attached
    assert web.post("/v1/chat/completions", json=asked, headers={"origin": "http://evil.example"}).status_code == 403
    assert web.post("/v1/completions", json={"model": "r1", "prompt": "x"}).json()["object"] == "text_completion"
    assert web.get("/zh/").status_code == 200
    workspace.select_model("pocket")
    told = web.post("/v1/chat/completions", json=asked)
    assert told.status_code == 404 and "pocket" in told.json()["error"]["message"]
    assert ServedWorkspace(workspace).models()[0].name == "pocket"


# The command


def serve(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    clean = {key: value for key, value in os.environ.items() if key != "ONECARD_API_KEY"}
    return subprocess.Popen(
        [sys.executable, "app.py", "serve", "--port", str(port), *map(str, arguments)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**clean, "LC_ALL": "en_US.UTF-8", **environment},
    )  # fmt: skip


def greeting(process: subprocess.Popen[str]) -> list[str]:
    """What it prints once it is there, up to the curl line."""
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("curl"):
        lines.append(process.stderr.readline().rstrip("\n"))
        assert lines[-1], "\n".join(lines) + process.stderr.read()
    return lines


def test_serve_answers_without_the_page_and_ends_on_ctrl_c(
    tiny_model: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    key_file = tmp_path / "keys"
    key_file.write_text("a-key-of-a-file\n\nanother\n")
    process = serve(
        "--model", tiny_model, "--adapters", *(f"{name}={folder}" for name, folder in folders.items()),
        "--api-key-file", key_file,
    )  # fmt: skip
    try:
        said_first = greeting(process)
        url = re.search(r"http://\S+/v1", said_first[0])
        assert url is not None
        assert said_first[1] == f"models:  {tiny_model.name}, one, 二, three, four"
        assert not any("a-key-of-a-file" in line for line in said_first)
        client = OpenAI(base_url=url[0], api_key="another", max_retries=0)
        assert said(client, "二") != said(client, "base")
        answer = subprocess.run(
            ["bash", "-c", f"{said_first[-1]} --silent --show-error --max-time 30"], capture_output=True, text=True,
            env={**os.environ, "ONECARD_API_KEY": "a-key-of-a-file"},
        )  # fmt: skip
        assert json.loads(answer.stdout)["model"] == "four", answer.stdout + answer.stderr
        assert httpx.get(url[0].removesuffix("/v1") + "/healthz", trust_env=False).json()["status"] == "ok"
        chunks = client.chat.completions.create(model="base", messages=ASK, max_tokens=450, n=6, stream=True)
        next(iter(chunks))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0 and out == "" and "Traceback" not in err and "another" not in err, err
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--adapters", "x=/no/such/folder"], "/no/such/folder"),
        (["--adapters", "x"], "NAME=DIR"),
        (["--adapters", "base={one}"], "base model"),
        (["--adapters", "x={one}", "x={one}"], "two"),
        (["--adapters", "x={one}", " x ={one}"], "two"),
        (["--model", "/no/such/model"], "not found"),
        (["--host", "0.0.0.0"], "ONECARD_API_KEY"),
        (["--api-key-file", "/no/such/file"], "/no/such/file"),
    ],
)
def test_serve_says_in_one_sentence_what_is_wrong(
    arguments: list[str], words: str, folders: dict[str, Path], tiny_model: Path
) -> None:
    given = [word.format(one=folders["one"]) for word in arguments]
    model = [] if "--model" in given else ["--model", str(tiny_model)]
    process = serve(*model, *given)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 2 and words in err and out == "" and len(err.strip().splitlines()) == 1, err


def test_serve_needs_no_gradio() -> None:
    code = (
        "import sys, app, ui.serve_command, ui.endpoint, ui.running, core.served;"
        "from core.workspace import Workspace; from pathlib import Path; import tempfile;"
        "served = core.served.ServedWorkspace(Workspace(Path(tempfile.mkdtemp())));"
        "ui.serve_command.create_app(served, ui.endpoint.Endpoint(served), {'localhost'}, ());"
        "print([m for m in ('gradio', 'torch', 'plotly', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# The programs on the page and in the documents


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env={**os.environ, "NO_PROXY": "*", **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("keyed", [False, True])
def test_the_page_s_programs_ask_what_the_page_would(start: Callable[..., Server], keyed: bool, tmp_path: Path) -> None:
    from ui.snippets import Example

    server = start(api_keys=("a-key",) if keyed else ())
    trap = 'it\'s "你" \\n $HOME `id` </script> {x}\n😀\u2028'
    messages = (Message("system", trap), Message("user", trap))
    example = Example(server.url, "二", messages, 0, 9, "ONECARD_API_KEY" if keyed else "")
    column = Column(messages, "二")
    expected = list(stream(server.engine, [column], Sampling(max_new_tokens=9)))[-1][0].text
    assert expected.strip()
    key = {"ONECARD_API_KEY": "a-key"} if keyed else {}
    told = json.loads(run(["bash", "-c", example.curl().replace("curl ", "curl -s ", 1)], **key))
    assert told["choices"][0]["message"]["content"] == expected
    assert run([sys.executable, "-c", example.python()], **key) == expected + "\n"
    module = tmp_path / "ask.mjs"
    module.write_text(example.javascript(), "utf-8")
    if node := shutil.which("node"):
        assert run([node, str(module)], **key) == expected + "\n"


def test_the_chat_tab_draws_them_for_what_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import gradio as gr

    from ui.chat import ChatTab
    from ui.edits import Edits
    from ui.page import Page

    workspace = Workspace(tmp_path)
    with gr.Blocks():
        chat = ChatTab(Page(workspace, "en", Edits(workspace)))
    request = SimpleNamespace(headers={"host": "10.0.0.5:7860"})
    for name in ("ONECARD_API_KEY", "ONECARD_PASSWORD", "ONECARD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    shown = chat.on_code(request, "", "<b>me</b>", 0.3, 99)
    assert "http://10.0.0.5:7860/v1" in shown and "&lt;b&gt;me" in shown and "<b>" not in shown
    assert "&quot;pocket&quot;" in shown and "0.3" in shown and "99" in shown and "ONECARD_API_KEY" not in shown
    request.headers["origin"] = "https://card.example"
    monkeypatch.setenv("ONECARD_API_KEY", "geheim")
    keyed = chat.on_code(request, "run-1", "", 0.3, 99)
    assert (
        "https://card.example/v1" in keyed
        and "run-1" in keyed
        and "$ONECARD_API_KEY" in keyed
        and "geheim" not in keyed
    )
    monkeypatch.delenv("ONECARD_API_KEY")
    monkeypatch.setenv("ONECARD_PASSWORD", "p")
    off = chat.on_code(request, "", "", 0.3, 99)
    assert "curl" not in off and "ONECARD_API_KEY" in off
    monkeypatch.setenv("ONECARD_TOKEN", "geheim")
    opened = chat.on_code(request, "", "", 0.3, 99)
    assert "Bearer $ONECARD_TOKEN" in opened and "geheim" not in opened


def test_the_commands_in_the_document_work(served: tuple[Engine, ServedFolders], folders: dict[str, Path]) -> None:
    import app

    engine, _ = served
    server = Server(engine, ServedFolders(engine, str(engine.resident.info.folder), {"xiaohe": folders["one"]}))  # type: ignore[union-attr]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "docs" / "api.md").read_text("utf-8"), re.M | re.S)
    assert [kind for kind, _ in blocks] == ["", "", "", "sh", "sh", "sh", "sh", "python"]
    try:
        for kind, text in blocks:
            text = text.replace("http://127.0.0.1:7860", server.url)
            if kind == "sh":
                told = run(["bash", "-c", text.replace("curl ", "curl -sS --fail-with-body ", 1)])
                assert "data: [DONE]" in told or json.loads(told)["object"] in (
                    "list",
                    "chat.completion",
                    "text_completion",
                )
            elif kind == "python":
                assert "CompletionUsage" in run([sys.executable, "-c", text])
            for line in text.splitlines() if not kind else ():
                words = line.split()
                assert words[:2] == ["python", "app.py"] and app.parser().parse_args(words[2:])
    finally:
        server.close()
        engine.detach("xiaohe")
