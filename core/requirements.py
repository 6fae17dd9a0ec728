"""Which packages this project asks for, and which of them are missing, too old or too new. Imports none of them."""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from core.text import Text

_PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
_ASKED = re.compile(r"([\w.-]+)(?:\[[\w,.-]+\])?\s*([<>=!~,.\d\s]*)$")
_RULE = re.compile(r"(>=|<=|==|!=|<|>)\s*([\d.]+)")


@dataclass(frozen=True)
class Package:
    """A package that is asked for. `installed` is "" where it is missing; `wanted` as in pyproject.toml."""

    name: str
    wanted: str
    installed: str

    @property
    def fits(self) -> bool:
        """Whether it is there, in a version that was tested."""
        return bool(self.installed) and all(
            _holds(_numbers(self.installed), rule, _numbers(bound)) for rule, bound in _RULE.findall(self.wanted)
        )

    @property
    def problem(self) -> Text | None:
        """What is wrong, and the command that mends it; None where it fits."""
        if self.fits:
            return None
        asked = f"{self.name}{self.wanted.replace(' ', '')}"
        command = f'{Path(sys.executable).name} -m pip install "{asked}"'
        if not self.installed:
            zh, en = f"没有安装 {self.name}", f"{self.name} is not installed"
            if self.name == "bitsandbytes":
                zh += "，QLoRA 和 8 比特优化器用不了，其余不受影响"
                en += ": QLoRA and the 8-bit optimizer are not available, everything else is"
        else:
            zh = f"{self.name} 的版本是 {self.installed}，需要 {self.wanted}"
            en = f"{self.name} is {self.installed}; {self.wanted} is needed"
        return Text(f"{zh}。请运行：{command}", f"{en}. Run: {command}")


def packages() -> list[Package]:
    """Every package that pyproject.toml asks for, with what is installed, Python first."""
    python = Package("Python", _project()[0], platform.python_version())
    return [python, *(Package(name, wanted, _installed(name)) for name, wanted in _project()[1])]


def problems() -> list[Package]:
    """Those that are missing, too old or too new."""
    return [package for package in packages() if not package.fits]


def missing(module: str) -> Text | None:
    """What to do about a module that could not be imported; None if it is of no package that is asked for."""
    found = next((p for p in packages() if p.name.replace("-", "_") == module.partition(".")[0]), None)
    if found is None:
        return None
    return Package(found.name, found.wanted, "").problem


def version(name: str) -> str:
    """The installed version of a package; "" where it is missing."""
    return _installed(name)


@cache
def _project() -> tuple[str, tuple[tuple[str, str], ...]]:
    """(what of Python, (package, versions) of each) by pyproject.toml, or by the metadata where only that is installed."""
    if _PROJECT.is_file():
        project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
        python, asked = str(project["requires-python"]), [str(one) for one in project["dependencies"]]
    else:
        try:
            facts = metadata.metadata("onecard")
        except metadata.PackageNotFoundError:
            return "", ()
        python = facts["Requires-Python"] or ""
        asked = [one for one in metadata.requires("onecard") or () if ";" not in one]
    found = (_ASKED.match(one) for one in asked)
    return python, tuple((one[1], one[2].strip()) for one in found if one is not None)


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The release as numbers, without zeros at its end: 2.13.0+cpu and 2.13 are the same."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _holds(installed: tuple[int, ...], rule: str, bound: tuple[int, ...]) -> bool:
    return {
        ">=": installed >= bound,
        "<=": installed <= bound,
        "==": installed == bound,
        "!=": installed != bound,
        "<": installed < bound,
        ">": installed > bound,
    }[rule]
