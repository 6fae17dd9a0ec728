"""Where a proof's lights change, measured: adapters of known quality on the pocket model, and the lights they get.

    python tests/bench/calibrate.py --out lights.jsonl [--only null good wrecked] [--seeds 0 1 2] [--jobs 2 --threads 1]
    python tests/bench/calibrate.py --table lights.jsonl
    python tests/bench/calibrate.py --ruler

The first trains and proves each case through the product's own path, and asks the 480 held-out general questions of
presets/pocket/evaluate.py beside it, which no light knows; lines that are there already are not measured again. The
ruler gives the drift that rounding the base's weights to fewer bits brings, on the very texts of the proof.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pocket

from core import adapters, models, proof_kept, proof_subject
from core import config as settings
from core.config import TrainConfig
from core.engine import Engine
from core.errors import DivergedError
from core.models import POCKET
from core.presets import preset
from core.proof import Kind, Proof
from core.proof_parts import LIMITS, Moved
from core.proof_stats import Flips, Light, light, light_of_flips, place, read_count, worst
from core.proof_words import REFERENCES, TESTS
from core.prove import prove
from core.run import Run
from core.starter import starter_sets
from core.train import train

if TYPE_CHECKING:
    import torch

# Changes to the pocket preset. "null" is never trained: its second matrix is zero, so it is the base.
CASES: dict[str, dict[str, str]] = {
    "null": {},
    "good": {"rehearsal": "normal"},
    "strong": {"rehearsal": "strong"},
    "unguarded": {"rehearsal": "off"},
    "short": {"max_steps": "12", "min_steps": "0", "rehearsal": "normal"},
    "gentle": {"learning_rate": "1e-3", "rehearsal": "off"},
    "warm": {"learning_rate": "3e-3", "rehearsal": "off"},
    "warmer": {"learning_rate": "4e-3", "rehearsal": "off"},
    "hot": {"learning_rate": "6e-3", "rehearsal": "off"},
    "wrecked": {"learning_rate": "4e-2", "num_train_epochs": "30", "rehearsal": "off"},
    "articles": {"learning_rate": "1e-4", "gradient_accumulation_steps": "16", "min_steps": "0", "rehearsal": "off"},
}
BASE = {"stop_when_taken": "false", "prove": "false", "probe_steps": "0"}


@dataclass(frozen=True)
class Line:
    """One case under one seed on one table."""

    case: str
    dataset: str
    seed: int
    steps: int
    train_seconds: float
    prove_seconds: float
    base_seconds: float
    again_seconds: float  # with the base's answers on disk
    light: str
    headline: str
    ruler: str
    tests: dict[str, dict[str, object]]
    general_before: str
    general_after: str
    passages: dict[str, float]  # ordinary texts, which the pocket suite leaves out
    threads: int


def measured(case: str, name: str, seed: int) -> Line:
    """Train, prove twice (the second time the base's answers are known), ask the general questions."""
    import torch

    table = next(table for table in starter_sets() if table.name == name)
    card = table.identity
    config = settings.build({**BASE, **CASES[case], "seed": str(seed)}, preset("pocket").for_model(POCKET).config)
    config = replace(
        config, model_name=f"{card.name_zh}|{card.name_en}", model_author=f"{card.author_zh}|{card.author_en}"
    )
    engine = Engine()
    engine.load(POCKET)
    with tempfile.TemporaryDirectory() as home:
        run = Run.create(Path(home) / "run", config, table.resolved(), name, name)
        begun = time.perf_counter()
        _train(engine, run, case, config)
        seconds = time.perf_counter() - begun
        old = models.old_words(models.inspect(POCKET))
        subject = proof_subject.of_run(run, run.folder / "adapter", run.step, run.id, old, ())
        proofs = [prove(engine, subject, Path(home)) for _ in range(2)]
        passages = _passages(engine, run.id)
        before, after = (pocket.general(engine, adapter).general for adapter in (None, run.id))
    first, again = proofs
    assert first is not None and again is not None and _same(first, again)
    return Line(
        case, name, seed, run.step, round(seconds, 1), round(first.seconds, 2), round(first.base_seconds, 2),
        round(again.seconds, 2), first.light, first.headline.en, first.ruler.en, _tests(first),
        "/".join(map(str, before)), "/".join(map(str, after)), passages, torch.get_num_threads(),
    )  # fmt: skip


def _train(engine: Engine, run: Run, case: str, config: TrainConfig) -> None:
    if case == "null":
        engine.create_adapter(run.id, config)
        engine.save_adapter(run.id, run.folder / "adapter", {})
        return
    try:
        train(engine, run, threading.Event())
    except DivergedError:  # what it had learned until then is saved as a checkpoint
        from core import checkpoints

        step, folder = checkpoints.saved(run)[-1]
        engine.attach(adapters.read(folder, run.id))
        folder.rename(run.folder / "adapter")
        print(f"{run.title}: diverged after step {step}", file=sys.stderr)


def _passages(engine: Engine, adapter: str) -> dict[str, float]:
    """What `text` would be counted from: change of the loss and drift, nats a token."""
    from core.encode import Example
    from core.proof_sets import items
    from core.score import score

    assert engine.resident is not None
    texts = [tuple(engine.resident.encoder.plain(item.text)) for item in items("passage")][::2]
    scored = score(engine, adapter, [Example(ids, ids) for ids in texts])
    moved = [Moved(item, (), "", "", one) for item, one in zip(items("passage")[::2], scored, strict=True)]
    return dict(proof_kept.reads(moved, "full").numbers)


def _same(first: Proof, again: Proof) -> bool:
    """Whether the second proof says what the first did."""
    return [(test.id, test.light, test.hits) for test in first.tests] == [
        (test.id, test.light, test.hits) for test in again.tests
    ]


def _tests(proof: Proof) -> dict[str, dict[str, object]]:
    return {
        test.id: {
            "light": test.light, "hits": test.hits, "n": test.n, "before": test.before, "numbers": dict(test.numbers),
            "failed": [(r.item, r.messages[-1].content, r.after) for r in test.readings if r.ok is False][:3],
        }
        for test in proof.tests
    }  # fmt: skip


def _measured(job: tuple[str, str, int, int]) -> Line:
    import torch

    case, name, seed, threads = job
    if threads:
        torch.set_num_threads(threads)
    return measured(case, name, seed)


def run_all(out: Path, cases: list[str], tables: list[str], seeds: list[int], jobs: int, threads: int) -> None:
    """Measure what is not in `out` yet."""
    done = {(line["case"], line["dataset"], line["seed"]) for line in _lines(out)}
    wanted = [(case, name, seed, threads) for seed in seeds for name in tables for case in cases]
    left = [job for job in wanted if job[:3] not in done]
    with ProcessPoolExecutor(jobs, max_tasks_per_child=1) as pool, out.open("a", encoding="utf-8") as file:
        for line in pool.map(_measured, left):
            file.write(json.dumps(asdict(line), ensure_ascii=False) + "\n")
            file.flush()
            print(line.case, line.dataset, line.seed, line.light, line.headline, flush=True)


def _lines(path: Path) -> Iterator[dict[str, object]]:
    if path.is_file():
        yield from (json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text)


def table(path: Path) -> None:
    """The lines as a Markdown table, with the lights of the limits in force."""
    signs = {"green": "🟢", "yellow": "🟡", "red": "🔴", "none": "⚪"}
    kinds: tuple[Kind, ...] = ("took", "generalises", "lane", "drift", "choice", "refuses")
    print(f"| case (seed) | verdict | {' | '.join(TESTS[kind].en for kind in kinds)} | general, 480 | ruler |")
    print("|" + " --- |" * (len(kinds) + 4))
    for line in _lines(path):
        tests: Mapping[str, Mapping[str, object]] = line["tests"]  # type: ignore[assignment]
        lights = {kind: _light(kind, tests[kind]) for kind in kinds}
        cells = [_cell(signs[lights[kind]], kind, tests[kind]) for kind in kinds]
        numbers: Mapping[str, float] = tests["drift"]["numbers"]  # type: ignore[assignment]
        found = place(numbers["drift"], REFERENCES["pocket"]).text.en.removeprefix("Unrelated answers moved ")
        print(
            f"| {line['case']} ({line['seed']}) | {signs[worst(lights.values())]} | {' | '.join(cells)} | "
            f"{line['general_before']} → {line['general_after']} | {found} |"
        )


def _light(kind: Kind, test: Mapping[str, object]) -> Light:
    """The light of a stored test, as core.proof_taken and core.proof_kept find it."""
    limits, hits, n, before = LIMITS["pocket"], *(int(str(test[key] or 0)) for key in ("hits", "n", "before"))
    numbers: Mapping[str, float] = test["numbers"]  # type: ignore[assignment]
    if kind == "took":
        return worst((read_count(hits, n, limits.took).light, light(numbers.get("preferred"), limits.preferred)))
    if kind == "generalises":
        shown = read_count(hits, n, limits.generalises).light
        return worst((shown, "yellow" if numbers["gap"] > 100 * limits.gap else "none"))
    if kind == "drift":
        return worst((light(numbers["drift"], limits.drift), light(numbers["same"], limits.same)))
    lost, won = round(numbers["lost"]), round(numbers.get("won", 0))
    if kind == "choice":
        return light_of_flips(Flips(before - lost, lost, won, n - before - won), limits.flips)
    if kind == "lane":
        bad = lost + round(numbers["leaks"])
        return "green" if bad <= limits.lane[0] else "red" if bad >= limits.lane[1] else "yellow"
    new = round(numbers["over_refused"])
    fine = lost <= limits.refuses[0] and new <= limits.refuses[1]
    return "green" if fine else "red" if lost + new >= limits.refuses[2] else "yellow"


def _cell(sign: str, kind: str, test: Mapping[str, object]) -> str:
    numbers: Mapping[str, float] = test["numbers"]  # type: ignore[assignment]
    if kind == "drift":
        return f"{sign} KL {numbers['drift']:.2g}, same {100 * numbers['same']:.1f} %"
    if kind == "lane":
        return f"{sign} {numbers['leaks']:.0f} leaks, {numbers['lost']:.0f} lost"
    return f"{sign} {test['hits']}/{test['n']}"


def ruler() -> None:
    """Drift of the pocket model with its linear layers rounded to fewer bits, in blocks of 32 with a scale each."""
    from core.dataset import Identity
    from core.proof_subject import Subject

    for bits in (8, 6, 5, 4, 3, 2):
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home) / "adapter"
            _rounding_adapter(folder, bits)
            engine = Engine()
            engine.load(POCKET)
            engine.attach(adapters.read(folder, "rounded"))
            proof = prove(
                engine, Subject("rounded", f"{bits} bits", Identity(), None, TrainConfig().system), Path(home)
            )
            assert proof is not None
            print(
                json.dumps(
                    {
                        "bits": bits,
                        **{
                            test.id: dict(test.numbers) | {"hits": f"{test.hits}/{test.n}"}
                            for test in proof.tests
                            if test.n
                        },
                    }
                ),
                flush=True,
            )


def _rounding_adapter(folder: Path, bits: int) -> None:
    """An adapter of full rank that adds to each linear layer what rounding its weights would change."""
    import torch

    engine = Engine()
    engine.load(POCKET)
    with engine.turn() as resident:
        layers = [
            (name, module.weight.detach().clone())
            for name, module in resident.backend.model.named_modules()  # type: ignore[attr-defined]
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name
        ]
    rank = max(min(weight.shape) for _, weight in layers)
    config = TrainConfig(model=POCKET, lora_rank=min(512, rank), lora_alpha=min(512, rank))
    engine.create_adapter("rounded", config)
    with engine.turn() as resident:
        tensors, _ = resident.backend.adapter_state(engine.handle("rounded"))
        filled = {key: value.detach().clone() for key, value in tensors.items()}
        for name, weight in layers:
            change = _rounded(weight.float(), bits) - weight.float()
            left, values, right = torch.linalg.svd(change, full_matrices=False)
            a, b = (next(key for key in filled if f"{name}.lora_{side}." in key) for side in "AB")
            for key, value in ((a, right), (b, left * values)):
                filled[key].zero_()
                filled[key][: value.shape[0], : value.shape[1]] = value
        resident.backend.load_adapter_state(engine.handle("rounded"), filled)
    engine.save_adapter("rounded", folder, {})


def _rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    blocks = weight.reshape(-1, 32)
    scale = blocks.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return ((blocks / scale.clamp(min=1e-12)).round() * scale).reshape(weight.shape)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    arguments.add_argument("--dataset", nargs="*", default=["identity-50"])
    arguments.add_argument("--seeds", nargs="*", type=int, default=[42])
    arguments.add_argument("--jobs", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=0)
    arguments.add_argument("--table", type=Path)
    arguments.add_argument("--ruler", action="store_true")
    parsed = arguments.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if parsed.ruler:
        ruler()
    if parsed.out:
        run_all(parsed.out, parsed.only, parsed.dataset, parsed.seeds, parsed.jobs, parsed.threads)
    if parsed.table or parsed.out:
        table(parsed.table or parsed.out)


if __name__ == "__main__":
    main()
