"""Counts what the reliability tests injected and what came of it: one row a fault, printed and kept by `make test-reliability`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.full import FULL

TALLY = "ONECARD_TALLY"


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether every case is to run (ONECARD_FULL=1, as in `make test-reliability`), or a representative part."""
    return FULL


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Write down `cases` injected faults of one kind: how many lost something and how many went wrong without a word.

    A row is written before the test judges it, so a loss stands in the table too. Fails the test if there was any.
    """

    def count(fault: str, *, cases: int, lost: int = 0, wrong: int = 0, note: str = "") -> None:
        row = {"fault": fault, "cases": cases, "lost": lost, "wrong": wrong, "note": note, "test": request.node.nodeid}
        place = os.environ.get(TALLY)
        if place:
            # One write of one line: the workers append to the same file.
            with Path(place).open("ab") as file:
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        assert cases > 0, f"nothing was tried: {fault}"
        assert not lost and not wrong, f"{fault}: {lost} lost, {wrong} silently wrong of {cases}"

    return count
