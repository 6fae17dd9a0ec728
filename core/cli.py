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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core import adapters, config, evaluation_set, event_lines, mix, models, presets, requirements, signals, storage
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Message, Row
from core.device import find_device
from core.downloads import bring, downloads_of
from core.errors import ConfigError, DatasetError, ModelError, UserError
from core.launch import end_with_the_page
from core.sources.found import NOBODY, Sources
from core.sources.tables import SavedTables
from core.text import Language, Text

if TYPE_CHECKING:
    from core.engine import Engine
    from core.job import Job
    from core.ranks import Ranks
    from core.run import Run

_LISTS = ("model_name", "model_author")
_NAMED = 5  # runs that an error names
_UNPROVED = Text(
    "命令行训练不做检验和逐行结果（prove 只在网页里生效）。检验请运行：app.py prove --model {model} --adapters {folder}",
    "A run of the command line makes no proof and no row report (prove is followed on the page only). To prove it: "
    "app.py prove --model {model} --adapters {folder}",
)


def language() -> Language:
    """The terminal's language, from the locale variables."""
    locale = next((os.environ[k] for k in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(k)), "")
    return "zh" if locale.lower().startswith("zh") else "en"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `train` and `chat`."""
    train = commands.add_parser("train", help="train an adapter", description="Train a LoRA adapter on one device.")
    train.add_argument(
        "--dataset",
        nargs="+",
        metavar="FILE",
        help="data files, built-in or saved sets, or ids of a hub (hf::, ms::); NAME#N draws N rows",
    )
    train.add_argument(
        "--output_dir", type=Path, metavar="OUT", help="folder for the run; the adapter is in its adapter/"
    )
    train.add_argument(
        "--resume", metavar="RUN", help="go on with a run that did not finish: its folder, or its id under --home"
    )
    train.add_argument("--preset", metavar="NAME", help="identity, qlora, mixed, quick, pocket, or a TOML file")
    train.add_argument("--json", action="store_true", help="one JSON event a line on stdout")
    for name in config.names():
        fact = config.fact_of(name)
        default = TrainConfig.__dataclass_fields__[name].default
        extra: dict[str, object] = {"nargs": "+"} if name in _LISTS else {}
        text = f"{fact.help.en} (default: {default!r})".replace("%", "%%")
        value = f"{{{','.join(fact.choices)}}}" if fact.choices else "VALUE"
        train.add_argument(f"--{name}", help=text, metavar=value, **extra)  # type: ignore[arg-type]
    train.set_defaults(command=run_train)

    chat = commands.add_parser(
        "chat", help="ask a question", description="Answer a prompt; several adapters answer in one batch."
    )
    chat.add_argument("--model", default=models.POCKET, help="folder, hub id in the local cache, or pocket")
    chat.add_argument(
        "--adapters", nargs="*", default=[], type=Path, metavar="DIR", help="adapter folders; none = the base"
    )
    chat.add_argument("--prompt", required=True, help="the question")
    chat.add_argument("--system", help="system prompt (default: the first adapter's training prompt)")
    chat.add_argument("--temperature", default="0", help="0 takes the likeliest token each time (default: 0)")
    chat.add_argument("--top_p", default="1", help="draw from the likeliest tokens of this share (default: 1)")
    chat.add_argument("--max_new_tokens", default="512", help="tokens of an answer at most (default: 512)")
    chat.add_argument("--seed", default="0", help="of the draws, with a temperature above 0 (default: 0)")
    add_loading(chat)
    chat.add_argument("--json", action="store_true", help="a JSON object a line, one an adapter")
    chat.set_defaults(command=run_chat)


def add_loading(command: argparse.ArgumentParser) -> None:
    """Declare how a base model is loaded."""
    command.add_argument(
        "--quant_method", default="none", choices=["none", "bnb"], help="bnb: the base in 4 bits (default: none)"
    )
    command.add_argument(
        "--torch_dtype",
        default="auto",
        choices=["auto", "bfloat16", "float16", "float32"],
        help="number format of the base (default: auto, what the device does best)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command. Returns the exit status."""
    return guarded(lambda: int(arguments.command(arguments)))


def guarded(work: Callable[[], int]) -> int:
    """`work`'s exit status; 2 and one sentence on stderr for what the user can mend, 128 and its number for a signal."""
    try:
        with signals.asked_to_end(signals.interrupt):
            return work()
    except KeyboardInterrupt as error:
        _say(Text("已中断；没有留下写了一半的文件。", "Interrupted; no half-written file is left."))
        return 128 + int(error.args[0] if error.args else signal.SIGINT)
    except UserError as error:
        print(error.of(language()), file=sys.stderr)
    except ModuleNotFoundError as error:
        absent = requirements.missing(error.name or "")
        if absent is None:
            raise
        print(absent.of(language()), file=sys.stderr)
    return 2


def run_train(arguments: argparse.Namespace) -> int:
    """`train`: the run's folder is output_dir itself, or that of the run to go on with."""
    from core import ranks

    # Before anything asks which card there is.
    with ranks.joined() as here:
        return _lead(arguments, here) if here.leads else _follow_leader(here)


def _follow_leader(here: Ranks) -> int:
    """A card's share of a run that another process leads; Ctrl+C is the leader's to answer."""
    from core import member
    from core.engine import Engine

    with signals.asked_to_end(lambda number: None):
        member.follow(here, Engine(spread_out=here.spread_out))
    return 0


def _lead(arguments: argparse.Namespace, here: Ranks) -> int:
    """`train` as the one that decides and tells."""
    from core import train as training
    from core.engine import Engine
    from core.job import Job

    engine, printed = Engine(spread_out=here.spread_out), 0

    def make() -> Run:
        nonlocal printed
        run = _new_run(arguments, engine) if arguments.resume is None else _run_to_resume(arguments, engine)
        printed = len(run.events)
        return run

    runs = _folder_of(arguments).parent
    # In a home that a page may have open: one of the two trains.
    home = runs.parent if runs.name == "runs" and runs.is_dir() else None
    job = Job(lambda run, stop: training.train(engine, run, stop, ranks=here), clean_up=lambda: None, home=home)

    def end(number: int) -> None:
        if job.run is None:  # nothing trains yet, so nothing is to be saved
            signals.interrupt(number)
        job.stop()

    with signals.asked_to_end(end):
        end_with_the_page()
        try:
            run = job.start(make)
            _follow(job, run, printed, arguments.json)
        finally:  # whoever read our output is gone: save and end
            job.close()
    if run.config.prove == "true" and run.adapter is not None:
        print(_UNPROVED.of(language()).format(model=run.config.model, folder=run.adapter), file=sys.stderr)
    return {"finished": 0, "stopped": 0}.get(run.status, 1)


def _new_run(arguments: argparse.Namespace, engine: Engine) -> Run:
    """The run that the arguments describe, checked, its rows and settings frozen in output_dir."""
    from core import train as training
    from core.preview import Previews, filled
    from core.run import Run

    for name in ("dataset", "output_dir"):
        if getattr(arguments, name) is None:
            raise ConfigError(Text(zh=f"缺少 --{name}。", en=f"--{name} is missing."), name)
    settings = _settings(vars(arguments))
    if settings.adapters:
        settings = replace(settings, adapters=str(adapters.folder_of(settings.adapters)))
    bring_model(arguments.home, settings.model)
    asked = Identity.parse(settings.model_name, settings.model_author)
    sources, identity = sources_of(arguments.home, asked), _card(arguments, asked)
    settings = filled(replace(settings, model_name=identity.settings[0], model_author=identity.settings[1]), identity)
    sources.bring([name for name, _ in mix.parse(settings.mix)], _say)
    table = Dataset(
        arguments.output_dir.name, tuple(read_all(arguments.dataset, settings.seed, sources, identity)), identity
    )
    training.check(settings, engine.device)
    mixture = mix.gather(table, settings, sources.find)
    previews = Previews()
    previews.check(table, mixture.mixed, settings, engine)
    evaluation = evaluation_set.draw(settings, sources.rows, lambda rows: previews.check(rows, [], settings, engine))
    given = " ".join(arguments.dataset)
    return Run.create(
        arguments.output_dir.resolve(), settings, mixture.rows, table.name, given, evaluation, parts=mixture.parts
    )


def _folder_of(arguments: argparse.Namespace) -> Path:
    """Where the run is, or will be."""
    if arguments.resume is None:
        return Path(arguments.output_dir or "").resolve()
    return run_folder(arguments.home, arguments.resume)


def run_folder(home: Path, name: str) -> Path:
    """The folder of the run that somebody named: its own path, or its id in the home. Raises DatasetError if there is none."""
    runs = home.expanduser() / "runs"
    for folder in (storage.path_of(name), storage.path_of(str(runs / name))):
        if folder is not None and (folder / "config.json").is_file():
            return folder.resolve()
    ids = sorted((path.parent.name for path in runs.glob("[!.]*/config.json")), reverse=True)[:_NAMED]
    raise DatasetError(
        Text(
            f"没有名为“{name}”的训练：它不是训练的文件夹，{runs} 里也没有这个 ID。"
            + (f"最近的有：{'、'.join(ids)}。" if ids else "那里还没有训练。"),
            f"There is no run “{name}”: it is no run's folder, and {runs} has none of this id. "
            + (f"The newest there: {', '.join(ids)}." if ids else "There are no runs there yet."),
        )
    )


def bring_model(home: Path, model: str) -> None:
    """Download the model if a hub has to be asked for it, saying what and how much."""
    bring(downloads_of(home.expanduser()), model, _say)


def _say(text: Text) -> None:
    print(text.of(language()), file=sys.stderr, flush=True)


def sources_of(home: Path, asked: Identity = NOBODY) -> Sources:
    """The sources that a command draws from: files before all, saved datasets of the home, built-in sets, the hubs'.

    `asked` stands over the identity cards of the datasets.
    """
    home = home.expanduser()
    tables = SavedTables(home / "datasets", asked)
    return Sources(home, tables.names, tables.get, True)


def _card(arguments: argparse.Namespace, asked: Identity) -> Identity:
    """Who the model shall say it is: by the flags, and where they are silent, by the first saved dataset's card."""
    used = (name for written in arguments.dataset for name, _ in _parts(written) if storage.path_of(name) is None)
    return SavedTables(arguments.home.expanduser() / "datasets", asked).card(used)


def _run_to_resume(arguments: argparse.Namespace, engine: Engine) -> Run:
    """The run that --resume names. Its settings and rows are frozen: giving others is refused."""
    from core import train as training
    from core.run import Run

    names = ("dataset", "output_dir", "preset", *config.names())
    given = " ".join(f"--{name}" for name in names if getattr(arguments, name) is not None)
    if given:
        raise ConfigError(
            Text(
                zh=f"--resume 使用该次训练自己的设置和数据，不能同时给出 {given}。",
                en=f"--resume uses the run's own settings and rows; leave out {given}.",
            ),
            "resume",
        )
    run = Run.open(_folder_of(arguments))
    run.check_resumable()
    training.check_again(run, engine.device)
    models.inspect(run.config.model)
    return run


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
    bring_model(arguments.home, arguments.model)
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


def read_all(given: Sequence[str], seed: int, sources: Sources, identity: Identity = NOBODY) -> list[Row]:
    """The rows of every source, in order, `name` or `name#count`; what was interpreted or repeated is said on stderr.

    `identity` fills the placeholders of a hub's or a file's rows. Sets of a hub are fetched first.
    """
    rows: list[Row] = []
    for written in given:
        for name, count in _parts(written):
            sources.bring([name], _say)
            source = sources.find(name, identity)
            for note in source.notes:
                print(f"{name}: {note.of(language())}", file=sys.stderr)
            found = mix.draw(mix.written([(name, count)]), seed, sources.find, identity)
            if len(found) > len(source.rows):
                times = f"{len(found) / len(source.rows):.3g}"
                _say(Text(f"{name}：每行重复 {times} 遍", f"{name}: every row comes {times} times"))
            rows += found if count is not None else source.rows
    return rows


def _parts(written: str) -> list[tuple[str, int | None]]:
    """What one argument names: a path may hold blanks and commas, which else separate sources."""
    head, mark, count = written.rpartition("#")
    if storage.path_of(written) is not None:
        return [(written, None)]
    whole = mark and count.isdigit() and storage.path_of(head) is not None
    return mix.parse(f'"{written}"' if whole else written)


def _number(name: str, typed: str) -> float:
    try:
        return float(typed)
    except ValueError:
        raise ModelError(
            Text(zh=f"{name} 填的是 {typed!r}；应为数字。", en=f"{name} is {typed!r}; it must be a number.")
        ) from None


def _follow(job: Job, run: Run, seen: int, as_json: bool) -> None:
    """Print the run's events after the first `seen` as they come, until its last."""
    pause = threading.Event()
    while True:
        live = run.live
        for event in run.events[seen:]:
            print(
                json.dumps(event, ensure_ascii=False) if as_json else event_lines.line(event, run).of(language()),
                flush=True,
            )
            seen += 1
        if not live and seen == len(run.events):
            break
        pause.wait(0.1)
    job.join()
