"""Where base models come from: Hugging Face or ModelScope, or a mirror; what a hub offers of a model. Fetches no file."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import quote, urlsplit

from core import models, storage
from core.errors import ConfigError, ModelError
from core.text import Text

if TYPE_CHECKING:
    import httpx

HubName = Literal["hf", "modelscope"]
HUBS: dict[HubName, Text] = {
    "hf": Text("Hugging Face", "Hugging Face"),
    "modelscope": Text("魔搭 ModelScope", "ModelScope"),
}
_ENDPOINTS: dict[HubName, str] = {"hf": "https://huggingface.co", "modelscope": "https://www.modelscope.cn"}
_VARIABLES: dict[HubName, str] = {"hf": "HF_ENDPOINT", "modelscope": "MODELSCOPE_DOMAIN"}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Weights, settings and tokenizer; no pickles, no code, no second format of the same weights.
_WANTED = re.compile(r"model[\w.-]*\.safetensors|[\w-][\w.-]*\.(json|jinja|model|tiktoken)|(merges|vocab)\.txt")
_TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Hub:
    """A hub and the address it is reached at."""

    name: HubName = "hf"
    endpoint: str = _ENDPOINTS["hf"]

    def __post_init__(self) -> None:
        if self.name not in HUBS:
            raise ConfigError(
                Text(
                    zh=f"没有名为“{self.name}”的模型来源。可用：hf、modelscope。",
                    en=f"No hub “{self.name}”. Use hf or modelscope.",
                ),
                "hub",
            )
        if not re.fullmatch(r"https?://[\w.-]+(:\d+)?(/[\w./-]*)?", self.endpoint):
            raise ConfigError(
                Text(
                    zh=f"“{self.endpoint}”不是网址。应像 https://hf-mirror.com 这样。",
                    en=f"“{self.endpoint}” is no web address. It looks like https://hf-mirror.com.",
                ),
                "endpoint",
            )

    @property
    def label(self) -> Text:
        """The hub's name, with the mirror's address if it is one."""
        named, away = HUBS[self.name], self.endpoint != _ENDPOINTS[self.name]
        return Text(f"{named.zh}（{self.endpoint}）", f"{named.en} ({self.endpoint})") if away else named


@dataclass(frozen=True)
class RemoteFile:
    """A file on a hub. `digest` is its sha256, or its git blob's sha1 where the hub knows no other; None if neither."""

    name: str
    nbytes: int
    digest: str | None
    url: str


@dataclass(frozen=True)
class Offer:
    """A model on a hub: the files OneCard needs of it."""

    name: str
    hub: Hub
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def nbytes(self) -> int:
        """Size of all files."""
        return sum(file.nbytes for file in self.files)


def is_hub_name(name: str) -> bool:
    """Whether `name` could be a model's id on a hub: owner/model."""
    return _NAME.fullmatch(name.strip()) is not None


def is_wanted(file: str) -> bool:
    """Whether a hub's file of this name belongs to what OneCard needs of a model."""
    return _WANTED.fullmatch(file) is not None


def read_choice(path: Path) -> Hub:
    """The hub kept in `path`; where none is, the environment's: ONECARD_HUB, USE_MODELSCOPE_HUB, HF_ENDPOINT.

    A file that cannot be read counts as none.
    """
    kept: dict[str, object] = {}
    if path.is_file():
        try:
            kept = cast("dict[str, object]", storage.read_json(path))
            name = cast(HubName, kept["hub"])
            return Hub(name, str(kept["endpoint"] or _default_endpoint(name)))
        except (ValueError, KeyError, TypeError, ConfigError):
            pass
    asked = os.environ.get("ONECARD_HUB", "").lower()
    name = cast(HubName, asked or ("modelscope" if _on("USE_MODELSCOPE_HUB") else "hf"))
    return Hub(name, _default_endpoint(name))


def hub_named(name: HubName) -> Hub:
    """The hub at its own address, or at the one that the environment gives for it."""
    return Hub(name, _default_endpoint(name))


def keep_choice(path: Path, name: str, endpoint: str = "") -> Hub:
    """Keep a choice for later; an empty endpoint means the hub's own. Raises ConfigError."""
    endpoint = endpoint.strip().rstrip("/")
    hub = Hub(cast(HubName, name), endpoint or _default_endpoint(cast(HubName, name)))
    storage.write_json(path, {"hub": name, "endpoint": endpoint})
    return hub


def _default_endpoint(name: HubName) -> str:
    asked = os.environ.get(_VARIABLES.get(name, "HF_ENDPOINT"), "").strip().rstrip("/")
    if name == "modelscope":  # what its newer tools call it
        asked = os.environ.get("MODELSCOPE_ENDPOINT", "").strip().rstrip("/") or asked
    if asked and "://" not in asked:
        asked = f"https://{asked}"
    return asked or _ENDPOINTS.get(name, _ENDPOINTS["hf"])


def _on(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in _TRUE


def headers(hub: Hub) -> dict[str, str]:
    """What every request to the hub carries: who asks, and the person's token if there is one and it may go there."""
    who = {"User-Agent": "onecard", "Accept-Encoding": "identity"}
    return who | authority(hub, token(hub))


def authority(hub: Hub, token: str | None) -> dict[str, str]:
    """The headers that show a token. ModelScope's older endpoints know it as a cookie only."""
    if not token:
        return {}
    return {"Authorization": f"Bearer {token}"} | (
        {"Cookie": f"m_session_id={token}"} if hub.name == "modelscope" else {}
    )


def token(hub: Hub) -> str | None:
    """The person's token: the environment's, or the one that the hub's own tool keeps. None if it may not go there."""
    if not may_have_token(hub):
        return None
    if hub.name == "modelscope":
        return os.environ.get("MODELSCOPE_API_TOKEN") or _modelscope_login()
    from huggingface_hub import get_token

    return get_token()


def _modelscope_login() -> str | None:
    """What `modelscope login` keeps, read by its own library where that is installed: it is kept as a pickle."""
    try:
        config = importlib.import_module("modelscope_hub.config").get_default_config()
    except (ImportError, AttributeError):
        return None
    found = getattr(config, "token", None)
    return found if isinstance(found, str) and found else None


def may_have_token(hub: Hub) -> bool:
    """The hub itself and the environment's address may, not one from the page; nothing unencrypted leaves the machine."""
    address = urlsplit(hub.endpoint)
    private = address.scheme == "https" or address.hostname in ("127.0.0.1", "localhost")
    return private and hub.endpoint in (_ENDPOINTS[hub.name], _default_endpoint(hub.name))


def look_up(client: httpx.Client, name: str, hub: Hub) -> Offer:
    """What the hub has of a model: its newest revision's files. Raises ModelError if it has none that can be used."""
    if not is_hub_name(name):
        raise ModelError(
            Text(
                zh=f"“{name}”不是模型 ID。应像 Qwen/Qwen2.5-7B-Instruct 这样，或填本机文件夹。",
                en=f"“{name}” is no model id. It looks like Qwen/Qwen2.5-7B-Instruct; or give a folder on this machine.",
            )
        )
    if (why := offline(hub, name)) is not None:
        raise ModelError(why)
    offer = offered(client, name, hub, is_wanted)
    weights = [file for file in offer.files if file.name.endswith(".safetensors")]
    if not weights or not any(file.name == "config.json" for file in offer.files):
        raise ModelError(
            Text(
                zh=f"{hub.label.zh} 上的 {name} 没有 config.json 和 safetensors 权重（pickle 权重出于安全不用）。请换一个模型。",
                en=f"{name} on {hub.label.en} has no config.json with safetensors weights (pickled ones are not used, for "
                "safety). Choose another model.",
            )
        )
    return offer


def offered(client: httpx.Client, name: str, hub: Hub, wanted: Callable[[str], bool]) -> Offer:
    """Those of a repository's files whose names are `wanted`. Raises ModelError: no answer, or no such repository."""
    if hub.name == "hf":
        return _look_up_hf(client, name, hub, wanted)
    return _look_up_modelscope(client, name, hub, wanted)


def offline(hub: Hub, name: str) -> Text | None:
    """Why `name` is not to be asked for: the person's environment forbids it. None if it does not."""
    if hub.name != "hf" or not (_on("HF_HUB_OFFLINE") or _on("TRANSFORMERS_OFFLINE")):
        return None
    return Text(
        zh=f"设置了 HF_HUB_OFFLINE，因此不下载 {name}。去掉这个环境变量再试。",
        en=f"HF_HUB_OFFLINE is set, so {name} is not downloaded. Unset it and try again.",
    )


def _look_up_hf(client: httpx.Client, name: str, hub: Hub, wanted: Callable[[str], bool]) -> Offer:
    found = get_json(client, f"{hub.endpoint}/api/models/{name}?blobs=true", name, hub)
    revision = str(found.get("sha") or "main")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise strange_answer(hub)
    files = []
    for entry in _entries(found.get("siblings"), hub):
        large = entry.get("lfs")
        digest = large.get("sha256") if isinstance(large, dict) else entry.get("blobId")
        path = str(entry.get("rfilename"))
        url = f"{hub.endpoint}/{name}/resolve/{revision}/{quote(path)}"
        files.append((path, entry.get("size"), digest, url))
    return Offer(name, hub, revision, _wanted(files, hub, wanted))


def _look_up_modelscope(client: httpx.Client, name: str, hub: Hub, wanted: Callable[[str], bool]) -> Offer:
    base = f"{hub.endpoint}/api/v1/models/{name}/repo"
    found = get_json(client, f"{base}/files?Revision=master&Recursive=False", name, hub).get("Data")
    files = []
    for entry in _entries(found.get("Files") if isinstance(found, dict) else None, hub):
        path = str(entry.get("Path"))
        digest = entry.get("Sha256") or None
        files.append((path, entry.get("Size"), digest, f"{base}?Revision=master&FilePath={quote(path, safe='')}"))
    return Offer(name, hub, "master", _wanted(files, hub, wanted))


def _entries(found: object, hub: Hub) -> list[Mapping[str, object]]:
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise strange_answer(hub)
    return found


def _wanted(
    files: Iterable[tuple[str, object, object, str]], hub: Hub, wanted: Callable[[str], bool]
) -> tuple[RemoteFile, ...]:
    """The files to fetch. Names, sizes and digests come from outside: only well-formed ones ever become paths."""
    chosen = []
    for name, size, digest, url in files:
        if not wanted(name):
            continue
        known = digest is None or re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", str(digest))
        if not isinstance(size, int) or size < 0 or not known:
            raise strange_answer(hub)
        chosen.append(RemoteFile(name, size, None if digest is None else str(digest), url))
    return tuple(chosen)


def get_json(client: httpx.Client, url: str, name: str, hub: Hub) -> dict[str, object]:
    """The JSON object at `url`. `name`: what it is about. Raises ModelError: no answer, refused, or no such object."""
    import httpx

    try:
        response = client.get(url, headers=headers(hub))
    except httpx.HTTPError as error:
        raise unreachable(hub, error) from error
    if response.status_code != 200:
        raise refused(response, name, hub)
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise strange_answer(hub)
    return found


def folder_of(offer: Offer) -> Path:
    """The folder that holds, or will hold, the model: its place in the hub's usual cache on this machine."""
    owner, _, name = offer.name.partition("/")
    if offer.hub.name == "hf":
        return models.hf_cache() / f"models--{owner}--{name}" / "snapshots" / offer.revision
    return models.modelscope_cache() / "models" / owner / name.replace(".", "___")


def refused(response: httpx.Response, name: str, hub: Hub) -> ModelError:
    """The error for an answer that is no success."""
    code, status = response.headers.get("X-Error-Code", ""), response.status_code
    page, zh, en = f"{hub.endpoint}/{name}", hub.label.zh, hub.label.en
    withheld = Text("", "")
    if not may_have_token(hub):
        variable = _VARIABLES[hub.name]
        withheld = Text(
            zh=f"令牌没有发给 {hub.endpoint}：它只发给官方地址，或环境变量 {variable} 里的 https 地址。",
            en=f" Your token was not sent to {hub.endpoint}: only the hub itself, or an https address in {variable}, gets it.",
        )
    if code == "GatedRepo" or (status == 403 and code != "RepoNotFound"):
        return ModelError(
            Text(
                zh=f"{name} 需要先在 {page} 同意它的许可，再用 hf auth login 登录或设置 HF_TOKEN，然后重试。{withheld.zh}",
                en=f"{name} asks you to accept its licence at {page}; then log in (hf auth login) or set HF_TOKEN, and retry."
                f"{withheld.en}",
            )
        )
    if status in (401, 404):
        return ModelError(
            Text(
                zh=f"{zh} 上没有 {name}，或它是私有的。请检查名字；私有模型需要登录或设置令牌（HF_TOKEN、MODELSCOPE_API_TOKEN）。"
                f"{withheld.zh}",
                en=f"{en} has no {name}, or it is private. Check the name; a private one needs a token (HF_TOKEN, "
                f"MODELSCOPE_API_TOKEN).{withheld.en}",
            )
        )
    return ModelError(
        Text(
            zh=f"{zh} 暂时不提供 {name}（HTTP {status}）。请稍后再试，或换一个镜像地址。",
            en=f"{en} does not serve {name} at the moment (HTTP {status}). Try again later, or use a mirror.",
        )
    )


def unreachable(hub: Hub, error: Exception) -> ModelError:
    """The error for a hub that does not answer."""
    why = str(error) or type(error).__name__
    return ModelError(
        Text(
            zh=f"连不上 {hub.endpoint}（{why}）。请检查网络或代理，或换一个来源或镜像（例如 ModelScope、https://hf-mirror.com）。",
            en=f"{hub.endpoint} cannot be reached ({why}). Check the network or proxy, or choose another hub or mirror "
            "(ModelScope, https://hf-mirror.com).",
        )
    )


def strange_answer(hub: Hub) -> ModelError:
    """The error for an answer that is not a hub's."""
    return ModelError(
        Text(
            zh=f"{hub.endpoint} 的回答不是模型社区的格式。请检查镜像地址。",
            en=f"{hub.endpoint} does not answer as a model hub does. Check the mirror's address.",
        )
    )
