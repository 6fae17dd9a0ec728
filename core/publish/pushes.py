"""The pushes of one home: one at a time in the background. Knows no page."""

from __future__ import annotations

from pathlib import Path

from core.errand import Ended, Errand
from core.errors import ConfigError
from core.export.make import FACTS
from core.hub import HubName
from core.publish import push
from core.publish.push import Plan, Pushed
from core.text import Text
from core.transfer import Transfer

_BUSY = Text(
    "正在上传另一个。请等它传完，或先取消它。", "Another push is under way. Wait for it to end, or cancel it first."
)


class Pushes:
    """Exports of `folder` on their way to a hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._errand: Errand[Pushed] = Errand("push", _BUSY)
        self.silent_seconds = 0.0
        """How late the hub's answer is; 0 as long as that need not be said."""

    @property
    def name(self) -> str:
        """The export of the last push, or of the one under way."""
        return self._errand.name

    @property
    def active(self) -> bool:
        """Whether one is under way."""
        return self._errand.active

    @property
    def stopping(self) -> bool:
        """Whether it was cancelled and has not ended yet."""
        return self._errand.stopping

    @property
    def now(self) -> Transfer | None:
        """How far it is; None at rest, and while the hub is asked or a file is read."""
        return self._errand.now

    @property
    def ended(self) -> Ended[Pushed] | None:
        """How the last one ended."""
        return self._errand.ended

    def plan(self, export: str, hub: HubName, repository: str, private: bool) -> Plan:
        """What a push of the export of this name would do. Sends nothing. Raises UserError."""
        return push.prepare(self._folder(export), hub, repository, private)

    def start(self, export: str, hub: HubName, repository: str, private: bool, seal: str) -> None:
        """Send what was confirmed; `seal` is that plan's. Raises ConfigError if it is no longer so, or BusyError."""
        plan = self.plan(export, hub, repository, private)
        if plan.seal != seal:
            raise ConfigError(push.CHANGED, "repo")
        self._errand.start(export, lambda stop, told: push.push(plan, stop, told, quiet=self._hear))

    def _hear(self, seconds: float) -> None:
        self.silent_seconds = seconds

    def stop(self) -> None:
        """Give up the push under way."""
        self._errand.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; whether it ended."""
        return self._errand.wait(timeout)

    def _folder(self, export: str) -> Path:
        """The export's folder: one of those that are there, never a path that somebody wrote."""
        listed = self.folder.iterdir() if self.folder.is_dir() else ()
        found = next((path for path in listed if path.name == export and (path / FACTS).is_file()), None)
        if found is None:
            raise ConfigError(
                Text(f"没有名为“{export[:80]}”的导出。", f"There is no export “{export[:80]}”."), "folder"
            )
        return found
