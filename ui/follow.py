"""A run as its page asks for it, again and again: what changed, and how that looks. Reads only.

Every function may be called by whoever sees the page, with any run id; an unknown one is an empty run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core import comparison_link, probed, remedies
from core.advice import Finding
from core.checkpoints import newest_step
from core.comparison_link import LinkedColumn
from core.proof_stats import place
from core.proof_words import REFERENCES
from core.run import Event, Run, counted
from core.text import Language, Text
from ui import findings, runs, scatter
from ui.how import draw_how, peak
from ui.page import Page
from ui.pieces import leading, safe, show_bytes
from ui.plots import downsample, smooth
from ui.probe_table import BASE, BEFORE, probe_table, stat_strip
from ui.probings import said_of_probings
from ui.suite import short_name, suite_of


class Follow:
    """`state`, `progress` and `probings` change when the html of the matching `draw_` function would."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._judged: tuple[object, list[Finding]] | None = None

    def metrics(self, asked: Mapping[str, object]) -> dict[str, object]:
        """The loss curve's news for ui.loss_chart: points, evaluations and probe steps after event `cursor`."""
        run = self._run(str(asked.get("run") or ""))
        if run is None:
            nothing: dict[str, object] = {"points": [], "eval": [], "probes": [], "drift": []}
            return {"run": "", "from": 0, "cursor": 0, "total_steps": 0, "state": "new", **nothing}
        cursor, end, language = asked.get("cursor"), len(run.events), self.page.language
        start = cursor if isinstance(cursor, int) and 0 <= cursor <= end else 0
        if any(event["type"] == "resumed" for event in run.events[start:end]):
            start = 0  # what was drawn of later steps does not count any more
        before = counted(run.events[:end])
        events = run.events[start:end] if start else before
        return {
            "run": run.id,
            "from": start,
            "cursor": end,
            "total_steps": run.steps,
            "points": downsample(_curve(before, sum(e["type"] == "step" for e in events))),
            "eval": [(e["step"], e["loss"]) for e in events if e["type"] == "evaluated"],
            "probes": [e["step"] for e in events if e["type"] == "probed"],
            "drift": [
                (e["step"], e["drift"], _place(run, e).of(language))
                for e in events
                if e["type"] == "probed" and e.get("drift") is not None
            ],
            "ruler": _ruler(run, language),
            "broken": int((run.ending or {}).get("broken_step") or 0),
            "state": run.status,
        }

    def state(self, run_id: str) -> str:
        """The run's status, and how often it was resumed or its passes had to be made smaller."""
        run = self._run(run_id)
        told = ("smaller_split", "resumed")
        if run is None:
            return ""
        kinds = "".join(finding.kind for finding in self._remedies(run))
        return f"{run.status} {run.starting} {sum(event['type'] in told for event in run.events)} {kinds}"

    def progress(self, run_id: str) -> str:
        """The run's status and how far it is."""
        run = self._run(run_id)
        return f"{run.status} {run.starting} {len(run.events)}" if run else ""

    def plan(self, run_id: str) -> str:
        """The run's status, how often its plan was made, and its peak memory as it is shown."""
        run = self._run(run_id)
        if run is None:
            return ""
        plans = sum(event["type"] in ("started", "resumed", "smaller_split") for event in run.events)
        return f"{run.status} {plans} {show_bytes(peak(run))}"

    def probings(self, run_id: str) -> str:
        """The run's status and how often it was asked the fixed questions."""
        run = self._run(run_id)
        return f"{run.status} {sum(event['type'] == 'probed' for event in run.history)}" if run else ""

    def points(self, run_id: str) -> str:
        """The run's status, its probings, and which of their adapters is in use."""
        run = self._run(run_id)
        return scatter.mark(run) if run else ""

    def draw_head(self, run_id: str) -> str:
        """Title and status; the cause, if the run did not end well or otherwise than planned."""
        run = self._run(run_id)
        if run is None:
            return f'<div class="oc-run-head"><b>{safe(self.page.t("run.nothing"))}</b></div>'
        tag = runs.status_tag(self.page, run)
        head = f'<div class="oc-run-head"><b>{safe(run.title)}</b>{tag}{self._next(run)}</div>'
        notes = [*self._damaged(run), *self._smaller(run), *self._ending(run)]
        return head + findings.draw(self.page, self._remedies(run), notes)

    def _next(self, run: Run) -> str:
        """The way on, once there is an adapter to talk to."""
        if run.status not in ("finished", "stopped") or run.adapter is None:
            return ""
        columns = comparison_link.write([LinkedColumn(), LinkedColumn(run.id)])
        return leading(self.page.t("next.compare"), go="compare", columns=columns)

    def _remedies(self, run: Run) -> list[Finding]:
        """What to change, with a button each that sets it in the form."""
        workspace = self.page.workspace
        proof = workspace.proofs.of(run.id)
        state = (run.id, run.status, len(run.events), None if proof is None else proof.created)
        if self._judged is None or self._judged[0] != state:  # asked every second, and a judgement reads the run's rows
            found = remedies.of_run(run, proof, lambda name: len(workspace.sources.rows(name)))
            self._judged = (state, found)
        return self._judged[1]

    def _damaged(self, run: Run) -> list[tuple[str, str]]:
        """Newer checkpoints that could not be read when the run went on."""
        event = run.last("resumed")
        if event is None or not event.get("damaged"):
            return []
        names = ", ".join(event["damaged"])
        return [("warn", self.page.t("run.damaged", names=names, step=event["step"]))]

    def _smaller(self, run: Run) -> list[tuple[str, str]]:
        """What was done when memory ran out, the last time."""
        event = run.last("smaller_split")
        if event is None:
            return []
        key = "run.smaller.recompute" if event["recompute"] else "run.smaller"
        return [("warn", self.page.t(key, step=int(event["step"]) + 1, tokens=f"{event['max_tokens']:,}"))]

    def _ending(self, run: Run) -> list[tuple[str, str]]:
        """Why the run ended, where that is not plain."""
        if run.status == "finished":
            text = str((run.ending or {}).get(f"reason_{self.page.language}") or "")
            return [("ok", text)] if text else []
        if run.status != "interrupted":
            return []
        t, saved = self.page.t, newest_step(run)
        if saved:
            lines = [t("run.interrupted.note", step=run.step, saved=saved)]
            lines.append(t("run.interrupted.saved", folder=run.folder / "checkpoints"))
        else:
            lines = [t("run.interrupted.anew", step=run.step)]
        if kept := [str(step) for step, _ in probed.saved(run.folder) if step > saved]:
            lines.append(t("run.interrupted.kept", steps=t("list.comma").join(kept)))
        return [("warn", line) for line in lines]

    def draw_strip(self, run_id: str) -> str:
        """Progress, loss, hits, time left, memory."""
        run = self._run(run_id)
        if run is None or not run.events:
            return stat_strip(self.page.language)
        device = self.page.workspace.engine.device
        # A run of another machine: nothing is known of the memory there but what was used of it.
        here = (run.first("started") or {}).get("device", device.name) == device.name
        memory = device.memory_total if here else None
        numbers = {**_numbers(run), "memory_bytes": memory, "card": device.kind == "cuda"}
        return stat_strip(self.page.language, **numbers)

    def draw_how(self, run_id: str) -> str:
        """How the run is carried out."""
        run = self._run(run_id)
        return draw_how(self.page, run) if run else ""

    def draw_probes(self, run_id: str) -> str:
        """The fixed questions and their answers at each probing."""
        run = self._run(run_id)
        probings = run.probings if run else []
        said = said_of_probings(self.page, run, probings) if run and probings else ""
        start = BASE if run is not None and run.config.adapters else BEFORE
        return said + probe_table(probings, self.page.language, start)

    def draw_points(self, run_id: str) -> str:
        """Identity hits against drift, a dot a probing."""
        run = self._run(run_id)
        return scatter.draw(self.page, run) if run else ""

    def _run(self, run_id: str) -> Run | None:
        return next((run for run in self.page.workspace.runs() if run.id == run_id), None)


def _ruler(run: Run, language: Language) -> list[tuple[float, str]]:
    """Changes that people know, of a model like the run's: (drift, short name)."""
    named = ((known.drift, short_name(known.name.of(language))) for known in REFERENCES[suite_of(run)])
    return [(drift, name) for drift, name in named if name]


def _place(run: Run, probing: Event) -> Text:
    """Where the drift of a probing stands on the ruler."""
    return place(float(probing["drift"]), REFERENCES[suite_of(run)]).text


def _curve(events: Sequence[Event], newest: int) -> list[tuple[float, float, float]]:
    """(step, loss, smoothed loss) of the `newest` last steps; the smoothing knows all those before."""
    steps = [event for event in events if event["type"] == "step"]
    smoothed = smooth([float(event["loss"]) for event in steps])
    pairs = list(zip(steps, smoothed, strict=True))[len(steps) - newest :]
    return [(int(event["step"]), float(event["loss"]), value) for event, value in pairs]


def _numbers(run: Run) -> dict[str, object]:
    """What the strip shows of a run with events."""
    done = [event for event in run.history if event["type"] == "step"]
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
        "seconds_left": pace * (run.steps - run.step) if run.status == "running" and not run.starting else None,
        "seconds_taken": ended.get("seconds") if ended and not run.starting else None,
        "seconds_per_step": pace,
        "peak_memory_bytes": peak(run),
    }
