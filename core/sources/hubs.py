"""What a hub has of a set of rows: its data files, chosen as the set's own card says. Fetches no file, runs no code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from core.errors import ModelError
from core.hub import Hub, RemoteFile, get_json, offline, strange_answer
from core.sources.names import HubSet
from core.text import Text

if TYPE_CHECKING:
    import httpx

# In the order of preference where a set is there in several formats.
FORMATS = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
_PAGE = 100
_MOST_PAGES = 50
_NO_DATA = re.compile(r"dataset_infos?\.json|configuration\.json|package\.json|(.*/)?\.[^/]*", re.IGNORECASE)
_HELD_OUT = re.compile(r"(^|[^a-z])(test|valid|validation|dev|eval)([^a-z]|$)", re.IGNORECASE)
_TRAIN = re.compile(r"(^|[^a-z])train(ing)?([^a-z]|$)", re.IGNORECASE)
_Listed = tuple[str, object, object, str]


@dataclass(frozen=True)
class SetOffer:
    """A set on a hub: the files that hold its rows."""

    name: HubSet
    hub: Hub
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def nbytes(self) -> int:
        """Size of all files."""
        return sum(file.nbytes for file in self.files)


def look_up(client: httpx.Client, asked: HubSet, hub: Hub) -> SetOffer:
    """The data files of the set's newest revision. Raises ModelError: no answer, no such set, no files that can be read."""
    wanted = asked.on(hub.name)
    if (why := offline(hub, wanted.id)) is not None:
        raise ModelError(why)
    if hub.name == "hf":
        revision, listed, configs = _huggingface(client, wanted, hub)
    else:
        revision, listed, configs = _modelscope(client, wanted, hub)
    chosen = _chosen([name for name, *_ in listed], wanted, hub, configs)
    files = [_remote(entry, hub) for name in chosen for entry in listed if entry[0] == name]
    return SetOffer(wanted, hub, revision, tuple(files))


def _huggingface(client: httpx.Client, wanted: HubSet, hub: Hub) -> tuple[str, list[_Listed], object]:
    shown = f"datasets/{wanted.id}"
    found = get_json(client, f"{hub.endpoint}/api/{shown}?blobs=true", shown, hub)
    revision = str(found.get("sha") or "")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise strange_answer(hub)
    listed: list[_Listed] = []
    for entry in _entries(found.get("siblings"), hub):
        large, path = entry.get("lfs"), str(entry.get("rfilename"))
        digest = large.get("sha256") if isinstance(large, dict) else entry.get("blobId")
        listed.append((path, entry.get("size"), digest, f"{hub.endpoint}/{shown}/resolve/{revision}/{quote(path)}"))
    card = found.get("cardData")
    return revision, listed, card.get("configs") if isinstance(card, dict) else None


def _modelscope(client: httpx.Client, wanted: HubSet, hub: Hub) -> tuple[str, list[_Listed], object]:
    """The hub lists files by the set's number, which its name has to be asked for first, and a page at a time."""
    shown, base = f"datasets/{wanted.id}", f"{hub.endpoint}/api/v1/datasets"
    about = get_json(client, f"{base}/{wanted.id}", shown, hub).get("Data")
    number = about.get("Id") if isinstance(about, dict) else None
    if not isinstance(number, int):
        raise strange_answer(hub)
    listed: list[_Listed] = []
    for page in range(1, _MOST_PAGES + 1):
        asked = f"Revision=master&Root=%2F&Recursive=True&PageNumber={page}&PageSize={_PAGE}"
        data = get_json(client, f"{base}/{number}/repo/tree?{asked}", shown, hub).get("Data")
        entries = _entries(data.get("Files") if isinstance(data, dict) else None, hub)
        for entry in entries:
            path = str(entry.get("Path"))
            url = f"{base}/{wanted.id}/repo?Source=SDK&Revision=master&View=False&FilePath={quote(path, safe='')}"
            if entry.get("Type") != "tree":
                listed.append((path, entry.get("Size"), entry.get("Sha256") or None, url))
        if len(entries) < _PAGE:
            break
    return "master", listed, None


def _entries(found: object, hub: Hub) -> list[Mapping[str, object]]:
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise strange_answer(hub)
    return found


def _remote(entry: _Listed, hub: Hub) -> RemoteFile:
    """Names, sizes and digests come from outside: only well-formed ones are taken."""
    name, size, digest, url = entry
    known = digest is None or re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", str(digest))
    if not isinstance(size, int) or size < 0 or not known:
        raise strange_answer(hub)
    return RemoteFile(name, size, None if digest is None else str(digest), url)


def _chosen(names: Sequence[str], wanted: HubSet, hub: Hub, configs: object) -> list[str]:
    """The files of the training split of the subset asked for. Raises ModelError where there are none."""
    declared = _declared(configs)
    if declared:
        subset = wanted.subset if wanted.subset in declared else "" if not wanted.subset else None
        if subset is not None:
            picked = _training(_matching(names, declared[subset or next(iter(declared))]))
            if picked:
                return picked
    data = [name for name in names if _suffix(name) in FORMATS and not _NO_DATA.fullmatch(name)]
    # ModelScope's own description of a set has the set's name and lies beside the data.
    described = f"{wanted.id.rpartition('/')[2]}.json"
    if hub.name == "modelscope" and described in data and len(data) > 1:
        data.remove(described)
    if wanted.subset:
        found = [name for name in data if wanted.subset in PurePosixPath(name).with_suffix("").parts]
        picked = found or [name for name in data if wanted.subset in PurePosixPath(name).stem]
        if data and not picked:
            raise _no_subset(wanted, hub, sorted(declared) or sorted({_subset_of(name) for name in data}))
        return _one_format(picked) if wanted.subset in ("test", "validation") else _training(picked)
    if not data:
        raise _no_files(names, wanted, hub)
    return _training(data)


def _declared(configs: object) -> dict[str, list[str]]:
    """subset -> patterns of its training files, as the set's card gives them."""
    found: dict[str, list[str]] = {}
    for config in configs if isinstance(configs, list) else []:
        files = config.get("data_files") if isinstance(config, dict) else None
        patterns: list[str] = []
        for part in files if isinstance(files, list) else [files]:
            path = part.get("path") if isinstance(part, dict) else part
            split = str(part.get("split", "train")) if isinstance(part, dict) else "train"
            if split.startswith("train"):
                patterns += [str(one) for one in (path if isinstance(path, list) else [path]) if one]
        if patterns and isinstance(config, dict):
            found[str(config.get("config_name", "default"))] = patterns
    return found


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    spelled = [pattern.replace("**/", "*").removeprefix("./") for pattern in patterns]
    return [name for name in names if _suffix(name) in FORMATS and any(fnmatchcase(name, one) for one in spelled)]


def _training(names: Sequence[str]) -> list[str]:
    """Of several files those for training: named so, else those that are not named as held out."""
    train = [name for name in names if _TRAIN.search(name)]
    rest = [name for name in names if not _HELD_OUT.search(name)]
    return _one_format(train or rest or names)


def _one_format(names: Sequence[str]) -> list[str]:
    """The files of one format: a set that is there in several is not to be taken twice."""
    for suffix in FORMATS:
        if found := sorted(name for name in names if _suffix(name) == suffix):
            return found
    return []


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _subset_of(name: str) -> str:
    path = PurePosixPath(name)
    return path.parts[0] if len(path.parts) > 1 else path.stem


def _no_subset(wanted: HubSet, hub: Hub, there: Sequence[str]) -> ModelError:
    listed = ", ".join(there[:8]) + (", …" if len(there) > 8 else "")
    return ModelError(
        Text(
            zh=f"{hub.label.zh} 上的 {wanted.id} 没有子集“{wanted.subset}”。有：{listed.replace(', ', '、')}。",
            en=f"{wanted.id} on {hub.label.en} has no subset “{wanted.subset}”. It has: {listed}.",
        )
    )


def _no_files(names: Sequence[str], wanted: HubSet, hub: Hub) -> ModelError:
    if any(name.endswith(".py") for name in names):
        return ModelError(
            Text(
                zh=f"{hub.label.zh} 上的 {wanted.id} 要运行它自带的程序才能读出数据，OneCard 从不运行下载来的程序。"
                "请换一个直接提供数据文件的数据集。",
                en=f"{wanted.id} on {hub.label.en} is read by a program of its own, and OneCard never runs what it "
                "downloads. Choose a set that offers plain data files.",
            )
        )
    kinds = ", ".join(FORMATS)
    return ModelError(
        Text(
            zh=f"{hub.label.zh} 上的 {wanted.id} 没有可以读的数据文件（{kinds.replace(', ', '、')}）。请换一个数据集。",
            en=f"{wanted.id} on {hub.label.en} has no data files that can be read ({kinds}). Choose another set.",
        )
    )
