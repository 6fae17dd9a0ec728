"""Settings: declared once, refused outside their range with field, value and range."""

from __future__ import annotations

import re

import pytest

from core.config import TrainConfig, build, fact_of, names, parse
from core.errors import ConfigError

NUMBERS = [name for name in names() if isinstance(getattr(TrainConfig(), name), int | float)]
NUMBER = re.compile(r"[0-9.]*[0-9](?:e[+-]?[0-9]+)?")
NEVER = [float("nan"), float("inf"), float("-inf"), -1, 10**12, "abc", None, "", [], True]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", NEVER, ids=repr)
def test_no_number_setting_takes_a_value_that_is_none(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        build({name: value})
    fact = fact_of(name)
    assert caught.value.field == name
    assert fact.label.en in caught.value.text.en and repr(value)[:20] in caught.value.text.en
    for sentence in (caught.value.text.en, caught.value.text.zh):
        assert {fact.min, fact.max} <= {float(number) for number in NUMBER.findall(sentence.replace(",", ""))}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_each_range_are_taken_and_what_is_beyond_is_not(name: str) -> None:
    fact = fact_of(name)
    assert fact.min is not None and fact.max is not None
    assert getattr(build({name: fact.max}), name) == fact.max
    if fact.exclusive_min:
        with pytest.raises(ConfigError):
            build({name: fact.min})
    else:
        assert getattr(build({name: fact.min}), name) == fact.min
    with pytest.raises(ConfigError):
        build({name: fact.max * 1.01 + 1})


@pytest.mark.parametrize("name", [n for n in NUMBERS if isinstance(getattr(TrainConfig(), n), int)])
def test_a_whole_number_setting_refuses_a_fraction_and_takes_a_typed_one(name: str) -> None:
    low = int(fact_of(name).min or 0)
    with pytest.raises(ConfigError, match="whole number"):
        build({name: low + 0.5})
    value = getattr(build({name: f" {low + 1} "}), name)
    assert value == low + 1 and type(value) is int


@pytest.mark.parametrize("name", [name for name in names() if fact_of(name).choices])
def test_a_choice_outside_the_list_is_refused_and_the_list_is_shown(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build({name: "Bogus"})
    assert all(choice in caught.value.text.zh for choice in fact_of(name).choices)
    assert getattr(TrainConfig(), name) in fact_of(name).choices


def test_an_unknown_setting_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        parse("lr", 1)


def test_every_setting_has_a_label_and_help_in_both_languages() -> None:
    for name in names():
        fact = fact_of(name)
        assert all((fact.label.zh, fact.label.en, fact.help.zh, fact.help.en)), name


def test_values_survive_a_trip_through_plain_ones() -> None:
    config = build({"num_train_epochs": "3", "learning_rate": 2e-4, "mix": "general#100", "lora_rank": 16})
    assert build(config.as_dict()) == config
    assert build({"seed": 7}, config) == build({**config.as_dict(), "seed": 7})


@pytest.mark.parametrize("rows,values,steps", [
    (8, {}, 10),  # the articles: 8 rows, 1 x 16 a step, 10 epochs
    (50, {}, 40),
    (1008, {"num_train_epochs": 3}, 189),  # 500 + 500 + 8 rows
    (17, {"num_train_epochs": 1}, 2),
    (16, {"num_train_epochs": 0.5}, 1),
    (64, {"num_train_epochs": 0.5}, 2),
    (1, {"num_train_epochs": 0.01}, 1),
    (0, {}, 0),
    (0, {"max_steps": 5}, 0),
    (8, {"max_steps": 5}, 5),
    (50, {"num_train_epochs": 0.1 + 0.2}, 2),
    (50, {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2}, 70),
])  # fmt: skip
def test_steps_are_counted_as_the_trainer_counts_them(rows: int, values: dict[str, object], steps: int) -> None:
    assert build(values).steps(rows) == steps


def test_a_setting_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        TrainConfig().seed = 1  # type: ignore[misc]
