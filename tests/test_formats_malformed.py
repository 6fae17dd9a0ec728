"""The importer's benchmark: every public and malformed file gives right rows or a sentence, and no cut gives a wrong row."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "bench"
DOCUMENT = Path(__file__).parents[1] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The script, imported with its own folder on the path as when it is run; nothing of it stays loaded."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("imports")
    own = {path.stem for path in FOLDER.glob("*.py")}
    for name in own & (set(sys.modules) - before):
        del sys.modules[name]


def test_sixty_four_malformed_files_give_right_rows_or_a_sentence(bench: Any) -> None:
    lines = list(bench.malformed_files())
    assert len(lines) == 64 and len({what for what, *_ in lines}) == 64
    assert {verdict for _, verdict, *_ in lines} == {
        "rows", "refused", "asked: encoding", "asked: columns", "asked: broken",
    }  # fmt: skip


def test_a_file_cut_anywhere_gives_no_wrong_row_unsaid(bench: Any) -> None:
    for kind, cuts, *counts in bench.cut_files(60):
        assert sum(counts) == cuts == 60, kind
        assert counts[-1] == 0 or kind.startswith(("CSV", "TSV"))


def test_files_damaged_at_random_end_in_rows_or_a_sentence(bench: Any) -> None:
    seen = bench.damaged_files(1_500)
    assert sum(seen.values()) == 1_500 and min(seen[verdict] for verdict in ("rows", "asked", "refused")) > 5


def test_the_document_shows_what_the_importer_says(bench: Any) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    said = ["what came of it", "rows", "what was said"]
    assert bench.table(["what is wrong", *said], bench.malformed_files()) in text
    if not bench.SHARED.is_dir():
        pytest.skip(f"{bench.SHARED} is not here; set ONECARD_SHARED_DATA")
    lines = bench.table(["file", *said], bench.public_files(1_000_000)).splitlines()
    assert len(lines) > 15 and set(lines) <= set(text.splitlines())
