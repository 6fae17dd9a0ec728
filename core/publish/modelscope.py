"""Writing to ModelScope over HTTP: its models, git-lfs batch and commit endpoints, as its own client calls them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.errors import ModelError
from core.hub import Hub, strange_answer
from core.publish.huggingface import one_object
from core.publish.parcel import Outgoing
from core.publish.remote import Account, Large, Place, Repository
from core.publish.wire import Wire
from core.text import Text

if TYPE_CHECKING:
    import httpx

_PRIVATE, _PUBLIC = 1, 5
_IN_THE_COMMIT = 64 * 1024  # bytes up to which a file goes into the commit itself
# What the hub reads itself: as a large file it would find a pointer in its place.
_ALWAYS_IN = ("readme.md", "config.json", "configuration.json", ".gitattributes")
_LARGE = (".safetensors", ".gguf", ".model", ".bin")


class ModelScope:
    """See Remote."""

    def __init__(self, hub: Hub, wire: Wire) -> None:
        self.hub, self.wire = hub, wire

    def account(self) -> Account:
        """See Remote. The hub does not say which organisations the account may write for."""
        answer = self.wire.ask("GET", "/openapi/v1/users/me", self.hub.label.en)
        found = self._data(answer, self.hub.label.en)
        names = (found.get(key) for key in ("Username", "username", "name", "preferred_username"))
        name = next((name for name in names if isinstance(name, str) and name), None)
        if name is None:
            raise strange_answer(self.hub)
        return Account(name, None)

    def find(self, name: str) -> Repository | None:
        """See Remote."""
        answer = self.wire.ask("GET", f"/api/v1/models/{name}", name, missing=True)
        if answer is None:
            return None
        found = self._data(answer, name)
        visibility = found.get("Visibility", found.get("visibility"))
        if not isinstance(visibility, int):
            raise strange_answer(self.hub)
        return Repository(name, visibility != _PUBLIC)

    def create(self, name: str, private: bool) -> None:
        """See Remote."""
        owner, _, short = name.partition("/")
        body = {
            "Path": owner, "Name": short, "Visibility": _PRIVATE if private else _PUBLIC, "License": "Apache-2.0",
        }  # fmt: skip
        try:
            self._data(self.wire.ask("POST", "/api/v1/models", name, body=body), name)
        except ModelError:
            if self.find(name) is None:
                raise

    def large(self, name: str, files: Sequence[Outgoing]) -> frozenset[str]:
        """See Remote. Here the sender decides; the limits are those of the hub's own client."""
        return frozenset(file.name for file in files if _is_large(file))

    def place(self, name: str, large: Large) -> Place | None:
        """See Remote."""
        body = {"operation": "upload", "objects": [{"oid": large.sha256, "size": large.file.nbytes}]}
        path = f"/api/v1/repos/models/{name}/info/lfs/objects/batch"
        answer = self.wire.ask("POST", path, name, body=body)
        actions = one_object(self.hub, {"objects": [], **self._data(answer, name)}).get("actions")
        upload = actions.get("upload") if isinstance(actions, dict) else None
        url = upload.get("href") if isinstance(upload, dict) else None
        if url is None:
            return None
        if not isinstance(url, str):
            raise strange_answer(self.hub)
        return Place(url, self.wire.authority(url))

    def commit(self, name: str, summary: str, small: Sequence[Outgoing], large: Sequence[Large]) -> None:
        """See Remote."""
        actions: list[dict[str, object]] = [
            {"action": "create", "path": file.name, "type": "normal", "size": file.nbytes, "sha256": "",
             "content": base64.b64encode(file.path.read_bytes()).decode("ascii"), "encoding": "base64"}
            for file in small
        ]  # fmt: skip
        actions += [
            {"action": "create", "path": one.file.name, "type": "lfs", "size": one.file.nbytes, "sha256": one.sha256,
             "content": "", "encoding": ""}
            for one in large
        ]  # fmt: skip
        body = {"commit_message": summary, "actions": actions}
        path = f"/api/v1/repos/models/{name}/commit/master"
        self._data(self.wire.ask("POST", path, name, body=body, again=False), name)

    def page(self, name: str) -> str:
        """See Remote."""
        return f"{self.hub.endpoint}/models/{name}"

    def _data(self, answer: httpx.Response | None, about: str) -> dict[str, object]:
        """What an answer carries. A refusal may come as a success with another code in its body."""
        found = self.wire.read(answer)
        code, success = found.get("Code", found.get("code")), found.get("Success", found.get("success"))
        if answer is not None and (success is False or (isinstance(code, int) and code != 200)):
            raise self._refused(answer, about, code)
        data = found.get("Data", found.get("data", found))
        return data if isinstance(data, dict) else {}

    def _refused(self, answer: httpx.Response, about: str, code: object) -> ModelError:
        words, label = self.wire.said(answer), self.hub.label
        return ModelError(
            Text(
                f"{label.zh} 没有接受 {about}（{code}）：“{words}”。",
                f"{label.en} did not accept {about} ({code}): “{words}”.",
            )
        )


def _is_large(file: Outgoing) -> bool:
    if file.name.lower() in _ALWAYS_IN or not file.nbytes:
        return False
    return file.nbytes > _IN_THE_COMMIT or file.name.endswith(_LARGE)
