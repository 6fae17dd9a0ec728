"""The guard against forgetting: the base's own answers to shipped prompts, to which every step holds the adapter.

The resident base answers the prompts once; what it said is kept on disk. The divergence from its last hidden states at
their tokens (Example.teacher) is added to the loss. Prompts are shipped in presets/rehearsal; none is a held-out one.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from core import probes, storage
from core.base_answers import BaseAnswers, Said
from core.config import TrainConfig
from core.dataset import Message
from core.encode import IGNORE, Example
from core.engine import Engine
from core.models import is_pocket, old_words
from core.run import Run, Tell
from core.text import Language

if TYPE_CHECKING:
    from core.engine import Resident

FOLDER = Path(__file__).resolve().parent.parent / "presets" / "rehearsal"

_ANSWER_TOKENS = 64
_PASS_TOKENS = 512  # about what a step holds: no run was planned with more
_MOST_PROMPTS = 256


@dataclass(frozen=True)
class Strength:
    """`anchors`: answers a step for each row of it, from `least` to `most`; `weight`: their loss's, the rows' being 1."""

    anchors: float
    least: int
    most: int
    weight: float


# Measured in docs/forgetting.md.
STRENGTHS = {"normal": Strength(0.25, 2, 4, 0.3), "strong": Strength(0.5, 4, 8, 1.0)}


@dataclass(frozen=True)
class Prompt:
    """One shipped prompt. `system`: the system prompt that belongs to it, None where the run's own is used."""

    id: str
    language: Language
    kind: str
    text: str
    system: str | None = None

    def messages(self, system: str) -> tuple[Message, ...]:
        """The conversation up to the answer; `system` is the run's."""
        head = system if self.system is None else self.system
        return (*((Message("system", head),) if head else ()), Message("user", self.text))


class Rehearsal:
    """The anchors of one run; empty when the guard is off."""

    def __init__(self, anchors: Sequence[Example], config: TrainConfig) -> None:
        self.anchors, self._seed = anchors, config.seed
        self._strength = STRENGTHS.get(config.rehearsal, Strength(0, 0, 0, 0))
        self.per_step = anchors_per_step(config) if anchors else 0
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return len(self.anchors)

    def divergence(self, loss: float) -> float | None:
        """Mean KL from the base over the anchors' tokens, nats, of the rehearsal's part of a step's loss; None without any."""
        return loss / self._strength.weight if self.anchors else None

    def draw(self, step: int, answer_tokens: int) -> list[Example]:
        """Anchors for optimizer step `step` (from 0), whose rows have `answer_tokens`; by (seed, step) alone.

        Their weights make the mean divergence over the anchors' tokens count as the guard's strength says, beside the
        mean loss over the rows' tokens.
        """
        first = step * self.per_step
        chosen = [self.anchors[self._place(first + index)] for index in range(self.per_step)]
        taught = sum(example.answer_tokens for example in chosen)
        weight = self._strength.weight * answer_tokens / max(1, taught)
        return [replace(example, weight=weight) for example in chosen]

    def _place(self, number: int) -> int:
        """The `number`-th draw: all anchors in one shuffled order, then all in another."""
        round_, place = divmod(number, len(self.anchors))
        if self._order[0] != round_:
            order = list(range(len(self.anchors)))
            random.Random(f"rehearsal-{self._seed}-{round_}").shuffle(order)
            self._order = (round_, order)
        return self._order[1][place]


def anchors_per_step(config: TrainConfig) -> int:
    """How many anchors an optimizer step holds; 0 when the guard is off."""
    strength = STRENGTHS.get(config.rehearsal)
    if strength is None:
        return 0
    return min(strength.most, max(strength.least, round(strength.anchors * config.rows_per_step)))


def prompts(model: str) -> tuple[Prompt, ...]:
    """The shipped prompts for a base model, the first 256: the pocket model has its own, of what it can do."""
    name = "pocket" if is_pocket(model) else "general"
    return tuple(
        Prompt(
            str(line["id"]), cast(Language, line["language"]), str(line["kind"]), str(line["text"]), line.get("system")
        )
        for line in cast("list[dict[str, str]]", storage.read_json_lines(FOLDER / f"{name}.jsonl"))[:_MOST_PROMPTS]
    )


def answered(
    engine: Engine, run: Run, training: Sequence[Example], tell: Tell, stop: threading.Event | None = None
) -> list[Example]:
    """The shipped prompts with the resident base's answers, as examples without teachers; none when the guard is off.

    What the base says of itself, and what the run trains on, is left out: it is meant to change. Only what is not on disk
    is asked; `stop` ends it with none. Tells `rehearsing` before that, and `rehearsed`.
    """
    if run.config.rehearsal == "off":
        return []
    resident = engine.resident
    assert resident is not None
    begun, base = time.perf_counter(), BaseAnswers(engine, _folder(run))
    asked = [prompt.messages(run.config.system) for prompt in prompts(resident.info.name)]
    limits = [_ANSWER_TOKENS] * len(asked)
    missing = base.missing(asked, limits)
    if missing:
        tell("rehearsing", asked=missing)
    answers = base.ask(asked, limits, lambda done: None, stop or threading.Event())
    if answers is None:
        return []
    found = list(_examples(resident, run.config, asked, answers, training))
    tell("rehearsed", anchors=len(found), asked=missing, seconds=time.perf_counter() - begun)
    return found


def prepared(engine: Engine, run: Run, anchors: Sequence[Example], stop: threading.Event | None = None) -> Rehearsal:
    """The run's rehearsal, its anchors with their teachers: the base's states as this run's adapter is computed.

    The adapter is attached already. A turn for each pass; none is taken once `stop` is set, and the rehearsal is empty.
    """
    from core.score import base_states

    states = base_states(engine, anchors, stop, run.id, _PASS_TOKENS) if anchors else []
    if len(states) < len(anchors):
        return Rehearsal((), run.config)
    found = [replace(example, teacher=part) for example, part in zip(anchors, states, strict=True)]
    return Rehearsal(found, run.config)


def _examples(
    resident: Resident,
    config: TrainConfig,
    asked: Sequence[Sequence[Message]],
    answers: Sequence[Said],
    training: Sequence[Example],
) -> Iterator[Example]:
    """Prompts and answers that may be held on to."""
    own, end = old_words(resident.info), resident.encoder.stop_ids[0]
    trained = {_question(example) for example in training}
    for messages, said in zip(asked, answers, strict=True):
        prompt = tuple(resident.encoder.prompt(messages))
        ids = (*prompt, *said.ids, *((end,) if said.ended else ()))
        itself = probes.mark(said.text, (), own)
        if said.ids and not itself and prompt not in trained and len(ids) <= config.max_length:
            # The prompt's tokens, too: held there as well, it drifts a fifth as far on answers (docs/forgetting.md).
            yield Example(ids, (IGNORE, *ids[1:]))


def _question(example: Example) -> tuple[int, ...]:
    """What stands before a row's first answer token."""
    first = next((index for index, label in enumerate(example.labels) if label != IGNORE), 0)
    return example.input_ids[:first]


def _folder(run: Run) -> Path:
    """Where answers are kept: the home's cache, or the folder of a run that is in no home."""
    runs = run.folder.parent
    return runs.parent / "cache" if runs.name == "runs" else run.folder / "cache"
