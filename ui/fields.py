"""TrainConfig <-> form. Labels, help, ranges and choices come from the declarations in core.config, nothing is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import gradio as gr
from gradio.components import Component

from core.config import TrainConfig, build, fact_of, names
from core.fact import Fact, Group, Value
from core.text import Language
from ui.locale import t

ADVANCED: tuple[Group, ...] = ("optimizer", "lora", "data", "probes", "memory")
_GROUP_TITLES: dict[Group, str] = {
    "optimizer": "group.optimizer",
    "lora": "group.lora",
    "data": "group.data",
    "probes": "group.probes",
    "memory": "group.memory",
}
# What is offered depends on what there is: ui.offers fills these in.
OFFERED = ("adapters", "val_dataset")
# Prose and paths, which want a line of their own.
_WIDE = ("system", "mix", "target_modules", *OFFERED)
# Choices that ask for a word instead of their name in preset files and on the command line.
_WORDS = {
    "lr_scheduler_type": {"cosine": "choice.cosine", "linear": "choice.linear", "constant": "choice.constant"},
    "optim": {"adamw_torch": "choice.adamw", "paged_adamw_8bit": "choice.paged_adamw", "lion_32bit": "choice.lion"},
    "init_weights": {
        "true": "choice.standard",
        "gaussian": "choice.gaussian",
        "pissa": "choice.pissa",
        "pissa_niter_16": "choice.pissa_fast",
    },
    "truncation_strategy": {"raise": "choice.refuse", "left": "choice.cut", "delete": "choice.leave_out"},
    "report_to": {"none": "choice.nowhere", "tensorboard": "choice.tensorboard"},
    "quant_method": {"none": "choice.unquantised", "bnb": "choice.nf4"},
    "torch_dtype": {"auto": "choice.auto"},
    "gradient_checkpointing": {"auto": "choice.auto", "on": "choice.on", "off": "choice.off"},
    "rehearsal": {"off": "choice.off", "normal": "choice.normal", "strong": "choice.strong"},
}


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
    given = zip(visible_names(), values, strict=True)
    return build({name: _typed(name, value) for name, value in given}, base)


def show(config: TrainConfig) -> list[str | bool]:
    """The form's values for `config`, in the same order."""
    values = config.as_dict()
    return [shown(name, values[name]) for name in visible_names()]


def changed(config: TrainConfig, base: TrainConfig) -> list[str]:
    """Names of the visible settings in which `config` is not as `base`, in the form's order."""
    ours, theirs = config.as_dict(), base.as_dict()
    return [name for name in visible_names() if ours[name] != theirs[name]]


def said(language: Language, name: str, value: Value) -> str:
    """A setting with its value, as one says it: "Optimizer Lion", "DoRA on"."""
    return f"{fact_of(name).label.of(language)} {word(language, name, value)}"


def word(language: Language, name: str, value: Value) -> str:
    """A setting's value alone, as one says it."""
    words = _WORDS.get(name, {})
    if _is_switch(fact_of(name)):
        return t(language, "choice.on" if value == "true" else "choice.off")
    return t(language, words[str(value)]) if str(value) in words else str(shown(name, value))


def build_form(language: Language, config: TrainConfig) -> Form:
    """Create the fields where they are called: the main ones in a row, the others in closed groups."""
    values = config.as_dict()
    components: dict[str, Component] = {}
    with gr.Row():
        for name in _of("main"):
            components[name] = _field(language, name, values[name], help_below=False)
    with gr.Accordion(t(language, "train.advanced"), open=False, elem_classes="oc-advanced"):
        for group in ADVANCED:
            title = t(language, _GROUP_TITLES[group])
            with (
                gr.Accordion(title, open=False, elem_id=f"group-{group}", elem_classes="oc-group"),
                gr.Row(elem_classes="oc-grid"),
            ):
                for name in _of(group):
                    components[name] = _field(language, name, values[name], help_below=True)
    return Form(components)


def _of(group: Group) -> list[str]:
    return [name for name in names() if fact_of(name).group == group]


def _is_switch(fact: Fact) -> bool:
    """Whether a setting is one of yes and no, which preset files write as words."""
    return set(fact.choices) == {"true", "false"}


def _field(language: Language, name: str, value: Value, help_below: bool) -> Component:
    fact = fact_of(name)
    unit = t(language, "field.unit", unit=fact.unit.of(language)) if fact.unit else ""
    label, note = fact.label.of(language) + unit, fact.help.of(language) if help_below else None
    ids = f"field-{name.replace('_', '-')}"
    look = {"label": label, "info": note, "elem_id": ids, "min_width": 80}
    wide = name in _WIDE
    if _is_switch(fact):
        return gr.Checkbox(bool(shown(name, value)), **look)
    if fact.choices:
        return gr.Dropdown(_choices(language, name, fact), value=str(value), filterable=False, **look)
    if name in OFFERED:
        return gr.Dropdown([], value=str(value), allow_custom_value=True, elem_classes="oc-wide", **look)
    # A Textbox, not a Number: it takes 1e-4 as people write it, and a typing error reaches core, which names the range.
    return gr.Textbox(
        str(shown(name, value)), max_lines=4 if wide else 1, elem_classes="oc-wide" if wide else None, **look
    )


def _choices(language: Language, name: str, fact: Fact) -> list[tuple[str, str]]:
    words = _WORDS.get(name, {})
    return [(t(language, words[choice]) if choice in words else choice, choice) for choice in fact.choices]


def _typed(name: str, value: object) -> object:
    """A component's value as core reads it: a switch's words, and a picker's cleared choice as no text."""
    if _is_switch(fact_of(name)) and isinstance(value, bool):
        return str(value).lower()
    return "" if value is None and name in OFFERED else value


def shown(name: str, value: Value) -> str | bool:
    """As the form has it. Numbers with every digit that reading the text back needs, and no more: 1e-4."""
    if _is_switch(fact_of(name)):
        return value == "true"
    if not isinstance(value, float):
        return str(value)
    exact = Decimal(repr(value))
    return f"{exact:e}" if value and abs(value) < 1e-3 else f"{exact.normalize():f}"
