"""Writing to Hugging Face over HTTP: its preupload, git-lfs batch and commit endpoints."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from core.errors import ModelError
from core.hub import Hub, strange_answer
from core.publish.parcel import Outgoing
from core.publish.remote import Account, Large, Place, Repository
from core.publish.wire import Wire
from core.redact import redact
from core.text import Text

_SAMPLE_BYTES = 512  # by which the hub tells text from data
_USUAL = "https://huggingface.co"


class HuggingFace:
    """See Remote."""

    def __init__(self, hub: Hub, wire: Wire) -> None:
        self.hub, self.wire = hub, wire

    def account(self) -> Account:
        """See Remote. Raises ModelError for a token that may only read."""
        found = self.wire.read(self.wire.ask("GET", "/api/whoami-v2", self.hub.label.en))
        name = found.get("name")
        if not isinstance(name, str) or not name:
            raise strange_answer(self.hub)
        if _role(found) == "read":
            raise ModelError(
                Text(
                    f"账号 {name} 的这个令牌只能读取。请在 https://huggingface.co/settings/tokens 新建一个可写入（write）的令牌。",
                    f"This token of {name} may only read. Make one with write access at https://huggingface.co/settings/tokens.",
                )
            )
        listed = found.get("orgs")
        orgs = [org.get("name") for org in listed if isinstance(org, dict)] if isinstance(listed, list) else []
        return Account(name, (name, *(org for org in orgs if isinstance(org, str))))

    def find(self, name: str) -> Repository | None:
        """See Remote."""
        answer = self.wire.ask("GET", f"/api/models/{name}", name, missing=True)
        if answer is None:
            return None
        found = self.wire.read(answer)
        if not isinstance(found.get("private"), bool):
            raise strange_answer(self.hub)
        return Repository(name, found["private"] is True)

    def create(self, name: str, private: bool) -> None:
        """See Remote."""
        owner, _, short = name.partition("/")
        body = {"name": short, "organization": owner, "visibility": "private" if private else "public", "type": "model"}
        try:
            self.wire.ask("POST", "/api/repos/create", name, body=body)
        except ModelError:
            if self.find(name) is None:
                raise

    def large(self, name: str, files: Sequence[Outgoing]) -> frozenset[str]:
        """See Remote."""
        listed = []
        for file in files:
            with file.path.open("rb") as content:
                sample = base64.b64encode(content.read(_SAMPLE_BYTES)).decode("ascii")
            listed.append({"path": file.name, "sample": sample, "size": file.nbytes})
        answer = self.wire.ask("POST", f"/api/models/{name}/preupload/main", name, body={"files": listed})
        told = objects(self.wire.read(answer).get("files"), self.hub)
        modes = {one.get("path"): one.get("uploadMode") for one in told}
        if any(modes.get(file.name) not in ("lfs", "regular") for file in files):
            raise strange_answer(self.hub)
        # An empty file is no object of the large files' store.
        return frozenset(file.name for file in files if modes[file.name] == "lfs" and file.nbytes)

    def place(self, name: str, large: Large) -> Place | None:
        """See Remote."""
        body = {
            "operation": "upload", "transfers": ["basic", "multipart"], "hash_algo": "sha256", "ref": {"name": "main"},
            "objects": [{"oid": large.sha256, "size": large.file.nbytes}],
        }  # fmt: skip
        answer = self.wire.ask("POST", f"/{name}.git/info/lfs/objects/batch", name, body=body)
        return self._place(one_object(self.hub, self.wire.read(answer)))

    def _place(self, found: dict[str, object]) -> Place | None:
        actions = found.get("actions")
        if not isinstance(actions, dict) or "upload" not in actions:
            return None
        upload, verify = actions["upload"], actions.get("verify")
        url = upload.get("href") if isinstance(upload, dict) else None
        if not isinstance(url, str):
            raise strange_answer(self.hub)
        header = upload.get("header")
        headers = {str(key): str(value) for key, value in header.items()} if isinstance(header, dict) else {}
        told = self._ours(str(verify["href"])) if isinstance(verify, dict) and verify.get("href") else None
        if "chunk_size" not in headers:
            return Place(self._ours(url), headers, verify=told)
        numbered = sorted((int(key), value) for key, value in headers.items() if key.isdigit())
        if not numbered or not headers["chunk_size"].isdigit():
            raise strange_answer(self.hub)
        parts = tuple(value for _, value in numbered)
        return Place(self._ours(url), {}, parts, int(headers["chunk_size"]), told)

    def commit(self, name: str, summary: str, small: Sequence[Outgoing], large: Sequence[Large]) -> None:
        """See Remote."""
        actions: list[dict[str, object]] = [{"key": "header", "value": {"summary": summary, "description": ""}}]
        for file in small:
            content = base64.b64encode(file.path.read_bytes()).decode("ascii")
            actions.append({"key": "file", "value": {"path": file.name, "content": content, "encoding": "base64"}})
        for one in large:
            value = {"path": one.file.name, "algo": "sha256", "oid": one.sha256, "size": one.file.nbytes}
            actions.append({"key": "lfsFile", "value": value})
        lines = b"".join(json.dumps(action).encode() + b"\n" for action in actions)
        self.wire.ask("POST", f"/api/models/{name}/commit/main", name, lines=lines, again=False)

    def page(self, name: str) -> str:
        """See Remote."""
        return f"{self.hub.endpoint}/{name}"

    def _ours(self, url: str) -> str:
        """A mirror passes on what the hub says of itself: the mirror's own address in its place."""
        return url.replace(_USUAL, self.hub.endpoint, 1) if url.startswith(f"{_USUAL}/") else url


def one_object(hub: Hub, found: dict[str, object]) -> dict[str, object]:
    """The only object of a git-lfs batch's answer. Raises ModelError: no such answer, or the hub refuses the object."""
    listed = objects(found.get("objects"), hub)
    if len(listed) > 1:
        raise strange_answer(hub)
    one = listed[0] if listed else {}
    error = one.get("error")
    if isinstance(error, dict):
        words, label = redact(str(error.get("message", ""))[:300]), hub.label
        raise ModelError(
            Text(f"{label.zh} 不收这个文件：“{words}”。", f"{label.en} does not take this file: “{words}”.")
        )
    return one


def objects(found: object, hub: Hub) -> list[dict[str, object]]:
    """A list of JSON objects. Raises ModelError if it is none."""
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise strange_answer(hub)
    return found


def _role(found: dict[str, object]) -> object:
    """What the token may do: read, write or fineGrained; None where the hub does not say."""
    auth = found.get("auth")
    token = auth.get("accessToken") if isinstance(auth, dict) else None
    return token.get("role") if isinstance(token, dict) else None
