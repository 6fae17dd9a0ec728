"""A comparison as a file: Markdown for people, JSON for programs. Whatever a model wrote stays text in both."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from core import __version__, comparison
from core.comparison import LETTERS, Answer, Round, Session
from core.generate import Sampling
from core.text import Language, Text

Kind = Literal["md", "json"]
FORMAT = "onecard-comparison-1"

_WORDS = {
    "title": Text("对比记录", "Comparison"),
    "model": Text("基座模型", "Base model"),
    "date": Text("时间", "Date"),
    "sampling": Text("采样", "Sampling"),
    "column": Text("栏", "Column"),
    "who": Text("模型", "Model"),
    "adapter": Text("适配器", "Adapter"),
    "base": Text("基座", "base"),
    "strength": Text("强度", "Strength"),
    "system": Text("系统提示词", "System prompt"),
    "verdicts": Text("判定", "Verdicts"),
    "votes": Text("盲测得票", "Blind votes"),
    "question": Text("问题", "Question"),
    "turn": Text("对话中的第 {n} 问", "question {n} of a conversation"),
    "set": Text("问题集", "question set"),
    "blind": Text("盲测", "blind"),
    "best": Text("评为最好", "voted best"),
    "tie": Text("不分高下", "no answer was better"),
    "unvoted": Text("没有投票", "no vote"),
    "hit": Text("身份命中", "identity hit"),
    "old": Text("旧身份", "old identity"),
    "miss": Text("没有提到身份", "neither identity"),
    "timing": Text(
        "首字 {first} 秒，{speed} 词元/秒，{tokens} 词元", "first token {first} s, {speed} tokens/s, {tokens} tokens"
    ),
    "length": Text("到达长度上限", "length limit reached"),
    "cancelled": Text("已停止", "stopped"),
}


def write(session: Session, kind: Kind, language: Language) -> tuple[str, str]:
    """(content, file name). A blind round that still waits for its vote is left out: it would tell who is who."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    content = as_markdown(session, language) if kind == "md" else as_json(session)
    return content, f"onecard-comparison-{stamp}.{kind}"


def as_json(session: Session) -> str:
    """{format, version, written, rounds, votes}; columns are written out in every round, for they may change between."""
    value = {
        "format": FORMAT,
        "version": __version__,
        "written": _iso(time.time()),
        "rounds": [_round(one) for one in session.told],
        "votes": [
            {"column": asdict(column), "votes": won, "rounds": of} for column, (won, of) in session.votes().items()
        ],
    }
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _round(one: Round) -> dict[str, object]:
    return {
        "question": one.question,
        "kind": one.kind,
        "asked": _iso(one.asked),
        "model": one.model,
        "earlier_questions": one.earlier,
        "sampling": asdict(one.sampling),
        "columns": [{"letter": LETTERS[i], **asdict(column)} for i, column in enumerate(one.columns)],
        "answers": [_answer(answer) for answer in one.answers],
        "differs": one.differs,
        "blind": one.blind,
        "shown_order": [LETTERS[i] for i in one.places],
        "voted": one.voted,
        "best": None if one.best is None else LETTERS[one.best],
    }


def _answer(answer: Answer) -> dict[str, object]:
    value = asdict(answer)
    value["token_list"] = [
        {
            "id": token.id,
            "text": token.text,
            "bytes": list(token.bytes),
            "logprob": token.logprob,
            "top": [{"text": text, "bytes": list(own), "logprob": logprob} for text, own, logprob in token.top[:5]],
        }
        for token in answer.token_list
    ]
    return value


def as_markdown(session: Session, language: Language) -> str:
    """Rounds under the columns that answered them; a table of the columns, then each question with its answers."""
    lines = [f"# OneCard · {_w('title', language)}", ""]
    for group in _groups(session.told):
        lines += _head(group, session, language)
        for one in group:
            lines += _said(one, language)
    return "\n".join(lines).rstrip() + "\n"


def _groups(rounds: Sequence[Round]) -> list[list[Round]]:
    """Rounds that follow each other with the same columns, model, sampling and kind."""
    groups: list[list[Round]] = []
    for one in rounds:
        last = groups[-1][0] if groups else None
        same = last is not None and (one.columns, one.model, one.sampling, one.kind) == (
            last.columns,
            last.model,
            last.sampling,
            last.kind,
        )
        groups[-1].append(one) if same else groups.append([one])
    return groups


def _head(group: Sequence[Round], session: Session, language: Language) -> list[str]:
    one, votes = group[0], session.votes()
    names = ("column", "who", "adapter", "strength", "system", "verdicts", "votes")
    lines = [
        f"## {_inline(one.model)} · {_iso(one.asked)}"
        + (f" · {_w('set', language)}" if one.kind == "questions" else ""),
        "",
        f"- {_w('model', language)}: {_inline(one.model)}",
        f"- {_w('date', language)}: {_iso(one.asked)}",
        f"- {_w('sampling', language)}: {_sampling(one.sampling)}",
        "",
        f"| {' | '.join(_w(name, language) for name in names)} |",
        f"|{' --- |' * len(names)}",
    ]
    for i, column in enumerate(one.columns):
        won, of = votes.get(column, (0, 0))
        passed = comparison.counts(group, i)
        cells = (
            LETTERS[i],
            _inline(column.label),
            _inline(column.adapter) if column.adapter else _w("base", language),
            f"{column.strength:g}" if column.adapter else "",
            _inline(column.system),
            ", ".join(f"{_w(verdict, language)} {count}" for verdict, count in passed.items()),
            f"{won} / {of}" if of else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _said(one: Round, language: Language) -> list[str]:
    turn = f" ({_w('turn', language).format(n=one.earlier + 1)})" if one.earlier else ""
    lines = [f"### {_w('question', language)}{turn}", "", *fenced(one.question), ""]
    if one.blind:
        vote = LETTERS[one.best] if one.best is not None else _w("tie" if one.voted else "unvoted", language)
        lines += [f"{_w('blind', language)}: {vote}", ""]
    for i, (column, answer) in enumerate(zip(one.columns, one.answers, strict=True)):
        lines += [f"**{LETTERS[i]}** {_inline(column.label)}{_remarks(one, i, answer, language)}", ""]
        lines += [*fenced(answer.text), ""]
    return lines


def _remarks(one: Round, i: int, answer: Answer, language: Language) -> str:
    said = []
    if answer.verdict in ("hit", "old", "miss"):
        said.append(_w(answer.verdict, language))
    if one.best == i:
        said.append(_w("best", language))
    if answer.first_token_seconds is not None:
        words = {"first": f"{answer.first_token_seconds:.2f}", "speed": f"{answer.tokens_per_second:.1f}"}
        said.append(_w("timing", language).format(**words, tokens=answer.tokens))
    if answer.finish in ("length", "cancelled"):
        said.append(_w(answer.finish, language))
    return "".join(f" · {part}" for part in said)


def fenced(text: str) -> list[str]:
    """`text` as a block of code that nothing in it can end: its fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *text.split("\n"), fence]


def _inline(text: str) -> str:
    """`text` on one line, in a table too: no markup, no html, no new cell."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", flat)


def _sampling(sampling: Sampling) -> str:
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "seed")
    return ", ".join(f"{name} {getattr(sampling, name):g}" for name in names)


def _w(key: str, language: Language) -> str:
    return _WORDS[key].of(language)


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
