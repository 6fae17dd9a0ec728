"""Several files -> the one that holds the rows: a folder, a zip archive, or files brought together.

LLaMA-Factory's dataset_info.json says what sets there are and which column is what; without one each data file is a set.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from core.columns import Tags
from core.dataset import Role
from core.errors import DatasetError
from core.files_choices import Asked, Undecided
from core.json_records import shorten
from core.text import Text

INFO = "dataset_info.json"
MAX_FILES = 2_000
MAX_DEPTH = 4
_MAX_UNPACKED_BYTES = 100_000_000
# What openpyxl, zipfile and the XML parser (SyntaxError) raise for parts that are not what they should be.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
_DATA = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab", ".xlsx", ".parquet")
_HUBS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_MEDIA = ("images", "videos", "audios")
# LLaMA-Factory's names of the columns (data/parser.py) and ours.
_PARTS = {"prompt": "question", "query": "input", "response": "answer", "history": "history", "system": "system",
          "messages": "messages"}  # fmt: skip


@dataclass(frozen=True)
class Opener:
    """A file that has not been read yet: its size in bytes and how to get them."""

    size: int
    data: Callable[[], bytes]

    @classmethod
    def of(cls, data: bytes) -> Opener:
        """A file that was brought along."""
        return cls(len(data), lambda: data)


@dataclass(frozen=True)
class Plan:
    """What is known about a file beforehand: part -> key, and how its turns are written."""

    parts: Mapping[str, str] | None = None
    tags: Tags | None = None


@dataclass(frozen=True)
class Chosen:
    """The file to read. entry: its name among several, "" where it is the only one; inner: which sheet of it."""

    name: str
    data: Callable[[], bytes]
    entry: str = ""
    inner: str = ""
    plan: Plan = field(default_factory=Plan)
    notes: tuple[Text, ...] = ()

    def outer(self, asked: Asked) -> Asked:
        """A question about the file's own parts, so that the answer names the file too."""
        if asked.kind != "entry" or not self.entry:
            return asked
        return replace(asked, preview=tuple((self.shown(name), described) for name, described in asked.preview))

    def shown(self, inner: str) -> str:
        """The entry, with the sheet that was read of it."""
        return f"{self.entry}#{inner}" if self.entry and inner else self.entry or inner


def check_size(size: int, most: int = _MAX_UNPACKED_BYTES) -> None:
    """Raise DatasetError for a file of more than `most` bytes."""
    if size > most:
        raise DatasetError(
            Text(
                f"文件有 {size // 1_000_000} MB，上限是 {most // 1_000_000} MB。请拆开或抽取一部分。",
                f"The file has {size // 1_000_000} MB; the limit is {most // 1_000_000} MB. Split it or draw a part.",
            )
        )


def folder(path: Path) -> dict[str, Opener]:
    """The files under a folder by their path in it, hidden ones left out. Raises DatasetError where they are too many."""
    found: dict[str, Opener] = {}
    waiting = [path]
    while waiting:
        for file in sorted(waiting.pop(0).iterdir()):
            if file.name.startswith("."):
                continue
            if file.is_dir():
                if len(file.relative_to(path).parts) < MAX_DEPTH:
                    waiting.append(file)
            elif file.suffix.lower() in _DATA:
                found[file.relative_to(path).as_posix()] = Opener(file.stat().st_size, file.read_bytes)
                if len(found) > MAX_FILES:
                    raise DatasetError(
                        Text(
                            f"文件夹里有超过 {MAX_FILES} 个数据文件。请选里面的一个文件夹或文件。",
                            f"The folder holds more than {MAX_FILES} data files. Choose a folder or file in it.",
                        )
                    )
    return found


def archive(data: bytes) -> dict[str, Opener]:
    """The files of a zip archive. Raises DatasetError for a damaged or locked one, and for a Word file."""
    try:
        parts = zipfile.ZipFile(io.BytesIO(data))
        names = {_name(part): part for part in parts.infolist() if not part.is_dir()}
    except DAMAGE as error:
        raise _damaged(error) from None
    if any(name.startswith("xl/") for name in names) or "mimetype" in names:
        raise DatasetError(
            Text(
                "这种表格文件（.xlsb、.ods 等）读不了，请另存为 .xlsx。",
                "This kind of table (.xlsb, .ods, ...) cannot be read; save it as .xlsx.",
            )
        )
    if "[Content_Types].xml" in names:
        raise DatasetError(
            Text(
                "这是 Word 或 PowerPoint 文件，不是问答数据。请把问答放进 Excel 或 CSV 表格。",
                "This is a Word or PowerPoint file, which holds no rows for us. Put them into an Excel or CSV table.",
            )
        )

    def opener(part: zipfile.ZipInfo) -> Opener:
        def read() -> bytes:
            check_size(part.file_size)
            try:
                return parts.read(part)
            except DAMAGE as error:
                raise _damaged(error) from None

        return Opener(part.file_size, read)

    shown = {name: part for name, part in names.items() if not _hidden(name)}
    return {name: opener(part) for name, part in shown.items() if PurePosixPath(name).suffix.lower() in _DATA}


def choose(files: Mapping[str, Opener], entry: str) -> Chosen:
    """The file with the rows: the one named `entry`, or the only one.

    Raises Undecided where there are several; DatasetError where there is none, or its entry cannot be read here.
    """
    info = min(
        (name for name in files if PurePosixPath(name).name == INFO), key=lambda name: name.count("/"), default=None
    )
    if info is not None:
        return _from_info(files, info, entry)
    if not files:
        raise DatasetError(
            Text(f"里面没有数据文件（{'、'.join(_DATA)}）。", f"It holds no data file ({', '.join(_DATA)}).")
        )
    name, _, inner = entry.partition("#") if entry not in files else (entry, "", "")
    if len(files) == 1 and name not in files:
        only = next(iter(files))
        return Chosen(only, files[only].data, inner=entry)
    if not entry:
        listed = tuple((name, f"{max(1, file.size // 1000)} KB") for name, file in files.items())
        raise Undecided(_which(listed))
    if name not in files:
        raise _unknown(name, list(files))
    return Chosen(name, files[name].data, name, inner)


def is_info(data: bytes) -> bool:
    """Whether a file is a dataset_info.json, whatever it is called: sets by name, each saying where its rows are."""
    if len(data) > 1_000_000 or not data.lstrip().startswith(b"{"):
        return False
    try:
        sets = json.loads(data)
    except (ValueError, RecursionError):
        return False
    places = {"file_name", *_HUBS}
    return bool(sets) and all(isinstance(one, dict) and places & one.keys() for one in sets.values())


def _from_info(files: Mapping[str, Opener], info: str, entry: str) -> Chosen:
    try:
        sets = json.loads(files[info].data())
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            Text(f"{INFO} 不是合法的 JSON（{error}）。", f"{INFO} is not valid JSON ({error}).")
        ) from None
    if not isinstance(sets, dict) or not all(isinstance(one, dict) for one in sets.values()):
        raise DatasetError(
            Text(f"{INFO} 应是“名称 → 设置”的对象。", f"{INFO} must be an object of names with their settings.")
        )
    base = PurePosixPath(info).parent
    here = {name: found for name, one in sets.items() if (found := _file(files, base, one.get("file_name")))}
    name, _, inner = entry.partition("#") if entry not in sets else (entry, "", "")
    if not name:
        if not here:
            raise _nothing_here(sets)
        if len(here) > 1:
            listed = tuple((name, f"{file} · {sets[name].get('formatting', 'alpaca')}") for name, file in here.items())
            raise Undecided(_which(listed))
        name = next(iter(here))
    if name not in sets:
        raise _unknown(name, list(sets))
    if name not in here:
        raise _elsewhere(name, sets[name], len(_within(files, base, sets[name].get("file_name"))))
    plan, notes = _plan(name, sets[name])
    return Chosen(here[name], files[here[name]].data, name, inner, plan, notes)


def _file(files: Mapping[str, Opener], base: PurePosixPath, name: object) -> str | None:
    """The file a set names, beside its dataset_info.json, or the only one in the folder it names."""
    within = _within(files, base, name)
    return within[0] if len(within) == 1 else None


def _within(files: Mapping[str, Opener], base: PurePosixPath, name: object) -> list[str]:
    """The file of that name, or those in the folder of that name."""
    if not isinstance(name, str):
        return []
    path = (base / name.replace("\\", "/")).as_posix()
    return [file for file in files if file == path or file.startswith(f"{path}/")]


def _plan(name: str, one: Mapping[str, object]) -> tuple[Plan, tuple[Text, ...]]:
    """How a set's records are read, by what its dataset_info.json says of it."""
    columns, tags = (value if isinstance(value := one.get(key), dict) else {} for key in ("columns", "tags"))
    if one.get("ranking") or any(columns.get(key) for key in _MEDIA):
        raise DatasetError(
            Text(
                f"“{name}”是偏好对或带图片、音频、视频的数据，这里只训练问答文字。",
                f"“{name}” holds preference pairs, or images, sound or video; only questions and answers in text are "
                "trained here.",
            )
        )
    parts = {ours: str(columns[theirs]) for theirs, ours in _PARTS.items() if columns.get(theirs)}
    notes: list[Text] = []
    if one.get("num_samples"):
        count = one["num_samples"]
        notes.append(
            Text(
                f"{INFO} 要求抽取 {count} 行；这里读入全部，混合时可写“名称#{count}”。",
                f"{INFO} asks for {count} rows of it; all were read. When mixing, write NAME#{count}.",
            )
        )
    if columns and not (parts.get("messages") or (parts.get("question") and parts.get("answer"))):
        if one.get("formatting", "alpaca") == "alpaca":
            parts = {"question": "instruction", "input": "input", "answer": "output"} | parts
        else:
            parts = {"messages": "conversations"} | parts
    return Plan(parts or None, _tags(tags) if tags else None), tuple(notes)


def _tags(tags: Mapping[str, object]) -> Tags:
    """LLaMA-Factory's tags with its defaults (data/parser.py); tool roles are left to be refused by name."""
    roles: dict[str, Role] = {
        str(tags.get("user_tag", "human")): "user",
        str(tags.get("assistant_tag", "gpt")): "assistant",
        str(tags.get("system_tag", "system")): "system",
    }
    return Tags(str(tags.get("role_tag", "from")), str(tags.get("content_tag", "value")), roles)


def _which(listed: tuple[tuple[str, str], ...]) -> Asked:
    return Asked(
        "entry", Text(f"有 {len(listed)} 份数据，请选一份。", f"There are {len(listed)} sets. Choose one."), listed
    )


def _unknown(name: str, names: list[str]) -> DatasetError:
    shown = shorten(names)
    return DatasetError(Text(f"没有“{name}”，有的是：{shown.zh}。", f"There is no “{name}”. There are: {shown.en}."))


def _nothing_here(sets: Mapping[str, Mapping[str, object]]) -> DatasetError:
    files = [str(one["file_name"]) for one in sets.values() if one.get("file_name")]
    shown = shorten(files or list(sets), 5)
    return DatasetError(
        Text(
            f"这是 LLaMA-Factory 的 {INFO}：它列出 {len(sets)} 份数据，自己没有行，它们的文件也不在旁边。"
            f"请连同数据文件一起导入（文件夹或 zip），如：{shown.zh}。",
            f"This is LLaMA-Factory's {INFO}: it lists {len(sets)} set{'s' * (len(sets) > 1)} and holds no rows, and none "
            f"of their files is here. Bring the data files too (a folder or zip), such as: {shown.en}.",
        )
    )


def _elsewhere(name: str, one: Mapping[str, object], parts: int) -> DatasetError:
    if parts > 1:
        return DatasetError(
            Text(
                f"“{name}”由 {parts} 个文件组成，请分别导入再合并。",
                f"“{name}” is made of {parts} files. Import them one by one and append.",
            )
        )
    hub = next((str(one[key]) for key in _HUBS if one.get(key)), "")
    if hub:
        return DatasetError(
            Text(
                f"“{name}”不在这里，是在线数据集：{hub}。请在“混入数据”里按 ID 添加。",
                f"“{name}” is not here but on a hub: {hub}. Add it by its id in the mix.",
            )
        )
    file = one.get("file_name")
    return DatasetError(
        Text(
            f"“{name}”的文件 {file} 不在这里。请一起导入。", f"The file of “{name}”, {file}, is not here. Bring it too."
        )
    )


def _name(part: zipfile.ZipInfo) -> str:
    """The file's name; Chinese Windows packs names as GBK and does not say so."""
    if part.flag_bits & 0x800 or part.filename.isascii():
        return part.filename
    packed = part.filename.encode("cp437", errors="replace")
    for encoding in ("utf-8", "gb18030"):
        try:
            return packed.decode(encoding)
        except UnicodeDecodeError:
            continue
    return part.filename


def _hidden(name: str) -> bool:
    return name.startswith("__MACOSX/") or any(part.startswith(".") for part in PurePosixPath(name).parts)


def _damaged(error: Exception) -> DatasetError:
    said = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return DatasetError(
        Text(
            f"这个压缩包或 Excel 文件损坏了、断了，或有密码（{said}）。请重新下载，或解压后导入里面的文件。",
            f"This zip archive or Excel file is damaged, cut off or locked ({said}). Download it again, or unpack it and "
            "import the file in it.",
        )
    )
