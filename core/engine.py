"""The waist: sole owner of the resident model and of the device. Loads it once, lends it by turns, keeps its adapters.

Every other module reaches the model through `turn()` and the backend inside it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core import adapters, lora, models, seal, spread, storage
from core.backends import backend_for, card_refusal
from core.config import TrainConfig
from core.desk import Desk
from core.device import Device, find_device
from core.device_errors import LOST, device_errors, is_lost, no_cuda
from core.encode import Encoder, encoder_for
from core.errors import BusyError, DeviceLostError, ModelError, UserError
from core.models import ModelInfo, Progress
from core.seal import Checked, Seal
from core.text import Text
from core.transfer import Meter
from core.turn import TurnLock

if TYPE_CHECKING:
    import torch

    from core.backend import Backend

State = Literal["absent", "loading", "ready", "failed"]


@dataclass(frozen=True)
class Resident:
    """What is loaded: a base model in one precision, ready to work."""

    info: ModelInfo
    quant_method: str
    dtype: str
    encoder: Encoder
    pad_id: int
    backend: Backend


class Engine:
    """One base model at a time. `load` and everything that changes layers happen inside a turn."""

    def __init__(self, device: Device | None = None, spread_out: bool = False) -> None:
        """`spread_out`: bases are spread over the cards of a run, see core.spread."""
        self.device, self.spread_out = device or find_device(), spread_out
        self.state: State = "absent"
        self.loading = Meter()
        self._resident: Resident | None = None
        self._seal: Seal | None = None
        self.checked = Checked()
        self.lost: Text | None = None
        """Why nothing can be computed any more in this process: the card is gone."""
        self._lock = TurnLock()
        self._attached: dict[str, str] = {}  # adapter -> its name inside PEFT, which allows no dots and no layer names
        self._made = itertools.count()
        self._holder: str | None = None
        self.desk = Desk(self)

    # -- turns --

    @contextlib.contextmanager
    def turn(self) -> Iterator[Resident]:
        """The model, to oneself, for the length of the block. Not reentrant.

        Raises ModelError if none is loaded, DeviceLostError if the card is gone, or goes meanwhile.
        """
        with self._lock():
            self.check_card()
            if self._resident is None:
                raise ModelError(Text(zh="还没有载入模型。", en="No model is loaded yet."))
            with self._watched():
                yield self._resident

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Name the loss of the card, and remember it."""
        try:
            yield
        except (DeviceLostError, RuntimeError) as error:
            if not isinstance(error, DeviceLostError) and not is_lost(error):
                raise
            raise self.lose() from None

    def lose(self) -> DeviceLostError:
        """From now on the card is gone; the error that says so."""
        self.lost = LOST
        return DeviceLostError(LOST)

    def check_card(self) -> None:
        """Raise DeviceLostError if the card is gone."""
        if self.lost is not None:
            raise self.lose()

    @property
    def busy(self) -> bool:
        """Whether somebody holds the model now."""
        return self._lock.busy

    @property
    def kept(self) -> bool:
        """Whether somebody keeps the model, so that it cannot be exchanged now: a run."""
        return self._holder is not None

    @property
    def resident(self) -> Resident | None:
        """What is loaded, to look at; use it only inside a turn."""
        return self._resident

    # -- the base model --

    @contextlib.contextmanager
    def held(self, holder: str) -> Iterator[None]:
        """While the block runs, nobody but `holder` can exchange the model: a run's base stays the run's.

        However the block ends, the base is verified after it.
        """
        with self._lock():
            self._holder = holder
        try:
            with self._watched():
                yield
        finally:
            self._holder = None
            with contextlib.suppress(UserError):  # a base that cannot be loaded again says so when it is asked for
                self.verify()

    def load(
        self,
        name: str,
        quant_method: str = "none",
        torch_dtype: str = "auto",
        progress: Progress | None = None,
        holder: str | None = None,
    ) -> None:
        """Make `name` the resident model; nothing happens if it already is. The one before is freed first.

        Raises BusyError if somebody else holds another model, WontFitError if memory runs out, and what `progress` raises:
        nothing is loaded then.
        """
        info = models.inspect(name)
        dtype = self._dtype(torch_dtype)

        def told(what: str, done: int, total: int) -> None:
            self.loading(what, done, total)
            if progress is not None:
                progress(what, done, total)

        with self._lock():
            self.check_card()
            if self._has(info, quant_method, dtype):
                return
            if self._holder not in (None, holder):
                raise BusyError(
                    Text(
                        zh="正在训练，不能换模型。请等它结束，或先按停止。",
                        en="A run is using the model. Wait for it to end, or press Stop first.",
                    )
                )
            self._free()
            self._put(info, quant_method, dtype, told)
            self.checked = Checked.now("verified")

    def _put(self, info: ModelInfo, quant_method: str, dtype: str, told: Progress) -> None:
        """Load where nothing is loaded, and seal it."""
        self.state = "loading"
        try:
            with self._watched(), device_errors("load", self._needed(info, quant_method, dtype)):
                self._resident = _load(info, quant_method, dtype, self.device, told, self.spread_out)
                if not self.spread_out:  # it is asked nothing, and other cards would have to answer as well
                    self._seal = seal.take(self._resident)
                    seal.check_finite(self._seal, self._resident)
            self.state = "ready"
        except BaseException as error:
            self.state = "absent" if isinstance(error, models.Stopped) else "failed"
            _forget_frames(error)
            self._free()
            raise
        finally:
            self.loading.rest()

    def _needed(self, info: ModelInfo, quant_method: str, dtype: str) -> int:
        from core.estimate import resident_bytes

        return resident_bytes(info, TrainConfig(info.name, quant_method=quant_method, torch_dtype=dtype), self.device)

    def verify(self) -> None:
        """Compare the base with its seal; `checked` says what came of it. A base that has changed is loaded anew.

        While somebody holds it that waits for their end. Raises ModelError if it cannot be loaded again.
        """
        with self._lock():
            if self._seal is None or self.lost is not None:
                return
            self.checked = Checked.now(self._compared())
            if self.checked.state == "changed" and self._holder is None:
                info, quant_method, dtype = self._what()
                self._free()
                self._put(info, quant_method, dtype, self.loading)
                self.checked = Checked.now("reloaded")

    def _compared(self) -> seal.State:
        assert self._resident is not None and self._seal is not None
        try:
            with self._watched(), device_errors():
                return "verified" if seal.intact(self._seal, self._resident) else "changed"
        except (UserError, RuntimeError):  # no memory for it now, or a card that is lost: the next answer will say so
            return "unknown"

    def _what(self) -> tuple[ModelInfo, str, str]:
        """What is loaded, by values: see `_has`."""
        assert self._resident is not None
        return self._resident.info, self._resident.quant_method, self._resident.dtype

    def _has(self, info: ModelInfo, quant_method: str, dtype: str) -> bool:
        """Whether this is what is loaded. A function of its own: no name may hold the old model while it is freed."""
        now = self._resident
        return now is not None and (now.info.folder, now.quant_method, now.dtype) == (info.folder, quant_method, dtype)

    def unload(self) -> None:
        """Free the model and its memory."""
        with self._lock():
            self._free()
            self.state = "absent"

    def _free(self) -> None:
        self.desk.forget()
        self._resident = self._seal = None
        self.checked = Checked()
        self._attached.clear()
        gc.collect()
        if self.device.kind == "cuda" and self.lost is None:
            import torch

            torch.cuda.empty_cache()

    def _dtype(self, asked: str) -> str:
        if asked != "auto":
            return asked
        return "bfloat16" if self.device.kind == "cuda" else "float32"

    # -- adapters --

    @property
    def attached(self) -> tuple[str, ...]:
        """Names of the adapters that the resident model answers to."""
        return tuple(self._attached)

    def create_adapter(self, name: str, config: TrainConfig) -> None:
        """The adapter that a run trains, by its settings: a fresh one, or one that goes on from `config.adapters`.

        It takes the place of one of the same name: a stopped run may have been talked to since.
        """
        with self.turn() as resident:
            if name in self._attached:
                resident.backend.delete_adapter(self._attached.pop(name))
            handle = self._new_handle()
            lora.put(resident.backend, handle, config, resident.info)
            self._attached[name] = handle

    def attach(self, adapter: adapters.Adapter) -> None:
        """Make the resident model answer to `adapter.name`; nothing happens if it does. A refused one leaves no trace.

        The base is verified after it; raises ModelError if it has changed.
        """
        with self.turn() as resident:
            if adapter.name in self._attached:
                return
            config = adapters.lora_config(adapter)
            config.inference_mode = True
            handle = self._new_handle()
            lora.fill(resident.backend, handle, adapter, config, resident.info)
            self._attached[adapter.name] = handle
        del resident  # or the model would stay in memory beside the one that may be loaded in its place
        self.verify()
        if self.checked.state in ("changed", "reloaded"):
            self.detach(adapter.name)
            later = self.checked.state == "changed"  # somebody holds it
            raise ModelError(
                Text(
                    zh=f"挂载适配器 {adapter.name} 时发现基座的回答和载入时不同，没有挂载它。"
                    + (
                        "训练用的正是这个基座：请停止训练，它结束后基座会重新载入。"
                        if later
                        else "基座已重新载入，请再试一次。"
                    ),
                    en=f"While {adapter.name} was attached the base was found to answer otherwise than when it was loaded. The "
                    "adapter was not attached. "
                    + (
                        "The run trains on this very base: stop it, and the base is loaded anew."
                        if later
                        else "The base was loaded anew. Try again."
                    ),
                )
            )

    def detach(self, name: str) -> None:
        """Take an adapter out of the model. Unknown names are fine."""
        with self._lock():
            if self._resident is not None and name in self._attached:
                self._resident.backend.delete_adapter(self._attached.pop(name))

    def save_adapter(self, name: str, folder: Path, card: Mapping[str, object]) -> None:
        """Write an attached adapter to `folder`, whole or not at all."""
        with storage.staged_folder(folder) as staged:
            self.write_adapter(name, staged, card)

    def write_adapter(self, name: str, folder: Path, card: Mapping[str, object]) -> None:
        """Write an attached adapter's files into a folder. The tensors are copied inside a turn, written outside it."""
        with self.turn() as resident:
            tensors, config = resident.backend.adapter_state(self.handle(name))
            host = {key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()}
        adapters.write(folder, host, config, card)

    def handle(self, name: str) -> str:
        """What the backend calls an attached adapter. Raises ModelError if it is not attached."""
        if name not in self._attached:
            raise ModelError(Text(zh=f"适配器 {name} 没有挂载。", en=f"Adapter {name} is not attached."))
        return self._attached[name]

    def _new_handle(self) -> str:
        return f"a{next(self._made)}"


def _load(
    info: ModelInfo, quant_method: str, dtype: str, device: Device, progress: Progress, spread_out: bool
) -> Resident:
    import torch

    from core.fused.sizes import FAMILIES
    from core.load import load_base

    if device.kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(no_cuda(device))
    # cuDNN's attention builds a plan for every new length: 71 ms a token until a length was seen, 23 ms afterwards.
    torch.backends.cuda.enable_cudnn_sdp(False)
    where = torch.device("cuda", 0) if device.kind == "cuda" else torch.device("cpu")
    # Adapters stay in float32; matrix products run in the base's 16-bit type where it has one.
    autocast = getattr(torch, dtype) if where.type == "cuda" and dtype != "float32" else None
    fused = not spread_out and card_refusal(where, autocast) is None and info.family in FAMILIES
    with _beside(_warming(info, quant_method, dtype, where) if fused else None):
        first = torch.device("cpu") if spread_out else where
        base = load_base(info, quant_method, dtype, first, progress, padded=fused)
    if spread_out:
        spread.over_cards(base.model, where)
    if fused and where.type == "cuda":
        # Nobody waits for it: a question that comes sooner compiles what it needs itself.
        threading.Thread(target=_answer_warming(info, quant_method, dtype, where)).start()
    pad = base.tokenizer.pad_token_id
    encoder = encoder_for(base.tokenizer)
    return Resident(
        info=info,
        quant_method=quant_method,
        dtype=dtype,
        encoder=encoder,
        pad_id=pad if isinstance(pad, int) else encoder.stop_ids[0],
        backend=backend_for(base.model, where, autocast, spread_out),
    )


def _warming(info: ModelInfo, quant_method: str, dtype: str, where: torch.device) -> Callable[[], None]:
    """What compiles and loads the kernels of training passes. Imports here, so that two threads do not import at once."""
    import torch

    from core.estimate import shape_of
    from core.fused import kernels, warm

    unpack = kernels.dequantise if quant_method == "bnb" else None
    return lambda: warm.warm(shape_of(info), getattr(torch, dtype), where, kernels, unpack)


def _answer_warming(info: ModelInfo, quant_method: str, dtype: str, where: torch.device) -> Callable[[], None]:
    """What compiles the kernels of answers. Imports here, see `_warming`."""
    import torch

    from core.estimate import shape_of
    from core.fused import answer_warm

    sizes = (shape_of(info), getattr(torch, dtype), where)
    return lambda: answer_warm.warm(*sizes, nf4=quant_method == "bnb", biased=info.family == "qwen2")


@contextlib.contextmanager
def _beside(work: Callable[[], None] | None) -> Iterator[None]:
    """Do `work` in a thread while the block runs, and raise what went wrong in it at the block's end."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work) if work is not None else None
        yield
        if done is not None:
            done.result()


def _forget_frames(error: BaseException | None) -> None:
    """Empty the frames an error came through: they hold what was being loaded, for as long as the error is kept."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
