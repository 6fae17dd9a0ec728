"""Records of training measurements, ours and other systems' -> Markdown tables with ratios to the best peer.

Reads JSON lines. Ours say `system`, `workload` and `base`; other systems' lines are told by their tag
(`hf-lora-w1`, `unsloth-qlora-w2a`): w1 headline, w2* long, w4 mixed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

Record = dict[str, object]
OURS, PLAIN = "OneCard", "plain"
_PEERS = {"hf": "transformers + PEFT", "swift": "ms-swift", "unsloth": "Unsloth", "lf": "LLaMA-Factory"}
_WORKLOADS = {"w1": "headline", "w2": "long", "w4": "mixed"}


@dataclass(frozen=True)
class Line:
    """One row of the speed table: the median run of those measured alike."""

    workload: str
    base: str
    system: str
    kind: str  # "ours", "peer", "plain" (in our own process) or "other"
    runs: int
    spread: float  # (slowest - fastest) / median of the loop
    steps: int
    loop: float
    step: float
    speed: float
    memory: tuple[float, float, float] | None  # GiB: torch allocated, torch reserved, whole card
    adapter: float = 0.0  # seconds from Start to the adapter on disk, base resident
    failed: str = ""


def read(paths: Iterable[Path]) -> list[Record]:
    """All records of the files, in order."""
    return [
        json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def render(records: Sequence[Record]) -> str:
    """Markdown: speed and memory, then the estimate beside the measured peak, then Start to answer; what there is."""
    parts = [_speeds(lines(records)), _estimates(records), _clicks(records), _curves(records)]
    return "\n\n".join(part for part in parts if part) + "\n"


def lines(records: Sequence[Record]) -> list[Line]:
    """The speed table's rows; records measured alike are one row."""
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        key = _key(record)
        if key is not None:
            groups.setdefault(key, []).append(record)
    order = {"peer": 0, "other": 1, "plain": 2, "ours": 3}
    found = [_line(key, group) for key, group in groups.items()]
    return sorted(found, key=lambda x: (list(_WORKLOADS.values()).index(x.workload), x.base, order[x.kind], x.speed))


def best_peer(found: Sequence[Line], workload: str, base: str) -> Line | None:
    """The fastest other system on the same work; without one, the plain loop of our own process."""
    for kind in ("peer", "plain"):
        rivals = [x for x in found if (x.workload, x.base, x.kind) == (workload, base, kind) and not x.failed]
        if rivals:
            return max(rivals, key=lambda x: x.speed)
    return None


def _key(record: Record) -> tuple[str, str, str, str] | None:
    """(workload, base, system, kind) of a record of the speed table, None for any other."""
    if "system" in record:
        if record.get("what") != "loop":
            return None
        kind = "ours" if record["system"] == OURS else "plain"
        notes = [str(record["system"]), *(str(note) for note in _listed(record.get("notes")))]
        return str(record["workload"]), str(record["base"]), ", ".join(notes), kind
    tag = str(record.get("tag", ""))
    match = re.search(r"-(w[124])(\w*)", tag)
    if match is None or "steady_tok_s" not in record:
        return None
    before, after = tag[: match.start()], tag[match.end() :].strip("-")
    name = re.split(r"[-+]", before)[0]
    details = [part for part in (before.removeprefix(name).strip("-").replace("lora", "").strip("q-"), after) if part]
    arguments = record.get("args")
    checkpointing = arguments.get("gc") if isinstance(arguments, dict) else None
    if checkpointing is not None:
        details.append("checkpointing" if checkpointing else "no checkpointing")
    label = ", ".join([_PEERS.get(name, name), *details, *([f"variant {match[2]}"] if match[2] else [])])
    base = "NF4" if "qlora" in before or "nf4" in before else "bf16"
    return _WORKLOADS[match[1]], base, label, "peer" if name in _PEERS else "other"


def _line(key: tuple[str, str, str, str], group: Sequence[Record]) -> Line:
    good = sorted((r for r in group if "steady_tok_s" in r), key=lambda r: _number(r, "train_loop_s"))
    if not good:
        return Line(*key, len(group), 0, 0, 0, 0, 0, None, failed=str(group[-1].get("failed", "failed")))
    middle = good[(len(good) - 1) // 2]
    loops = [_number(r, "train_loop_s") for r in good]
    peak = middle.get("peak")
    memory = None
    if isinstance(peak, dict) and peak:
        memory = (float(peak["alloc_gib"]), float(peak["reserved_gib"]), _number(middle, "card_peak_gib"))
    return Line(
        *key,
        runs=len(good),
        spread=(loops[-1] - loops[0]) / max(1e-9, _number(middle, "train_loop_s")),
        steps=int(_number(middle, "n_steps")),
        loop=_number(middle, "train_loop_s"),
        step=_number(middle, "steady_step_s"),
        speed=_number(middle, "steady_tok_s"),
        memory=memory,
        adapter=_number(middle, "start_to_adapter_s"),
    )


def _speeds(found: Sequence[Line]) -> str:
    if not found:
        return ""
    rows = []
    for x in found:
        if x.failed:
            rows.append([x.workload, x.base, x.system, f"failed: {x.failed}", *[""] * 7])
            continue
        rival = best_peer(found, x.workload, x.base) if x.kind == "ours" else None
        faster = f"**{x.speed / rival.speed:.2f}**" if rival else ""
        shorter = f"{rival.loop / x.loop:.2f}" if rival and rival.steps == x.steps else ""
        memory = "/".join(f"{value:.2f}" for value in x.memory if value) if x.memory else ""
        runs = f"{x.runs} ({x.spread:.0%})" if x.runs > 1 else "1"
        rows.append([x.workload, x.base, x.system, str(x.steps), f"{x.loop:.2f}", f"{x.step:.4f}", f"{x.speed:,.0f}",
                     memory, f"{x.adapter:.2f}" if x.adapter else "", faster, shorter, runs])  # fmt: skip
    head = ["work", "base", "system", "steps", "loop s", "s/step", "tok/s", "GiB allocated/reserved/card", "Start to adapter s",
            "tok/s ÷ best peer", "peer loop ÷ ours", "runs (spread)"]  # fmt: skip
    return _markdown(head, rows)


def _estimates(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        if record.get("what") != "estimate":
            continue
        head = [str(record[key]) for key in ("preset", "base", "shape", "rank", "asked")]
        if "failed" in record:
            rows.append([*head, f"failed: {record['failed']}", "", "", "", ""])
            continue
        expected = _number(record, "estimate_bytes") / 2**30
        measured = _number(record, "measured_gib")
        error = f"{expected / measured - 1:+.1%}" if measured else ""
        shown = f"{measured:.2f}" if measured else "no card"
        rows.append([*head, str(record["way"]), str(record["max_tokens"]), f"{expected:.2f}", shown, error])
    head = ["preset", "base", "rows x tokens", "rank", "recompute asked", "given up", "tokens a pass", "estimate GiB",
            "measured GiB", "error"]  # fmt: skip
    return _markdown(head, rows) if rows else ""


def _clicks(records: Sequence[Record]) -> str:
    keys = ("base", "click_to_adapter_s", "click_to_first_token_s", "click_to_answer_s", "answer_tokens",
            "click_to_finished_s")  # fmt: skip
    rows = [[str(record[key]) for key in keys] for record in records if record.get("what") == "click"]
    head = [
        "base",
        "Start to adapter on disk s",
        "to first tuned token s",
        "to the answer s",
        "its tokens",
        "to the end s",
    ]
    return _markdown(head, rows) if rows else ""


def _curves(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        differences = record.get("differences")
        if record.get("what") == "losses" and isinstance(differences, dict):
            rows += [
                [str(record["base"]), pair, f"{d['mean']:.2e}", f"{d['max']:.2e}"] for pair, d in differences.items()
            ]
    return _markdown(["base", "loss curves", "mean absolute difference", "largest"], rows) if rows else ""


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(record: Record, key: str) -> float:
    return float(str(record.get(key) or 0))


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []
