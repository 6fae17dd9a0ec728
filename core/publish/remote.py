"""What a push needs of a hub, whichever it is: who asks, the repository, where bytes go, one commit at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from core.hub import Hub
from core.publish.parcel import Outgoing
from core.publish.wire import Wire


@dataclass(frozen=True)
class Account:
    """Whose token it is. `owners`: in whose names it may write, None where the hub does not say."""

    name: str
    owners: tuple[str, ...] | None


@dataclass(frozen=True)
class Repository:
    """A repository that is there."""

    name: str
    private: bool


@dataclass(frozen=True)
class Large:
    """A file that goes beside the commit, known by its sha256."""

    file: Outgoing
    sha256: str


@dataclass(frozen=True)
class Place:
    """Where the bytes of a large file go: to `url`, or in pieces of `part_bytes` to `parts`, told to `url` afterwards.

    `verify`: who is told that they are there.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    part_bytes: int = 0
    verify: str | None = None


class Remote(Protocol):
    """A hub to which is written. Every method raises ModelError with what the hub said."""

    hub: Hub
    wire: Wire

    def account(self) -> Account:
        """Whose token it is."""

    def find(self, name: str) -> Repository | None:
        """The repository of this name, if the account can see one."""

    def create(self, name: str, private: bool) -> None:
        """Make an empty one. One that is there meanwhile is no error."""

    def large(self, name: str, files: Sequence[Outgoing]) -> frozenset[str]:
        """The names of the files that do not go into the commit itself."""

    def place(self, name: str, large: Large) -> Place | None:
        """Where a file's bytes go; None: the hub has them."""

    def commit(self, name: str, summary: str, small: Sequence[Outgoing], large: Sequence[Large]) -> None:
        """Make all of them the newest revision, at once."""

    def page(self, name: str) -> str:
        """The repository's address for people."""
