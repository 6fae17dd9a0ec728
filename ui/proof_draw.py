"""A proof as HTML: the verdict, a tile for each light, and the answers behind a number. Values in, text out.

Everything that a person or a model wrote is escaped. Styled by static/proof_card.css.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from core import probes
from core.moments import moment
from core.proof import Proof, Reading, Test
from core.proof_stats import Light
from core.proof_words import GROUPS, LIGHTS, NUMBERS, REFERENCES
from core.text import Text
from ui.page import Page
from ui.pieces import note, safe, tag

Words = tuple[Sequence[str], Sequence[str]]
"""Words of the new identity, and of the old one."""

# A light never speaks by its colour alone: it has a sign, and a word for who hears the page.
_SIGNS: dict[Light, tuple[str, str]] = {
    "green": ("✓", "proof.verdict.green"),
    "yellow": ("!", "proof.verdict.yellow"),
    "red": ("✕", "proof.verdict.red"),
    "none": ("–", "proof.verdict.none"),
}
_VERDICTS = {
    "hit": "proof.verdict.hit",
    "old": "proof.verdict.old",
    "miss": "proof.verdict.miss",
    "leak": "proof.verdict.leak",
    "kept": "proof.verdict.kept",
    "lost": "proof.verdict.lost",
    "changed": "proof.verdict.changed",
    "right": "proof.verdict.right",
    "wrong": "proof.verdict.wrong",
    "refused": "proof.verdict.refused",
    "answered": "proof.verdict.answered",
}
# A column is too narrow for their whole names.
_SHORT = {
    "drift": "proof.short.drift",
    "change": "proof.short.change",
    "loss_before": "proof.short.loss_before",
    "loss_after": "proof.short.loss_after",
    "margin": "proof.short.margin",
    "same": "proof.short.same",
    "tokens": "proof.short.tokens",
}


def draw(page: Page, proof: Proof) -> str:
    """The whole card below its head: verdict, tiles, and what was measured on what."""
    measured = [test for test in proof.tests if test.n]
    tiles = "".join(_tile(page, test) for test in measured)
    absent = "".join(
        f"<li><b>{safe(page.of(test.name))}</b> {safe(page.of(test.sentence))}</li>"
        for test in proof.tests
        if not test.n
    )
    left_out = f'<ul class="pf-absent">{absent}</ul>' if absent else ""
    return (
        f'{_verdict(page, proof)}<div class="pf-tiles" data-count="{len(measured)}">{tiles}</div>'
        f'{left_out}<p class="pf-facts">{_facts(page, proof)}</p>'
    )


def draw_answers(page: Page, test: Test, words: Words = ((), ()), system: str = "") -> str:
    """The answers behind one number, those that are not right first.

    `words` are marked in the base's answers; `system` is the usual system prompt, which is not worth a line.
    """
    t, title = page.t, safe(page.t("proof.answers", name=page.of(test.name)))
    wrong = sum(reading.ok is False for reading in test.readings)
    order = sorted(test.readings, key=lambda reading: (reading.ok is not False, reading.ok is not None))
    chips = ""
    if 0 < wrong < len(order):
        every, some = safe(t("proof.answers.all", n=len(order))), safe(t("proof.answers.bad", n=wrong))
        chips = (
            f'<span class="pf-only"><button type="button" data-only="" aria-pressed="true">{every}</button>'
            f'<button type="button" data-only="bad" aria-pressed="false">{some}</button></span>'
        )
    head = (
        f"<header><h4>{title}</h4>{chips}"
        f'<button type="button" class="pf-fold" data-act="fold">{safe(t("proof.answers.close"))}</button></header>'
    )
    whole = f'<p class="pf-whole">{safe(page.of(test.sentence))}</p>'
    if not order:
        return head + whole + note(t("proof.answers.none"))
    labels = "".join(f"<span>{safe(t(key))}</span>" for key in ("proof.asked", "proof.before", "proof.after"))
    items = "".join(_reading(page, reading, words, system) for reading in order)
    measured = "".join(
        f"<span>{safe(page.of(NUMBERS[name]))} <b>{_number(value)}</b></span>"
        for name, value in test.numbers.items()
        if name in NUMBERS and (value or name != "left_out")
    )
    head += whole
    head += f'<p class="pf-numbers">{measured}</p>' if measured else ""
    return f'{head}<div class="pf-labels" aria-hidden="true">{labels}</div><ul class="pf-readings" tabindex="0">{items}</ul>'


def light_tag(page: Page, light: Light) -> str:
    """A proof's light where there is no room for more."""
    kind = {"green": "ok", "yellow": "warn", "red": "bad", "none": ""}[light]
    return tag(f"{page.t('proof.title')} {_SIGNS[light][0]}", kind)


def light_sign(page: Page, light: Light) -> str:
    """The light's sign, with its word for who hears the page."""
    word = safe(page.of(LIGHTS[light]))
    return (
        f'<i class="pf-light {light}" aria-hidden="true">{_SIGNS[light][0]}</i><span class="pf-heard">{word}: </span>'
    )


def _verdict(page: Page, proof: Proof) -> str:
    sign, word = _SIGNS[proof.light]
    weak = [test for test in proof.tests if proof.light in ("red", "yellow") and test.light == proof.light]
    links = page.t("list.comma").join(
        f'<button type="button" data-open="{safe(test.id)}">{safe(page.of(test.name))}</button>' for test in weak
    )
    named = f'<span class="pf-weak">{links}</span>' if links else ""
    return (
        f'<div class="pf-verdict {proof.light}"><i class="pf-light {proof.light}" aria-hidden="true">{sign}</i>'
        f"<div><h3>{safe(page.t(word))}{named}</h3><p>{safe(page.of(proof.headline))}</p>"
        f'<p class="pf-ruler">{safe(page.of(proof.ruler))}</p>{_ruler(page, proof)}</div></div>'
    )


def _ruler(page: Page, proof: Proof) -> str:
    """The drift on a logarithmic line, among the changes that people know."""
    references, drift = REFERENCES.get(proof.suite, ()), _drift(proof)
    if drift is None or not references:
        return ""
    low, high = references[0].drift / 4, references[-1].drift * 2.5

    def place(value: float) -> float:
        return 100 * math.log(min(max(value, low), high) / low) / math.log(high / low)

    marks = []
    for reference in references:
        name = page.of(reference.name)
        # The line has room for "8-bit"; the whole name stands in the title.
        short = found[0] if (found := re.search(r"\d+(?:-bit| ?比特| ?位)|bf16", name)) else name
        marks.append(
            f'<span style="left:{place(reference.drift):.1f}%" title="{safe(name)} · {reference.drift:g}">{safe(short)}</span>'
        )
    light = next((test.light for test in proof.tests if test.id == "drift"), proof.light)
    near = ' class="near"' if place(drift) > 92 else ""  # its number would stand beyond the card
    said = safe(page.t("proof.ruler.here", drift=_number(drift)))
    return (
        f'<div class="pf-scale" role="img" aria-label="{safe(page.of(proof.ruler))} {said}">{"".join(marks)}'
        f'<b class="{light}" style="left:{place(drift):.1f}%" title="{said}"><i{near}>{_number(drift)}</i></b></div>'
    )


def _drift(proof: Proof) -> float | None:
    """How far the adapter moves what it was not trained on: the larger of the two readings."""
    found = [test.numbers.get("drift") for test in proof.tests if test.id in ("drift", "text")]
    return max((value for value in found if value is not None), default=None)


def _tile(page: Page, test: Test) -> str:
    facts = f'<span title="{safe(page.of(test.count))}">{_ends(test)}</span>'
    if test.before is not None:
        change = safe(page.t("proof.change", before=test.before, after=test.hits))
        facts += f'<span title="{change}">{test.before} → <b>{test.hits}</b></span>'
    elif (key := next((key for key in ("change", "drift") if key in test.numbers), None)) is not None:
        title = safe(page.of(NUMBERS[key]))
        facts += f'<span title="{title}">{safe(page.t(_SHORT[key]))} <b>{_number(test.numbers[key])}</b></span>'
    return (
        f'<button type="button" class="pf-tile {test.light}" data-test="{safe(test.id)}" aria-expanded="false">'
        f'<span class="pf-name">{light_sign(page, test.light)}{safe(page.of(test.name))}</span>'
        f'<span class="pf-count"><b>{test.hits}</b> {safe(page.t("proof.of", n=test.n))}</span>{_bar(test)}'
        f'<span class="pf-fact">{facts}</span><span class="pf-said">{safe(page.of(test.sentence))}</span></button>'
    )


def _bar(test: Test) -> str:
    """The share on a line from 0 to all, with its interval, and a ring where the base stood."""
    low, high = 100 * max(0.0, test.low), 100 * min(1.0, test.high)
    was = f'<u style="left:{100 * test.before / test.n:.1f}%"></u>' if test.before is not None else ""
    return (
        f'<span class="pf-bar" aria-hidden="true"><i style="left:{low:.1f}%;width:{max(0.0, high - low):.1f}%"></i>'
        f'{was}<b style="left:{100 * test.hits / test.n:.1f}%"></b></span>'
    )


def _facts(page: Page, proof: Proof) -> str:
    when = page.of(moment(proof.created))
    parts = (proof.model.rstrip("/").rpartition("/")[2], proof.quantisation, proof.dtype)
    what = " · ".join(part for part in parts if part and part != "none")
    said = page.t("proof.facts", what=what, when=when, seconds=_seconds(page, proof.seconds))
    if proof.base_seconds > 0:
        said += page.t("proof.facts.base", seconds=_seconds(page, proof.base_seconds))
    return safe(said)


def _reading(page: Page, reading: Reading, words: Words, system: str) -> str:
    kind = {True: "ok", False: "bad", None: "none"}[reading.ok]
    before = _marked(reading.before, probes.mark(reading.before, *words)) if any(words) else safe(reading.before)
    cells = (
        ("proof.before", before),
        ("proof.after", _marked(reading.after, reading.marks)),
    )
    said = "".join(
        f'<div class="pf-answer"><small>{safe(page.t(key))}</small><p dir="auto">{text or _nothing(page)}</p></div>'
        for key, text in cells
        if reading.before or reading.after
    )
    return (
        f'<li class="{kind}"><div class="pf-ask{"" if said else " wide"}">{_asked(page, reading, system)}</div>{said}'
        f'<div class="pf-judged">{_judged(page, reading)}{_numbers(page, reading)}</div></li>'
    )


def _asked(page: Page, reading: Reading, system: str) -> str:
    """The question, with what was said before it, the system prompt and its kind in small letters."""
    if not reading.messages:
        return ""
    earlier = []
    for message in reading.messages[:-1]:
        if message.role != "system":
            earlier.append(page.t("proof.user" if message.role == "user" else "proof.assistant") + message.content)
        elif message.content != system:
            earlier.append(page.t("proof.system", text=message.content))
    small = "".join(f"<small>{safe(line)}</small>" for line in earlier)
    group = next((page.of(GROUPS[name]) for name in reading.tags if name in GROUPS), "")
    after = f'<small class="pf-group">{safe(group)}</small>' if group else ""
    return f'{small}<p dir="auto">{safe(reading.messages[-1].content)}</p>{after}'


def _judged(page: Page, reading: Reading) -> str:
    key = _VERDICTS.get(reading.verdict)
    sign = {True: "✓ ", False: "✕ ", None: ""}[reading.ok]
    words = page.t(key) if key else reading.verdict
    return tag(sign + words, {True: "ok", False: "bad", None: ""}[reading.ok]) if sign or words else ""


def _numbers(page: Page, reading: Reading) -> str:
    lines = []
    for name, value in reading.numbers.items():
        if name not in NUMBERS:
            continue
        whole = page.of(NUMBERS[name])
        short = page.t(_SHORT[name]) if name in _SHORT else whole
        lines.append(f'<dt title="{safe(whole)}">{safe(short)}</dt><dd>{_number(value)}</dd>')
    return f"<dl>{''.join(lines)}</dl>" if lines else ""


def _marked(text: str, marks: Sequence[probes.Mark]) -> str:
    """The text with words of the new and of the old identity marked. Overlaps go to the first."""
    pieces, at = [], 0
    for mark in sorted(marks, key=lambda mark: mark.start):
        start, end = max(at, mark.start), min(len(text), mark.end)
        if start < end:
            pieces += [safe(text[at:start]), f'<mark class="{mark.kind}">{safe(text[start:end])}</mark>']
            at = end
    return "".join(pieces) + safe(text[at:])


def _nothing(page: Page) -> str:
    return f"<em>{safe(page.t('proof.said.nothing'))}</em>"


def _ends(test: Test) -> str:
    """The interval alone, as the documents round it."""
    return test.count.en.rpartition("(")[2].rstrip(")")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if value == int(value):
        return f"{value:.0f}".replace("-", "−")
    if abs(value) < 0.0001:
        return "≈ 0"
    return f"{value:.{2 if abs(value) < 1 else 3}g}".replace("-", "−")


def _seconds(page: Page, seconds: float) -> str:
    return Text(f"{seconds:.0f} 秒", f"{seconds:.0f} s").of(page.language)
