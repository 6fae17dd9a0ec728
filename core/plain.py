"""The plain backend: transformers and PEFT as they are, with autograd. The reference; never clever.

It owns no turn and no policy: the engine calls it inside a turn and states adapter and mode each time.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from core import lora_layers, plain_losses
from core.backend import Backend, Route, Slots
from core.batch import PackedBatch
from core.fused.sizes import Way
from core.lora_layers import WeightNorms
from core.neftune import with_noise
from core.text import Text

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

Rows = tuple[torch.Tensor | None, torch.Tensor | None]
"""int64 row indices (n,), or None for all rows; and their strengths float32 (n, 1, 1), or None where all are 1."""
Routing = dict[str, Rows]
"""Adapter -> its rows; rows of no adapter are the base's."""
_START = "_start"  # after an adapter's name: PiSSA's frozen part


class PlainBackend(Backend):
    """One resident model. `model` is the transformers model, in which PEFT has put its layers once one is attached."""

    fast = False

    def __init__(self, model: PreTrainedModel, device: torch.device, autocast: torch.dtype | None) -> None:
        self.model = model
        self.device = device
        self._autocast = autocast
        self._peft: PeftModel | None = None
        self._routing: Routing | None = None
        self._stated: tuple[str, bool] | None = None  # (adapter, recompute) of the last training pass, None in eval
        self._recomputing = False
        self._noise: dict[str, float] = {}
        self.reason: Text | None = None  # why the passes are plain, where the engine has one to give
        self._norms = WeightNorms()
        self._layers: list[Any] | None = None  # PEFT's, found again after a change
        self._settle()

    # -- adapters --

    def add_adapter(self, name: str, config: LoraConfig, seed: int, noise_alpha: float = 0.0) -> None:
        """Put a new adapter, without effect yet, into the model. Raises ValueError for unknown target layers.

        `seed` decides its start; the global random state is left as it was, so that a run in progress does not notice.
        `noise_alpha`: NEFTune's noise on the embeddings, in this adapter's training passes only. With init_lora_weights
        False nothing is made up for it: it has shapes only, until `load_adapter_state` fills it.
        """
        initial = str(config.init_lora_weights)
        principal = initial.startswith("pissa")
        if principal:
            config = copy.copy(config)
            config.init_lora_weights = True  # by PEFT's own hand it would rewrite the base
        cards = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cards):
            torch.manual_seed(seed)
            hollow = config.init_lora_weights is False and not config.use_dora  # DoRA's start reads the values
            with torch.device("meta") if hollow else contextlib.nullcontext():
                self._inject(name, config)
            try:
                if principal:
                    frozen = copy.copy(config)
                    frozen.lora_dropout = 0.0
                    self._inject(name + _START, frozen)
                self._begin(name, initial)
            except BaseException:
                self.delete_adapter(name)
                raise
        if noise_alpha:
            self._noise[name] = noise_alpha
        self._settle()
        self._route_layers()

    def _inject(self, name: str, config: LoraConfig) -> None:
        from peft import PeftModel

        self._layers = None
        if self._peft is None:
            self._peft = PeftModel(self.model, config, adapter_name=name)
            return
        if config.init_lora_weights is False and lora_layers.join(self.model, name, config):
            self._peft.peft_config[name] = config
            return
        try:
            self._peft.add_adapter(name, config)
        except BaseException:
            self._peft.peft_config.pop(name, None)
            raise

    def _begin(self, name: str, initial: str) -> None:
        """Where DoRA's magnitudes and PiSSA's two parts begin."""
        for layer in self._lora_layers(name):
            if name in layer.lora_magnitude_vector:
                lora_layers.set_magnitude(layer, name)
            if initial.startswith("pissa"):
                count = initial.removeprefix("pissa").removeprefix("_niter_")
                lora_layers.set_principal(layer, name, name + _START, int(count) if count else None)

    def delete_adapter(self, name: str) -> None:
        """Take an adapter out; the last one takes PEFT's layers with it, so the model is exactly the base again."""
        if self._peft is None or name not in self._peft.peft_config:
            return
        parts = self._parts(name)
        if set(self._peft.peft_config) == set(parts):
            self._peft.unload()
            if hasattr(self.model, "peft_config"):
                del self.model.peft_config
            self._peft = None
        else:
            for part in parts:
                self._peft.delete_adapter(part)
        self._noise.pop(name, None)
        self._settle()

    def adapter_state(self, name: str) -> tuple[dict[str, torch.Tensor], LoraConfig]:
        """An adapter as it is written to disk: tensors under PEFT's own keys, and its configuration.

        One that began as PiSSA is an ordinary LoRA of twice the rank there: A over A0, B beside -B0.
        """
        config = self._require_peft().peft_config[name]
        tensors = self._tensors(name)
        if self._parts(name) == [name]:
            return tensors, config
        frozen = self._tensors(name + _START)
        whole = {key: torch.cat([tensor, frozen[key]], dim=_rank_side(key)) for key, tensor in tensors.items()}
        config = copy.copy(config)
        factor = math.sqrt(2) if config.use_rslora else 2  # keeps alpha / rank, or alpha / sqrt(rank)
        config.r, config.lora_alpha = 2 * config.r, config.lora_alpha * factor
        return whole, config

    def load_adapter_state(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill an adapter with tensors that were checked against `adapter_state` before; they may become its own."""
        parts = self._parts(name)
        for index, part in enumerate(parts):
            for path, layer in self._lora_paths(part):
                for key in lora_layers.tensors(layer, part):
                    tensor = tensors[_key(path, key)]
                    half = tensor if len(parts) == 1 else tensor.chunk(2, dim=_rank_side(_key(path, key)))[index]
                    lora_layers.fill(layer, part, key, half, self.device)

    def _tensors(self, name: str) -> dict[str, torch.Tensor]:
        """One of PEFT's adapters under PEFT's keys. Its own function asks the hub for the base's configuration."""
        return {
            _key(path, key): tensor.detach()
            for path, layer in self._lora_paths(name)
            for key, tensor in lora_layers.tensors(layer, name).items()
        }

    def _lora_paths(self, name: str) -> list[tuple[str, Any]]:
        """PEFT's layers of adapter `name`, each after its path in the model."""
        wanted = {id(layer) for layer in self._lora_layers(name)}
        return [(path, module) for path, module in self.model.named_modules() if id(module) in wanted]

    def linear_names(self) -> set[str]:
        """Last names of the model's linear layers (`q_proj`, `gate_proj`, ...), whether adapters sit on them or not."""
        found = set()
        for path, module in self.model.named_modules():
            parts = path.split(".")
            if isinstance(module, torch.nn.Linear) and not any(part.startswith("lora_") for part in parts):
                found.add(parts[-2] if parts[-1] == "base_layer" else parts[-1])
        return found

    def all_linear_names(self) -> set[str]:
        """Last names of the layers that `all-linear` covers: all but the output layer, as PEFT has it."""
        head = self.model.get_output_embeddings()
        head = getattr(head, "base_layer", head)
        paths = [path for path, module in self.model.named_modules() if module is head]
        return self.linear_names() - {path.removesuffix(".base_layer").rpartition(".")[2] for path in paths}

    def adapter_parameters(self, name: str) -> list[torch.nn.Parameter]:
        """An adapter's trainable tensors (A, B, DoRA's magnitudes; of PiSSA the half that learns), in the model's order."""
        mark = f".{name}."
        return [p for key, p in self.model.named_parameters() if mark in key and "lora_" in key]

    def is_plain_lora(self, name: str) -> bool:
        """Whether a training pass of this adapter is W x + scaling * B A x and nothing else.

        That is: no DoRA, no dropout, no noise on the embeddings, no frozen part.
        """
        layers = self._lora_layers(name)
        drops = any(isinstance(layer.lora_dropout[name], torch.nn.Dropout) for layer in layers)
        dora = any(name in layer.lora_magnitude_vector for layer in layers)
        return not (drops or dora or name in self._noise or len(self._parts(name)) > 1)

    # -- training --

    def plain_reason(self, adapter: str) -> Text | None:
        """Why this adapter's training passes are not fused; None if they are."""
        return self.reason

    def settle(self, way: Way) -> None:
        """Put the base where `way` wants it: it stays where it is, here."""

    def finish(self, adapter: str) -> None:
        """Give back what training needed besides the adapter itself: nothing, here."""

    def loss_and_grads(
        self, batch: PackedBatch, adapter: str, answer_tokens: int, way: Way, scale: float = 1.0
    ) -> torch.Tensor:
        """Add the gradient of (sum of token losses) / answer_tokens to `adapter`'s parameters; the losses, float32 (2,).

        They are the parts of cross entropy and of the teacher's divergence. `answer_tokens` is the whole optimizer step's
        count, so that parts add up to the step. `scale` multiplies the gradient only (float16 needs it).
        """
        teacher = None if batch.teacher is None else self.logits(batch.teacher)
        self._train_mode(adapter, bool(way))
        losses = self._losses(batch, teacher, self._noise.get(adapter, 0.0)) / answer_tokens
        (losses.sum() * scale).backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    @torch.no_grad()
    def loss(self, batch: PackedBatch, adapter: str | None) -> torch.Tensor:
        """Sum of cross entropies over the batch, float32 (), without dropout, noise and gradient."""
        self._norms.clear()
        with self._answer_mode(self.routing([Route(adapter)])):
            count = batch.targets.shape[0] - batch.taught
            return plain_losses.cross_entropy(self._logits_of(batch)[:count], batch.targets[:count])

    def _losses(self, batch: PackedBatch, teacher: torch.Tensor | None, noise_alpha: float) -> torch.Tensor:
        """Sums of cross entropy and of weighted divergence, (2,). A function of its own: nobody else holds its logits."""
        logits = self._logits_of(batch, noise_alpha)
        if teacher is None:
            loss = plain_losses.cross_entropy(logits, batch.targets)
            return torch.stack([loss, torch.zeros_like(loss)])
        labelled, taught = torch.split(logits, [batch.targets.shape[0] - batch.taught, batch.taught])
        assert batch.weights is not None
        loss = plain_losses.cross_entropy(labelled, batch.targets[: labelled.shape[0]])
        return torch.stack([loss, (batch.weights * plain_losses.divergence(teacher, taught)).sum()])

    def _logits_of(self, batch: PackedBatch, noise_alpha: float = 0.0) -> torch.Tensor:
        """Logits (K, V) at the positions in the loss, float32 (float64 of a float64 base)."""
        with self._precision():
            rows: dict[str, torch.Tensor] = {"input_ids": batch.input_ids}
            if noise_alpha:
                embeddings = self.model.get_input_embeddings()(batch.input_ids)
                rows = {"inputs_embeds": with_noise(embeddings, batch.position_ids, noise_alpha)}
            # The head runs only on positions in the loss: over a 152k vocabulary it is most of the memory otherwise.
            logits = self.model(
                **rows,
                position_ids=batch.position_ids,
                use_cache=False,
                logits_to_keep=batch.predict,
            ).logits[0]
        return plain_losses.exact(logits)

    # -- reading --

    @torch.no_grad()
    def states(self, batch: PackedBatch, adapter: str | None, like: str | None = None) -> torch.Tensor:
        """Last hidden states (K, H) after the final norm at `batch.predict`: what the output layer reads."""
        self._norms.clear()
        with self._answer_mode(self.routing([Route(adapter)])), self._precision():
            found = self.model.base_model(
                input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
            ).last_hidden_state[0]
        return cast(torch.Tensor, found[batch.predict])

    @torch.no_grad()
    def logits(self, states: torch.Tensor, adapter: str | None = None) -> torch.Tensor:
        """Logits (n, V) of hidden states (n, H), by the base's output layer, or the adapter's where it has one."""
        states = states.to(self.device, self.model.get_input_embeddings().weight.dtype)
        token = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        mode, ending = (
            self._answer_mode(self.routing([Route(adapter)])),
            plain_losses.ending_in(self.model.base_model, states),
        )
        with mode, ending, self._precision():
            return plain_losses.exact(self.model(input_ids=token, use_cache=False).logits[0])

    # -- answering --

    def slots(self) -> Slots:
        """A fresh empty set of rows to continue."""
        from core.plain_slots import PlainSlots

        return PlainSlots(self)

    def rest(self) -> None:
        """Give back what answering keeps between answers: nothing but DoRA's norms, here."""
        self._norms.clear()

    def read(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, cache: object, routing: Routing
    ) -> torch.Tensor:
        """Read tokens int64 (B, T) at `positions` into a transformers cache. Logits float32 (B, V) after the last ones.

        mask: int64 (B, all positions so far), 0 where a row has padding; None where none has. Inside inference_mode.
        """
        with self._answer_mode(routing), self._precision():
            logits: torch.Tensor = self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        return logits.float()

    def routing(self, routes: Sequence[Route]) -> Routing:
        """Which rows are whose. A strength of 0 is the base."""
        found: Routing = {}
        chosen = [route.adapter if route.strength else None for route in routes]
        for name in dict.fromkeys(chosen):
            if name is None:
                continue
            rows = [index for index, item in enumerate(chosen) if item == name]
            strengths = [routes[index].strength for index in rows]
            found[name] = (
                None if len(rows) == len(routes) else torch.tensor(rows, device=self.device),
                # Without: 16-bit changes would be rounded once more, and the bits must be those of training's passes.
                None if set(strengths) == {1.0} else torch.tensor(strengths, device=self.device)[:, None, None],
            )
        return found

    def forget_norms(self) -> None:
        """Adapters may have learned on since their norms were taken."""
        self._norms.clear()

    # -- stating what a call needs --

    def _train_mode(self, adapter: str, recompute: bool) -> None:
        """State what a training pass needs, if it is not as stated last: mode, active adapter, what takes gradients."""
        self._norms.clear()
        if self._stated == (adapter, recompute):
            return
        self._require_peft().base_model.set_adapter(self._parts(adapter))
        for key, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in key and f".{adapter}." in key)
        self.model.train()
        if recompute != self._recomputing:
            _set_recompute(self.model, recompute)
        self._recomputing = recompute
        self._stated = (adapter, recompute)

    @contextlib.contextmanager
    def _answer_mode(self, routing: Routing) -> Iterator[None]:
        """State what a pass without gradients needs: eval mode, and each row's adapter.

        Rows are routed one by one and the active adapter is never touched: PEFT's set_adapter and disable_adapter flip
        requires_grad for everybody, which silently froze a run (weights off by 0.14, no error).
        """
        if self._stated is not None:
            self.model.eval()
            self._stated = None
        self._routing = routing
        try:
            yield
        finally:
            self._routing = None

    def _route_layers(self) -> None:
        """Let every LoRA layer answer by row while a routing is set, and by PEFT's own rules (training) otherwise.

        PEFT's adapter_names do the same by hooks a call, which leak on any exception inside it (28 left behind, every
        later call failed), and by index lists that stall the card in each layer (12 instead of 30 tokens a second).
        """
        for layer in self._lora_layers():
            if "forward" not in vars(layer):
                layer.forward = functools.partial(self._forward_layer, layer)

    def _forward_layer(self, layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self._routing is None:
            return cast(torch.Tensor, type(layer).forward(layer, x, *args, **kwargs))
        result: torch.Tensor = layer.base_layer(x, *args, **kwargs)
        for name, (rows, strengths) in self._routing.items():
            if name not in layer.lora_A:
                continue
            part = x if rows is None else x[rows]
            changes = [lora_layers.change(layer, one, part, result, rows, self._norms) for one in self._parts(name)]
            change = sum(changes[1:], changes[0])
            change = (change if strengths is None else change * strengths).to(result.dtype)
            # Rows of the base are not touched at all, hence are the base's to the bit.
            result = result + change if rows is None else result.index_add(0, rows, change)
        return result

    def _parts(self, name: str) -> list[str]:
        """The adapters of PEFT's that make up `name`: itself, and PiSSA's frozen part if there is one."""
        frozen = name + _START
        return [name, frozen] if frozen in self._require_peft().peft_config else [name]

    def _lora_layers(self, name: str | None = None) -> list[Any]:
        """PEFT's LoRA layers, all of them or those that adapter `name` sits on."""
        from peft.tuners.lora import LoraLayer

        if self._layers is None:
            self._layers = [cast(Any, module) for module in self.model.modules() if isinstance(module, LoraLayer)]
        return [layer for layer in self._layers if name is None or name in layer.lora_A]

    def _precision(self) -> torch.autocast:
        enabled = self._autocast is not None
        return torch.autocast(self.device.type, dtype=self._autocast or torch.bfloat16, enabled=enabled)

    def _settle(self) -> None:
        """After PEFT changed layers: eval mode, no gradients, and the next training pass states its needs anew."""
        self.model.eval()
        self.model.requires_grad_(False)
        self._stated = None
        self._layers = None
        self._norms.clear()

    def _require_peft(self) -> PeftModel:
        assert self._peft is not None, "no adapter is attached"
        return self._peft


def _key(path: str, tensor: str) -> str:
    return f"base_model.model.{path}.{tensor}"


def _rank_side(key: str) -> int:
    """The side of a LoRA tensor that counts the rank: rows of A (rank, in), columns of B (out, rank)."""
    return 0 if ".lora_A." in key else 1


def _set_recompute(model: PreTrainedModel, on: bool) -> None:
    """Switch layer recomputation; transformers renamed the methods after 5.17."""
    new = hasattr(model, "activation_checkpointing_enable")
    word = "activation_checkpointing" if new else "gradient_checkpointing"
    if on:
        getattr(model, f"{word}_enable")(**{f"{word}_kwargs": {"use_reentrant": False}})
    else:
        getattr(model, f"{word}_disable")()
