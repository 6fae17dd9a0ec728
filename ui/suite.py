"""Which questions and which ruler suit a run's base model, and the ruler's short names."""

from __future__ import annotations

import re

from core.models import is_pocket
from core.proof_sets import Suite
from core.run import Run


def suite_of(run: Run) -> Suite:
    """The proof's suite for the run's base model."""
    return "pocket" if is_pocket(run.config.model) else "full"


def short_name(name: str) -> str:
    """“8-bit” of “8-bit quantisation”; nothing of a name that does not begin with a number."""
    found = re.match(r"\d+( ?比特| ?位|-bit)", name)
    return found[0] if found else ""
