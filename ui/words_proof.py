"""The proof's words, in both languages; see ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {}
