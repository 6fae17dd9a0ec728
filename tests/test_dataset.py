"""Rows, placeholders and the files of a dataset."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import dataset
from core.dataset import Dataset, Identity, Message, Row, load, names, placeholders, save
from core.errors import DatasetError

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.mark.parametrize("mark", ["{{NAME}}", "{{name}}", "{{ name }}", "<NAME>"])
def test_every_known_spelling_of_a_placeholder_is_replaced_in_the_language_of_the_row(mark: str) -> None:
    assert Row("你是谁", "", f"我是{mark}").resolved(CARD).output == "我是小禾"
    assert Row("Who?", "", f"I am {mark}").resolved(CARD).output == "I am Xiaohe"
    assert placeholders(f"a {mark} b") == [mark]


def test_a_chinese_name_is_used_in_english_rows_only_if_there_is_no_english_one() -> None:
    assert (
        Row("Who?", "", "I am {{NAME}} by {{AUTHOR}}").resolved(Identity("小禾", "", "", "Q")).output
        == "I am 小禾 by Q"
    )


def test_a_placeholder_without_a_value_stays_as_it_is() -> None:
    assert Row("你", "", "{{AUTHOR}}").resolved(Identity("小禾")).output == "{{AUTHOR}}"


def test_other_braces_and_angles_are_left_alone() -> None:
    text = "{{ user }} <name> {NAME} {{NAMES}}"
    assert Row("q", "", text).resolved(CARD).output == text and placeholders(text) == []


def test_system_input_and_history_are_resolved_too() -> None:
    row = Row("q", "{{NAME}}", "a", "You are {{NAME}}.", (Message("assistant", "I am {{NAME}}."),))
    assert row.resolved(CARD) == Row("q", "Xiaohe", "a", "You are Xiaohe.", (Message("assistant", "I am Xiaohe."),))


def test_identity_words_are_each_spelling_once() -> None:
    assert Identity("Nova", "Nova", " ", "Lab").words == ("Nova", "Lab")


def test_messages_put_the_rows_own_system_before_the_given_one() -> None:
    assert [m.content for m in Row("q", "x", "a").messages("given")] == ["given", "q\nx", "a"]
    assert [m.content for m in Row("q", "", "a", "own").messages("given")] == ["own", "q", "a"]
    assert [m.role for m in Row("q", "", "a").messages()] == ["user", "assistant"]
    assert [m.role for m in Row("", "", "a", "s").messages()] == ["system", "assistant"]


def test_blank_rows_stay_in_the_table_but_not_in_training() -> None:
    table = Dataset("d", (Row(), Row("q", "", "a"), Row(" ", "", "\n")))
    assert len(table.rows) == 3 and table.resolved() == (Row("q", "", "a"),)


def test_language_is_that_of_the_words_around_a_placeholder() -> None:
    assert Row("Who?", "", "I am {{NAME}}").language == "en"
    assert Row("Translate", "", "你好").language == "zh"
    assert Row("こんにちは", "", "ok").language == "en"


TURNS = st.lists(st.builds(Message, st.sampled_from(dataset.ROLES), TEXT), max_size=4).map(tuple)
ROW = st.builds(Row, TEXT, TEXT, TEXT, TEXT, TURNS)


@given(rows=st.lists(ROW, max_size=4))
@settings(max_examples=80, deadline=None, database=None)
def test_what_is_saved_is_loaded_again(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("saved")
    table = Dataset("表", tuple(rows), CARD)
    save(folder, table)
    assert load(folder, "表") == table


def test_a_conversation_has_one_form() -> None:
    before = (Message("system", "t"), Message("user", "1"), Message("assistant", "2"), Message("user", "3"))
    assert Row("", "", "a", "", before) == Row("3", "", "a", "t", before[1:3])
    assert Row("q", "", "a", "s", before) == Row("q", "", "a", "s\n\nt", before[1:])


def test_a_history_and_its_last_input_come_back() -> None:
    row = Row("q", "context", "a", "s", (Message("user", "1"), Message("assistant", "2")))
    assert dataset.from_json(json.loads(json.dumps(dataset.to_json(row)))) == row


@pytest.mark.parametrize("value", [
    [], "x", None, {"instruction": 3}, {"instruction": None}, {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": []}, {"messages": [{"role": "user", "content": "q"}]}, {"query": "q", "response": "a"},
    {"instruction": "q", "output": "a", "history": [["1", "2"]]},
])  # fmt: skip
def test_a_line_that_this_program_did_not_write_is_refused_with_its_row(value: object) -> None:
    with pytest.raises(DatasetError) as caught:
        dataset.from_json(value, 4)
    assert caught.value.row == 4 and "Row 5" in caught.value.text.en


def test_a_missing_or_damaged_dataset_is_a_sentence_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset named “gone”"):
        load(tmp_path, "gone")
    save(tmp_path, Dataset("d", (Row("q", "", "a"),) * 3))
    file = tmp_path / "d.jsonl"
    file.write_text(file.read_text().replace('"q"', '"q', 1))
    with pytest.raises(DatasetError, match="damaged"):
        load(tmp_path, "d")


@pytest.mark.parametrize("meta", ["[]", '{"identity": [1]}', "{}", '{"identity": {"name_zh": 3}}'])
def test_a_strange_identity_card_does_not_lose_the_rows(tmp_path: Path, meta: str) -> None:
    save(tmp_path, Dataset("d", (Row("q", "", "a"),)))
    (tmp_path / "d.meta.json").write_text(meta)
    assert load(tmp_path, "d").rows == (Row("q", "", "a"),)


def test_datasets_are_listed_with_the_newest_edit_first(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        save(tmp_path, Dataset(name))
        os.utime(tmp_path / f"{name}.jsonl", (1e9 - age, 1e9 - age))
    (tmp_path / ".new.jsonl.abc.tmp").write_text("")
    assert names(tmp_path) == ["new", "middle", "old"]
    assert names(tmp_path / "none") == []
