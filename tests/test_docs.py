"""The documents: their commands are understood (with ONECARD_FULL=1 the tutorials' are carried out as they stand), their
scripts, modules, links and pictures are there, and what is in two languages is the same in both."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import app
from tests import commands_document
from tests.full import FULL

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]
# In Chinese they say less of the same, and lead to the English page for the rest.
SHORTER = ("README.zh.md", "contributing.zh.md")
_BLOCK = re.compile(r"^```(?:bash)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Every `python app.py ...` and `accelerate launch ... app.py ...` of the page's blocks, as arguments."""
    found = []
    for block in _BLOCK.findall(page.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith(("python app.py", "accelerate launch")):
                # [--flag] marks what may be left out.
                words = shlex.split(re.sub(r"\[(--[^]]*)\]", r"\1", line), comments=True)
                found.append(words[words.index("app.py") + 1 :])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_understood(page: Path) -> None:
    for arguments in commands(page):
        try:
            app.parser().parse_args(arguments)
        except SystemExit as error:
            assert not error.code, f"{page.name}: python app.py {shlex.join(arguments)}"


def test_the_reference_has_every_command_and_argument_as_the_program_has_it() -> None:
    text = commands_document.DOCUMENT.read_text("utf-8")
    assert commands_document.reference() in text, "python -m tests.commands_document writes it"
    shown = {words[i] for words in commands(commands_document.DOCUMENT) for i in range(min(4, len(words)))}
    for name, parser in commands_document.commands().items():
        assert name in shown, f"no example of {name}"
        assert parser.description and all(said for _, said in commands_document.arguments(parser)), name


def scripts(page: Path) -> list[tuple[Path, list[str]]]:
    """Every `python tests/...` and `python -m tests...` of the page, in blocks or within a line: the file and its flags."""
    found = []
    for written in re.findall(
        r"python (-m tests[\w.]+|tests/[\w/]+\.py)([^\n`|]*)", page.read_text("utf-8").replace("\\\n", " ")
    ):
        name = written[0].removeprefix("-m ")
        path = ROOT / (name if name.endswith(".py") else name.replace(".", "/") + ".py")
        found.append((path, re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", written[1])))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_script_of_a_page_is_there_and_knows_its_flags(page: Path) -> None:
    for path, flags in scripts(page):
        assert path.exists(), f"{page.name}: {path}"
        assert [flag for flag in flags if f'"{flag}"' not in path.read_text("utf-8")] == [], f"{page.name}: {path.name}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text("utf-8")], ids=lambda page: page.name
)
def test_the_python_of_a_page_imports_what_there_is(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("core", "ui")):
                module = importlib.import_module(str(node.module))
                assert [name.name for name in node.names if not hasattr(module, name.name)] == [], page.name


@pytest.mark.parametrize("page", [page for page in PAGES if page.name.endswith(".zh.md")], ids=lambda page: page.name)
def test_a_page_in_two_languages_has_the_same_in_both(page: Path) -> None:
    other = page.with_name(page.name.replace(".zh.md", ".md"))
    chinese, english = page.read_text("utf-8"), other.read_text("utf-8")
    assert f"({page.name})" in english and f"({other.name})" in chinese, "each leads to the other"
    if page.name not in SHORTER:
        for what in (r"^## ", r"^\|", r"^\*\*", r"^- "):
            counts = [len(re.findall(what, text, re.MULTILINE)) for text in (english, chinese)]
            assert counts[0] == counts[1], f"{page.name}: {what}"
        assert commands(page) == commands(other)


def test_the_pictures_are_small_enough_to_be_loaded_with_a_page() -> None:
    for path in (ROOT / "docs").iterdir():
        most = {".gif": 1_500_000, ".png": 400_000, ".svg": 40_000}.get(path.suffix)
        assert most is None or path.stat().st_size <= most, path.name
    for path in (ROOT / "docs").glob("*.svg"):
        drawn = ElementTree.fromstring(path.read_text("utf-8"))
        assert drawn.find("{http://www.w3.org/2000/svg}title") is not None and "prefers-color-scheme" in path.read_text(
            "utf-8"
        )


def test_every_module_stands_in_the_map_of_the_project() -> None:
    (listed,) = re.findall(r"```\n(app\.py.*?)```", (ROOT / "docs" / "contributing.md").read_text("utf-8"), re.S)
    words = set(re.findall(r"[\w*]+", listed))
    # A family of modules stands under its first one's name, or with a star.
    known = re.compile(
        "|".join(re.escape(word.rstrip("*_")) + (".*" if word.endswith("*") else "(_.*)?") for word in words)
    )
    modules = [
        path.stem for folder in ("core", "ui") for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"
    ]
    assert len(modules) > 100 and not [name for name in modules if not known.fullmatch(name)]


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", ["tutorial.md", "tutorial.zh.md"])
def test_the_tutorials_commands_do_what_they_say(page: str, tmp_path: Path) -> None:
    if not FULL:
        pytest.skip("carried out with ONECARD_FULL=1: they train the pocket model, minutes on a processor")
    for arguments in commands(ROOT / "docs" / page):
        if (
            arguments[0] == "serve" or "Qwen/Qwen2.5-7B-Instruct" in arguments
        ):  # goes on for ever; needs a card and a hub
            continue
        done = subprocess.run(
            [sys.executable, str(ROOT / "app.py"), "--home", str(tmp_path / "home"), *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        # 1 says that a light of the proof is red, which an identity this quickly taken on may have.
        assert done.returncode == 0 or (arguments[0] == "prove" and done.returncode == 1), done.stderr[-2000:]
        assert done.stdout or done.stderr
        if arguments[0] == "chat" and "--adapters" in arguments:
            assert "小禾" in done.stdout
