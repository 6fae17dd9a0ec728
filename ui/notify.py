"""Errors on their way to the page: a UserError becomes a toast in the page's language, anything else is logged."""

from __future__ import annotations

import contextlib
import functools
import html
import inspect
import logging
from collections.abc import Callable, Iterator

import gradio as gr

from core.errors import DatasetError, UserError
from core.log import SHOWN
from core.text import Language
from ui.locale import t

log = logging.getLogger("onecard.ui")


def shown(language: Language) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Decorator for event handlers, plain or generator: what they raise is shown as one toast in `language`.

    The handler's outputs keep their old values. A fault of ours is logged with its traceback and shown as one sentence.
    """

    def decorate(handler: Callable[..., object]) -> Callable[..., object]:
        if inspect.isgeneratorfunction(handler):

            @functools.wraps(handler)
            def stream(*values: object, **named: object) -> Iterator[object]:
                with _as_toast(language, handler.__qualname__):
                    yield from handler(*values, **named)

            return stream

        @functools.wraps(handler)
        def call(*values: object, **named: object) -> object:
            with _as_toast(language, handler.__qualname__):
                return handler(*values, **named)

        return call

    return decorate


@contextlib.contextmanager
def _as_toast(language: Language, where: str) -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except UserError as error:
        _note(error, where)
        raise gr.Error(html.escape(error.of(language)), duration=12, print_exception=False) from error
    except Exception as error:
        log.exception("%s failed", where)
        raise gr.Error(
            t(language, "error.ours", where=_log_place(language)), duration=15, print_exception=False
        ) from error


@contextlib.contextmanager
def apart(where: str) -> Iterator[None]:
    """Log what fails inside by its `where`, and go on: for one of several things that are done in one request."""
    try:
        yield
    except Exception:
        log.exception("%s failed", where)


def _note(error: UserError, where: str) -> None:
    """Keep what was shown for Diagnostics. What is wrong with a row may quote it: only which row it was."""
    what = f"row {error.row}" if isinstance(error, DatasetError) else str(error)
    logging.getLogger(SHOWN).warning("%s: %s: %s", where, type(error).__name__, what)


@contextlib.contextmanager
def told(language: Language) -> Iterator[None]:
    """Show a UserError from the block as a toast and go on: for handlers that must still set their outputs."""
    try:
        yield
    except UserError as error:
        warn(error.of(language))


def warn(message: str) -> None:
    """Show `message` (plain text) as a warning toast."""
    gr.Warning(html.escape(message), duration=10)


def say(message: str) -> None:
    """Show `message` (plain text) as a short confirmation."""
    gr.Info(html.escape(message), duration=4)


def _log_place(language: Language) -> str:
    """Where the log goes: the file of the first file handler, else the terminal that started the program."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            return handler.baseFilename
    return t(language, "place.terminal")
