"""How fast the page is there, and what it costs while a run streams: paint, bytes, layout shift, ten tabs, memory.

    python tests/bench/page.py [--only paint stream tabs memory] [--times 5] [--minutes 15] [--out FILE]

The whole app on the pocket model, in a process of its own, and a Chromium that has seen nothing. Seconds are the page's
clock from the moment its address was asked for; medians over --times, with extremes. Ends with the table of
docs/performance.md. tabs: one run, and ten tabs on it that are stopped and let go on in turns of fifteen seconds, --times of
each: what the machine does meanwhile hits both alike. memory: a replayed run of five steps a second for --minutes, heap read
after a collection.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, CDPSession, Page, Playwright, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
CHROMIUM = os.environ.get("ONECARD_CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PARTS = ("paint", "stream", "tabs", "memory")
STEPS = 240
TABS, TURN, SETTLE = 10, 15.0, 5.0  # seconds of a turn that count; those before them

# Set before the page's own first line.
WATCH = """
window.bench = {shift: 0, shifts: [], busy: 0, ready: 0};
const seen = (type, note) => new PerformanceObserver(list => list.getEntries().forEach(note)).observe({type, buffered: true});
seen('layout-shift', one => {
  if (one.hadRecentInput) return;
  bench.shift += one.value;
  for (const source of one.sources) {
    const node = source.node?.nodeType === 1 ? source.node : source.node?.parentElement;
    const name = node ? (node.closest('[id]')?.id ?? '') + ' ' + node.tagName + '.' + node.className : 'gone';
    bench.shifts.push([+one.value.toFixed(4), Math.round(one.startTime), name]);
  }
});
seen('longtask', one => { bench.busy = one.startTime + one.duration; });
const look = () => {
  const there = document.querySelector('#rows .re-row textarea') && document.querySelector('#tab-train-button')
    && document.querySelector('[data-is=model]')?.textContent;
  if (there) bench.ready = performance.now(); else setTimeout(look, 5);
};
look();
"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"


class Server:
    """The app over a home of its own in another process, told by lines what to train."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "ONECARD_TOKEN": ""},
        )  # fmt: skip
        self.url = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the server ended")
        return line.strip()

    def ask(self, *words: object) -> str:
        """Send a line, take the answer's."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self._line()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def serve(home: Path) -> None:
    """The other process: train STEPS | stream | stop | clear | state, a line each."""
    import threading

    import uvicorn

    from core.config import TrainConfig
    from core.presets import preset
    from core.run import Run
    from core.workspace import Workspace
    from ui.server import create_app

    class Replaying(Workspace):
        """Where asked for, a run is the last one's events over and over."""

        replayed: Sequence[dict[str, Any]] = ()

        def _train(self, run: Run, stop: threading.Event) -> None:
            if not self.replayed:
                return super()._train(run, stop)
            last = self.replayed
            steps, asked = ([e for e in last if e["type"] == kind] for kind in ("step", "probed"))
            run.append("started", **{k: v for k, v in next(e for e in last if e["type"] == "started").items()
                                     if k not in ("type", "time", "steps")}, steps=100_000)  # fmt: skip
            for step in range(1, 100_000):
                if stop.wait(0.2):
                    break
                told = [steps[step % len(steps)], *([asked[step % len(asked)]] if step % 150 == 0 else [])]
                for event in told:
                    fields = {key: value for key, value in event.items() if key not in ("type", "time", "step")}
                    run.append(event["type"], **fields, step=step)
            run.append("stopped", step=run.step)

    workspace = Replaying(home)
    config = uvicorn.Config(create_app(workspace), host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    quiet = {"stop_when_taken": "false", "prove": "false", "num_train_epochs": 1000.0}
    for line in sys.stdin:
        word, _, steps = line.strip().partition(" ")
        if word in ("train", "stream"):
            values = {**preset("pocket").config.as_dict(), **quiet, "model": "pocket", "max_steps": int(steps or 0)}
            workspace.replayed = workspace.runs()[0].events if word == "stream" else ()
            workspace.start(workspace.datasets()[0], TrainConfig(**values))
        elif word == "stop" and workspace.active is not None:
            workspace.stop()
        elif word == "clear":  # a page that shows no run follows the next one
            for known in workspace.runs():
                workspace.delete_run(known.id)
        run = workspace.runs()[0] if workspace.runs() else None
        told = [e["time"] for e in run.events if e["type"] == "step"] if run is not None else []
        live = workspace.active is not None
        print(json.dumps({"live": live, "told": told[-500:], "resident": _resident()}), flush=True)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def state(server: Server, *asked: object) -> dict[str, Any]:
    """What the server says of its newest run, after it was told `asked`."""
    return dict(json.loads(server.ask(*(asked or ("state",)))))


def ended(server: Server) -> dict[str, Any]:
    """The same, once no run is in progress. Asked seldom: asking costs, too."""
    while (now := state(server))["live"]:
        time.sleep(1)
    return now


def opened(playwright: Playwright) -> Browser:
    """A Chromium without a past."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


def visit(browser: Browser, address: str) -> Page:
    """A page of its own, watched from its first line on, once its table can be typed in and nothing is computed any more."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}, locale="zh-CN").new_page()
    page.add_init_script(WATCH)
    page.goto(address, wait_until="commit")
    page.wait_for_function("window.bench?.ready > 0", timeout=60_000)
    page.wait_for_function("performance.now() - Math.max(bench.ready, bench.busy) > 2000", timeout=60_000)
    return page


def paint(playwright: Playwright, home: Path, times: int) -> dict[str, list[float]]:
    """Seconds to the first paint and until the page is ready, for the first visitor of a server and for a later one."""
    found: dict[str, list[float]] = {}
    for number in range(times):
        server = Server(home / f"paint-{number}")
        try:
            for visitor in ("first", "later"):
                browser = opened(playwright)
                page = visit(browser, f"{server.url}/zh/")
                painted, ready = page.evaluate(f"[{PAINT}, Math.max(bench.ready, bench.busy)]")
                found.setdefault(f"{visitor} visit, first paint", []).append(painted / 1000)
                found.setdefault(f"{visitor} visit, interactive", []).append(ready / 1000)
                found.setdefault("layout shift, opening", []).append(page.evaluate("bench.shift"))
                browser.close()
        finally:
            server.close()
    return found


def counted(page: Page) -> tuple[CDPSession, list[float]]:
    """What the page receives from now on, in bytes on the wire."""
    session, received = page.context.new_cdp_session(page), [0.0]

    def add(event: dict[str, Any]) -> None:
        received[0] += event.get("encodedDataLength", 0) or event.get("dataLength", 0)

    session.send("Network.enable")
    session.on("Network.dataReceived", add)
    session.on("Network.responseReceived", lambda event: add(event["response"]))
    return session, received


def stream(playwright: Playwright, home: Path, times: int) -> dict[str, list[float]]:
    """Kilobytes a second that the page takes while a run streams, and layout shift over whole runs and answers."""
    found: dict[str, list[float]] = {"KB/s while training": [], "KB/s at rest": [], "layout shift, a run": []}
    server = Server(home / "stream")
    try:
        for _ in range(times):
            state(server, "clear")
            browser = opened(playwright)
            page = visit(browser, f"{server.url}/zh/#train")
            page.wait_for_selector("#tab-train-button[aria-selected=true]")
            page.wait_for_timeout(1500)
            received, before = counted(page)[1], page.evaluate("bench.shift")
            state(server, "train", STEPS)
            begun = time.monotonic()
            while state(server)["live"]:
                page.wait_for_timeout(1000)
            found["KB/s while training"].append(received[0] / 1e3 / (time.monotonic() - begun))
            page.wait_for_timeout(3000)
            found["layout shift, a run"].append(page.evaluate("bench.shift") - before)
            print(json.dumps(page.evaluate("bench.shifts")[-20:], ensure_ascii=False))
            received[0], begun = 0.0, time.monotonic()
            page.wait_for_timeout(10_000)
            found["KB/s at rest"].append(received[0] / 1e3 / (time.monotonic() - begun))
            browser.close()
    finally:
        server.close()
    return found


class Tabs:
    """A Chromium with a number of tabs on one address, one of them in sight, which nobody drives once they are open."""

    def __init__(self, playwright: Playwright, address: str, count: int, folder: Path) -> None:
        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port = folder / "DevToolsActivePort"
        while not port.exists() or not port.read_text().strip():
            time.sleep(0.05)
        browser = playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port.read_text().split()[0]}")
        for number in range(count):
            page = browser.contexts[0].new_page() if number else browser.contexts[0].pages[0]
            page.goto(address)
            page.wait_for_selector("#tab-train-button[aria-selected=true]", timeout=120_000)
        browser.close()  # while it is told what to do, every tab takes itself for visible

    def all(self) -> list[psutil.Process]:
        """The browser's processes."""
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def tell(self, number: signal.Signals) -> None:
        """Stop all its processes, or let them go on."""
        for process in self.all():
            process.send_signal(number)

    def processor(self) -> float:
        """Seconds of a processor that it has taken."""
        return sum(sum(process.cpu_times()[:2]) for process in self.all())

    def close(self) -> None:
        self.tell(signal.SIGCONT)
        self._process.terminate()
        self._process.wait(30)


def calm() -> None:
    """Wait, a minute at most, until what opened the tabs has ended."""
    deadline = time.monotonic() + 60
    while psutil.cpu_percent(interval=2) > 15 and time.monotonic() < deadline:
        pass


def _pace(told: Sequence[float]) -> float:
    """Steps a second between questions: which of them fall into a turn varies more than what is to be measured."""
    gaps = [after - before for before, after in pairwise(told)]
    plain = [gap for gap in gaps if gap < 3 * statistics.median(gaps)]
    return len(plain) / sum(plain)


def tabs(playwright: Playwright, home: Path, times: int) -> dict[str, list[float]]:
    """Steps a second of one run while ten tabs are stopped and while they go on; what they cost, pair by pair."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    taken: list[float] = []
    server = Server(home / "tabs")
    try:
        state(server, "train", 40)
        ended(server)
        state(server, "clear")
        opened_tabs = Tabs(playwright, f"{server.url}/zh/#train", TABS, home / "profile")
        calm()
        state(server, "train", 100_000)
        time.sleep(65)  # until a page on a run asks as it does most of the time (ui/pace.py)
        for turn in range(2 * times):
            going = turn % 4 in (1, 2)  # off, on, on, off: what only grows or only shrinks falls out
            opened_tabs.tell(signal.SIGCONT if going else signal.SIGSTOP)
            time.sleep(SETTLE)
            since, before = time.time(), opened_tabs.processor()
            time.sleep(TURN)
            until, after = time.time(), opened_tabs.processor()
            steps = [told for told in state(server)["told"] if since <= told <= until]
            rates[going].append(_pace(steps))
            taken += [(after - before) / TURN] if going else []
            print(f"{'on' if going else 'off'}: {rates[going][-1]:.2f} steps a second", flush=True)
        state(server, "stop")
        opened_tabs.close()
        ended(server)
    finally:
        server.close()
    cost = [100 * (1 - on / off) for off, on in zip(rates[False], rates[True], strict=True)]
    error = statistics.stdev(cost) / len(cost) ** 0.5 if len(cost) > 1 else float("nan")
    print(f"cost: {statistics.mean(cost):.1f} %, standard error {error:.1f}", flush=True)
    return {"steps a second, no tab": rates[False], f"steps a second, {TABS} tabs": rates[True],
            f"cost of {TABS} tabs, % of speed": cost, "processors that the browser takes": taken}  # fmt: skip


def memory(playwright: Playwright, home: Path, minutes: float) -> dict[str, list[float]]:
    """Megabytes of the page and of the server, once a minute while a run streams."""
    names = ("page heap, MB", "page nodes", "page listeners", "server, MB")
    found: dict[str, list[float]] = {name: [] for name in names}
    server = Server(home / "memory")
    try:
        state(server, "train", 40)
        ended(server)
        state(server, "stream")
        browser = opened(playwright)
        page = visit(browser, f"{server.url}/zh/#train")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        session.send("HeapProfiler.enable")
        page.wait_for_function("/进行中/.test(document.querySelector('#run-head').innerText)")
        page.wait_for_timeout(30_000)
        for _ in range(round(minutes) + 1):
            session.send("HeapProfiler.collectGarbage")
            told = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
            values = (told["JSHeapUsedSize"] / 1e6, told["Nodes"], told["JSEventListeners"],
                      state(server)["resident"] / 1e6)  # fmt: skip
            for name, value in zip(names, values, strict=True):
                found[name].append(value)
            print(", ".join(f"{name} {value:.1f}" for name, value in zip(names, values, strict=True)), flush=True)
            page.wait_for_timeout(60_000)
        state(server, "stop")
        browser.close()
    finally:
        server.close()
    return found


def show(found: dict[str, list[float]], write: Callable[[str], object] = print) -> None:
    """The table for the document."""
    write("| | median | from | to |\n|---|---|---|---|")
    for name, values in found.items():
        middle, low, high = statistics.median(values), min(values), max(values)
        write(f"| {name} | {middle:.3g} | {low:.3g} | {high:.3g} |")


def main() -> None:
    """Measure what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        return serve(asked.serve)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, sync_playwright() as playwright:
        home = Path(folder)
        for part, work in (("paint", paint), ("stream", stream), ("tabs", tabs)):
            if part in asked.only:
                found |= work(playwright, home, asked.times)
        if "memory" in asked.only:
            found |= memory(playwright, home, asked.minutes)
    show(found)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
