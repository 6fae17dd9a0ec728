"""`app.py data FILE`: what a file holds, in one answer; exit 2 and one sentence where nothing can be made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import app


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.setenv(name, "en_US.UTF-8")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = app.main(["data", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_good_file_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.csv"
    file.write_text("query,response,id\n你是谁？,我是小禾。,1\nq,,2\n", encoding="utf-8")
    status, out, err = run(capsys, str(file))
    assert status == 0 and err == ""
    assert out.splitlines()[:2] == ["format: csv, query/response, utf-8", "rows: 2"]
    assert "- Rows without an answer, imported as they are: 1 (row 2)." in out and "你是谁？  →  我是小禾。" in out
    status, out, _ = run(capsys, str(file), "--json")
    found = json.loads(out)
    assert status == 0 and (found["rows"], found["format"], found["encoding"]) == (2, "csv", "utf-8")
    assert [2] in [warning["rows"] for warning in found["warnings"]]
    assert any("没有用到的列：id" in warning["message_zh"] for warning in found["warnings"])


def test_chinese_terminals_are_answered_in_chinese(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    (tmp_path / "a.json").write_text('[{"question": "q", "answer": "a"}]')
    assert run(capsys, str(tmp_path / "a.json"))[1].startswith("格式：json, columns, utf-8\n行数：1\n")
    assert run(capsys, str(tmp_path / "b.json"))[2].startswith("b.json：文件读不出来")


@pytest.mark.parametrize("name,data,kind,flag", [
    ("a.csv", "question,answer\n我们是谁，来自哪里,我们是来自不同地方的人\n".encode("gb18030"), "encoding",
     ["--encoding", "gb18030"]),
    ("a.csv", "客户,客服\n怎么退款,点退款\n".encode(), "columns", ["--columns", "question=客户,answer=客服"]),
    ("a.jsonl", b'{"question": "q", "answer": "a"}\n{"question": "q", "ans', "broken", ["--salvage"]),
])  # fmt: skip
def test_a_question_is_one_sentence_with_the_flag_that_answers_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, kind: str, flag: list[str]
) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    status, out, err = run(capsys, str(file))
    sentence = err.splitlines()[-1]
    assert (
        status == 2 and out == "" and sentence.startswith(f"{name}: ") and flag[0] in sentence and flag[-1] in sentence
    )
    status, out, err = run(capsys, str(file), "--json")
    assert status == 2 and json.loads(out)["asked"]["kind"] == kind and len(err.splitlines()) == 1
    status, out, err = run(capsys, str(file), *flag)
    assert status == 0 and "rows: 1" in out


def test_a_set_of_a_folder_is_chosen_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text('[{"question": "q", "answer": "a"}]')
    (tmp_path / "b.json").write_text('[{"question": "q", "answer": "b"}]')
    status, _, err = run(capsys, str(tmp_path))
    assert status == 2 and "There are 2 sets. Choose one. To do so, add --entry 'a.json'." in err
    status, out, _ = run(capsys, str(tmp_path), "--entry", "b.json")
    assert status == 0 and "q  →  b" in out and "b.json" in out.splitlines()[0]


@pytest.mark.parametrize("columns", ['{"ask": "query", "say": "response"}', '{"question": "ask", "answer": "say"}',
                                     "question=ask,answer=say"])  # fmt: skip
def test_columns_are_given_as_pairs_or_as_ms_swift_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    (tmp_path / "a.json").write_text('[{"ask": "q", "say": "a"}]')
    assert "q  →  a" in run(capsys, str(tmp_path / "a.json"), "--columns", columns)[1]


@pytest.mark.parametrize("name", ["~nosuchuser/x.json", "n" * 300])
def test_a_name_that_can_be_no_path_is_one_sentence(capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, _, err = run(capsys, name)
    assert status == 2 and "cannot be read" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("name,data,arguments", [
    ("a.md", b"# hello", []), ("a.json", b"", []), ("a.json", b"\x89PNG\r\n\x1a\n\0", []), ("a.xlsx", b"PK\x03\x04no", []),
    ("a.csv", b"question,answer\nq,a\n", ["--columns", "question"]), ("a.csv", b"q\xff,a\n", ["--encoding", "nope"]),
])  # fmt: skip
def test_what_holds_no_rows_is_one_sentence_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, arguments: list[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    for extra in ([], ["--json"]):
        status, out, err = run(capsys, str(tmp_path / name), *arguments, *extra)
        assert status == 2 and out == "" and len(err.splitlines()) == 1 and "Traceback" not in err
