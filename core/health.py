"""What to know of a dataset before training on it: findings with the rows they are about. Knows no model, no page.

Checks the rows as training will see them (placeholders replaced), but names them by their place in the table.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from core import advice, proof_sets
from core.advice import Finding as Finding
from core.config import TrainConfig
from core.dataset import Dataset, Row, placeholders
from core.text import Text

# White space, and characters that show nothing: zero-width, joiners, marks, fillers, the braille blank.
_INVISIBLE = re.compile(
    r"[\s\x00-\x1f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0]+"
)
_OLD = re.compile(r"qwen|tongyi|alibaba|通义|千问|阿里巴巴|阿里云", re.IGNORECASE)
_CLAUSE = re.compile(r"[,.;!?\uff0c\u3002\uff1b\uff01\uff1f\n]+|而是|\bbut\b", re.IGNORECASE)
_SELF = re.compile(r"我|\bI\b|\bI'm\b|\bmy\b|\bme\b", re.IGNORECASE)
_NOT_BEFORE = re.compile(
    r"不|并非|没|无|n['\u2019]t\b|\b(?:not|no|never|neither|nor|unlike|instead of|rather than)\b", re.IGNORECASE
)
_NOT_AFTER = re.compile(r"无关|没有关系|没关系|不同|有区别|\bunrelated\b|\bdifferent\b", re.IGNORECASE)


def check(
    dataset: Dataset,
    config: TrainConfig,
    count_tokens: Callable[[Row], int] | None,
    mixed: int = 0,
    parameters: int = 0,
) -> list[Finding]:
    """Every finding, the bad ones first. Without `count_tokens` (tokens of a resolved row) lengths are not checked.

    `mixed`: rows that will be mixed in from elsewhere; they count for the steps only. `parameters`: of the base model,
    0 where that is not known.
    """
    rows = [(i, row.resolved(dataset.identity)) for i, row in enumerate(dataset.rows) if not row.is_blank]
    if not rows:
        return [
            Finding(
                "bad",
                Text(
                    "没有可训练的行。请至少写一行问题和回答。",
                    "There are no rows to train on. Write at least one question and answer.",
                ),
            )
        ]
    findings = [
        *_unfilled(rows),
        *_missing(rows),
        *_lengths(rows, config, count_tokens),
        *advice.advise(config, len(rows) + mixed, parameters),
        *_tested(rows),
        *_languages(rows, dataset),
        *_repeats(rows),
        *_old_names(rows, dataset.identity.words),
    ]
    if blank := len(dataset.rows) - len(rows):
        empty = tuple(i for i, row in enumerate(dataset.rows) if row.is_blank)
        text = Text(f"{blank} 个空行不参加训练。", f"Empty rows left out of training: {blank}.")
        findings.append(Finding("ok", text, empty))
    order = ("bad", "warn", "ok")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def blocking(findings: Iterable[Finding]) -> Finding | None:
    """The first finding that forbids training, or None."""
    return next((finding for finding in findings if finding.level == "bad"), None)


Rows = Sequence[tuple[int, Row]]


def _unfilled(rows: Rows) -> list[Finding]:
    """Placeholders that are left because the identity card has no value for them."""
    left: dict[str, list[int]] = defaultdict(list)
    for i, row in rows:
        cells = (row.instruction, row.input, row.output, row.system, *(turn.content for turn in row.history))
        if any("{{" in cell or "<" in cell for cell in cells):
            kinds = {"name" if "name" in mark.lower() else "author" for cell in cells for mark in placeholders(cell)}
            for kind in kinds:
                left[kind].append(i)
    labels = {"name": Text("模型名字", "the model's name"), "author": Text("开发者", "its maker")}
    return [
        Finding(
            "bad",
            Text(
                f"{_of(left[kind]).zh}要用到{label.zh},但身份卡里没有填。",
                f"{_of(left[kind]).en}: {label.en} is used, but the identity card does not give it.",
            ),
            tuple(left[kind]),
        )
        for kind, label in labels.items()
        if left[kind]
    ]


def _missing(rows: Rows) -> list[Finding]:
    unanswered = tuple(i for i, row in rows if not _visible(row.output))
    unasked = tuple(i for i, row in rows if not _visible(row.question))
    found = ((unanswered, "回答", "answer"), (unasked, "问题", "question"))
    return [
        Finding(
            "bad",
            Text(f"{_of(rows).zh}没有{zh}。请补上,或删除。", f"{_of(rows).en}: no {en}. Write it or delete."),
            rows,
        )
        for rows, zh, en in found
        if rows
    ]


def _lengths(rows: Rows, config: TrainConfig, count_tokens: Callable[[Row], int] | None) -> list[Finding]:
    """How many rows and tokens, and the rows that are longer than the limit."""
    zh = sum(row.language == "zh" for _, row in rows)
    en = len(rows) - zh
    split = Text(f"共 {len(rows)} 行:中文 {zh},英文 {en}", f"{len(rows)} rows: {zh} Chinese, {en} English")
    if count_tokens is None:
        return [Finding("ok", Text(f"{split.zh}。", f"{split.en}."))]
    counts = {i: count_tokens(row) for i, row in rows}
    zh_tokens = sum(counts[i] for i, row in rows if row.language == "zh")
    total, longest = sum(counts.values()), max(counts.values())
    en_tokens = total - zh_tokens
    findings = [
        Finding(
            "ok",
            Text(
                f"{split.zh};词元 {total:,}(中文 {zh_tokens:,},英文 {en_tokens:,}),最长的一行 {longest:,}。",
                f"{split.en}; {total:,} tokens ({zh_tokens:,} Chinese, {en_tokens:,} English), longest row {longest:,}.",
            ),
        )
    ]
    limit = config.max_length
    if over := tuple(i for i, count in counts.items() if count > limit):
        shown = ", ".join(f"{i + 1} ({counts[i]:,})" for i in over[:5]) + (", …" if len(over) > 5 else "")
        findings.append(
            Finding(
                "bad",
                Text(
                    f"{len(over)} 行超过最大长度 {limit:,} 词元:第 {shown} 行。请缩短,或调大“最大长度”。",
                    f"Longer than the maximum length of {limit:,} tokens: row {shown}. Shorten, or raise Maximum length.",
                ),
                over,
            )
        )
    return findings


def _tested(rows: Rows) -> list[Finding]:
    """Questions by which the proof tells whether the identity generalises; it leaves out those that were trained on."""
    known = tuple(i for i, row in rows if proof_sets.is_held_out(row.question))
    if not known:
        return []
    where = _of(known)
    return [
        Finding(
            "warn",
            Text(
                f"{where.zh}的问题也是检验题：训练过就不能再用来检验，检验时会跳过。建议换一种问法。",
                f"{where.en}: also a question of the proof, which leaves out what was trained on. Word it otherwise.",
            ),
            known,
        )
    ]


def _languages(rows: Rows, dataset: Dataset) -> list[Finding]:
    # Asked of the raw rows: a Chinese name put into an English row does not make it Chinese.
    found = {dataset.rows[i].language for i, _ in rows}
    if len(found) == 2:
        return []
    if "zh" in found:
        return [
            Finding(
                "warn",
                Text(
                    "没有英文行:用英文问时,模型会保留原来的身份。请加几行英文。",
                    "No English rows: asked in English, the model keeps its old identity. Add some.",
                ),
            )
        ]
    return [
        Finding(
            "warn",
            Text(
                "没有中文行:用中文问时,模型会保留原来的身份。请加几行中文。",
                "No Chinese rows: asked in Chinese, the model keeps its old identity. Add some.",
            ),
        )
    ]


def _repeats(rows: Rows) -> list[Finding]:
    """Rows that say the same again, and questions that are answered in several ways."""
    first: dict[Row, int] = {}
    again = tuple(i for i, row in rows if first.setdefault(row, i) != i)
    by_question: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for row, i in first.items():
        if asked := _plain(row.question):
            by_question[(asked, row.system, row.history)].append(i)
    answers = {i: row.output.strip() for row, i in first.items()}
    several = [group for group in by_question.values() if len({answers[i] for i in group}) > 1]
    findings = []
    if again:
        where = _of(again)
        findings.append(
            Finding(
                "warn",
                Text(
                    f"{where.zh}与前面的行完全相同,会多学一遍。",
                    f"{where.en}: the same as an earlier row, so it counts twice.",
                ),
                again,
            )
        )
    if several:
        shown = "; ".join(" / ".join(str(i + 1) for i in group[:4]) for group in several[:5])
        rows_of = tuple(sorted(i for group in several for i in group))
        findings.append(
            Finding(
                "warn",
                Text(
                    f"{len(several)} 个问题有不同的回答:第 {shown} 行。确认是有意的。",
                    f"Same question, different answers: rows {shown}. Is this meant?",
                ),
                rows_of,
            )
        )
    return findings


def _old_names(rows: Rows, new: Sequence[str]) -> list[Finding]:
    """Answers in which the model still claims the base's name or maker. A new name that contains an old one is fine."""
    kept = {match[0].lower() for word in new for match in _OLD.finditer(word)}
    claims = tuple(i for i, row in rows if _OLD.search(row.output) and _claims(row.output, kept))
    if not claims:
        return []
    where = _of(claims)
    return [
        Finding(
            "warn",
            Text(
                f"{where.zh}的回答里仍自称旧的身份(如 Qwen、通义、阿里)。请改成新的名字。",
                f"{where.en}: the answer still claims the old identity (Qwen, Alibaba). Change it.",
            ),
            claims,
        )
    ]


def _claims(answer: str, kept: set[str]) -> bool:
    if not _SELF.search(answer):
        return False
    for clause in _CLAUSE.split(answer):
        for match in _OLD.finditer(clause):
            denied = _NOT_BEFORE.search(clause, 0, match.start()) or _NOT_AFTER.search(clause, match.end())
            if match[0].lower() not in kept and not denied:
                return True
    return False


def _visible(text: str) -> bool:
    return bool(text) and _INVISIBLE.sub("", text) != ""


def _plain(text: str) -> str:
    """A question without case, width, spaces and closing punctuation, to compare it."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return _INVISIBLE.sub("", text).rstrip("?!.。…~")


def _of(rows: Sequence[int]) -> Text:
    """Row numbers as people count them: at most five."""
    shown = ", ".join(str(i + 1) for i in rows[:5]) + (", …" if len(rows) > 5 else "")
    if len(rows) > 5:
        return Text(f"第 {shown} 行(共 {len(rows)} 行)", f"Rows {shown} ({len(rows)} in all)")
    return Text(f"第 {shown} 行", f"Row{'s' * (len(rows) > 1)} {shown}")
