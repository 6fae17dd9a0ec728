"""The Chinese that people read: full-width punctuation in every literal of core, ui and its scripts, and in the documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([ROOT / "app.py", *(ROOT / "core").rglob("*.py"), *(ROOT / "ui").rglob("*.py")])
DOCUMENTS = [ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.zh.md"))]
_VALUE = "\ue000"  # stands for what is filled in
_HAN = r"\u4e00-\u9fff"
_HALF = re.compile(rf"[{_HAN}] ?[,;:?!()]|[,;:?!()] ?[{_HAN}]|[”{_VALUE}][,;?!(]|[,;?!)][“{_VALUE}]|[{_HAN}]\.(?!\w)")
# What is typed as it stands: ids of hubs, columns, addresses, lists and YAML; and `name / 名称: ` of the two languages at once.
_CODE = re.compile(rf"\w+::|\w+=列名,\w+=列名|\?token=|\[+问, 答\](, …\])?|“名称: 值”|/ [{_HAN}]+: ")


def literals(source: str) -> Iterator[tuple[int, str]]:
    """Every string literal with its line; what an f-string or `format` fills in is one character."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else _VALUE for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, re.sub(r"\{\w*\}", _VALUE, node.value)


def half_width(source: str) -> list[tuple[int, str]]:
    """The Chinese literals with punctuation of half width in them. Patterns of regular expressions are none."""
    return [
        (line, text)
        for line, text in literals(source)
        if re.search(f"[{_HAN}]", text) and "(?" not in text and "\\" not in text and _HALF.search(_CODE.sub("", text))
    ]


def prose(markdown: str) -> str:
    """A document's sentences: without its code, the addresses of its links, and what stands in a table's borders."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]*`|<!--.*?-->", _VALUE, text)
    return re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)


def test_chinese_documents_and_scripts_have_chinese_punctuation() -> None:
    found = {}
    for path in DOCUMENTS:
        lines = prose(path.read_text("utf-8")).splitlines()
        found[path.name] = [line for line in lines if re.search(f"[{_HAN}]", line) and _HALF.search(line)]
    for path in (ROOT / "ui" / "static").glob("*.js"):
        quoted = re.findall(r"'([^'\n]*)'|\"([^\"\n]*)\"|`([^`]*)`", path.read_text("utf-8"))
        texts = ["".join(parts) for parts in quoted]
        found[path.name] = [one for one in texts if re.search(f"[{_HAN}]", one) and _HALF.search(_CODE.sub("", one))]
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_chinese_sentences_have_chinese_punctuation() -> None:
    found = {str(path.relative_to(ROOT)): half_width(path.read_text("utf-8")) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_half_width_punctuation_is_found_and_code_is_let_be() -> None:
    wrong = [
        "请等,或停止",
        "填的是 {x!r};应为数字",
        "载入 {what}({size})",
        "步:{loss}",
        "训练“{name}”(旧)",
        "完成.",
        "真的? 好",
        ", 再试",
    ]
    assert [text for text in wrong if not half_width(f"said = f{text!r}")] == []
    fine = ["请等，或停止", "hf::组织/名称、ms::组织/名称", "链接里 ?token= 后面的令牌", "写成 question=列名,answer=列名。",
            "每一轮应是 [问, 答]",
            "文件.zip", "{a}:{b}", "v1.2，好", "你(?:是|叫)", "Say “你好” (in Chinese)"]  # fmt: skip
    assert [text for text in fine if half_width(f"said = f{text!r}")] == []
