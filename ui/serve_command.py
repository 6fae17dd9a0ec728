"""`app.py serve`: the API without the page, over one base model and adapters from folders. Imports no gradio."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core import __version__, cli, models
from core.errors import ConfigError, UserError
from core.served import ServedFolders, check_names
from core.text import Text
from ui import address, keys
from ui.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Collection

    from core.served import Served, ServedModel
    from ui.endpoint import Endpoint


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `serve`."""
    serve = commands.add_parser(
        "serve", help="answer programs, without the page", description="Serve an OpenAI-compatible API (docs/api.md)."
    )
    serve.add_argument("--engine", default="onecard", choices=["onecard", "vllm"], help="who answers (docs/scale.md)")
    serve.add_argument("--model", default=models.POCKET, help="folder, hub id, or pocket")
    serve.add_argument(
        "--adapters", nargs="*", default=[], metavar="NAME=DIR", help="adapter folders and the names they answer to"
    )
    cli.add_loading(serve)
    # Not set unless given: the root parser has both, and their defaults.
    serve.add_argument("--host", default=argparse.SUPPRESS, help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, default=argparse.SUPPRESS, help="port to listen on (default: 7860)")
    serve.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help=f"keys, one a line, beside those in ${keys.KEYS}"
    )
    serve.add_argument("more", nargs="*", metavar="ARGUMENT", help="with --engine vllm, after --: vLLM's own arguments")
    serve.set_defaults(command=run_serve)


def run_serve(arguments: argparse.Namespace) -> int:
    """`serve`: load everything, then answer until Ctrl+C."""
    from ui.endpoint import Endpoint
    from ui.running import run

    api_keys = _keys(arguments.host, arguments.api_key_file)
    folders = _folders(arguments.adapters)
    if arguments.engine == "vllm":
        from ui import serve_vllm

        return serve_vllm.run(
            arguments, folders, api_keys, functools.partial(_greeting, keyed=bool(api_keys), engine="vLLM")
        )
    if arguments.more:
        raise ConfigError(
            Text(
                f"不认识 {' '.join(arguments.more)}：“--”后面的参数是给 vLLM 的，要和 --engine vllm 一起用。",
                f"{' '.join(arguments.more)} is not known: what follows “--” is for vLLM, with --engine vllm.",
            ),
            "engine",
        )
    with address.listen(arguments.host, arguments.port) as listener:
        try:
            served = _load(arguments, folders)
        except KeyboardInterrupt:
            return 130
        endpoint = Endpoint(served)
        app = create_app(served, endpoint, address.host_names(arguments.host), api_keys)
        here, elsewhere = address.addresses(arguments.host, listener.getsockname()[1])
        run(app, listener, endpoint, _greeting(here, elsewhere, served.models(), bool(api_keys)))
    return 0


def create_app(served: Served, endpoint: Endpoint, hosts: Collection[str], api_keys: Collection[str]) -> Starlette:
    """The API and /healthz, behind the same guard as the page. Where there are keys, /healthz does not name the model."""
    from ui.endpoint import broken

    def healthz(_request: Request) -> Response:
        named = {} if api_keys else {"model": served.models()[0].name}
        return JSONResponse({"status": "ok", "version": __version__, **named})

    return Starlette(
        routes=[*endpoint.routes(), Route("/healthz", healthz)],
        middleware=[Middleware(Guard, hosts=hosts, api_keys=api_keys)],
        exception_handlers={Exception: broken},
    )


def _load(arguments: argparse.Namespace, folders: dict[str, Path]) -> ServedFolders:
    from core.engine import Engine

    cli.bring_model(arguments.home, arguments.model)
    check_names(arguments.model, folders)  # before the loading, which may take a while
    engine = Engine()
    engine.load(arguments.model, arguments.quant_method, arguments.torch_dtype)
    return ServedFolders(engine, arguments.model, folders)


def _keys(host: str, file: Path | None) -> tuple[str, ...]:
    """The keys; needed where other machines could reach the API."""
    found = (*keys.from_environment(), *(keys.from_file(file) if file is not None else ()))
    if found or address.is_local(host):
        return found
    raise UserError(
        Text(
            zh=f"--host {host} 会让其他机器也能使用 API。请先设置密钥：export {keys.KEYS}=一长串随机字符"
            "（或用 --api-key-file）；只在本机使用则去掉 --host。",
            en=f"--host {host} lets other machines use the API. Set a key first: export {keys.KEYS}=a-long-random-word "
            "(or --api-key-file); or leave --host out to serve this machine only.",
        )
    )


def _folders(given: Sequence[str]) -> dict[str, Path]:
    """NAME=DIR, each name once."""
    folders: dict[str, Path] = {}
    for entry in given:
        name, found, folder = (part.strip() for part in entry.partition("="))
        if not (found and name and folder):
            raise ConfigError(
                Text(
                    zh=f"--adapters 里的 {entry!r} 应写成 名字=文件夹，例如 xiaohe=runs/1/adapter。",
                    en=f"{entry!r} in --adapters must be NAME=DIR, for example xiaohe=runs/1/adapter.",
                ),
                "adapters",
            )
        if name in folders:
            raise ConfigError(
                Text(zh=f"--adapters 里有两个“{name}”。", en=f"There are two “{name}” in --adapters."), "adapters"
            )
        folders[name] = Path(folder)
    return folders


def _greeting(
    here: str,
    elsewhere: Sequence[str],
    served: Sequence[ServedModel],
    keyed: bool,
    engine: Literal["OneCard", "vLLM"] = "OneCard",
) -> str:
    """Where the API is, what it serves, and a command that asks it something."""
    names = [model.name for model in served]
    system = (
        served[-1].system if engine == "vLLM" else ""
    )  # which does not know with what prompt an adapter was trained
    said = [{"role": "system", "content": system}] if system else []
    body = {"model": names[-1], "messages": [*said, {"role": "user", "content": "你是谁？ Who are you?"}]}
    key = f' -H "authorization: Bearer ${keys.KEYS}"' if keyed else ""
    quoted = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    return "\n".join(
        (
            f"{engine}: {here}/v1  (Ctrl+C to stop)",
            *(f"         {place}/v1" for place in elsewhere),
            *(
                ["         Plain http does not hide a key on the way: only in a network you trust."]
                if elsewhere
                else ()
            ),
            f"models:  {', '.join(names)}",
            f"curl {here}/v1/chat/completions -H 'content-type: application/json'{key} -d '{quoted}'",
        )
    )
