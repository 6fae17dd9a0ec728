"""Files with something wrong, cut off or of any bytes: right rows or one sentence, by the importer and by the page's own route."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from core import formats
from core.dataset import Dataset, Message, Row
from core.errors import DatasetError
from core.formats import Kind
from core.workspace import Workspace
from ui import prepare_environment

prepare_environment()

BENCH = Path(__file__).parents[1] / "bench"
CUTS = 200


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The importer's benchmark, which knows 64 malformed files and a good one of each format; nothing of it stays loaded."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module("imports")
    for name in {path.stem for path in BENCH.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]


class Told:
    """As much of a page's event as the handler reads."""

    def __init__(self, **told: object) -> None:
        self.__dict__.update(told)


class Route:
    """The page's import: a file goes up by its route in pieces, then the dialog reads it. The table is `rows` before."""

    def __init__(self, home: Path) -> None:
        import gradio as gr

        from ui import import_files
        from ui.data import DataTab
        from ui.edits import Edits
        from ui.page import Page

        self.workspace = Workspace(home)
        self.workspace.create("rows", [Row("kept", "", "kept")])
        page = Page(self.workspace, "en", Edits(self.workspace))
        with gr.Blocks():
            self.tab = DataTab(page)
        self.tab.importing.table = self.tab
        app = FastAPI()
        import_files.add(app, page.edits.arrivals)
        self.client = TestClient(app, base_url="http://127.0.0.1:7860")
        self.sent = 0

    def bring(self, data: bytes, name: str) -> tuple[str, tuple[Row, ...], list[int]]:
        """(what the dialog says, the rows it would put, the statuses of the route)."""
        self.sent += 1
        token, statuses = f"{self.sent:032x}", []
        half = len(data) // 2
        for offset, piece in ((0, data[:half]), (half, data[half:])):
            headers = {"x-name": quote(name), "x-offset": str(offset), "x-size": str(len(data))}
            answer = self.client.put(f"/import/file/{token}?language=en", content=piece, headers=headers)
            statuses.append(answer.status_code)
        shown = self.tab.importing.on_read(Told(files=[token]), (), "小禾", "Xiaohe", "青禾", "Qinghe")
        html = json.loads(shown[self.tab.importing.box])["html"]
        sources = shown[self.tab.importing.sources]
        return html, tuple(row for source in sources if source.imported for row in source.imported.rows), statuses


@pytest.fixture(scope="module")
def route(tmp_path_factory: pytest.TempPathFactory) -> Route:
    return Route(tmp_path_factory.mktemp("home"))


def faults(bench: Any, route: Route, what: str, data: bytes, name: str) -> list[str]:
    """Where the page tells, or would put, anything else than the importer by itself."""
    found = bench.outcome(data, name)
    html, rows, statuses = route.bring(data, name)
    wrong = []
    if statuses != [200, 200] or "Traceback" in html or "\ufffd" in "".join(row.question + row.output for row in rows):
        wrong.append(f"{what}: {statuses} {html[:200]}")
    if rows != (found.rows if found.verdict == "rows" else ()):
        wrong.append(f"{what}: {len(rows)} rows, {found.verdict} {len(found.rows)}")
    if found.verdict != "rows" and len(html) < 40:
        wrong.append(f"{what}: nothing said")
    return wrong


def test_malformed_files_by_the_importer_and_by_the_page(
    bench: Any, route: Route, full: bool, tally: Callable[..., None]
) -> None:
    read = list(bench.malformed_files())  # raises where a row is wrong
    cases = bench.malformed.cases()
    wrong = [fault for case in cases for fault in faults(bench, route, case.what, case.data, case.name)]
    kept = route.workspace.dataset("rows").rows == (Row("kept", "", "kept"),)
    print(*wrong, sep="\n")
    tally("malformed files, by importer and page", cases=len(read) + len(cases), lost=int(not kept), wrong=len(wrong))


def test_files_cut_off_anywhere_by_the_importer_and_by_the_page(
    bench: Any, route: Route, full: bool, tally: Callable[..., None]
) -> None:
    cuts, wrong = CUTS if full else 20, list[str]()
    counted = sum(line[1] for line in bench.cut_files(cuts))  # raises for a wrong row that nothing is said of
    pages, chance = 0, random.Random(11)
    for kind, (name, data) in bench.malformed.good().items():
        for place in [chance.randrange(len(data)) for _ in range(max(1, cuts // 10))]:
            pages += 1
            wrong += faults(bench, route, f"{kind} cut at {place}", data[:place], name)
    kept = route.workspace.dataset("rows").rows == (Row("kept", "", "kept"),)
    print(*wrong, sep="\n")
    tally("files cut off, by the importer", cases=counted)
    tally("files cut off, by the page", cases=pages, lost=int(not kept), wrong=len(wrong))


def properties(full: bool, default: int, whole: int) -> settings:
    """Without a deadline: other work may share the machine. The same examples each time."""
    return settings(
        max_examples=whole if full else default, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


NAMES = st.sampled_from(
    ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.xlsx", "a.parquet", "a.zip", "a.txt", "a", "../a.json"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["instruction", "input", "output", "question", "answer", "messages", "role", "content", "from", "value"])
        | st.text(max_size=4),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


def test_bytes_and_values_of_any_kind_are_rows_or_a_sentence(
    bench: Any, full: bool, tally: Callable[..., None]
) -> None:
    seen: list[str] = []

    @properties(full, 150, 2000)
    @given(
        st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()) | st.text().map(str.encode), NAMES
    )
    def hold(data: bytes, name: str) -> None:
        found = bench.outcome(data, name)  # lets through anything but a sentence
        seen.append(found.verdict)
        assert all(isinstance(cell, str) for row in found.rows for cell in (row.instruction, row.input, row.output))

    hold()
    tally("files of any bytes or JSON, by the importer", cases=len(seen))


CELLS = st.text(max_size=20) | st.sampled_from(
    ["=1+1", "@x", "\t-1", "'quoted'", '"', "a,b", "a\r\nb", "\ufeff", "{{NAME}}", "#", "null", " "]
)
TURNS = st.lists(st.tuples(CELLS.filter(str.strip), CELLS.filter(str.strip)), max_size=2)
ROWS = st.builds(
    lambda instruction, extra, output, system, turns: Row(
        instruction, extra, output, system,
        tuple(message for pair in turns for message in (Message("user", pair[0]), Message("assistant", pair[1]))),
    ),
    CELLS.filter(str.strip), CELLS, CELLS.filter(str.strip), CELLS, TURNS,
)  # fmt: skip


def test_whatever_is_written_comes_back_the_same_in_every_format(full: bool, tally: Callable[..., None]) -> None:
    seen: list[str] = []

    @properties(full, 40, 600)
    @given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from(get_args(Kind)))
    def hold(rows: list[Row], kind: Kind) -> None:
        data, name = formats.write(Dataset("t", tuple(rows)), kind)
        seen.append(kind)
        try:
            back = formats.read(data, name).rows
        except DatasetError as error:  # what no file may hold is said, not changed
            assert any("\0" in cell for row in rows for cell in (row.question, row.output, row.system)) or any(
                "\0" in turn.content for row in rows for turn in row.history
            ), (kind, str(error))
            return
        assert back == tuple(rows), kind

    hold()
    tally("tables of any text, written and read back", cases=len(seen))
