"""The identity probes as a table, and the strip of numbers above a run: values -> HTML. Knows no component.

Every text that a person or a model wrote is escaped. Styled by static/probe_table.css.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from core.text import Language, Text

MOST_MIDDLE_COLUMNS = 3

Probing = Mapping[str, object]
Answer = Mapping[str, object]

# verdict: (css class, words). The words never rely on the colour.
_VERDICTS: dict[str, tuple[str, Text]] = {
    "hit": ("pt-ok", Text("✓ 达成", "✓ pass")),
    "old": ("pt-warn", Text("✗ 旧身份", "✗ old identity")),
    "miss": ("pt-grey", Text("– 未命中", "– missed")),
    "kept": ("pt-ok", Text("✓ 保持", "✓ kept")),
    "changed": ("pt-warn", Text("≠ 变了", "≠ changed")),
}
_BEFORE = Text("训练前", "Before")
_QUESTION = Text("问题", "Question")
_VERDICT = Text("结果", "Result")
_KEPT_SKILLS = Text("能力保持", "Kept skills")
_NEW = Text("新身份", "new identity")
_OLD = Text("旧身份", "old identity")
_CAPTION = Text("同样的问题在训练前后的回答", "Answers to the same questions before and after training")
_WAITING = Text("第一次提问后，回答会出现在这里", "Answers appear here after the first probing")


def probe_table(probings: Sequence[Probing], language: Language) -> str:
    """The table of the `probed` events of one run, oldest first: a row a question, a column a probing.

    Columns are the first probing, up to three between and the latest; the tag judges the latest. General questions,
    whose answers should not change, come last under a label of their own.
    """
    if not probings:
        return f'<div class="pt-waiting">{_WAITING.of(language)}</div>'
    shown = _columns(probings)
    latest = _answers(shown[-1])
    general = [answer for answer in latest if answer.get("kind") == "general"]
    identity = [answer for answer in latest if answer.get("kind") != "general"]
    heads = "".join(f'<th scope="col"{_fold(i, len(shown))}>{_title(p, language)}</th>' for i, p in enumerate(shown))
    parts = [f"<tbody>{''.join(_row(answer, shown, language) for answer in identity)}</tbody>"]
    if general:
        label = f'<tr class="pt-group"><th scope="rowgroup" colspan="{len(shown) + 2}">{_KEPT_SKILLS.of(language)}</th></tr>'
        parts.append(f"<tbody>{label}{''.join(_row(answer, shown, language) for answer in general)}</tbody>")
    key = (
        f'<div class="pt-key"><span><mark class="pt-new">{_NEW.of(language)}</mark></span>'
        f'<span><mark class="pt-old">{_OLD.of(language)}</mark></span></div>'
    )
    return (
        f'<div class="pt"><table><caption>{_CAPTION.of(language)}</caption><thead><tr>'
        f'<th scope="col">{_QUESTION.of(language)}</th>{heads}<th scope="col">{_VERDICT.of(language)}</th></tr></thead>'
        f"{''.join(parts)}</table>{key}</div>"
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


def _title(probing: Probing, language: Language) -> str:
    step = probing.get("step")
    return _BEFORE.of(language) if step == 0 else escape(Text(f"第 {step} 步", f"Step {step}").of(language))


def _fold(column: int, columns: int) -> str:
    """Columns between the first and the last are left out on a phone."""
    return ' class="pt-middle"' if 0 < column < columns - 1 else ""


def _answers(probing: Probing) -> list[Answer]:
    answers = probing.get("answers")
    return [answer for answer in answers if isinstance(answer, Mapping)] if isinstance(answers, Sequence) else []


def _row(latest: Answer, shown: Sequence[Probing], language: Language) -> str:
    question = str(latest.get("question", ""))
    cells = []
    for column, probing in enumerate(shown):
        answer = next((a for a in _answers(probing) if a.get("question") == latest.get("question")), None)
        text = f'<div class="pt-answer">{marked(answer) if answer else "–"}</div>'
        cells.append(f'<td data-label="{_title(probing, language)}"{_fold(column, len(shown))}>{text}</td>')
    kind, words = _VERDICTS.get(str(latest.get("verdict", "")), ("", Text("", "")))
    tag = f'<span class="pt-tag {kind}">{words.of(language)}</span>' if kind else ""
    return f'<tr><th scope="row">{escape(question)}</th>{"".join(cells)}<td class="pt-verdict">{tag}</td></tr>'


def marked(answer: Answer) -> str:
    """The answer's text with its marks: words of the new identity and of the old one. Overlaps go to the first."""
    text, marks = str(answer.get("text", "")), answer.get("marks")
    pieces, at = [], 0
    for mark in sorted(marks if isinstance(marks, list) else [], key=lambda mark: mark["start"]):
        start, end = max(at, mark["start"]), min(len(text), mark["end"])
        if start >= end:
            continue
        kind = "pt-new" if mark["kind"] == "new" else "pt-old"
        pieces += [escape(text[at:start]), f'<mark class="{kind}">{escape(text[start:end])}</mark>']
        at = end
    return "".join(pieces) + escape(text[at:])


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
