"""A plan carried out in a workspace: the tables that it needs are saved, and the settings name them. Starts no run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core import mix, storage
from core.commands.place import Source
from core.commands.plan import Plan, drawn_rows
from core.config import TrainConfig
from core.dataset import Identity
from core.errors import UserError
from core.text import Text

if TYPE_CHECKING:
    from core.workspace import Workspace

_WHY = Text("粘贴的命令", "pasted command")


@dataclass(frozen=True)
class Applied:
    """What the page is to show: the settings, the table to train, and the tables that were made for it."""

    config: TrainConfig
    table: str
    made: tuple[str, ...]


def apply(plan: Plan, workspace: Workspace) -> Applied:
    """Save the tables that the plan needs and point its settings at them.

    Raises UserError for a plan that trains nothing, or has no rows to train.
    """
    if plan.config is None:
        raise UserError(
            Text("这条命令不训练，没有可以填的设置。", "This command trains nothing; there is nothing to fill in.")
        )
    if plan.table is None or not plan.table.rows:
        raise UserError(
            plan.table.problem
            if plan.table is not None and plan.table.problem is not None
            else Text("还没有要训练的表，请先选一张。", "There is no table to train yet; choose one first.")
        )
    before = set(workspace.datasets())
    table = _saved(plan.table, plan, workspace)
    named = {storage.slug(plan.table.becomes): table}
    config = replace(plan.config, mix=_renamed(plan.config.mix, named))
    if plan.validation is not None:
        config = replace(config, val_dataset=_saved(plan.validation, plan, workspace, card=False))
    return Applied(config, table, tuple(name for name in workspace.datasets() if name not in before))


def _saved(source: Source, plan: Plan, workspace: Workspace, card: bool = True) -> str:
    """The name of the table that a source is, saved where it is not yet. The same rows are not saved twice."""
    assert plan.config is not None
    table = drawn_rows(source, plan.config.seed) if card else drawn_rows(replace(source, count=None), 0)
    identity = plan.identity if card and plan.identity.words else source.identity
    if source.kind == "dataset" and table.rows == tuple(
        r for r in workspace.dataset(source.becomes).rows if not r.is_blank
    ):
        _carry(source.becomes, identity, workspace)
        return source.becomes
    for name in workspace.datasets():
        if name == table.name or name.startswith(f"{table.name}-"):
            there = workspace.dataset(name)
            if there.rows == table.rows and there.identity in (identity, Identity()):
                _carry(name, identity, workspace)
                return name
    return workspace.create(table.name, table.rows, identity, _WHY).name


def _carry(name: str, identity: Identity, workspace: Workspace) -> None:
    """Give a saved table the command's identity card, where that says something else."""
    table = workspace.dataset(name)
    if identity.words and table.identity != identity:
        workspace.save(replace(table, identity=identity), _WHY)


def _renamed(written: str, names: Mapping[str, str]) -> str:
    return mix.written([(names.get(name, name), count) for name, count in mix.parse(written)]) if written else ""
