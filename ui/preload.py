"""Which of gradio's scripts a page is going to ask for, told with the page: they come side by side, not one after another.

Read from the installed frontend, whose bundler writes beside every import which files that needs. A gradio that writes it
otherwise gives no hints, and a first visit is slower.
"""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FRONTEND = Path(gr.__file__).parent / "templates" / "frontend"
_ENTRY = re.compile(r'<script type="module"[^>]* src="\./assets/([^"]+)"')
_FILES = re.compile(r"m\.f=\[([^\]]*)\]")
_NEEDED = re.compile(r"__vite__mapDeps\(\[([\d,]*)\]\)")
_PAGE = r"import\(`\./Blocks-"  # what draws a page, in one of the first scripts
_COMPONENT = r"\b{kind}:\{{[^{{}}]*?component:"


class Hints:
    """A middleware: with the page at each path of `pages` goes the header Link that names its scripts."""

    def __init__(self, app: ASGIApp, pages: dict[str, list[str]]) -> None:
        self._app = app
        # Not in the page's head: that is part of gradio's settings there, and read when its first scripts have run.
        links = {path: [f"<assets/{name}>; rel=modulepreload; crossorigin" for name in names]
                 for path, names in pages.items()}  # fmt: skip
        self._links = {path: ", ".join(every) for path, every in links.items() if every}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the app does."""
        links = self._links.get(scope.get("path", "")) if scope["type"] == "http" else None

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message).append("link", str(links))
            await send(message)

        await self._app(scope, receive, sending if links else send)


def scripts(page: gr.Blocks) -> list[str]:
    """The files below gradio's assets/ that drawing `page` takes, first the first; none where it cannot be told."""
    entry = _ENTRY.search((_FRONTEND / "index.html").read_text("utf-8"))
    if entry is None:
        return []
    kinds = sorted({block.get_block_name() for block in page.blocks.values()})
    names = [entry.group(1), *_files(_written(entry.group(1)))]
    for name in [name for name in names[1:] if name.endswith(".js")]:
        written = _written(name)
        names += _needed(written, _PAGE)
        if name.startswith("core-"):
            names += [part for kind in kinds for part in _needed(written, _COMPONENT.format(kind=kind))]
    return [name for name in dict.fromkeys(names) if name.endswith(".js")]


def _written(name: str) -> str:
    return (_FRONTEND / "assets" / name).read_text("utf-8")


def _files(written: str) -> list[str]:
    """What the imports of a script can need, in the order that it counts them."""
    found = _FILES.search(written)
    return re.findall(r'"\./([^"]+)"', found.group(1)) if found else []


def _needed(written: str, begin: str) -> list[str]:
    """What the import after a mark needs; nothing where that is not in the script."""
    start = re.search(begin, written)
    found = _NEEDED.search(written, start.end()) if start else None
    return [_files(written)[int(number)] for number in found.group(1).split(",") if number] if found else []
