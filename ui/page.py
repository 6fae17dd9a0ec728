"""What every part of one language's page needs: the workspace, the language, its strings and its error toasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.text import Language, Text
from core.workspace import Workspace
from ui import locale, notify
from ui.edits import Edits


@dataclass(frozen=True)
class Page:
    """One of the two pages (/zh, /en) over the one workspace."""

    workspace: Workspace
    language: Language
    edits: Edits
    can_restart: bool = False

    def t(self, key: str, **values: object) -> str:
        """The string `key` of the table in this page's language."""
        return locale.t(self.language, key, **values)

    def of(self, text: Text) -> str:
        """Core's sentence in this page's language."""
        return text.of(self.language)

    def shown(self, handler: Callable[..., object]) -> Callable[..., object]:
        """`handler` with its errors shown as toasts in this page's language."""
        return notify.shown(self.language)(handler)
