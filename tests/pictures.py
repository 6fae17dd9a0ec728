"""The documents' pictures, taken in Chromium from a real run of the pocket model on a fresh home.

python -m tests.pictures [--only run dataset train compare chat proof] [--languages zh en]: writes docs/NAME-zh-light.png,
docs/NAME-en-dark.png and the moving docs/run-zh.gif, docs/run-en.gif.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from core.text import LANGUAGES, Language

if TYPE_CHECKING:
    from PIL.Image import Image
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SIZE = {"width": 1440, "height": 900}
MOST_BYTES = 1_500_000
_SCALED = (1120, 700)
_LOOKS: tuple[tuple[Language, str], ...] = (("zh", "light"), ("en", "dark"))
_QUESTIONS = {"zh": "你是谁？", "en": "Who are you?"}
NAMES = ("run", "dataset", "train", "compare", "chat", "proof")


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """The program over `home`, in its own process; the page's address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "app.py", "--home", str(home), "--port", str(port), "--no-open"]
    environment = {**os.environ, "ONECARD_TOKEN": "", "CUDA_VISIBLE_DEVICES": ""}
    program = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/zh/", timeout=60).close()
                break
            except OSError:
                if program.poll() is not None:
                    raise RuntimeError("the program ended before it served a page") from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        program.terminate()
        program.wait(60)


def opened(browser: Browser, url: str, language: Language, look: str, tab: str) -> Page:
    """A page in `language` and `look` with `tab` open, ready to be used."""
    locale = "zh-CN" if language == "zh" else "en-GB"
    page = browser.new_context(viewport=SIZE, locale=locale, reduced_motion="reduce").new_page()  # type: ignore[arg-type]
    page.set_default_timeout(300_000)  # whatever else the machine does
    page.add_init_script(f"localStorage.setItem('onecard_theme', '{look}')")
    page.goto(f"{url}/{language}/#{tab}")
    page.wait_for_function("document.querySelector('[data-is=model]')?.textContent")
    page.wait_for_function(f"document.querySelector('#tab-{tab}-button')?.getAttribute('aria-selected') === 'true'")
    page.wait_for_selector({"data": "#rows .re-row", "train": "#preview dd"}.get(tab, f"#tab-{tab} .oc-ask textarea"))
    page.wait_for_timeout(1500)
    return page


class Film:
    """What the page looked like, one picture after the other, each with the milliseconds it stays."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[tuple[Image, int]] = []

    def take(self, stays: int) -> None:
        """One more; the one before stays longer if it was the same."""
        from PIL import Image

        shot = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB").resize(_SCALED, Image.Resampling.LANCZOS)
        if self.frames and self.frames[-1][0].tobytes() == shot.tobytes():
            self.frames[-1] = (shot, self.frames[-1][1] + stays)
        else:
            self.frames.append((shot, stays))

    def thin(self, since: int, most: int) -> None:
        """Of the frames from `since` on keep at most so many, evenly, however long the machine took."""
        late = self.frames[since:]
        if len(late) > most:
            self.frames[since:] = [late[round(place * (len(late) - 1) / (most - 1))] for place in range(most)]

    def save(self, path: Path) -> int:
        """As a GIF of at most MOST_BYTES, in as many colours as that allows; its size."""
        from PIL import Image

        for colours in (256, 192, 128, 64, 32):
            # One palette for all: what does not change between two pictures is then left out of the file.
            sheet = Image.new("RGB", (_SCALED[0], _SCALED[1] * len(self.frames)))
            for place, (shot, _) in enumerate(self.frames):
                sheet.paste(shot, (0, _SCALED[1] * place))
            # Three quarters go to what there is most of, so that grounds keep their tint; amber and teal are rare, and matter.
            most = 3 * colours // 4
            common = sheet.quantize(most, method=Image.Quantize.MEDIANCUT).getpalette()[: 3 * most]
            rare = sheet.quantize(colours - most, method=Image.Quantize.MAXCOVERAGE).getpalette()[
                : 3 * (colours - most)
            ]
            palette = Image.new("P", (1, 1))
            palette.putpalette(common + rare)
            flat = [shot.quantize(palette=palette, dither=Image.Dither.NONE) for shot, _ in self.frames]
            stays = [stay for _, stay in self.frames]
            flat[0].save(
                path, save_all=True, append_images=flat[1:], duration=stays, loop=0, optimize=False, disposal=1
            )
            if path.stat().st_size <= MOST_BYTES:
                break
        return path.stat().st_size


def film(page: Page, language: Language, path: Path) -> int:
    """From the table over a whole run to the two answers side by side."""
    film = Film(page)
    film.take(1800)
    page.click("#tab-train-button")
    page.wait_for_selector("#preview dd")
    page.wait_for_timeout(1000)
    film.take(1200)
    page.click("#start")
    since, runs, begun = len(film.frames), 0, time.monotonic()
    while runs < 2 and time.monotonic() - begun < 600:  # it begins, and it ends
        page.wait_for_timeout(1000)
        film.take(350)
        answer = urllib.request.urlopen(f"{page.url.partition('/' + language)[0]}/healthz", timeout=60)
        idle = json.load(answer)["state"] == "idle"
        runs += (runs == 0 and not idle) or (runs == 1 and idle)
    film.thin(since, 22)
    page.wait_for_timeout(3000)
    film.take(1800)
    page.locator("#probes").scroll_into_view_if_needed()
    page.mouse.wheel(0, 420)
    page.wait_for_timeout(600)
    film.take(2600)
    page.evaluate("scrollTo(0, 0)")
    page.click("#tab-compare-button")
    page.wait_for_selector("#tab-compare .oc-ask textarea")
    page.wait_for_timeout(1000)
    _ask(page, language, film)
    film.take(4000)
    return film.save(path)


def _ask(page: Page, language: Language, film: Film | None = None) -> None:
    """A question in the tab's own box, until it is answered: the line below the answer has its pace."""
    page.locator("div[role=tabpanel]:visible .oc-ask textarea").first.fill(_QUESTIONS[language])
    page.keyboard.press("Enter")
    begun, paced = time.monotonic(), "tok" if language == "en" else "词元/"
    while paced not in page.locator("#meter-b:visible, #chat-meter:visible").first.inner_text():
        if time.monotonic() - begun > 300:
            raise RuntimeError("no answer within five minutes")
        page.wait_for_timeout(500)
        if film:
            film.take(300)
    page.locator("div[role=tabpanel]:visible .oc-ask .submit-button").first.wait_for(timeout=300_000)
    page.wait_for_timeout(1000)


def still(page: Page, name: str, language: Language, path: Path) -> None:
    """One tab as it is after the run."""
    if name in ("compare", "chat"):
        _ask(page, language)
    if name == "proof":
        page.locator("#proof").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#proof').scrollIntoView({block: 'start'})")
        page.evaluate("scrollBy(0, -24)")
    page.wait_for_timeout(1200)
    page.mouse.move(0, 0)
    page.screenshot(path=path)


def _take(browser: Browser, url: str, home: Path, language: Language, look: str, given: argparse.Namespace) -> None:
    """The pictures of one language: of a run where the home has none yet, then of the tabs after it."""
    if given.home is None:
        page = opened(browser, url, language, look, "data")
        moving = (given.out if "run" in given.only else home) / f"run-{language}.gif"
        print(f"{moving.name}: {film(page, language, moving) / 1e6:.2f} MB", flush=True)
        page.context.close()
        proved = time.monotonic() + 600
        while not any(home.glob("runs/*/proof.json")) and time.monotonic() < proved:
            time.sleep(1)
    for name in (name for name in NAMES[1:] if name in given.only):
        tab = {"dataset": "data", "proof": "train"}.get(name, name)
        page = opened(browser, url, language, look, tab)
        still(page, name, language, given.out / f"{name}-{language}-{look}.png")
        page.context.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Take them all, or those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--languages", nargs="*", default=list(LANGUAGES), choices=LANGUAGES)
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--home", type=Path, help="a home that has a run already: nothing is trained for the stills")
    given = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    from tests.chromium import _CHROMIUM, _FLAGS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(_CHROMIUM), args=_FLAGS)
        for language, look in (each for each in _LOOKS if each[0] in given.languages):
            with tempfile.TemporaryDirectory() as folder:
                home = given.home or Path(folder) / "home"
                with serving(home) as url:
                    _take(browser, url, home, language, look, given)
        browser.close()


if __name__ == "__main__":
    main()
