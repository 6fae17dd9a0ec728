"""A plan in the making: settings, sources and a note per flag; and the rules that most flags follow."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from core import config
from core.commands.shell import Option
from core.errors import ConfigError
from core.fact import Value
from core.text import Text

Verdict = Literal["wrong", "unknown", "missing", "renamed", "notice", "taken", "default", "ignored"]
"""wrong: it fails or does something else as written. missing: it matters, and there is no counterpart here. notice: what
will come of it. default: not given, the tool's own value. ignored: it changes nothing of what is learned."""


@dataclass(frozen=True)
class Note:
    """What became of one flag. `flag` as the command has it; "" for a remark on the whole."""

    flag: str
    verdict: Verdict
    text: Text


@dataclass
class Draft:
    """What is known of the run so far. `settings` by TrainConfig's names; `asked` the sources, tables first or not."""

    settings: dict[str, Value] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    model: str = ""
    model_flag: str = ""
    asked: list[str] = field(default_factory=list)
    asked_flag: str = "dataset"
    validation: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    facts: dict[str, Option] = field(default_factory=dict)
    """What several flags decide together, by name: quantisation, warm-up steps, strategies."""

    def note(self, option: Option | str, verdict: Verdict, text: Text) -> None:
        """Say what became of a flag."""
        self.notes.append(Note(option if isinstance(option, str) else option.shown, verdict, text))

    def set(
        self, option: Option, setting: str, value: object, verdict: Verdict = "taken", why: Text | None = None
    ) -> None:
        """Take a value for a setting and say so; one out of range is said and left."""
        try:
            parsed = config.build({setting: value}).as_dict()[setting]
        except ConfigError as error:
            self.note(option, "wrong", _joined(error.text, Text("没有采用。", "Not taken.")))
            return
        self.settings[setting] = parsed
        label = config.fact_of(setting).label
        said = Text(f"{label.zh}：{_brief(parsed)}。", f"{label.en}: {_brief(parsed)}.")
        self.note(option, verdict, _joined(said, why))

    def default(self, tool: str, values: Mapping[str, Value]) -> None:
        """What the tool takes where the command says nothing, for settings that differ from this page's own defaults."""
        ours = config.TrainConfig().as_dict()
        for setting, value in values.items():
            if setting in self.settings or setting in self.facts:
                continue
            self.settings[setting] = value
            if value != ours[setting]:
                label = config.fact_of(setting).label
                shown = _brief(value)
                text = Text(
                    f"命令里没有写，{tool} 默认 {shown}（{label.zh}）。",
                    f"Not given; {tool}'s default is {shown} ({label.en}).",
                )
                self.note(setting, "default", text)


Rule = Callable[[Draft, Option], None]


def same(setting: str, why: Text | None = None) -> Rule:
    """The flag is this setting."""
    return lambda draft, option: draft.set(option, setting, option.value, why=why)


def old(now: str, rule: Rule, version: str = "") -> Rule:
    """An outdated name of what `rule` reads."""
    since = Text(
        f"{version} 的写法，" if version else "旧写法，", f"the name in {version}; " if version else "an old name; "
    )

    def read(draft: Draft, option: Option) -> None:
        before = len(draft.notes)
        rule(draft, option)
        told = Text(f"{since.zh}现在是 --{now}。", f"{since.en}it is --{now} now.")
        for i in range(before, len(draft.notes)):
            note = draft.notes[i]
            verdict: Verdict = "renamed" if note.verdict in ("taken", "ignored") else note.verdict
            draft.notes[i] = Note(note.flag, verdict, _joined(told, note.text))
        if len(draft.notes) == before:
            draft.note(option, "renamed", told)

    return read


def switch(setting: str, on: str = "true", off: str = "false") -> Rule:
    """A flag of yes and no, and the two words it becomes."""
    return lambda draft, option: draft.set(option, setting, on if is_on(option.value) else off)


def fact(name: str) -> Rule:
    """Kept for what several flags decide together; the tool says what became of it."""

    def read(draft: Draft, option: Option) -> None:
        draft.facts[name] = option

    return read


def useless(why: Text) -> Rule:
    """Changes nothing of what is learned here."""
    return lambda draft, option: draft.note(option, "ignored", why)


def lacking(why: Text) -> Rule:
    """Matters, and has no counterpart; switched off it does not."""

    def read(draft: Draft, option: Option) -> None:
        if is_off(option.value):
            draft.note(option, "ignored", Text("没有打开，不起作用。", "Not switched on, without effect."))
        else:
            draft.note(option, "missing", why)

    return read


def many(rule: Rule, names: str) -> dict[str, Rule]:
    """The same rule for names separated by spaces."""
    return dict.fromkeys(names.split(), rule)


def apply(draft: Draft, options: Sequence[Option], rules: Mapping[str, Rule]) -> None:
    """Follow each flag's rule; the last one counts where a flag is given twice, and unknown ones name their nearest."""
    last = {option.name: i for i, option in enumerate(options)}
    for i, option in enumerate(options):
        if last[option.name] != i:
            draft.note(
                option, "ignored", Text("写了不止一次，以最后一次为准。", "Given more than once; the last one counts.")
            )
        elif (rule := rules.get(option.name)) is not None:
            rule(draft, option)
        else:
            draft.note(option, "unknown", _nearest(option.name, rules))


def _nearest(name: str, known: Iterable[str]) -> Text:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    if found:
        return Text(
            f"没有这个参数，没有采用。是不是想写 --{found[0]}？", f"No such flag, not taken. Did you mean --{found[0]}?"
        )
    return Text("没有这个参数，没有采用。", "No such flag, not taken.")


def is_on(value: str) -> bool:
    """Whether a flag's value means yes."""
    return value.strip().lower() in ("true", "1", "yes", "on", "t", "y")


def is_off(value: str) -> bool:
    """Whether a flag's value means no, none or nothing."""
    return value.strip().lower() in ("false", "0", "no", "off", "none", "null", "", "f", "n", "-1", "0.0", "default")


def _joined(first: Text, second: Text | None) -> Text:
    return first if second is None else Text(first.zh + second.zh, f"{first.en} {second.en}")


def _brief(value: Value) -> str:
    if isinstance(value, float):
        exact = Decimal(repr(value))
        return f"{exact:e}" if value and abs(value) < 1e-3 else f"{exact.normalize():f}"
    text = str(value)
    if re.fullmatch(r"\S+", text):
        return text
    return f"“{text}”" if len(text) <= 60 else f"“{text[:58]}…”"
