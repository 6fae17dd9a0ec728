"""What a person has to decide about a file is asked with a preview, and the answer is followed to the letter."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from core.dataset import Row
from core.errors import DatasetError
from core.formats import Asked, Choices, Imported, Undecided, read, read_text

SHARED = Path(os.environ.get("ONECARD_SHARED_DATA", str(Path(__file__).parents[2] / "shared" / "data")))
CHINESE = "question,answer\n我们是谁，来自哪里？,我们是来自不同地方的人。\n你会说什么话？,我会说中文，也会说英文。\n"


def asked(data: bytes | str, filename: str, choices: Choices = Choices()) -> Asked:  # noqa: B008
    """The question about a file; its sentence names the file in both languages."""
    with pytest.raises(Undecided) as caught:
        read(data.encode() if isinstance(data, str) else data, filename, choices)
    error = caught.value
    assert error.text.en.startswith(f"{filename}: ") and error.text.zh.startswith(f"{filename}：")
    assert error.text.en.endswith(error.asked.text.en)
    return error.asked


def taken(data: bytes | str, filename: str, **choices: object) -> Imported:
    return read(data.encode() if isinstance(data, str) else data, filename, Choices(**choices))  # type: ignore[arg-type]


def notes(imported: Imported) -> str:
    return " ".join(note.en for note in imported.notes)


# --- encoding --------------------------------------------------------------------------------------------------------


def test_gb18030_is_shown_and_read_after_a_yes() -> None:
    data = CHINESE.encode("gb18030")
    question = asked(data, "a.csv")
    assert question.kind == "encoding" and question.guess == {"encoding": "gb18030"}
    assert question.preview == tuple((line,) for line in CHINESE.splitlines())
    found = taken(data, "a.csv", encoding=question.guess["encoding"])
    assert found.rows == read(CHINESE.encode(), "a.csv").rows and found.encoding == "gb18030"


def test_the_real_gb18030_file_gives_its_hundred_rows() -> None:
    file = SHARED / "csv" / "medical_qa_gb18030_100.csv"
    if not file.is_file():
        pytest.skip(f"{file} is not here; set ONECARD_SHARED_DATA")
    found = taken(file.read_bytes(), file.name, encoding=asked(file.read_bytes(), file.name).guess["encoding"])
    assert len(found.rows) == 100 and found.rows[0].instruction == "高血压患者能吃党参吗？"
    text = file.read_bytes().decode("gb18030")
    assert all(row.output in text and "\ufffd" not in row.output for row in found.rows)


def test_utf8_is_never_read_as_something_else_by_a_wrong_choice() -> None:
    found = taken(CHINESE, "a.csv", encoding="gb18030")
    assert found.rows == read(CHINESE.encode(), "a.csv").rows and found.encoding == "utf-8"
    assert "not read as gb18030" in notes(found)


def test_a_wrong_or_unknown_encoding_is_a_sentence() -> None:
    with pytest.raises(DatasetError, match=r"not GB18030: line 2 \(byte 19\)"):
        taken(b"question,answer\nab\xff\xffcd,a\n", "a.csv", encoding="gb18030")
    for name in ("gb-what", "base64", "rot13", "\0"):
        with pytest.raises(DatasetError, match="no encoding named"):
            taken(CHINESE.encode("gbk"), "a.csv", encoding=name)
    with pytest.raises(DatasetError, match="its end is missing"):
        taken("问题,回答\n一,二".encode("gb18030")[:-1], "a.csv", encoding="gb18030")


def test_a_damaged_byte_of_utf8_is_named_and_only_its_row_left_out() -> None:
    rows = [json.dumps({"question": f"第{i}个问题", "answer": "回答"}, ensure_ascii=False).encode() for i in range(9)]
    rows[4] = rows[4].replace("个".encode(), b"\xb8\xaa")
    data = b"\n".join(rows)
    question = asked(data, "a.jsonl")
    assert question.kind == "broken" and question.rows == 8 and "line 5" in question.text.en
    found = taken(data, "a.jsonl", salvage=True)
    assert [row.instruction[1] for row in found.rows] == list("01235678") and "no character" in notes(found)


def test_a_long_file_is_told_from_a_part_of_it() -> None:
    text = "question,answer\n" + "我们是谁，来自哪里,我们是来自不同地方的人\n" * 100_000
    start = time.process_time()
    assert asked(text.encode("gb18030"), "a.csv").kind == "encoding"
    hurt = bytearray(text.encode())
    hurt[3_000_000] = 0xFF
    question = asked(bytes(hurt), "a.csv")
    assert question.kind == "broken" and question.rows == 99_999
    assert time.process_time() - start < 10


# --- columns ---------------------------------------------------------------------------------------------------------


def test_a_column_that_counts_its_rows_makes_the_first_line_a_header_and_question_marks_tell_the_question() -> None:
    question = asked("No.,We say,They want to know\n1,It is two years.,How long?\n2,Ann does.,Who helps?\n", "a.csv")
    assert question.preview[0] == ("No.", "We say", "They want to know")
    assert question.guess == {"question": "They want to know", "answer": "We say"}


@pytest.mark.parametrize("text,name,guess", [
    ("用户提问内容,客服答复\n怎么退款？,请在订单里点退款。\n", "a.csv", {"question": "用户提问内容", "answer": "客服答复"}),
    ("user_msg\tbot_reply\tid\nhi\tHello there!\t1\n", "a.tsv", {"question": "user_msg", "answer": "bot_reply"}),
    ('[{"q":"hi","a":"Hello!"}]', "a.json", {"question": "q", "answer": "a"}),
    ('[{"foo":"hi","bar":"Hello there, friend!"}]', "a.json", {"question": "foo", "answer": "bar"}),
    ('[{"prompt":"hi","chosen":"Hello!","rejected":"What?"}]', "a.json", {"question": "prompt", "answer": "chosen"}),
    ('[{"dialog":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}]', "a.json", {"messages": "dialog"}),
])  # fmt: skip
def test_unknown_columns_are_asked_for_with_a_guess_that_works(text: str, name: str, guess: Mapping[str, str]) -> None:
    question = asked(text, name)
    assert question.kind == "columns" and question.guess == guess
    assert set(guess.values()) <= set(question.preview[0])
    row = taken(text, name, columns=question.guess).rows[0]
    assert row.instruction and row.output and row.instruction != row.output


def test_a_table_without_a_header_keeps_its_first_line_as_a_row() -> None:
    text = "你是谁？,我是小禾。\n你会什么？,我会写诗。\n"
    question = asked(text, "a.csv")
    assert question.preview == (("(1)", "(2)"), ("你是谁？", "我是小禾。"), ("你会什么？", "我会写诗。"))
    found = taken(text, "a.csv", columns=question.guess)
    assert found.rows == (Row("你是谁？", "", "我是小禾。"), Row("你会什么？", "", "我会写诗。"))


def test_chosen_columns_are_followed_also_against_the_usual_names() -> None:
    text = "title,ask,answer,note\nA,B,C,D\n"
    columns = {"question": "ask", "answer": "note", "system": "title", "input": ""}
    assert taken(text, "a.csv", columns=columns).rows == (Row("B", "", "D", "A"),)


@pytest.mark.parametrize("columns,said", [
    ({"question": "ask", "answer": "nope"}, "no column “nope”"),
    ({"question": "ask"}, "Name the columns of question and answer"),
    ({"query": "ask", "answer": "b"}, "no part “query”"),
])  # fmt: skip
def test_columns_that_make_no_rows_are_refused(columns: Mapping[str, str], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        taken("ask,b\n1,2\n", "a.csv", columns=columns)


def test_a_settings_file_is_no_table_to_be_asked_about() -> None:
    for text in ('{"hidden_act": "silu", "model_type": "qwen2", "layers": 24}', '{"a": "b"}', '[{"n": 1, "m": 2}]'):
        with pytest.raises(DatasetError) as caught:
            read(text.encode(), "config.json")
        assert not isinstance(caught.value, Undecided) and "question and an answer are needed" in caught.value.text.en


# --- broken ----------------------------------------------------------------------------------------------------------

GOOD = [{"instruction": f"问题 {i}", "input": "", "output": "答 “{” [" * 3} for i in range(12)]
ROWS = tuple(Row(str(r["instruction"]), "", str(r["output"])) for r in GOOD)


def one_a_line(values: list[str]) -> str:
    return "[\n" + ",\n".join(values) + "\n]\n"


LINES = [json.dumps(row, ensure_ascii=False) for row in GOOD]


@pytest.mark.parametrize("text,name,left", [
    (one_a_line([*LINES[:4], LINES[4][:-9], *LINES[5:]]), "a.json", [4]),
    (one_a_line([*LINES[:4], LINES[4].replace('"output": "', '"output": '), *LINES[5:]]), "a.json", [4]),
    (one_a_line([*LINES[:4], LINES[4].replace("答", "答\n"), *LINES[5:]]), "a.json", [4]),
    (one_a_line(LINES).replace('"},\n{"instruction": "问题 6"', '"}\n{"instruction": "问题 6"'), "a.json", []),
    (one_a_line(LINES)[:-2] + ",\n]", "a.json", []),
    ("\n".join([*LINES[:4], LINES[4][9:], *LINES[5:]]), "a.jsonl", [4]),
    (",\n".join(LINES), "a.jsonl", []),
    ("\n".join(LINES)[:-5], "a.jsonl", [11]),
    (json.dumps(GOOD, ensure_ascii=False, indent=2)[:-20], "a.json", [11]),
    (json.dumps(GOOD, ensure_ascii=False)[:-5], "a.json", [11]),
    (json.dumps([*GOOD[:3], {**GOOD[3], "output": 7}, *GOOD[4:]], ensure_ascii=False), "a.json", [3]),
    (json.dumps([*GOOD[:3], {"other": "x"}, *GOOD[4:]], ensure_ascii=False), "a.json", [3]),
    ("\n".join(["instruction,output", *(f'{r.instruction},"{r.output}"' for r in ROWS), "x"]) + "\n", "a.csv", []),
    ("\n".join(["instruction,output", *(f'{r.instruction},"{r.output}"' for r in ROWS)])[:-3], "a.csv", [11]),
])  # fmt: skip
def test_the_complete_rows_of_a_broken_file_are_offered_and_nothing_else(text: str, name: str, left: list[int]) -> None:
    expected = tuple(row for i, row in enumerate(ROWS) if i not in left)
    question = asked(text, name)
    assert question.kind == "broken" and question.rows == len(expected)
    found = taken(text, name, salvage=True)
    assert found.rows == expected and ("Left out" in notes(found)) == bool(found.left_out)
    assert found.left_out or "passed over, no row is lost" in notes(found)


def test_a_row_inside_a_broken_row_is_not_taken_for_a_row() -> None:
    pretty = json.dumps(
        [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": str(i)}]} for i in range(6)],
        indent=1,
    )
    broken = pretty.replace('"content": "2"', '"content": 2"')
    found = taken(broken, "a.json", salvage=True)
    assert [row.output for row in found.rows] == ["0", "1", "3", "4", "5"]


def test_many_rows_of_one_fault_are_one_note_with_their_lines() -> None:
    text = "".join(json.dumps({"question": "q", "answer": "a" if i % 2 else i}) + "\n" for i in range(40))
    found = taken(text, "a.jsonl", salvage=True)
    assert len(found.rows) == 20 and found.left_out == 20
    said = [note.en for note in found.notes if note.en.startswith("Left out")]
    assert len(said) == 20 and "more" not in said[0]
    same = "".join(json.dumps({"question": "q", "answer": "a" if i % 2 else None}) + "\n" for i in range(40))
    said = [note.en for note in taken(same, "a.jsonl", salvage=True).notes if note.en.startswith("Left out")]
    assert len(said) == 1 and "20 rows (lines 1, 3, 5," in said[0]


def test_twenty_thousand_missing_commas_cost_no_row_and_no_minute() -> None:
    lines = [json.dumps({"question": f"q{i}", "answer": "a"}) for i in range(20_000)]
    start = time.process_time()
    for text in (",\n".join(lines), "[\n" + "\n".join(lines) + "\n]"):
        found = taken(text, "a.json", salvage=True)
        assert len(found.rows) == 20_000 and "19999 places" in notes(found)
    assert time.process_time() - start < 20


def test_a_file_broken_everywhere_is_given_up_with_what_was_read() -> None:
    lines = [json.dumps({"question": f"q{i}", "answer": "a"}) + "\n{" for i in range(5_000)]
    start = time.process_time()
    found = taken("\n".join(lines), "a.jsonl", salvage=True)
    assert len(found.rows) == 201 and found.left_out == 201
    assert found.rows == tuple(Row(f"q{i}", "", "a") for i in range(201))
    assert time.process_time() - start < 5


def test_a_whole_file_is_read_alike_whatever_was_chosen() -> None:
    assert taken(json.dumps(GOOD), "a.json", salvage=True) == read(json.dumps(GOOD).encode(), "a.json")


# --- pasted text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [
    '[{"question": "你是谁？", "answer": "小禾"}, {"question": "q", "answer": "a\\nb"}]',
    '{"question": "你是谁？", "answer": "小禾"}\n{"question": "q", "answer": "a\\nb"}',
    'question,answer\n你是谁？,小禾\nq,"a\nb"\n', 'question\tanswer\n你是谁？\t小禾\nq\t"a\nb"',
    '你是谁？\t小禾\nq\t"a\nb"', '\n\n你是谁？\t小禾\n\nq\t"a\nb"\n', 'question;answer\n你是谁？;小禾\nq;"a\nb"',
])  # fmt: skip
def test_pasted_text_is_read_in_each_of_its_forms(text: str) -> None:
    assert read_text(text).rows == (Row("你是谁？", "", "小禾"), Row("q", "", "a\nb"))


@pytest.mark.parametrize("text", ["hello", "你好，我们聊聊吧。\n第二行", "Dear all, I was there, yes.\nBye", "a\nb\n"])
def test_prose_is_no_dataset(text: str) -> None:
    with pytest.raises(DatasetError, match="Pasted text: No rows can be seen"):
        read_text(text)


def test_pasted_tables_with_unknown_columns_are_asked_about_and_broken_ones_offered() -> None:
    with pytest.raises(Undecided) as caught:
        read_text("foo,bar,baz\n1 2,x,why\n")
    assert caught.value.asked.kind == "columns" and caught.value.text.zh.startswith("粘贴的内容：")
    columns = {"question": "baz", "answer": "foo"}
    assert read_text("foo,bar,baz\n1 2,x,why\n", Choices(columns=columns)).rows == (Row("why", "", "1 2"),)
    with pytest.raises(Undecided) as caught:
        read_text("q1\ta1\nq2\nq3\ta3\n")
    assert caught.value.asked.kind == "broken" and caught.value.asked.rows == 2
    assert [row.output for row in read_text("q1\ta1\nq2\nq3\ta3\n", Choices(salvage=True)).rows] == ["a1", "a3"]
    with pytest.raises(DatasetError, match="nothing in it"):
        read_text(" \n")
