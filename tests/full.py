"""What is left to ONECARD_FULL=1: cases that others like them stand for in every run."""

from __future__ import annotations

import os

import pytest

FULL = os.environ.get("ONECARD_FULL") == "1"
full = pytest.mark.skipif(not FULL, reason="others like it stand for it in every run; set ONECARD_FULL=1")
