"""A run as its page asks for it, again and again: what changed, and how that looks. Reads only.

Every function may be called by whoever sees the page, with any run id; an unknown one is an empty run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.run import Event, Run
from ui import runs
from ui.page import Page
from ui.pieces import checklist, safe
from ui.plots import downsample, smooth
from ui.probe_table import probe_table, stat_strip


class Follow:
    """`state`, `progress` and `probings` change when the html of the matching `draw_` function would."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def metrics(self, asked: Mapping[str, object]) -> dict[str, object]:
        """The loss curve's news for ui.loss_chart: points, evaluations and probe steps after event `cursor`."""
        run = self._run(str(asked.get("run") or ""))
        if run is None:
            nothing: dict[str, object] = {"points": [], "eval": [], "probes": []}
            return {"run": "", "from": 0, "cursor": 0, "total_steps": 0, "state": "new", **nothing}
        cursor, end = asked.get("cursor"), len(run.events)
        start = cursor if isinstance(cursor, int) and 0 <= cursor <= end else 0
        events = run.events[start:end]
        return {
            "run": run.id,
            "from": start,
            "cursor": end,
            "total_steps": run.steps,
            "points": downsample(_curve(run.events[:end], start)),
            "eval": [(e["step"], e["loss"]) for e in events if e["type"] == "evaluated"],
            "probes": [e["step"] for e in events if e["type"] == "probed"],
            "state": run.status,
        }

    def state(self, run_id: str) -> str:
        """The run's status."""
        run = self._run(run_id)
        return run.status if run else ""

    def progress(self, run_id: str) -> str:
        """The run's status and how far it is."""
        run = self._run(run_id)
        return f"{run.status} {len(run.events)}" if run else ""

    def probings(self, run_id: str) -> str:
        """The run's status and how often it was asked the fixed questions."""
        run = self._run(run_id)
        return f"{run.status} {sum(event['type'] == 'probed' for event in run.events)}" if run else ""

    def draw_head(self, run_id: str) -> str:
        """Title and status; the cause, if the run did not end well."""
        run = self._run(run_id)
        if run is None:
            return f'<div class="oc-run-head"><b>{safe(self.page.t("run.nothing"))}</b></div>'
        head = f'<div class="oc-run-head"><b>{safe(run.title)}</b>{runs.status_tag(self.page, run)}</div>'
        if run.status == "failed":
            return head + checklist([("bad", str(run.events[-1].get(f"message_{self.page.language}", "")))])
        if run.status == "interrupted":
            lines = [self.page.t("run.interrupted.note", step=run.step)]
            checkpoints = run.folder / "checkpoints"
            if any(checkpoints.glob("step-*")):
                lines.append(self.page.t("run.interrupted.saved", folder=checkpoints))
            return head + checklist(("warn", line) for line in lines)
        return head

    def draw_strip(self, run_id: str) -> str:
        """Progress, loss, hits, time left, memory."""
        run = self._run(run_id)
        if run is None or not run.events:
            return stat_strip(self.page.language)
        total = self.page.workspace.status().memory_total
        return stat_strip(self.page.language, **_numbers(run), memory_bytes=total)

    def draw_probes(self, run_id: str) -> str:
        """The fixed questions and their answers at each probing."""
        run = self._run(run_id)
        probings = [event for event in run.events if event["type"] == "probed"] if run else []
        return probe_table(probings, self.page.language)

    def _run(self, run_id: str) -> Run | None:
        return next((run for run in self.page.workspace.runs() if run.id == run_id), None)


def _curve(events: Sequence[Event], start: int) -> list[tuple[float, float, float]]:
    """(step, loss, smoothed loss) of the steps from event `start` on; the smoothing knows all those before."""
    steps = [(i, event) for i, event in enumerate(events) if event["type"] == "step"]
    smoothed = smooth([float(event["loss"]) for _, event in steps])
    pairs = zip(steps, smoothed, strict=True)
    return [(int(event["step"]), float(event["loss"]), value) for (i, event), value in pairs if i >= start]


def _numbers(run: Run) -> dict[str, object]:
    """What the strip shows of a run with events."""
    done = [event for event in run.events if event["type"] == "step"]
    if not done:
        return {"steps": run.steps, "hits": run.hits}
    first, last, recent = done[0], done[-1], done[-10:]
    pace = sum(float(e["seconds"]) for e in recent) / len(recent)
    ended = run.last("finished") or run.last("stopped")
    return {
        "step": run.step,
        "steps": run.steps,
        "loss": last["loss"],
        "first_loss": first["loss"],
        "hits": run.hits,
        "seconds_left": pace * (run.steps - run.step) if run.status == "running" else None,
        "seconds_taken": ended.get("seconds") if ended else None,
        "seconds_per_step": pace,
        "peak_memory_bytes": max(float(e["peak_memory_bytes"]) for e in done),
    }
