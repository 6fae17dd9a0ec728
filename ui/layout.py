"""The frame: top bar and four tabs over one workspace, in one language."""

from __future__ import annotations

import gradio as gr

from core.text import Language
from core.workspace import Workspace
from ui import findings, history, notify, settling
from ui.chat import ChatTab
from ui.compare import CompareTab
from ui.compare_place import Place
from ui.data import DataTab
from ui.diagnostics import DiagnosticsDialog
from ui.edits import Edits
from ui.exporting import ExportDialog
from ui.fix import Pending
from ui.guide import Guide
from ui.history import HistoryPanel
from ui.library import Library
from ui.makers import Makers
from ui.page import Page
from ui.proof_card import ProofCard
from ui.publishing import PublishDialog
from ui.row_report import place_of
from ui.run_compare import RunCompare
from ui.run_files import RunFile
from ui.serving import ServingPanel
from ui.shortcuts import Shortcuts
from ui.top_bar import TopBar
from ui.train import IN_TURN, TrainTab


def build(workspace: Workspace, language: Language, edits: Edits | None = None, can_restart: bool = False) -> gr.Blocks:
    """The page in `language`. Pages over the same workspace share `edits`, which keeps them from overwriting.

    `can_restart`: whether the server starts anew when it is asked to.
    """
    page = Page(workspace, language, edits or Edits(workspace), can_restart)
    with gr.Blocks(
        title=page.t("app.title"), fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)
    ) as demo:
        bar = TopBar(page, elem_id="top")
        Guide(page, elem_id="guide")
        with gr.Tabs(elem_id="tabs", selected="data", overflow_behavior="wrap") as tabs:
            with gr.Tab(page.t("tab.data"), id="data", elem_id="tab-data"):
                data = DataTab(page)
            with gr.Tab(page.t("tab.train"), id="train", elem_id="tab-train") as train_tab:
                train = TrainTab(page)
            with gr.Tab(page.t("tab.compare"), id="compare", elem_id="tab-compare"):
                compare = CompareTab(page)
            with gr.Tab(page.t("tab.chat"), id="chat", elem_id="tab-chat"):
                chat = ChatTab(page)
        library = Library(page)
        library.wire()
        ProofCard(page, dialog=True, elem_id="proof-dialog").wire()
        ExportDialog(page, elem_id="export-dialog").wire()
        PublishDialog(page, elem_id="publish-dialog").wire()
        ServingPanel(page, elem_id="serving").wire()
        DiagnosticsDialog(page, elem_id="diagnostics")
        Shortcuts(page, elem_id="shortcuts")
        past = HistoryPanel(page, elem_id="history")
        data.wire(demo, train.form)
        history.wire(page, past, data)
        RunCompare(page, elem_id="run-compare")
        brought = RunFile(page, elem_id="run-file")
        Makers(page, elem_id="makers").wire(data)
        train.wire(demo, brought)
        train.visit(train_tab)
        compare.wire()
        Place(page, compare).wire(demo)
        chat.wire(demo)
        _join(page, bar, tabs, data, train, compare, chat)
        _mend(page, tabs, data, train, [chat, compare])
        _hand_over(page, library, compare, chat)
        _quieten(demo)
    return demo.queue(api_open=False, default_concurrency_limit=8)


def _quieten(demo: gr.Blocks) -> None:
    """Events that show no progress tell no component of it, but the conversations that answers stream into.

    For every message of every event the framework's browser side looks each component that was ever told up, through the
    whole page: of 2.7 million steps that opening the page took, four in five (counted with V8's precise coverage).
    """
    streams = {number for number, event in demo.fns.items() if event.types_generator}
    for number, event in demo.fns.items():
        if event.show_progress == "hidden" and event.show_progress_on is None:
            says = number in streams or event.trigger_after in streams
            event.show_progress_on = [part for part in event.outputs if says and isinstance(part, gr.Chatbot)]


def _join(
    page: Page, bar: TopBar, tabs: gr.Tabs, data: DataTab, train: TrainTab, compare: CompareTab, chat: ChatTab
) -> None:
    """What one tab's event does in another."""
    shown, quiet = page.shown, {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([bar.change, bar.input], shown(train.on_changed), [train.selected], train.progress, **IN_TURN, **quiet)
    bar.change(shown(compare.heads.on_changed), compare.heads.inputs, compare.heads.outputs, **quiet)
    bar.change(shown(chat.on_changed), chat.following, [chat.pick, chat.system], **quiet)
    bar.select(shown(train.on_active), None, train.progress, **IN_TURN, **quiet)
    bar.change(shown(data.row_panel.on_control), None, [data.row_panel], **quiet)

    def on_next(name: str) -> dict[object, object]:
        offered = gr.update(choices=page.workspace.datasets(), value=name)
        return {tabs: gr.Tabs(selected="train"), train.dataset: offered}

    following = data.next.click(shown(on_next), [data.shown], [tabs, train.dataset], **quiet)
    settling.tell(settling.FORM, after=[following.then])

    def on_filled(request: gr.Request, name: str | None, *held: object) -> object:
        """A command chose a table: "Next" on the first tab must not take another one."""
        known = name and name != held[0] and name in page.workspace.datasets()
        return data.leave_for(request, lambda: str(name), *held) if known else gr.skip()

    filled = train.commands.filled.then(shown(on_filled), [train.dataset, *data.held], data.opened, **quiet)
    filled.then(**data.check)


def _mend(page: Page, tabs: gr.Tabs, data: DataTab, train: TrainTab, talks: list[ChatTab | CompareTab]) -> None:
    """Rows and answers that shall be put right: from where they are shown to the table, and on to training."""
    shown, quiet = page.shown, {"show_progress": "hidden", "api_visibility": "private"}

    def on_row(request: gr.Request, event: gr.EventData, *held: object) -> object:
        place = place_of(page, page.workspace.run(str(event.run)), int(event.row))
        if place is None:
            notify.warn(page.t("rows.gone"))
            return gr.skip()
        return {tabs: gr.Tabs(selected="data"), **data.show_row(request, *place, *held)}

    def on_found(request: gr.Request, event: gr.EventData, name: str, *held: object) -> dict[object, object]:
        return {tabs: gr.Tabs(selected="data"), **data.show_row(request, name, findings.row_of(event), *held)}

    opened = [tabs, *data.opened]
    train.rows.row(shown(on_row), data.held, opened, **quiet).then(**data.check)
    train.preview.row(shown(on_found), [train.dataset, *data.held], opened, **quiet).then(**data.check)
    for tab in talks:

        def on_more(pending: Pending | None, tab: ChatTab | CompareTab = tab) -> dict[object, object]:
            tab.fix.go_on(pending)
            # Not chosen by hand any more: the tab follows the new run once it is there.
            return {tabs: gr.Tabs(selected="train"), **tab.fix.hide(), tab.chosen: False, **train.on_active()}

        for event in tab.fix.wire():
            event.then(shown(data.on_elsewhere), [data.shown, tab.fix.changed], data.opened, **quiet).then(**data.check)
        outputs = [tabs, *tab.fix.closed, tab.chosen, *train.progress]
        tab.fix.more.click(shown(on_more), [tab.fix.pending], outputs, **quiet)


def _hand_over(page: Page, library: Library, compare: CompareTab, chat: ChatTab) -> None:
    """An adapter chosen in the library is picked in the tab that it was opened from."""

    def on_use(event: gr.EventData) -> dict[object, object]:
        taken = chat if event.tab == "chat" else compare
        return taken.on_use(str(event.id))

    picked = [*compare.taken, chat.pick, chat.system, chat.chosen]
    library.panel.use(page.shown(on_use), None, picked, show_progress="hidden", api_visibility="private")
