"""RowEditor: the table of questions and answers as a gradio component, drawn by ui/static/row_editor.js.

For the page:
- value: rows, core's or dicts of cells; handlers receive `Cells`, a list of dicts, and `clean` makes rows of it.
- Bind `input` with trigger_mode="always_last": gradio's default drops an edit made while one is being saved.
  Do not answer it with the rows; answer `gr.update(saved=saved_now(value, token))`, which the footer waits for. The
  event comes again, three times at most, while that answer is missing.
- With `held` the browser sends what differs from a table that both know, as runs of its rows and new rows between
  them; without, it sends all rows. Where the server forgot that table the value is `lost`; answer `gr.update(saved=say_again(value))`.
- `gr.update(value=rows)` replaces the rows; a person can undo it. With another `dataset` name in the same
  update, another table is opened and the undo history starts anew.
- `gr.update(identity=card(...))` redraws what placeholders stand for.
- `gr.update(reveal=reveal(name, row))` puts the caret into a row of that dataset as soon as it can be seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import gradio as gr

from core.dataset import Identity, Row
from core.errors import DatasetError
from core.text import Language, Text
from ui import pieces
from ui.held import Held, rebuilt
from ui.rows import cells, clean

__all__ = ["Cells", "RowEditor", "card", "clean", "reveal", "saved_now", "say_again"]

_STATIC = Path(__file__).parent / "static"
_SCRIPTS = ("row_text.js", "row_editor.js", "row_send.js", "row_open.js", "row_actions.js")
_STRINGS: dict[str, Text] = {
    "add": Text("添加一行", "Add row"),
    "add_title": Text("在末尾添加一行", "Add a row at the end"),
    "undo": Text("撤销", "Undo"),
    "redo": Text("重做", "Redo"),
    "clear": Text("删除全部行", "Delete all rows"),
    "search": Text("搜索", "Search"),
    "hint": Text("可从 Excel 直接粘贴 · Ctrl+Enter 新行", "Paste from a spreadsheet · Ctrl+Enter adds a row"),
    "question": Text("问题", "Question"),
    "input": Text("补充输入", "Extra input"),
    "answer": Text("回答", "Answer"),
    "rows_label": Text("问答行", "Question and answer rows"),
    "question_missing": Text("写一个问题", "Write a question"),
    "input_missing": Text("补充输入（可不填）", "Extra input (optional)"),
    "answer_missing": Text("还没有回答", "No answer yet"),
    "row_tools": Text("这一行", "This row"),
    "up": Text("上移", "Move up"),
    "down": Text("下移", "Move down"),
    "duplicate": Text("复制此行", "Duplicate"),
    "remove": Text("删除此行", "Delete row"),
    "add_input": Text("添加补充输入", "Add extra input"),
    "drag": Text("拖动以移动", "Drag to move"),
    "system": Text("系统", "system"),
    "fixed": Text("修正", "fixed"),
    "fixed_by": Text("{adapter} 原来的回答：\n{answer}", "What {adapter} answered:\n{answer}"),
    "base": Text("基座模型", "the base model"),
    "details": Text(
        "展开这一行：系统提示词、各轮对话、模型看到的", "Details: system prompt, turns, what the model sees"
    ),
    "control": Text("特殊词元", "control text"),
    "control_typed": Text(
        "{strings}\n这些特殊词元是手打的，按普通文字训练，不起控制作用。",
        "{strings}\nTyped control strings: trained as plain text, they control nothing.",
    ),
    "multi_turn": Text("多轮", "multi-turn"),
    "unresolved": Text("未填写", "not given"),
    "count": Text("{n} 行", "{n} rows"),
    "count_one": Text("{n} 行", "{n} row"),
    "todo": Text("{n} 行没写完", "{n} incomplete"),
    "saved": Text("已保存 {time}", "saved {time}"),
    "unsaved": Text("未保存…", "unsaved…"),
    "failed": Text("没有保存成功，请检查程序是否还在运行", "Not saved. Is the program still running?"),
    "removed": Text("已删除 {n} 行，Ctrl+Z 撤销", "Rows deleted: {n}. Ctrl+Z brings them back"),
    "pasted": Text("已粘贴 {n} 行", "Rows pasted: {n}"),
    "dropped": Text("，{n} 列放不下，没有粘贴", ". Columns that found no place: {n}"),
    "too_many": Text("最多 {n} 行，没有粘贴", "The limit is {n} rows; nothing was pasted"),
    "empty": Text("还没有数据", "No rows yet"),
    "empty_hint": Text("添加一行、从 Excel 粘贴，或导入文件", "Add a row, paste from a spreadsheet or import a file"),
    "nothing_found": Text("没有找到", "Nothing found"),
    "nothing_found_hint": Text("按 Esc 清除搜索", "Press Esc to clear the search"),
    "keys_title": Text("快捷键", "Shortcuts"),
}
_KEYS: tuple[tuple[str, Text], ...] = (
    ("Ctrl + Enter", Text("在下面新建一行", "New row below")),
    ("Alt + Enter", Text("展开这一行", "Details of this row")),
    ("Alt + ↑ ↓", Text("移动这一行", "Move this row")),
    ("Ctrl + D", Text("复制这一行", "Duplicate this row")),
    ("Ctrl + Shift + Del", Text("删除这一行", "Delete this row")),
    ("Ctrl + Z", Text("撤销", "Undo")),
    ("Ctrl + Y", Text("重做", "Redo")),
    ("Ctrl + V", Text("从表格软件粘贴多行", "Paste rows from a spreadsheet")),
)


_LOST = Text(
    "程序重新启动过，不认得这个页面上的表格了，什么都没有改。请等底部显示“已保存”后再试一次。",
    "The program was restarted and no longer knows the table of this page; nothing was changed. Try again once the "
    "table's foot says saved.",
)


class Cells(list[object]):
    """What a handler receives: the rows, those that the browser sent not checked yet, and which edit they are.

    `lost` is why they are not there: the browser told them by a table that the server no longer knows.
    """

    revision: int | None = None
    dataset: str = ""
    lost: DatasetError | None = None


def saved_now(value: object = None, token: str = "") -> str:
    """What to put in `saved` once `value` was stored: the time, and the edit, so that a later one stays unsaved.

    With `token`, that of the stored rows, the browser from now on sends what differs from these.
    """
    revision = getattr(value, "revision", None)
    time = datetime.now().isoformat(timespec="microseconds")
    return time if revision is None else f"{time}#{revision}{'#' if token else ''}{token}"


def say_again(value: object) -> str:
    """What to put in `saved` where `value` is `lost`: the browser sends the whole table once more."""
    return f"again#{getattr(value, 'revision', None)}#{time.time_ns()}"


def reveal(dataset: str, row: int) -> str:
    """The value for `reveal`: row `row` (from 0) of that dataset, once."""
    return json.dumps({"dataset": dataset, "row": row, "at": str(time.time_ns())}, ensure_ascii=False)


def card(identity: Identity) -> dict[str, str]:
    """The value for `identity`."""
    return {
        "name_zh": identity.name_zh, "name_en": identity.name_en,
        "author_zh": identity.author_zh, "author_en": identity.author_en,
    }  # fmt: skip


class RowEditor(gr.HTML):
    """An editable table of rows; see the top of this file for how a page talks to it."""

    def __init__(
        self,
        language: Language = "zh",
        value: Iterable[Row | Mapping[str, object]] | None = None,
        *,
        identity: Mapping[str, str] | None = None,
        dataset: str = "",
        saved: str = "",
        reveal: str = "",
        held: Held | None = None,
        waiting: bool = False,
        elem_id: str | None = None,
        render: bool = True,
    ) -> None:
        # Gradio's HTML takes any name that is quoted in the script for an event unless it is a real attribute.
        self.language, self.identity, self.dataset, self.saved = language, dict(identity or {}), dataset, saved
        self.reveal, self._held = reveal, held
        words: dict[str, object] = {key: text.of(language) for key, text in _STRINGS.items()}
        words["keys"] = [[keys, text.of(language)] for keys, text in _KEYS]
        # For a table that is on its way: until it has come, nobody knows that there are no rows.
        words["waiting"] = waiting
        super().__init__(
            value=value,
            html_template='<div class="re"></div>',
            js_on_load=pieces.with_labels(words, _script()),
            head=f"<style>{_style()}</style>",
            apply_default_css=False,
            elem_id=elem_id,
            render=render,
            identity=self.identity,
            saved=saved,
            reveal=reveal,
        )

    def preprocess(self, payload: object) -> object:
        """The editor's JSON as Cells; anything else as it is, for `clean` to refuse."""
        if not isinstance(payload, str):
            return payload
        try:
            value = json.loads(payload or '{"rows": []}')
        except ValueError:
            return None
        if not (isinstance(value, dict) and isinstance(value.get("runs", value.get("rows")), list)):
            return None
        return self._sent(value)

    def _sent(self, value: dict[str, object]) -> Cells:
        rows = value.get("rows")
        base, runs, revision = value.get("base"), value.get("runs"), value.get("revision")
        if runs is not None and self._held is not None:
            known = self._held.rows(str(base), str(value.get("dataset", "")))
            rows = rebuilt(known, runs) if known is not None and isinstance(runs, list) else None
        sent = Cells(rows if isinstance(rows, list) else ())
        sent.lost = None if isinstance(rows, list) else DatasetError(_LOST)
        sent.revision = revision if isinstance(revision, int) else None
        sent.dataset = str(value.get("dataset", ""))
        return sent

    def postprocess(self, value: Iterable[Row | Mapping[str, object]] | str | None) -> str:
        """Rows and their dataset's name as one JSON string: one prop, so both arrive at once, and quick to compare."""
        if isinstance(value, str):
            return value
        rows = clean([row if isinstance(row, Row) else dict(row) for row in value or ()])
        base = self._held.hold(rows) if self._held is not None else ""
        told = {"dataset": self.dataset, "base": base, "rows": [cells(row) for row in rows]}
        return json.dumps(told, ensure_ascii=False)

    def api_info(self) -> dict[str, object]:
        """What the endpoint takes and gives."""
        return {"type": "string"}


def _script() -> str:
    return "\n".join((_STATIC / name).read_text("utf-8") for name in _SCRIPTS)


def _style() -> str:
    # The grid first: row_editor.css changes it for phones.
    return "\n".join((_STATIC / name).read_text("utf-8") for name in ("row_grid.css", "row_editor.css"))
