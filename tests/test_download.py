"""Downloading from a hub on this machine: resumed, checked, refused with a sentence, whole or absent; either hub."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import pytest
from safetensors.torch import load_file

from core import hub, models
from core.download import connection, download, missing_bytes
from core.downloads import Downloads, bring
from core.errors import BusyError, ConfigError, ModelError, StorageError
from core.hub import Hub, Offer
from core.text import Text
from core.transfer import Meter

NAME, SHA = "Org/Tiny-2.5", "a" * 40
WEIGHTS = "model.safetensors"


@dataclass
class Faults:
    """What the hub does wrong, and what it counted."""

    status: dict[str, tuple[int, str]] = field(default_factory=dict)  # file or "" for the listing: code, X-Error-Code
    break_after: dict[str, list[int]] = field(
        default_factory=dict
    )  # bytes sent before each of the next connections dies
    corrupt: set[str] = field(default_factory=set)
    no_ranges: bool = False
    empty: dict[str, int] = field(default_factory=dict)  # how many answers without a byte are still to come
    no_digests: bool = False
    revision: str = SHA
    hold: threading.Event | None = None  # the weights' second half waits for it
    listing: dict[str, object] | None = None
    served: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Hugging Face's and ModelScope's endpoints for one model; a file's bytes come from another path, as from a CDN."""

    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *words: object) -> None: ...

    def do_GET(self) -> None:
        url = urlparse(self.path)
        query = parse_qs(url.query)
        faults = self.server.faults
        faults.asked.append(self.path)
        faults.tokens.append(self.headers.get("Authorization"))
        if url.path in (f"/api/models/{NAME}", f"/api/v1/models/{NAME}/repo/files"):
            return self.listing("/v1/" in url.path)
        if url.path.startswith(f"/{NAME}/resolve/{faults.revision}/"):
            return self.answer(302, b"", {"Location": "/cdn/" + url.path.rpartition("/")[2]})
        if url.path == f"/api/v1/models/{NAME}/repo":
            return self.file(query["FilePath"][0])
        if url.path.startswith("/cdn/"):
            return self.file(unquote(url.path.removeprefix("/cdn/")))
        return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, body: bytes, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(extra or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def listing(self, modelscope: bool) -> None:
        faults, files = self.server.faults, self.server.files
        if "" in faults.status:
            status, code = faults.status[""]
            return self.answer(status, b"{}", {"X-Error-Code": code})
        siblings: list[dict[str, object]] = [
            {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
            | ({"lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}} if name == WEIGHTS else {})
            for name, data in files.items()
        ]
        found: dict[str, object] = {"id": NAME, "sha": faults.revision, "siblings": siblings}
        entries: list[dict[str, object]] = [
            {"Path": name, "Size": len(data), "Type": "blob", "Sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ]
        if modelscope:
            found = {"Code": 200, "Data": {"Files": entries}}
        for entry in [*siblings, *entries] if faults.no_digests else []:
            for key in ("blobId", "lfs", "Sha256"):
                entry.pop(key, None)
        self.answer(200, json.dumps(faults.listing or found).encode())

    def file(self, name: str) -> None:
        faults, data = self.server.faults, self.server.files[name]
        if name in faults.status:
            status, code = faults.status[name]
            return self.answer(status, b"", {"X-Error-Code": code})
        start = 0
        asked = self.headers.get("Range")
        if asked and not faults.no_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if faults.empty.get(name) and name not in faults.break_after:
            faults.empty[name] -= 1
            return self.answer(206 if start else 200, b"")
        body = bytearray(data[start:])
        if name in faults.corrupt and body:
            body[-1] ^= 1
        cut = faults.break_after.get(name)
        end = cut.pop(0) if cut else len(body)
        if not cut:
            faults.break_after.pop(name, None)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2 if faults.hold is not None and name == WEIGHTS else end
        for piece in (body[: min(half, end)], body[min(half, end) : end]):
            self.wfile.write(piece)
            self.wfile.flush()
            faults.served[name] = faults.served.get(name, 0) + len(piece)
            if faults.hold is not None and name == WEIGHTS:
                faults.hold.wait(20)
        if end < len(body):
            self.close_connection = True


class LocalHub(ThreadingHTTPServer):
    """The hub, on a free port."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults = files, Faults()

    def handle_error(self, request: object, client: object) -> None: ...

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with the tiny model, and caches in tmp_path."""
    files = {path.name: path.read_bytes() for path in sorted(tiny_model.iterdir())}
    files |= {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "README.md": b"words", "onnx/model.onnx": b"no",
              "consolidated.safetensors": b"twice", ".gitattributes": b"", 
              "special_tokens_map.json": files["generation_config.json"]}  # fmt: skip
    made = LocalHub(files)
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "ONECARD_HUB", "USE_MODELSCOPE_HUB"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "scope"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_ENDPOINT", made.address)
    monkeypatch.setenv("MODELSCOPE_DOMAIN", made.address)
    models.look_again()
    yield made
    made.shutdown()
    made.server_close()
    models.look_again()


def offer(server: LocalHub, name: str = "hf") -> Offer:
    with connection() as client:
        return hub.look_up(client, NAME, Hub(name, server.address))  # type: ignore[arg-type]


def fetch(found: Offer, stop: threading.Event | None = None, meter: Meter | None = None) -> Path | None:
    with connection() as client:
        return download(client, found, stop or threading.Event(), meter or Meter(), lambda attempt: 0.0)


def until(reached: Callable[[], bool]) -> None:
    """Wait for it, 20 seconds at most."""
    for _ in range(1000):
        if reached():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def assert_absent() -> None:
    models.look_again()
    assert NAME not in models.cached_models()
    with pytest.raises(ModelError, match="was not found"):
        models.inspect(NAME)


@pytest.mark.parametrize("name", ["hf", "modelscope"])
def test_a_model_comes_whole_and_is_found_by_its_name(server: LocalHub, tiny_model: Path, name: str) -> None:
    found = offer(server, name)
    wanted = {p.name for p in tiny_model.iterdir()} | {"special_tokens_map.json"}
    assert {file.name for file in found.files} == wanted and missing_bytes(found) == found.nbytes
    told: list[int] = []
    with connection() as client:
        folder = download(client, found, threading.Event(), lambda name, done, total: told.append(done))
    assert folder is not None and models.inspect(NAME).folder == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {n: server.files[n] for n in wanted}
    assert told[0] == 0 and told[-1] == found.nbytes and told == sorted(told)
    assert missing_bytes(found) == 0
    server.faults.served.clear()
    assert fetch(found) == folder and server.faults.served == {}
    leftover = [p for p in folder.parents[1].rglob("*") if ".incomplete" in p.name or ".parts" in p.name]
    assert leftover == []
    load_file(folder / WEIGHTS)


def test_hugging_faces_own_library_finds_it_in_its_cache(server: LocalHub, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    folder = fetch(offer(server))
    assert folder is not None
    found = try_to_load_from_cache(NAME, WEIGHTS, cache_dir=tmp_path / "hf")
    assert isinstance(found, str) and Path(found) == folder / WEIGHTS and (folder / WEIGHTS).is_symlink()
    assert Path(snapshot_download(NAME, cache_dir=tmp_path / "hf", local_files_only=True)) == folder


def test_a_broken_line_is_taken_up_again_where_it_broke(server: LocalHub) -> None:
    size = len(server.files[WEIGHTS])
    server.faults.break_after[WEIGHTS] = [size // 3, size // 3]
    assert fetch(offer(server)) is not None
    assert server.faults.served[WEIGHTS] == size  # every byte once, in three connections
    assert models.inspect(NAME)


@pytest.mark.parametrize("name", ["hf", "modelscope"])
def test_a_line_that_stays_broken_is_said_and_the_next_download_goes_on(server: LocalHub, name: str) -> None:
    size = len(server.files[WEIGHTS])
    found = offer(server, name)
    server.faults.break_after[WEIGHTS] = [size // 2] + [0] * 20
    with pytest.raises(ModelError, match="cannot be reached"):
        fetch(found)
    assert_absent()
    assert missing_bytes(found) <= found.nbytes - size // 2
    server.faults.break_after.clear()
    before = server.faults.served[WEIGHTS]
    assert before == size // 2
    meter = Meter()
    assert fetch(found, meter=meter) is not None and meter.now is None
    assert server.faults.served[WEIGHTS] == size
    assert models.inspect(NAME)


@pytest.mark.parametrize("begun", [False, True])
def test_answers_without_a_byte_are_counted_paused_after_and_given_up(server: LocalHub, begun: bool) -> None:
    found, pauses = offer(server), list[int]()
    server.faults.empty[WEIGHTS] = 200
    if begun:  # the empty answers are to a resumed request then: 206
        server.faults.break_after[WEIGHTS] = [1000]

    def pause(attempt: int) -> float:
        pauses.append(attempt)
        return 0.0

    with connection() as client, pytest.raises(ModelError, match=r"answers with nothing where model\.safetensors"):
        download(client, found, threading.Event(), Meter(), pause)
    assert pauses == [1, 2, 3, 4, 5] and server.faults.empty[WEIGHTS] == 200 - (5 if begun else 6)
    assert_absent()
    server.faults.empty[WEIGHTS] = 3
    assert fetch(found) is not None and server.faults.served[WEIGHTS] == len(server.files[WEIGHTS])


def another_revision(server: LocalHub) -> dict[str, bytes]:
    """Publish other content under the same names and sizes, without one file and with a new one; what is to be there."""
    for name in (WEIGHTS, "config.json", "tokenizer_config.json"):
        data = bytearray(server.files[name])
        place = -1 if name == WEIGHTS else data.index(b"\n")
        data[place : place + 1 or None] = b"\x55" if name == WEIGHTS else b" "
        server.files[name] = bytes(data)
    server.files["added_tokens.json"] = server.files.pop("special_tokens_map.json")
    server.faults.revision = "b" * 40
    return {name: data for name, data in server.files.items() if hub.is_wanted(name)}


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("name", ["hf", "modelscope"])
def test_another_revision_of_the_same_sizes_comes_whole_and_unmixed(server: LocalHub, name: str, digests: bool) -> None:
    server.faults.no_digests = not digests
    assert fetch(offer(server, name)) is not None
    first, wanted = offer(server, name), another_revision(server)
    found = offer(server, name)
    assert missing_bytes(found) >= len(wanted[WEIGHTS])
    server.faults.status[WEIGHTS] = (500, "")
    with pytest.raises(ModelError):
        fetch(found)
    assert models.inspect(NAME) and hub.folder_of(first).joinpath("special_tokens_map.json").is_file()  # still the old
    server.faults.status.clear()
    folder = fetch(found)
    assert folder is not None and {path.name: path.read_bytes() for path in folder.iterdir()} == wanted
    if digests:
        assert missing_bytes(found) == 0


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("name", ["hf", "modelscope"])
def test_what_came_of_another_revision_is_not_taken_for_this_one(server: LocalHub, name: str, digests: bool) -> None:
    server.faults.no_digests = not digests
    server.faults.break_after[WEIGHTS] = [1000] + [0] * 20
    with pytest.raises(ModelError, match="cannot be reached"):
        fetch(offer(server, name))
    server.faults.break_after.clear()
    wanted = another_revision(server)
    folder = fetch(offer(server, name))
    assert folder is not None and {path.name: path.read_bytes() for path in folder.iterdir()} == wanted


def test_an_update_that_dies_while_files_get_their_names_looks_like_no_model(
    server: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch(offer(server, "modelscope")) is not None
    wanted, replace = another_revision(server), os.replace

    def die(source: Path, target: Path) -> None:
        if target.name == WEIGHTS and source.suffix == ".whole":
            raise OSError(errno.EIO, "the disk is gone")
        replace(source, target)

    with monkeypatch.context() as patched, pytest.raises(StorageError, match="the disk is gone"):
        patched.setattr(os, "replace", die)
        fetch(offer(server, "modelscope"))
    assert_absent()
    server.faults.served.clear()
    folder = fetch(offer(server, "modelscope"))
    assert folder is not None and {path.name: path.read_bytes() for path in folder.iterdir()} == wanted
    assert server.faults.served == {}


@pytest.mark.parametrize("name", ["hf", "modelscope"])
def test_one_who_came_while_a_download_ran_still_keeps_the_next_away(
    server: LocalHub, tmp_path: Path, name: str
) -> None:
    fcntl = pytest.importorskip("fcntl")
    found, server.faults.hold = offer(server, name), threading.Event()
    thread = threading.Thread(target=fetch, args=(found,))
    thread.start()
    until(lambda: server.faults.served.get(WEIGHTS, 0) > 0)
    (lock,) = tmp_path.rglob("*.onecard.lock")
    with lock.open("a+") as early:
        with pytest.raises(BusyError):
            fetch(found)
        server.faults.hold.set()
        thread.join(30)
        fcntl.flock(early, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BusyError):
            fetch(found)
    assert fetch(found) is not None


@pytest.mark.parametrize("name", ["hf", "modelscope"])
@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_a_file_that_is_not_what_the_hub_says_is_thrown_away(server: LocalHub, name: str, file: str) -> None:
    found = offer(server, name)
    server.faults.corrupt.add(file)
    with pytest.raises(ModelError, match=f"{file.replace('.', '[.]')} does not match the checksum"):
        fetch(found)
    assert_absent()
    server.faults.corrupt.clear()
    assert fetch(found) is not None and models.inspect(NAME)


def test_a_resumed_part_of_something_else_is_not_kept(server: LocalHub, tmp_path: Path) -> None:
    found = offer(server)
    digest = next(file.digest for file in found.files if file.name == WEIGHTS)
    blobs = tmp_path / "hf" / "models--Org--Tiny-2.5" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{digest}.incomplete").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="checksum"):
        fetch(found)
    assert_absent()
    (blobs / f"{digest}.incomplete").write_bytes(b"x" * 10_000_000)  # longer than the file
    assert fetch(found) is not None


@pytest.mark.parametrize("name", ["hf", "modelscope"])
def test_cancelling_keeps_what_came_and_leaves_nothing_that_looks_whole(server: LocalHub, name: str) -> None:
    server.faults.hold, stop = threading.Event(), threading.Event()
    found, size = offer(server, name), len(server.files[WEIGHTS])
    ended: list[Path | None] = []
    thread = threading.Thread(target=lambda: ended.append(fetch(found, stop)))
    thread.start()
    until(lambda: server.faults.served.get(WEIGHTS, 0) >= size // 2)
    stop.set()
    server.faults.hold.set()
    thread.join(30)
    assert ended == [None]
    assert_absent()
    server.faults.hold = None
    server.faults.served.clear()
    assert fetch(found) is not None and models.inspect(NAME)


REFUSED = {
    "gated": ({"": (401, "GatedRepo")}, "accept its licence"),
    "forbidden": ({"": (403, "")}, "accept its licence"),
    "unknown": ({"": (401, "RepoNotFound")}, "has no Org/Tiny-2.5, or it is private"),
    "gone": ({"": (404, "")}, "has no Org/Tiny-2.5"),
    "down": ({"": (503, "")}, "HTTP 503"),
    "gated file": ({WEIGHTS: (403, "GatedRepo")}, "accept its licence"),
    "file gone": ({WEIGHTS: (404, "EntryNotFound")}, "has no Org/Tiny-2.5"),
    "file down": ({WEIGHTS: (500, "")}, "HTTP 500"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_hub_refuses_is_said(server: LocalHub, case: str) -> None:
    server.faults.status, words = REFUSED[case]
    with pytest.raises(ModelError, match=words) as caught:
        fetch(offer(server))
    assert "。" in caught.value.of("zh")
    assert_absent()


def test_a_server_that_cannot_resume_is_said_and_asked_anew(server: LocalHub) -> None:
    server.faults.no_ranges = True
    server.faults.break_after[WEIGHTS] = [1000]
    with pytest.raises(ModelError, match="cannot resume"):
        fetch(offer(server))
    assert fetch(offer(server)) is not None


STRANGE: dict[str, tuple[dict[str, object], str]] = {
    "no hub": ({"hello": "world"}, "does not answer as a model hub"),
    "a path outside": ({"sha": SHA, "siblings": [{"rfilename": "../config.json", "size": 1}]}, "no config.json"),
    "a digest that is a path": (
        {"sha": SHA, "siblings": [{"rfilename": "config.json", "size": 1, "blobId": "../../x"}]}, "does not answer as"),
    "a revision that is a path": ({"sha": "../../x", "siblings": []}, "does not answer as"),
    "no size": ({"sha": SHA, "siblings": [{"rfilename": "config.json"}]}, "does not answer as"),
    "only pickles": ({"sha": SHA, "siblings": [{"rfilename": "config.json", "size": 2, "blobId": SHA},
        {"rfilename": "pytorch_model.bin", "size": 9}]}, "pickled ones are not used"),
}  # fmt: skip


@pytest.mark.parametrize("case", STRANGE)
def test_an_answer_that_is_no_models_list_is_refused(server: LocalHub, case: str) -> None:
    server.faults.listing, words = STRANGE[case]
    with pytest.raises(ModelError, match=words):
        offer(server)


def test_a_disk_that_is_too_small_is_said_before_the_first_byte(
    server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = offer(server)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=150_000_000))
    with pytest.raises(StorageError, match=r"needs 0\.00 GB more .* has 0\.15 GB free"):
        fetch(found)
    assert server.faults.served == {}
    with pytest.raises(StorageError):
        Downloads(tmp_path).start(NAME)


def test_no_network_and_offline_mode_are_said(server: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with connection() as client:
        with pytest.raises(ModelError, match=r"127\.0\.0\.1:1 cannot be reached"):
            hub.look_up(client, NAME, Hub("hf", "http://127.0.0.1:1"))
        with pytest.raises(ModelError, match="is no model id"):
            hub.look_up(client, "a/b/../c", Hub("hf", server.address))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
            hub.look_up(client, NAME, Hub("hf", server.address))


def test_the_persons_token_goes_to_the_hub(server: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms_secret")
    offer(server)
    offer(server, "modelscope")
    assert server.faults.tokens == ["Bearer hf_secret", "Bearer ms_secret"]


TOKENS: dict[str, tuple[str, str, str, bool]] = {
    "the hub": ("hf", "https://huggingface.co", "", True),
    "the other hub": ("modelscope", "https://www.modelscope.cn", "", True),
    "the environment's mirror": ("hf", "https://hf-mirror.com", "hf-mirror.com/", True),
    "the page's mirror": ("hf", "https://hf-mirror.com", "", False),
    "another than the environment's": ("hf", "https://other.example", "https://hf-mirror.com", False),
    "the other hub's mirror": ("modelscope", "https://mirror.example", "", False),
    "the environment's, in the clear": ("hf", "http://hf-mirror.com", "http://hf-mirror.com", False),
    "the hub in the clear": ("hf", "http://huggingface.co", "http://huggingface.co", False),
    "a host that begins alike": ("hf", "https://huggingface.co.evil.example", "", False),
    "this machine, by the environment": ("hf", "http://localhost:8080", "http://localhost:8080", True),
}


@pytest.mark.parametrize("case", TOKENS)
def test_the_persons_token_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    name, endpoint, environment, sent = TOKENS[case]
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms_secret")
    monkeypatch.setenv("HF_ENDPOINT" if name == "hf" else "MODELSCOPE_DOMAIN", environment)
    assert ("Authorization" in hub.headers(Hub(name, endpoint))) == sent  # type: ignore[arg-type]


def test_a_mirror_of_the_pages_gets_no_token_and_its_refusal_says_so(
    server: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HF_ENDPOINT")
    assert fetch(offer(server)) is not None and set(server.faults.tokens) == {None}
    for status, code in ((401, "GatedRepo"), (404, "")):
        server.faults.status[""] = (status, code)
        with pytest.raises(ModelError, match=r"token was not sent to http://127\.0\.0\.1") as caught:
            offer(server)
        assert "令牌没有发给" in caught.value.of("zh")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    with pytest.raises(ModelError) as caught:
        offer(server)
    assert "was not sent" not in caught.value.of("en")


def test_a_missing_model_is_said_with_the_ways_to_get_it() -> None:
    with pytest.raises(ModelError, match=r"press Download; the commands app\.py train and chat") as caught:
        models.locate("/no/such/folder")
    assert "再按“下载”" in caught.value.of("zh") and "hf download" not in caught.value.of("en")


def test_the_hub_is_the_kept_choice_else_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ONECARD_HUB", "USE_MODELSCOPE_HUB", "HF_ENDPOINT", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(variable, raising=False)
    made = Downloads(tmp_path)
    assert made.hub == Hub("hf", "https://huggingface.co") and made.hub.label.zh == "Hugging Face"
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    assert made.hub == Hub("modelscope", "https://www.modelscope.cn")
    monkeypatch.setenv("ONECARD_HUB", "hf")
    monkeypatch.setenv("HF_ENDPOINT", "https://hf-mirror.com/")
    assert made.hub == Hub("hf", "https://hf-mirror.com") and "hf-mirror" in made.hub.label.en
    made.choose("modelscope", "")
    assert Downloads(tmp_path).hub == Hub("modelscope", "https://www.modelscope.cn")
    made.choose("hf", " http://mirror.local:8080/hf/ ")
    assert Downloads(tmp_path).hub == Hub("hf", "http://mirror.local:8080/hf")
    for name, endpoint in (("ollama", ""), ("hf", "file:///etc"), ("hf", "https://a b")):
        with pytest.raises(ConfigError):
            made.choose(name, endpoint)
    assert made.hub.endpoint == "http://mirror.local:8080/hf"
    (tmp_path / "hub.json").write_text("{")
    assert made.hub == Hub("hf", "https://hf-mirror.com")


def test_a_download_in_the_background_is_followed_cancelled_and_taken_up(server: LocalHub, tmp_path: Path) -> None:
    server.faults.hold = threading.Event()
    made, size = Downloads(tmp_path), len(server.files[WEIGHTS])
    total = made.start(NAME).nbytes
    until(lambda: server.faults.served.get(WEIGHTS, 0) >= size // 2)
    with pytest.raises(BusyError):
        made.start(NAME)
    until(lambda: made.now is not None and made.now.done >= size // 2)
    assert made.now is not None and made.now.total == total and 0 < made.now.share < 1 and made.now.name == NAME
    made.cancel()
    server.faults.hold.set()
    assert made.wait(30) and made.outcome is not None and (made.outcome.here, made.outcome.problem) == (False, None)
    assert_absent()
    server.faults.hold = None
    made.start(NAME)
    assert made.wait(30) and made.outcome.here and made.now is None and models.inspect(NAME)
    with pytest.raises(ModelError, match="has no Org/Other"):
        made.start("Org/Other")
    server.faults.corrupt.add(WEIGHTS)
    shutil.rmtree(tmp_path / "hf")
    made.start(NAME)
    assert made.wait(30) and not made.outcome.here and made.outcome.problem is not None


def test_a_command_brings_its_model_after_saying_the_size(server: LocalHub, tmp_path: Path) -> None:
    made, said = Downloads(tmp_path), []
    for local in ("pocket", str(tmp_path)):
        bring(made, local, said.append)
    assert said == [] and server.faults.asked == []
    server.faults.corrupt.add(WEIGHTS)
    with pytest.raises(ModelError, match="checksum"):
        bring(made, NAME, said.append)
    server.faults.corrupt.clear()
    bring(made, NAME, said.append)
    assert models.inspect(NAME) and len(said) == 2 and "0.00 GB" in said[0].en and str(tmp_path / "hf") in said[0].zh
    bring(made, NAME, said.append)
    assert len(said) == 2
    shutil.rmtree(tmp_path / "hf")
    models.look_again()
    server.faults.hold = threading.Event()

    def interrupt(text: Text) -> None:
        if "GB" in text.en and "/" in text.en.split()[1]:
            raise KeyboardInterrupt
        server.faults.asked.append(text.en)

    with pytest.raises(KeyboardInterrupt):
        bring(made, NAME, interrupt)
    server.faults.hold.set()
    assert made.wait(20)
    assert_absent()


def test_the_top_bar_shows_what_is_read_and_how_long_it_takes(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from core.workspace import Workspace
    from ui.edits import Edits
    from ui.page import Page
    from ui.top_bar import _shown

    workspace = Workspace(tmp_path / "home")
    page = Page(workspace, "zh", Edits(workspace))
    assert _shown(page)["transfer"] is None
    moment = [0.0]
    workspace.engine.loading = Meter(lambda: moment[0])
    for done in (0, 1_900_000_000, 3_800_000_000):
        workspace.engine.loading("Qwen2.5-7B", done, 15_200_000_000)
        moment[0] += 1
    state = _shown(page)
    assert (
        state["pill"] == "载入 Qwen2.5-7B 3.8 / 15.2 GB · 1,267 MB/s · 剩 0:09"
        and state["transfer"] == 25
        and state["live"]
    )
    workspace.engine.loading("Qwen2.5-7B", 15_200_000_000, 15_200_000_000)
    assert _shown(page)["transfer"] is None


def test_the_meter_knows_pace_and_time_left() -> None:
    moment = [100.0]
    meter = Meter(lambda: moment[0])
    assert meter.now is None
    meter("x", 0, 1000)
    assert meter.now is not None and meter.now.bytes_per_second is None and meter.now.seconds_left is None
    for step in range(1, 21):
        moment[0] += 1
        meter("x", 20 * step, 1000)
    assert meter.now.bytes_per_second == 20 and meter.now.seconds_left == 30 and meter.now.share == 0.4
    moment[0] += 15  # stalled: the pace falls
    assert meter.now.bytes_per_second < 8
    meter("x", 1000, 1000)
    assert meter.now is None
    meter("y", 1, 10)
    meter.rest()
    assert meter.now is None


def test_the_page_offers_follows_and_chooses_a_model(server: LocalHub, tmp_path: Path) -> None:
    gr = pytest.importorskip("gradio")
    from core.workspace import Workspace
    from ui.edits import Edits
    from ui.get_model import GetModel
    from ui.page import Page

    workspace = Workspace(tmp_path / "home")
    with gr.Blocks():
        get = GetModel(Page(workspace, "zh", Edits(workspace)))
        other = GetModel(Page(workspace, "en", Edits(workspace)))
    assert get.on_load()[get.hub] == "hf" and get.on_load()[get.endpoint] == server.address
    assert not {get.panel, get.start, get.cancel} & set(get.on_load())  # hidden, as they were built
    assert [get.elsewhere(name) for name in (NAME, "pocket", str(tmp_path), "", None)] == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert get.on_typed("pocket")[get.panel]["visible"] is False
    offered = get.on_typed(NAME)
    assert (
        f"{NAME} 不在本机" in offered[get.panel]["value"]
        and offered[get.start]["visible"]
        and offered[get.name] == NAME
    )
    server.faults.hold = threading.Event()
    begun = get.on_start(NAME)
    assert not begun[get.start]["visible"] and begun[get.cancel]["visible"] and begun[get.timer].active
    until(lambda: "Downloading Tiny-2.5" in str(other.on_tick()[other.panel]["value"]))  # the other language's page
    until(lambda: "aria-valuenow" in str(get.on_tick()[get.panel]["value"]))
    assert "下载 Tiny-2.5" in get.on_tick()[get.panel]["value"] and get.on_tick()[get.arrived] != NAME
    get.on_cancel()
    server.faults.hold.set()
    until(lambda: not get.on_tick()[get.timer].active)
    cancelled = get.on_tick()
    assert "已取消" in cancelled[get.panel]["value"] and cancelled[get.start]["visible"] and cancelled[get.name] == NAME
    server.faults.hold = None
    get.on_start(NAME)
    until(lambda: get.on_tick()[get.arrived] == NAME)
    assert "已下载" in get.on_tick()[get.panel]["value"] and not get.elsewhere(NAME)
    assert get.panel in get.on_load() and get.arrived not in get.on_load()  # a page opened later keeps its own choice
    assert workspace.select_model(NAME).name == NAME
    assert (
        get.on_hub("modelscope") == server.address
        and get.on_hub("hf", "https://hf-mirror.com") == "https://hf-mirror.com"
    )
