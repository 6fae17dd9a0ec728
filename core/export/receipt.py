"""The receipt of an export: the file itself was loaded and asked what the adapter was asked. Is it what was tested?

The reference is taken first, from the engine; the file speaks later, when the reference's memory may be gone. Kept of it
are answers, and the logits of the first questions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from core import proof_sets
from core.export.speakers import Speaker, Told
from core.proof_sets import Asked
from core.text import Text

if TYPE_CHECKING:
    import torch

FILE = "receipt.json"
QUESTIONS = 100
_READ_BYTES = 400_000_000  # of the reference's logits, in host memory
_READ_MOST = 400  # positions
NEAR = 0.1
"""Logits between two words that are all but equally likely: 52 to 48 of a hundred."""
Light = Literal["green", "yellow", "red", "none"]
# Of the file, not of what it says: a true copy of an adapter that learned nothing is as tested.
VERDICTS: dict[Light, Text] = {
    "green": Text("与测试时一致", "as tested"),
    "yellow": Text("需要留意", "take a look"),
    "red": Text("与测试时不同", "not as tested"),
    "none": Text("没有复测", "not tested"),
}


@dataclass(frozen=True)
class Said:
    """One question as the reference answered it; `logits` (n, V) of its tokens, or None where it was not read."""

    asked: Asked
    limit: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    text: str
    logits: torch.Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Compared:
    """One question: what was tested said `before`, the file says `after`; `same` tokens from the beginning.

    `gap`: logits by which the file prefers its own word to the tested one where the two part; None where that ended.
    """

    question: str
    before: str
    after: str
    same: int
    of: int
    whole: bool
    gap: float | None = None

    @property
    def near(self) -> bool:
        """Whether they part at a choice between two words that are all but equally likely."""
        return self.gap is not None and self.gap <= NEAR


@dataclass(frozen=True)
class Receipt:
    """What came of it. `drift`: mean KL(tested || file) in nats over `read` positions; `apart`: largest difference of a
    logit there. `identity`: (right when tested, right now, asked). `prompts_alike`: of how many questions the file's own
    template and tokenizer make the very same tokens. `usual`: share of the same answers in a good file of this form.
    `light` none: it was not asked, and `why` says why.
    """

    light: Light
    why: Text
    file: str
    form: str
    digests: Mapping[str, str]
    nbytes: int
    usual: float = 1.0
    asked: int = 0
    same: int = 0
    prefix: float = 0.0
    prompts_alike: int = 0
    identity: tuple[int, int, int] = (0, 0, 0)
    read: int = 0
    drift: float = 0.0
    drift_most: float = 0.0
    apart: float = 0.0
    seconds: float = 0.0
    created: float = 0.0
    against: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    answers: tuple[Compared, ...] = ()


def chosen(questions: Sequence[tuple[Asked, int]]) -> list[tuple[Asked, int]]:
    """At most QUESTIONS of a proof's questions: half of them about the identity where there are so many, each kind evenly."""
    identity = [pair for pair in questions if pair[0].item.kind == "identity"]
    others = [pair for pair in questions if pair[0].item.kind != "identity"]
    most = QUESTIONS
    about = min(len(identity), max(most // 2, most - len(others)))
    return [*_evenly(identity, about), *_evenly(others, min(len(others), most - about))]


def reference(
    speaker: Speaker, questions: Sequence[tuple[Asked, int]], told: Told, readable: bool = True
) -> list[Said]:
    """What the tested adapter says. Fewer than the questions if it was stopped meanwhile. `readable`: with logits."""
    prompts = [tuple(speaker.encode(asked.messages)) for asked, _ in questions]
    limits = [limit for _, limit in questions]
    answers = speaker.answers(prompts, limits, told)
    said = []
    positions, held = 0, 0
    for (asked, limit), prompt, answer in zip(questions, prompts, answers, strict=False):
        logits = None
        if readable and answer and positions < _READ_MOST and held < _READ_BYTES:
            logits = speaker.logits(prompt, answer)
            positions, held = positions + len(logits), held + logits.nbytes
        said.append(Said(asked, limit, prompt, tuple(answer), speaker.text(answer), logits))
    return said


def compare(
    said: Sequence[Said], speaker: Speaker, told: Told, blank: Receipt, readable: bool = True
) -> Receipt | None:
    """Ask the file; None if it was stopped meanwhile. `blank` says whose receipt it is and against what."""
    begun = time.perf_counter()
    own = [speaker.encode(each.asked.messages) for each in said]
    answers = speaker.answers([each.prompt for each in said], [each.limit for each in said], told)
    if len(answers) < len(said):
        return None
    texts = [speaker.text(answer) for answer in answers]
    compared = tuple(
        Compared(
            each.asked.messages[-1].content,
            each.text,
            text,
            _prefix(each.answer, answer),
            max(len(each.answer), len(answer)),
            tuple(answer) == each.answer,
            _gap(each, answer, speaker),
        )
        for each, answer, text in zip(said, answers, texts, strict=True)
    )
    drifts, apart = _read(said, speaker) if readable else ([], 0.0)
    same = sum(each.whole for each in compared)
    alike = sum(tuple(ids) == each.prompt for ids, each in zip(own, said, strict=True))
    near = sum(each.near for each in compared)
    light, why = _verdict(blank.usual, same, near, alike, len(said), _identity(said, texts))
    return replace(
        blank,
        light=light,
        why=why,
        asked=len(said),
        same=same,
        prefix=math.fsum(each.same / max(1, each.of) for each in compared) / max(1, len(compared)),
        prompts_alike=alike,
        identity=_identity(said, texts),
        read=len(drifts),
        drift=math.fsum(drifts) / len(drifts) if drifts else 0.0,
        drift_most=max(drifts, default=0.0),
        apart=apart,
        seconds=time.perf_counter() - begun,
        created=time.time(),
        answers=compared,
    )


def without_rows(made: Receipt, said: Sequence[Said]) -> Receipt:
    """The receipt without the words of training rows, for it goes where the file goes; what was counted stays.

    A file that could not be asked here, as a GGUF without llama.cpp, has no answers.
    """
    if not made.answers:
        return made
    answers = (
        replace(answer, question=each.asked.item.id, before="", after="") if "row" in each.asked.item.tags else answer
        for each, answer in zip(said, made.answers, strict=True)
    )
    return replace(made, answers=tuple(answers))


def _gap(each: Said, answer: Sequence[int], speaker: Speaker) -> float | None:
    at = _prefix(each.answer, answer)
    if at == len(each.answer):
        return None
    logits = speaker.logits(each.prompt, each.answer[: at + 1])[at]
    return float(logits.max() - logits[each.answer[at]])


def _read(said: Sequence[Said], speaker: Speaker) -> tuple[list[float], float]:
    """KL at every position of the answers that were read, and the largest difference of a logit."""
    drifts: list[float] = []
    apart = 0.0
    for each in said:
        if each.logits is None:
            continue
        theirs = speaker.logits(each.prompt, each.answer)
        width = min(each.logits.shape[1], theirs.shape[1])  # padded vocabularies differ in rows that no text uses
        left, right = each.logits[:, :width], theirs[:, :width]
        apart = max(apart, float((left - right).abs().max()))
        left, right = left.log_softmax(-1), right.log_softmax(-1)
        drifts += (left.exp() * (left - right)).sum(-1).clamp(min=0).tolist()
    return drifts, apart


def _identity(said: Sequence[Said], texts: Sequence[str]) -> tuple[int, int, int]:
    """(right before, right now, asked) of the questions about the identity."""
    pairs = [(each, text) for each, text in zip(said, texts, strict=True) if each.asked.item.kind == "identity"]
    before = sum(proof_sets.judge(each.asked, each.text).ok is True for each, _ in pairs)
    now = sum(proof_sets.judge(each.asked, text).ok is True for each, text in pairs)
    return before, now, len(pairs)


# Greedy answers that stay the same: 16-bit rounding turns a close choice now and then, eight bits a few, four bits more.
# Measured on the pocket model: adapter and its GGUF, merged, F16 100 %, BF16 99, Q8_0 96, Q4_0 62.
_USUAL = {
    "adapter": 1.0,
    "zip": 1.0,
    "merged": 0.98,
    "merged-f32": 1.0,
    "gguf-adapter": 0.98,
    "f32": 0.98,
    "f16": 0.98,
    "bf16": 0.97,
    "q8_0": 0.95,
}
_USUAL_FEWER_BITS = 0.5


def usual(form: str, quantisation: str, tested_in_four_bits: bool) -> float:
    """What share of greedy answers a good file of this form gives word for word as they were tested."""
    if tested_in_four_bits and form not in ("adapter", "zip", "bnb"):
        return _USUAL_FEWER_BITS
    return _USUAL.get(quantisation if form == "gguf" else form, _USUAL_FEWER_BITS)


def _verdict(
    wanted: float, same: int, near: int, alike: int, asked: int, identity: tuple[int, int, int]
) -> tuple[Light, Text]:
    before, now, about = identity
    if alike < asked:
        count = asked - alike
        return "red", Text(
            f"{count} 个问题在这个文件的模板或分词下变成了别的词元：用它会和测试时不一样。",
            f"{count} questions become other tokens by this file's own template or tokenizer: it will answer otherwise than "
            "tested.",
        )
    if about and now < before - max(1, round(0.05 * about)):
        return "red", Text(
            f"身份题从 {before} 题答对降到 {now} 题（共 {about} 题）：这个文件不是测试过的那个模型。",
            f"Right identity answers fell from {before} to {now} of {about}: this file is not the model that was tested.",
        )
    ties = Text("", "")
    if near:
        ties = Text(
            f"另有 {near} 个在概率几乎相同的两个词元之间选了另一个。",
            f" {near} more chose the other of two words that are all but equally likely.",
        )
    if same >= wanted * asked:
        return "green", Text(
            f"{asked} 个回答里 {same} 个与测试时逐字相同。{ties.zh}",
            f"{same} of {asked} answers are the same, word for word.{ties.en}",
        )
    return "yellow", Text(
        f"{asked} 个回答里只有 {same} 个与测试时逐字相同（这种格式通常不少于 {wanted:.0%}）。{ties.zh}请看看不同的回答。",
        f"Only {same} of {asked} answers are the same word for word (usual for this format: {wanted:.0%}).{ties.en} Look at "
        "the others.",
    )


def _prefix(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            return count
        count += 1
    # Both ended, or one went on: the end counts as a token that differs, by `of`.
    return count


def _evenly(given: Sequence[tuple[Asked, int]], most: int) -> list[tuple[Asked, int]]:
    count = min(most, len(given))
    return [given[i * len(given) // count] for i in range(count)]


def to_json(receipt: Receipt) -> dict[str, object]:
    """For receipt.json."""
    value = vars(receipt) | {"why": vars(receipt.why), "answers": [vars(each) for each in receipt.answers]}
    return {key: dict(each) if isinstance(each, Mapping) else each for key, each in value.items()}


def from_json(value: object) -> Receipt:
    """Raises ValueError for anything that `to_json` did not write."""
    if not isinstance(value, dict):
        raise ValueError("no receipt")
    try:
        answers = tuple(Compared(**each) for each in value["answers"])
        before, now, about = value["identity"]
        return Receipt(
            **{
                **value,
                "why": Text(**value["why"]),
                "answers": answers,
                "identity": (int(before), int(now), int(about)),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
