"""Diagnostics: sentences of the page, as in ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {}
