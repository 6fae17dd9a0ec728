"""A request's JSON object, read field by field: each value has exactly the type it must have, or is refused by name.

Nothing is coerced: "1" is no number, 1.0 is no whole number, true is neither. null stands for a field left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NoReturn

from core.openai_errors import ApiError
from core.text import Text

_LONE = re.compile("[\ud800-\udfff]")
_NAMES = {str: ("文本", "a string"), bool: ("true 或 false", "true or false"), int: ("整数", "a whole number"),
          float: ("数字", "a number"), list: ("数组", "an array"), dict: ("对象", "an object")}  # fmt: skip


class Fields:
    """One object of a request. `path` is where it stands, as an error names it."""

    def __init__(self, values: Mapping[str, object], path: str = "") -> None:
        self._values = values
        self._path = path
        self._read: set[str] = set()

    def name(self, key: str) -> str:
        """The field as errors call it."""
        return f"{self._path}.{key}" if self._path else key

    def take(self, key: str) -> object:
        """The value as it came, None if there is none."""
        self._read.add(key)
        return self._values.get(key)

    def known(self, *keys: str) -> None:
        """These fields need no reading: they change nothing of an answer."""
        self._read.update(keys)

    @property
    def left(self) -> list[str]:
        """Fields that were given and that nobody read."""
        return [self.name(key) for key in self._values if key not in self._read]

    def text(self, key: str) -> str | None:
        """A string of whole characters."""
        value = self.take(key)
        return None if value is None else text_of(value, self.name(key))

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false."""
        value = self.take(key)
        if value is None:
            return default
        return value if isinstance(value, bool) else refuse_type(value, bool, self.name(key))

    def number(self, key: str, default: float) -> float:
        """A number, whole or not."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse_type(value, float, self.name(key))
        return float(value) if abs(value) < 1e300 else refuse(self.name(key), "太大", "is too large")

    def integer(self, key: str, low: int | None = None, high: int | None = None) -> int | None:
        """A whole number, from `low` to `high` where these are given."""
        value = self.take(key)
        return None if value is None else integer_of(value, self.name(key), low, high)

    def items(self, key: str) -> list[object] | None:
        """An array."""
        value = self.take(key)
        if value is None:
            return None
        return value if isinstance(value, list) else refuse_type(value, list, self.name(key))

    def inner(self, key: str) -> Fields | None:
        """An object."""
        value = self.take(key)
        return None if value is None else fields_of(value, self.name(key))


def read_object(body: bytes) -> Fields:
    """The one JSON object of a request's body. Raises ApiError for anything else."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        refuse(None, "请求的 JSON 嵌套太深", "The request's JSON is nested too deeply", "invalid_json")
    except ValueError as error:
        said = f"{error}"[:200]
        refuse(None, f"请求不是有效的 JSON：{said}", f"The request is no valid JSON: {said}", "invalid_json")
    if not isinstance(value, dict):
        refuse(None, "请求应是一个 JSON 对象", "The request must be one JSON object", "invalid_json")
    return Fields(value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not in JSON")


def fields_of(value: object, name: str) -> Fields:
    """`value` as an object."""
    return Fields(value, name) if isinstance(value, dict) else refuse_type(value, dict, name)


def text_of(value: object, name: str) -> str:
    """`value` as a string of whole characters."""
    if not isinstance(value, str):
        refuse_type(value, str, name)
    if _LONE.search(value):
        refuse(name, "含有半个字符（孤立的代理码位）", "holds half a character (a lone surrogate)")
    return value


def integer_of(value: object, name: str, low: int | None, high: int | None) -> int:
    """`value` as a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int):
        refuse_type(value, int, name)
    if low is not None and high is not None and not low <= value <= high:
        shown = f"{value}" if abs(value) < 10**30 else "..."
        refuse(name, f"是 {shown}；应在 {low} 到 {high} 之间", f"is {shown}; it must be {low} to {high}")
    return value


def refuse_type(value: object, wanted: type, name: str) -> NoReturn:
    """Raise the error for a value of another type."""
    zh, en = _NAMES[wanted]
    shown = json.dumps(value, ensure_ascii=True)[:60]
    refuse(name, f"是 {shown}；应为{zh}", f"is {shown}; it must be {en}", "invalid_type")


def refuse(name: str | None, zh: str, en: str, code: str = "") -> NoReturn:
    """Raise the error of status 400 that begins with the field's name."""
    shown = f"{name} " if name else ""
    raise ApiError(Text(zh=f"{shown}{zh}。", en=f"{shown}{en}."), 400, name, code)
