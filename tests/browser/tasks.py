"""A new user at the page: finds things by the words on them, presses, types, waits; clicks and seconds are counted.

With ONECARD_TASKS=FOLDER each step leaves a picture in there, and each task a line in tasks.jsonl.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from core.workspace import Workspace

_ROLES = ("button", "tab", "link", "radio", "checkbox", "option", "menuitem", "combobox", "textbox", "slider")
_WAIT = 60.0  # seconds for anything to appear: far above what it takes where nothing else runs
_TOP = "dialog[open]"


class Person:
    """Somebody who has read no document. `presses`, `typed`: clicks, and fields filled in."""

    def __init__(self, page: Page, url: str, language: str, task: str) -> None:
        self.page, self.url, self.language, self.task = page, url, language, task
        self.presses = self.typed = self.steps = 0
        self.answered: float | None = None
        self.begun = time.monotonic()
        folder = os.environ.get("ONECARD_TASKS")
        self.pictures = Path(folder) if folder else None

    @property
    def seconds(self) -> float:
        """Since the page was asked for."""
        return time.monotonic() - self.begun

    def comes(self, place: str = "") -> None:
        """Open the page, in `place` a tab's name where a link led there, and wait until the table can be used."""
        self.begun = time.monotonic()
        self.page.goto(f"{self.url}/{self.language}/{place}")
        self.page.wait_for_selector("#rows .re-row", state="attached")
        self.page.wait_for_function("document.querySelector('#dataset input')?.value")
        self.page.wait_for_function("document.querySelector('[data-is=model]')?.textContent")

    def finds(self, words: str, within: str = "", nth: int = 0, seconds: float = _WAIT) -> Locator:
        """The thing with these words on it, or as its name; in the topmost dialog while one is open."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            area = within or (_TOP if self.page.locator(_TOP).count() else "body")
            place = self.page.locator(area).last
            named = [place.get_by_role(role, name=words, exact=True) for role in _ROLES]  # type: ignore[arg-type]
            others = [place.get_by_placeholder(words, exact=True), place.get_by_text(words, exact=True)]
            for locator in (*named, place.get_by_label(words, exact=True), *others):
                seen = locator.filter(visible=True)
                if seen.count() > nth:
                    return seen.nth(nth)
            self.page.wait_for_timeout(50)
        raise AssertionError(f"nothing is called {words!r}; the page says: {self.text(within)[:1500]}")

    def presses_on(self, words: str, within: str = "", nth: int = 0, seconds: float = _WAIT) -> None:
        """Click on what `finds` finds."""
        self.finds(words, within, nth, seconds).click()
        self.presses += 1
        self._picture(words)

    def types(self, words: str, text: str, within: str = "", key: str = "Tab") -> None:
        """Fill in the field of that name and leave it by `key`."""
        field = self.finds(words, within)
        field.fill(text)
        field.press(key)
        self.typed += 1
        self._picture(text)

    def hits(self, keys: str) -> None:
        """Press keys, as in "Control+z"."""
        self.page.keyboard.press(keys)
        self._picture(keys)

    def chooses(self, file: Path, words: str) -> None:
        """Give a file to the button that asks for one."""
        with self.page.expect_file_chooser() as chooser:
            self.presses_on(words)
        chooser.value.set_files(str(file))

    def picks(self, label: str, option: str, within: str = "") -> None:
        """Open the list of that name and take the first entry that has `option` in it."""
        self.finds(label, within).click()
        self.page.locator("[role=option]", has_text=option).filter(visible=True).first.click()
        self.presses += 2
        self._picture(option)

    def asks(self, words: str, question: str) -> None:
        """Type a question into the field of that name and send it."""
        self.types(words, question, key="Enter")

    def sees(self, pattern: str, within: str = "body", seconds: float = _WAIT) -> str:
        """Wait until the text of `within` matches; the text."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, text := self.text(within)):
            assert time.monotonic() < deadline, f"never saw {pattern!r} in {within}: {text[:1500]}"
            self.page.wait_for_timeout(100)
        self._picture(pattern)
        return text

    def text(self, within: str = "") -> str:
        """What is to be read in `within` now; nothing where it is not on the page, or while another page comes."""
        from playwright.sync_api import Error

        try:
            return "\n".join(self.page.locator(within or "body").filter(visible=True).all_inner_texts())
        except Error as error:
            if "context was destroyed" not in error.message:
                raise
            return ""

    def has_an_answer(self) -> None:
        """The first answer of what was trained is there: its seconds go into the record."""
        self.answered = self.seconds

    def _picture(self, words: str) -> None:
        self.steps += 1
        if self.pictures is not None:
            name = re.sub(r"\W+", "-", words)[:40].strip("-")
            folder = self.pictures / self.task
            folder.mkdir(parents=True, exist_ok=True)
            self.page.wait_for_timeout(300)  # what fades in is there
            self.page.screenshot(path=folder / f"{self.steps:02}-{name}.png")

    def leaves(self) -> None:
        """Write down what the task took."""
        took = {"task": self.task, "language": self.language, "clicks": self.presses, "fields": self.typed,
                "seconds": round(self.seconds, 1)}  # fmt: skip
        if self.answered is not None:
            took["first tuned answer"] = round(self.answered, 1)
        print(took)
        if self.pictures is not None:
            with (self.pictures / "tasks.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(took, ensure_ascii=False) + "\n")


@contextmanager
def person(page: Page, url: str, language: str, task: str) -> Iterator[Person]:
    """Somebody with a task; what it took is told when it is done."""
    somebody = Person(page, url, language, task)
    yield somebody
    somebody.leaves()


def ended(workspace: Workspace, page: Page, seconds: float = 300) -> None:
    """Let the page go on until no run is in progress."""
    deadline = time.monotonic() + seconds
    while workspace.active is not None:
        assert time.monotonic() < deadline, page.inner_text("body")[:1500]
        page.wait_for_timeout(100)
