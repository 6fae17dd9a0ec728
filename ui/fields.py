"""TrainConfig <-> form. Labels, help, ranges and choices come from the declarations in core.config, nothing is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import gradio as gr
from gradio.components import Component

from core.config import TrainConfig, build, fact_of, names
from core.fact import Group, Value
from core.text import Language
from ui.locale import t

ADVANCED: tuple[Group, ...] = ("lora", "optimizer", "data", "probes", "memory")
_GROUP_TITLES: dict[Group, str] = {
    "lora": "group.lora",
    "optimizer": "group.optimizer",
    "data": "group.data",
    "probes": "group.probes",
    "memory": "group.memory",
}
# Prose, which wants a line of its own and room to grow.
_WIDE = ("system", "mix", "target_modules")


@dataclass(frozen=True)
class Form:
    """The components of the visible settings, by the setting's name."""

    components: dict[str, Component]

    @property
    def all(self) -> list[Component]:
        """The components in the order `read` and `show` use."""
        return [self.components[name] for name in visible_names()]


def visible_names() -> list[str]:
    """The settings that have a field on the page: main ones, then the advanced ones by group."""
    return _of("main") + [name for group in ADVANCED for name in _of(group)]


def read(values: Sequence[object], base: TrainConfig) -> TrainConfig:
    """The config that the form's values describe; hidden settings come from `base`.

    Raises ConfigError for the first value that is not of its type or out of range.
    """
    return build(dict(zip(visible_names(), values, strict=True)), base)


def show(config: TrainConfig) -> list[str]:
    """The form's values for `config`, in the same order."""
    values = config.as_dict()
    return [_shown(values[name]) for name in visible_names()]


def build_form(language: Language, config: TrainConfig) -> Form:
    """Create the fields where they are called: the main ones in a row, the others in a closed accordion."""
    values = config.as_dict()
    components: dict[str, Component] = {}
    with gr.Row():
        for name in _of("main"):
            components[name] = _field(language, name, values[name], help_below=False)
    with gr.Accordion(t(language, "train.advanced"), open=False, elem_classes="oc-advanced"):
        for group in ADVANCED:
            gr.HTML(f'<div class="oc-group">{t(language, _GROUP_TITLES[group])}</div>', apply_default_css=False)
            with gr.Row(elem_classes="oc-grid"):
                for name in _of(group):
                    components[name] = _field(language, name, values[name], help_below=True)
    return Form(components)


def _of(group: Group) -> list[str]:
    return [name for name in names() if fact_of(name).group == group]


def _field(language: Language, name: str, value: Value, help_below: bool) -> Component:
    fact = fact_of(name)
    unit = t(language, "field.unit", unit=fact.unit.of(language)) if fact.unit else ""
    label, note = fact.label.of(language) + unit, fact.help.of(language) if help_below else None
    ids = f"field-{name.replace('_', '-')}"
    if fact.choices:
        return gr.Dropdown(
            list(fact.choices), value=str(value), label=label, info=note, elem_id=ids, min_width=80, filterable=False
        )
    wide = name in _WIDE
    # A Textbox, not a Number: it takes 1e-4 as people write it, and a typing error reaches core, which names the range.
    return gr.Textbox(
        _shown(value), label=label, info=note, elem_id=ids, min_width=80, max_lines=4 if wide else 1,
        elem_classes="oc-wide" if wide else None,
    )  # fmt: skip


def _shown(value: Value) -> str:
    """Every digit that reading the text back needs, and no more; small numbers as people write them: 1e-4."""
    if not isinstance(value, float):
        return str(value)
    exact = Decimal(repr(value))
    return f"{exact:e}" if value and abs(value) < 1e-3 else f"{exact.normalize():f}"
