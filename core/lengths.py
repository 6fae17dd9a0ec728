"""How many tokens a row has and what of it is trained, remembered, so that an edit counts one row and not the table."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from core import truncation
from core.advice import Finding, Level
from core.config import TrainConfig
from core.dataset import Row
from core.encode import Encoder
from core.errors import DatasetError
from core.models import ModelInfo
from core.text import Text

_MOST_ROWS = 200_000
_THREADS = 4
_SHOWN = 5
_Parts = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Length:
    """One row's. `tokens`: of its longest example, before any cut. `parts`: (tokens, answer tokens) of each example that
    is trained, none where the row is left out. `refused`: why it cannot be trained on, without its number."""

    tokens: int
    parts: _Parts
    turns_cut: int = 0
    tokens_cut: int = 0
    refused: Text | None = None


class Lengths:
    """Lengths of the rows seen lately. Any thread may ask."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._whole: dict[tuple[str, str, Row], Length] = {}
        self._cut: dict[tuple[str, str, int, Row], Length] = {}

    def of(self, rows: Sequence[Row], config: TrainConfig, info: ModelInfo, encoder: Encoder) -> list[Length]:
        """Those of resolved rows, in order, as `max_length` and `truncation_strategy` have them trained."""
        folder, limit = str(info.folder), config.max_length
        whole = self._wholes(rows, folder, config.system, encoder)
        if config.truncation_strategy == "raise":
            return whole
        if config.truncation_strategy == "delete":
            return [replace(length, parts=()) if length.tokens > limit else length for length in whole]
        pairs = zip(rows, whole, strict=True)
        return [self._fit(row, folder, config, encoder) if one.tokens > limit else one for row, one in pairs]

    def _wholes(self, rows: Sequence[Row], folder: str, system: str, encoder: Encoder) -> list[Length]:
        with self._guard:
            known = [self._whole.get((folder, system, row)) for row in rows]
        fresh = list(dict.fromkeys(row for row, length in zip(rows, known, strict=True) if length is None))
        if not fresh:
            return [length for length in known if length is not None]
        if len(fresh) == 1:
            made = {fresh[0]: _whole(fresh[0], system, encoder)}
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                made = dict(zip(fresh, pool.map(lambda row: _whole(row, system, encoder), fresh), strict=True))
        with self._guard:
            if len(self._whole) + len(made) > _MOST_ROWS:
                self._whole.clear()
            self._whole |= {(folder, system, row): length for row, length in made.items()}
        return [made[row] if length is None else length for row, length in zip(rows, known, strict=True)]

    def _fit(self, row: Row, folder: str, config: TrainConfig, encoder: Encoder) -> Length:
        key = (folder, config.system, config.max_length, row)
        with self._guard:
            known = self._cut.get(key)
        if known is None:
            known = _cut(row, config, encoder)
            with self._guard:
                if len(self._cut) > _MOST_ROWS:
                    self._cut.clear()
                self._cut[key] = known
        return known


def _whole(row: Row, system: str, encoder: Encoder) -> Length:
    try:
        examples = encoder.examples(row.messages(system))
    except DatasetError as error:  # a template refuses what its model was not made for
        return Length(0, (), refused=error.text)
    return Length(truncation.longest(examples), tuple((len(one), one.answer_tokens) for one in examples))


def _cut(row: Row, config: TrainConfig, encoder: Encoder) -> Length:
    messages = row.messages(config.system)
    try:
        fitted = truncation.fit(encoder, messages, config)
    except DatasetError as error:
        return Length(truncation.longest(encoder.examples(messages)), (), refused=error.text)
    parts = tuple((len(one), one.answer_tokens) for one in fitted.examples)
    return Length(fitted.tokens, parts, fitted.turns_cut, fitted.tokens_cut)


def cut_findings(found: Finding, lengths: Sequence[Length], limit: int) -> list[Finding]:
    """`found` of rows over the limit, of `lengths`, told by what is cut of each; and those that cannot be cut, apart."""
    pairs = list(zip(found.rows, lengths, strict=True))
    cut = [(row, length) for row, length in pairs if length.refused is None]
    kept = tuple(row for row, length in pairs if length.refused is not None)
    findings = []
    if kept:
        shown = numbers_of(kept)
        text = Text(
            zh=f"{len(kept):,} 行无法截断：第 {shown.zh} 行。系统提示词和回答本身就超过 {limit:,} 词元，而它们不会被截断。"
            "请缩短，或调大“最大长度”。",
            en=f"{len(kept):,} too long to be cut: row {shown.en}. System prompt and answer alone are over {limit:,} tokens, and "
            "these are never cut. Shorten, or raise Maximum length.",
        )
        findings.append(replace(found, level="bad", text=text, rows=kept, kind="uncuttable"))
    if cut:
        more = "…" if len(cut) > _SHOWN else ""
        tokens = sum(length.tokens_cut for _, length in cut)
        each_zh = "、".join(f"第 {row + 1} 行（{_said(length).zh}）" for row, length in cut[:_SHOWN])
        each_en = ", ".join(f"row {row + 1} ({_said(length).en})" for row, length in cut[:_SHOWN])
        text = Text(
            zh=f"{len(cut):,} 行超过最大长度 {limit:,}，训练时从前面截去共 {tokens:,} 个词元，回答不受影响："
            f"{each_zh}{'、' + more if more else ''}。",
            en=f"{len(cut):,} over the maximum length of {limit:,}; {tokens:,} tokens are cut from their beginnings, the answers "
            f"stay: {each_en}{', ' + more if more else ''}.",
        )
        findings.append(replace(found, level="warn", text=text, rows=tuple(row for row, _ in cut)))
    return findings


def mixed_findings(lengths: Sequence[Length], limit: int) -> list[Finding]:
    """What becomes of rows over the limit that are mixed in, which have no place in the table; in the order drawn."""
    out = [i for i, length in enumerate(lengths) if not length.parts and length.refused is None]
    over = [i for i, length in enumerate(lengths) if length.parts and length.tokens > limit and not length.tokens_cut]
    cut = [i for i, length in enumerate(lengths) if length.tokens_cut]
    refused = [i for i, length in enumerate(lengths) if length.refused is not None]
    tokens, found = sum(length.tokens_cut for length in lengths), list[Finding]()
    said: tuple[tuple[Sequence[int], Level, str, str], ...] = (
        (
            over,
            "bad",
            "请调高“最大长度”，或在“过长的行”里选择截断或略去",
            "raise it, or choose to cut or leave out such rows",
        ),
        (out, "warn", "不参加训练", "left out of training"),
        (cut, "warn", f"训练时从前面截去共 {tokens:,} 个词元", f"{tokens:,} tokens are cut from their beginnings"),
    )
    for places, level, zh, en in said:
        if places:
            text = Text(
                zh=f"混入数据有 {len(places):,} 行超过最大长度 {limit:,}（{_places(places).zh}）：{zh}。",
                en=f"Mix in: {len(places):,} over the maximum length of {limit:,} ({_places(places).en}): {en}.",
            )
            found.append(Finding(level, text, kind="mixed_too_long"))
    if refused and (why := lengths[refused[0]].refused) is not None:
        where = _places(refused)
        text = Text(zh=f"混入数据（{where.zh}）：{why.zh}", en=f"Mix in ({where.en}): {why.en}")
        found.append(Finding("bad", text, kind="mixed_refused"))
    return found


def _places(rows: Sequence[int]) -> Text:
    shown = numbers_of(rows)
    return Text(zh=f"按抽取顺序第 {shown.zh} 行", en=f"row {shown.en} in the order drawn")


def numbers_of(rows: Sequence[int]) -> Text:
    """The first row numbers, counted from 1, for a sentence."""
    shown = [*(str(row + 1) for row in rows[:_SHOWN]), *(["…"] if len(rows) > _SHOWN else [])]
    return Text(zh="、".join(shown), en=", ".join(shown))


def _said(length: Length) -> Text:
    turns = length.turns_cut
    zh, en = (f"{turns} 条消息，", f"{turns} message{'s' * (turns != 1)}, ") if turns else ("", "")
    return Text(zh=f"{zh}{length.tokens_cut:,} 个词元", en=f"{en}{length.tokens_cut:,} tokens")
