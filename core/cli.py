"""The command line over the same core: `train` and `chat`. ms-swift's flag names where the meaning is the same.

stdout carries only what was asked for (JSON lines with --json); progress and errors go to stderr. Exit 0 when finished,
1 when a run failed, 2 with one sentence on bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core import adapters, config, formats, mix, models, presets
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Message, Row
from core.device import find_device
from core.errors import DatasetError, ModelError, UserError
from core.text import Language, Text

if TYPE_CHECKING:
    from core.job import Job
    from core.run import Event, Run

_LISTS = ("model_name", "model_author")


def language() -> Language:
    """The terminal's language, from the locale variables."""
    locale = next((os.environ[k] for k in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(k)), "")
    return "zh" if locale.lower().startswith("zh") else "en"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `train` and `chat`."""
    train = commands.add_parser("train", help="train an adapter", description="Train a LoRA adapter on one device.")
    train.add_argument(
        "--dataset", nargs="+", required=True, metavar="FILE", help="data files, or built-in names; NAME#N draws N rows"
    )
    train.add_argument(
        "--output_dir", type=Path, required=True, help="folder for the run; the adapter is in its adapter/"
    )
    train.add_argument("--preset", help="identity, qlora, mixed, quick, pocket, or a TOML file")
    train.add_argument("--json", action="store_true", help="one JSON event a line on stdout")
    for name in config.names():
        fact = config.fact_of(name)
        default = TrainConfig.__dataclass_fields__[name].default
        extra: dict[str, object] = {"nargs": "+"} if name in _LISTS else {}
        text = f"{fact.help.en} (default: {default!r})".replace("%", "%%")
        train.add_argument(f"--{name}", help=text, metavar="VALUE", **extra)  # type: ignore[arg-type]
    train.set_defaults(command=run_train)

    chat = commands.add_parser(
        "chat", help="ask a question", description="Answer a prompt; several adapters answer in one batch."
    )
    chat.add_argument("--model", default=models.POCKET, help="folder, hub id in the local cache, or pocket")
    chat.add_argument(
        "--adapters", nargs="*", default=[], type=Path, metavar="DIR", help="adapter folders; none = the base"
    )
    chat.add_argument("--prompt", required=True)
    chat.add_argument("--system", help="system prompt (default: the first adapter's training prompt)")
    chat.add_argument("--temperature", default="0")
    chat.add_argument("--top_p", default="1")
    chat.add_argument("--max_new_tokens", default="512")
    chat.add_argument("--seed", default="0")
    chat.add_argument("--quant_method", default="none", choices=["none", "bnb"])
    chat.add_argument("--torch_dtype", default="auto", choices=["auto", "bfloat16", "float16", "float32"])
    chat.add_argument("--json", action="store_true", help="a JSON object a line, one an adapter")
    chat.set_defaults(command=run_chat)


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command. Returns the exit status."""
    return guarded(lambda: int(arguments.command(arguments)))


def guarded(work: Callable[[], int]) -> int:
    """`work`'s exit status; 2 and one sentence on stderr for what the user can mend."""
    try:
        return work()
    except UserError as error:
        print(error.of(language()), file=sys.stderr)
        return 2


def run_train(arguments: argparse.Namespace) -> int:
    """`train`: the run's folder is output_dir itself."""
    settings = _settings(vars(arguments))
    table = Dataset(
        arguments.output_dir.name,
        tuple(_read_all(arguments.dataset, settings.seed)),
        Identity.parse(settings.model_name, settings.model_author),
    )

    from core import train as training
    from core.engine import Engine
    from core.job import Job
    from core.preview import Previews
    from core.run import Run

    engine = Engine()
    training.check(settings, engine.device)
    mixed = mix.draw(settings.mix, settings.seed, _saved)
    Previews().check(table, mixed, settings, engine)
    rows = [*table.resolved(), *mixed]
    job = Job(lambda run, stop: training.train(engine, run, stop), clean_up=lambda: None)
    run = job.start(
        lambda: Run.create(arguments.output_dir.resolve(), settings, rows, table.name, " ".join(arguments.dataset))
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: job.stop())
    try:
        _follow(job, run, arguments.json)
    finally:  # whoever read our output is gone: save and end
        job.close()
    return {"finished": 0, "stopped": 0}.get(run.status, 1)


def run_chat(arguments: argparse.Namespace) -> int:
    """`chat`: every adapter, or the base, answers the prompt in one batch."""
    from core.engine import Engine
    from core.generate import Column, Sampling, stream

    numbers = {key: _number(key, getattr(arguments, key)) for key in ("temperature", "top_p", "max_new_tokens", "seed")}
    sampling = Sampling(
        temperature=numbers["temperature"],
        top_p=numbers["top_p"],
        max_new_tokens=int(numbers["max_new_tokens"]),
        seed=int(numbers["seed"]),
    )
    found = [adapters.read(folder, name=f"adapter-{i}") for i, folder in enumerate(arguments.adapters)]
    system = (
        arguments.system
        if arguments.system is not None
        else (found[0].system if found and found[0].system else TrainConfig().system)
    )
    messages = (*((Message("system", system),) if system else ()), Message("user", arguments.prompt))
    engine = Engine()
    engine.load(arguments.model, arguments.quant_method, arguments.torch_dtype)
    for adapter in found:
        engine.attach(adapter)
    columns = [Column(messages, adapter.name) for adapter in found] or [Column(messages)]
    replies = list(stream(engine, columns, sampling))[-1]
    for index, reply in enumerate(replies):
        source = str(arguments.adapters[index]) if found else None
        if arguments.json:
            record = {
                "adapter": source,
                "prompt": arguments.prompt,
                "response": reply.text,
                "tokens": reply.tokens,
                "finish_reason": reply.finish,
                "first_token_seconds": reply.first_token_seconds,
                "tokens_per_second": reply.tokens_per_second,
            }
            print(json.dumps(record, ensure_ascii=False), flush=True)
        else:
            print(f"[{source}] {reply.text}" if len(replies) > 1 else reply.text, flush=True)
    return 0


def _settings(given: Mapping[str, object]) -> TrainConfig:
    """Preset (the machine's default where none is named) overlaid with the flags that were given."""
    device = find_device()
    model = str(given.get("model") or models.default_model(device))
    if given.get("preset"):
        chosen = presets.preset(str(given["preset"]))
    else:
        chosen = presets.default_preset(device, model, presets.load_presets())
    base = chosen.for_model(model).config
    typed: dict[str, object] = {}
    for name in config.names():
        value = given.get(name)
        if value is not None:
            typed[name] = "|".join(str(part) for part in value) if isinstance(value, list) else value
    return config.build(typed, base)


def _read_all(sources: Sequence[str], seed: int) -> list[Row]:
    """The rows of every source, in order; what the importer had to interpret is said on stderr."""
    rows: list[Row] = []
    for source in sources:
        if source.rpartition("#")[1] or source in mix.BUILT_IN:
            rows += mix.draw(source, seed, _saved)
        else:
            rows += _saved(source)
    return rows


def _saved(source: str) -> list[Row]:
    path = Path(source).expanduser()
    if not path.is_file():
        raise DatasetError(
            Text(
                zh=f"没有找到数据文件 {source}。请检查路径;内置数据集有:{', '.join(mix.BUILT_IN)}。",
                en=f"Data file {source} was not found. Check the path; built-in sets: {', '.join(mix.BUILT_IN)}.",
            )
        )
    imported = formats.read(path.read_bytes(), path.name)
    for note in imported.notes:
        print(f"{path.name}: {note.of(language())}", file=sys.stderr)
    return list(imported.rows)


def _number(name: str, typed: str) -> float:
    try:
        return float(typed)
    except ValueError:
        raise ModelError(
            Text(zh=f"{name} 填的是 {typed!r};应为数字。", en=f"{name} is {typed!r}; it must be a number.")
        ) from None


def _follow(job: Job, run: Run, as_json: bool) -> None:
    """Print the run's events as they come, until its last."""
    seen, pause = 0, threading.Event()
    while True:
        live = run.live
        for event in run.events[seen:]:
            print(json.dumps(event, ensure_ascii=False) if as_json else _line(event, run), flush=True)
            seen += 1
        if not live and seen == len(run.events):
            break
        pause.wait(0.1)
    job.join()


def _line(event: Event, run: Run) -> str:
    """An event as a line for people."""
    kind = event["type"]
    if kind == "step":
        return (
            f"step {event['step']}/{run.steps}  loss {event['loss']:.4f}  lr {event['learning_rate']:.2e}  "
            f"{event['tokens_per_second']:.0f} tok/s"
        )
    if kind == "probed":
        return f"probed at step {event['step']}: identity {event['hits']}/{event['total']}"
    if kind == "failed":
        return str(event[f"message_{language()}"])
    if kind == "started":
        return f"started: {event['rows']} rows, {event['steps']} steps on {event['device']}"
    if kind == "evaluated":
        return f"evaluation loss at step {event['step']}: {event['loss']:.4f}"
    if kind == "saved":
        return f"saved {run.folder / str(event['path'])}"
    return f"{kind}"
