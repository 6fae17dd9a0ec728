"""Words of the questions asked while a run trains, in both languages; see ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "choice.normal": ("普通", "Normal"),
    "choice.strong": ("加强", "Strong"),
}
