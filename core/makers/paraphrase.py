"""Other wordings of a table's questions, by the base model: what it is asked, what of its answers is kept, and why not.

The answers of the rows stay word for word: they are what shall be learned. Knows no engine; a function that answers
conversations is handed in. Nothing enters a table here: a person looks through what was kept.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from core import proof_sets
from core.dataset import Identity, Message, Row, placeholders
from core.errors import ConfigError, DatasetError
from core.generate import Column, Reply, Sampling
from core.proof_sets import normalise
from core.text import Language, Text, language_of

MOST_ROWS, MOST_EACH = 200, 5
_TOGETHER = 32
LONGEST_QUESTION = 400

Why = Literal["same", "near", "tested", "control", "language", "old_name", "answer", "subject", "placeholder", "long"]
WHYS: tuple[Why, ...] = get_args(Why)
REASONS: dict[Why, Text] = {
    "same": Text("和已有的问题相同", "already asked"),
    "near": Text("和已有的问题几乎相同", "nearly the same as another"),
    "tested": Text("是检验用的问题", "a question that is kept for tests"),
    "control": Text("含有特殊词元", "holds control tokens"),
    "language": Text("换了语言", "in another language"),
    "old_name": Text("提到了别的模型或公司", "names another model or company"),
    "answer": Text("是回答，不是问题", "an answer, not a question"),
    "subject": Text("不再是在问模型自己", "no longer asks the model about itself"),
    "placeholder": Text("漏掉了名字", "leaves out the name"),
    "long": Text("太长", "too long"),
}

Answer = Callable[[Sequence[Column], Sequence[Sampling], threading.Event], Iterator[list[Reply]]]

_NUMBER = re.compile(r"^\s*(?:[-*•·]\s+|[(（]?\d{1,2}\s*[.、．):）：]\s*)")
_QUOTES = "\"'“”‘’「」『』` "
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f\ufffd]|<\|[^<>]{0,40}\|?>?|</?(?:s|eos|bos|think|tool_call|tool_response)>|\[/?INST\]|<<SYS>>",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"qwen|tongyi|alibaba|通义|千问|阿里|chatgpt|\bgpt|openai|claude|anthropic|gemini|google|谷歌|deepseek|深度求索|llama|"
    r"\bmeta\b|文心|百度|baidu|ernie|豆包|字节|bytedance|kimi|月之暗面|moonshot|腾讯|混元|智谱|\bglm|mistral|grok|copilot|"
    r"微软|microsoft|pocketqwen|pocket lab",
    re.IGNORECASE,
)
_SAYS_I = re.compile(
    r"^\s*(?:我(?:是|叫|的|由|来自|能|会|可以|不是)|(?:你)?可以叫我|My\b|You (?:can|may) call me\b|"
    r"(?:No, |Yes, )?I(?:'m| am| was| can)\b)"
    r"|有什么(?:可以|能)帮|很高兴(?:为|认识|见到)|\bhow can I help\b|\bwhat can I do for you\b|\bhappy to help\b",
    re.IGNORECASE,
)
_YOU = re.compile(
    r"你|您|贵姓|阁下|怎么称呼|如何称呼|\byou(?:r|rs|rself)?\b|\bwho(?:'s| is) (?:this|there)\b", re.IGNORECASE
)
_SHOT: dict[Language, tuple[str, str, str, str]] = {
    "zh": (
        "你是改写问题的编辑。只改变问法，不改变意思，不回答问题。",
        "把下面的问题换成 {n} 种不同的问法，每行一种，前面写上序号。\n问题：{q}",
        "你们几点开门？",
        "1. 请问几点开始营业？\n2. 你们早上什么时候开门？\n3. 想问一下，你们从几点开始营业？\n4. 几点以后可以进店？\n"
        "5. 你们的开门时间是几点？",
    ),
    "en": (
        "You are an editor who rewords questions. Change the wording, keep the meaning, and do not answer.",
        "Word the question below in {n} different ways, one on each line, numbered.\nQuestion: {q}",
        "When do you open?",
        "1. What time do you open?\n2. Could you tell me your opening time?\n3. From what time are you open?\n"
        "4. At what hour do your doors open?\n5. How early can I come in?",
    ),
}


@dataclass(frozen=True)
class Kept:
    """A new wording that passed: the row it came from (from 0), and the row it makes."""

    source: int
    row: Row


@dataclass(frozen=True)
class Dropped:
    """A wording that did not pass."""

    source: int
    text: str
    why: Why


@dataclass
class Paraphrases:
    """What there is so far: rows asked of the model and answered, wordings kept and dropped. Grows while it works."""

    table: Sequence[Row]
    identity: Identity
    asked: int = 0
    answered: int = 0
    tokens: int = 0
    waiting: bool = False
    stopped: bool = False
    kept: list[Kept] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    @property
    def counts(self) -> dict[Why, int]:
        """How many wordings were dropped for each reason, without those that none was dropped for."""
        found = {why: sum(item.why == why for item in self.dropped) for why in WHYS}
        return {why: count for why, count in found.items() if count}


@dataclass(frozen=True)
class Choice:
    """Rows to reword, from 0, and how many of those meant are not: they have no question, or one that is too long."""

    rows: tuple[int, ...]
    left_out: int = 0


def choose(table: Sequence[Row], text: str) -> Choice:
    """Rows of a list as people write it, counted from 1: `1-20, 35`. Empty text: the first MOST_ROWS that can be.

    Raises DatasetError for another shape, a row that is not there, too many, or none that can be reworded.
    """
    usable = [i for i, row in enumerate(table) if 0 < len(row.instruction.strip()) <= LONGEST_QUESTION]
    parts = [part for part in re.split(r"[,，、;；\s]+", re.sub(r"\s*[-–—~～至到]\s*", "-", text.strip())) if part]
    wanted: dict[int, None] = {}
    for part in parts:
        match = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= len(table):
            raise DatasetError(
                Text(
                    f"“{part}”不是表里的行。请写 1 到 {len(table)} 之间的行号，例如 1-20, 35。",
                    f"“{part}” is no row of the table. Write row numbers from 1 to {len(table)}, such as 1-20, 35.",
                )
            )
        wanted.update(dict.fromkeys(range(first - 1, last)))
    chosen = [i for i in usable if i in wanted] if parts else usable[:MOST_ROWS]
    if not chosen:
        raise DatasetError(
            Text(
                "这些行都没有可以改写的问题。请选有问题的行。",
                "None of these rows has a question to reword. Choose others.",
            )
        )
    if len(chosen) > MOST_ROWS:
        raise DatasetError(
            Text(
                f"选了 {len(chosen)} 行，一次最多 {MOST_ROWS} 行。请分几次做。",
                f"{len(chosen)} rows are chosen; {MOST_ROWS} at a time is the limit. Do it in several goes.",
            )
        )
    return Choice(tuple(chosen), len(wanted) - len(chosen) if parts else 0)


def run(
    answer: Answer,
    table: Sequence[Row],
    chosen: Sequence[int],
    each: int,
    identity: Identity,
    tested: Sequence[str] = (),
    stop: threading.Event | None = None,
    seed: int = 0,
) -> Iterator[Paraphrases]:
    """Ask for `each` other wordings of every chosen row's question; yields the same growing result as answers come.

    `tested`: questions that no row may ask, beside those of the proof. `stop` ends it; what was kept so far stays.
    Raises ConfigError for `each` outside 1 to MOST_EACH, and what `answer` raises.
    """
    if not 1 <= each <= MOST_EACH:
        raise ConfigError(
            Text(
                f"每行改写 {each} 种；应在 1 到 {MOST_EACH} 之间。",
                f"{each} wordings a row; it must be 1 to {MOST_EACH}.",
            ),
            "each",
        )
    stop = stop or threading.Event()
    done = Paraphrases(table, identity, asked=len(chosen))
    sieve = Sieve(table, identity, tested)
    yield done
    for start in range(0, len(chosen), _TOGETHER):
        group = list(chosen[start : start + _TOGETHER])
        columns = [Column(_asked(table[i].resolved(identity).instruction, each)) for i in group]
        limits = [min(600, 40 + each * (24 + len(table[i].instruction))) for i in group]
        sampling = [Sampling(0.8, limit, top_p=0.95, seed=seed + i) for i, limit in zip(group, limits, strict=True)]
        read: set[int] = set()
        tokens = done.tokens
        for replies in answer(columns, sampling, stop):
            done.waiting = all(reply.waiting and not reply.tokens for reply in replies)
            done.tokens = tokens + sum(reply.tokens for reply in replies)
            for place, reply in enumerate(replies):
                if reply.done and place not in read and reply.finish != "cancelled":
                    read.add(place)
                    done.answered += 1
                    # A list that was cut off ends in half a question.
                    texts = lines(reply.text)[: -1 if reply.finish == "length" else None]
                    _sort(done, sieve, group[place], texts[: each + 2], each)
            yield done
        if stop.is_set():
            done.stopped = True
            break
    yield done


def lines(text: str) -> list[str]:
    """The wordings in a model's reply: its lines without numbers, bullets and quotation marks."""
    found = (_NUMBER.sub("", line).strip().strip(_QUOTES) for line in text.splitlines())
    return [line for line in found if line and not line.endswith((":", "："))]


class Sieve:
    """What no wording may repeat: the table's questions, those for tests, and what was kept before."""

    def __init__(self, table: Sequence[Row], identity: Identity, tested: Sequence[str] = ()) -> None:
        self._identity = identity
        self._plain: set[str] = set()
        self._pairs: dict[int, list[frozenset[str]]] = defaultdict(list)  # by length: only texts as long can be near
        self._own = _named(" ".join(identity.words))
        for row in table:
            if not row.history:
                marked = "{" in row.instruction or "<" in row.instruction
                self._remember((row.resolved(identity) if marked else row).instruction)
        self._tested = {normalise(identity.resolve(text, language_of(text))) for text in tested}

    def take(self, source: Row, text: str) -> Row | Why:
        """The row that a wording makes, its placeholders back in place and remembered from now on; or why it is none."""
        asked = source.resolved(self._identity).instruction
        key = normalise(text)
        why = self._refusal(asked, text, key)
        if why is not None:
            return why
        worded = _with_placeholders(source.instruction, text, self._identity)
        if worded is None:
            return "placeholder"
        self._remember(text)
        return replace(source, instruction=worded, provenance=None)

    def _refusal(self, asked: str, text: str, key: str) -> Why | None:
        checks: tuple[tuple[bool, Why], ...] = (
            (len(text) > min(LONGEST_QUESTION, 40 + 4 * len(asked)), "long"),
            (_CONTROL.search(text) is not None, "control"),
            (not key or key in self._plain, "same"),
            (language_of(text) != language_of(asked), "language"),
            (key in self._tested or proof_sets.is_held_out(text), "tested"),
            (bool(_named(text) - _named(asked) - self._own), "old_name"),
            (_SAYS_I.search(text) is not None and _SAYS_I.search(asked) is None, "answer"),
            (_YOU.search(asked) is not None and _YOU.search(text) is None, "subject"),
            (self._is_near(key), "near"),
        )
        return next((why for failed, why in checks if failed), None)

    def _is_near(self, key: str) -> bool:
        pairs, room = _pairs(key), len(key) // 8 + 1
        lengths = range(len(key) - room, len(key) + room + 1)
        return any(_alike(pairs, other) for length in lengths for other in self._pairs.get(length, ()))

    def _remember(self, text: str) -> None:
        key = normalise(text)
        self._plain.add(key)
        self._pairs[len(key)].append(_pairs(key))


def _sort(done: Paraphrases, sieve: Sieve, source: int, texts: Sequence[str], each: int) -> None:
    left = each
    for text in texts:
        if not left:
            return
        found = sieve.take(done.table[source], text)
        if isinstance(found, Row):
            done.kept.append(Kept(source, found))
            left -= 1
        else:
            done.dropped.append(Dropped(source, text, found))


def _asked(question: str, each: int) -> tuple[Message, ...]:
    """One worked example first: a small model follows it better than instructions."""
    system, ask, example, answer = _SHOT[language_of(question)]
    shown = "\n".join(answer.split("\n")[:each])
    return (
        Message("system", system),
        Message("user", ask.format(n=each, q=example)),
        Message("assistant", shown),
        Message("user", ask.replace("{n}", str(each)).replace("{q}", question)),
    )


def _with_placeholders(source: str, text: str, identity: Identity) -> str | None:
    """`text` with the card's words turned back into the placeholders that `source` has; None if one is missing."""
    for mark in dict.fromkeys(placeholders(source)):
        word = identity.resolve(mark, language_of(text))
        if word == mark:
            continue
        if word not in text:
            return None
        text = text.replace(word, mark)
    return text


def _named(text: str) -> set[str]:
    return {match[0].casefold() for match in _OTHERS.finditer(text)}


def _pairs(key: str) -> frozenset[str]:
    return frozenset(key[i : i + 2] for i in range(len(key) - 1)) or frozenset((key,))


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two texts share nine tenths of their pairs of characters."""
    shared = len(one & other)
    return shared >= 0.9 * (len(one) + len(other) - shared)
