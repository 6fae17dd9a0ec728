"""What is wrong with an answer that can be seen from the answer alone: empty, cut off, or one thing over and over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.generate import Reply, Sampling
from core.text import Text

Kind = Literal["empty", "cut", "repeats"]
USUAL_TOKENS, MOST_TOKENS = 2048, 4096
SHORT = Text(zh="请用一两句话简短回答。", en="Answer briefly, in one or two sentences.")
WARMER = 0.7
_EMPTY = Text(
    "回答是空的：适配器多半训练过头了，可以换一个早一点的检查点。",
    "An empty answer: the adapter was most likely trained too far; an earlier checkpoint may do better.",
)
_OVERTRAINED = Text(
    "它在反复说同样的话：适配器多半训练过头了，可以换一个早一点的检查点，或在对比页降低强度。",
    "It says the same over and over: the adapter was most likely trained too far; take an earlier checkpoint, or less "
    "strength on the Compare tab.",
)
_LOOKED_AT, _LONGEST_STRETCH = 800, 60
_LEAST_REPEATED = 24


@dataclass(frozen=True)
class Fault:
    """What is wrong, in words, and what would mend it: a longest answer, a temperature, a request for short answers."""

    kind: Kind
    text: Text
    max_new_tokens: int | None = None
    temperature: float | None = None
    shorter: bool = False


def of(reply: Reply, sampling: Sampling, adapter: bool) -> Fault | None:
    """The fault of a whole answer; None for one that is well, or that was stopped by hand. `adapter`: not of the base."""
    if not reply.done or reply.finish == "cancelled":
        return None
    if _repeats(reply.text):
        return _repeated(sampling, adapter)
    longer = USUAL_TOKENS if sampling.max_new_tokens < USUAL_TOKENS else MOST_TOKENS
    more = longer if sampling.max_new_tokens < longer else None
    if reply.finish == "length":
        count = sampling.max_new_tokens
        text = Text(f"到 {count} 个词元就截断了，后面还有。", f"Cut off at {count} tokens; there is more to it.")
        return Fault("cut", text, more, shorter=True)
    if not reply.text.strip():
        text = Text("回答是空的：基座没有接话。", "An empty answer from the base.") if not adapter else _EMPTY
        return Fault("empty", text, more, shorter=True)
    return None


def _repeated(sampling: Sampling, adapter: bool) -> Fault:
    text = _OVERTRAINED if adapter else Text("它在反复说同样的话。", "It says the same over and over.")
    return Fault("repeats", text, temperature=WARMER if sampling.temperature < WARMER / 2 else None, shorter=True)


def _repeats(text: str) -> bool:
    """Whether the end is one stretch of up to 60 characters, six times or more."""
    end = text.strip()[-_LOOKED_AT:]
    for period in range(1, _LONGEST_STRETCH + 1):
        same = 0
        while same + period < len(end) and end[-1 - same] == end[-1 - same - period]:
            same += 1
        if same >= max(_LEAST_REPEATED, 5 * period):
            return True
    return False
