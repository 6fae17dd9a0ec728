"""Whether a value that somebody else wrote is of a declared type, all the way down. Knows no file."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_MOST = 2**63  # numbers without end are no numbers of ours; neither is nan below anything


def check(value: object, wanted: Any, where: str = "") -> None:
    """Raise ValueError, which names the place, unless `value` is of the type `wanted`.

    Types: str, bool, int, float (a whole number will do; never nan or infinite), None, `Literal`, unions, `tuple[X, ...]`,
    `list[X]`, `Mapping[str, X]`, `object` and frozen dataclasses of these.
    """
    origin, parts = get_origin(wanted), get_args(wanted)
    if wanted is object:
        return
    if origin in (Union, types.UnionType):
        _check_any(value, parts, where)
    elif origin is Literal:
        _hold(value in parts and type(value) in {type(part) for part in parts}, value, where)
    elif origin in (tuple, list):
        _hold(isinstance(value, origin), value, where)
        for place, item in enumerate(value):  # type: ignore[arg-type, var-annotated]
            check(item, parts[0], f"{where}[{place}]")
    elif origin is not None and issubclass(origin, Mapping):
        _hold(isinstance(value, Mapping), value, where)
        for key, item in value.items():  # type: ignore[attr-defined]
            check(key, parts[0], where)
            check(item, parts[1], f"{where}.{str(key)[:60]}")
    elif dataclasses.is_dataclass(wanted):
        _hold(type(value) is wanted, value, where)
        for name, kind in get_type_hints(wanted).items():
            check(getattr(value, name), kind, f"{where}.{name}".lstrip("."))
    elif wanted in (float, int):
        _hold(type(value) is int or (wanted is float and type(value) is float), value, where)
        _hold(abs(value) < _MOST, value, where)  # type: ignore[arg-type]
    else:
        _hold(type(value) is (type(None) if wanted is None else wanted), value, where)


def _check_any(value: object, kinds: tuple[Any, ...], where: str) -> None:
    for kind in kinds:
        try:
            return check(value, kind, where)
        except ValueError:
            continue
    _hold(False, value, where)


def _hold(right: bool, value: object, where: str) -> None:
    if not right:
        raise ValueError(f"{where}: {repr(value)[:80]}")
