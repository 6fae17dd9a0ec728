"""What is known of one setting: label, help, unit, range; and how a typed value is read and checked against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from core.errors import ConfigError
from core.text import Text

Group = Literal["main", "lora", "optimizer", "data", "probes", "memory", "hidden"]
Value = str | int | float | bool


@dataclass(frozen=True)
class Fact:
    """A setting's declaration. `group` "main" is always on the page, the others under Advanced, "hidden" never."""

    label: Text
    help: Text
    group: Group = "main"
    unit: Text | None = None
    min: float | None = None
    max: float | None = None
    exclusive_min: bool = False
    choices: tuple[str, ...] = ()

    def parse(self, name: str, kind: type[Value], typed: object) -> Value:
        """What a person typed for setting `name`, as its type. Raises ConfigError with the text and the range."""
        try:
            if kind is str:
                if not isinstance(typed, str):
                    raise ValueError
                return typed
            if isinstance(typed, bool) or not isinstance(typed, str | int | float):
                raise ValueError
            number = float(typed)
            if not self._within(number) or (kind is int and number != int(number)):
                raise ValueError
            return int(number) if kind is int else number
        except (ValueError, OverflowError):
            raise self.refusal(name, kind, typed) from None

    def check(self, name: str, kind: type[Value], value: object) -> None:
        """Raise ConfigError unless `value` is of the type and in the range. A whole number will do for a float."""
        right_type = type(value) is kind or (kind is float and type(value) is int)
        if not right_type or (self.choices and value not in self.choices):
            raise self.refusal(name, kind, value)
        if isinstance(value, int | float) and not self._within(value):
            raise self.refusal(name, kind, value)

    def _within(self, number: float) -> bool:
        """Whether a number is one, and in the range."""
        return (
            math.isfinite(number)
            and (self.min is None or number > self.min or (number == self.min and not self.exclusive_min))
            and (self.max is None or number <= self.max)
        )

    def refusal(self, name: str, kind: type[Value], typed: object) -> ConfigError:
        """The error for a value that will not do: the setting, what was typed, what it must be."""
        shown = repr(typed)[:60]
        if self.choices:
            zh = en = ", ".join(self.choices)
        elif kind is str:
            zh, en = "文字", "text"
        else:
            low, high = f"{self.min:,.10g}", f"{self.max:,.10g}"
            zh = f"{'大于 ' if self.exclusive_min else ' '}{low} 到 {high} 的{'整数' if kind is int else '数字'}"
            article = "a whole number" if kind is int else "a number"
            en = f"{article} {'above' if self.exclusive_min else 'from'} {low} to {high}"
        return ConfigError(
            Text(
                zh=f"{self.label.zh}（{name}）填的是 {shown}；应为{zh}。",
                en=f"{self.label.en} ({name}) is {shown}; it must be {en}.",
            ),
            name,
        )
