"""Checks of the table as a whole: what is said twice or in two ways, what is missing, what is too little of the mix."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from core import mix, starter
from core.advice import Finding, Fix, Mend
from core.config import TrainConfig
from core.dataset import Identity, Row
from core.doctor import near, signs
from core.doctor.content import Known, of
from core.doctor.facts import RowFacts
from core.errors import ConfigError
from core.text import LANGUAGES, Language, Text

FEW_WAYS = 3  # ways of asking one thing; with fewer the answer hangs on the wording
_IDENTITY_ROWS, _IDENTITY_SHARE = 3, 0.02  # questions about the identity that make a table one of identity
_LEAST_LANGUAGE = 0.1
_MOST_DECLINED, _DECLINED_ROWS = 0.5, 10
_MOST_REPEATS = 1000
_LANGUAGE_WORDS: dict[Language, tuple[str, str]] = {"zh": ("中文", "Chinese"), "en": ("英文", "English")}


class _Alike(Protocol):
    def alike(self, a: RowFacts, b: RowFacts) -> bool: ...


def repeats(known: Known) -> list[Finding]:
    """Rows that say the same again."""
    together: dict[Row, list[int]] = defaultdict(list)
    for i, facts in known:
        together[facts.row].append(i)
    groups = tuple(tuple(group) for group in together.values() if len(group) > 1)
    if not groups:
        return []
    again = tuple(sorted(i for group in groups for i in group[1:]))
    where = of(again)
    text = Text(
        f"{where.zh}与前面的行完全相同，会多学一遍。", f"{where.en}: the same as an earlier row, so it counts twice."
    )
    return [Finding("warn", text, again, kind="repeats", mends=(_keep_first(again),), groups=groups)]


def nearly_same(known: Known, facts: _Alike) -> list[Finding]:
    """Rows whose question and answer are nearly those of an earlier row."""
    first: dict[Row, tuple[int, RowFacts]] = {}
    for i, found in known:
        first.setdefault(found.row, (i, found))
    rows = [(i, found) for i, found in first.values() if found.sketch and found.answer_length]

    def alike(a: int, b: int) -> bool:
        ours, theirs = rows[a][1], rows[b][1]
        # One question with two answers is another finding.
        return (ours.key != theirs.key or ours.answer == theirs.answer) and facts.alike(ours, theirs)

    groups = near.groups(
        [i for i, _ in rows],
        [found.sketch for _, found in rows],
        [found.numbers for _, found in rows],
        [found.answer_length for _, found in rows],
        alike,
    )
    if not groups:
        return []
    groups.sort()
    again = tuple(sorted(i for group in groups for i in group[1:]))
    shown = _places(groups)
    text = Text(
        f"{len(again):,} 行与前面的行几乎相同：第 {shown.zh} 行。",
        f"Nearly the same as an earlier row: {shown.en} ({len(again):,} in all).",
    )
    return [Finding("warn", text, again, kind="nearly_same", mends=(_keep_first(again),), groups=tuple(groups))]


def conflicts(known: Known) -> list[Finding]:
    """Questions that are answered in several ways."""
    by_question: dict[tuple[object, ...], list[tuple[int, RowFacts]]] = defaultdict(list)
    for i, facts in known:
        if facts.key:
            by_question[facts.key, facts.row.system, facts.row.history].append((i, facts))
    groups = [group for group in by_question.values() if len(group) > 1 and len({_answer(f) for _, f in group}) > 1]
    if not groups:
        return []
    numbers = tuple(tuple(i for i, _ in group) for group in groups)
    shown = _places(numbers)
    others = tuple(sorted(i for group in groups for i, facts in group if _answer(facts) != _answer(group[0][1])))
    label = Text("只留每个问题的第一种回答", "Keep each question's first answer")
    text = Text(
        f"{len(groups):,} 个问题有不同的回答：第 {shown.zh} 行。确认是有意的。",
        f"Same question, different answers: rows {shown.en}. Is this meant?",
    )
    rows = tuple(sorted(i for group in numbers for i in group))
    return [Finding("warn", text, rows, kind="conflicts", mends=(Mend("remove", label, others),), groups=numbers)]


def languages(known: Known, identity: Identity) -> list[Finding]:
    """A language that is missing, or hardly there."""
    counts = {language: sum(facts.language == language for _, facts in known) for language in LANGUAGES}
    few: Language = "zh" if counts["zh"] < counts["en"] else "en"
    share = counts[few] / len(known)
    # Whoever teaches something other than an identity may well want one language only.
    teaches = _is_identity(known)
    if share >= _LEAST_LANGUAGE or not (teaches or (identity.words and not counts[few])):
        return []
    zh, en = _LANGUAGE_WORDS[few]
    added = _shipped(known, few, signs.topic) if teaches and _card(identity) else ()
    mends = (
        (Mend("add", Text(f"添加 {len(added)} 行{zh}", f"Add {len(added)} {en} rows"), added=added),) if added else ()
    )
    if not counts[few]:
        text = Text(
            f"没有{zh}行：用{zh}问时，模型会保留原来的身份。请加几行{zh}。",
            f"No {en} rows: asked in {en}, the model keeps its old identity. Add some.",
        )
        return [Finding("warn", text, kind="languages", mends=mends)]
    rows = tuple(i for i, facts in known if facts.language == few)
    text = Text(
        f"{zh}行只占 {share:.0%}（{len(known):,} 行里 {counts[few]:,} 行）：用{zh}问时可能改不了口。",
        f"Only {share:.0%} of the rows are {en} ({counts[few]:,} of {len(known):,}): asked in {en}, the old identity may stay.",
    )
    return [Finding("warn", text, rows, kind="languages", mends=mends)]


def paraphrases(known: Known, identity: Identity) -> list[Finding]:
    """Questions about the identity that are asked in too few ways."""
    if not _is_identity(known):
        return []
    ways: dict[tuple[str, Language], dict[str, int]] = defaultdict(dict)
    for i, facts in known:
        if facts.topic:
            ways[_subject(facts.topic), facts.language].setdefault(facts.key, i)
    there = {facts.language for _, facts in known}
    ready = {language: _shipped(known, language, signs.topic) for language in LANGUAGES}
    said_zh, said_en = list[str](), list[str]()
    rows, added = list[int](), list[Row]()
    for topic, zh, en in (("who", "你是谁", "who are you"), ("maker", "谁开发了你", "who made you")):
        needed = _card(identity) if topic == "maker" else bool(identity.name("zh"))
        for language in LANGUAGES:
            asked, in_zh, in_en = ways[topic, language], *_LANGUAGE_WORDS[language]
            if language not in there or len(asked) >= FEW_WAYS or not needed:
                continue
            said_zh.append(f"{in_zh}问“{zh}”只有 {len(asked)} 种问法")
            said_en.append(f"{len(asked)} of “{en}” in {in_en}")
            rows += asked.values()
            added += [row for row in ready[language] if _subject(signs.topic(row.question)) == topic]
    if not said_zh:
        return []
    text = Text(
        f"{'，'.join(said_zh)}（建议不少于 {FEW_WAYS} 种）：换一种问法就可能答不出。",
        f"Few ways of asking: {', '.join(said_en)} ({FEW_WAYS} or more advised). Worded otherwise, the answer may not come.",
    )
    label = Text(f"添加 {len(added)} 行现成的问法", f"Add {len(added)} ready rows")
    mends = (Mend("add", label, added=tuple(added)),) if added and _card(identity) else ()
    return [Finding("warn", text, tuple(sorted(rows)), kind="paraphrases", mends=mends)]


def refusals(known: Known, config: TrainConfig, identity: Identity) -> list[Finding]:
    """Tables after which the model declines nothing any more, or too much."""
    declined = tuple(i for i, facts in known if facts.states_limit)
    if len(declined) >= _DECLINED_ROWS and len(declined) > _MOST_DECLINED * len(known):
        text = Text(
            f"{len(declined):,} 行（{len(declined) / len(known):.0%}）的回答都在拒绝或说做不到：模型会变得处处推辞。"
            "请多加能正常回答的行。",
            f"{len(declined):,} rows ({len(declined) / len(known):.0%}) decline or say what cannot be done: the model will "
            "decline everywhere. Add rows that answer.",
        )
        return [Finding("warn", text, declined, _guard(config), kind="refusals")]
    if declined or config.rehearsal != "off" or not _is_identity(known):
        return []
    added = tuple(row for language in LANGUAGES for row in _shipped(known, language, signs.asks_limit))
    label = Text(f"添加 {len(added)} 行“做不到的事”", f"Add {len(added)} rows on limits")
    text = Text(
        "没有一行说模型做不到什么（不能联网、不保证正确），也没有开启防遗忘：训练后它可能什么都答应，该拒绝的也不拒绝。",
        "No row says what the model cannot do (go online, always be right), and the guard is off: it may come to promise "
        "everything and refuse nothing.",
    )
    mends = (Mend("add", label, added=added),) if added and _card(identity) else ()
    return [Finding("warn", text, (), _guard(config), kind="refusals", mends=mends)]


def share(config: TrainConfig, own: int, mixed: int) -> list[Finding]:
    """The table's `own` rows as a share of what is trained on; `mixed` rows come from elsewhere."""
    repeated, least = own * config.dataset_repeat, mix.LEAST_SHARE
    if not mixed or repeated >= least * (repeated + mixed):
        return []
    part = repeated / (repeated + mixed)
    text = Text(
        f"自己的 {repeated:,} 行只占训练数据的 {part:.1%}（另混入 {mixed:,} 行）：建议不少于 {least:.0%}，否则会被冲淡。",
        f"The table's {repeated:,} rows are {part:.1%} of what is trained on, beside {mixed:,} mixed in; {least:.0%} or "
        "more is advised, or they are drowned.",
    )
    fixes = []
    # Repeated rows would be both trained on and held out.
    if not config.split_dataset_ratio and (times := math.ceil(mixed * least / (1 - least) / own)) <= _MOST_REPEATS:
        fixes.append(Fix(Text(f"本表重复 {times} 遍", f"Repeat the table {times} times"), (("dataset_repeat", times),)))
    if fewer := _fewer(config.mix, mixed, int(repeated * (1 - least) / least)):
        fixes.append(Fix(Text(f"混入数据改为 {fewer}", f"Mix in {fewer}"), (("mix", fewer),)))
    return [Finding("warn", text, (), tuple(fixes), kind="share")]


def _fewer(wanted: str, mixed: int, rows: int) -> str:
    """The same sources with at most `rows` rows in all; "" where the size of several of them is not known."""
    try:
        parts = mix.parse(wanted)
    except ConfigError:
        return ""
    unknown = mixed - sum(count or 0 for _, count in parts)
    if rows < len(parts) or sum(count is None for _, count in parts) > 1 or unknown < 0:
        return ""
    sizes = [(name, unknown if count is None else count) for name, count in parts]
    return mix.written([(name, max(1, int(rows * size / mixed))) for name, size in sizes])


def _places(groups: Sequence[Sequence[int]]) -> Text:
    """The first row numbers of the first groups."""
    shown = [" / ".join(str(i + 1) for i in group[:4]) for group in groups[:5]]
    return Text("；".join(shown), "; ".join(shown))


def _keep_first(again: Sequence[int]) -> Mend:
    return Mend(
        "remove", Text(f"只留第一行，删去 {len(again):,} 行", f"Keep the first, delete {len(again):,}"), tuple(again)
    )


def _guard(config: TrainConfig) -> tuple[Fix, ...]:
    if config.rehearsal != "off":
        return ()
    return (Fix(Text("开启防遗忘", "Switch the guard on"), (("rehearsal", "normal"),)),)


def _answer(facts: RowFacts) -> object:
    return facts.answer if facts.answer_length else facts.row.output.strip()


def _subject(topic: signs.Topic) -> str:
    """Who it is and what its name is are one question; who made it is the other."""
    return "maker" if topic == "maker" else "who" if topic else ""


def _is_identity(known: Known) -> bool:
    # In tens of thousands of rows of anything somebody asks who somebody is.
    least = max(_IDENTITY_ROWS, _IDENTITY_SHARE * len(known))
    return sum(bool(facts.topic) for _, facts in known) >= least


def _card(identity: Identity) -> bool:
    """Whether the card gives all that the shipped rows need."""
    return bool(identity.name("zh") and identity.author("zh"))


def _shipped(known: Known, language: Language, wanted: Callable[[str], object]) -> tuple[Row, ...]:
    """Shipped identity rows in a language whose question is wanted and not yet asked."""
    asked = {facts.key for _, facts in known}
    rows = (row for row in starter.starter_sets()[-1].rows if row.language == language)
    return tuple(row for row in rows if wanted(row.question) and signs.plain(row.question) not in asked)
