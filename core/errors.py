"""What can go wrong through no fault of ours: each error says what, where and what to do, in both languages.

Anything that is not a UserError is a bug of this project and is left to surface as one.
"""

from __future__ import annotations

from core.text import Language, Text


class UserError(Exception):
    """Base of every error a person can mend. `text` holds the sentence in both languages, `cause` is a word for programs."""

    cause = ""

    def __init__(self, text: Text) -> None:
        super().__init__(text.en)
        self.text = text

    def of(self, language: Language) -> str:
        """The message in `language`."""
        return self.text.of(language)


class DatasetError(UserError):
    """A row or file that cannot be used. `row` counts from 0; None where no single row is at fault."""

    def __init__(self, text: Text, row: int | None = None) -> None:
        super().__init__(text)
        self.row = row


class ConfigError(UserError):
    """A setting outside its range. `field` is the setting's name in TrainConfig."""

    def __init__(self, text: Text, field: str) -> None:
        super().__init__(text)
        self.field = field


class ModelError(UserError):
    """A model or adapter that is missing, incomplete or of another kind."""


class BusyError(UserError):
    """The one training thread, or the thing asked for, is in use."""


class StorageError(UserError):
    """The disk is full, read-only or gone."""

    cause = "disk"


class DeviceLostError(UserError):
    """The card answers no call of this process any more: only a new process can use it again."""

    cause = "device"


class DivergedError(UserError):
    """The loss or a gradient stopped being a number. `step` counts from 1."""

    cause = "diverged"

    def __init__(self, text: Text, step: int) -> None:
        super().__init__(text)
        self.step = step


class WontFitError(UserError):
    """The card's memory is too small for what was asked. Sizes in bytes, 0 where they are not known."""

    cause = "memory"

    def __init__(self, text: Text, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(text)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes

    def bare(self) -> WontFitError:
        """The same, without what it was raised from: those frames hold tensors."""
        return WontFitError(self.text, self.needed_bytes, self.free_bytes)
