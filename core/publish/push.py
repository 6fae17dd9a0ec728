"""A folder's way to a hub: what would be sent is planned and confirmed, sent large files first, made visible in one commit.

Whatever breaks off before the commit leaves the repository as it was; large files that arrived are not sent again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core import hub as hubs
from core.errors import ConfigError, ModelError
from core.hub import Hub, HubName
from core.models import Progress, Stopped
from core.publish import parcel, wire
from core.publish.huggingface import HuggingFace
from core.publish.modelscope import ModelScope
from core.publish.parcel import Outgoing, Parcel
from core.publish.remote import Account, Large, Place, Remote
from core.publish.wire import Wire
from core.text import Text
from core.waiting import Quiet

if TYPE_CHECKING:
    import httpx

_CHUNK_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
Pause = Callable[[int], float]
CHANGED = Text(
    "确认之后，文件、账号或仓库变了，没有上传。请重新核对一遍。",
    "The files, the account or the repository changed after you confirmed; nothing was sent. Look at it again.",
)
LICENCE = Text(
    "新建的仓库会标为 Apache-2.0 许可（ModelScope 的默认值），可以在网站上改。",
    "The new repository is marked as Apache-2.0, ModelScope's default; it can be changed on the site.",
)


@dataclass(frozen=True)
class Plan:
    """What is to be confirmed: whose token sends which files where, and who will see them. `there`: the repository exists."""

    hub: Hub
    account: str
    repository: str
    private: bool
    there: bool
    parcel: Parcel

    @property
    def licence(self) -> Text | None:
        """What the repository will say of its licence without having been told; None if it says nothing of itself."""
        return LICENCE if self.hub.name == "modelscope" and not self.there else None

    @property
    def seal(self) -> str:
        """Changes when anything that was shown does: a confirmation holds for this and nothing else."""
        shown = [self.hub.name, self.hub.endpoint, self.account, self.repository, self.private, self.there]
        return hashlib.sha256(json.dumps([*shown, self.parcel.digest]).encode()).hexdigest()


@dataclass(frozen=True)
class Pushed:
    """Files that are on a hub now, and the address where people find them."""

    plan: Plan
    page: str


def hub_for_writing(name: HubName) -> Hub:
    """The hub itself or the environment's address for it; never a mirror that was chosen on the page for reading."""
    return hubs.hub_named(name)


def account(name: HubName) -> Account:
    """Whose token is here. Raises ConfigError if there is none, ModelError if the hub does not take it."""
    with wire.connection() as client:
        return _remote(client, hub_for_writing(name)).account()


def prepare(folder: Path, name: HubName, repository: str, private: bool, quiet: Quiet | None = None) -> Plan:
    """Look at the folder and ask the hub. Sends nothing. Raises UserError for what could not be pushed so.

    `quiet` hears of answers that are late.
    """
    found, hub = parcel.read(folder), hub_for_writing(name)
    with wire.connection() as client:
        return _plan(_remote(client, hub, quiet=quiet), found, repository.strip(), private)


def push(
    plan: Plan, stop: threading.Event, told: Progress, pause: Pause | None = None, quiet: Quiet | None = None
) -> Pushed | None:
    """Carry out what was confirmed; None if `stop` was set before the commit. `told` hears of bytes sent.

    `pause(n)`: seconds before the n-th attempt at a request; `quiet` hears of answers that are late. Raises
    ConfigError if things are no longer as confirmed, ModelError or StorageError for what the hub or the disk refuses.
    """
    with wire.connection() as client:
        remote = _remote(client, plan.hub, stop, pause, quiet)
        try:
            if _plan(remote, parcel.read(plan.parcel.folder), plan.repository, plan.private).seal != plan.seal:
                raise ConfigError(CHANGED, "repo")
            _make(remote, plan)
            with _reading(plan.parcel.folder):
                _send_all(remote, plan, told)
        except Stopped:
            return None
        return Pushed(plan, remote.page(plan.repository))


def _remote(
    client: httpx.Client,
    hub: Hub,
    stop: threading.Event | None = None,
    pause: Pause | None = None,
    quiet: Quiet | None = None,
) -> Remote:
    if hubs.offline(hub, "") is not None:
        raise ConfigError(
            Text(
                "设置了 HF_HUB_OFFLINE，因此不联网上传。去掉这个环境变量再试。",
                "HF_HUB_OFFLINE is set, so nothing is uploaded. Unset it and try again.",
            ),
            "to",
        )
    token = hubs.token(hub)
    if not token:
        raise ConfigError(_no_token(hub), "to")
    line = Wire(client, hub, token, stop, pause, quiet)
    return HuggingFace(hub, line) if hub.name == "hf" else ModelScope(hub, line)


def _no_token(hub: Hub) -> Text:
    if not hubs.may_have_token(hub):
        return Text(
            f"{hub.endpoint} 不是 https 地址，令牌不会发给它，所以不能上传。",
            f"{hub.endpoint} is no https address: it never gets your token, so nothing can be pushed there.",
        )
    how = wire.how_to_log_in(hub)
    return Text(f"没有 {hub.label.zh} 的令牌。请{how.zh}。", f"There is no token for {hub.label.en}. {how.en}.")


def _plan(remote: Remote, found: Parcel, repository: str, private: bool) -> Plan:
    who = remote.account()
    if not _NAME.fullmatch(repository) or ".." in repository or repository.endswith(".git"):
        raise ConfigError(
            Text(
                f"“{repository[:120]}”不是仓库名。应像 {who.name}/{found.folder.name} 这样：账号或组织/名称，名称用英文字母、数字、"
                "-、_ 和 .。",
                f"“{repository[:120]}” is no repository. It looks like {who.name}/my-model: an account or organisation, and a "
                "name of letters, digits, -, _ and .",
            ),
            "repo",
        )
    owner = repository.partition("/")[0]
    if who.owners is not None and owner.lower() not in {one.lower() for one in who.owners}:
        listed = ", ".join(who.owners)
        raise ConfigError(
            Text(
                f"账号 {who.name} 不能以 {owner} 的名义上传。可用：{listed.replace(', ', '、')}。",
                f"{who.name} may not push in the name of {owner}. There are: {listed}.",
            ),
            "repo",
        )
    there = remote.find(repository)
    if there is not None and private and not there.private:
        raise ConfigError(_public(remote, repository), "repo")
    return Plan(remote.hub, who.name, repository, private if there is None else there.private, there is not None, found)


def _public(remote: Remote, repository: str) -> Text:
    label = remote.hub.label
    return Text(
        f"{label.zh} 上已有仓库 {repository}，而且是公开的：上传的文件谁都能看到。请换一个名称，或选“公开”。",
        f"{repository} is on {label.en} already and is public: everybody would see what is sent. Choose another name, or choose "
        "public.",
    )


def _make(remote: Remote, plan: Plan) -> None:
    """A repository that is not there yet; nothing is sent into one that others can see against what was confirmed."""
    if plan.there:
        return
    remote.wire.check()
    remote.create(plan.repository, plan.private)
    made = remote.find(plan.repository)
    if made is None or (plan.private and not made.private):
        raise ModelError(
            Text(
                f"{remote.hub.label.zh} 没有把 {plan.repository} 建成私有仓库，因此没有上传任何文件。请在 "
                f"{remote.page(plan.repository)} 检查。",
                f"{remote.hub.label.en} did not make {plan.repository} private, so no file was sent. Look at "
                f"{remote.page(plan.repository)}.",
            )
        )


def _send_all(remote: Remote, plan: Plan, told: Progress) -> None:
    files = plan.parcel.files
    chosen = remote.large(plan.repository, files)
    small, large = [], list[Large]()
    done, total = 0, plan.parcel.nbytes

    def count(nbytes: int) -> None:
        told(plan.repository, done + nbytes, total)

    count(0)
    for file in files:
        if file.name not in chosen:
            small.append(file)
            continue
        one = Large(file, _digest(file, remote.wire))
        _send(remote, plan.repository, one, count)
        large.append(one)
        done += file.nbytes
    remote.wire.check()
    remote.commit(plan.repository, f"Upload {plan.parcel.folder.name} with OneCard", small, large)
    told(plan.repository, total, total)


def _digest(file: Outgoing, line: Wire) -> str:
    """The file's sha256. Raises ModelError if it changed since it was confirmed."""
    digest, nbytes = hashlib.sha256(), 0
    with file.path.open("rb") as content:
        while piece := content.read(_CHUNK_BYTES):
            line.check()
            digest.update(piece)
            nbytes += len(piece)
    if nbytes != file.nbytes:
        raise _changed(file)
    return digest.hexdigest()


def _send(remote: Remote, repository: str, large: Large, told: Callable[[int], None]) -> None:
    """Bring a large file there, asking anew where to after each failure: an address may have expired."""
    attempt = 0
    while True:
        attempt += 1
        place = remote.place(repository, large)
        if place is None:
            told(large.file.nbytes)
            return
        problem = _put_all(remote, repository, place, large, told)
        if problem is None:
            break
        if attempt >= wire.ATTEMPTS:
            raise problem
        remote.wire.rest(attempt)
    if place.verify is not None:
        remote.wire.ask("POST", place.verify, repository, body={"oid": large.sha256, "size": large.file.nbytes})


def _put_all(
    remote: Remote, repository: str, place: Place, large: Large, told: Callable[[int], None]
) -> ModelError | None:
    """Send the bytes to one address, or in pieces to several; what went wrong, if it may go right the next time."""
    if not place.parts:
        return _put(remote, place.url, place, large, 0, large.file.nbytes, told)[0]
    tags, size = [], place.part_bytes
    if len(place.parts) != -(-large.file.nbytes // size):
        raise hubs.strange_answer(remote.hub)
    for number, url in enumerate(place.parts):
        begin = number * size
        problem, tag = _put(remote, url, place, large, begin, min(size, large.file.nbytes - begin), told)
        if problem is not None:
            return problem
        tags.append({"partNumber": number + 1, "etag": tag})
    remote.wire.ask("POST", place.url, repository, body={"oid": large.sha256, "parts": tags}, signed=True)
    return None


def _put(
    remote: Remote, url: str, place: Place, large: Large, begin: int, nbytes: int, told: Callable[[int], None]
) -> tuple[ModelError | None, str]:
    import httpx

    remote.wire.check()
    headers = {"User-Agent": "onecard", **place.headers, "Content-Length": str(nbytes)}
    body = _pieces(large.file, begin, nbytes, remote.wire, told)
    try:
        answer = remote.wire.apart(lambda: remote.wire.client.put(url, content=body, headers=headers))
    except httpx.HTTPError as error:
        return _broken(remote.hub, large.file, type(error).__name__), ""
    if answer.status_code >= 300:
        return _broken(remote.hub, large.file, f"HTTP {answer.status_code}"), ""
    return None, answer.headers.get("ETag", "")


def _pieces(file: Outgoing, begin: int, nbytes: int, line: Wire, told: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    with file.path.open("rb") as content:
        content.seek(begin)
        while done < nbytes:
            line.check()
            piece = content.read(min(_CHUNK_BYTES, nbytes - done))
            if not piece:
                raise _changed(file)
            yield piece
            done += len(piece)
            told(begin + done)


def _broken(hub: Hub, file: Outgoing, why: str) -> ModelError:
    label = hub.label
    return ModelError(
        Text(
            f"{file.name} 传到 {label.zh} 的途中断了（{why}），试了 {wire.ATTEMPTS} 次。没有提交任何文件；已传完的大文件不必重传，"
            "请检查网络后再发布一次。",
            f"Sending {file.name} to {label.en} broke off ({why}), {wire.ATTEMPTS} times. Nothing was committed; large files that "
            "arrived are not sent again. Check the network and push once more.",
        )
    )


def _changed(file: Outgoing) -> ModelError:
    return ModelError(
        Text(
            f"{file.name} 在上传途中被改动了，没有提交任何文件。请重新核对后再发布。",
            f"{file.name} changed while it was being sent; nothing was committed. Look at it again, then push.",
        )
    )


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise parcel.unreadable(folder, error) from error
