"""Any file in: rows, or one sentence with the place and what to do. Never a traceback, never a wrong row."""

from __future__ import annotations

import codecs
import json
import os
import random
import time
import zlib
from pathlib import Path

import pytest

from core import formats, json_records
from core.dataset import Message, Row
from core.errors import DatasetError
from core.formats import Imported, read

SHARED = Path(os.environ.get("ONECARD_SHARED_DATA", str(Path(__file__).parents[2] / "shared" / "data")))
TWO = (Row("你是谁?", "", "我是小禾。"), Row("Who are you?", "", "I am Xiaohe."))
CSV = "instruction,output\n你是谁?,我是小禾。\nWho are you?,I am Xiaohe.\n"
JSON = json.dumps([{"instruction": r.instruction, "output": r.output} for r in TWO], ensure_ascii=False, indent=1)


def notes(imported: Imported) -> str:
    return " ".join(note.en for note in imported.notes)


def refusal(data: bytes | str, filename: str = "rows.json") -> str:
    """The sentence for a file that must be refused; both languages must name the file."""
    with pytest.raises(DatasetError) as caught:
        read(data.encode() if isinstance(data, str) else data, filename)
    assert caught.value.text.en.startswith(filename) and caught.value.text.zh.startswith(filename)
    return caught.value.text.en


def rows(text: str, filename: str = "rows.json") -> tuple[Row, ...]:
    return read(text.encode("utf-8", "surrogatepass"), filename).rows


# --- bytes to text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name,text", [("a.csv", CSV), ("a.json", JSON), ("a.tsv", CSV.replace(",", "\t"))])
def test_every_unicode_encoding_and_line_ending_gives_the_same_rows(
    encoding: str, ending: str, name: str, text: str
) -> None:
    imported = read(text.replace("\n", ending).encode(encoding), name)
    assert imported.rows == TWO
    expected = {"utf-8-sig": "mark (BOM)", "utf-8": ""}.get(encoding, "ead as UTF-16")
    assert expected in notes(imported) and (expected or not imported.notes)


def test_utf16_with_a_big_endian_mark_is_read() -> None:
    assert read(codecs.BOM_UTF16_BE + JSON.encode("utf-16-be"), "a.json").encoding == "utf-16-be"


@pytest.mark.parametrize("encoding,named", [("gb18030", "GB18030"), ("gbk", "GB18030"), ("big5", "Big5")])
def test_older_chinese_encodings_are_named_and_asked_about(encoding: str, named: str) -> None:
    sentence = (
        "我們是來自不同地方的人,在這裡說出自己的生活"
        if encoding == "big5"
        else "我们是来自不同地方的人,在这里说出自己的生活"
    )
    message = refusal(f'question,answer\n"{sentence}","{sentence}"\n'.encode(encoding), "a.csv")
    assert named in message and "line 2" in message and "UTF-8" in message


def test_latin_1_is_refused_without_a_wrong_name() -> None:
    message = refusal("question,answer\nOù est la gare? Très près d'ici,à côté\n".encode("latin-1"), "a.csv")
    assert "not UTF-8" in message and "GB18030" not in message and "Big5" not in message


def test_a_file_cut_inside_a_character_says_that_its_end_is_missing() -> None:
    assert "its end is missing" in refusal(CSV.encode()[:23], "a.csv")
    assert "its end is missing" in refusal(codecs.BOM_UTF16_LE + CSV.encode("utf-16-le")[:-1], "a.csv")


@pytest.mark.parametrize("data,kind", [
    (b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(range(256)), "zip archive or Excel file is damaged"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG image"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "JPEG image"),
    (b"%PDF-1.7\n\xe2\xe3\xcf\xd3\n", "PDF"),
    (b"\x1f\x8b\x08\0\0\0\0\0" + zlib.compress(b"x" * 99), "gzip"),
    (b"\x7fELF\x02\x01\x01\0", "Linux program"),
    (b"PAR1\x15\x04\x15\0", "Parquet"),
    (bytes(4096), "binary file"),
    (random.Random(1).randbytes(5000), "binary file"),
    (codecs.BOM_UTF32_LE + "[]".encode("utf-32-le"), "UTF-32"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_a_file_that_is_not_text_is_named_for_what_it_is(data: bytes, kind: str, name: str) -> None:
    assert kind in refusal(data, name)


def test_empty_files_and_unknown_endings_are_refused() -> None:
    assert "empty" in refusal(b"")
    assert "white space" in refusal(b" \n\n")
    assert "no rows" in refusal(b"[]")
    assert "no rows" in refusal("question,answer\n", "a.csv")
    assert ".md" in refusal("# hello", "a.md")


def test_a_file_over_the_size_limit_is_refused_at_once() -> None:
    data = b"[" + b" " * formats.MAX_BYTES
    start = time.process_time()
    assert "100 MB" in refusal(data, "big.json")
    assert time.process_time() - start < 2


def test_more_rows_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "MAX_ROWS", 3)
    lines = '{"question":"a","answer":"b"}\n'
    assert len(rows(lines * 3, "a.jsonl")) == 3
    for text, name in [
        (lines * 4, "a.jsonl"),
        (f"[{','.join([lines] * 4)}]", "a.json"),
        ("q,a\n" + "1,2\n" * 4, "a.csv"),
    ]:
        assert "more than 3 rows" in refusal(text, name)


def test_an_ending_that_lies_does_not_matter_for_json() -> None:
    assert rows(JSON, "a.txt") == rows(JSON, "a.csv") == TWO
    assert rows("\n".join(json.dumps({"query": r.instruction, "response": r.output}) for r in TWO), "a.json") == TWO


# --- recognising rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [
    {"instruction": "q", "input": "", "output": "a"}, {"instruction": "q", "output": "a"}, {"query": "q", "response": "a"},
    {"Question": "q", "ANSWER": "a"}, {"prompt": "q", "completion": "a"}, {"input": "q", "output": "a"},
    {"problem": "q", "solution": "a"}, {"问题": "q", "回答": "a"}, {" question ": "q", "Answer Key": "a"},
    {"ask": "q", "answer": "a"}, {"question": "q", "targets": "a"}, {"instruction": "q", "input": None, "output": "a"},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"conversation": [{"user": "q", "assistant": "a"}]}, {"conversations": [{"human": "q", "gpt": "a"}]},
    {"conversation": [{"role": "User", "content": "q"}, {"role": "bot", "content": "a"}]},
])  # fmt: skip
def test_each_known_schema_gives_the_row(record: dict[str, object]) -> None:
    assert rows(json.dumps([record])) == (Row("q", "", "a"),)


def test_a_forum_title_stays_above_the_question() -> None:
    imported = read(b"department,title,ask,answer\nheart,pressure?,I have...,Rest.\n", "a.csv")
    assert imported.rows == (Row("pressure?", "I have...", "Rest."),)
    assert "title → instruction, ask → input, answer → output" in notes(imported)
    assert "Columns not used: department" in notes(imported)


def test_question_context_and_system_columns_are_kept_apart() -> None:
    record = {"question": "q", "input": "context", "answer": "a", "system_prompt": "s"}
    assert rows(json.dumps(record)) == (Row("q", "context", "a", "s"),)


def test_turns_before_the_last_question_become_history() -> None:
    turns = [("system", "s"), ("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")]
    history = (Message("user", "1"), Message("assistant", "2"))
    messages = [{"role": role, "content": content} for role, content in turns]
    for record in (
        {"messages": messages}, {"messages": messages[1:], "system": "s"},
        {"instruction": "3", "output": "4", "system": "s", "history": [["1", "2"]]},
    ):  # fmt: skip
        imported = read(json.dumps(record).encode(), "a.jsonl")
        assert imported.rows == (Row("3", "", "4", "s", history),)
        assert "several turns: 1" in notes(imported)


def test_rows_without_answer_or_question_are_imported_and_counted() -> None:
    data = [{"question": "q", "answer": ""}, {"messages": [{"role": "user", "content": "open"}]},
            {"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "hi"}]},
            {"question": "", "answer": ""}]  # fmt: skip
    imported = read(json.dumps(data).encode(), "a.json")
    assert imported.rows == (Row("q"), Row("open"), Row("", "", "hi", "s"), Row())
    assert "without an answer, imported as they are: 2" in notes(imported)
    assert "without a question, imported as they are: 1" in notes(imported) and "Empty rows" in notes(imported)


def test_unused_keys_are_named_also_inside_turns() -> None:
    data = {"id": 7, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 1}]}
    assert "Columns not used: id, conversations.weight" in notes(read(json.dumps(data).encode(), "a.json"))


@pytest.mark.parametrize("marked", [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "loss": False}]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.0}]},
    {"prompt": "q", "completion": "a", "label": False},
    {"prompt": "q", "completion": "a", "label": "False"},
])  # fmt: skip
def test_an_answer_marked_not_to_be_learned_is_refused_with_its_row_or_left_out(marked: dict[str, object]) -> None:
    text = json.dumps(marked)
    learned = text.replace("false", "true").replace("False", "True").replace("0.0", "1")
    data = f"{learned}\n{text}\n".encode()
    with pytest.raises(formats.Undecided, match=r"Row 2 \(line 2\): An answer is marked not to be learned") as caught:
        read(data, "a.jsonl")
    assert caught.value.asked.kind == "broken" and caught.value.asked.rows == 1
    found = read(data, "a.jsonl", formats.Choices(salvage=True))
    assert found.rows == (Row("q", "", "a"),) and "Left out: Row 2" in notes(found)


def test_a_mark_on_what_is_never_learned_changes_nothing() -> None:
    turns = [{"role": "user", "content": "q", "loss": False}, {"role": "assistant", "content": "a"}]
    assert read(json.dumps({"messages": turns}).encode(), "a.json").rows == (Row("q", "", "a"),)


@pytest.mark.parametrize("data", [
    [{"question": "q", "answer": "a", "\ud800\x1b[2J": 1}],
    [{"messages": [{"role": "\ud800", "content": "q"}]}],
    [{"\ud800": "q"}],
])  # fmt: skip
def test_names_that_cannot_be_printed_are_shown_without_what_cannot_be(data: object) -> None:
    try:
        said = " ".join(note.zh + note.en for note in read(json.dumps(data).encode(), "a.json").notes)
    except DatasetError as error:
        said = error.text.zh + error.text.en
    assert "�" in said and "\x1b" not in said and said.encode()


def test_names_are_told_apart_by_the_marks_of_the_language() -> None:
    found = read(json.dumps([{"question": "q", "answer": "a", "x": 1, "y": 2}]).encode(), "a.json")
    assert any(note.zh == "没有用到的列：x、y。" and note.en == "Columns not used: x, y." for note in found.notes)


def test_a_wrapped_list_is_taken_and_said() -> None:
    imported = read(json.dumps({"version": 1, "data": json.loads(JSON)}).encode(), "a.json")
    assert imported.rows == TWO and "“data”" in notes(imported) and "version" in notes(imported)


def test_joined_json_lines_with_marks_blank_lines_and_line_separators_in_strings() -> None:
    lines = ['{"question": "one\u2028two\x85three", "answer": "a"}', "", '\ufeff{"question": "q", "answer": "b"}', ""]
    imported = read("\r\n".join(lines).encode(), "a.jsonl")
    assert imported.rows == (Row("one\u2028two\x85three", "", "a"), Row("q", "", "b"))
    assert "1 blank line" in notes(imported) and "inside the file" in notes(imported)


@pytest.mark.parametrize("keys", [
    {"foo": "1", "bar": "2"}, {"text": "only"}, {"prompt": "p", "chosen": "c", "rejected": "r"}, {"question": "q"},
    {"answer": "a"}, {"title": "t", "answer": "a"}, {"system": "s", "history": []}, {"role": "user", "content": "x"},
    {"data": "x"}, {},
])  # fmt: skip
def test_keys_without_question_and_answer_are_listed(keys: dict[str, object]) -> None:
    message = refusal(json.dumps([{"question": "q", "answer": "a"}, keys]))
    assert "Row 2 (line 1)" in message and "question and an answer are needed" in message
    assert all(key in message for key in keys)


def test_wrong_headers_are_listed() -> None:
    assert "Found: foo, bar" in refusal("foo,bar\n1,2\n", "a.csv")


# --- values ----------------------------------------------------------------------------------------------------------

_WRONG = {"null": "null", "3.30": "a number (3.30)", "true": "a truth value (true)", '["x"]': "a list",
          '{"x": 1}': "an object", "NaN": "a number (NaN)", "-Infinity": "a number (-Infinity)",
          "9" * 5000: "a number (9999", r'"\ud800"': "half a character", r'"a\u0000b"': "NUL"}  # fmt: skip


@pytest.mark.parametrize("literal,said", _WRONG.items(), ids=[key[:12] for key in _WRONG])
@pytest.mark.parametrize("key", ["question", "answer"])
def test_a_value_that_is_no_text_is_named_with_row_line_and_key(literal: str, said: str, key: str) -> None:
    other = {"question": "answer", "answer": "question"}[key]
    message = refusal(f'[\n{{"question": "q", "answer": "a"}},\n{{"{key}": {literal}, "{other}": "x"}}\n]')
    assert "Row 2 (line 3)" in message and f"“{key}”" in message and said in message


def test_null_is_nothing_only_where_a_part_may_be_missing() -> None:
    assert rows('{"instruction":"q","input":null,"output":"a","system":null,"history":null}') == (Row("q", "", "a"),)


def test_csv_cells_are_the_text_that_stands_there() -> None:
    text = 'instruction,output\n00000,3.30\n,NaN\nnull,"a ""b"", c\r\nd"\n'
    assert rows(text, "a.csv") == (Row("00000", "", "3.30"), Row("", "", "NaN"), Row("null", "", 'a "b", c\r\nd'))
    assert "NUL" in refusal("question,answer\nq,a\0b\n" + "q,a\n" * 90, "a.csv")


@pytest.mark.parametrize("role", ["function_call", "observation", "tool", "", None, 3])
def test_an_unsupported_role_is_named_with_its_row(role: object) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": role, "value": "{}"}, {"from": "gpt", "value": "a"}]
    good = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    message = refusal(json.dumps([good, {"conversations": turns}]))
    assert "Row 2" in message and "role" in message and (str(role) if isinstance(role, str) else "") in message


@pytest.mark.parametrize("conversation", [
    [], None, "text", [3], [["q", "a"]], [{"role": "user"}], [{"role": "system", "content": "s"}],
    [{"role": "user", "content": None}], [{"role": "user", "content": ["q"]}],
])  # fmt: skip
def test_a_conversation_of_another_shape_is_refused(conversation: object) -> None:
    assert "Row 1" in refusal(json.dumps({"messages": conversation}))


def test_two_different_system_prompts_or_a_misplaced_input_are_refused() -> None:
    turns = [{"role": r, "content": r} for r in ("system", "user", "assistant")]
    assert rows(json.dumps({"messages": turns, "system": "system"})) == (Row("user", "", "assistant", "system"),)
    assert "two different system prompts" in refusal(json.dumps({"messages": turns, "system": "other"}))
    assert "“input”" in refusal(json.dumps({"messages": turns, "input": "elsewhere"}))


@pytest.mark.parametrize("history", ["x", 3, [["q"]], [["q", None]], [3], {"q": "a"}])
def test_a_history_of_another_shape_is_refused(history: object) -> None:
    assert "history" in refusal(json.dumps({"query": "q", "response": "a", "history": history}))


# --- broken files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text,line,column,said", [
    ('[\n{"question": "q", "answer": "a"},\n]', 2, 33, "comma after the last row"),
    ('[\n{"question": "q", "answer": "a"}\n{"question": "q", "answer": "b"}]', 3, 1, "comma between two rows"),
    ('[{"question": "q",\n "answer": "a\nb"}]', 2, 14, "line break"),
    ('[{"question": "q", "answer": "say "hi""}]', 1, 36, "comma is missing"),
    ("[{'question': 'q'}]", 1, 3, "single quotes"),
    ('{"question": "q", "answer": "a"},\n{"question": "q", "answer": "a"}', 1, 33, "[ ]"),
    ('[{"question": "q", "answer": a}]', 1, 30, "double quotation marks"),
    ('[{"question" "q"}]', 1, 14, "colon"),
    (r'[{"question": "C:\x", "answer": ""}]', 1, 18, "backslash"),
    ('[{"question": "q", "answer": "a"}] tail', 1, 36, "list has ended"),
    ('[{"question": "q", "answer": "a"}', 1, 34, "stops here"),
    ("question: q", 1, 1, "begins with [ or {"),
])  # fmt: skip
def test_broken_json_is_shown_with_line_column_and_advice(text: str, line: int, column: int, said: str) -> None:
    message = refusal(text)
    assert f"Line {line}, column {column}:" in message and said in message and "»" in message


def test_a_broken_line_tells_how_many_rows_are_whole() -> None:
    good = '{"question": "q", "answer": "a"}\n'
    assert "The 8 complete rows can be" in refusal(good * 7 + '{"question": "q", "ans\n' + good, "a.jsonl")


def test_twice_the_same_key_deep_nesting_and_repeated_columns_are_sentences() -> None:
    assert "“answer” stands twice" in refusal('[{"question": "q", "answer": "a", "answer": "b"}]')
    assert "nested too deeply" in refusal('[{"question": ' + "[" * 100_000 + "]" * 100_000 + "}]")
    assert "two columns are named “q”" in refusal("q,q\n1,2\n", "a.csv")


@pytest.mark.parametrize("text,said", [
    ("question,answer\nq,a\nq,a,b\n", "Row 2 (line 3) has 3 cells, the header has 2"),
    ("question,answer\nq\n", "Row 1 (line 2) has 1 cells"),
    ('question,answer\nq,"open\nq,a\n', "starts on line 2"),
    ('question,answer\nq,"a" b\n', "starts on line 2"),
])  # fmt: skip
def test_a_torn_table_names_the_row_and_line(text: str, said: str) -> None:
    assert said in refusal(text, "a.csv")


def test_a_table_may_use_semicolons_tabs_bare_quotes_and_blank_lines() -> None:
    assert rows("question;answer\nq;a\n", "a.csv") == (Row("q", "", "a"),)
    assert rows('question\tanswer\n"q\t5" tall\n', "a.tsv") == (Row('"q', "", '5" tall'),)
    named = read(b"sep=;\r\nquestion;answer\r\nq;a, b\r\n", "a.csv")  # Excel's own first line
    assert named.rows == (Row("q", "", "a, b"),) and "blank" not in notes(named)
    imported = read(b"\nquestion,answer\n\nq,a\n\n", "a.csv")
    assert imported.rows == (Row("q", "", "a"),) and "3 blank lines" in notes(imported)


def test_a_cell_of_ten_megabytes_is_read() -> None:
    long = "x" * 10_000_000
    assert rows(f"question,answer\nq,{long}\n", "a.csv")[0].output == long


def test_a_good_file_cut_anywhere_never_gives_a_wrong_row() -> None:
    original = [
        {"instruction": f"问题 {i}?", "input": "ctx" * (i % 2), "output": f"答案 “{i}”\n" * 3} for i in range(40)
    ]
    full = json.dumps(original, ensure_ascii=False, indent=2).encode()
    for cut in random.Random(7).sample(range(len(full)), 200):
        message = refusal(full[:cut], "cut.json")
        assert len(message) < 600
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in original).encode()
    expected = read(lines, "whole.jsonl").rows
    whole = 0
    for cut in random.Random(8).sample(range(len(lines)), 200):
        try:
            given = read(lines[:cut], "cut.jsonl").rows
        except DatasetError:
            continue
        whole += 1
        assert given == expected[: len(given)]
    assert whole < 20


# --- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path,count,with_input,first", [
    ("identity/llamafactory_identity.json", 91, 0, "hi"),
    ("identity/personalitychat_friendly_qna.tsv", 165, 0, "Go to hell"),
    ("general/alpaca_zh_demo_300.json", 300, 39, None),
    ("general/alpaca_en_demo_300.json", 300, 121, None),
    ("messages/openai_toy_chat_fine_tuning.jsonl", 10, 0, "I fell off my bike today."),
    ("ms-swift-fixtures/alpaca.csv", 3, 2, "11111"),
    ("ms-swift-fixtures/alpaca.jsonl", 3, 2, "11111"),
    ("ms-swift-fixtures/chatml.jsonl", 3, 0, "11111"),
    ("ms-swift-fixtures/swift_single.jsonl", 3, 0, "11111"),
])  # fmt: skip
def test_public_files_give_the_rows_their_source_states(
    path: str, count: int, with_input: int, first: str | None
) -> None:
    file = SHARED / path
    if not file.is_file():
        pytest.skip(f"{file} is not here; set ONECARD_SHARED_DATA")
    imported = read(file.read_bytes(), file.name)
    assert len(imported.rows) == count and sum(bool(row.input) for row in imported.rows) == with_input
    assert first is None or imported.rows[0].instruction == first


@pytest.mark.parametrize("path,said", [
    ("csv/medical_qa_gb18030_100.csv", "it looks like GB18030 (GBK) (line 2, byte 29)"),
    ("sharegpt/glaive_toolcall_en_demo.json", "Row 1 (line 2): A turn has the role “function_call”"),
    ("llamafactory_dataset_info.json", "lists 104 sets and holds no rows, and none of their files is here"),
    ("qwen2.5-7b-instruct-config/config.json", "Found: architectures"),
    ("qwen2.5-tokenizer/merges.txt", "Unknown kind of file (.txt)"),
])  # fmt: skip
def test_public_files_that_cannot_be_trained_on_say_why(path: str, said: str) -> None:
    file = SHARED / path
    if not file.is_file():
        pytest.skip(f"{file} is not here; set ONECARD_SHARED_DATA")
    assert said in refusal(file.read_bytes(), file.name)


def test_quirks_of_the_public_files_survive() -> None:
    folder = SHARED / "ms-swift-fixtures"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; set ONECARD_SHARED_DATA")
    assert read((folder / "alpaca.csv").read_bytes(), "alpaca.csv").rows[0] == Row("11111", "22222", "3.3", "00000")
    first = read((folder / "alpaca.jsonl").read_bytes(), "alpaca.jsonl").rows[0]
    history = (Message("user", "aaaaa"), Message("assistant", "bbbbb"))
    assert first == Row("11111", "22222", "33333", "system123", history)
    toy = read((SHARED / "messages" / "openai_toy_chat_fine_tuning.jsonl").read_bytes(), "toy.jsonl")
    assert [i for i, row in enumerate(toy.rows) if not row.question] == [3, 8, 9]
    assert len(toy.rows[4].output) == 26_000
