"""No secret in a log, an answer, an export or a file to send; and a whole journey reaches no other machine."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest

from core.redact import HIDDEN, RedactingFormatter, redact
from tests.reliability.overheard import hear

CANARIES = {
    "HF_TOKEN": "hf_canaryAAAAbbbbCCCCdddd1111",
    "MODELSCOPE_API_TOKEN": "canary-modelscope-2222",
    "ONECARD_TOKEN": "canary-token-3333",
    "ONECARD_API_KEY": "canary-key-4444,canary%key-5555",
    "OPENAI_API_KEY": "sk-canary66667777888899990000",
}
WORDS = [word for value in CANARIES.values() for word in value.split(",")]
HARMLESS = (
    "Qwen/Qwen2.5-7B-Instruct", "ms-swift 4.6", "sk-learn", "step 12/130, loss 0.5128", "basic training of a bearer",
    "max_tokens=512", "http://127.0.0.1:7860/zh/?a=1", "TOKENIZERS_PARALLELISM=false", "/home/me/.cache/huggingface/token",
    "keyboard monkey", "ModuleNotFoundError: no module named 'x'", "onecard_language=zh",
)  # fmt: skip


def spelled(word: str) -> Iterator[str]:
    """A secret as it may stand in text."""
    yield from (word, quote(word, safe=""), json.dumps(word), repr(word), f"x={word};", f"https://a:{word}@b.c/")
    yield f"GET /zh/?token={word} HTTP/1.1"
    yield f"Authorization: Bearer {word}"
    yield f"{{'authorization': 'Bearer {word}'}}"
    yield base64.b64encode(word.encode()).decode()


def test_secrets_are_hidden_however_they_are_spelled(tally: Callable[..., None]) -> None:
    environment, shown, cases = {**CANARIES, "MY_PASSWORD": 'pä"ss <1>\\'}, [], 0
    for word in [*WORDS, environment["MY_PASSWORD"]]:
        for text in spelled(word):
            cases += 1
            told = redact(f"before {text} after", environment=environment)
            if word in told or text in told or HIDDEN not in told or not told.endswith((" after", "after")):
                shown.append(told)
    tally("secrets spelled in ten ways", cases=cases, wrong=len(shown), note="; ".join(shown[:3]))


@pytest.mark.parametrize(
    "token",
    ["oc_" + "0a" * 16, "hf_" + "A" * 34, "ms-12345678-1234-1234-1234-123456789abc", "sk-proj-" + "a1" * 20, "ghp_" + "a" * 36,
     "AKIA" + "A1" * 8, "eyJhbGciOiJI.eyJzdWIiOiIx.abc_def", "glpat-" + "a" * 20],
)  # fmt: skip
def test_what_looks_like_a_token_is_hidden_whoever_it_belongs_to(token: str) -> None:
    assert redact(f"({token})", environment={}) == f"({HIDDEN})"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    environment = {**CANARIES, "HF_HUB_DISABLE_TOKEN": "false", "HF_TOKEN_PATH": "/home/me/.cache/huggingface/token",
                   "MAX_TOKENS": "512", "SHORT_KEY": "key", "SSH_AUTH_SOCK": "/tmp/x"}  # fmt: skip
    assert redact(text, environment=environment) == text


def test_a_private_key_and_a_cookie_are_hidden() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIC\nabc\n-----END RSA PRIVATE KEY-----"
    assert "MIIC" not in redact(key, environment={}) and "abc" not in redact(key, environment={})
    assert redact("Cookie: onecard_access_7860=deadbeef; a=b", environment={}).endswith(f"{HIDDEN}; a=b")
    assert redact("my word", also=["my word"], environment={}) == HIDDEN


def test_a_log_hides_what_its_traceback_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-of-a-log")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter())
    logger = logging.Logger("t")
    logger.addHandler(handler)
    try:
        raise ValueError("canary-of-a-log")
    except ValueError:
        logger.exception("with %s", "canary-of-a-log")
    assert "canary" not in stream.getvalue() and stream.getvalue().count(HIDDEN) == 3
    assert "Traceback" in stream.getvalue()


# A journey of the real program


class Journey:
    """The program, everything that it answered and wrote, and whom it tried to reach."""

    def __init__(self, folder: Path, traced: bool) -> None:
        self.folder, self.record, self.home = folder, folder / "record.txt", folder / "home"
        self.traced = traced
        self.answers: list[bytes] = []
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        left_out = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PYTEST_CURRENT_TEST")
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        strace = ["strace", "-f", "-qq", "-e", "trace=connect", "-o", str(folder / "strace.txt")] if traced else []
        script = Path(__file__).with_name("overheard.py")
        with (folder / "out.txt").open("wb") as out:
            self.process = subprocess.Popen(
                [*strace, sys.executable, str(script), str(self.record), str(self.home), str(self.port)],
                cwd=script.parents[2], stdout=out, stderr=subprocess.STDOUT,
                env={**environment, **CANARIES, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(folder / "tmp"),
                     "HF_HOME": str(folder / "hf")},
            )  # fmt: skip

    @property
    def out(self) -> str:
        return (self.folder / "out.txt").read_text("utf-8", "replace")

    def walk(self) -> None:
        """Sign in, look at everything, ask, fail in the usual ways."""
        key = {"authorization": "Bearer canary-key-4444"}
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=120) as web:
            begun = time.monotonic()
            while True:
                assert self.process.poll() is None and time.monotonic() - begun < 400, self.out
                try:
                    web.get("/healthz")
                    break
                except httpx.ConnectError:
                    time.sleep(0.2)

            def get(path: str, **rest: object) -> httpx.Response:
                answer = web.get(path, **rest)  # type: ignore[arg-type]
                self.keep(answer)
                return answer

            for path in ("/", "/zh/", "/v1/models", "/zh/?token=wrong", "/export/dataset/identity-50.json"):
                assert get(path, headers={"accept": "text/html"}).status_code == 401
            assert get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
            signed = web.get("/zh/", params={"token": CANARIES["ONECARD_TOKEN"]})
            assert signed.status_code == 303
            self.keep(signed)
            for path in (
                "/zh/",
                "/en/",
                "/healthz",
                "/zh/theme.css",
                "/static/onecard.css",
                "/diagnostics.zip",
                "/nothing",
            ):
                get(path)
            for kind in ("json", "csv", "messages"):
                assert get(f"/export/dataset/identity-50.{kind}").status_code == 200
            models = get("/v1/models", headers=key).json()["data"]
            assert len(models) == 2
            assert get(f"/export/adapter/{models[1]['id']}.zip").status_code == 200
            asked = {"model": models[1]["id"], "messages": [{"role": "user", "content": "你是谁？"}], "max_tokens": 4}
            for body in (asked, {**asked, "model": "../../etc/passwd"}, {"messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://192.0.2.1/x.png"}}]}
            ], "model": "base"}, {"model": "base"}):  # fmt: skip
                self.keep(web.post("/v1/chat/completions", json=body, headers=key))
            self.keep(
                web.post("/v1/chat/completions", content=b"{", headers={**key, "content-type": "application/json"})
            )

    def keep(self, answer: httpx.Response) -> None:
        """An answer's headers and body, without the request's own."""
        self.answers.append(repr(answer.headers.raw).encode() + answer.content)
        if answer.content[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
                self.answers += [packed.read(name) for name in packed.namelist()]

    def end(self) -> int:
        self.program().send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def program(self) -> psutil.Process:
        """The program itself: with strace in front of it, that one's child."""
        process = psutil.Process(self.process.pid)
        return process.children()[0] if self.traced else process


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Iterator[Journey]:
    folder = tmp_path_factory.mktemp("journey")
    (folder / "tmp").mkdir()
    walked = Journey(folder, traced=full and shutil.which("strace") is not None)
    try:
        walked.walk()
        walked.status = walked.end()  # type: ignore[attr-defined]
        yield walked
    finally:
        if walked.process.poll() is None:
            walked.program().kill()
            walked.process.wait(30)


def test_no_secret_is_in_anything_the_program_wrote_or_answered(journey: Journey, tally: Callable[..., None]) -> None:
    places = {f"answer {i}": answer for i, answer in enumerate(journey.answers)}
    places |= {
        str(path.relative_to(journey.folder)): path.read_bytes() for path in journey.folder.rglob("*") if path.is_file()
    }
    assert any("onecard.log" in name for name in places) and "out.txt" in places and len(journey.answers) > 20
    written = places["out.txt"] + b"".join(text for name, text in places.items() if name.endswith("onecard.log"))
    assert b"Traceback" in written and HIDDEN.encode() in written  # it did fail, and did say so
    needles = {
        form.encode()
        for word in WORDS
        for form in (word, quote(word, safe=""), base64.b64encode(word.encode()).decode())
    }
    found = [(name, needle) for name, text in places.items() for needle in needles if needle in text]
    tally(
        "secrets in files, logs, answers and exports of a journey", cases=len(places) * len(WORDS), wrong=len(found),
        note=str(found[:3] or ""),
    )  # fmt: skip


def test_who_listens_hears_other_machines_and_not_this_one(tmp_path: Path) -> None:
    record = tmp_path / "record"
    for place in (("127.0.0.1", 1), ("::1", 1, 0, 0), "/run/a-socket"):
        hear(record, "socket.connect", (None, place))
    hear(record, "socket.getaddrinfo", ("localhost", 80))
    assert not record.exists()
    hear(record, "socket.connect", (None, ("192.0.2.1", 443)))
    hear(record, "socket.getaddrinfo", ("hub.example", 443))
    assert len(record.read_text().splitlines()) == 2


def test_the_journey_reached_no_other_machine(journey: Journey, tally: Callable[..., None]) -> None:
    heard = journey.record.read_text().splitlines() if journey.record.exists() else []
    traced = journey.folder / "strace.txt"
    if traced.exists():
        lines = [line for line in traced.read_text().splitlines() if "AF_INET" in line]
        heard += [line for line in lines if "127.0.0.1" not in line and '"::1"' not in line]
    outside = [line for line in heard if "a child process" not in line]
    note = "system calls" if traced.exists() else "Python's own calls"
    tally(
        f"journeys in which the program reached another machine ({note})",
        cases=1,
        wrong=len(outside),
        note="; ".join(outside[:3]),
    )


def test_the_journey_ended_on_the_signal(journey: Journey) -> None:
    assert journey.status == 0, journey.out[-2000:]  # type: ignore[attr-defined]
