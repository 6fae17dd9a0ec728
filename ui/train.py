"""Tab 2, training: preset, settings and preview on the left; the chosen run's progress on the right."""

from __future__ import annotations

from dataclasses import replace

import gradio as gr

from core import train as training
from core.checkpoints import newest_step
from core.config import TrainConfig, fact_of
from core.errors import BusyError, UserError
from core.presets import Preset
from core.run import Run
from core.workspace import Preview
from ui import cards, fields, findings, kept, notify, offers, own_probes, runs, scatter, settling
from ui.command import Commands
from ui.findings import FindingList
from ui.follow import Follow
from ui.form_state import FormState
from ui.get_model import GetModel
from ui.live import LOOK, Live, LivePieces
from ui.loss_chart import LossChart
from ui.page import Page
from ui.pieces import checklist, heading, safe, show_bytes, show_seconds, tag
from ui.proof_card import ProofCard
from ui.row_report import RowCard, train_further
from ui.run_files import RunFile

# One after the other: of two, the slower would put the run shown before over the one that was chosen.
IN_TURN = {"concurrency_limit": 1, "concurrency_id": "train-shown"}
_FITS = {
    "fits": ("preview.fits", "ok"),
    "tight": ("preview.tight", "warn"),
    "too big": ("preview.too_big", "bad"),
    "unknown": ("preview.unknown", ""),
}
Shown = dict[object, object]


class TrainTab:
    """The tab's components and handlers. `role` is what the one button does on this page: start or stop."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.role = gr.State("start")
        self.selected = gr.State(None)
        with gr.Row(elem_classes="oc-columns"):
            with gr.Column(scale=3, min_width=310):
                self._build_settings()
                with gr.Column(elem_classes="oc-card"):
                    heading(page.t("runs.title"))
                    self.runs = runs.RunList(elem_id="runs")
            with gr.Column(scale=8, min_width=480):
                self._build_progress()

    def _build_settings(self) -> None:
        t, workspace = self.page.t, self.page.workspace
        first = self._first_preset()
        with gr.Column(elem_classes="oc-card"):
            with gr.Row(elem_classes="oc-head-row"):
                heading(t("train.preset"))
                self.commands = Commands(self.page)
            presets = [(self._card_of(preset), preset.id) for preset in workspace.presets()]
            self.preset = gr.Radio(presets, value=first.id, label=t("train.preset"), show_label=False, elem_id="preset")
            self.memory = FormState(self.page)
            with gr.Row():
                tables, table, models, model = self._choices()
                self.dataset = gr.Dropdown(
                    tables, value=table, label=t("train.dataset"), elem_id="train-dataset", min_width=80
                )
                self.model = gr.Dropdown(
                    models, value=model, label=t("train.model"), allow_custom_value=True, elem_id="model", min_width=80
                )
            self.get = GetModel(self.page)
            self.form = fields.build_form(self.page.language, first.config)
            with gr.Column(elem_classes="oc-go"):
                self.preview = FindingList(script=settling.listening(settling.FORM, "train"), elem_id="preview")
                self.cards = cards.build(self.page)
                self.button = gr.Button(t("train.start"), variant="primary", elem_id="start")
        self.commands.build()

    def _build_progress(self) -> None:
        t, page = self.page.t, self.page
        follow = Follow(page)

        # Gradio sets an attribute on server functions, which a bound method forbids.
        def metrics(asked: dict[str, object]) -> dict[str, object]:
            return follow.metrics(asked)

        live = LivePieces()
        self.head = Live(live, "run-head", mark=follow.state, draw=follow.draw_head, script=findings.FIXING)
        self.resume = gr.Button(t("train.resume.anew"), visible=False, size="sm", elem_id="resume")
        self.strip = Live(live, "run-strip", mark=follow.progress, draw=follow.draw_strip)
        self.how = Live(live, "run-how", mark=follow.plan, draw=follow.draw_how)
        with gr.Column(elem_classes="oc-card"):
            heading(t("chart.title"))
            self.chart = LossChart([metrics], page.language, elem_id="loss")
        with gr.Column(elem_classes="oc-card"):
            heading(t("probes.title"), t("probes.note"))
            self.probes = Live(live, "probes", mark=follow.probings, draw=follow.draw_probes)
        with gr.Column(elem_classes="oc-card"):
            self.points = Live(
                live,
                "scatter",
                mark=follow.points,
                draw=follow.draw_points,
                script=scatter.script(),
                head=scatter.style(),
            )
        with gr.Column(elem_classes="oc-card"):
            self.proof = ProofCard(page, elem_id="proof")
            self.own = own_probes.OwnProbes(page, elem_id="own-probes")
        with gr.Column(elem_classes="oc-card"):
            heading(t("rows.title"), t("rows.note"))
            self.rows = RowCard(page, live, "row-report")

    @property
    def settings(self) -> list[gr.components.Component]:
        """What describes the run to start, in the order of `_config`."""
        return [self.preset, self.model, *self.form.all]

    @property
    def progress(self) -> list[gr.components.Component]:
        """What shows the chosen run and the button's role."""
        shown = [self.selected, self.head, self.strip, self.how, self.chart, self.probes, self.points, self.proof]
        return [*shown, self.rows, self.runs, self.role, self.button, self.resume, *self.offered]

    @property
    def offered(self) -> list[gr.components.Component]:
        """The fields of the form whose choices come and go with runs and tables."""
        return [self.form.components[name] for name in fields.OFFERED]

    def wire(self, demo: gr.Blocks, brought: RunFile) -> None:
        """Connect the tab to itself; the frame calls `on_changed` when the server's state changes."""
        shown, quiet = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        progress = {"outputs": self.progress, **quiet}
        told = {**progress, **IN_TURN}
        loaded = dict.fromkeys([self.dataset, self.model, self.preset, self.cards, *self.form.all, *self.progress])
        kept.loaded(
            "train",
            demo.load(
                shown(self.on_load), [self.memory.told], list(loaded), js=self.memory.reading, **IN_TURN, **quiet
            ),
        )
        self.memory.wire(self)
        chosen = [self.model, self.preset, *self.form.all]
        self.model.input(shown(self.on_typed_model), [self.model], [*chosen, *self.get.outputs], **quiet)
        self.arrived = self.get.wire(demo, self.on_model, chosen)
        self.commands.wire(self)
        settling.tell(settling.FORM, [field.change for field in (self.dataset, self.model, *self.form.all)])
        alone = {"trigger_mode": "always_last", "concurrency_limit": 1, **quiet}
        self.preview.rest(shown(self.on_preview), [self.dataset, *self.settings], [self.preview], **alone)
        for mended in (self.preview.fix, self.head.fix):
            mended(shown(self.on_fix), None, self.form.all, **quiet)
        source = self.form.components["adapters"]
        source.input(shown(self.on_source), [source], self.form.all, **quiet)
        begun = self.button.click(self.on_begun, [self.role], [self.button], **quiet)
        self._look(begun.then(shown(self.on_press), [self.role, self.dataset, self.cards, *self.settings], **progress))
        resumed = self.resume.click(self.on_resuming, [self.resume], [self.resume], **quiet)
        self._look(resumed.then(shown(self.on_resume), [self.selected, self.cards], **progress))
        self.proof.wire()
        own_probes.wire(self.page, self.own)
        self.points.choose(shown(self.on_choose), None, **progress)
        self.rows.wire()
        self.rows.more(shown(self.on_further), None, **progress)
        self.runs.open(shown(self.on_open), None, **told)
        self.runs.remove(shown(self.on_remove), [self.selected], **told)
        self.runs.restore(shown(self.on_restore), None, **told)
        brought.brought(shown(self.on_brought), None, **told)

    def _look(self, pressed: gr.events.Dependency) -> None:
        """After a press: the page looks at the state at once, and the buttons are as they were if it was refused."""
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        pressed.then(None, None, None, js=LOOK, **quiet)
        pressed.failure(self.on_refused, [self.selected], [self.role, self.button, self.resume], **quiet)

    def visit(self, tab: gr.Tab) -> None:
        """Look at the tables again whenever the tab is opened: they may have changed on the first one."""
        shown, quiet = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        opened = tab.select(shown(self.on_visit), [self.dataset], [self.dataset, *self.offered], **quiet)
        settling.tell(settling.FORM, after=[opened.then])

    # Settings

    def on_load(self, told: str = "") -> Shown:
        """The page was opened: offer what there is, show the run in progress or the newest one.

        `told`: the form as this browser tab kept it; a run in progress comes before it.
        """
        names, table, models, model = self._choices()
        active, newest = self.page.workspace.active, self._newest()
        filled = dict(zip(self.form.all, fields.show(active.config), strict=True)) if active else {}
        return {
            self.dataset: gr.update(choices=names, value=table),
            self.model: gr.update(choices=models, value=model),
            **self._show(newest.id if newest else None),
            **offers.pickers(self.page, self.form, active.config if active else None),
            **filled,
            **self.memory.restored(self, told, names, model),
        }

    def _newest(self) -> Run | None:
        return self.page.workspace.active or next(iter(self.page.workspace.runs()), None)

    def _choices(self) -> tuple[list[str], str | None, list[str], str]:
        """Tables and the chosen one, models and the chosen one. A page is built with them, too: what stays tells nobody."""
        names, model, newest = self.page.workspace.datasets(), self.page.workspace.status().model, self._newest()
        table = newest.dataset if newest and newest.dataset in names else next(iter(names), None)
        return names, table, list(dict.fromkeys([model, *self.page.workspace.models()])), model

    def on_visit(self, dataset: str | None) -> Shown:
        """The tables there are now; the chosen one stays chosen while it exists."""
        names = self.page.workspace.datasets()
        chosen = dataset if dataset in names else next(iter(names), None)
        return {self.dataset: gr.update(choices=names, value=chosen), **offers.pickers(self.page, self.form)}

    def on_source(self, typed: str | None) -> object:
        """An adapter to go on from brings the settings that it was made with; the preview says what is wrong with it."""
        folder = offers.folder_of(self.page, typed)
        try:
            theirs = offers.settings_of(self.page, folder) if folder else {}
        except UserError:
            theirs = {}
        if not theirs:
            return gr.skip()
        return {self.form.components[name]: fields.shown(name, value) for name, value in theirs.items()}

    def on_fix(self, event: gr.EventData) -> Shown:
        """A finding's button: set what it says."""
        asked = findings.wanted(event).items()
        return {self.form.components[name]: fields.shown(name, value) for name, value in asked}

    def on_preset(self, preset: str, mix: str = "", repeat: str = "1") -> list[str | bool]:
        """A preset fills the form; a mix that a person put together stays."""
        chosen = self._preset(preset).config
        known = {"", *(other.config.mix for other in self.page.workspace.presets())}
        values = dict(zip(fields.visible_names(), fields.show(chosen), strict=True))
        if mix not in known:
            values |= {"mix": mix, "dataset_repeat": repeat}
        return list(values.values())

    def on_model(self, name: str) -> list[object]:
        """Another base model brings its own preset; one that cannot be used leaves everything in place."""
        workspace, before = self.page.workspace, self.page.workspace.model
        with notify.told(self.page.language):
            if not self.get.elsewhere(name):
                workspace.select_model((name or "").strip())
        if workspace.model == before:
            return [before, gr.skip(), *(gr.skip() for _ in self.form.all)]
        fitting = self._first_preset()
        return [workspace.model, fitting.id, *fields.show(fitting.config)]

    def on_typed_model(self, name: str | None) -> list[object]:
        """A model was picked or typed: use it, or offer to download it. One handler, as the first one resets the picker."""
        offered = self.get.on_typed(name)
        return [*self.on_model(name or ""), *(offered[part] for part in self.get.outputs)]

    def on_preview(self, dataset: str | None, *settings: object) -> str:
        """What the run would take; a setting that cannot be used is named here, not in a toast at every key."""
        try:
            config = self._config(*settings)
            preview = self.page.workspace.preview(dataset or "", config)
        except UserError as error:
            return checklist([("bad", error.of(self.page.language))])
        return self._draw_preview(preview, self._hints(config, settings[0]))

    def _hints(self, config: TrainConfig, preset: object) -> list[tuple[str, str]]:
        """What would forbid the start, and which settings of closed groups are not the preset's."""
        hints, page = [], self.page
        try:
            training.check(config, page.workspace.engine.device)
        except UserError as error:
            hints.append(("bad", error.of(page.language)))
        if odd := fields.changed(config, self._preset(str(preset)).config):
            labels = page.t("list.comma").join(page.of(fact_of(name).label) for name in odd)
            hints.append(("note", page.t("preview.changed", settings=labels)))
        return hints

    def _first_preset(self) -> Preset:
        """The preset to begin with: the workspace's, or without a card the first one that needs none."""
        workspace = self.page.workspace
        fitting = workspace.default_preset
        if not (fitting.cuda and workspace.engine.device.kind == "cpu"):
            return fitting
        return next((preset for preset in workspace.presets() if not preset.cuda), fitting)

    def _card_of(self, preset: Preset) -> str:
        """A preset's name and note; on a machine without a card, also that it needs one."""
        lacking = preset.cuda and self.page.workspace.engine.device.kind == "cpu"
        note = self.page.of(preset.note) + (" · " + self.page.t("train.needs_card") if lacking else "")
        return f"{self.page.of(preset.name)}\n{note}"

    def _config(self, preset: str, model: str, *values: object) -> TrainConfig:
        base = replace(self._preset(preset).config, model=model or self.page.workspace.model)
        config = fields.read(values, base)
        return replace(config, adapters=offers.folder_of(self.page, config.adapters))

    def config_of(self, *settings: object) -> TrainConfig:
        """What `settings`, the values of the components of that name, describe. Raises ConfigError."""
        return self._config(*settings)  # type: ignore[arg-type]

    def _preset(self, preset: str) -> Preset:
        """The preset as it is for the chosen base model."""
        workspace = self.page.workspace
        return next((known for known in workspace.presets() if known.id == preset), workspace.default_preset)

    def _draw_preview(self, preview: Preview, hints: list[tuple[str, str]]) -> str:
        t = self.page.t
        key, kind = _FITS[preview.fits]
        memory = t("preview.memory", needed=show_bytes(preview.memory_bytes), free=show_bytes(preview.free_bytes))
        cells = [
            (t("preview.rows"), f"{preview.rows:,}", ""),
            (t("preview.tokens"), f"{preview.tokens:,}", ""),
            (t("preview.steps"), f"{preview.steps:,}", ""),
            (t("preview.time"), show_seconds(preview.seconds) if preview.seconds is not None else "–", ""),
            (t("preview.memory.label"), memory, tag(t(key), kind)),
        ]
        facts = "".join(
            f"<div><dt>{safe(name)}</dt><dd>{safe(value)}{extra}</dd></div>" for name, value, extra in cells
        )
        told = [finding for finding in preview.findings if finding.level != "ok"]
        return f'<dl class="oc-preview">{facts}</dl>{findings.draw(self.page, told, hints)}'

    # The run

    def on_press(self, role: str, dataset: str | None, cards: int, *settings: object) -> Shown:
        """The one button: start a run of the form, or stop the one in progress after its step."""
        if role == "stop":
            self.page.workspace.stop()
            return self._show_button()
        try:
            return self._show(self.page.workspace.start(dataset or "", self._config(*settings), cards=cards).id)
        except BusyError as error:
            # Started on another page meanwhile: say so, and show that run instead of the old one.
            notify.warn(error.of(self.page.language))
            return self.on_active()

    def on_begun(self, role: str) -> object:
        """The press has arrived: said at once, since a large table takes seconds to be checked."""
        said = "train.stopping" if role == "stop" else "train.starting"
        return gr.update(value=self.page.t(said), interactive=False)

    def on_resuming(self, words: str) -> object:
        """As `on_begun`, of the other button, whose words are `words`."""
        said = "train.starting" if words == self.page.t("train.resume.anew") else "train.resuming"
        return gr.update(value=self.page.t(said), interactive=False)

    def on_refused(self, selected: str | None) -> Shown:
        """The toast says why; the buttons are as they were."""
        return {**self._show_button(), **self._show_resume(selected)}

    def on_resume(self, selected: str | None, cards: int = 0) -> Shown:
        """Go on with the run that is shown."""
        try:
            return self._show(self.page.workspace.resume(selected or "", cards).id)
        except BusyError as error:
            notify.warn(error.of(self.page.language))
            return self.on_active()

    def on_further(self, event: gr.EventData) -> Shown:
        """Train a few more steps from the shown run, towards what its table says now."""
        run = self.page.workspace.run(str(event.run))
        return self._show(train_further(self.page, run.id, run.dataset).id)

    def on_open(self, event: gr.EventData) -> Shown:
        """Show a run of the list."""
        return self._show(self.page.workspace.run(str(event.id)).id)

    def on_brought(self, event: gr.EventData) -> Shown:
        """A run came in as a file: say whether it is new here, and show it."""
        run = self.page.workspace.run(str(event.id))
        notify.say(self.page.t("runs.brought" if event.new is True else "runs.there", title=run.title))
        return self._show(run.id)

    def on_choose(self, event: gr.EventData) -> Shown:
        """Make the adapter of another step the shown run's."""
        run = self.page.workspace.run(str(event.run))
        self.page.workspace.library.choose(run, int(event.step))
        return self._show(run.id)

    def on_remove(self, selected: str | None, event: gr.EventData) -> Shown:
        """Delete a run of the list; the browser has asked."""
        self.page.workspace.delete_run(str(event.id))
        left = [run.id for run in self.page.workspace.runs()]
        return self._show(selected if selected in left else next(iter(left), None))

    def on_restore(self) -> Shown:
        """Bring the run back that was deleted last, and show it."""
        back = self.page.workspace.library.removed.bring_back("run")
        notify.say(self.page.t("undo.back", name=back.name))
        return self._show(back.folder.name)

    def on_active(self) -> Shown:
        """Show the run in progress."""
        active = self.page.workspace.active
        return self._show(active.id) if active else self._show_button()

    def on_changed(self, selected: str | None) -> Shown:
        """A run began, ended or was probed somewhere: bring list and button up to date, keep the chosen run."""
        if selected is None and self.page.workspace.active is not None:
            return self._show(self.page.workspace.active.id)
        listed = runs.draw(self.page, self.page.workspace.runs(), selected)
        picks = offers.pickers(self.page, self.form)
        return {self.runs: listed, **picks, **self._show_button(), **self._show_resume(selected)}

    def _show(self, run_id: str | None) -> Shown:
        listed = runs.draw(self.page, self.page.workspace.runs(), run_id)
        parts = dict.fromkeys(
            (self.head, self.strip, self.how, self.chart, self.probes, self.points, self.proof, self.rows), run_id or ""
        )
        return {
            self.selected: run_id,
            self.runs: listed,
            **parts,
            **self._show_button(),
            **self._show_resume(run_id),
            **offers.pickers(self.page, self.form),
        }

    def _show_resume(self, run_id: str | None) -> Shown:
        """The button to go on with the shown run, where it has not finished and no run is in progress."""
        workspace = self.page.workspace
        run = next((run for run in workspace.runs() if run.id == run_id), None)
        if run is None or not run.resumable or workspace.active is not None:
            return {self.resume: gr.update(visible=False)}
        step = newest_step(run)
        words = self.page.t("train.resume", step=step) if step else self.page.t("train.resume.anew")
        return {self.resume: gr.update(value=words, visible=True, interactive=True)}

    def _show_button(self) -> Shown:
        state, t = self.page.workspace.status().state, self.page.t
        if state == "stopping":
            return {self.role: "stop", self.button: gr.update(value=t("train.stopping"), interactive=False)}
        if self.page.workspace.active is None:
            look = gr.update(value=t("train.start"), variant="primary", interactive=True)
            return {self.role: "start", self.button: look}
        return {self.role: "stop", self.button: gr.update(value=t("train.stop"), variant="stop", interactive=True)}
