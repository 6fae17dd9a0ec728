"""docs/settings.md and docs/settings.zh.md, made of the settings' declarations and of what was measured.

python -m tests.settings_document: writes both.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from core import config, effects, presets
from core.fact import Group
from core.text import Language, Text
from ui import effect_card, fields
from ui.locale import t

DOCS = Path(__file__).resolve().parents[1] / "docs"
FILES: dict[Language, Path] = {"en": DOCS / "settings.md", "zh": DOCS / "settings.zh.md"}
_GROUPS: tuple[Group, ...] = ("main", *fields.ADVANCED, "hidden")
_MAIN, _HIDDEN = Text("主要设置", "Main"), Text("表单之外", "Elsewhere on the page")
_TITLE = Text("每一项设置：是什么，改了会怎样", "Every setting: what it is, and what happens when it is changed")
_OTHER = Text("[English](settings.md)", "[中文](settings.zh.md)")
_ABOUT = Text(
    "和训练页上每一项旁边的“?”是同样的内容，由 `python -m tests.settings_document` 生成。表里的数是口袋模型上的实测，"
    "每次只改一项：`python tests/bench/settings.py --out settings.jsonl`，{date}，一个处理器核，50 行、10 轮、130 步，"
    "用时是处理器时间。{note}"
    "默认值是程序自己的；每次训练从一个方案开始，方案写了的以方案为准。"
    "7B 显存是 24 GiB 显卡上 bf16 的估算（与实测相差不超过 3.6%，见 [performance.md](performance.md)），只在改动会影响它时列出。",
    "The same as behind the “?” beside each setting on the Train tab, written by `python -m tests.settings_document`. The "
    "tables were measured on the pocket model with one setting changed at a time: "
    "`python tests/bench/settings.py --out settings.jsonl`, {date}, one processor core, 50 rows x 10 epochs, 130 steps; times are "
    "the processor's. {note} A run starts from a preset: what it sets counts, not what stands here as left out. Memory of a "
    "7B is the estimate for bf16 on a card of 24 GiB (within 3.6 % of what was measured, [performance.md](performance.md)), "
    "shown where the setting changes it.",
)
_DEFAULT, _RANGE = Text("默认值：", "if left out "), Text("范围", "range")
_PRESETS = Text("方案里", "presets")


def document(language: Language) -> str:
    """The whole document in `language`."""
    about = _ABOUT.of(language).format(date=_day(language), note=effect_card.note(language))
    parts = [f"# {_TITLE.of(language)}", "", _OTHER.of(language), "", about, ""]
    for group in _GROUPS:
        parts += [f"## {_group(language, group)}", ""]
        for name in config.names():
            if config.fact_of(name).group == group:
                parts += _setting(language, name)
    return "\n".join(parts).rstrip() + "\n"


def _setting(language: Language, name: str) -> list[str]:
    fact = config.fact_of(name)
    lines = [f"### {fact.label.of(language)} · `{name}`", "", fact.help.of(language), ""]
    colon = "：" if language == "zh" else ": "
    lines += [f"**{t(language, 'effect.if')}**{colon}{effects.said(name).of(language)}", ""]
    lines += [_facts(language, name), ""]
    table = effect_card.lines(language, name)
    return [*lines, *_table(table), ""] if table else lines


def _facts(language: Language, name: str) -> str:
    """Default, range or choices, and what the presets set it to."""
    fact, value = config.fact_of(name), config.TrainConfig().as_dict()[name]
    said = [f"{_DEFAULT.of(language)}{_code(language, name, value)}"]
    if fact.choices:
        said.append(" · ".join(f"`{choice}`" for choice in fact.choices))
    elif fact.min is not None and fact.max is not None:
        said.append(f"{_RANGE.of(language)} {'>' if fact.exclusive_min else ''}{fact.min:,.10g} – {fact.max:,.10g}")
    # As for a model from a hub; the preset made for the pocket model is the one for it.
    elsewhere = {preset.id: preset.config.as_dict()[name] for preset in presets.load_presets()}
    odd = [f"{which} {_code(language, name, own)}" for which, own in elsewhere.items() if own != value]
    if odd and name != "model":
        said.append(f"{_PRESETS.of(language)} {t(language, 'list.comma').join(odd)}")
    return ("；" if language == "zh" else "; ").join(said) + ("。" if language == "zh" else ".")


def _code(language: Language, name: str, value: object) -> str:
    shown = str(fields.shown(name, value)) if not isinstance(value, str) else value  # type: ignore[arg-type]
    return f"`{shown}`" if shown else t(language, "effect.empty")


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def _group(language: Language, group: Group) -> str:
    if group in fields.ADVANCED:
        return t(language, f"group.{group}")
    return (_MAIN if group == "main" else _HIDDEN).of(language)


def _day(language: Language) -> str:
    day = date.fromisoformat(effects.measured().measured)
    return f"{day.year} 年 {day.month} 月 {day.day} 日" if language == "zh" else f"{day.day} {day:%B} {day.year}"


def main() -> None:
    """Write both."""
    for language, path in FILES.items():
        path.write_text(document(language), "utf-8")


if __name__ == "__main__":
    main()
