"""`app.py prove`: the proof of adapter folders on the command line, as text for people or as JSON.

stdout carries the proofs only; progress goes to stderr. Exit 0, or 1 where a light is red or a proof was not made.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core import adapters, cli, models, own_probes, proof, proof_subject, proofs, storage
from core.dataset import Dataset, Identity, Row
from core.device_errors import device_errors
from core.errors import DatasetError, StorageError, UserError
from core.proof import LIGHTS, Proof
from core.proof_subject import Subject
from core.run import Run
from core.text import Language, Text

if TYPE_CHECKING:
    from core.engine import Engine

_EVERY = 2.0  # seconds between lines of progress


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `prove`."""
    prove = commands.add_parser(
        "prove", help="prove an adapter", description="Did it take, did it forget: test adapters against their base."
    )
    prove.add_argument("--model", default=models.POCKET, help="folder, hub id in the local cache, or pocket")
    prove.add_argument("--adapters", nargs="+", required=True, type=Path, metavar="DIR", help="adapter folders")
    prove.add_argument("--dataset", nargs="+", metavar="FILE", help="what it was trained on (default: its run's rows)")
    prove.add_argument("--model_name", nargs="+", metavar="NAME", help="the new name (default: its card's)")
    prove.add_argument("--model_author", nargs="+", metavar="NAME", help="the new maker (default: its card's)")
    prove.add_argument("--system", help="system prompt (default: the one it was trained with)")
    cli.add_loading(prove)
    prove.add_argument("--save", action="store_true", help="also write proof.json beside each adapter")
    prove.add_argument("--json", action="store_true", help="a JSON object a line, one an adapter")
    prove.set_defaults(command=run_prove)


def run_prove(arguments: argparse.Namespace) -> int:
    """`prove`: each adapter in turn, on one loaded base."""
    from core.engine import Engine

    home = arguments.home.expanduser()
    cli.bring_model(home, arguments.model)
    old = models.old_words(models.inspect(arguments.model))
    found = [adapters.read(folder.expanduser(), f"adapter-{i}") for i, folder in enumerate(arguments.adapters)]
    rows = (
        None if arguments.dataset is None else tuple(cli.read_all(arguments.dataset, 0, cli.sources_of(arguments.home)))
    )
    subjects = [_subject(adapter, arguments, rows, old, own_probes.load(home)) for adapter in found]
    engine = Engine()
    engine.load(arguments.model, arguments.quant_method, arguments.torch_dtype)
    worst, failed = "none", False
    for adapter, subject in zip(found, subjects, strict=True):
        made = _proved(engine, adapter, subject, home)
        if made is None:
            failed = True
            continue
        print(
            json.dumps(proof.to_json(made), ensure_ascii=False) if arguments.json else shown(made, cli.language()),
            flush=True,
        )
        if arguments.save:
            storage.write_json(beside(adapter.folder), proof.to_json(made))
        worst = "red" if "red" in (worst, made.light) else worst
    return 1 if worst == "red" or failed else 0


def _proved(engine: Engine, adapter: adapters.Adapter, subject: Subject, home: Path) -> Proof | None:
    """One adapter's proof; None, and why on stderr, if it could not be made: the others are proved all the same."""
    from core.prove import prove

    try:
        with device_errors():
            engine.attach(adapter)
            return prove(engine, subject, _cache(home), progress())
    except UserError as error:
        print(f"{subject.title}: {error.of(cli.language())}", file=sys.stderr, flush=True)
        return None
    finally:
        engine.detach(adapter.name)


def _subject(
    adapter: adapters.Adapter,
    arguments: argparse.Namespace,
    rows: tuple[Row, ...] | None,
    old: tuple[str, ...],
    own: tuple[own_probes.OwnProbe, ...],
) -> Subject:
    """What the folder tells of itself, with what was typed in place of it."""
    run = run_of(adapter.folder)
    title = adapter.folder.resolve().name if run is None else run.title
    found = (
        proof_subject.of_folder(adapter.folder, adapter.name, title, old, own)
        if run is None
        else proof_subject.of_run(run, adapter.folder, run.adapter_step, adapter.name, old, own)
    )
    typed = Identity.parse("|".join(arguments.model_name or ()), "|".join(arguments.model_author or ()))
    identity = typed if typed.words else found.identity
    return replace(
        found,
        identity=identity,
        rows=found.rows if rows is None else Dataset(title, rows, identity).resolved(),
        system=found.system if arguments.system is None else arguments.system,
    )


def run_of(folder: Path) -> Run | None:
    """The run whose own adapter the folder is."""
    try:
        return Run.open(folder.resolve().parent)
    except DatasetError:
        return None


def beside(folder: Path) -> Path:
    """Where an adapter's proof is kept."""
    return (folder.parent if run_of(folder) is not None else folder) / proofs.FILE


def _cache(home: Path) -> Path | None:
    try:
        storage.make_folder(home / "cache")
    except StorageError:
        return None
    return home / "cache"


def progress() -> Callable[[int, int, Text], None]:
    """What tells the terminal, now and then, how far it is."""
    last = (0.0, "")

    def told(done: int, total: int, what: Text) -> None:
        nonlocal last
        said = what.of(cli.language())
        if said != last[1] or time.monotonic() - last[0] > _EVERY:
            last = (time.monotonic(), said)
            print(f"{said} {done} / {total}", file=sys.stderr, flush=True)

    return told


def shown(made: Proof, language: Language) -> str:
    """The proof as lines for a terminal."""
    colon = "：" if language == "zh" else ": "
    lines = [f"{made.adapter} · {LIGHTS[made.light].of(language)} · {made.headline.of(language)}"]
    for test in made.tests:
        count = f" {test.count.of(language)}" if test.n else ""
        lines.append(
            f"  [{LIGHTS[test.light].of(language)}] {test.name.of(language)}{count}{colon}{test.sentence.of(language)}"
        )
    seconds = f"{made.seconds:.1f}"
    last = Text(
        f"{made.ruler.zh} 用时 {seconds} 秒，其中基座 {made.base_seconds:.1f} 秒。",
        f"{made.ruler.en} Took {seconds} s, {made.base_seconds:.1f} s of it for the base.",
    )
    return "\n".join([*lines, f"  {last.of(language)}"])
