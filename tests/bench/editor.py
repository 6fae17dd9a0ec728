"""The dataset table as a person feels it: cell to saved, a paste, an undo, a large import. The whole app in Chromium.

    python tests/bench/editor.py [--rows 2000] [--large 50000] [--times 9]

Starts `python app.py` on a home of its own. Every figure is a median over --times, with its extremes, in seconds by the
browser's clock; memory is the server's, from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("ONECARD_CHROMIUM", "/usr/bin/chromium")
SAVED = "document.querySelector('.re-state').textContent.startsWith('saved')"
PASTE = """text => {
  const data = new DataTransfer();
  data.setData('text/plain', text);
  document.activeElement.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true}));
}"""
EDIT = """async ([words, waits]) => {
  const cell = document.querySelector('.re-row textarea'), state = document.querySelector('.re-state');
  cell.focus();
  const begun = performance.now();
  document.execCommand('insertText', false, words);
  const typed = performance.now();
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const drawn = performance.now();
  while (waits && !state.textContent.startsWith('saved')) await new Promise(done => setTimeout(done, 4));
  return [typed - begun, drawn - begun, performance.now() - begun].map(time => time / 1000);
}"""


def main() -> None:
    """Measure and print one line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--large", type=int, default=50_000)
    parser.add_argument("--times", type=int, default=9)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        files = {count: write(Path(folder) / f"alpaca-{count}.json", count) for count in (asked.rows, asked.large)}
        server, address = start(Path(folder) / "home")
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"{address}/en/#data")
            page.wait_for_selector(".re-row textarea")
            page.wait_for_timeout(2000)
            tell("server before, memory", memory(server.pid))
            for count, path in files.items():
                measure(page, path, count, asked.times)
                tell(f"{count:,} rows: server, memory", memory(server.pid))
        finally:
            server.terminate()
            server.wait(30)


def measure(page: Page, path: Path, count: int, times: int) -> None:
    """Import a file as a table of its own, then edit it."""
    here = f"{count:,} rows: "
    tell(here + "file read and shown", clock(lambda: choose(page, path)))
    tell(here + "in the table", clock(lambda: put(page, count)))
    tell(here + "saved while first checked", (page.evaluate(EDIT, ["0, ", True])[-1],))
    checked = "count => document.querySelector('#findings').textContent.includes(count)"
    tell(here + "and checked", clock(lambda: page.wait_for_function(checked, arg=f"{count:,}", timeout=300_000)))
    edits = []
    for i in range(times):
        edits.append(page.evaluate(EDIT, [f"{i}, ", True]))
        page.wait_for_timeout(1500)  # the health check runs after each; a person pauses, too
    for name, figures in zip(("typed", "typed and drawn", "typed and saved"), zip(*edits, strict=True), strict=True):
        tell(here + name, figures)
    text = "\n".join(f"question {i}\tanswer {i}" for i in range(500))
    page.evaluate("document.querySelector('.re-bar [data-do=add]').click()")
    tell(
        here + "500 rows pasted", clock(lambda: shown(page, lambda: page.evaluate(PASTE, text), f"{count + 500} rows"))
    )
    page.wait_for_function(SAVED, timeout=60_000)
    undo = "document.querySelector('.re-bar [data-do=undo]').click()"
    tell(here + "paste undone", clock(lambda: shown(page, lambda: page.evaluate(undo), f"{count + 1} rows")))
    tell(here + "and saved", clock(lambda: page.wait_for_function(SAVED, timeout=60_000)))


def choose(page: Page, path: Path) -> None:
    page.locator("#import-box input[type=file]").set_input_files(str(path))
    page.wait_for_selector("dialog.im .im-rows", timeout=120_000)


def put(page: Page, count: int) -> None:
    shown(page, lambda: page.click("#import-new"), f"{count} rows")


def shown(page: Page, act: Callable[[], object], words: str) -> None:
    act()
    page.wait_for_function(
        "words => document.querySelector('.re-count').textContent === words", arg=words, timeout=120_000
    )


def clock(act: Callable[[], object]) -> tuple[float, ...]:
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun,)


def tell(name: str, figures: tuple[float, ...] | str) -> None:
    if not isinstance(figures, str):
        spread = f"  ({min(figures):.3f} to {max(figures):.3f}, {len(figures)} times)" if len(figures) > 1 else ""
        figures = f"{statistics.median(figures):.3f} s{spread}"
    print(f"{name:40s} {figures}", flush=True)


def memory(pid: int) -> str:
    """Resident now and at most, in MB."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return " / ".join(f"{int(told[key].split()[0]) // 1024} MB" for key in ("VmRSS", "VmHWM"))


def write(path: Path, count: int) -> Path:
    """An alpaca file of mixed languages and lengths, the same every time."""
    draw, rows = random.Random(0), []
    for i in range(count):
        more = draw.randint(1, 8)
        zh = (f"请说明第 {i} 个问题", "然后每天练习一点，并写下遇到的问题。" * more)
        en = (
            f"Explain topic {i} and give an example.",
            "Learn a little every day and write down what was hard. " * more,
        )
        question, answer = zh if i % 2 else en
        rows.append({"instruction": question, "input": "" if i % 3 else f"context {i}", "output": f"{i}: {answer}"})
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
    return path


def start(home: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The app on a free port, answering."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "app.py", "--home", str(home), "--port", str(port), "--no-open"]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "ONECARD_TOKEN": ""})
    address = f"http://127.0.0.1:{port}"
    while True:
        try:
            urllib.request.urlopen(f"{address}/healthz", timeout=5).close()
            return server, address
        except OSError:
            if server.poll() is not None:
                raise SystemExit("the app ended at its start") from None
            time.sleep(0.2)


if __name__ == "__main__":
    main()
