"""The processes of one run over several cards: the first leads, the others compute their share of each step.

accelerate's launcher starts them and torch.distributed carries what they say. Knows no model and no run.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, cast

from core import spread
from core.device import find_device, nvidia_smi
from core.errors import ConfigError, UserError, WontFitError
from core.orders import End
from core.text import Text

if TYPE_CHECKING:
    import torch

# The leader may ask questions for minutes between two steps. A process that dies is noticed at once, whatever this is.
_PATIENCE = timedelta(days=7)
_LOOK_SECONDS = 0.0005  # how often a step under way is looked at
_ALIVE_SECONDS = 1.0  # how often the others are, meanwhile
_FINE, _SHORT, _BROKEN = 0, 1, 2
_ELSEWHERE_SHORT = Text(
    "另一张卡的显存不够。请调低“最大长度”或每步的行数，或改用 QLoRA（基座量化 = bnb）；已训练的步存在检查点里。",
    "Another card ran out of memory. Lower Maximum length or the rows per step, or use QLoRA (quantisation = bnb); the "
    "steps until then have a checkpoint.",
)


class RankLostError(UserError):
    """A process of the run is gone, or failed: the step under way cannot be completed."""

    cause = "rank"


class ShortTogetherError(WontFitError):
    """Memory ran out on one of the cards, every process knows it, and nothing was summed: all may try again."""


@dataclass(frozen=True)
class _Answer:
    """What a process answers to an order: a value, or what kept it from carrying the order out."""

    value: object = None
    problem: tuple[Text, int, int] | None = None  # the sizes are those of a WontFitError, -1 for any other

    @classmethod
    def of(cls, error: UserError) -> _Answer:
        sizes = (error.needed_bytes, error.free_bytes) if isinstance(error, WontFitError) else (-1, -1)
        return cls(problem=(error.text, *sizes))


class Ranks:
    """This process as number `rank` of `size`, the first of which leads. Alone, nothing is sent and nothing waits."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.spread_out = False
        """Whether the base is spread over the cards: then every pass is every card's, see core.spread."""
        self._processes: list[tuple[str, int]] = []  # machine and process id of each
        self._gone = False

    @property
    def leads(self) -> bool:
        """Whether this is the one that decides, tells events and writes files."""
        return self.rank == 0

    # -- orders --

    def tell(self, order: object) -> None:
        """Leader: say to all others what to do next."""
        if self.size > 1:
            import torch.distributed as dist

            with self._together_or_lost():
                dist.broadcast_object_list([order], src=0, device=_host())

    def hear(self) -> object:
        """Others: wait for the leader's next order."""
        import torch.distributed as dist

        heard: list[object] = [None]
        with self._together_or_lost():
            dist.broadcast_object_list(heard, src=0, device=_host())
        return heard[0]

    @contextlib.contextmanager
    def everywhere(self, order: object) -> Iterator[list[object]]:
        """Leader: tell `order`, do one's own part in the block, and wait for the others' answers, which the list then holds.

        Raises what went wrong here, else the first of what went wrong elsewhere.
        """
        values: list[object] = []
        if self.size == 1:
            yield values
            return
        self.tell(order)
        try:
            yield values
        except BaseException:
            with contextlib.suppress(RankLostError):
                self._answers(_Answer())
            raise
        for rank, answer in enumerate(self._answers(_Answer())[1:], 1):
            if answer.problem is not None:
                raise _elsewhere(rank, *answer.problem)
            values.append(answer.value)

    def answer(self, value: object = None, problem: UserError | None = None) -> None:
        """Others: answer an order that was told by `everywhere`."""
        self._answers(_Answer(value) if problem is None else _Answer.of(problem))

    def _answers(self, mine: _Answer) -> list[_Answer]:
        import torch.distributed as dist

        found: list[_Answer | None] = [None] * self.size
        with self._together_or_lost():
            dist.all_gather_object(found, mine)
        return cast("list[_Answer]", found)

    # -- a step --

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around work that can fail on one card alone: either nobody's failed after it, or it raises everywhere.

        Raises ShortTogetherError where memory ran out, here or elsewhere; the others' weights and gradients are as here.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except WontFitError as error:
            self._worst(_SHORT)
            raise ShortTogetherError(error.text, error.needed_bytes, error.free_bytes) from None
        except BaseException:
            with contextlib.suppress(RankLostError):
                self._worst(_BROKEN)
            raise
        worst = self._worst(_FINE)
        if worst == _SHORT:
            raise ShortTogetherError(_ELSEWHERE_SHORT, 0, 0)
        if worst == _BROKEN:
            raise self._lost()

    def _worst(self, mine: int) -> int:
        """The worst of how it went, by all. On the host: no card is waited for."""
        import torch
        import torch.distributed as dist

        found = torch.tensor([mine])
        with self._together_or_lost():
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)

    def sum(self, *tensors: torch.Tensor) -> None:
        """Replace each tensor by its sum over all processes, bit for bit the same everywhere."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with self._together_or_lost():
            for tensor in tensors:
                dist.all_reduce(tensor)

    def wait(self, event: torch.cuda.Event) -> None:
        """Wait for what was launched until `event`. Raises RankLostError if that can come no more."""
        if self.size == 1:
            event.synchronize()
            return
        looked = time.monotonic()
        while not event.query():  # type: ignore[no-untyped-call]
            time.sleep(_LOOK_SECONDS)
            if time.monotonic() - looked > _ALIVE_SECONDS:
                if self._dead():
                    raise self._lost()
                looked = time.monotonic()

    # -- beginning and end --

    def meet(self) -> None:
        """Learn who the others are, and let the libraries take what memory they need of the card."""
        import torch
        import torch.distributed as dist

        found: list[tuple[str, int] | None] = [None] * self.size
        with self._together_or_lost():
            dist.all_gather_object(found, (socket.gethostname(), os.getpid()))
            if torch.cuda.is_available():
                dist.all_reduce(torch.zeros(1, device="cuda"))
                torch.cuda.synchronize()
        self._processes = cast("list[tuple[str, int]]", found)

    def check(self) -> None:
        """Raise RankLostError if a process of this machine has ended."""
        if self._dead():
            raise self._lost()

    def leave(self) -> None:
        """Say nothing more to the others."""
        if self.size > 1 and not self._gone:
            import torch.distributed as dist

            self._gone = True
            with contextlib.suppress(RuntimeError, ValueError):
                dist.destroy_process_group()

    def abandon(self) -> None:
        """The same, when something went wrong: what waits on the card for the others is broken off."""
        if self.size > 1 and not self._gone:
            import torch.distributed as dist

            self._gone = True
            with contextlib.suppress(RuntimeError, ValueError, AttributeError):
                dist.group.WORLD.abort()  # type: ignore[union-attr]

    @contextlib.contextmanager
    def _together_or_lost(self) -> Iterator[None]:
        """Name what torch.distributed raises when somebody is gone."""
        if self._gone:
            raise self._lost()
        try:
            yield
        except (RuntimeError, ValueError, OSError) as error:
            raise self._lost() from error

    def _dead(self) -> list[int]:
        """The ranks of this machine whose processes have ended."""
        import psutil

        machine, dead = socket.gethostname(), []
        for rank, (where, process) in enumerate(self._processes):
            if where != machine or rank == self.rank:
                continue
            try:
                if psutil.Process(process).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    dead.append(rank)
            except psutil.NoSuchProcess:
                dead.append(rank)
        return dead

    def _lost(self) -> RankLostError:
        """The error that says so; nothing waits for the others any more."""
        self.abandon()
        ranks = self._dead()
        which = Text("、".join(str(rank) for rank in ranks), ", ".join(str(rank) for rank in ranks))
        return RankLostError(
            Text(
                zh=f"多卡训练中有一个进程意外结束{f'（rank {which.zh}）' if ranks else ''}，训练已停止。它最后的输出在启动它的终端里，"
                "从网页启动的在训练文件夹的 cards.log 里。请从最近的检查点继续，或改用一张卡。",
                en=f"A process of the run over several cards ended unexpectedly{f' (rank {which.en})' if ranks else ''}, and "
                "training stopped. Its last words are in the terminal that started it, or in cards.log in the run's folder. "
                "Resume from the newest checkpoint, or use one card.",
            )
        )


ALONE = Ranks()


def asked() -> int:
    """How many processes the launcher has started in all; 1 without one."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdigit() else 1


def refuse() -> int:
    """What any command but `train` does where the launcher has started several processes. Raises ConfigError, always."""
    raise ConfigError(
        Text(
            "环境变量 WORLD_SIZE 大于 1：用 accelerate launch 启动的只能是 app.py train。页面和其他命令请直接用 python app.py 运行；"
            "没有用启动器的，请先 unset WORLD_SIZE。",
            "WORLD_SIZE is above 1 in the environment: accelerate launch can start nothing but app.py train. Run the page and "
            "the other commands with python app.py; if no launcher was used, unset WORLD_SIZE first.",
        ),
        "WORLD_SIZE",
    )


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that the launcher has started, on its own card; alone where there was no launcher.

    Before torch is loaded. When the leader's block ends, the others are told. Raises ConfigError where there are fewer
    cards than processes, RankLostError if the others cannot be reached.
    """
    if asked() < 2:
        yield Ranks()
        return
    ranks = _join(asked())
    try:
        yield ranks
    except UserError:
        raise
    except BaseException:
        ranks.abandon()
        raise
    finally:
        if ranks.leads:
            with contextlib.suppress(RankLostError):
                ranks.tell(End())
        ranks.leave()


def _join(size: int) -> Ranks:
    _keep_to_own_card(int(os.environ.get("LOCAL_RANK", "0")))
    cards = find_device().kind == "cuda"
    import torch.distributed as dist

    ranks = Ranks(int(os.environ.get("RANK", "0")), size)
    ranks.spread_out = spread.asked()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cards else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise RankLostError(
            Text(
                zh=f"各张卡的进程连不上（{error}）。请检查 accelerate launch 给出的地址和端口，以及机器之间的防火墙。",
                en=f"The cards' processes cannot reach each other ({error}). Check the address and port given to accelerate "
                "launch, and the firewalls between the machines.",
            )
        ) from error
    ranks.meet()
    return ranks


def _keep_to_own_card(number: int) -> None:
    """Show this process the card of its number only, so that it is the first one there is."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(len(nvidia_smi("name")))] if visible is None else visible.split(",")
    if not names or names[0].strip() in ("", "-1"):
        return  # on processors every process may have all cores
    if number >= len(names):
        raise ConfigError(
            Text(
                zh=f"启动了至少 {number + 1} 个进程，但只看得到 {len(names)} 张卡。请把 --num_processes 设为不超过 {len(names)}。",
                en=f"At least {number + 1} processes were started, but only {len(names)} cards are visible. Set "
                f"--num_processes to {len(names)} at most.",
            ),
            "num_processes",
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = names[number].strip()


def _elsewhere(rank: int, said: Text, needed: int, free: int) -> UserError:
    """A problem of another process, as this one's."""
    text = Text(f"rank {rank} 的卡：{said.zh}", f"Card of rank {rank}: {said.en}")
    return UserError(text) if needed < 0 else WontFitError(text, needed, free)


def _host() -> torch.device:
    import torch

    return torch.device("cpu")
