"""`app.py push` and `app.py pull`: an export to a hub, and an adapter from one into the library.

stdout carries the outcome only. Exit 0, 1 where it was cancelled, 2 with one sentence where it cannot be done.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from core import cli, export_command
from core.errors import ConfigError, ModelError
from core.hub import HUBS
from core.models import Progress
from core.publish import push
from core.publish.push import Plan
from core.pull import AdapterId, Pulls, adapter_id
from core.text import Text
from core.transfer import Meter, Transfer
from core.waiting import saying

_EVERY = 2.0  # seconds between lines of progress
_STOPPED = Text(
    "已取消，没有提交任何文件。已传完的大文件再发布时不必重传；新建的空仓库可以在网站上删除。",
    "Cancelled; nothing was committed. Large files that arrived are not sent again; an empty repository made for this can be "
    "deleted on the site.",
)
_STOPPED_PULL = Text("已取消，下次会接着下载。", "Cancelled; the next time goes on from there.")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `push` and `pull`."""
    to = commands.add_parser(
        "push",
        help="upload an export to a hub",
        description="Upload an export's folder to Hugging Face or ModelScope, after you have confirmed what, where and "
        "who can see it. The token is HF_TOKEN, MODELSCOPE_API_TOKEN or the login of the hub's own tool.",
    )
    to.add_argument("folder", type=Path, metavar="FOLDER", help="what `app.py export` wrote")
    to.add_argument("--to", required=True, choices=list(HUBS), help="which hub")
    to.add_argument("--repo", required=True, metavar="OWNER/NAME", help="the repository; it is made if it is not there")
    to.add_argument("--public", action="store_true", help="everybody may see it (default: private)")
    to.add_argument("--yes", action="store_true", help="do not ask: what is shown is confirmed")
    to.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    to.set_defaults(command=run_push)

    back = commands.add_parser(
        "pull",
        help="bring an adapter from a hub into the library",
        description="Download an adapter (its safetensors and settings, nothing else), check it as any foreign one, and "
        "keep it in the library of --home.",
    )
    back.add_argument("adapter", metavar="[hf::|ms::]OWNER/NAME", help="its id, and of which hub")
    back.add_argument("--name", default="", help="what to call it (default: the repository's name)")
    back.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    back.set_defaults(command=run_pull)


def run_push(arguments: argparse.Namespace) -> int:
    """`push`: show what would happen, have it confirmed, do it."""
    folder = arguments.folder.expanduser().resolve()
    quiet = saying(push.hub_for_writing(arguments.to).label, _say)
    plan = push.prepare(folder, arguments.to, arguments.repo, not arguments.public, quiet)
    print(shown(plan).of(cli.language()), file=sys.stderr, flush=True)
    if not arguments.yes and not _confirmed(plan):
        return 1
    with export_command.interruptible() as stop:
        pushed = push.push(plan, stop, _progress(), quiet=quiet)
    if pushed is None:
        print(_STOPPED.of(cli.language()), file=sys.stderr)
        return 1
    value = {"repository": plan.repository, "page": pushed.page, "private": plan.private, "bytes": plan.parcel.nbytes}
    print(json.dumps(value, ensure_ascii=False) if arguments.json else pushed.page)
    return 0


def shown(plan: Plan) -> Text:
    """What is to be confirmed, as lines."""
    label, kind = plan.hub.label, _kind(plan)
    lines = [
        Text(f"上传到 {label.zh}，账号 {plan.account}", f"to {label.en}, as {plan.account}"),
        Text(f"仓库 {plan.repository}：{kind.zh}", f"repository {plan.repository}: {kind.en}"),
    ]
    for file in plan.parcel.files:
        size = f"{file.nbytes:>15,} B  {file.name}"
        lines.append(Text(size, size))
    count, nbytes = len(plan.parcel.files), f"{plan.parcel.nbytes:,}"
    lines.append(Text(f"{count} 个文件，共 {nbytes} 字节", f"{count} files, {nbytes} bytes"))
    if plan.parcel.left:
        left = ", ".join(plan.parcel.left)
        lines.append(Text(f"不上传：{left.replace(', ', '、')}", f"not sent: {left}"))
    if plan.licence is not None:
        lines.append(plan.licence)
    for file_name, value in plan.parcel.told:
        lines.append(
            Text(f"注意：{file_name} 里写着这台机器的路径 {value}", f"note: {file_name} names {value} of this machine")
        )
    return Text("\n".join(line.zh for line in lines), "\n".join(line.en for line in lines))


def _kind(plan: Plan) -> Text:
    seen = Text("私有", "private") if plan.private else Text("公开，谁都能看到", "public, for everybody to see")
    if plan.there:
        return Text(
            f"{seen.zh}，已存在，同名文件会被替换", f"{seen.en}; it is there, files of the same names are replaced"
        )
    return Text(f"{seen.zh}，新建", f"{seen.en}; it is made now")


def _confirmed(plan: Plan) -> bool:
    """Whether the person types the repository's name. Raises ConfigError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise ConfigError(
            Text("没有上传：请看过上面的内容后加上 --yes。", "Nothing was sent: look at the above, then add --yes."),
            "yes",
        )
    asked = Text(f"确认请输入 {plan.repository}：", f"To confirm, type {plan.repository}: ")
    print(asked.of(cli.language()), end="", file=sys.stderr, flush=True)
    typed = sys.stdin.readline().strip()
    if typed != plan.repository:
        print(Text("没有确认，没有上传。", "Not confirmed; nothing was sent.").of(cli.language()), file=sys.stderr)
    return typed == plan.repository


def run_pull(arguments: argparse.Namespace) -> int:
    """`pull`: fetch, check, keep."""
    from core.workspace import Workspace

    wanted = adapter_id(arguments.adapter)
    if wanted is None:
        raise ModelError(_no_id(arguments.adapter))
    workspace = Workspace(arguments.home)
    try:
        return _pulled(workspace.pulls, wanted, arguments)
    finally:
        workspace.close(20)


def _pulled(pulls: Pulls, wanted: AdapterId, arguments: argparse.Namespace) -> int:
    label = pulls.hub_of(wanted).label
    _say(Text(f"从 {label.zh} 取 {wanted.id}", f"fetching {wanted.id} from {label.en}"))
    quiet = saying(label, _say)
    with export_command.interruptible() as stop:
        pulls.start(wanted, arguments.name)
        while not pulls.wait(0.2):
            quiet(pulls.silent_seconds)
            if stop.is_set():
                pulls.stop()
    ended = pulls.ended
    if ended is None or (ended.found is None and ended.problem is None):
        _say(_STOPPED_PULL)
        return 1
    if ended.found is None:
        raise ModelError(ended.problem or _STOPPED_PULL)
    choice = ended.found
    value = {"id": choice.id, "folder": str(choice.folder), "base_model": choice.base_model}
    print(json.dumps(value, ensure_ascii=False) if arguments.json else choice.folder)
    return 0


def _no_id(typed: str) -> Text:
    return Text(
        f"“{typed[:120]}”不是适配器 ID。应像 hf::组织/名称 或 ms::组织/名称 这样。",
        f"“{typed[:120]}” is no adapter's id. It looks like hf::owner/name or ms::owner/name.",
    )


def _say(text: Text) -> None:
    print(text.of(cli.language()), file=sys.stderr, flush=True)


def _progress() -> Progress:
    """What tells the terminal, now and then, how far it is and how fast."""
    meter, last = Meter(), 0.0

    def told(name: str, done: int, total: int) -> None:
        nonlocal last
        meter(name, done, total)
        now = meter.now
        if now is not None and time.monotonic() - last > _EVERY:
            last = time.monotonic()
            line = transferred(now)
            _say(Text(line, line))

    return told


def transferred(now: Transfer) -> str:
    """How far and how fast, as a line that reads the same in both languages."""
    pace = f" · {now.bytes_per_second / 1e6:.1f} MB/s" if now.bytes_per_second else ""
    return f"{now.done / 1e6:.1f} / {now.total / 1e6:.1f} MB{pace}"
