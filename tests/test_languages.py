"""Both languages, whole and used: no sentence untranslated, none that nothing shows, days as each language writes them."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from core.moments import day, moment
from core.text import LANGUAGES, Language, has_han
from core.workspace import Workspace
from ui import locale, prepare_environment

prepare_environment()

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([ROOT / "app.py", *(ROOT / "core").rglob("*.py"), *(ROOT / "ui").rglob("*.py")])
STATIC = ROOT / "ui" / "static"
SERVER = "".join(path.read_text("utf-8") for path in (ROOT / "ui").glob("*.py"))
# Said in the other language on purpose: the switch between the two, what is typed as it stands, and hints of fields for one.
_FOREIGN = re.compile(r"切换到中文|中文名\|English|Switch to English|{{|“中文|^中文$|问, 答|draft contracts|起草合同")


def _literal(node: ast.expr) -> str | None:
    """The written part of a string or f-string; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
    return None


def sentences(source: str) -> Iterator[tuple[int, str, str]]:
    """(line, Chinese, English) of every `Text(...)` that is written out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Text":
            given = dict(zip(("zh", "en"), node.args, strict=False)) | {k.arg: k.value for k in node.keywords}
            both = [_literal(given[name]) if name in given else None for name in ("zh", "en")]
            if both[0] is not None and both[1] is not None:
                yield node.lineno, both[0], both[1]


def untranslated(zh: str, en: str) -> bool:
    """Whether one of the two is in the other's language: an English word where Chinese stands, or the reverse."""
    if _FOREIGN.search(en) or _FOREIGN.search(zh):
        return False
    plain = re.sub(r"\{\w*\}|`[^`]*`", "", zh)
    words = re.findall(r"[A-Za-z]{2,}", plain)
    lower = [word for word in words if word.islower()]
    return has_han(en) or (not has_han(zh) and len(lower) > 1)


def test_every_sentence_of_the_modules_is_in_both_languages() -> None:
    found = {str(path): list(sentences(path.read_text("utf-8"))) for path in FILES}
    assert sum(map(len, found.values())) > 500
    wrong = {path: [one for one in said if untranslated(*one[1:])] for path, said in found.items()}
    assert {path: said for path, said in wrong.items() if said} == {}


def test_every_sentence_of_the_page_is_in_both_languages() -> None:
    assert {key: text for key, text in locale.table().items() if untranslated(text.zh, text.en)} == {}


def test_what_is_not_translated_is_found() -> None:
    assert untranslated("保存", "保存 it") and untranslated("save the run", "save the run")
    assert not untranslated("AdamW", "AdamW") and not untranslated("已用 {amount}", "{amount} used")


def _scripts(language: Language, home: Path) -> dict[str, tuple[dict[str, object], str]]:
    """By component, the labels that its script is given, and the script."""
    from ui.edits import Edits
    from ui.layout import build

    workspace = Workspace(home)
    found = {}
    for block in build(workspace, language, Edits(workspace)).blocks.values():
        written = str(getattr(block, "js_on_load", "") or "")
        if given := re.match(r"const text = JSON\.parse\(decodeURIComponent\('([^']*)'\)\);\n", written):
            found[type(block).__name__] = json.loads(unquote(given[1])), written[given.end() :]
    return found


def test_every_label_that_a_script_is_given_is_used_by_it(tmp_path: Path) -> None:
    for name, (labels, script) in _scripts("zh", tmp_path).items():
        # A name may be put together (`${name}_hint`), or come from the server: text[state.offer].
        given = script + (SERVER if re.search(r"text\[\w+\.\w+\]", script) else "")
        unused = [key for key in labels if not re.search(rf"\b{re.escape(key.partition('_')[0])}", given)]
        assert unused == [], name


def test_both_tables_of_a_script_with_words_of_its_own_have_the_same_names_and_all_are_used() -> None:
    found = 0
    for path in STATIC.glob("*.js"):
        source = path.read_text("utf-8")
        for english, chinese in re.findall(r"english\s*\?\s*(\{[^}]*\})\s*:\s*(\{[^}]*\})", source):
            names = [re.findall(r"(\w+): '", table) for table in (english, chinese)]
            assert names[0] == names[1], path.name
            assert has_han(chinese) and not has_han(english), path.name
            assert [name for name in names[0] if f"words.{name}" not in source] == [], path.name
            found += 1
    assert found


def test_labels_reach_a_script_whatever_is_in_them() -> None:
    from ui.pieces import with_labels

    written = with_labels({"a": "it's “quoted”\n{x}"}, "done(text.a)")
    assert "it's" not in written and json.loads(unquote(re.findall(r"'(.*)'", written)[0]))["a"] == "it's “quoted”\n{x}"


def test_days_are_written_as_each_language_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        at, same, later = 1_793_869_505.0, 1_795_000_000.0, 1_830_000_000.0  # 5 November 2026, 09:05:05
        assert [day(at).of(language) for language in LANGUAGES] == ["2026年11月5日", "5 Nov 2026"]
        assert [moment(at, same).of(language) for language in LANGUAGES] == ["11月5日 09:05", "5 Nov 09:05"]
        assert [moment(at, later).of(language) for language in LANGUAGES] == ["2026年11月5日 09:05", "5 Nov 2026 09:05"]
    finally:
        monkeypatch.undo()
        time.tzset()
