"""How a run is carried out: one plain line, and what is behind it for those who open it. Values -> HTML."""

from __future__ import annotations

from core.config import TrainConfig
from core.run import Event, Run
from ui import fields
from ui.page import Page
from ui.pieces import safe, show_bytes

_PLANS = ("started", "resumed", "smaller_split")


def draw_how(page: Page, run: Run) -> str:
    """The line and its details; nothing before the run's first step is planned."""
    started = run.last("started")
    if started is None:
        return ""
    reason = _plain_reason(page, started)
    way = safe(page.t("how.fused" if reason is None else "how.plain"))
    line = "".join(f"<span>{safe(words)}</span>" for words in (reason, _memory(page, run)) if words)
    facts = _details(page, run, started, reason)
    parts = "".join(f"<dt>{safe(name)}</dt><dd>{safe(value)}</dd>" for name, value in facts)
    summary = f"<summary><b>{way}</b>{line}<i>{safe(page.t('how.more'))}</i></summary>"
    command = (
        f'<button type="button" class="oc-do" data-command-run="{safe(run.id)}">{safe(page.t("command.show"))}</button>'
    )
    return f'<details class="oc-how">{summary}<dl>{parts}</dl>{command}</details>'


def peak(run: Run) -> float:
    """The most memory that any step took, in bytes; 0 before the first."""
    steps = (event for event in run.history if event["type"] == "step")
    return max((float(str(event["peak_memory_bytes"])) for event in steps), default=0.0)


def _plain_reason(page: Page, started: Event) -> str | None:
    """Why the run does not take the fast path; None if it does, "" if an older run does not say."""
    if "plain_en" not in started:
        return ""
    reason = started[f"plain_{page.language}"]
    return None if reason is None else str(reason)


def _memory(page: Page, run: Run) -> str:
    """Peak and estimate, as far as they are known."""
    most, planned = peak(run), _newest(run, "memory_bytes")
    if not most and not planned:
        return ""
    key = "how.memory.both" if most and planned else "how.memory.peak" if most else "how.memory.estimate"
    estimate = show_bytes(float(str(planned)) if planned else None)
    said = page.t(key, peak=show_bytes(most or None), estimate=estimate)
    card = page.workspace.engine.device.kind == "cuda"
    return page.t("how.memory.card" if card else "how.memory", said=said)


def _newest(run: Run, field: str) -> object:
    """A field of the plan as it is by now: of the start, of the going on, or of a pass made smaller; None if unknown."""
    planned = (event for event in reversed(run.history) if event["type"] in _PLANS)
    return next((event[field] for event in planned if event.get(field) is not None), None)


def _details(page: Page, run: Run, started: Event, reason: str | None) -> list[tuple[str, str]]:
    t, config = page.t, run.config
    lines: list[tuple[str, str]] = []
    if reason != "":
        lines.append((t("how.way"), t("how.plain.note" if reason else "how.fused.note")))
    tokens, recompute = _newest(run, "max_tokens"), _recomputes(run)
    if tokens is not None:
        lines.append((t("how.passes"), t("how.passes.value", tokens=f"{tokens:,}")))
    if recompute is not None:
        lines.append((t("how.recompute"), t("how.recompute.some" if recompute else "how.recompute.none")))
    trained = f"{int(str(started['trainable_parameters'])):,}" if "trainable_parameters" in started else "–"
    lines.append((t("how.adapter"), t("how.adapter.value", rank=config.lora_rank, count=trained)))
    if config.adapters:
        lines.append((t("how.source"), _source(page, config.adapters)))
    rows = {
        "rows": started.get("rows", "–"),
        "each": started.get("rows_per_step", "–"),
        "held": started.get("held_out"),
    }
    lines.append((t("how.rows"), t("how.rows.held" if rows["held"] else "how.rows.value", **rows)))
    if (stamp := run.version) is not None:
        key = "history.data.value" if stamp.version else "history.data.given"
        said = t(key, name=run.dataset, number=stamp.version, digest=stamp.sha256[:12])
        lines.append((t("history.data"), said))
    lines += _sources(page, run)
    for which, cut in run.truncated.items():
        counts = {name: f"{cut[name]:,}" for name in ("left_out", "cut", "tokens_cut")}
        label = t("how.truncated.held" if which == "evaluation" else "how.truncated")
        lines.append((label, t("how.truncated.value", **counts)))
    odd, values = fields.changed(config, TrainConfig()), config.as_dict()
    if said := [fields.said(page.language, name, values[name]) for name in odd if name != "adapters"]:
        lines.append((t("how.changed"), t("list.comma").join(said)))
    lines.append((t("how.model"), config.model))
    name, cards = str(started.get("device", "–")), int(str(_newest(run, "cards") or 1))
    lines.append((t("how.device"), t("how.device.several", count=cards, name=name) if cards > 1 else name))
    return [*lines, (t("how.folder"), str(run.folder))]


def _sources(page: Page, run: Run) -> list[tuple[str, str]]:
    """Where the rows come from, as it was frozen: each source with what was taken of it, and the hash of them all."""
    frozen, t, said = run.sources, page.t, []
    if frozen is None:
        return []
    for part in frozen.parts:
        values = {"name": part.name, "rows": f"{part.rows:,}", "available": f"{part.available:,}"}
        if part.rows == part.available:
            said.append(t("how.mix.part", **values))
        elif part.kind == "table":
            said.append(t("how.mix.times", times=f"{part.repeat:g}", **values))
        else:
            said.append(t("how.mix.of", **values))
    return [(t("how.mix"), t("list.comma").join([*said, t("how.mix.hash", digest=frozen.sha256[:12])]))]


def _recomputes(run: Run) -> bool | None:
    """Whether layers are recomputed by now, None if unknown. A pass made smaller says so only where that was changed."""
    events = [event for event in run.history if event["type"] in _PLANS and "recompute" in event]
    stated = [bool(event["recompute"]) for event in events if event["type"] != "smaller_split"]
    if not stated:
        return None
    return stated[-1] or any(bool(event["recompute"]) for event in events if event["type"] == "smaller_split")


def _source(page: Page, folder: str) -> str:
    """The run that the adapter in `folder` is of, or the folder."""
    run = next((run for run in page.workspace.runs() if str(run.adapter) == folder), None)
    return folder if run is None else f"{run.title} · {run.id}"
