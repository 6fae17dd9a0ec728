"""The row editor in a real browser: what a person does with the table, and what reaches the server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from core.dataset import Identity, Message, Row
from ui.held import Held

pytestmark = pytest.mark.browser

ROWS = [
    Row("你是谁?", "", "我是{{NAME}},由{{AUTHOR}}开发。"),
    Row("Who made you?", "", "I was made by {{AUTHOR}}."),
    Row("翻译成英文", "你好", "Hello"),
    Row("谁在维护你?", "", ""),
    Row("继续", "", "好的。", "你是小禾。", (Message("user", "讲个故事"), Message("assistant", "从前有座山。"))),
    Row("最后一行", "", "完"),
]
IDENTITY = Identity(name_zh="小禾", name_en="Xiaohe", author_zh="青禾智能")
ATTACK = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script></textarea><b id=hacked>'


@dataclass
class Table:
    """The editor on a page, and what the server saw of it."""

    page: object
    saved: list[list[Row]] = field(default_factory=list)
    clicked: list[list[Row]] = field(default_factory=list)
    next_value: list[Row] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # how many rows each saved edit named by a table that was known
    held: Held = field(default_factory=Held)

    def cell(self, row: int, name: str = "instruction"):
        return self.page.locator(".re-row").nth(row).locator(f'textarea[data-field="{name}"]')

    def column(self, name: str = "instruction") -> list[str]:
        cells = self.page.locator(f'.re-row:not([hidden]) textarea[data-field="{name}"]')
        return cells.evaluate_all("cells => cells.map(cell => cell.value)")

    def do(self, row: int, name: str) -> None:
        line = self.page.locator(".re-row").nth(row)
        line.hover()
        line.get_by_role("button", name=name).click()

    def settled(self) -> list[Row]:
        """The rows that the server has, once the footer says that they are saved."""
        self.page.wait_for_function("document.querySelector('.re-state').textContent.startsWith('已保存')")
        return self.saved[-1]

    def paste(self, text: str, html: str = "") -> None:
        """Put `text` on a clipboard event at the cell with the focus."""
        self.page.evaluate(
            """([text, html]) => {
                const data = new DataTransfer();
                data.setData("text/plain", text);
                if (html) data.setData("text/html", html);
                const at = document.activeElement;
                const event = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
                if (at.dispatchEvent(event)) document.execCommand("insertText", false, text);
            }""",
            [text, html],
        )


@pytest.fixture(scope="module")
def app(serve: Callable[..., str]) -> tuple[str, Table]:
    """One small page with the editor, a button that reads it and a button that replaces its rows."""
    import gradio as gr

    from ui.row_editor import RowEditor, card, clean, saved_now, say_again

    table = Table(None)
    held = table.held

    def save(value: object) -> object:
        if value.lost:
            return gr.update(saved=say_again(value))
        table.sent.append(sum(isinstance(row, Row) for row in value))
        table.saved.append(clean(value))
        return gr.update(saved=saved_now(value, held.hold(table.saved[-1])))

    def read(value: object) -> str:
        table.clicked.append(clean(value))
        return str(len(table.clicked))

    with gr.Blocks() as blocks:
        editor = RowEditor("zh", [], held=held, elem_id="rows")
        button, answer = gr.Button("read", elem_id="read"), gr.Textbox(elem_id="answer")
        replaced = gr.Button("replace", elem_id="replace")
        opened = gr.Button("open", elem_id="open")
        editor.input(save, editor, editor, trigger_mode="always_last", show_progress="hidden")
        button.click(read, editor, answer)
        replaced.click(lambda: table.next_value, None, editor)
        nameless = gr.Button("nameless", elem_id="nameless")
        nameless.click(lambda: gr.update(value=table.next_value, identity={}), None, editor)
        opened.click(lambda: gr.update(value=table.next_value, dataset="other"), None, editor)
        blocks.load(
            lambda: gr.update(value=table.next_value, identity=card(IDENTITY), dataset="first", saved=saved_now()),
            None, editor,
        )  # fmt: skip
    return serve(blocks), table


@pytest.fixture
def open_table(app: tuple[str, Table], page: object) -> Callable[..., Table]:
    """open_table(rows) -> the table, drawn."""
    address, table = app

    def start(rows: list[Row], name: str = "", whole: bool = True) -> Table:
        table.page, table.next_value = page, rows
        table.saved.clear()
        table.clicked.clear()
        page.goto(address + name)
        if whole:
            page.wait_for_function("n => document.querySelectorAll('.re-row').length === n", arg=len(rows))
        page.wait_for_function("document.querySelector('.re-state')?.textContent.startsWith('已保存')")
        return table

    return start


@pytest.fixture
def table(open_table: Callable[..., Table]) -> Table:
    return open_table(ROWS)


def test_a_typed_cell_reaches_the_server_and_the_footer_says_so(table: Table) -> None:
    table.cell(3, "output").fill("青禾智能在维护我。")
    assert table.page.locator(".re-state").inner_text() == "未保存…"
    assert table.settled()[3] == replace(ROWS[3], output="青禾智能在维护我。")
    assert table.settled()[:3] + table.settled()[4:] == ROWS[:3] + ROWS[4:]


def test_rows_are_added_duplicated_deleted_and_moved(table: Table) -> None:
    page = table.page
    page.get_by_role("button", name="添加一行").click()
    assert page.evaluate("document.activeElement.dataset.field") == "instruction"
    page.keyboard.type("新的问题")
    page.keyboard.press("Tab")
    page.keyboard.type("新的回答")
    table.do(0, "复制此行")
    table.do(3, "删除此行")
    table.do(0, "下移")
    table.cell(5).focus()
    page.keyboard.press("Alt+ArrowUp")
    expected = [ROWS[0], ROWS[0], ROWS[1], ROWS[3], ROWS[5], ROWS[4], Row("新的问题", "", "新的回答")]
    assert table.settled() == expected
    assert page.locator(".re-number").all_inner_texts() == [str(i + 1) for i in range(7)]
    assert page.evaluate("document.activeElement.value") == "最后一行"


def test_ctrl_enter_opens_a_row_below_and_a_blank_row_is_not_marked(table: Table) -> None:
    table.cell(1, "output").focus()
    table.page.keyboard.press("Control+Enter")
    table.page.keyboard.type("下一问")
    assert table.settled()[2] == Row("下一问")
    marked = table.page.locator(".re-row").evaluate_all("rows => rows.map(r => r.classList.contains('is-incomplete'))")
    assert marked == [False, False, True, False, True, False, False]


def test_the_rows_marked_incomplete_are_those_that_training_refuses(table: Table) -> None:
    from core import health
    from core.config import TrainConfig
    from core.dataset import Dataset
    from ui.rows import cells

    texts = ("", "x", " ", "\u200b", "\ufeff", "\x85", "\x1c", "\u3164")
    pasts = ((), (Message("user", "x"), Message("assistant", "y")))
    rows = [Row(q, "", a, system, past) for q in texts for a in texts for system in ("", "s") for past in pasts]
    findings = health.check(Dataset("t", tuple(rows)), TrainConfig(), None)
    refused = {i for finding in findings if finding.level == "bad" for i in finding.rows}
    script = (Path(__file__).parents[2] / "ui" / "static" / "row_text.js").read_text("utf-8")
    todo = table.page.evaluate(f"rows => {{ {script}\n return rows.map(missing); }}", [cells(row) for row in rows])
    assert {i for i, fields in enumerate(todo) if fields} == refused


def test_an_edit_sends_the_rows_that_changed_and_all_of_them_where_the_server_forgot_the_table(table: Table) -> None:
    table.cell(3, "output").fill("青禾智能。")
    table.settled()
    table.do(0, "删除此行")
    table.settled()
    assert table.sent[-2:] == [5, 5]
    table.held.forget()
    table.cell(0, "output").fill("改过了")
    expected = [replace(ROWS[1], output="改过了"), ROWS[2], replace(ROWS[3], output="青禾智能。"), *ROWS[4:]]
    assert (table.settled(), table.sent[-1]) == (expected, 0)
    table.page.keyboard.press("Control+z")
    table.settled()
    assert table.sent[-1] >= 4


def test_a_large_table_keeps_few_rows_on_the_page_and_edits_any_of_them(open_table: Callable[..., Table]) -> None:
    rows = [Row(f"问题 {i}", "", f"第 {i} 行的回答") for i in range(20_000)]
    table = open_table(rows, whole=False)
    page = table.page
    assert page.locator(".re-row").count() <= 400
    page.locator(".re-body").evaluate("body => { body.scrollTop = body.scrollHeight / 2; }")
    page.wait_for_function(
        "[...document.querySelectorAll('.re-number')].some(n => n.getBoundingClientRect().top > 200 && n.textContent > 9000)"
    )
    page.get_by_role("searchbox").fill("问题 19876")
    page.wait_for_function("document.querySelector('.re-found').textContent === '1/20000'")
    cell = page.locator(".re-row:not([hidden]) textarea[data-field=output]").filter(visible=True)
    cell.fill("改过了")
    rows[19_876] = replace(rows[19_876], output="改过了")
    assert table.settled() == rows and table.sent[-1] >= 19_999
    page.get_by_role("searchbox").press("Escape")
    page.get_by_title("删除全部行").click()
    assert table.settled() == []
    page.keyboard.press("Control+z")
    assert table.settled() == rows and table.sent[-1] == 20_000


def test_the_footer_waits_for_the_last_edit(table: Table) -> None:
    for i in range(8):
        table.cell(i % 6).fill(f"第 {i} 次")
    assert table.settled() == [replace(row, instruction=f"第 {i + 6 if i < 2 else i} 次") for i, row in enumerate(ROWS)]


def test_undo_and_redo_walk_through_every_kind_of_edit(table: Table) -> None:
    page = table.page
    table.cell(0).fill("改过")
    table.cell(1).press("Control+Enter")
    table.do(5, "删除此行")
    page.get_by_title("删除全部行").click()
    assert table.settled() == []
    page.keyboard.press("Control+z")
    assert len(table.column()) == 6
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert table.column() == ["改过", *(row.instruction for row in ROWS[1:])]
    page.keyboard.press("Control+z")
    assert table.settled() == ROWS
    page.keyboard.press("Control+z")
    assert table.settled() == ROWS
    for keys in ("Control+Shift+z", "Control+y"):
        page.keyboard.press(keys)
    assert table.column()[:3] == ["改过", "Who made you?", ""]
    page.get_by_role("button", name="撤销").click()
    page.get_by_role("button", name="撤销").click()
    assert table.settled() == ROWS


def test_one_session_of_typing_is_one_undo_step(table: Table) -> None:
    table.cell(5).click()
    table.page.keyboard.type("甲乙丙")
    table.cell(5, "output").click()
    table.page.keyboard.type("丁戊")
    table.page.keyboard.press("Control+z")
    assert (table.column()[5], table.column("output")[5]) == ("最后一行甲乙丙", "完")
    table.page.keyboard.press("Control+z")
    assert table.column()[5] == "最后一行"


def test_search_hides_the_other_rows_and_finds_resolved_names(table: Table) -> None:
    search = table.page.get_by_role("searchbox")
    search.fill("青禾智能")
    assert table.column() == ["你是谁?", "Who made you?"]
    assert table.page.locator(".re-found").inner_text() == "2/6"
    search.fill("没有这样的字")
    assert table.page.locator(".re-empty").inner_text().startswith("没有找到")
    search.press("Escape")
    assert len(table.column()) == 6


def test_dragging_a_row_number_moves_the_row(table: Table) -> None:
    numbers = table.page.locator(".re-number")
    numbers.nth(0).hover()
    table.page.mouse.down()
    box = numbers.nth(2).bounding_box()
    table.page.mouse.move(box["x"] + 5, box["y"] + box["height"] - 3, steps=5)
    table.page.mouse.up()
    assert table.settled() == [*ROWS[1:3], ROWS[0], *ROWS[3:]]


def test_a_spreadsheet_paste_fills_cells_and_adds_rows(table: Table) -> None:
    table.cell(4).focus()
    table.paste('问一\t"第一行\r\n第二行,说""好"""\r\n"问\t二"\t答二\r\n他说"行"\t"原样"\r\n')
    got = table.settled()
    assert got[4] == replace(ROWS[4], instruction="问一", output='第一行\n第二行,说"好"')
    assert got[5] == Row("问\t二", "", "答二")
    assert got[6] == Row('他说"行"', "", '"原样"')
    table.page.keyboard.press("Control+z")
    assert table.settled() == ROWS


def test_three_columns_are_question_input_and_answer(table: Table) -> None:
    table.cell(5).focus()
    table.paste("翻译\t太阳\tsun\n总结\t长文\t短文", html="<table></table>")
    assert table.settled()[5:] == [Row("翻译", "太阳", "sun"), Row("总结", "长文", "短文")]


def test_pasted_source_code_with_tabs_stays_in_its_cell(table: Table) -> None:
    code = "def f(x):\n\tif x:\n\t\treturn 1\n\treturn 2"
    table.cell(3, "output").focus()
    table.paste(code)
    assert table.settled()[3].output == code
    assert len(table.settled()) == len(ROWS)


def test_a_click_right_after_a_paste_sees_all_rows(table: Table) -> None:
    table.cell(0).focus()
    table.paste("\n".join(f"q{i}\ta{i}" for i in range(40)))
    table.page.locator("#read").click()
    table.page.wait_for_function("document.querySelector('#answer textarea').value === '1'")
    assert [row.output for row in table.clicked[-1]] == [f"a{i}" for i in range(40)]
    assert table.clicked[-1] == table.settled()


def test_a_reload_right_after_typing_asks_first_and_loses_nothing(table: Table) -> None:
    asked = []
    table.page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    table.cell(5, "output").click()
    table.page.keyboard.type("了")
    table.page.reload()
    table.page.locator(".re-row").first.wait_for()
    assert asked == ["beforeunload"]
    assert table.saved[-1][5].output == "完了"


def test_keys_of_an_input_method_do_nothing(table: Table) -> None:
    cell = table.cell(5)
    cell.focus()
    table.page.keyboard.press("End")
    session = table.page.context.new_cdp_session(table.page)
    session.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    table.page.evaluate(
        """() => {
            const at = document.activeElement;
            const fire = (more) => at.dispatchEvent(new KeyboardEvent("keydown", {bubbles: true, cancelable: true, ...more}));
            fire({key: "Enter", ctrlKey: true, isComposing: true});
            fire({key: "z", ctrlKey: true, isComposing: true});
            fire({key: "Enter", ctrlKey: true, keyCode: 229});
            fire({key: "ArrowUp", altKey: true, keyCode: 229});
        }"""
    )
    assert len(table.column()) == len(ROWS)
    session.send("Input.insertText", {"text": "你好"})
    assert table.settled() == [*ROWS[:5], replace(ROWS[5], instruction="最后一行你好")]


def test_markup_in_a_cell_stays_text(open_table: Callable[..., Table]) -> None:
    evil = Row(ATTACK, ATTACK, ATTACK + " {{NAME}}", ATTACK, (Message("user", ATTACK),))
    table = open_table([evil])
    table.cell(0).press("End")
    table.page.keyboard.type("!")
    assert table.settled() == [replace(evil, instruction=ATTACK + "!")]
    assert table.page.evaluate("window.hacked === undefined && !document.querySelector('#hacked')")


def test_system_and_history_survive_edit_duplicate_and_move(table: Table) -> None:
    badges = table.page.locator(".re-row").nth(4).locator(".re-badges span")
    assert badges.all_inner_texts() == ["系统", "多轮"]
    table.cell(4, "output").fill("好,继续。")
    table.do(4, "复制此行")
    table.do(4, "上移")
    changed = replace(ROWS[4], output="好,继续。")
    assert table.settled() == [*ROWS[:3], changed, ROWS[3], changed, ROWS[5]]


def test_the_extra_input_opens_by_its_button_and_folds_when_left_empty(table: Table) -> None:
    page = table.page
    assert table.column("input") == ["你好"]
    table.do(0, "添加补充输入")
    assert page.evaluate("document.activeElement.dataset.field") == "input"
    table.cell(1).click()
    assert table.column("input") == ["你好"]
    table.do(0, "添加补充输入")
    page.keyboard.type("附加")
    assert table.settled()[0].input == "附加"


def test_the_preview_says_what_training_will_read(open_table: Callable[..., Table]) -> None:
    rows = [
        Row("{{NAME}} 是谁", "", "<AUTHOR> 的 {{ name }}"),
        Row("Who is {{author}}?", "", "{{AUTHOR}} {{NAME}}"),
        Row("𠀀", "", "{{NAME}}"),
        Row("かな", "{{NAME}}", "한글"),
        Row("{{ NAME}}", "", "<name> {{NAME }}"),
    ]
    table = open_table(rows)
    for i, row in enumerate(rows):
        resolved = row.resolved(IDENTITY)
        line = table.page.locator(".re-row").nth(i)
        shown = line.locator(".re-preview").evaluate_all("all => all.map(node => node.textContent)")
        pairs = [(row.question, resolved.question), (row.output, resolved.output)]
        assert shown == [after for before, after in pairs if before != after]


def test_a_placeholder_without_a_value_is_shown_as_missing(table: Table) -> None:
    table.next_value = [Row("你是谁", "", "{{NAME}}")]
    table.page.locator("#nameless").click()
    table.page.wait_for_function("document.querySelectorAll('.re-row').length === 1")
    assert table.page.locator(".re-missing").inner_text() == "{{NAME}} 未填写"


def test_rows_from_the_server_can_be_undone_but_not_across_datasets(table: Table) -> None:
    page = table.page
    table.next_value = [Row("导入", "", "的行")]
    page.locator("#replace").click()
    page.wait_for_function("document.querySelectorAll('.re-row').length === 1")
    page.get_by_role("button", name="撤销").click()
    assert table.settled() == ROWS
    page.locator("#open").click()
    page.wait_for_function("document.querySelectorAll('.re-row').length === 1")
    assert page.get_by_role("button", name="撤销").is_disabled()
    assert page.get_by_role("button", name="重做").is_disabled()


def test_two_thousand_rows_load_type_and_change_without_lag(open_table: Callable[..., Table]) -> None:
    rows = [Row(f"问题 {i}", "", f"这是第 {i} 行的回答,{{{{NAME}}}} 会这样说。") for i in range(2000)]
    table = open_table(rows)
    start = time.perf_counter()
    table = open_table(rows, "?again")
    load = time.perf_counter() - start
    timings = table.page.evaluate(
        """async () => {
            const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
            const timed = async (run) => { const t = performance.now(); run(); await frame(); return performance.now() - t; };
            const cell = document.querySelector('.re-row textarea');
            cell.focus();
            const keys = [];
            for (let i = 0; i < 20; i++) keys.push(await timed(() => document.execCommand("insertText", false, "字")));
            const row = document.querySelector('.re-row');
            row.dispatchEvent(new PointerEvent("pointerover", {bubbles: true, pointerType: "mouse"}));
            let touched = 0;
            const seen = new MutationObserver((records) => { touched += records.length; });
            seen.observe(document.querySelector('.re-body'), {childList: true});
            const press = (name) => document.querySelector(`[data-do="${name}"]`).click();
            const duplicate = await timed(() => press("duplicate"));
            const rowsTouched = touched;
            const remove = await timed(() => press("remove"));
            const undo = await timed(() => press("undo"));
            return {keys: keys.sort((a, b) => a - b), duplicate, remove, undo, rowsTouched};
        }"""
    )
    table.page.mouse.move(700, 500)
    print(f"\n2,000 rows: load {load:.2f} s, " + json.dumps(timings))
    # On an idle machine 2.5 s, 3 ms and 120 ms (tests/bench/editor.py); here another browser runs beside.
    assert load < 8
    assert timings["keys"][-3] < 300  # two of twenty may meet what another program does
    assert timings["rowsTouched"] == 1  # one row went in; the other 2,000 stayed as they were
    assert max(timings["duplicate"], timings["remove"], timings["undo"]) < 1000


def test_five_hundred_pasted_rows_are_there_at_once(table: Table) -> None:
    table.cell(0).focus()
    text = "\n".join(f"问题 {i}\t回答 {i}" for i in range(500))
    start = time.perf_counter()
    table.paste(text)
    table.page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    took = time.perf_counter() - start
    print(f"\n500 pasted rows: {took:.2f} s")
    assert table.page.locator(".re-row").count() == 500
    assert took < 2  # 0.1 s on an idle machine
    assert len(table.settled()) == 500


def test_every_control_has_a_name(table: Table) -> None:
    table.page.locator(".re-row").first.hover()
    nameless = table.page.evaluate(
        """() => [...document.querySelectorAll('.re button, .re input, .re textarea')].filter((node) => {
            const labels = (node.getAttribute('aria-labelledby') ?? '').split(' ').filter(Boolean);
            const named = labels.length && labels.every(id => document.getElementById(id)?.textContent);
            return !named && !node.getAttribute('aria-label') && !node.textContent.trim();
        }).map(node => node.outerHTML)"""
    )
    assert nameless == []
    assert table.page.get_by_role("textbox", name="回答 2", exact=True).input_value() == ROWS[1].output


def test_a_phone_has_no_sideways_scroll(open_table: Callable[..., Table], page: object) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    table = open_table(ROWS)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    question, answer = table.cell(0).bounding_box(), table.cell(0, "output").bounding_box()
    assert answer["y"] >= question["y"] + question["height"] - 1
