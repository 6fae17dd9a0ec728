"""Where mixed-in rows come from: built-in sets, datasets, files, and both hubs on this machine: streamed, kept, refused."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import pytest

from core import cli, dataset, formats
from core.dataset import Dataset, Identity, Row
from core.downloads import downloads_of
from core.errors import BusyError, ConfigError, DatasetError, ModelError
from core.sources import bring
from core.sources.bring import SetDownloads
from core.sources.found import Elsewhere, Sources
from core.sources.names import HubSet, hub_set
from core.sources.tables import SavedTables
from core.text import Text
from core.workspace import Workspace

NAME, SHA = "Org/little-set", "b" * 40
ALPACA = [{"instruction": f"question {i}", "input": "", "output": f"answer {i}"} for i in range(40)]


def json_lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


@dataclass
class Faults:
    """What the hub does wrong, and what it was asked."""

    break_after: dict[str, list[int]] = field(default_factory=dict)  # bytes sent before each next connection dies
    status: dict[str, int] = field(default_factory=dict)  # "" for the listing
    corrupt: set[str] = field(default_factory=set)
    configs: list[dict[str, object]] | None = None
    asked: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    hold: threading.Event | None = None


class Handler(BaseHTTPRequestHandler):
    """Hugging Face's and ModelScope's endpoints for the sets in `server.sets`."""

    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *words: object) -> None: ...

    def do_GET(self) -> None:
        url, faults = urlparse(self.path), self.server.faults
        query = parse_qs(url.query)
        faults.asked.append(self.path)
        parts = url.path.strip("/").split("/")
        files = self.server.files
        if "" in faults.status:
            return self.answer(faults.status[""], b"{}")
        if url.path == f"/api/datasets/{NAME}":
            listed = [
                {"rfilename": name, "size": len(data), "lfs": {"sha256": hashlib.sha256(data).hexdigest()}}
                for name, data in files.items()
            ]
            return self.json({"sha": SHA, "siblings": listed, "cardData": {"configs": faults.configs}})
        if url.path.startswith(f"/datasets/{NAME}/resolve/{SHA}/"):
            return self.file(unquote(url.path.partition(f"/{SHA}/")[2]))
        if url.path == f"/api/v1/datasets/{NAME}":
            return self.json({"Data": {"Id": 77}})
        if parts[:3] == ["api", "v1", "datasets"] and parts[3:] == ["77", "repo", "tree"]:
            page, size = int(query["PageNumber"][0]), int(query["PageSize"][0])
            listed = [{"Path": name, "Size": len(data), "Type": "blob"} for name, data in files.items()]
            folders = [{"Path": "data", "Size": 0, "Type": "tree"}]
            return self.json({"Data": {"Files": [*folders, *listed][(page - 1) * size : page * size]}})
        if url.path == f"/api/v1/datasets/{NAME}/repo":
            return self.file(query["FilePath"][0])
        return self.answer(404, b"{}")

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def file(self, name: str) -> None:
        faults, data = self.server.faults, self.server.files[name]
        if name in faults.status:
            return self.answer(faults.status[name], b"")
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = bytearray(data[start:])
        if name in faults.corrupt:
            body[-1] ^= 1
        cut = faults.break_after.get(name)
        end = cut.pop(0) if cut else len(body)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if faults.hold is not None:
            faults.hold.wait(20)
        try:
            for at in range(0, end, 65536):
                self.wfile.write(body[at : min(end, at + 65536)])
                faults.sent[name] = faults.sent.get(name, 0) + len(body[at : min(end, at + 65536)])
        except OSError:  # whoever asked has enough
            self.close_connection = True
        if end < len(body):
            self.close_connection = True


class LocalHub(ThreadingHTTPServer):
    """The hub, on a free port."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.files = Faults(), {"data/train.jsonl": json_lines(ALPACA)}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    server = LocalHub()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("MODELSCOPE_DOMAIN", server.address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    found = Sources(tmp_path)
    found.downloads = SetDownloads(tmp_path, pause=lambda _: 0.01)
    return found


def brought(sources: Sources, name: str) -> None:
    """Fetch `name`, which must go well."""
    asked = hub_set(name)
    assert asked is not None
    sources.downloads.start(asked)
    assert sources.downloads.wait(20)
    outcome = sources.downloads.outcome
    assert outcome is not None and outcome.here, outcome


def refused(sources: Sources, name: str) -> Text:
    """Why `name` cannot be fetched."""
    asked = hub_set(name)
    assert asked is not None
    with pytest.raises(ModelError) as caught:
        sources.downloads.bring(asked, lambda _: None)
    return caught.value.text


def test_a_hubs_set_is_written_as_ms_swift_writes_it() -> None:
    assert hub_set("Org/set") == HubSet("Org/set")
    assert hub_set("hf::Org/set:sub/part") == HubSet("Org/set", "sub/part", "hf")
    assert hub_set("ms::Org/set") == HubSet("Org/set", "", "modelscope")
    assert str(HubSet("Org/set", "sub", "modelscope")) == "ms::Org/set:sub"
    assert hub_set("general") is None and hub_set("a b/c") is None and hub_set("../etc/passwd") is None
    # What the articles write without its owner, and what the other hub calls the same set.
    bare = hub_set("alpaca-gpt4-data-zh")
    assert bare is not None and bare.on("modelscope").id == "AI-ModelScope/alpaca-gpt4-data-zh"
    assert HubSet("AI-ModelScope/alpaca-gpt4-data-en").on("hf").id == "vicgalle/alpaca-gpt4"
    assert HubSet("Org/set").on("hf") == HubSet("Org/set", "", "hf")


@pytest.mark.parametrize("name", ["hf::Org/little-set", "ms::Org/little-set"])
def test_a_set_comes_once_and_is_kept_for_when_there_is_no_network(
    sources: Sources, hub: LocalHub, tmp_path: Path, name: str
) -> None:
    with pytest.raises(Elsewhere, match="not on this machine yet"):
        sources.find(name)
    brought(sources, name)
    found = sources.find(name)
    assert found.kind == "hub" and found.complete
    assert found.rows == tuple(Row(row["instruction"], "", row["output"]) for row in ALPACA)
    assert sources.kept_on_disk(name) and list(tmp_path.glob("cache/sources/.*")) == []
    hub.shutdown()
    hub.server_close()
    assert Sources(tmp_path).find(name).rows == found.rows
    assert "cannot be reached" in refused(sources, "Org/other").en


def test_a_set_without_a_hub_comes_from_the_chosen_one(sources: Sources, hub: LocalHub, tmp_path: Path) -> None:
    downloads_of(tmp_path).choose("modelscope", "")
    brought(sources, NAME)
    assert any("/api/v1/datasets/77/repo/tree" in path for path in hub.faults.asked)
    assert sources.find(NAME).rows == sources.find(f"ms::{NAME}").rows
    with pytest.raises(Elsewhere):
        sources.find(f"hf::{NAME}")


def test_a_line_that_breaks_is_gone_on_with_where_it_broke(sources: Sources, hub: LocalHub) -> None:
    whole = hub.files["data/train.jsonl"]
    hub.faults.break_after["data/train.jsonl"] = [500, 700]
    brought(sources, NAME)
    assert len(sources.find(NAME).rows) == 40 and hub.faults.sent["data/train.jsonl"] == len(whole)


def test_what_is_not_what_the_hub_says_is_refused_and_a_second_try_begins_anew(sources: Sources, hub: LocalHub) -> None:
    hub.faults.corrupt.add("data/train.jsonl")
    assert "not what Hugging Face" in refused(sources, NAME).en
    with pytest.raises(Elsewhere):
        sources.find(NAME)
    hub.faults.corrupt.clear()
    brought(sources, NAME)
    assert len(sources.find(NAME).rows) == 40


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        (
            {"train.csv": b"instruction,input,output\nq,,a\n", "test.csv": b"instruction,input,output\nheld,,out\n"},
            "",
            "q",
        ),
        ({"set.jsonl": json_lines(ALPACA[3:5]), "dataset_infos.json": b"{}", "README.md": b"#"}, "", "question 3"),
        ({"a.json": json.dumps(ALPACA[:2]).encode(), "a.parquet": parquet(ALPACA[7:9])}, "", "question 7"),
        ({"zh/x.jsonl": json_lines(ALPACA[1:2]), "en/x.jsonl": json_lines(ALPACA[2:3])}, ":en", "question 2"),
        (
            {"train.jsonl": json_lines(ALPACA[:1]), "validation.jsonl": json_lines(ALPACA[4:5])},
            ":validation",
            "question 4",
        ),
    ],
)
def test_the_training_files_are_chosen_and_held_out_ones_are_not(
    sources: Sources, hub: LocalHub, files: dict[str, bytes], name: str, expected: str
) -> None:
    hub.files = files
    brought(sources, NAME + name)
    assert sources.find(NAME + name).rows[0].instruction == expected
    assert not any(row.instruction == "held" for row in sources.find(NAME + name).rows)


def test_the_sets_own_card_says_which_files_are_which_subset(sources: Sources, hub: LocalHub) -> None:
    hub.files = {"one.jsonl": json_lines(ALPACA[:1]), "deep/two-0.jsonl": json_lines(ALPACA[1:2]), "x.jsonl": b"{}\n"}
    hub.faults.configs = [
        {"config_name": "first", "data_files": [{"split": "train", "path": "one.jsonl"}]},
        {"config_name": "second", "data_files": "deep/two-*"},
    ]
    brought(sources, NAME)
    brought(sources, f"{NAME}:second")
    assert [row.instruction for row in sources.find(NAME).rows] == ["question 0"]
    assert [row.instruction for row in sources.find(f"{NAME}:second").rows] == ["question 1"]
    assert "It has: first, second" in refused(sources, f"{NAME}:third").en


def test_a_large_set_is_streamed_and_no_more_of_it_fetched_than_is_taken(
    sources: Sources, hub: LocalHub, tmp_path: Path
) -> None:
    many = json_lines([{"instruction": f"q{i}", "input": "", "output": "x" * 200} for i in range(20_000)])
    hub.files = {"train-0.jsonl": many, "train-1.jsonl": many}
    sources.downloads = SetDownloads(tmp_path, most_rows=500)
    brought(sources, NAME)
    found = sources.find(NAME)
    assert len(found.rows) == 500 and not found.complete
    assert [row.instruction for row in found.rows[:2]] == ["q0", "q1"]
    assert hub.faults.sent["train-0.jsonl"] < len(many) and "train-1.jsonl" not in hub.faults.sent


def test_a_table_cut_in_a_quoted_cell_loses_that_record_only(sources: Sources, hub: LocalHub, tmp_path: Path) -> None:
    lines = "".join(f'q{i},"first line\nsecond ""line"" {i}"\n' for i in range(3000))
    hub.files = {"train.csv": f"instruction,output\n{lines}".encode()}
    sources.downloads = SetDownloads(tmp_path, most_rows=100)
    brought(sources, NAME)
    rows = sources.find(NAME).rows
    assert 40 < len(rows) <= 100 and not sources.find(NAME).complete
    assert all(row.output == f'first line\nsecond "line" {i}' for i, row in enumerate(rows))


def test_the_last_whole_line_is_found_in_one_pass() -> None:
    rows = b"a,b\n" * 400_000
    assert bring._complete_lines(rows + b'a,"b\nc', quoted=True) == rows
    assert bring._complete_lines(rows + b'a,"b\nc",d\ne', quoted=True) == rows + b'a,"b\nc",d\n'
    # One that is never closed: the importer passes over what follows it.
    assert bring._complete_lines(b'"' + rows + b"a", quoted=True) == b'"' + rows
    assert bring._complete_lines(rows + b'5"\na', quoted=False) == rows + b'5"\n'


def test_a_file_that_is_too_large_to_be_read_whole_is_refused_before_it_is_fetched(
    sources: Sources, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_BYTES", 100)
    hub.files = {"train.json": json.dumps(ALPACA).encode()}
    assert "it was not downloaded" in refused(sources, NAME).en
    assert not hub.faults.sent


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_our_own_is_told_and_not_a_blank(
    sources: Sources, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring, "_read", lambda *_: 1 / 0)
    assert "internal error ended the download" in refused(sources, NAME).en


@pytest.mark.parametrize("name", ["~nosuchuser/x.json", "n" * 300, "~nosuchuser/x:y", "a\0b"])
def test_a_name_that_can_be_no_path_is_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    for found in (Sources(tmp_path), Sources(tmp_path, files_first=True)):
        with pytest.raises(DatasetError):
            found.find(name)
    assert cli._parts(name) == [(name, None)]


def test_rows_without_an_answer_are_left_out_and_counted(sources: Sources, hub: LocalHub) -> None:
    hub.files = {"train.jsonl": json_lines([*ALPACA[:3], {"instruction": "q", "input": "", "output": " "}])}
    brought(sources, NAME)
    found = sources.find(NAME)
    assert len(found.rows) == 3 and any("1 rows" in note.en for note in found.notes)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"loader.py": b"print('never')", "README.md": b""}, "never runs what it downloads"),
        ({"picture.png": b"x"}, "no data files that can be read"),
        ({"train.parquet": b"PAR1 no"}, "no Parquet file"),
        ({"train.jsonl": b'{"foo": 1, "bar": 2}\n'}, "train.jsonl"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(
    sources: Sources, hub: LocalHub, files: dict[str, bytes], said: str
) -> None:
    hub.files = files
    assert said in refused(sources, NAME).en
    assert not sources.kept_on_disk(NAME)


def test_no_answer_a_wrong_name_and_a_forbidden_network_are_each_said(
    sources: Sources, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "has no datasets/Org/missing" in refused(sources, "Org/missing").en
    hub.faults.status["data/train.jsonl"] = 403
    assert "licence" in refused(sources, NAME).en
    hub.faults.status = {"": 503}
    assert "HTTP 503" in refused(sources, NAME).en
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.faults.asked)
    assert "HF_HUB_OFFLINE" in refused(sources, NAME).en and len(hub.faults.asked) == asked


def test_one_at_a_time_told_how_far_and_stopped_on_request(
    sources: Sources, hub: LocalHub, until: Callable[[Callable[[], bool]], None]
) -> None:
    hub.files = {"train.jsonl": json_lines([{"instruction": "q", "input": "", "output": "x" * 1000}] * 2000)}
    hub.faults.hold = threading.Event()
    sources.downloads.start(HubSet(NAME))
    until(lambda: sources.downloads.now is not None)
    now = sources.downloads.now
    assert now is not None and now.total == len(hub.files["train.jsonl"]) and now.name.endswith(NAME)
    with pytest.raises(BusyError, match="little-set"):
        sources.downloads.start(HubSet("Org/other"))
    sources.downloads.cancel()
    hub.faults.hold.set()
    assert sources.downloads.wait(20)
    outcome = sources.downloads.outcome
    assert outcome is not None and not outcome.here and outcome.problem is None


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for something to become true."""

    def wait(true: Callable[[], bool]) -> None:
        pause = threading.Event()
        for _ in range(500):
            if true():
                return
            pause.wait(0.02)
        raise AssertionError("it never became true")

    return wait


def test_a_name_is_a_dataset_then_a_built_in_set_then_a_file(tmp_path: Path) -> None:
    tables = {"mine": Dataset("mine", (Row("{{NAME}}?", "", "I am {{NAME}}."), Row()), Identity("小禾", "Xiaohe"))}
    found = Sources(tmp_path, lambda: list(tables), tables.__getitem__)
    assert len(found.find("general").rows) == 200 and len(found.find("code").rows) == 40
    assert found.find("mine").kind == "dataset"
    assert found.find("mine").rows == (Row("Xiaohe?", "", "I am Xiaohe."),)  # resolved by its own card, blank rows out
    path = tmp_path / "my file.jsonl"
    path.write_bytes(json_lines([{"instruction": "who?", "input": "", "output": "{{NAME}}"}]))
    assert found.find(str(path), Identity("", "Zed")).rows == (Row("who?", "", "Zed"),)
    path.write_bytes(json_lines(ALPACA[:2]))
    assert len(found.find(str(path)).rows) == 2  # a file that changed is read again
    with pytest.raises(DatasetError, match="general, code, mine"):
        found.find("nothing")
    with pytest.raises(DatasetError, match=r"gone\.json was not found"):
        found.find(str(tmp_path / "gone.json"))
    with pytest.raises(ConfigError):
        found.find("Org/elsewhere")


def test_real_files_are_found_by_path_and_a_folder_of_sets_by_its_entry(shared_data: Path, tmp_path: Path) -> None:
    found = Sources(tmp_path)
    assert len(found.find(str(shared_data / "general" / "alpaca_zh_demo_300.json")).rows) == 300
    registry = {"demo": {"file_name": "rows.json"}}
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "dataset_info.json").write_text(json.dumps(registry))
    (tmp_path / "sets" / "rows.json").write_text(json.dumps(ALPACA[:4]))
    assert len(found.find(f"{tmp_path / 'sets'}:demo").rows) == 4


def test_the_command_line_fetches_what_it_names_and_says_what_repeats(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own rows.jsonl"
    path.write_bytes(json_lines([{"instruction": "who?", "input": "", "output": "I am {{NAME}}."}] * 4))
    given = [f"{path}#10", f"{NAME}#5", "general#2,code#1", str(path)]
    rows = cli.read_all(given, 42, cli.sources_of(tmp_path / "home"), Identity("", "Zed"))
    assert len(rows) == 10 + 5 + 2 + 1 + 4 and {row.output for row in rows[:10]} == {"I am Zed."}
    assert {row.instruction for row in rows[10:15]} <= {row["instruction"] for row in ALPACA}
    said = capsys.readouterr().err
    assert f"downloading {NAME} from Hugging Face" in said and "every row comes 2.5 times" in said
    assert cli.read_all([f"{NAME}#5"], 42, cli.sources_of(tmp_path / "home")) != []  # kept: nothing is asked again
    hub.faults.status[""] = 404
    with pytest.raises(ModelError, match="has no datasets/Org/missing"):
        cli.read_all(["Org/missing#5"], 42, cli.sources_of(tmp_path / "home"))
    with pytest.raises(DatasetError, match=r"nowhere\.json was not found"):
        cli.read_all(["nowhere.json"], 42, cli.sources_of(tmp_path / "home"))


def test_a_saved_dataset_is_read_again_when_it_was_changed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    made = workspace.create("mine", [Row("q", "", "a")])
    assert workspace.sources.find("mine").rows is workspace.sources.find("mine").rows  # not read at every look
    workspace.save(made.with_rows([Row("q", "", "b")]))
    assert workspace.sources.rows("mine") == [Row("q", "", "b")]
    workspace.save(replace(made, rows=(Row("q", "", "{{NAME}}"),), identity=Identity("", "Zed")))
    assert workspace.sources.rows("mine") == [Row("q", "", "Zed")]
    workspace.delete("mine")
    with pytest.raises(DatasetError, match="no dataset “mine”"):
        workspace.sources.find("mine")


def test_a_home_nobody_opened_has_the_starter_sets_and_flags_stand_over_a_tables_card(tmp_path: Path) -> None:
    home, asked = tmp_path / "home", Identity("阿禾", "Ahe", "", "")
    rows = cli.read_all(["identity-50"], 42, cli.sources_of(home, asked), asked)
    said = " ".join(row.output for row in rows)
    assert "我是阿禾" in said and "I am Ahe" in said and "小禾" not in said and "{{" not in said
    assert "青禾智能" in said  # a maker was not asked for: the card's
    assert not home.exists()

    dataset.save(
        home / "datasets", Dataset("mine", (Row("你是谁？", "", "我是{{NAME}}。"),), Identity("甲", "A", "乙", "B"))
    )
    tables = SavedTables(home / "datasets", asked)
    assert tables.names() == ["mine"]  # a home of one's own has what is in it and no more
    assert tables.get("mine").resolved()[0].output == "我是阿禾。"
    assert tables.card(["elsewhere.json", "mine"]) == Identity("阿禾", "Ahe", "乙", "B")
    assert tables.card([]) == asked
    with pytest.raises(DatasetError, match="identity-50"):
        tables.get("identity-50")
