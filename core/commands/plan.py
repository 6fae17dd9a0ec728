"""A pasted command -> a plan: base model, table, mix, settings, preset, and a note per flag. Applies nothing by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from core import hub, mix, models, storage
from core.commands import elsewhere, llamafactory, place, plain, settle, swift
from core.commands.draft import Draft, Note, Rule, apply
from core.commands.pasted import NAMES, Command, Tool, read
from core.commands.place import Here, Source
from core.config import TrainConfig
from core.dataset import Dataset, Identity
from core.errors import UserError
from core.fact import Value
from core.mix import LEAST_SHARE, Part
from core.sources.found import Source as MixSource
from core.text import Text


@dataclass(frozen=True)
class Plan:
    """What a command would fill in. `config` is checked; None for a command that trains nothing here (`notes` say where).

    table: what is trained. parts: the table and the mix as a run would have them. identity: the card that the command
    gives. model_here: whether `config.model` is on this machine. preset: the nearest card.
    asked_model, asked_table: the command's own, whatever was chosen instead.
    """

    tool: str
    notes: tuple[Note, ...]
    config: TrainConfig | None = None
    table: Source | None = None
    validation: Source | None = None
    identity: Identity = field(default_factory=Identity)
    parts: tuple[Part, ...] = ()
    steps: int = 0
    preset: str = ""
    model_here: bool = True
    asked_model: str = ""
    asked_model_here: bool = True
    asked_table: str = ""


@dataclass(frozen=True)
class _Reader:
    rules: Mapping[str, Rule]
    finish: Callable[[Draft], None]
    defaults: Callable[[Draft], Mapping[str, Value]]


_READERS: dict[Tool, _Reader] = {
    "swift": _Reader(MappingProxyType(swift.RULES), swift.finish, swift.defaults),
    "llamafactory": _Reader(MappingProxyType(llamafactory.RULES), llamafactory.finish, llamafactory.defaults),
    "plain": _Reader(MappingProxyType(plain.RULES), plain.finish, plain.defaults),
}


_NEW_CARD = Text(
    "这张表的身份卡会换成命令里的名字和开发者。",
    "The table's identity card is replaced by the command's name and maker.",
)


_SLOW = Text(
    "有 dropout 就用不了 OneCard 的快速路径；设为 0 会快得多。",
    "With dropout OneCard's fast path cannot be taken; at 0 the run is much faster.",
)


def plan(text: str, here: Here, table: str = "", keep_model: bool = False) -> Plan:
    """Read a pasted command. Nothing is changed.

    table: a saved table to train instead of the command's own rows. keep_model: train the page's chosen base instead of the
    command's, with what the pocket model needs if it is that one. Raises UserError where no command is recognised, or for
    one that trains otherwise than SFT.
    """
    command = read(text)
    if command.verb != "train":
        return Plan(NAMES[command.tool], elsewhere.notes(command))
    draft, reader = Draft(), _READERS[command.tool]
    elsewhere.refuse_other_stages(command)
    for mended in command.mended:
        draft.note("", "wrong", mended)
    apply(draft, command.options, reader.rules)
    reader.finish(draft)
    given = set(draft.settings)
    draft.default(NAMES[command.tool], reader.defaults(draft))
    settle.cards(draft, dict(command.environment), "gradient_accumulation_steps" in given or command.tool != "swift")
    settle.system(draft)
    sources = _sources(draft, command, here)
    found = list(sources)
    own, validation = _table(draft, sources, here, table), _validation(draft, command, here)
    identity = Identity.parse("|".join(draft.names[:2]), "|".join(draft.authors[:2]))
    if own is not None and own.kind == "dataset" and identity.words and here.table(own.becomes).identity != identity:
        draft.note(_flag(draft, own), "notice", _NEW_CARD)
    _mixed(draft, [source for source in sources if source is not own], own)
    asked_model, here_already = _model(draft, here, keep_model)
    config = settle.build(draft)
    preset = _preset(config)
    config, parts = _counted(draft, config, own, here, identity, NAMES[command.tool])
    if config.model == models.POCKET:
        config = _for_pocket(draft, config, preset)
    if config.lora_dropout:
        draft.note(f"lora_dropout {config.lora_dropout:g}", "notice", _SLOW)
    rows = sum(part.rows for part in parts)
    for verb in command.beside:
        draft.note(verb, "ignored", elsewhere.beside(verb))
    return Plan(
        tool=NAMES[command.tool],
        notes=tuple(draft.notes),
        config=config,
        table=own,
        validation=validation,
        identity=identity,
        parts=tuple(parts),
        steps=config.steps(rows - config.held_out(rows)),
        preset=preset,
        model_here=here_already or config.model == here.model,
        asked_model=asked_model,
        asked_model_here=here_already,
        asked_table=next((source.name for source in found if source.own), ""),
    )


def _sources(draft: Draft, command: Command, here: Here) -> list[Source]:
    folder = draft.facts.pop("dataset_dir", None)
    columns = draft.facts.pop("columns", None)
    found = [place.find(asked, here, command.files, folder.value if folder else "", columns) for asked in draft.asked]
    for option, used in ((folder, any(source.kind == "file" for source in found)), (columns, True)):
        if option is not None:
            draft.note(option, "taken" if used else "ignored", Text("读数据时用它。", "Used to read the data."))
    return found


def _table(draft: Draft, sources: list[Source], here: Here, asked: str) -> Source | None:
    """The source that is the table: the one about identity, else the first that is no hub's; or the one chosen instead."""
    own = [source for source in sources if source.own]
    chosen = next((source for source in own if place.is_identity(source)), own[0] if own else None)
    if asked:
        instead = place.saved(asked, here)
        replaced = replace(instead, written=chosen.written, count=chosen.count) if chosen else instead
        if chosen is not None:
            sources[sources.index(chosen)] = replaced
        draft.note(
            _flag(draft, chosen) if chosen else draft.asked_flag,
            "notice",
            Text(f"改用数据集“{asked}”。", f"The dataset “{asked}” is used instead."),
        )
        return replaced
    if chosen is None:
        draft.note("dataset", "missing", Text(
            "命令里没有自己的数据，请选一张要训练的表。", "The command has no rows of its own; choose the table to train."
        ))  # fmt: skip
        return None
    standing_in = chosen.kind == "starter"
    draft.note(_flag(draft, chosen), "wrong" if chosen.problem else "notice" if standing_in else "taken",
               chosen.problem or _becomes(chosen))  # fmt: skip
    if standing_in and not draft.names and not chosen.identity.words:
        draft.note("model_name", "missing", Text(
            "命令里没有名字和开发者，占位符还没有值；请在“数据集”页的身份卡里填写。",
            "No name and maker are given, so the placeholders have no values yet; fill in the identity card on the Dataset "
            "tab.",
        ))  # fmt: skip
    return chosen


def _flag(draft: Draft, source: Source) -> str:
    return f"{draft.asked_flag} {source.written}"


def _becomes(source: Source) -> Text:
    rows = len(source.rows)
    if source.kind == "dataset":
        return Text(
            f"数据集“{source.becomes}”，{rows} 行，作为要训练的表。",
            f"The dataset “{source.becomes}”, {rows} rows, is the table to train.",
        )
    if source.kind == "starter" and source.becomes == "self_cognition":
        return Text(
            f"这台机器上没有这个文件，用文章里的 {rows} 行代替，存成数据集“{source.becomes}”。有自己的文件时，请先在“数据集”页导入。",
            f"The file is not on this machine; the articles' {rows} rows stand in for it, saved as the dataset "
            f"“{source.becomes}”. If you have the file, import it on the Dataset tab first.",
        )
    if source.kind == "starter":
        return Text(
            f"自带的身份数据集要联网下载；这里换成 OneCard 自己写的 {rows} 行（占位符相同），作为要训练的表。",
            f"The known identity set needs a download; OneCard's own {rows} rows with the same placeholders are the table "
            "instead.",
        )
    return Text(
        f"读到 {rows} 行，存成数据集“{storage.slug(source.becomes)}”，作为要训练的表。",
        f"{rows} rows were read; saved as the dataset “{storage.slug(source.becomes)}”, the table to train.",
    )


def _validation(draft: Draft, command: Command, here: Here) -> Source | None:
    """The first evaluation set; only one can be used."""
    if not draft.validation:
        return None
    found = place.find(draft.validation[0], here, command.files, "", None)
    if found.kind not in ("dataset", "file", "pasted"):
        draft.note(draft.validation[0], "missing", found.problem or Text(
            "验证集要先存成一张表。", "An evaluation set has to be saved as a table first."
        ))  # fmt: skip
        return None
    for other in draft.validation[1:]:
        draft.note(other, "missing", Text("只能用一个验证集。", "Only one evaluation set can be used."))
    draft.settings["val_dataset"] = storage.slug(found.becomes)
    draft.settings["split_dataset_ratio"] = 0.0
    draft.note(
        found.written, "taken", Text(f"验证集，{len(found.rows)} 行。", f"The evaluation set, {len(found.rows)} rows.")
    )
    return found


def _mixed(draft: Draft, others: list[Source], own: Source | None) -> None:
    """The setting `mix`, and how often the table repeats."""
    parts: list[tuple[str, int | None]] = []
    for source in others:
        name = storage.slug(source.becomes) if source.kind == "dataset" else source.name
        parts.append((name, source.drawn if source.rows or source.count else None))
        draft.note(
            _flag(draft, source),
            "wrong" if source.problem else "taken",
            source.problem or Text("混入数据。", "Mixed in."),
        )
    if own is not None and own.count is not None and own.rows:
        there = len(own.rows)
        times, rest = divmod(own.drawn, there)
        if times:
            draft.settings["dataset_repeat"] = min(1000, times)
            if rest:
                parts.append((storage.slug(own.becomes), rest))
        if own.drawn != there:
            draft.note(_flag(draft, own), "taken", Text(
                f"{there} 行里取 {own.drawn} 行" + ("，随机不放回。" if not times else f"：每行重复 {times} 次，另抽 {rest} 行。"),
                f"{own.drawn} of {there} rows" + (", at random without replacement." if not times else
                                                   f": each {times} times, and {rest} more drawn at random."),
            ))  # fmt: skip
    draft.settings["mix"] = mix.written(parts)


def _model(draft: Draft, here: Here, keep: bool) -> tuple[str, bool]:
    """(the command's model, whether it is on this machine); the setting is the one that is to be trained."""
    name, present, wrong = place.model_here(draft.model, here)
    flag = draft.model_flag or "model"
    said = wrong or Text(f"基座模型：{name}。", f"The base model: {name}.")
    if present or keep or name != draft.model:
        draft.note(flag, "taken" if wrong is None else "wrong" if draft.model else "default", said)
    else:
        draft.note(flag, "notice", _fetch(name))
    if keep and name != here.model:
        draft.note(
            flag,
            "notice",
            Text(f"改用当前的基座模型 {here.model}。", f"The chosen base model {here.model} is used instead."),
        )
    draft.settings["model"] = here.model if keep else name
    return name, present


def _fetch(name: str) -> Text:
    if hub.is_hub_name(name):
        return Text(
            f"这台机器上还没有 {name}，采用后可以下载。",
            f"{name} is not on this machine yet; it can be downloaded then.",
        )
    return Text(f"这台机器上没有 {name}，请检查路径。", f"{name} is not on this machine: check the path.")


def _preset(config: TrainConfig) -> str:
    """The card that comes nearest."""
    if config.model == models.POCKET:
        return "mixed" if config.mix else "pocket"
    if config.quant_method != "none":
        return "qlora"
    return "mixed" if config.mix else "identity"


def _for_pocket(draft: Draft, config: TrainConfig, preset: str) -> TrainConfig:
    """What the pocket model needs instead: it has 5 million parameters, and learns nothing at a 7B's rate."""
    from core import presets

    found = presets.preset(preset)
    own = found.for_model(models.POCKET).config
    changes: dict[str, Value] = {"learning_rate": own.learning_rate, "weight_decay": own.weight_decay,
                                 "max_length": min(config.max_length, own.max_length), "quant_method": "none",
                                 "gradient_accumulation_steps": own.gradient_accumulation_steps,
                                 "per_device_train_batch_size": own.per_device_train_batch_size,
                                 "min_steps": own.min_steps, "optim": "adamw_torch", "torch_dtype": "auto"}  # fmt: skip
    ours = config.as_dict()
    changed = {name: value for name, value in changes.items() if ours[name] != value}
    if changed:
        named = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in changed.items()
        )
        draft.note("", "notice", Text(
            f"口袋模型只有五百万参数，按 7B 的设置学不会；这些设置改用它自己的：{named}。",
            f"The pocket model has five million parameters and learns nothing with a 7B's settings; these are its own "
            f"instead: {named}.",
        ))  # fmt: skip
    return replace(config, **changed)  # type: ignore[arg-type]


def _counted(
    draft: Draft, config: TrainConfig, own: Source | None, here: Here, identity: Identity, tool: str
) -> tuple[TrainConfig, list[Part]]:
    """Settle what depends on the number of rows, and say what will come of it."""
    rows = len(own.rows) if own is not None else 0
    taken = min(rows, own.drawn) if own is not None and own.count is not None else rows
    name = storage.slug(own.becomes) if own is not None and own.becomes else "table"

    def find(asked: str, card: Identity) -> MixSource:
        if own is not None and asked == name:  # it may not be saved yet
            return MixSource(asked, "dataset", own.rows)
        return here.find(asked, card)

    try:
        parts = mix.plan(name, taken, config, find, identity)
    except UserError as error:
        draft.note("", "wrong", error.text)
        return settle.steps(draft, config, 0, tool), []
    parts = [_promised(part, config) for part in parts]
    total = sum(part.rows for part in parts)
    config = settle.steps(draft, config, total if taken else 0, tool)
    _remarks(draft, config, parts, total, own)
    return config, parts


def _promised(part: Part, config: TrainConfig) -> Part:
    """A hub's set that is not here yet, with the rows that are asked of it."""
    asked = next((count for name, count in mix.parse(config.mix) if name == part.name), None)
    return replace(part, rows=asked) if part.elsewhere and asked else part


def _remarks(draft: Draft, config: TrainConfig, parts: list[Part], total: int, own: Source | None) -> None:
    for part in parts[1:]:
        if part.problem is not None:
            draft.note(part.name, "notice", part.problem)
    if own is None or not own.rows or not total:
        return
    trained = total - config.held_out(total)
    steps = config.steps(trained)
    if steps < 30:
        draft.note("", "notice", Text(
            f"{trained} 行，每步 {config.rows_per_step} 行：一共只有 {steps} 步。"
                "学不会时先加步数（多几轮，或减小梯度累积），再动学习率。",
            f"{trained} rows, {config.rows_per_step} a step: {steps} steps in all. If it does not learn, first give it more "
            "steps (more epochs, or less gradient accumulation), then touch the learning rate.",
        ))  # fmt: skip
    share = mix.own_share(parts)
    if share < LEAST_SHARE and place.is_identity(own):
        wanted = max(2, round(LEAST_SHARE / (1 - LEAST_SHARE) * sum(part.rows for part in parts[1:])))
        draft.note(_flag(draft, own), "notice", Text(
            f"自己的行只占 {share:.1%}，容易学不会；文章建议至少 20%。可以写成 {own.name}#{wanted}，或在“本表重复”里填 "
            f"{-(-wanted // max(1, parts[0].available))}。",
            f"Own rows are {share:.1%} of all, too few to be learned; the articles advise 20% or more. Write "
            f"{own.name}#{wanted}, or set Table repeats to {-(-wanted // max(1, parts[0].available))}.",
        ))  # fmt: skip


def drawn_rows(source: Source, seed: int) -> Dataset:
    """The table that a source becomes: all of its rows, or the fewer that it asks for, drawn by the seed."""
    rows = source.rows
    if source.count is not None and source.drawn < len(rows):
        rows = tuple(random.Random(f"{seed}-{source.name}").sample(rows, source.drawn))
    return Dataset(storage.slug(source.becomes), rows)
