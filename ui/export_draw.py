"""The html of exports that were made: where they are, what their receipts say, how to run them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from core.export.card import receipt_text
from core.export.elsewhere import Command, where_it_lies
from core.export.exports import Made
from core.export.order import LABELS
from core.export.receipt import VERDICTS, Compared, Receipt
from core.export.retest import order_of
from ui.page import Page
from ui.pieces import safe, show_bytes, tag

_MOST_ANSWERS = 100
_TAGS = {"green": "ok", "yellow": "warn", "red": "bad", "none": ""}


def made(page: Page, found: list[Made], adapter: Path) -> str:
    """The list, newest first."""
    if not found:
        return f'<p class="ex-note">{safe(page.t("outside.none"))}</p>'
    items = "".join(_one(page, each, adapter, opened=index == 0) for index, each in enumerate(found))
    return f'<h3>{safe(page.t("outside.made"))}</h3><ul class="ex-made">{items}</ul>'


def _one(page: Page, each: Made, adapter: Path, opened: bool) -> str:
    t, receipt = page.t, each.receipt
    order = replace(order_of(each.folder, adapter), language=page.language)
    kind = f" {order.quantisation.upper()}" if order.format == "gguf" else ""
    light = tag(page.of(VERDICTS[receipt.light]), _TAGS[receipt.light]) if receipt is not None else ""
    said = page.of(receipt_text(receipt)) if receipt is not None else t("outside.untested")
    ask = {
        "title": t("outside.remove.ask", name=each.folder.name),
        "ok": t("outside.remove"),
        "cancel": t("outside.cancel"),
        "grave": True,
    }
    again = receipt is None or receipt.light == "none"
    acts = f'<button type="button" data-act="again">{safe(t("outside.again"))}</button>' if again else ""
    if order.format != "zip":
        acts += f'<button type="button" data-act="publish">{safe(t("publish.open"))}</button>'
    acts += f'<button type="button" data-act="remove" data-ask="{safe(json.dumps(ask))}">{safe(t("outside.remove"))}</button>'
    return (
        f'<li data-name="{safe(each.folder.name)}"><details{" open" if opened else ""}><summary>'
        f"<span><b>{safe(each.folder.name)}</b><small>{safe(page.of(LABELS[order.format]))}{kind} · "
        f"{show_bytes(each.nbytes)}</small></span>{light}</summary>"
        f'<p class="ex-path"><code>{safe(str(each.folder))}</code>{_copy(page)}</p><p class="ex-said">{safe(said)}</p>'
        f"{_answers(page, receipt) if receipt is not None and receipt.answers else ''}"
        f"{how_to_run(page, where_it_lies(order, each.folder), opened)}"
        f'<div class="ex-acts">{acts}</div></details></li>'
    )


def _answers(page: Page, receipt: Receipt) -> str:
    title = safe(page.t("outside.answers", same=receipt.same, asked=receipt.asked))
    ordered = sorted(receipt.answers, key=lambda each: each.whole)
    lines = "".join(_answer(page, each) for each in ordered[:_MOST_ANSWERS])
    return f'<details class="ex-more"><summary>{title}</summary><ol class="ex-answers">{lines}</ol></details>'


def _answer(page: Page, each: Compared) -> str:
    if each.question.startswith("row-") and not (each.before or each.after):
        key = "outside.row" if each.whole else "outside.row.differs"
        return f"<li><b>{safe(each.question)}</b><span>{safe(page.t(key))}</span></li>"
    if each.whole:
        return f"<li><b>{safe(each.question)}</b><span>{safe(each.before)}</span></li>"
    pairs = ((page.t("outside.tested"), each.before), (page.t("outside.now"), each.after))
    lines = "".join(f"<span><i>{safe(who)}</i>{safe(text)}</span>" for who, text in pairs)
    near = f"<small>{safe(page.t('outside.near', gap=f'{each.gap:.2f}'))}</small>" if each.near else ""
    return f'<li class="differs"><b>{safe(each.question)}</b>{lines}{near}</li>'


def how_to_run(page: Page, found: list[Command], opened: bool = False) -> str:
    """The commands, folded unless `opened`."""
    lines = "".join(_command(page, each) for each in found)
    fold = f'<details class="ex-more"{" open" if opened else ""}>'
    return f"{fold}<summary>{safe(page.t('outside.run'))}</summary><dl>{lines}</dl></details>"


def _command(page: Page, each: Command) -> str:
    if each.problem is not None:
        return f"<dt>{safe(each.tool)}</dt><dd>{safe(page.of(each.problem))}</dd>"
    note = f"<small>{safe(page.of(each.note))}</small>" if each.note else ""
    return f"<dt>{safe(each.tool)}</dt><dd><pre><code>{safe(each.text)}</code></pre>{_copy(page)}{note}</dd>"


def _copy(page: Page) -> str:
    return f'<button type="button" data-act="copy">{safe(page.t("outside.copy"))}</button>'
