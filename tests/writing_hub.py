"""A stand-in on this machine for the parts of Hugging Face's and ModelScope's HTTP interfaces that write, and read back.

Its answers are those that the hubs' own clients take: test_publish.py holds it to huggingface_hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

TOKEN = "hf_" + "s3cret" * 6
READING = "hf_" + "reader" * 6
_HF, _MS = "/api/models/", "/api/v1/repos/models/"


@dataclass
class Repo:
    """A repository: who may see it, and its newest revision's files."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Faults:
    """What the hub does wrong: answers to the next requests whose "METHOD path" holds a text; uploads that break off."""

    status: dict[str, list[tuple[int, dict[str, object]]]] = field(default_factory=dict)
    break_after: list[int] = field(default_factory=list)
    hold: threading.Event | None = None  # uploads wait for it half way
    always_public: bool = False


class Handler(BaseHTTPRequestHandler):
    """The endpoints."""

    protocol_version = "HTTP/1.1"
    server: WritingHub

    def log_message(self, *words: object) -> None: ...

    def do_GET(self) -> None:
        self.route("GET")

    def do_POST(self) -> None:
        self.route("POST")

    def do_PUT(self) -> None:
        self.route("PUT")

    def route(self, method: str) -> None:
        hub, url = self.server, urlparse(self.path)
        hub.asked.append((method, url.path, self.headers.get("Authorization")))
        fault = next(
            (key for key in hub.faults.status if key in f"{method} {url.path}" and hub.faults.status[key]), None
        )
        if fault is not None:
            self.body()
            status, said = hub.faults.status[fault].pop(0)
            return self.answer(said, status)
        if method == "PUT":
            return self.store(url.path.rpartition("/")[2], parse_qs(url.query))
        body = self.body()
        path = unquote(url.path)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path.startswith(("/cdn/", "/v/")):
            return self.file(path) if path.startswith("/cdn/") else self.answer({})
        if self.account() is None and method == "POST" and not path.startswith("/done/"):
            return self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        known = self.reading(path, parse_qs(url.query)) if method == "GET" else self.writing(path, body)
        if not known:
            self.answer({"error": "Repository not found"}, 404)

    # -- what is there

    def account(self) -> dict[str, object] | None:
        shown = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.path.startswith("/api/v1/"):  # there it is a cookie that counts
            shown = (self.headers.get("Cookie") or "").removeprefix("m_session_id=")
        return self.server.accounts.get(shown)

    def repo(self, name: str) -> Repo | None:
        found = self.server.repos.get(name)
        return None if found is None or (found.private and self.account() is None) else found

    def reading(self, path: str, query: dict[str, list[str]]) -> bool:
        account = self.account()
        if path in ("/api/whoami-v2", "/openapi/v1/users/me"):
            if account is None:
                self.answer({"error": "Invalid username or password."}, 401)
            elif "openapi" in path:
                self.answer({"success": True, "data": {"username": account["name"]}})
            else:
                self.answer(account)
            return True
        name = path.removeprefix("/api/v1/models/").removeprefix(_HF)
        if path.startswith("/api/v1/models/") and name.endswith(("/repo", "/repo/files")):
            return self.modelscope_files(name, query)
        repo = self.repo(name)
        if repo is None or not path.startswith("/api/"):
            owner_name = "/".join(path.split("/")[1:3])
            if "/resolve/" not in path or self.repo(owner_name) is None:
                return False
            return self.moved(f"/cdn/{owner_name}/{path.rpartition('/')[2]}")
        if path.startswith("/api/v1/"):
            self.answer({"Code": 200, "Success": True, "Data": {"Visibility": 1 if repo.private else 5}})
            return True
        siblings = [
            {
                "rfilename": one,
                "size": len(data),
                "lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()},
            }
            for one, data in repo.files.items()
        ]
        sha = hashlib.sha1("".join(repo.commits).encode()).hexdigest()
        self.answer(
            {"id": name, "_id": "1", "modelId": name, "private": repo.private, "sha": sha, "siblings": siblings}
        )
        return True

    def modelscope_files(self, name: str, query: dict[str, list[str]]) -> bool:
        owner_name = name.removesuffix("/files").removesuffix("/repo")
        repo = self.repo(owner_name)
        if repo is None:
            return False
        if not name.endswith("/files"):
            return self.moved(f"/cdn/{owner_name}/{query['FilePath'][0]}")
        listed = [
            {"Path": one, "Size": len(data), "Type": "blob", "Sha256": hashlib.sha256(data).hexdigest()}
            for one, data in repo.files.items()
        ]
        self.answer({"Code": 200, "Data": {"Files": listed}})
        return True

    # -- what is written

    def writing(self, path: str, body: bytes) -> bool:
        if path in ("/api/repos/create", "/api/v1/models"):
            return self.create(json.loads(body), path == "/api/v1/models")
        for start, end in ((_HF, "/preupload/main"), (_HF, "/commit/main"), (_MS, "/commit/master"),
                           (_MS, "/info/lfs/objects/batch"), ("/", ".git/info/lfs/objects/batch")):  # fmt: skip
            name = path.removeprefix(start).removesuffix(end)
            if path.startswith(start) and path.endswith(end) and name in self.server.repos:
                break
        else:
            return path.startswith("/done/") and self.join(path.rpartition("/")[2], json.loads(body))
        account = self.account()
        owners = {account["name"], *(org["name"] for org in account["orgs"])} if account else set()  # type: ignore[index,union-attr]
        if name.partition("/")[0] not in owners:
            self.answer({"error": "You don't have the rights to create a model under this namespace"}, 403)
        elif end == "/preupload/main":
            self.preupload(json.loads(body))
        elif end.endswith("batch"):
            self.batch(json.loads(body), modelscope=start == _MS)
        else:
            self.commit(name, body, modelscope=start == _MS)
        return True

    def create(self, asked: dict[str, object], modelscope: bool) -> bool:
        hub = self.server
        account = self.account()
        owner = asked.get("Path") if modelscope else asked.get("organization") or (account or {}).get("name")
        name = f"{owner}/{asked['Name' if modelscope else 'name']}"
        if name in hub.repos and modelscope:
            self.answer({"Code": 10010101001, "Success": False, "Message": "model already exists"}, 400)
        elif name in hub.repos:
            self.answer({"error": "You already created this model repo", "url": f"{hub.address}/{name}"}, 409)
        else:
            private = asked["Visibility"] == 1 if modelscope else asked.get("visibility") == "private"
            hub.repos[name] = Repo(private and not hub.faults.always_public)
            self.answer({"Code": 200, "Success": True, "Data": {}} if modelscope else {"url": f"{hub.address}/{name}"})
        return True

    def preupload(self, asked: dict[str, list[dict[str, object]]]) -> None:
        files = []
        for file in asked["files"]:
            base64.b64decode(str(file["sample"]), validate=True)
            mode = "lfs" if str(file["path"]).endswith((".safetensors", ".gguf")) else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        self.answer({"files": files})

    def batch(self, asked: dict[str, object], modelscope: bool) -> None:
        hub, answers = self.server, []
        for one in asked["objects"]:  # type: ignore[attr-defined]
            oid, size = one["oid"], one["size"]
            entry: dict[str, object] = {"oid": oid, "size": size}
            if oid not in hub.blobs:
                upload: dict[str, object] = {"href": f"{hub.address}/store/{oid}?sig=signed"}
                if hub.part_bytes and not modelscope:
                    count = -(-size // hub.part_bytes)
                    parts = {str(n + 1): f"{hub.address}/store/{oid}?part={n + 1}" for n in range(count)}
                    upload = {
                        "href": f"{hub.address}/done/{oid}",
                        "header": {"chunk_size": str(hub.part_bytes), **parts},
                    }
                entry["actions"] = {"upload": upload}
                if not modelscope:
                    entry["actions"]["verify"] = {"href": f"{hub.address}/v/{oid}"}  # type: ignore[index]
            answers.append(entry)
        found = {"objects": answers, "transfer": "multipart" if hub.part_bytes else "basic"}
        self.answer({"Code": 200, "Success": True, "Data": found} if modelscope else found)

    def store(self, oid: str, query: dict[str, list[str]]) -> None:
        hub, length = self.server, int(self.headers["Content-Length"])
        end = min(length, hub.faults.break_after.pop(0)) if hub.faults.break_after else length
        half = end // 2 if hub.faults.hold is not None else end
        data = self.rfile.read(half)
        if hub.faults.hold is not None:
            hub.held.set()
            hub.faults.hold.wait(30)
            data += self.rfile.read(end - half)
        hub.received += len(data)
        if len(data) < length:
            self.close_connection = True
            return
        if "part" in query:
            hub.parts.setdefault(oid, {})[int(query["part"][0])] = data
        elif hashlib.sha256(data).hexdigest() == oid:
            hub.blobs[oid] = data
        else:
            return self.answer({"error": "digest"}, 400)
        self.answer({}, 200, {"ETag": f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'})

    def join(self, oid: str, asked: dict[str, object]) -> bool:
        """The parts as one object, if each was told by its tag."""
        parts = self.server.parts[oid]
        tags = [f'"{hashlib.md5(parts[n], usedforsecurity=False).hexdigest()}"' for n in sorted(parts)]
        whole = b"".join(parts[n] for n in sorted(parts))
        right = asked == {"oid": oid, "parts": [{"partNumber": n, "etag": tags[n - 1]} for n in sorted(parts)]}
        if right and hashlib.sha256(whole).hexdigest() == oid:
            self.server.blobs[oid] = whole
        self.answer({}, 200 if oid in self.server.blobs else 400)
        return True

    def commit(self, name: str, body: bytes, modelscope: bool) -> None:
        hub, files = self.server, dict[str, bytes]()
        if modelscope:
            asked = json.loads(body)
            summary = asked["commit_message"]
            for one in asked["actions"]:
                large = one["type"] == "lfs"
                files[one["path"]] = (
                    hub.blobs[one["sha256"]] if large else base64.b64decode(one["content"], validate=True)
                )
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            summary = lines[0]["value"]["summary"]
            for line in lines[1:]:
                value, large = line["value"], line["key"] == "lfsFile"
                files[value["path"]] = (
                    hub.blobs[value["oid"]] if large else base64.b64decode(value["content"], validate=True)
                )
        hub.repos[name].files |= files
        hub.repos[name].commits.append(summary)
        made = {"commitUrl": f"{hub.address}/{name}/commit/1", "commitOid": "1" * 40, "success": True}
        self.answer({"Code": 200, "Success": True, "Data": {}} if modelscope else made)

    # -- http

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def moved(self, to: str) -> bool:
        self.answer({}, 302, {"Location": to})
        return True

    def file(self, path: str) -> None:
        _, _, owner, name, file = path.split("/", 4)
        data = self.server.repos[f"{owner}/{name}"].files[file]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        hold = self.server.faults.hold
        if hold is not None and len(data) > 10_000:
            self.wfile.write(data[start : len(data) // 2])
            self.server.held.set()
            hold.wait(30)
            start = max(start, len(data) // 2)
        self.wfile.write(data[start:])

    def answer(self, value: object, status: int = 200, extra: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, said in {
            "Content-Length": str(len(data)),
            "Content-Type": "application/json",
            **(extra or {}),
        }.items():
            self.send_header(key, said)
        self.end_headers()
        self.wfile.write(data)


class WritingHub(ThreadingHTTPServer):
    """The hub, on a free port. `held` is set when an upload waits; `part_bytes`: large files go in pieces of so many."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        orgs = [{"name": "lab", "type": "org"}]
        self.accounts = {
            TOKEN: {"type": "user", "name": "ada", "orgs": orgs, "auth": {"accessToken": {"role": "write"}}},
            READING: {"type": "user", "name": "ada", "orgs": orgs, "auth": {"accessToken": {"role": "read"}}},
        }
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.faults, self.held, self.received, self.part_bytes = Faults(), threading.Event(), 0, 0

    def handle_error(self, request: object, client: object) -> None: ...

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"
