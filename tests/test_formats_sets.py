"""Folders, zip archives and files brought together: the right file is read as its dataset_info.json says, or asked about."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import openpyxl
import pytest

from core import files_set
from core.dataset import Row
from core.errors import DatasetError
from core.formats import Choices, Imported, Undecided, read, read_files, read_path

SHARED = Path(os.environ.get("ONECARD_SHARED_DATA", str(Path(__file__).parents[2] / "shared" / "data")))
ALPACA = json.dumps([{"instruction": "q", "input": "", "output": "a"}]).encode()
ODD = json.dumps([{"ask": "context", "reply": "a", "lead": "q", "who": "s"}]).encode()
TAGGED = json.dumps([{"turns": [{"speaker": "U", "text": "q"}, {"speaker": "B", "text": "a"}]}]).encode()
INFO = {
    "plain": {"file_name": "plain.json"},
    "odd": {"file_name": "sub/odd.json",
            "columns": {"prompt": "lead", "query": "ask", "response": "reply", "system": "who"}, "num_samples": 1},
    "tagged": {"file_name": "tagged.json", "formatting": "sharegpt", "columns": {"messages": "turns"},
               "tags": {"role_tag": "speaker", "content_tag": "text", "user_tag": "U", "assistant_tag": "B"}},
    "pairs": {"file_name": "plain.json", "ranking": True},
    "pictures": {"file_name": "plain.json", "columns": {"images": "images"}},
    "away": {"hf_hub_url": "someone/away"}, "gone": {"file_name": "gone.json"},
}  # fmt: skip
FILES = {
    "data/dataset_info.json": json.dumps(INFO).encode(),
    "data/plain.json": ALPACA,
    "data/sub/odd.json": ODD,
    "data/tagged.json": TAGGED,
    "data/readme.md": b"# rows",
}


def packed(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return held.getvalue()


@pytest.fixture(params=["zip", "folder", "files"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    """The same files as a zip, as a folder, and brought together."""

    def give(choices: Choices) -> Imported:
        if request.param == "zip":
            return read(packed(FILES), "sets.zip", choices)
        if request.param == "files":
            return read_files({name: data for name, data in FILES.items() if not name.endswith(".md")}, choices)
        for name, data in FILES.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        return read_path(tmp_path, choices)

    return give


def test_the_sets_that_are_here_are_listed_and_each_is_read_as_described(source: object) -> None:
    assert callable(source)
    with pytest.raises(Undecided) as caught:
        source(Choices())
    assert caught.value.asked.kind == "entry"
    assert dict(caught.value.asked.preview)["odd"] == "data/sub/odd.json · alpaca"
    assert [name for name, _ in caught.value.asked.preview] == ["plain", "odd", "tagged", "pairs", "pictures"]
    assert source(Choices(entry="plain")).rows == (Row("q", "", "a"),)
    odd = source(Choices(entry="odd"))
    assert odd.rows == (Row("q", "context", "a", "s"),) and odd.entry == "odd"
    assert any("asks for 1 rows" in note.en for note in odd.notes)
    assert source(Choices(entry="tagged")).rows == (Row("q", "", "a"),)
    for entry, said in [
        ("pairs", "preference pairs"), ("pictures", "images, sound or video"), ("away", "on a hub: someone/away"),
        ("gone", "gone.json, is not here"), ("nothing", "no “nothing”"),
    ]:  # fmt: skip
        with pytest.raises(DatasetError, match=said):
            source(Choices(entry=entry))


def test_the_real_registry_finds_the_real_files(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here; set ONECARD_SHARED_DATA")
    for name, file in [
        ("dataset_info.json", "llamafactory_dataset_info.json"), ("identity.json", "identity/llamafactory_identity.json"),
        ("alpaca_zh_demo.json", "general/alpaca_zh_demo_300.json"),
        ("glaive_toolcall_en_demo.json", "sharegpt/glaive_toolcall_en_demo.json"),
    ]:  # fmt: skip
        (tmp_path / name).write_bytes((SHARED / file).read_bytes())
    with pytest.raises(Undecided) as caught:
        read_path(tmp_path / "dataset_info.json")
    assert [name for name, _ in caught.value.asked.preview] == ["identity", "alpaca_zh_demo", "glaive_toolcall_en_demo"]
    assert len(read_path(tmp_path, Choices(entry="identity")).rows) == 91
    assert len(read_path(tmp_path, Choices(entry="alpaca_zh_demo")).rows) == 300
    with pytest.raises(Undecided, match="role “function_call”"):
        read_path(tmp_path, Choices(entry="glaive_toolcall_en_demo"))
    assert len(read_path(tmp_path, Choices(entry="glaive_toolcall_en_demo", salvage=True)).rows) == 147
    with pytest.raises(DatasetError, match="on a hub"):
        read_path(tmp_path, Choices(entry="alpaca_en"))


def test_a_registry_without_its_files_says_which_to_bring() -> None:
    with pytest.raises(DatasetError, match=r"lists 7 sets and holds no rows.*plain.json"):
        read(FILES["data/dataset_info.json"], "my_info.json")


def test_a_single_file_is_read_and_several_are_asked_about() -> None:
    assert read(packed({"a/rows.json": ALPACA, "readme.md": b"", "__MACOSX/._rows.json": b"x"}), "a.zip").rows
    with pytest.raises(Undecided) as caught:
        read(packed({"a.json": ALPACA, "问答.csv": b"question,answer\nq,a\n"}), "a.zip")
    assert [name for name, _ in caught.value.asked.preview] == ["a.json", "问答.csv"]
    found = read(packed({"a.json": ALPACA, "问答.csv": b"question,answer\nq,b\n"}), "a.zip", Choices(entry="问答.csv"))
    assert found.rows == (Row("q", "", "b"),) and found.entry == "问答.csv"


def test_errors_and_questions_about_a_packed_file_name_it() -> None:
    data = packed({"a.json": ALPACA, "b.csv": "问题,回答\n我们是谁，你们的人在这里吗,我们是来的人\n".encode("gb18030")})
    with pytest.raises(Undecided, match=r"^a\.zip: b\.csv: The file is not UTF-8") as caught:
        read(data, "a.zip", Choices(entry="b.csv"))
    assert caught.value.asked.kind == "encoding"
    assert len(read(data, "a.zip", Choices(entry="b.csv", encoding="gb18030")).rows) == 1


def test_a_sheet_of_a_packed_workbook_is_chosen_with_its_file() -> None:
    book = openpyxl.Workbook()
    for name in ("One", "Two"):
        page = book.create_sheet(name)
        page.append(["question", "answer"])
        page.append(["q", name])
    held = io.BytesIO()
    book.save(held)
    data = packed({"a.json": ALPACA, "b.xlsx": held.getvalue()})
    with pytest.raises(Undecided) as caught:
        read(data, "a.zip", Choices(entry="b.xlsx"))
    names = [name for name, _ in caught.value.asked.preview]
    assert names == ["b.xlsx#One", "b.xlsx#Two"]
    found = read(data, "a.zip", Choices(entry=names[1]))
    assert found.rows == (Row("q", "", "Two"),) and found.entry == "b.xlsx#Two"


def test_names_packed_by_chinese_windows_are_read() -> None:
    names, held = {"x": "身份.json", "y": "通用.json"}, io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for letter, name in names.items():
            archive.writestr(zipfile.ZipInfo(letter * len(name.encode("gbk"))), ALPACA)
    data = held.getvalue()
    for letter, name in names.items():  # in place: Python itself packs only ASCII and marked UTF-8 names
        data = data.replace(letter.encode() * len(name.encode("gbk")), name.encode("gbk"))
    with pytest.raises(Undecided) as caught:
        read(data, "a.zip")
    assert {name for name, _ in caught.value.asked.preview} == set(names.values())


@pytest.mark.parametrize("files,said", [
    ({"a.txt": b"x"}, "holds no data file"), ({}, "empty"), ({"word/document.xml": b"", "[Content_Types].xml": b""}, "Word"),
    ({"xl/workbook.bin": b"", "[Content_Types].xml": b""}, "save it as .xlsx"), ({"mimetype": b"x"}, "save it as .xlsx"),
])  # fmt: skip
def test_archives_without_rows_are_named(files: dict[str, bytes], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read(packed(files), "a.zip")


def test_a_bomb_a_crowd_and_a_missing_path_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", b" " * 101_000_000)
    with pytest.raises(DatasetError, match="limit is 100 MB"):
        read(held.getvalue(), "a.zip")
    with pytest.raises(DatasetError, match=r"cannot be read \(No such file"):
        read_path(tmp_path / "no.json")
    monkeypatch.setattr(files_set, "MAX_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.json").write_bytes(ALPACA)
    with pytest.raises(DatasetError, match="more than 3 data files"):
        read_path(tmp_path)


def test_an_archive_in_an_archive_and_a_registry_that_names_itself_are_sentences() -> None:
    data = b'[{"question": "q", "answer": "a"}]'
    for _ in range(2):
        data = packed({"a.json": data})
    with pytest.raises(DatasetError, match="inside a zip archive"):
        read(data, "a.zip")
    with pytest.raises(DatasetError, match="names itself"):
        read(json.dumps({"a": {"file_name": "dataset_info.json"}}).encode(), "dataset_info.json")


def test_a_damaged_archive_is_a_sentence() -> None:
    data = packed({"a.json": ALPACA * 1})
    for cut in range(4, len(data)):
        with pytest.raises(DatasetError):
            read(data[:cut], "a.zip")
    for place in range(len(data)):
        hurt = bytearray(data)
        hurt[place] ^= 0x55
        try:
            given = read(bytes(hurt), "a.zip").rows
        except DatasetError:
            continue
        assert given == (Row("q", "", "a"),)
