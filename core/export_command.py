"""`app.py export`: an adapter as a file that other programs take, and the receipt of that file.

stdout carries the outcome only; progress goes to stderr. Exit 0, or 1 where the file is not what was tested.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from core import adapters, cli, models, own_probes, proof_subject, proofs, signals, storage
from core.export import card, receipt
from core.export.make import make
from core.export.order import FORMATS, QUANTISATIONS, Order
from core.export.receipt import Receipt
from core.export.retest import retest
from core.proof import Proof
from core.proof_subject import Subject
from core.prove_command import beside, progress, run_of
from core.run import Run
from core.text import Text

_WRITING = Text("正在写文件（MB）", "Writing files (MB)")
_STOPPED = Text("已取消，没有留下任何文件。", "Cancelled; nothing is left of it.")
_STOPPED_TEST = Text("文件已写好，复测取消了。", "The file is there; its test was cancelled.")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `export`."""
    export = commands.add_parser(
        "export", help="export an adapter", description="Write an adapter as a file other programs take, and test it."
    )
    export.add_argument("--model", default=models.POCKET, help="folder, hub id in the local cache, or pocket")
    export.add_argument("--adapters", required=True, type=Path, metavar="DIR", help="the adapter's folder")
    export.add_argument("--format", required=True, choices=FORMATS, help="what to write (docs/export.md)")
    export.add_argument("--output_dir", required=True, type=Path, metavar="OUT", help="a folder that is not there yet")
    export.add_argument("--quantisation", default="f16", choices=QUANTISATIONS, help="of a GGUF file (default: f16)")
    export.add_argument(
        "--strength", default=1.0, type=float, help="above 0, up to 1.5, folded into the weights (default: 1)"
    )
    export.add_argument("--name", help="what other programs shall call it (default: the folder's name)")
    export.add_argument("--quant_method", default="none", choices=["none", "bnb"], help="of the base it was tested on")
    export.add_argument("--language", choices=["zh", "en"], help="of its README (default: the terminal's)")
    export.add_argument("--rows", action="store_true", help="put the training rows into the README")
    export.add_argument("--no_test", action="store_true", help="do not load the file and test it")
    export.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    export.set_defaults(command=run_export)


def run_export(arguments: argparse.Namespace) -> int:
    """`export`: write, then ask the file what the adapter is asked."""
    home = arguments.home.expanduser()
    cli.bring_model(home, arguments.model)
    adapter = adapters.read(arguments.adapters.expanduser(), "export")
    run = run_of(adapter.folder)
    language = arguments.language or cli.language()
    order = Order(
        adapter=adapter.folder.resolve(),
        model=arguments.model,
        format=arguments.format,
        target=arguments.output_dir.expanduser().resolve(),
        name=arguments.name or storage.slug(run.title if run else adapter.folder.resolve().name),
        system=adapter.system,
        quantisation=arguments.quantisation,
        strength=arguments.strength,
        language=language,
        rows=arguments.rows,
    )
    told = progress()
    with interruptible() as stop:
        written = make(
            order, lambda done, total: told(done // 1_000_000, total // 1_000_000, _WRITING), stop,
            lambda staged: card.model_card(order, run, _proof(order), None),
        )  # fmt: skip
        if not written:
            print(_STOPPED.of(cli.language()), file=sys.stderr)
            return 1
        found = None if arguments.no_test else _tested(order, run, arguments, stop)
    if found is None and not arguments.no_test:
        print(_STOPPED_TEST.of(cli.language()), file=sys.stderr)
    _print(order, found, arguments.json)
    return 1 if found is not None and found.light == "red" else 0


def _tested(order: Order, run: Run | None, arguments: argparse.Namespace, stop: threading.Event) -> Receipt | None:
    from core.engine import Engine

    engine = Engine()
    subject = _subject(order, run, arguments)

    @contextlib.contextmanager
    def hold() -> Iterator[None]:
        engine.load(order.model, arguments.quant_method, "auto")
        engine.attach(adapters.read(order.adapter, subject.name))
        yield

    found = retest(engine, subject, order, hold, progress(), stop)
    if found is not None:
        storage.write_text(order.target / "README.md", card.model_card(order, run, _proof(order), found))
    return found


def _proof(order: Order) -> Proof | None:
    """The adapter's proof, if it is of these very weights."""
    found = proofs.load(beside(order.adapter))
    return found if found is not None and found.weights == proof_subject.digest(order.adapter) else None


def _subject(order: Order, run: Run | None, arguments: argparse.Namespace) -> Subject:
    old = models.old_words(models.inspect(order.model))
    own = own_probes.load(arguments.home.expanduser())
    if run is None:
        return proof_subject.of_folder(order.adapter, "export", order.name, old, own)
    return proof_subject.of_run(run, order.adapter, run.adapter_step, "export", old, own)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Ctrl+C and SIGTERM set the event: what is half done is cleared away, what is whole stays. See `signals`."""
    stop = threading.Event()
    with signals.asked_to_end(lambda _number: stop.set()):
        yield stop


def _print(order: Order, found: Receipt | None, as_json: bool) -> None:
    language = cli.language()
    if as_json:
        value = {"output_dir": str(order.target), "format": order.format, "receipt": None}
        print(json.dumps(value | ({"receipt": receipt.to_json(found)} if found else {}), ensure_ascii=False))
        return
    print(order.target)
    if found is not None:
        print(f"[{receipt.VERDICTS[found.light].of(language)}] {card.receipt_text(found).of(language)}")
