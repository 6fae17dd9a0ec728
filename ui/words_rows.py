"""Words of what is shown and mended row by row, and of advice before the start, in both languages; see ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {}
