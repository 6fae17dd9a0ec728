"""What was pasted: whose command, which verb, and its options. Shell, YAML, JSON or Python source; nothing is run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from core.commands import llamafactory, plain, shell, swift
from core.commands.shell import Call, Option
from core.errors import UserError
from core.text import Text

Tool = Literal["swift", "llamafactory", "plain"]
_FACTORY = ("llamafactory-cli", "lmf", "llamafactory")
# What a training file is called by those who write their own.
_SCRIPTS = ("train", "sft", "finetune", "fine_tune", "run_sft", "lora", "qlora", "run_clm", "train_bash")


@dataclass(frozen=True)
class Command:
    """One command. `verb` "train" is what can be filled in; others only have a place to be done.

    files: here-documents by name. mended: what had to be put right to read it. beside: other commands of the paste.
    """

    tool: Tool
    verb: str
    options: tuple[Option, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    mended: tuple[Text, ...] = ()
    beside: tuple[str, ...] = ()


def read(text: str) -> Command:
    """Find the command in a pasted text: the first that trains, else the first known one.

    Raises UserError with what was expected where there is none.
    """
    if len(text) > shell.MAX_CHARACTERS:
        raise UserError(
            Text(
                zh=f"粘贴的内容有 {len(text):,} 个字符，最多 {shell.MAX_CHARACTERS:,} 个。请只粘贴命令或 YAML。",
                en=f"{len(text):,} characters were pasted; the most is {shell.MAX_CHARACTERS:,}. Paste only the command or YAML.",
            )
        )
    if not text.strip():
        raise UserError(Text("请先粘贴一条命令。", "Paste a command first."))
    if plain.looks_like_source(text):
        return Command("plain", "train", plain.options_in(text))
    settings = _settings(text)
    if settings is not None:
        return Command(_tool_of(settings), "train", _options(settings))
    pasted = shell.read(text)
    found = [command for call in pasted.calls if (command := _command(call, pasted.files)) is not None]
    if not found:
        raise UserError(
            Text(
                zh="没有认出训练命令。可以粘贴 swift sft …、llamafactory-cli train …、它们的 YAML，或 python train.py --参数 … 。",
                en="No training command was recognised. Paste swift sft …, llamafactory-cli train …, their YAML, or python "
                "train.py --flags ….",
            )
        )
    chosen = next((command for command in found if command.verb == "train"), found[0])
    beside = tuple(command.verb for command in found if command is not chosen)
    return Command(chosen.tool, chosen.verb, chosen.options, chosen.environment, pasted.files, pasted.mended, beside)


def _command(call: Call, files: Mapping[str, str]) -> Command | None:
    """The command that a call is; None for anything else (cd, pip, git, ...)."""
    words = call.words
    program = Path(words[0]).name if words else ""
    rest = words[1:]
    if program in ("swift", "megatron") or program.startswith("swift.cli."):
        verb = rest[0] if rest else program.rpartition(".")[2]
        return Command("swift", "train" if verb == "sft" else verb, call.options, call.environment)
    if program in _FACTORY or program.startswith("llamafactory"):
        verb = rest[0] if rest else ""
        return _factory(verb, rest[1:], call, files)
    if program == "vllm" or program.startswith("vllm."):
        return Command("swift", "deploy", call.options, call.environment)
    if program == "app.py" and rest[:1] == ("train",):
        return Command("plain", "train", call.options, call.environment)
    stem = program.removesuffix(".py")
    if not words and call.options:
        return Command(_tool_of({option.name: "" for option in call.options}), "train", call.options, call.environment)
    if program.endswith(".py") and (stem in _SCRIPTS or _is_training(call.options)):
        tool = "llamafactory" if stem == "train_bash" else _tool_of({option.name: "" for option in call.options})
        if words[1:2] and words[1].endswith((".yaml", ".yml", ".json")):
            return _factory("train", words[1:], call, files)
        return Command(tool, "train", call.options, call.environment)
    return None


def _factory(verb: str, words: Sequence[str], call: Call, files: Mapping[str, str]) -> Command:
    """`llamafactory-cli train X.yaml a=b`: the file's settings, then those behind it."""
    settings: dict[str, object] = {}
    for word in words:
        name, mark, value = word.partition("=")
        if mark:
            settings[name.lstrip("-")] = value
        elif word.endswith((".yaml", ".yml", ".json")):
            settings |= _file(word, files)
    return Command("llamafactory", verb or "train", (*_options(settings), *call.options), call.environment)


def _file(name: str, files: Mapping[str, str]) -> dict[str, object]:
    if name in files:
        text = files[name]
    else:
        path = Path(name).expanduser()
        try:
            if not path.is_file() or path.stat().st_size > shell.MAX_CHARACTERS:
                raise OSError
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(
                Text(
                    zh=f"这台机器上读不到 {name}。请把文件里的 YAML 直接粘贴进来。",
                    en=f"{name} cannot be read on this machine. Paste the YAML that is in the file instead.",
                )
            ) from error
    settings = _settings(text)
    if settings is None:
        raise UserError(
            Text(
                zh=f"{name} 不是“名称: 值”形式的 YAML 或 JSON。请检查文件内容。",
                en=f"{name} is no YAML or JSON of “name: value”. Check what is in the file.",
            )
        )
    return settings


def _settings(text: str) -> dict[str, object] | None:
    """YAML or JSON of plain settings; None for anything else, a shell command among them."""
    stripped = text.strip()
    if stripped.startswith("{"):
        try:
            value = json.loads(stripped)
        except (ValueError, RecursionError):
            return None
    else:
        import yaml  # type: ignore[import-untyped]  # comes with transformers

        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError):
            return None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return None
    # `swift sft --a b: c` reads as one long key.
    return value if all(" " not in key.strip() for key in value) else None


def _options(settings: Mapping[str, object]) -> tuple[Option, ...]:
    return tuple(Option(name.replace("-", "_"), _values(value), name) for name, value in settings.items())


def _values(value: object) -> tuple[str, ...]:
    """A setting's values as texts. Nested ones are no setting of these tools, and aliases could make them endless."""
    if isinstance(value, list):
        return tuple(_scalar(part) for part in value)
    if isinstance(value, dict) and all(isinstance(part, str | int | float | bool) for part in value.values()):
        return (json.dumps(value, ensure_ascii=False),)
    return (_scalar(value),)


def _scalar(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else "…"


def _tool_of(settings: Mapping[str, object]) -> Tool:
    """Whose settings these are, by the names that only one of them has."""
    swift_own = {"tuner_type", "train_type", "sft_type", "torch_dtype", "model_type", "quant_bits", "split_dataset_ratio",
                 "model_author", "model_id_or_path", "add_version"}  # fmt: skip
    factory_own = {
        "finetuning_type",
        "stage",
        "cutoff_len",
        "lora_target",
        "dataset_dir",
        "template",
        "quantization_bit",
    }
    if len(factory_own & settings.keys()) > len(swift_own & settings.keys()):
        return "llamafactory"
    if swift_own & settings.keys() and ("model" in settings or "model_id_or_path" in settings or "dataset" in settings):
        return "swift"
    return "plain"


def _is_training(options: Sequence[Option]) -> bool:
    return bool({option.name for option in options} & {
        "learning_rate", "lora_rank", "lora_r", "num_train_epochs", "per_device_train_batch_size", "finetuning_type", "lr",
    })  # fmt: skip


NAMES: dict[Tool, str] = {"swift": swift.NAME, "llamafactory": llamafactory.NAME, "plain": plain.NAME}
