"""The import without a browser: files on their way, what is asked, what a yes does; tables told by what differs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from core import formats
from core.dataset import Identity, Message, Row
from core.errors import DatasetError
from core.text import Text
from core.workspace import Workspace
from ui import prepare_environment, rows
from ui.edits import Edits
from ui.held import Held, rebuilt
from ui.import_files import Arrivals

prepare_environment()

ROWS = [Row(f"q{i}", "", f"a{i}") for i in range(8)]
TOKEN = "0123456789abcdef0123456789abcdef"
GOOD = b'{"instruction": "{{NAME}}?", "output": "<b>yes</b>"}\n{"instruction": "", "output": ""}\n'


class Visit:
    """As much of a gradio request, and of an event, as the handlers read."""

    session_hash = "visit"

    def __init__(self, **told: object) -> None:
        self.__dict__.update(told)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def data(workspace: Workspace) -> object:
    """The Dataset tab of an English page."""
    import gradio as gr

    from ui.data import DataTab
    from ui.page import Page

    page = Page(workspace, "en", Edits(workspace))
    with gr.Blocks():
        tab = DataTab(page)
    tab.importing.table = tab
    return tab


def brought(data: object, *files: tuple[str, bytes]) -> tuple[str, tuple[object, ...]]:
    """(html of the dialog, sources) after these files were chosen."""
    tokens = []
    for i, (name, content) in enumerate(files):
        tokens.append(f"{i:032x}")
        data.page.edits.arrivals.put(tokens[-1], name, len(content), 0, content)
    return said(data, data.importing.on_read(Visit(files=tokens), (), "小禾", "Xiaohe", "", ""))


def said(data: object, shown: dict[object, object]) -> tuple[str, tuple[object, ...]]:
    return json.loads(shown[data.importing.box])["html"], shown[data.importing.sources]


def decided(data: object, sources: object, **answer: object) -> tuple[str, tuple[object, ...]]:
    return said(data, data.importing.on_decide(Visit(answer=answer), sources, "", "", "", ""))


def put(data: object, how: str, sources: object, name: str, table: list[Row]) -> dict[object, object]:
    return data.importing.on_put(Visit(), Visit(how=how), sources, name, table, "", "", "", "")


# What a page holds


def test_a_token_is_the_same_however_the_rows_came_together() -> None:
    held, draw = Held(), random.Random(0)
    for _ in range(300):
        table = draw.sample(ROWS, draw.randint(0, 8))
        table[1:1] = [Row("new", str(draw.random())), *table[:2]]
        assert held.token(table) == Held().token(table)
    assert held.token(ROWS) != held.token(ROWS[::-1]) != held.token([])
    marked = [Row("q", "", "a"), Row("q", "", "a", history=(Message("user", "x"),))]
    assert held.token(marked[:1]) != held.token(marked[1:])


def test_a_table_told_by_what_differs_is_the_table() -> None:
    new = {"instruction": "new"}
    assert rebuilt(ROWS, [[0, 3], new, [5, 3]]) == [*ROWS[:3], new, *ROWS[5:]]
    assert rebuilt(ROWS, []) == [] and rebuilt(ROWS, [[0, 8], [0, 8]]) == ROWS * 2
    for wrong in ([[0, 9]], [[-1, 2]], [[2, -1]], [[0]], [[0, 1.0]], [[True, 1]], ["row"], [None], [[0, 1, 2]]):
        assert rebuilt(ROWS, wrong) is None, wrong


def test_an_edit_is_understood_after_a_restart_and_asked_for_again_where_the_table_is_unknown(
    workspace: Workspace,
) -> None:
    from ui.row_editor import RowEditor, say_again

    name = workspace.create("t", ROWS).name
    base = json.loads(RowEditor("en", ROWS, held=Edits(workspace).held, dataset=name, render=False).value)["base"]
    editor = RowEditor("en", held=Edits(workspace).held, render=False)  # another process
    told = {"dataset": name, "revision": 3, "base": base, "runs": [[0, 7], {"instruction": "last"}]}
    assert rows.clean(editor.preprocess(json.dumps(told))) == [*ROWS[:7], Row("last")]
    lost = editor.preprocess(json.dumps({**told, "base": "0" * 32}))
    assert lost.lost is not None and say_again(lost).startswith("again#3#")
    with pytest.raises(DatasetError, match="restarted"):
        rows.clean(lost)
    for damaged in ([[0, 99]], "runs", [["a", 1]]):
        with pytest.raises(DatasetError):
            rows.clean(editor.preprocess(json.dumps({**told, "runs": damaged})))


def test_held_tables_are_few(workspace: Workspace) -> None:
    held = Held()
    tokens = [held.hold([Row(str(i))]) for i in range(40)]
    assert held.rows(tokens[0], "") is None and held.rows(tokens[-1], "") == (Row("39"),)


# Files on their way


def test_a_file_arrives_in_pieces_and_once() -> None:
    arrivals = Arrivals()
    assert arrivals.put(TOKEN, "a.json", 6, 0, b"abc") == 3
    assert arrivals.put(TOKEN, "a.json", 6, 0, b"abc") == 3  # said again: its answer was lost
    assert arrivals.put(TOKEN, "a.json", 6, 3, b"defg") == 3  # more than was announced
    with pytest.raises(DatasetError):
        arrivals.take(TOKEN)
    for part in (b"abc", b"def"):
        arrivals.put(TOKEN, "a.json", 6, 0 if part == b"abc" else 3, part)
    assert arrivals.take(TOKEN) == ("a.json", b"abcdef")
    with pytest.raises(DatasetError):
        arrivals.take(TOKEN)
    with pytest.raises(DatasetError, match="limit is 100 MB"):
        arrivals.put(TOKEN, "big.json", formats.MAX_BYTES + 1, 0, b"")
    for i in range(64):
        arrivals.put(f"{i:032x}", "x", 1, 0, b"x")
    with pytest.raises(DatasetError, match="64"):
        arrivals.put(TOKEN, "x", 1, 0, b"x")


def test_files_that_broke_off_make_room_for_new_ones() -> None:
    arrivals = Arrivals()
    arrivals.put(TOKEN, "whole", 1, 0, b"x")
    for i in range(80):
        arrivals.put(f"{i:032x}", "broken off", 2, 0, b"x")
    assert arrivals.take(TOKEN) == ("whole", b"x")
    assert arrivals.put(f"{79:032x}", "broken off", 2, 1, b"y") == 2
    arrivals.drop([f"{79:032x}", "unknown"])
    with pytest.raises(DatasetError):
        arrivals.take(f"{79:032x}")


def test_the_route_takes_pieces_and_answers_in_the_language_of_the_page(workspace: Workspace) -> None:
    from ui.server import create_app

    client = TestClient(create_app(workspace, {"127.0.0.1"}), base_url="http://127.0.0.1")

    def send(token: str, size: object, language: str = "zh") -> object:
        headers = {"x-name": "%E6%95%B0.json", "x-offset": "0", "x-size": str(size)}
        return client.put(f"/import/file/{token}?language={language}", content=b"[]", headers=headers)

    assert send(TOKEN, 2).json() == {"received": 2}
    assert "最多 100 MB" in send(TOKEN, 10**9).json()["error"]
    assert "limit" in send(TOKEN, 10**9, "en").json()["error"]
    assert send("../../etc/passwd", 2).status_code == 404 and send("short", 2).status_code == 400
    assert send(TOKEN, "many").status_code == 400
    assert client.delete(f"/import/file/{TOKEN}").status_code == 204
    assert send(TOKEN, 3).json() == {"received": 2}  # begun anew
    for kind in ("json", "jsonl", "csv", "messages", "sharegpt", "swift", "llamafactory"):
        answer = client.get(f"/export/dataset/{workspace.datasets()[0]}.{kind}")
        assert answer.status_code == 200 and answer.content, kind


# From a file to the table


def test_what_a_file_gives_is_shown_before_anything_is_done(data: object) -> None:
    html, sources = brought(data, ("folder/a.jsonl", GOOD))
    assert "a.jsonl" in html and "rows: 2" in html and "utf-8" in html
    assert "Xiaohe?" in html  # as it will be trained, the identity card filled in
    assert "&lt;b&gt;yes&lt;/b&gt;" in html and "<b>yes" not in html
    assert "blank rows, not trained on: 1" in html and "without the system prompt of the training settings" in html
    assert [source.name for source in sources] == ["a.jsonl"]
    html, sources = brought(data, ("a.json", b"[{]"))
    assert "a.json" in html and "as it was" in html and sources == ()


def test_files_of_an_unknown_kind_are_left_out_and_named_where_others_came_with_them(data: object) -> None:
    html, sources = brought(data, ("README.md", b"# About"), ("a.jsonl", GOOD), ("b.jsonl", GOOD), ("LICENSE", b"MIT"))
    assert [source.name for source in sources] == ["a.jsonl", "b.jsonl"]
    assert "README.md, LICENSE" in html
    html, sources = brought(data, ("README.md", b"# About"))
    assert "Unknown kind of file (.md)" in html and sources == ()


def test_every_kind_of_question_is_asked_and_its_answer_taken(data: object) -> None:
    html, sources = brought(data, ("gb.csv", "问题,回答\n你是谁？,我是小禾，由青禾智能开发。\n".encode("gb18030")))
    assert "我是小禾" in html and "data-answer" in html
    html, sources = decided(data, sources, encoding="gb18030")
    assert sources[0].imported.rows == (Row("你是谁？", "", "我是小禾，由青禾智能开发。"),)

    html, sources = brought(data, ("odd.csv", b"alpha,beta,gamma\none,two,three\n"))
    assert html.count("<select") == 6 and "gamma" in html
    html, sources = decided(data, sources, columns={"question": "alpha", "answer": "gamma", "input": ""})
    assert sources[0].imported.rows == (Row("one", "", "three"),)

    html, sources = brought(data, ("cut.json", b'[{"instruction": "q", "output": "a"},\n{"instruction": "r", "out'))
    assert "salvage" in html and sources[0].imported is None
    html, sources = decided(data, sources, salvage=True)
    assert sources[0].imported.rows == (Row("q", "", "a"),)

    info = {"one": {"file_name": "a.json"}, "two": {"file_name": "b.json"}}
    files = [("dataset_info.json", json.dumps(info).encode())]
    files += [(name, json.dumps([{"instruction": name, "output": "a"}]).encode()) for name in ("a.json", "b.json")]
    html, sources = brought(data, *files)
    assert "one" in html and "two" in html and len(sources) == 1
    html, sources = decided(data, sources, entry="two")
    assert sources[0].imported.rows == (Row("b.json", "", "a"),)


def test_several_files_are_read_in_turn_and_joined(data: object, workspace: Workspace) -> None:
    gb = "问题,回答\n第一次世界大战是哪一年开始的？,一九一四年。\n".encode("gb18030")
    html, sources = brought(data, ("a.jsonl", GOOD), ("b.csv", gb), ("c.jsonl", GOOD))
    assert "b.csv" in html and [source.imported is None for source in sources] == [False, True, True]
    html, sources = decided(data, sources, encoding="gb18030")
    assert all(name in html for name in ("a.jsonl", "b.csv", "c.jsonl"))
    name = workspace.create("t").name
    data.page.edits.open("visit", name)
    put(data, "append", sources, name, [])
    assert [row.instruction for row in workspace.dataset(name).rows][::2] == [
        "{{NAME}}?",
        "第一次世界大战是哪一年开始的？",
        "",
    ]


def test_a_pasted_text_is_read_as_a_file_is(data: object) -> None:
    shown = data.importing.on_paste(Visit(text="你好\t你好呀\n再见\t拜拜"), (), "", "", "", "")
    _, sources = said(data, shown)
    assert sources[0].imported.rows == (Row("你好", "", "你好呀"), Row("再见", "", "拜拜"))


def test_a_yes_replaces_appends_or_opens_a_new_table(data: object, workspace: Workspace) -> None:
    name = workspace.create("t", ROWS, Identity("小禾")).name
    _, sources = brought(data, ("file.jsonl", GOOD))
    data.page.edits.open("visit", name)
    shown = put(data, "append", sources, name, [*ROWS, Row()])
    assert workspace.dataset(name).rows == (*ROWS, *sources[0].imported.rows)
    assert shown[data.table]["value"] == workspace.dataset(name).rows and shown[data.importing.sources] == ()
    put(data, "replace", sources, name, list(workspace.dataset(name).rows))
    assert workspace.dataset(name).rows == sources[0].imported.rows
    shown = put(data, "new", sources, name, list(workspace.dataset(name).rows))
    assert shown[data.shown] == "file" and workspace.dataset("file").rows == sources[0].imported.rows
    assert put(data, "replace", (), name, []).keys() == {data.importing.box, data.importing.sources}  # nothing was read


def test_a_row_that_holds_only_a_system_prompt_stays_above_what_is_added(data: object, workspace: Workspace) -> None:
    name = workspace.create("t", [Row(system="kept")]).name
    _, sources = brought(data, ("file.jsonl", GOOD))
    data.page.edits.open("visit", name)
    put(data, "append", sources, name, [Row(system="kept"), Row()])
    assert workspace.dataset(name).rows == (Row(system="kept"), *sources[0].imported.rows)


def test_rows_are_not_said_to_be_in_where_another_page_saves_between_the_two_saves(
    data: object, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = workspace.create("t", ROWS).name
    edits, save = data.page.edits, data.page.edits.save
    for page in ("visit", "other"):
        edits.open(page, name)
    theirs = workspace.dataset(name).with_rows(ROWS[:2])

    def between(session: str, dataset: object, **how: object) -> bool:
        stored = save(session, dataset, **how)
        return save("other", theirs, force=True) and stored

    monkeypatch.setattr(edits, "save", between)
    done = data.put_rows(Visit(), ROWS[:1], Text("换", "change"), name, ROWS, "", "", "", "")
    assert not done.done and done.shown[data.conflict]["visible"] and data.table not in done.shown
    assert workspace.dataset(name) == theirs


def test_a_mend_that_a_conflict_kept_away_is_not_said_to_be_done(
    data: object, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.config import TrainConfig
    from ui import notify

    said: list[str] = []
    monkeypatch.setattr(notify, "say", said.append)
    monkeypatch.setattr(notify, "warn", said.append)
    mine = workspace.create("t", [*ROWS, Row()])
    for page in ("visit", "other"):
        data.page.edits.open(page, mine.name)
    data.doctor._data = data
    checked = data.doctor._checked(mine, TrainConfig())
    kind = next(found.kind for found in checked.findings if found.mends)
    assert data.page.edits.save("other", mine.with_rows(ROWS[:2]))
    asked = Visit(check=data.doctor._checks.keep(checked), kind=kind, act="0")
    shown = data.doctor.on_mend(Visit(), asked, mine.name, mine.rows, "", "", "", "")
    assert shown[data.conflict]["visible"] and len(said) == 1 and "nothing was done" in said[0]


def test_rows_for_a_table_that_is_gone_are_not_said_to_be_in(data: object, workspace: Workspace) -> None:
    name, _ = workspace.create("t", ROWS).name, workspace.create("next")
    _, sources = brought(data, ("file.jsonl", GOOD))
    data.page.edits.open("visit", name)
    workspace.delete(name)
    for how in ("append", "replace"):
        shown = put(data, how, sources, name, ROWS)
        html, kept = said(data, shown)
        assert "deleted or renamed" in html and kept == sources and shown[data.shown] == "next"


def test_a_conflict_keeps_both_tables_as_they_were(data: object, workspace: Workspace) -> None:
    name = workspace.create("t", ROWS).name
    _, sources = brought(data, ("file.jsonl", GOOD))
    for page in ("visit", "other"):
        data.page.edits.open(page, name)
    theirs = workspace.dataset(name).with_rows(ROWS[:2])
    assert data.page.edits.save("other", theirs)
    for how in ("append", "replace", "new"):
        shown = put(data, how, sources, name, [*ROWS, Row("typed", "", "here")])
        assert shown[data.conflict]["visible"] and data.table not in shown
        html, kept = said(data, shown)
        assert "nothing was done" in html and 'data-how="append"' in html and kept == sources
    assert workspace.dataset(name) == theirs and "file" not in workspace.datasets()


def test_rows_that_the_editor_could_not_hold_are_refused_before_they_are_offered(
    data: object, workspace: Workspace
) -> None:
    tables = {
        "rows": ([{"instruction": "q", "output": "a"}] * (rows.MAX_ROWS + 1), "60001 rows"),
        "cell": ([{"instruction": "q", "output": "字" * (rows.MAX_CELL_CHARACTERS + 1)}], "Row 1 has a cell"),
        "bytes": ([{"instruction": "q", "output": "x" * 290_000}] * 290, "84.1 MB of text"),
    }
    for name, (table, why) in tables.items():
        html, sources = brought(data, (f"{name}.json", json.dumps(table).encode()))
        assert why in html and sources == (), name
    _, sources = brought(data, ("file.jsonl", GOOD))
    name = workspace.create("t").name  # what fits by itself may not fit below what is there
    html, kept = said(data, put(data, "append", sources, name, [Row("q", "", "a")] * rows.MAX_ROWS))
    assert "60002" in html and kept == sources and workspace.dataset(name).rows == ()
