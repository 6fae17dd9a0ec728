"""`app.py serve --engine vllm`: the same models served by an installed vLLM, its log followed, ended with us."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from core import adapters, cli, holders, models, vllm
from core.device import find_device
from core.served import ServedModel, check_names
from core.vllm_server import VllmServer
from ui import address

Greeting = Callable[[str, Sequence[str], Sequence[ServedModel]], str]


def run(arguments: argparse.Namespace, folders: Mapping[str, Path], api_keys: Sequence[str], greeting: Greeting) -> int:
    """Start vLLM, print its log and, once it answers, `greeting(address, addresses elsewhere, models)`; 0 after Ctrl+C.

    Raises UserError where there is no vLLM, where it cannot take what is asked for, or with its last lines if it ends.
    """
    program = vllm.found_or_refused()
    environment = vllm.environment(api_keys)
    cli.bring_model(arguments.home, arguments.model)
    served = check_names(arguments.model, folders)
    folders = {name: folder.expanduser().resolve() for name, folder in folders.items()}
    ranks = [vllm.fitted(name, folder, arguments.model).rank for name, folder in folders.items()]
    served[1:] = [_told(model, folders[model.name]) for model in served[1:]]
    with address.listen(arguments.host, arguments.port) as listener:  # says who has the port, where somebody has
        port = listener.getsockname()[1]
    call = vllm.Call(
        str(models.inspect(arguments.model).folder),
        tuple(dict.fromkeys((served[0].name, *served[0].aliases))),
        folders,
        max(ranks, default=0),
        arguments.host.strip("[]"),
        port,
        vllm.BNB if arguments.quant_method == "bnb" else "",
        "" if arguments.torch_dtype == "auto" else arguments.torch_dtype,
        more=arguments.more,
    )
    others = holders.held(find_device()).said
    if others is not None:
        print(others.of(cli.language()), file=sys.stderr, flush=True)
    server = VllmServer(told=lambda line: print(line, file=sys.stderr, flush=True))
    # Each may come twice, the last when the terminal is closed: vLLM's own processes are ended by us.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:  # Windows has no SIGHUP
            signal.signal(number, signal.default_int_handler)
    try:
        server.start([str(program), *call.arguments()], environment, call.host, call.port)
        while server.state == "starting":
            time.sleep(0.1)
        if server.state == "ready":
            print(greeting(*address.addresses(arguments.host, port), served), file=sys.stderr, flush=True)
        server.wait()
    except KeyboardInterrupt:
        _end(server)
    return 0


def _end(server: VllmServer) -> None:
    try:
        server.stop()
    except KeyboardInterrupt:  # asked twice: it is killed
        server.stop()


def _told(model: ServedModel, folder: Path) -> ServedModel:
    """With the prompt of its training, which vLLM does not know of."""
    adapter = adapters.read(folder, model.name)
    return ServedModel(model.name, model.adapter, str(folder), adapter.system)
