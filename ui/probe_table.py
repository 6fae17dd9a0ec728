"""The identity probes as a table, and the strip of numbers above a run: values -> HTML. Knows no component.

Every text that a person or a model wrote is escaped. Styled by static/probe_table.css.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from html import escape

from core.text import Language, Text

MOST_MIDDLE_COLUMNS = 3

Probing = Mapping[str, object]
Answer = Mapping[str, object]

# verdict: (css class, words). The words never rely on the colour.
_VERDICTS: dict[str, tuple[str, Text]] = {
    "hit": ("pt-ok", Text("✓ 命中", "✓ pass")),
    "old": ("pt-warn", Text("✗ 旧身份", "✗ old identity")),
    "miss": ("pt-grey", Text("– 未命中", "– missed")),
    "kept": ("pt-ok", Text("✓ 保持", "✓ kept")),
    "changed": ("pt-warn", Text("≠ 变了", "≠ changed")),
    "leak": ("pt-warn", Text("✗ 串入身份", "✗ leaked")),
}
BEFORE = Text("训练前", "Before")
BASE = Text(
    "基座（不带适配器）", "Base (no adapter)"
)  # of a run that went on from an adapter: asked is the base there, too
_QUESTION = Text("问题", "Question")
_VERDICT = Text("结果", "Result")
_KEPT_SKILLS = Text("能力保持", "Kept skills")
_NEW = Text("新身份", "new identity")
_OLD = Text("旧身份", "old identity")
_FRESH = Text("这次新出现", "new this time")
_GONE = Text("上次有，这次没有", "was there last time")
_MORE = Text(
    "另外 {n} 道没有训练过的问题：{hits} 道身份题中 {hit} 道命中",
    "{n} more held-out questions: {hit} of {hits} identity ones hit",
)
_ALIKE = 0.4  # a text that shares less with the one before has been rewritten: what is gone would only be in the way
_WORDS = re.compile(r"[^\W\u3400-\u9fff]+|\s+|.", re.DOTALL)  # a Chinese character is a word
_CAPTION = Text("同样的问题，{start}和训练后的回答", "Answers to the same questions: {start}, and after training")
_WAITING = Text("第一次提问后，回答会出现在这里", "Answers appear here after the first probing")


def probe_table(probings: Sequence[Probing], language: Language, start: Text = BEFORE) -> str:
    """The table of the `probed` events of one run, oldest first: a row a question, a column a probing; `start` heads step 0.

    Columns are the first probing, up to three between and the latest; the tag judges the latest, whose words that were
    not there the time before are marked. General questions, whose answers should not change, come last under a label of
    their own. Questions that are counted without being pinned are behind a line to open.
    """
    if not probings:
        return f'<div class="pt-waiting">{_WAITING.of(language)}</div>'
    latest = _answers(probings[-1])
    earlier = {str(answer.get("question")): str(answer.get("text", "")) for answer in _answers(probings[-2:][0])}
    if len(probings) == 1:
        earlier = {}
    pinned = [answer for answer in latest if answer.get("shown", True)]
    others = [answer for answer in latest if not answer.get("shown", True)]
    table = _table(pinned, _columns(probings), earlier, language, start)
    if others:
        identity = [answer for answer in others if answer.get("kind") != "general"]
        hit = sum(answer.get("verdict") == "hit" for answer in identity)
        words = _MORE.of(language).format(n=len(others), hits=len(identity), hit=hit)
        inner = _table(others, [probings[0], *probings[-1:]][: len(probings)], earlier, language, start)
        table += f'<details class="pt-more"><summary>{escape(words)}</summary>{inner}</details>'
    key = (
        f'<div class="pt-key"><span><mark class="pt-new">{_NEW.of(language)}</mark></span>'
        f'<span><mark class="pt-old">{_OLD.of(language)}</mark></span>'
    )
    if "<ins" in table:
        key += f"<span><ins>{_FRESH.of(language)}</ins></span>"
    if "<del" in table:
        key += f"<span><del>{_GONE.of(language)}</del></span>"
    return f'<div class="pt">{table}{key}</div></div>'


def _table(
    answers: Sequence[Answer], shown: Sequence[Probing], earlier: Mapping[str, str], language: Language, start: Text
) -> str:
    """The questions of `answers`, a column a probing."""
    general = [answer for answer in answers if answer.get("kind") == "general"]
    identity = [answer for answer in answers if answer.get("kind") != "general"]
    heads = "".join(
        f'<th scope="col"{_fold(i, len(shown))}>{_title(p, language, start)}</th>' for i, p in enumerate(shown)
    )
    parts = [f"<tbody>{''.join(_row(answer, shown, earlier, language, start) for answer in identity)}</tbody>"]
    if general:
        label = f'<tr class="pt-group"><th scope="rowgroup" colspan="{len(shown) + 2}">{_KEPT_SKILLS.of(language)}</th></tr>'
        parts.append(
            f"<tbody>{label}{''.join(_row(answer, shown, earlier, language, start) for answer in general)}</tbody>"
        )
    return (
        f"<table><caption>{_CAPTION.of(language).format(start=start.of(language))}</caption><thead><tr>"
        f'<th scope="col">{_QUESTION.of(language)}</th>{heads}<th scope="col">{_VERDICT.of(language)}</th></tr></thead>'
        f"{''.join(parts)}</table>"
    )


def _columns(probings: Sequence[Probing]) -> list[Probing]:
    if len(probings) <= MOST_MIDDLE_COLUMNS + 2:
        return list(probings)
    last, parts = len(probings) - 1, MOST_MIDDLE_COLUMNS + 1
    chosen = {last * i // parts for i in range(parts + 1)}
    turned = next((i for i in range(1, last) if _hits(probings[i]) > _hits(probings[0])), None)
    if turned is not None and turned not in chosen:
        # The probing at which the identity first shows takes the place of its nearest neighbour.
        chosen -= {min(chosen - {0, last}, key=lambda i: abs(i - turned))}
        chosen |= {turned}
    return [probings[i] for i in sorted(chosen)]


def _hits(probing: Probing) -> int:
    hits = probing.get("hits")
    return hits if isinstance(hits, int) else 0


def _title(probing: Probing, language: Language, start: Text) -> str:
    step = probing.get("step")
    return start.of(language) if step == 0 else escape(Text(f"第 {step} 步", f"Step {step}").of(language))


def _fold(column: int, columns: int) -> str:
    """Columns between the first and the last are left out on a phone."""
    return ' class="pt-middle"' if 0 < column < columns - 1 else ""


def _answers(probing: Probing) -> list[Answer]:
    answers = probing.get("answers")
    return [answer for answer in answers if isinstance(answer, Mapping)] if isinstance(answers, Sequence) else []


def _row(latest: Answer, shown: Sequence[Probing], earlier: Mapping[str, str], language: Language, start: Text) -> str:
    question = str(latest.get("question", ""))
    cells = []
    for column, probing in enumerate(shown):
        answer = next((a for a in _answers(probing) if a.get("question") == latest.get("question")), None)
        before = earlier.get(question) if column == len(shown) - 1 else None
        text = f'<div class="pt-answer">{marked(answer, before) if answer else "–"}</div>'
        cells.append(f'<td data-label="{_title(probing, language, start)}"{_fold(column, len(shown))}>{text}</td>')
    kind, words = _VERDICTS.get(str(latest.get("verdict", "")), ("", Text("", "")))
    tag = f'<span class="pt-tag {kind}">{words.of(language)}</span>' if kind else ""
    return f'<tr><th scope="row">{escape(question)}</th>{"".join(cells)}<td class="pt-verdict">{tag}</td></tr>'


def marked(answer: Answer, earlier: str | None = None) -> str:
    """The answer's text with its marks: words of the new identity and of the old one. Overlaps go to the first.

    With `earlier`, the answer of the time before, also what is new in it and what is gone.
    """
    text, marks = str(answer.get("text", "")), answer.get("marks")
    changes = list(_changes(earlier, text)) if earlier not in (None, text) else []
    pieces, at = [], 0
    for mark in sorted(marks if isinstance(marks, list) else [], key=lambda mark: mark["start"]):
        start, end = max(at, mark["start"]), min(len(text), mark["end"])
        if start >= end:
            continue
        kind = "pt-new" if mark["kind"] == "new" else "pt-old"
        inner = _changed(text, start, end, changes, inside=True)
        pieces += [_changed(text, at, start, changes), f'<mark class="{kind}">{inner}</mark>']
        at = end
    return "".join(pieces) + _changed(text, at, len(text), changes)


def _changes(earlier: str, text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, what stood there before) of each place in `text` that differs from `earlier`, word by word."""
    before, after = _WORDS.findall(earlier), _WORDS.findall(text)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    rewritten = matcher.ratio() < _ALIKE
    for kind, i, j, m, n in matcher.get_opcodes():
        if kind != "equal":
            start = len("".join(after[:m]))
            yield start, start + len("".join(after[m:n])), "" if rewritten else "".join(before[i:j])


def _changed(text: str, start: int, end: int, changes: Sequence[tuple[int, int, str]], inside: bool = False) -> str:
    """text[start:end] with what is new in it, and before that what is gone; `inside`: not what went at its two ends."""
    pieces, at = [], start
    for first, last, words in changes:
        if start < first < end or (first in (start, end) and not inside):
            pieces += [escape(text[at:first]), _gone(words)]
            at = first
        low, high = max(at, first), min(end, last)
        if low < high:
            pieces += [escape(text[at:low]), f"<ins>{escape(text[low:high])}</ins>"]
            at = high
    return "".join(pieces) + escape(text[at:end])


def _gone(words: str) -> str:
    return f"<del>{escape(words)}</del>" if words.strip() else ""


def stat_strip(
    language: Language,
    *,
    step: int = 0,
    steps: int = 0,
    loss: float | None = None,
    first_loss: float | None = None,
    hits: tuple[int, int] | None = None,
    seconds_left: float | None = None,
    seconds_taken: float | None = None,
    seconds_per_step: float | None = None,
    peak_memory_bytes: float | None = None,
    memory_bytes: float | None = None,
    card: bool = False,
) -> str:
    """Five numbers of a run: progress, loss and its change, identity hits, time, peak memory. None shows a dash.

    The time is what is left, or, once `seconds_taken` is known, what it took. `card`: the memory is a card's.
    """
    change = "" if loss is None or first_loss is None or step < 2 else _change(loss - first_loss)
    total = f"/ {steps} " if steps else ""
    hit, asked = hits if hits else (None, None)
    per_step = "" if seconds_per_step is None else f"{seconds_per_step:.3g} {Text('秒/步', 's/step').of(language)}"
    time = Text("剩余时间", "Time left") if seconds_taken is None else Text("用时", "Took")
    seconds = seconds_left if seconds_taken is None else seconds_taken
    of_memory = f"/ {memory_bytes / 1e9:.0f} GB" if memory_bytes else "GB"
    cells = (
        (Text("进度", "Progress"), str(step) if steps else None, f"{total}{Text('步', 'steps').of(language)}"),
        (Text("训练损失", "Train loss"), None if loss is None else f"{loss:.3f}", change),
        (
            Text("身份命中", "Identity hits"),
            None if hit is None else str(hit),
            f"/ {asked} {Text('题', 'probes').of(language)}",
        ),
        (time, None if seconds is None else _clock(seconds), per_step),
        (
            Text("显存峰值" if card else "内存峰值", "Peak memory"),
            None if not peak_memory_bytes else f"{peak_memory_bytes / 1e9:.1f}",
            of_memory,
        ),
    )
    shown = "".join(
        f"<div><small>{name.of(language)}</small><b>{value or '–'}</b><em>{extra if value else ''}</em></div>"
        for name, value, extra in cells
    )
    bar = f'<i style="width:{100 * min(1, step / steps):.1f}%"></i>' if steps else ""
    return f'<div class="pt-strip">{shown}<div class="pt-progress" aria-hidden="true">{bar}</div></div>'


def _change(difference: float) -> str:
    return f"{'↓' if difference <= 0 else '↑'} {abs(difference):.2f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
