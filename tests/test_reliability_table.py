"""The reliability table adds up what was counted and replaces only its own part of the document."""

from __future__ import annotations

import json
import sys

from tests.reliability import table


def test_rows_of_one_fault_are_added_and_losses_stay_visible(tmp_path, monkeypatch) -> None:
    rows = [
        {"fault": "kills", "cases": 3, "lost": 0, "wrong": 0, "note": "", "test": "tests/a.py::one[x]"},
        {"fault": "disks", "cases": 1, "lost": 1, "wrong": 0, "note": "tmpfs", "test": "tests/b.py::two"},
        {"fault": "kills", "cases": 4, "lost": 0, "wrong": 2, "note": "", "test": "tests/a.py::one[y]"},
    ]
    kept, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    page.write_text("before\n<!-- table: begin -->\nold\n<!-- table: end -->\nafter\n", "utf-8")
    monkeypatch.setattr(sys, "argv", ["table", str(kept), "--write", str(page), "--commit", "abc1234"])

    table.main()

    text = page.read_text("utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text and "Commit abc1234" in text
    assert "| disks (tmpfs) | 1 | 1 | 0 | `tests/b.py::two` |" in text
    assert "| kills | 7 | 0 | 2 | `tests/a.py::one` |" in text
    assert "| **together** | **8** | **1** | **2** | |" in text

    kept.unlink()  # the tests that write rows were left out
    table.main()
    assert page.read_text("utf-8") == text
