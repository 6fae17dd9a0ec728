"""The mix card: what a run over the shown table would be made of, source by source, and the ways to change it.

It edits the training form's own settings `mix` and `dataset_repeat`; ui/static/mix.js asks for the changes.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr

from core import mix, scenarios, storage
from core.config import build, fact_of
from core.errors import UserError
from core.mix import Part
from core.sources.found import BUILT_IN, Elsewhere
from core.sources.names import hub_set
from ui import fields, notify
from ui.page import Page
from ui.pieces import icon, safe
from ui.transfers import bar

_STATIC = Path(__file__).parent / "static"
_SETTINGS = ("mix", "dataset_repeat")
_KINDS = {
    "table": "mix.kind.table",
    "built-in": "mix.kind.built-in",
    "dataset": "mix.kind.dataset",
    "file": "mix.kind.file",
    "hub": "mix.kind.hub",
}
Shown = dict[object, object]


class MixCard(gr.HTML):
    """Value: the html of `draw`. Events: act, with `deed` and what it is about; look, when a download has ended."""

    def __init__(self, progress: Callable[[object], dict[str, object]], **rest: object) -> None:
        super().__init__(
            value="",
            html_template='<div class="mx"></div>',
            js_on_load=(_STATIC / "mix.js").read_text("utf-8"),
            head=f"<style>{(_STATIC / 'mix.css').read_text('utf-8')}</style>",
            server_functions=[progress],
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """The value is html."""
        return {"type": "string"}


class Mixing:
    """The card and its handlers."""

    def __init__(self, page: Page) -> None:
        self.page = page

        def progress(_asked: object) -> dict[str, object]:
            return self._progress()

        self.card, self.asked = MixCard(progress, elem_id="mix"), gr.State(0)

    def beside(self, check: dict[str, object]) -> dict[str, object]:
        """The health check's event, after which the card is brought up to date: both follow the stored table.

        A check takes a while, and the settings it was given may be old when it ends; the card asks for them anew.
        """
        checked, outputs = check["fn"], check["outputs"]

        # Its signature stays the check's own, from which gradio reads whether a request is wanted, too.
        @functools.wraps(checked)
        def both(*given: object) -> list[object]:
            found = checked(*given)
            return [*(found if len(outputs) > 1 else [found]), time.monotonic_ns()]

        return {**check, "fn": both, "outputs": [*outputs, self.asked]}

    def wire(self, shown: gr.Textbox, form: fields.Form) -> None:
        """Connect the card to the settings it edits."""
        settings = [form.components[name] for name in _SETTINGS]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        changed = [field.change for field in (shown, *settings)]  # type: ignore[attr-defined]
        inputs, draw = [shown, *settings], self.page.shown(self.draw)
        # One event draws the card, whoever asks: of two, the slower would put an older mix over the newer.
        gr.on([*changed, self.asked.change], draw, inputs, [self.card], trigger_mode="always_last", **quiet)
        self.card.look(time.monotonic_ns, None, [self.asked], **quiet)

        def on_act(event: gr.EventData, name: str, written: str, repeat: str) -> Shown:
            after = self.after(event, name, written, repeat)
            if after == (written, repeat):  # a download began, say: no field changes, so nothing else draws
                return {self.card: self.draw(name, written, repeat)}
            return dict(zip(settings, after, strict=True))

        acted = self.card.act(self.page.shown(on_act), [shown, *settings], [*settings, self.card], **quiet)
        for after in (acted.then, acted.failure):
            after(
                None,
                None,
                None,
                js="() => { document.dispatchEvent(new Event('onecard-mixed')); }",
                api_visibility="private",
            )

    # Changing

    def after(self, event: gr.EventData, name: str, written: str, repeat: str) -> tuple[str, str]:
        """The two settings after what was asked for. Raises ConfigError for what cannot be."""
        deed, value = str(event.deed), str(getattr(event, "value", "") or "").strip()
        if deed == "clear":
            return "", "1"
        if deed == "repeat":
            return written, str(build({"dataset_repeat": value or "1"}).dataset_repeat)
        if deed == "scenario":
            return self._scenario(value, name)
        if deed in ("download", "cancel"):
            self._download(deed, value)
            return written, repeat
        place = (str(getattr(event, "source", "") or ""), getattr(event, "index", -1))
        return self._edited(deed, value, place, name, written), repeat

    def _edited(self, deed: str, value: str, place: tuple[str, object], name: str, written: str) -> str:
        """`mix` with the part at `place` (source, index when it was drawn) removed or counted anew, one added, or all cut."""
        parts = mix.parse(written)
        if deed == "add":
            return mix.written([*parts, *self._added(value, name, parts)])
        if deed == "fewer":
            return mix.scaled(written, max(1, int(value)), self.page.workspace.sources.find)
        # By its source: others may have been removed since the card was drawn. A source may be there twice.
        same = [number for number, (source, _) in enumerate(parts) if source == place[0]]
        if not same:
            return written  # another page, or an older one
        index = place[1] if isinstance(place[1], int) and place[1] in same else same[0]
        if deed == "remove":
            return mix.written([*parts[:index], *parts[index + 1 :]])
        source, _ = parts[index]
        counted = mix.parse(mix.written([(source, None)]) + f"#{value}") if value else [(source, None)]
        return mix.written([*parts[:index], *counted, *parts[index + 1 :]])

    def _added(self, typed: str, name: str, parts: Sequence[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
        """What was typed, with twice as many rows as the table has where no count was given."""
        page, found = self.page, list[tuple[str, int | None]]()
        there_is = '"' not in typed and storage.path_of(typed.rpartition("#")[0] or typed) is not None
        quoted = f'"{typed}"' if there_is else typed
        for source, count in mix.parse(quoted):
            if any(source == known for known, _ in parts):
                notify.warn(page.t("mix.twice", name=source))
                continue
            try:
                there = len(page.workspace.sources.find(source).rows)
            except Elsewhere:  # how many there are is known once it is here
                found.append((source, count))
                continue
            wanted = min(there, max(50, 2 * self._own(name)))
            found.append((source, wanted if count is None and there > wanted else count or there))
        return found

    def _scenario(self, value: str, name: str) -> tuple[str, str]:
        if not value:
            return "", "1"
        find = self.page.workspace.sources.find
        start = scenarios.start(scenarios.scenario(value), self._own(name), lambda source: len(find(source).rows))
        if start.lacking:
            notify.say(self.page.t("mix.lacking", rows=f"{start.lacking:,}".replace(",", "")))
        return start.mix, str(start.repeat)

    def _download(self, deed: str, name: str) -> None:
        downloads, asked = self.page.workspace.sources.downloads, hub_set(name)
        if deed == "cancel":
            downloads.cancel()
            downloads.wait(2)
        elif asked is not None:
            downloads.start(asked)

    def _own(self, name: str) -> int:
        return sum(not row.is_blank for row in self.page.edits.stored(name).rows)

    # Showing

    def draw(self, name: str, written: str, repeat: str) -> str:
        """The card for the table `name` under the form's two settings."""
        if name not in self.page.workspace.datasets():
            return ""
        try:
            config = build({"mix": written or "", "dataset_repeat": repeat})
            parts = mix.plan(name, self._own(name), config, self.page.workspace.sources.find)
        except UserError as error:
            clear = _button("clear", self.page.t("mix.clear"))
            return f'<ul class="oc-list">{_line("bad", error.of(self.page.language), clear)}</ul>'
        return _Drawing(self.page, parts).html()

    def _progress(self) -> dict[str, object]:
        """How far a download is, for the browser: {active, words, share}."""
        downloads = self.page.workspace.sources.downloads
        return {"active": downloads.active, **_progress(self.page)}


class _Drawing:
    """The card's html for what a run would be made of."""

    def __init__(self, page: Page, parts: Sequence[Part]) -> None:
        self.page, self.parts, self.shares = page, parts, mix.shares(parts)

    def html(self) -> str:
        """Bar, sources, warning and the ways to change them."""
        t, mixed = self.page.t, len(self.parts) > 1
        rows = sum(part.rows for part in self.parts)
        if not mixed and self.parts[0].rows == self.parts[0].available:
            body = f'<p class="mx-alone">{safe(t("mix.alone", rows=f"{rows:,}"))}</p>'
        else:
            listed = "".join(self._part(index, part) for index, part in enumerate(self.parts))
            body = f'{self._bar()}<ul class="mx-parts">{listed}</ul>{self._low()}'
            body += f'<p class="mx-total">{safe(t("mix.total", rows=f"{rows:,}"))}</p>'
        return body + self._foot()

    def _bar(self) -> str:
        said = "；" if self.page.language == "zh" else "; "
        label = said.join(
            f"{part.name} {self._percent(share)}" for part, share in zip(self.parts, self.shares, strict=True)
        )
        pieces = "".join(
            f'<i class="mx-{index % 6}" style="flex-grow:{share:.4f}"></i>'
            for index, share in enumerate(self.shares)
            if share
        )
        return (
            f'<div class="mx-bar" role="img" aria-label="{safe(self.page.t("mix.bar"))}: {safe(label)}">{pieces}</div>'
        )

    def _percent(self, share: float) -> str:
        percent = 100 * share
        shown = f"{percent:.1f}" if 0 < percent < 10 else f"{percent:.0f}"
        return self.page.t("mix.share", percent=shown)

    def _part(self, index: int, part: Part) -> str:
        t = self.page.t
        kind, away = t(_KINDS[part.kind]), ""
        if index:
            label = safe(t("mix.remove", name=part.name))
            away = (
                f'<button type="button" class="mx-away" data-deed="remove" data-index="{index - 1}" '
                f'data-source="{safe(part.name)}" title="{label}" aria-label="{label}">{icon("close")}</button>'
            )
        share = "–" if part.problem else self._percent(self.shares[index])
        head = (
            f'<b class="mx-dot mx-{index % 6}"></b><span class="mx-name" title="{safe(part.name)}">{safe(_short(part))}'
            f"<small>{safe(kind)}</small></span>{self._amount(index, part)}"
            f'<span class="mx-share">{safe(share)}</span>{away}'
        )
        return f'<li><div class="mx-head">{head}</div>{self._below(part)}</li>'

    def _amount(self, index: int, part: Part) -> str:
        """How much of a source is taken: of the table how often, of others how many rows."""
        t = self.page.t
        if part.problem is not None:
            return "<span></span>"
        if part.kind == "table":
            most = fact_of("dataset_repeat").max
            box = _number("repeat", 0, "", round(part.repeat) or 1, t("mix.repeat.label"), most)
            return f'<span class="mx-amount">{part.available:,} × {box}</span>'
        box = _number("count", index - 1, part.name, part.rows, t("mix.count.label", name=part.name), 1_000_000)
        return f'<span class="mx-amount">{box} / {part.available:,}</span>'

    def _below(self, part: Part) -> str:
        """What is to be known of a source: why it gives nothing, that it repeats, that there is more of it."""
        t, said = self.page.t, ""
        if part.problem is not None:
            return self._problem(part)
        if part.repeat > 1 and part.kind != "table":
            said += f'<span class="oc-tag warn">{safe(t("mix.again", times=f"{part.repeat:.3g}"))}</span>'
        if not part.complete:
            said += f"<span>{safe(t('mix.first', rows=f'{part.available:,}'))}</span>"
        if part.notes:
            notes = "".join(f"<li>{safe(self.page.of(note))}</li>" for note in part.notes)
            count = safe(t("mix.notes", count=len(part.notes)))
            said += f"<details><summary>{count}</summary><ul>{notes}</ul></details>"
        return f'<div class="mx-line">{said}</div>' if said else ""

    def _problem(self, part: Part) -> str:
        """Why a source gives nothing; of a hub's set that is not here, the way to get it and how far that is."""
        page, t = self.page, self.page.t
        if not part.elsewhere or (asked := hub_set(part.name)) is None:
            assert part.problem is not None
            return f'<ul class="oc-list">{_line("bad", page.of(part.problem))}</ul>'
        downloads = page.workspace.sources.downloads
        if downloads.active and downloads.name == str(asked):
            now = _progress(page)
            words, share = str(now["words"]), float(str(now["share"]))
            stop = _button("cancel", t("mix.cancel"), part.name)
            return f'<div class="mx-way" data-busy><span>{safe(words)}</span>{bar(words, share)}{stop}</div>'
        outcome, lines = downloads.outcome, ""
        if outcome is not None and outcome.name == str(asked) and outcome.problem is not None:
            lines = f'<ul class="oc-list">{_line("bad", page.of(outcome.problem))}</ul>'
        get = _button("download", t("mix.download", hub=page.of(downloads.hub_of(asked).label)), part.name)
        return f'<div class="mx-line"><span>{safe(t("mix.elsewhere"))}</span>{get}</div>{lines}'

    def _low(self) -> str:
        """The warning where the table is drowned in other rows, with what would mend it."""
        share, own = mix.own_share(self.parts), self.parts[0]
        others = sum(part.rows for part in self.parts[1:])
        if share >= mix.LEAST_SHARE - 1e-9 or not own.available or not others:
            return ""
        t, made = self.page.t, ""
        times = math.ceil(mix.LEAST_SHARE * others / ((1 - mix.LEAST_SHARE) * own.available) - 1e-9)
        if times <= (fact_of("dataset_repeat").max or 1):
            made += _button("repeat", t("mix.low.repeat", times=times), str(times))
        fewer = int(own.rows * (1 - mix.LEAST_SHARE) / mix.LEAST_SHARE)
        if fewer >= len(self.parts) - 1 and not any(part.problem for part in self.parts):
            made += _button("fewer", t("mix.low.fewer", rows=f"{fewer:,}"), str(fewer))
        return f'<div class="mx-low"><span class="oc-tag warn">{safe(t("mix.low"))}</span>{made}</div>'

    def _foot(self) -> str:
        """The starting mixes, and the line to add a source."""
        t, page = self.page.t, self.page
        options = [f'<option value="" selected disabled>{safe(t("mix.scenario"))}</option>']
        for one in scenarios.load():
            words = t("mix.scenario.option", name=page.of(one.name), note=page.of(one.note))
            options.append(f'<option value="{safe(one.id)}" title="{safe(words)}">{safe(words)}</option>')
        if len(self.parts) > 1 or self.parts[0].rows != self.parts[0].available:
            options.append(f'<option value="none">{safe(t("mix.scenario.alone"))}</option>')
        taken = {part.name for part in self.parts}
        names = [name for name in dict.fromkeys((*BUILT_IN, *page.workspace.datasets())) if name not in taken]
        known = "".join(f'<option value="{safe(name)}"></option>' for name in names)
        return (
            f'<div class="mx-foot"><select data-deed="scenario" data-key="scenario" aria-label="{safe(t("mix.scenario.label"))}">'
            f"{''.join(options)}</select>"
            f'<button type="button" class="mx-open" data-open aria-expanded="false">{icon("add")}{safe(t("mix.add"))}</button>'
            f'</div><form class="mx-add" hidden><div><input data-key="add" list="mx-known" autocomplete="off" '
            f'placeholder="{safe(t("mix.add.hint"))}" aria-label="{safe(t("mix.add.hint"))}">'
            f'<button type="submit">{safe(t("mix.add.ok"))}</button></div><datalist id="mx-known">{known}</datalist>'
            f"<p>{safe(t('mix.add.note'))}</p></form>"
        )


def _progress(page: Page) -> dict[str, object]:
    downloads = page.workspace.sources.downloads
    now = downloads.now
    if downloads.silent_seconds:
        late = page.t("hub.silent", seconds=f"{downloads.silent_seconds:.0f}")
        return {"words": late, "share": now.share if now is not None else 0.0}
    if now is None:
        return {"words": page.t("mix.asking"), "share": 0.0}
    words = page.t("mix.downloading", done=f"{now.done / 1e6:.1f}", total=f"{now.total / 1e6:.1f}")
    return {"words": words, "share": now.share, "bytes": now.total}


def _short(part: Part) -> str:
    """A path's last piece, another name whole."""
    return Path(part.name).name if part.kind == "file" and "/" in part.name else part.name


def _line(level: str, text: str, buttons: str = "") -> str:
    mark = {"warn": "!", "bad": "✕"}[level]
    acts = f'<span class="oc-dos">{buttons}</span>' if buttons else ""
    return f'<li class="{level}"><i>{mark}</i><span>{safe(text)}{acts}</span></li>'


def _button(deed: str, words: str, value: str = "") -> str:
    return f'<button type="button" class="oc-do" data-deed="{deed}" data-value="{safe(value)}">{safe(words)}</button>'


def _number(deed: str, index: int, source: str, value: int, label: str, most: float | None) -> str:
    return (
        f'<input type="number" inputmode="numeric" min="1" max="{most or 1:.0f}" step="1" data-deed="{deed}" '
        f'data-index="{index}" data-source="{safe(source)}" data-key="{deed}-{index}" value="{value}" '
        f'aria-label="{safe(label)}" title="{safe(label)}">'
    )
