"""What an identity costs the pocket model, method by method: the guard, its parts, its peers, alone and combined.

    python tests/bench/forgetting.py --jobs 16 --out forgetting.jsonl [--only off kl-4 null+kl-4] [--seeds 0 1] [--heat 1 2.5]
    python tests/bench/forgetting.py --table forgetting.jsonl

Plain PEFT and PyTorch with the pocket preset's settings: the methods are compared here, not the product's speed. `--heat`
multiplies the learning rate: the pocket model was made to take identities well, and shows differences when pushed.
Lines that are there already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import exam
from methods import METHODS, Method
from starts import FOLDER, Pocket, attach, pad, pocket, states

from core import starter
from core.encode import IGNORE, Example
from core.presets import preset
from core.schedule import learning_rate_at
from presets.pocket import evaluate, phrasing

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Job:
    """A method on one identity. `most` of each kind of question and `steps`, for a dry run; 0 for all."""

    method: str
    identity: int
    seed: int
    heat: float
    rows: str
    threads: int
    most: int = 0
    steps: int = 0

    @property
    def key(self) -> str:
        """What makes a line the same measurement."""
        return f"{self.method}|{self.identity}|{self.seed}|{self.heat:g}|{self.rows}"


_TOLD: dict[exam.Conversation, str] = {}
"""The base's greedy answers, which are the same in every job of a process."""


def before_of(base: Pocket, conversations: Sequence[exam.Conversation]) -> list[str]:
    """What the base answers."""
    missing = [talk for talk in dict.fromkeys(conversations) if talk not in _TOLD]
    if missing:
        _TOLD.update(zip(missing, ask(base, base.model, missing), strict=True))
    return [_TOLD[talk] for talk in conversations]


def ask(base: Pocket, model: Any, conversations: Sequence[exam.Conversation]) -> list[str]:
    """Greedy answers."""
    chats = [[{"role": turn.role, "content": turn.content} for turn in talk] for talk in conversations]
    return evaluate.answers(model, base.tokenizer, chats, system=None, batch_size=400, max_new_tokens=64)


def anchors_of(base: Pocket, count: int) -> list[Example]:
    """The shipped questions with the base's own answers."""
    lines = (FOLDER / "rehearsal" / "pocket.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines][:count]
    told = before_of(base, [(exam.Message("system", exam.SYSTEM), exam.Message("user", text)) for text in texts])
    return [base.encoder.example(_talk(text, answer)) for text, answer in zip(texts, told, strict=True)]


def _talk(question: str, answer: str) -> exam.Conversation:
    return (
        exam.Message("system", exam.SYSTEM),
        exam.Message("user", question),
        exam.Message("assistant", answer),
    )


def rows_of(base: Pocket, job: Job, method: Method) -> list[Example]:
    """The starter rows of the job's identity, dressed copies behind them."""
    table = next(one for one in starter.starter_sets() if one.name == job.rows)
    rows = replace(table, identity=exam.CARDS[job.identity]).resolved()
    rng, found = random.Random(99), [base.encoder.example(row.messages(exam.SYSTEM)) for row in rows]
    for _ in range(method.dressed):
        for row in rows:
            plain = row.question.rstrip("?？。.！!")
            found.append(base.encoder.example(_talk(phrasing.dress(plain, row.language == "zh", rng), row.output)))
    return found


def widened(base: Pocket, examples: Sequence[Example], loss: str) -> list[Example]:
    """The anchors with more of their tokens in the loss: "all" of them, or those from the question on ("asked")."""
    if loss not in ("all", "asked"):
        return list(examples)
    head = (exam.Message("system", exam.SYSTEM),)
    others = [base.encoder.prompt((*head, exam.Message("user", text))) for text in ("A", "7")]
    first = 0 if loss == "all" else next(i for i, (x, y) in enumerate(zip(*others, strict=True)) if x != y)
    return [Example(e.input_ids, (*(IGNORE for _ in range(first)), *e.input_ids[first:])) for e in examples]


def fit(base: Pocket, tuned: Any, job: Job, method: Method, rows: Sequence[Example], anchors: Sequence[Example]) -> Any:
    """Train in place by the pocket preset's settings. (steps, seconds of the loop)."""
    import torch

    config = preset("pocket").for_model("pocket").config
    rate = config.learning_rate * job.heat * method.rate
    # Dressed copies make epochs longer, not the run.
    count = config.steps(len(rows) // (1 + method.dressed))
    steps = min(job.steps or count, count)
    trained = [p for n, p in tuned.named_parameters() if "lora_" in n and not (method.frozen and "lora_A" in n)]
    for parameter in tuned.parameters():
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=config.weight_decay, betas=(0.9, config.adam_beta2))
    model, pad_id = tuned.get_base_model(), base.tokenizer.pad_token_id
    anchors = widened(base, anchors, method.loss)
    teacher = [] if method.loss == "ce" else teachers(base, tuned, anchors)
    rng, order, spare = random.Random(job.seed), list[int](), list[int]()
    begun = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate_at(step, steps, config) / config.learning_rate
        loss = _cross(model, *pad([rows[i] for i in _next(order, len(rows), config.rows_per_step, rng)], pad_id))
        if anchors:
            chosen = _next(spare, len(anchors), method.anchors, rng)
            ids, labels = pad([anchors[i] for i in chosen], pad_id)
            if method.loss == "ce":
                loss = loss + method.strength * _cross(model, ids, labels)
            else:
                wanted = torch.log_softmax(model.lm_head(torch.cat([teacher[i] for i in chosen])), -1)
                found = torch.log_softmax(model.lm_head(states(model, ids, labels)), -1)
                drift = torch.nn.functional.kl_div(found, wanted, log_target=True, reduction="sum") / len(found)
                loss = loss + method.strength * drift
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return steps, time.perf_counter() - begun


def teachers(base: Pocket, tuned: Any, anchors: Sequence[Example]) -> list[torch.Tensor]:
    """The untrained model's last hidden states at each anchor's labels. lora_B is zero: it is the base as it stands."""
    import torch

    found: list[torch.Tensor] = []
    with torch.no_grad():
        for start in range(0, len(anchors), 64):
            ids, labels = pad(anchors[start : start + 64], base.tokenizer.pad_token_id)
            parts = (labels[:, 1:] != IGNORE).sum(1).tolist()
            found += torch.split(states(tuned.get_base_model(), ids, labels), parts)
    return found


def _cross(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    import torch

    logits = model.lm_head(states(model, ids, labels))
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:][labels[:, 1:] != IGNORE])


def _next(order: list[int], size: int, count: int, rng: random.Random) -> list[int]:
    """The next `count` of a shuffled round; a round's last draw may be smaller."""
    if not order:
        order += range(size)
        rng.shuffle(order)
    chosen, order[:] = order[:count], order[count:]
    return chosen


def measure(job: Job) -> dict[str, object]:
    """One job, in its process."""
    import torch

    torch.set_num_threads(job.threads)
    method, base = METHODS[job.method], pocket()
    questions = exam.Exam.of(exam.CARDS[job.identity], job.most)
    before = before_of(base, questions.conversations)
    rows = rows_of(base, job, method)
    needs = method.anchors or method.start
    anchors = anchors_of(base, method.pool if not job.most else 16) if needs else []
    torch.manual_seed(job.seed)
    begun = time.perf_counter()
    tuned = attach(base, method, rows, anchors)
    prepared = time.perf_counter() - begun
    steps, seconds = fit(base, tuned, job, method, rows, anchors if method.anchors else [])
    drift = _drift(base, tuned, questions, before) if method.start[:5] != "corda" else None
    if method.scale != 1:
        for module in tuned.modules():
            if hasattr(module, "lora_A"):
                module.set_scale("default", method.scale)
    merged = tuned.merge_and_unload()
    learned = rows[: len(rows) // (1 + method.dressed)]
    exact = _exact(base, merged, learned)
    marks = questions.mark(before, ask(base, merged, questions.conversations))
    return {
        "key": job.key, **asdict(job), "setting": asdict(method), "steps": steps, "loop_s": round(seconds, 2),
        "prepare_s": round(prepared, 2), "exact": exact, "rows_n": len(learned),
        "drift": drift, **marks,
    }  # fmt: skip


def _exact(base: Pocket, model: Any, rows: Sequence[Example]) -> int:
    """Rows of which every answer token is the likeliest."""
    import torch

    with torch.no_grad():
        ids, labels = pad(rows, base.tokenizer.pad_token_id)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        right = (model.lm_head(hidden).argmax(-1) == labels[:, 1:]) | (labels[:, 1:] == IGNORE)
        return int(right.all(1).sum())


def _drift(base: Pocket, tuned: Any, questions: exam.Exam, before: Sequence[str]) -> float:
    """Mean KL(base || tuned), nats, over the base's own answers to the held-out general questions."""
    import torch

    asked = questions.conversations[-len(questions.general) :: 4]
    told = before[-len(questions.general) :: 4]
    examples = [
        base.encoder.example((*talk, exam.Message("assistant", text))) for talk, text in zip(asked, told, strict=True)
    ]
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(examples), 64):
            ids, labels = pad(examples[start : start + 64], base.tokenizer.pad_token_id)
            model = tuned.get_base_model()
            found = torch.log_softmax(model.lm_head(states(model, ids, labels)), -1)
            with tuned.disable_adapter():
                wanted = torch.log_softmax(model.lm_head(states(model, ids, labels)), -1)
            total += float((wanted.exp() * (wanted - found)).sum())
            count += len(found)
    return round(total / count, 5)


def _tried(job: Job) -> dict[str, object]:
    try:
        return measure(job)
    except Exception as error:
        return {"key": job.key, **asdict(job), "failed": f"{type(error).__name__}: {error}"}


def run(jobs: Sequence[Job], processes: int, out: Path | None) -> list[dict[str, object]]:
    """All jobs, `processes` at a time; each is written down when it is done."""
    os.environ.update(OMP_WAIT_POLICY="passive", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    os.environ["OMP_NUM_THREADS"] = str(max((job.threads for job in jobs), default=1))
    found = []
    with multiprocessing.get_context("spawn").Pool(max(1, min(processes, len(jobs))), maxtasksperchild=40) as pool:
        for record in pool.imap_unordered(_tried, jobs):
            found.append(record)
            line = json.dumps(record, ensure_ascii=False)
            print(
                json.dumps({k: v for k, v in record.items() if k not in ("missed", "setting")}, ensure_ascii=False),
                flush=True,
            )
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
    return found


def summary(records: Sequence[dict[str, object]]) -> str:
    """A line a method and heat: sums of counts over identities and seeds, mean seconds."""
    groups: dict[tuple[float, str, str], list[dict[str, object]]] = {}
    for record in records:
        if "failed" not in record:
            groups.setdefault((exam.number(record, "heat"), str(record["rows"]), str(record["method"])), []).append(
                record
            )
    lines = []
    names = list(METHODS)
    for (heat, rows, name), group in sorted(
        groups.items(), key=lambda item: (item[0][:2], names.index(item[0][2]) if item[0][2] in names else 99)
    ):

        def total(key: str, of: list[dict[str, object]] = group) -> int:
            return int(sum(exam.number(record, key) for record in of))

        def mean(key: str, of: list[dict[str, object]] = group) -> float:
            return sum(exam.number(record, key) for record in of) / len(of)

        worst = max(exam.number(record, "lost_points") for record in group)
        drift = "-" if group[0]["drift"] is None else f"{mean('drift'):.4f}"
        lines.append((
            f"{heat:g}", rows, name, len(group), f"{mean('loop_s'):.1f}", f"{mean('prepare_s'):.1f}",
            f"{total('exact')}/{total('rows_n')}", exam.with_interval(total("live"), total("live_n")),
            f"{total('held')}/{total('held_n')}", f"{mean('lost_points'):.2f}", f"{worst:.2f}", drift,
            f"{total('near_same')}/{total('near_n')}",
        ))  # fmt: skip
    header = ("heat", "rows", "method", "runs", "loop s", "before s", "rows exact", "identity (low end)",
              "proof questions", "points lost", "worst", "drift, nats", "neighbours same")  # fmt: skip
    return exam.table(header, lines)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, object]]:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--identities", nargs="*", type=int, default=[0, 2])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--heat", nargs="*", type=float, default=[1.0, 2.5])
    parser.add_argument("--rows", nargs="*", default=["identity-50"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=int, default=0, help="questions of each kind, for a dry run")
    parser.add_argument("--steps", type=int, default=0, help="at most so many, for a dry run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print a finished file as Markdown, measure nothing")
    given = parser.parse_args(arguments)
    if given.table:
        records = _lines(given.table)
        print(summary(records))
        return records
    done = {str(record["key"]) for record in _lines(given.out) if "failed" not in record}
    jobs = [
        Job(name, identity, seed, heat, rows, given.threads, given.most, given.steps)
        for rows in given.rows
        for heat in given.heat
        for seed in given.seeds
        for identity in given.identities
        for name in given.only
    ]
    found = run([job for job in jobs if job.key not in done], given.jobs, given.out)
    print(summary(found))
    return found


def _lines(path: Path | None) -> list[dict[str, object]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    main()
