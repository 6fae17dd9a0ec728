"""Sixty-four files with something wrong, each with the rows that would be right; and one good file in every format."""

from __future__ import annotations

import codecs
import csv
import io
import json
import zipfile
import zlib
from dataclasses import dataclass

import openpyxl
import pyarrow as pa
from pyarrow import parquet

from core.dataset import Dataset, Row
from core.files_write import write

Json = dict[str, object]
RECORDS: list[Json] = [
    {"instruction": f"第 {i} 个问题，是什么？", "input": "", "output": f"“回答”{i}：甲，乙\n{{丙}} [丁]"}
    for i in range(8)
]
ROWS = tuple(Row(str(r["instruction"]), "", str(r["output"])) for r in RECORDS)


@dataclass(frozen=True)
class Case:
    """A file with something wrong. whole: the rows it may give as it is, none if it has to be refused or asked about."""

    what: str
    name: str
    data: bytes
    whole: tuple[Row, ...] = ()


def good() -> dict[str, tuple[str, bytes]]:
    """The same rows in each format: kind -> file name and content."""
    table = Dataset("good", ROWS)
    simple = io.StringIO(newline="")
    csv.writer(simple).writerows([("question", "answer"), *((row.instruction, row.output) for row in ROWS)])
    tabs = io.StringIO(newline="")
    csv.writer(tabs, delimiter="\t").writerows([("question", "answer"), *((r.instruction, r.output) for r in ROWS)])
    return {
        "JSON": ("good.json", write(table, "json")[0]),
        "JSON, indented": ("good.json", json.dumps(RECORDS, ensure_ascii=False, indent=2).encode()),
        "JSON Lines": ("good.jsonl", write(table, "jsonl")[0]),
        "messages": ("good.jsonl", write(table, "messages")[0]),
        "CSV": ("good.csv", simple.getvalue().encode()),
        "TSV": ("good.tsv", tabs.getvalue().encode()),
        "CSV, UTF-16": ("good.csv", simple.getvalue().encode("utf-16")),
        "XLSX": ("good.xlsx", workbook([["question", "answer"], *[[row.instruction, row.output] for row in ROWS]])),
        "Parquet": ("good.parquet", columns(RECORDS)),
        "LLaMA-Factory zip": ("good.zip", write(table, "llamafactory")[0]),
    }


def workbook(lines: list[list[str]]) -> bytes:
    """An Excel workbook with one sheet."""
    book = openpyxl.Workbook()
    for line in lines:
        book.worksheets[0].append(line)
    held = io.BytesIO()
    book.save(held)
    return held.getvalue()


def columns(records: list[Json]) -> bytes:
    """A Parquet file."""
    held = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(records), held)
    return held.getvalue()


def packed(files: dict[str, bytes]) -> bytes:
    """A zip archive."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return held.getvalue()


def cases() -> list[Case]:
    """The sixty-four files."""
    return [*_bytes(), *_json(), *_values(), *_tables(), *_packed()]


def _listed() -> str:
    return "[\n" + ",\n".join(_lines()) + "\n]\n"


def _lines() -> list[str]:
    return [json.dumps(record, ensure_ascii=False) for record in RECORDS]


def _bytes() -> list[Case]:
    """Encodings and files that are something else."""
    text, table = _listed(), "question,answer\n我们是谁，从哪里来,我们是来自不同地方的人\n"
    hurt = text.encode().replace("个".encode(), b"\xb8\xaa", 1)
    return [
        Case("empty", "a.json", b""),
        Case("white space only", "a.jsonl", b" \n\t\n"),
        Case("a mark only", "a.csv", codecs.BOM_UTF8),
        Case("GB18030", "a.csv", table.encode("gb18030")),
        Case("Big5", "a.csv", "question,answer\n我們是誰,我們是來自不同地方的人\n".encode("big5")),
        Case("Latin-1", "a.csv", "question,answer\nOù est-il?,Très près d'ici\n".encode("latin-1")),
        Case("UTF-8 with one damaged byte", "a.json", hurt),
        Case("UTF-8 cut inside a character", "a.json", text.encode()[: text.encode().index("个".encode()) + 1]),
        Case("UTF-16 with half a character at its end", "a.json", text.encode("utf-16")[:-1]),
        Case("UTF-16 with a lone surrogate", "a.json", codecs.BOM_UTF16_LE + b"[\x00\x00\xd8\x20\x00]\x00"),
        Case("UTF-32", "a.json", text.encode("utf-32")),
        Case("UTF-16 without a mark", "a.json", text.encode("utf-16-le"), ROWS),
        Case("a mark twice", "a.json", codecs.BOM_UTF8 * 2 + text.encode(), ROWS),
        Case("NUL bytes inside", "a.csv", b"question,answer\nq,a\0b\n" + b"q,a\n" * 90),
        Case("a PNG picture", "a.json", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(200))),
        Case("gzip", "a.jsonl", b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + zlib.compress(text.encode())[2:]),
        Case("an old Excel file", "a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)),
        Case("a web page", "a.json", b"<!DOCTYPE html><html><body>404</body></html>"),
    ]


def _json() -> list[Case]:
    """JSON that does not parse."""
    listed, lines = _listed(), _lines()
    short = lines[3][:-9]
    single = "[{'instruction': 'q', 'output': 'a'}]"
    return [
        Case("a row cut off in a list", "a.json", listed.replace(lines[3], short).encode()),
        Case("a row cut off in JSON Lines", "a.jsonl", "\n".join([*lines[:3], short, *lines[4:]]).encode()),
        Case("no closing bracket", "a.json", listed.rstrip("]\n").encode()),
        Case("a comma after the last row", "a.json", listed.replace("\n]", ",\n]").encode()),
        Case("a comma missing between rows", "a.json", listed.replace("},\n", "}\n", 1).encode()),
        Case("JSON Lines with commas", "a.jsonl", ",\n".join(lines).encode()),
        Case("a list and more", "a.json", (listed + "tail").encode()),
        Case("two lists", "a.json", (listed + listed).encode()),
        Case("single quotes", "a.json", single.encode()),
        Case("a line break in a string", "a.json", listed.replace("甲", "甲\n", 1).encode()),
        Case("a bare quotation mark in a string", "a.json", listed.replace("“回答”2", '"回答"2').encode()),
        Case("a wrong backslash", "a.json", listed.replace("甲，乙", r"C:\甲", 1).encode()),
        Case("a key twice", "a.json", listed.replace('"input": ""', '"output": ""', 1).encode()),
        Case("100,000 brackets deep", "a.json", b'[{"instruction": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]"),
        Case("no quotation marks", "a.json", b"[{instruction: q, output: a}]"),
        Case("a comment", "a.json", ("// rows\n" + listed).encode()),
        Case("text instead of rows", "a.json", b"question: who are you"),
    ]


def _values() -> list[Case]:
    """JSON that parses and holds what no row can hold."""

    def odd(change: Json, drop: str = "") -> bytes:
        record = {key: value for key, value in (RECORDS[3] | change).items() if key != drop}
        return json.dumps([*RECORDS[:3], record, *RECORDS[4:]], ensure_ascii=False).encode()

    def talk(turns: object) -> bytes:
        return json.dumps([{"messages": turns}]).encode()

    return [
        Case("an answer that is a number", "a.json", odd({"output": 3.3})),
        Case("an answer that is null", "a.json", odd({"output": None})),
        Case("an answer that is a list", "a.json", odd({"output": ["a"]})),
        Case("a row without an answer's key", "a.json", odd({}, "output")),
        Case("a NUL in a cell", "a.json", odd({"output": "a\0b"})),
        Case("half an emoji", "a.json", json.dumps([{"instruction": "q", "output": "\ud83d"}]).encode()),
        Case("rows that are text", "a.json", b'[{"question": "q", "answer": "a"}, "text"]'),
        Case("unknown keys", "a.json", b'[{"foo": "1", "bar": "2"}, {"foo": "3", "bar": "4"}]'),
        Case("a settings file", "config.json", b'{"model_type": "qwen2", "hidden_size": 896}'),
        Case("a turn with an unknown role", "a.json", talk([{"role": "tool", "content": "x"}])),
        Case("turns without content", "a.json", talk([{"role": "user"}])),
        Case("a conversation of a system prompt only", "a.json", talk([{"role": "system", "content": "s"}])),
        Case("an empty list", "a.json", b"[]"),
    ]


def _tables() -> list[Case]:
    """CSV and TSV."""
    head = "question,answer\n"
    return [
        Case("a quotation mark that is not closed", "a.csv", f'{head}q1,a1\nq2,"open\nq3,a3\n'.encode()),
        Case("text after a quotation mark", "a.csv", f'{head}q1,a1\nq2,"a" b\n'.encode()),
        Case("a cell too many", "a.csv", f"{head}q1,a1\nq2,a2,more\nq3,a3\n".encode()),
        Case("a cell too few", "a.csv", f"{head}q1,a1\nq2\nq3,a3\n".encode()),
        Case("a column name twice", "a.csv", b"question,question\nq,a\n"),
        Case("a header only", "a.csv", head.encode()),
        Case("no header", "a.csv", "你是谁？,我是小禾。\n你好！,你好。\n".encode()),
        Case("unknown columns", "a.tsv", "客户\t客服\n退款\t点退款\n".encode()),
    ]


def _packed() -> list[Case]:
    """Zip archives, workbooks and Parquet."""
    sheets = good()
    book, rows = sheets["XLSX"][1], sheets["Parquet"][1]
    return [
        Case("a workbook cut off", "a.xlsx", book[: len(book) // 2]),
        Case(
            "a workbook with a damaged sheet",
            "a.xlsx",
            book.replace(b"xl/worksheets/sheet1", b"xl/worksheets/sheetX", 1),
        ),
        Case(
            "a workbook with a title above the header",
            "a.xlsx",
            workbook([["问答"], ["question", "answer"], ["q", "a"]]),
        ),
        Case("a formula without a result", "a.xlsx", workbook([["question", "answer"], ["q", '="a"'], ["q", "a"]])),
        Case("Parquet cut off", "a.parquet", rows[: len(rows) // 2]),
        Case("Parquet with numbers for answers", "a.parquet", columns([{"question": "q", "answer": 1}])),
        Case("a zip with nothing to read", "a.zip", packed({"readme.txt": b"hello"})),
        Case("a registry without its files", "a.zip", packed({"dataset_info.json": b'{"a": {"file_name": "a.json"}}'})),
    ]
