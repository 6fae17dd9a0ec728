"""What a run trains on: `name#count` as in ms-swift, the table repeated, each row's source frozen with a hash."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import mix, scenarios
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row
from core.errors import ConfigError, DatasetError
from core.run import Run
from core.sources.found import Sources
from core.workspace import Workspace

OWN = tuple(Row(f"who {i}?", "", f"I am Zed {i}.") for i in range(8))
TABLE = Dataset("me", OWN)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    rows = [{"instruction": f"question {i}", "input": "", "output": f"answer {i}"} for i in range(30)]
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Sources(tmp_path)


def config(written: str, **rest: object) -> TrainConfig:
    return replace(TrainConfig(), mix=written, **rest)  # type: ignore[arg-type]


def test_a_mix_is_read_as_it_is_written() -> None:
    assert mix.parse("general#100 code") == [("general", 100), ("code", None)]
    # The articles write a comma; ms-swift would take 'a.json,b#100' for one file that is not there.
    assert mix.parse("a.json,b#100，c") == [("a.json", None), ("b", 100), ("c", None)]
    assert mix.parse('"my file, final.json"#20 x') == [("my file, final.json", 20), ("x", None)]
    assert mix.parse("hf::Org/set:sub/part#7") == [("hf::Org/set:sub/part", 7)]
    assert mix.parse("  ") == []


@given(
    st.lists(
        st.tuples(st.text("ab ,，:/.-_", min_size=1).filter(str.strip), st.none() | st.integers(1, 999)), max_size=4
    )
)
def test_what_is_written_is_read_back(parts: list[tuple[str, int | None]]) -> None:
    assert mix.parse(mix.written(parts)) == parts


@pytest.mark.parametrize(
    "bad", ["general#0", "general#-1", "general#ten", "#5", "general#1.5", "general#9999999", '"a']
)
def test_a_count_that_is_none_is_refused_by_name(bad: str) -> None:
    with pytest.raises(ConfigError, match="is not name#count") as caught:
        mix.parse(f"code {bad}")
    assert caught.value.field == "mix" and bad in caught.value.text.zh


def test_rows_are_drawn_without_replacement_and_the_same_ones_again(sources: Sources, tmp_path: Path) -> None:
    path = tmp_path / "others.jsonl"
    once = mix.draw(f"{path}#20", 1, sources.find)
    assert len(set(once)) == 20 and once == mix.draw(f"{path}#20", 1, sources.find)
    assert once != mix.draw(f"{path}#20", 2, sources.find)
    assert once != sources.rows(str(path))[:20]  # at random, not the first ones


def test_more_than_there_are_repeats_the_source_evenly_and_the_factor_is_told(sources: Sources, tmp_path: Path) -> None:
    path = tmp_path / "others.jsonl"
    mixture = mix.gather(TABLE, config(f"{path}#75"), sources.find)
    counts = Counter(mixture.mixed)
    assert len(counts) == 30 and set(counts.values()) == {2, 3}  # none a third time before all have come twice
    assert mixture.parts[1].repeat == 2.5 and (mixture.parts[1].available, mixture.parts[1].rows) == (30, 75)


def test_the_table_comes_first_and_as_often_as_it_is_told(sources: Sources) -> None:
    mixture = mix.gather(TABLE, config("general#24", dataset_repeat=3), sources.find)
    assert mixture.own == OWN * 3 and len(mixture.mixed) == 24
    assert [part.rows for part in mixture.parts] == [24, 24] and mix.own_share(mixture.parts) == 0.5


def test_placeholders_of_foreign_rows_are_filled_by_the_tables_card(sources: Sources, tmp_path: Path) -> None:
    path = tmp_path / "self.jsonl"
    path.write_text(
        json.dumps({"query": "who are you?", "response": "I am {{NAME}} by {{AUTHOR}}.", "tag": "en"}) + "\n"
    )
    table = replace(TABLE, identity=Identity("小禾", "Xiaohe", "青禾", "Qinghe"))
    assert mix.gather(table, config(str(path)), sources.find).mixed[0].output == "I am Xiaohe by Qinghe."


def test_the_articles_mix_is_named_for_what_it_is(sources: Sources, tmp_path: Path) -> None:
    """500 + 500 + 8 rows leave 0.8 % of identity (docs: SEEDS); a repeat factor of 32 brings it over 20 %."""
    path = tmp_path / "others.jsonl"
    parts = mix.plan("me", 8, config(f"general#500 {path}#500"), sources.find)
    assert round(mix.own_share(parts), 3) == 0.008 < mix.LEAST_SHARE
    assert mix.own_share(mix.plan("me", 8, config(f"general#500 {path}#500", dataset_repeat=32), sources.find)) > 0.2
    assert [round(share, 3) for share in mix.shares(parts)] == [0.008, 0.496, 0.496]


def test_a_plan_says_of_each_source_why_it_gives_nothing(sources: Sources) -> None:
    parts = mix.plan("me", 8, config("general#10 nowhere Org/set#5"), sources.find)
    assert [part.rows for part in parts] == [8, 10, 0, 0]
    assert parts[2].problem is not None and "nowhere" in parts[2].problem.zh and not parts[2].elsewhere
    assert parts[3].elsewhere and parts[3].kind == "hub"
    for name in ("nowhere", "Org/set#5"):
        with pytest.raises(ConfigError) as caught:
            mix.gather(TABLE, config(name), sources.find)
        assert caught.value.field == "mix"


def test_rows_that_repeat_are_not_both_trained_on_and_held_out(sources: Sources) -> None:
    for settings in (config("", dataset_repeat=2), config("general#201")):
        with pytest.raises(ConfigError, match="hold them out"):
            mix.gather(TABLE, replace(settings, split_dataset_ratio=0.1), sources.find)
    assert mix.gather(TABLE, replace(config("general#200"), split_dataset_ratio=0.1), sources.find).rows


def test_the_same_shares_at_another_size(sources: Sources) -> None:
    assert mix.scaled("general#300 code#100", 40, sources.find) == "general#30 code#10"
    assert mix.scaled("general code", 24, sources.find) == "general#20 code#4"


def test_a_run_keeps_every_rows_source_with_a_hash(tmp_path: Path, sources: Sources) -> None:
    mixture = mix.gather(TABLE, config("general#20 code#5", dataset_repeat=2), sources.find)
    run = Run.create(tmp_path / "run", config(""), mixture.rows, "r", "me", parts=mixture.parts)
    record = json.loads((run.folder / "mix.json").read_text())
    lines = (run.folder / "dataset.jsonl").read_bytes().split(b"\n")[:-1]
    assert record["sha256"] == hashlib.sha256((run.folder / "dataset.jsonl").read_bytes()).hexdigest()
    assert [(part["name"], part["first"], part["rows"], part["available"]) for part in record["parts"]] == [
        ("me", 0, 16, 8), ("general", 16, 20, 200), ("code", 36, 5, 40),
    ]  # fmt: skip
    for part in record["parts"]:
        own = b"".join(line + b"\n" for line in lines[part["first"] : part["first"] + part["rows"]])
        assert part["sha256"] == hashlib.sha256(own).hexdigest()
    frozen = Run.open(run.folder).sources
    assert frozen is not None and [part.rows for part in frozen.parts] == [16, 20, 5]
    mix.check_frozen(run.folder)
    (run.folder / "dataset.jsonl").write_bytes(b"\n".join([lines[1], *lines[1:]]) + b"\n")
    with pytest.raises(DatasetError, match="was changed after the run began"):
        mix.check_frozen(run.folder)


def test_only_saved_rows_are_the_tables_own_and_a_saved_table_comes_before_a_built_in_set(tmp_path: Path) -> None:
    alone = Sources(tmp_path)
    parts = mix.plan("code", 2, config("code general#18"), alone.find)
    assert mix.own_share(parts) == pytest.approx(2 / 60)  # 40 built-in rows of the same name are somebody else's
    saved = Dataset("code", OWN)
    named = Sources(tmp_path, lambda: ["code"], lambda _: saved)
    assert (named.find("code").kind, named.find("code").rows) == ("dataset", OWN)
    assert mix.own_share(mix.plan("code", 8, config("code"), named.find)) == 1


def test_evaluation_rows_that_were_changed_are_told_and_runs_without_their_hash_pass(
    tmp_path: Path, sources: Sources
) -> None:
    mixture = mix.gather(TABLE, config(""), sources.find)
    run = Run.create(tmp_path / "run", config(""), mixture.rows, "r", "me", OWN[:2], parts=mixture.parts)
    held, record = run.folder / "evaluation.jsonl", run.folder / "mix.json"
    mix.check_frozen(run.folder)
    held.write_bytes(held.read_bytes() + b"\n")
    with pytest.raises(DatasetError, match=r"evaluation\.jsonl was changed"):
        mix.check_frozen(run.folder)
    held.unlink()
    with pytest.raises(DatasetError, match="no file now"):
        mix.check_frozen(run.folder)
    before = {key: value for key, value in json.loads(record.read_text()).items() if key != "evaluation_sha256"}
    record.write_text(json.dumps(before))
    mix.check_frozen(run.folder)


def test_a_run_of_the_workspace_is_what_the_plan_said(tmp_path: Path, tiny_config: TrainConfig) -> None:
    workspace = Workspace(tmp_path)
    table = workspace.create("mine", OWN)
    settings = replace(tiny_config, mix="general#12", dataset_repeat=2, max_steps=1)
    preview = workspace.preview(table.name, settings)
    run = workspace.start(table.name, settings)
    workspace._job.join()
    assert run.status == "finished" and preview.rows == len(run.rows) == 28
    started = run.last("started")
    assert started is not None and started["rows"] == 28
    assert workspace.row_reports.mixed(run) == 12
    assert [row for _, row in workspace.row_reports.own_rows(run)] == list(OWN)  # each once


@pytest.mark.parametrize("own", [1, 8, 50, 165, 1000, 20_000])
@pytest.mark.parametrize("name", ["identity", "domain", "role", "code"])
def test_a_starting_mix_keeps_the_table_over_a_fifth_and_repeats_nobody_elses_rows(
    sources: Sources, own: int, name: str
) -> None:
    scenario = scenarios.scenario(name)
    start = scenarios.start(scenario, own, lambda source: len(sources.find(source).rows))
    parts = mix.plan("me", own, config(start.mix, dataset_repeat=start.repeat), sources.find)
    assert all(part.repeat <= 1 for part in parts[1:])
    assert mix.own_share(parts) >= min(scenario.share, 0.2) - 0.01
    if not start.lacking and own >= 50:
        assert abs(mix.own_share(parts) - scenario.share) < 0.2
    assert (start.lacking > 0) == (own >= 1000 or (own == 165 and name in ("identity", "code")))


def test_the_articles_four_purposes_are_there_in_their_order() -> None:
    assert [scenario.id for scenario in scenarios.load()] == ["identity", "domain", "role", "code"]
    by = {scenario.id: scenario for scenario in scenarios.load()}
    assert by["role"].share > by["domain"].share > by["identity"].share >= mix.LEAST_SHARE
    assert "code" in by["code"].sources and all(s.name.zh and s.name.en and s.note.zh for s in by.values())
    fifty = scenarios.start(by["identity"], 50, lambda _: 200)
    assert (fifty.mix, fifty.repeat) == ("general#100", 1)  # as the preset “Mixed with general data”
    with pytest.raises(ConfigError, match="identity, domain"):
        scenarios.scenario("nothing")
