"""The card, lent to vLLM: our base is given back first, and nothing here takes the card while vLLM has it.

Whatever uses the model does so inside `using`; lending begins by letting nobody in any more.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core import device, models, vllm
from core.errors import BusyError, ModelError
from core.served import BASE, base_model
from core.text import Text
from core.vllm_server import VllmServer

if TYPE_CHECKING:
    from core.engine import Engine
    from core.library import AdapterChoice, Library

LENT = Text(
    "vLLM 正在使用这张卡。请先在导出窗口的“在别处运行”里停止它。",
    "vLLM has the card. Stop it first, under “Serve elsewhere” in the export dialog.",
)
_IN_USE = Text(
    "模型正在使用中：回答、逐行结果或改写。请等它做完，或先停止它。",
    "The model is in use: for an answer, the results of each row, or rewording. Wait for it to end, or stop it first.",
)
_PATIENCE_SECONDS = 5.0  # for whoever uses the model to end: an answer is read to its end before it lets go
# vLLM's own share of a card, and what it and the desktop need beside it.
_SHARE = 0.92
_SPARE_BYTES = 300_000_000


class Lending:
    """`occupied` says what else needs the card now: a run, a proof, an export; None if nothing does.

    `call`, `adapter` (an id) and `key` ("" for none): what `server` was last started with.
    """

    def __init__(self, engine: Engine, library: Library, occupied: Callable[[], Text | None]) -> None:
        self.server = VllmServer()
        self.call: vllm.Call | None = None
        self.adapter = self.key = ""
        self._engine, self._library, self._occupied = engine, library, occupied
        self._changed = threading.Condition()
        self._users = 0
        self._lending = False
        self._patience = _PATIENCE_SECONDS

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """While the block runs the card stays here. Raises BusyError while vLLM has it, or is about to."""
        with self._changed:
            if self._lending or self.server.running:
                raise BusyError(LENT)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def _given(self) -> Iterator[None]:
        """Nobody uses the model, and nobody begins to while the block runs. Raises BusyError if it stays in use."""
        with self._changed:
            why = LENT if self._lending or self.server.running else self._occupied()
            if why is not None:
                raise BusyError(why)
            self._lending = True
        try:
            until = time.monotonic() + self._patience
            with self._changed:
                while (self._users or self._engine.busy) and time.monotonic() < until:
                    self._changed.wait(0.05)  # the engine tells nobody when its turn ends
                in_use = self._users or self._engine.busy
            # A start that was under way has a run by now.
            why = self._occupied() or (_IN_USE if in_use else None)
            if why is not None:
                raise BusyError(why)
            yield
        finally:
            with self._changed:
                self._lending = False

    def companions(self, choice: AdapterChoice, model: str) -> list[AdapterChoice]:
        """The other adapters of the same base that vLLM can take: final and imported ones, not checkpoints."""
        return [
            other
            for other in self._library.all()
            if other.id != choice.id
            and other.source != "checkpoint"
            and other.folder is not None
            and other.body is not None
            and vllm.problem(other.body) is None
            and self._library.misfit(other, models.inspect(model).folder) is None
        ]

    def start(
        self,
        adapter: str,
        model: str,
        port: int,
        companions: bool = False,
        keys: Sequence[str] = (),
        max_model_len: int = 0,
    ) -> None:
        """Serve an adapter on its base, with its `companions` if asked for; our base is given back first.

        `model`: the base of an imported adapter; a run knows its own. `keys`: what programs must bring, one at most.
        `max_model_len`: tokens of a conversation, 0 for the model's own limit.
        Raises ModelError for what vLLM cannot take, BusyError while the card is needed here, UserError without a vLLM.
        """
        program, choice = vllm.found_or_refused(), self._library.get(adapter)
        model = choice.run.config.model if choice.run is not None else model
        chosen = [choice, *(self.companions(choice, model) if companions else ())]
        call = replace(_call(chosen, model, port), max_model_len=max_model_len)
        environment = vllm.environment(keys)
        with self._given():
            self._engine.unload()
            call = vllm.sharing(call, self._share())
            self.server.start([str(program), *call.arguments()], environment, call.host, call.port)
            self.call, self.adapter, self.key = call, choice.id, keys[0] if keys else ""

    def _share(self) -> float | None:
        """What of the card vLLM may take, where less is free than it would take by itself."""
        card = self._engine.device
        if card.kind != "cuda" or not card.memory_total:
            return None
        free = (device.memory_free(card) - _SPARE_BYTES) / card.memory_total
        return None if free >= _SHARE else max(0.05, math.floor(100 * free) / 100)


def _call(chosen: Sequence[AdapterChoice], model: str, port: int) -> vllm.Call:
    base, folders, ranks = models.inspect(model), dict[str, Path](), list[int]()
    names = list(dict.fromkeys((base_model(model).name, BASE)))
    for choice in chosen:
        if choice.folder is None or choice.problem is not None:
            why = choice.problem or Text("它还没有保存。", "it has not been saved yet.")
            raise ModelError(
                Text(f"“{choice.name}”现在不能用：{why.zh}", f"“{choice.name}” cannot be used now: {why.en}")
            )
        ranks.append(vllm.fitted(choice.name, choice.folder, model).rank)
        folders[choice.id if choice.name in names else choice.name] = choice.folder
    first = chosen[0].run
    four_bits = first is not None and first.config.quant_method == "bnb"
    return vllm.Call(
        str(base.folder), names, folders, max(ranks), port=port, quantization=vllm.BNB if four_bits else ""
    )
