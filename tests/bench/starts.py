"""The pocket model under plain PEFT, with a fresh adapter started as a method says: at random, null, CorDA, EVA."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from methods import Method

from core.encode import IGNORE, Example, encoder_for

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).resolve().parents[2] / "presets"
NULL_FLOOR = 0.01  # of the mean eigenvalue, added to the general covariance before it is inverted


@dataclass
class Pocket:
    """The base model."""

    model: Any
    tokenizer: Any
    encoder: Any


def pocket() -> Pocket:
    """A fresh model in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "pocket")
    model = AutoModelForCausalLM.from_pretrained(FOLDER / "pocket", dtype=torch.float32)
    return Pocket(model.eval().requires_grad_(False), tokenizer, encoder_for(tokenizer))


def pad(examples: Sequence[Example], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and labels, int64 (B, T), right-padded."""
    import torch

    longest = max(len(example) for example in examples)
    ids = [[*e.input_ids, *[pad_id] * (longest - len(e))] for e in examples]
    labels = [[*e.labels, *[IGNORE] * (longest - len(e))] for e in examples]
    return torch.tensor(ids), torch.tensor(labels)


def states(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Last hidden states before each label, (K, H), row by row."""
    hidden: torch.Tensor = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    return hidden[labels[:, 1:] != IGNORE]


def null_start(base: Pocket, tuned: Any, rows: Sequence[Example], general: Sequence[Example]) -> None:
    """lora_A := the directions strong on the rows' answers and weak on general ones, at its usual size.

    Generalised eigenvectors of the two covariances of each layer's inputs.
    """
    import torch

    layers = [(name, module) for name, module in tuned.named_modules() if hasattr(module, "lora_A")]
    sums: dict[tuple[str, int], torch.Tensor] = {}
    counts = [0, 0]
    now: list[Any] = [0, None]

    def hook(name: str) -> Callable[..., None]:
        def note(module: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = given[0][now[1]]
            key = (name, now[0])
            sums[key] = sums.get(key, torch.zeros(x.shape[-1], x.shape[-1])) + x.T @ x

        return note

    handles = [module.base_layer.register_forward_hook(hook(name)) for name, module in layers]
    with torch.no_grad():
        for which, examples in enumerate((rows, general)):
            for start in range(0, len(examples), 64):
                ids, labels = pad(examples[start : start + 64], base.tokenizer.pad_token_id)
                read = torch.zeros_like(ids, dtype=torch.bool)
                read[:, :-1] = labels[:, 1:] != IGNORE
                now[0], now[1] = which, read
                counts[which] += int(read.sum())
                tuned.get_base_model().model(input_ids=ids, use_cache=False)
        for handle in handles:
            handle.remove()
        for name, module in layers:
            mine, theirs = (sums[name, which] / counts[which] for which in (0, 1))
            size = len(mine)
            floor = NULL_FLOOR * theirs.trace() / size * torch.eye(size)
            lower = torch.linalg.cholesky(theirs + floor)
            inverse = torch.linalg.inv(lower)
            _, vectors = torch.linalg.eigh(inverse @ mine @ inverse.T)
            weight = module.lora_A["default"].weight
            found = (inverse.T @ vectors[:, -weight.shape[0] :]).T
            # Each direction sees the rows as strongly as one of PEFT's random ones would.
            found *= ((mine.trace() / size / 3) / (found @ mine * found).sum(1, keepdim=True)).sqrt()
            weight.copy_(found)


def attach(base: Pocket, method: Method, rows: Sequence[Example], general: Sequence[Example]) -> Any:
    """The base with a fresh adapter, started as the method says."""
    from peft import LoraConfig, get_peft_model

    targets = method.targets if method.targets == "all-linear" else ["gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=method.rank, lora_alpha=32 * method.rank // 8, target_modules=targets, task_type="CAUSAL_LM")
    if method.start.startswith("corda"):
        return _corda(base, config, method.start.removeprefix("corda-"), rows, general)
    if method.start == "eva":
        return _eva(base, config, rows)
    tuned = get_peft_model(base.model, config)
    if method.start == "null":
        null_start(base, tuned, rows, general)
    return tuned


def _corda(base: Pocket, config: Any, kind: str, rows: Sequence[Example], general: Sequence[Example]) -> Any:
    """PEFT's CorDA: kpm keeps what general text uses and trains the rest, ipm starts where the rows are strong."""
    import torch
    from peft import get_peft_model

    try:
        import attr  # noqa: F401
    except ModuleNotFoundError:  # peft's module takes `dataclass` from it, and its own requirements leave it out
        import dataclasses

        stand_in = types.ModuleType("attr")
        stand_in.dataclass = dataclasses.dataclass  # type: ignore[attr-defined]
        sys.modules["attr"] = stand_in
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    config.init_lora_weights, config.corda_config = "corda", CordaConfig(corda_method=kind)
    # All the linear layers by name: preprocess_corda looks for them before peft resolves all-linear.
    config.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    seen = general if kind == "kpm" else rows

    def read() -> None:
        with torch.no_grad():
            for example in seen:
                base.model.model(input_ids=torch.tensor([example.input_ids]), use_cache=False)

    preprocess_corda(base.model, config, run_model=read)
    return get_peft_model(base.model, config)


def _eva(base: Pocket, config: Any, rows: Sequence[Example]) -> Any:
    """PEFT's EVA: lora_A are the main directions of the layer's inputs on the rows."""
    from peft import EvaConfig, get_peft_model, initialize_lora_eva_weights

    config.init_lora_weights, config.eva_config = "eva", EvaConfig(rho=1.0)
    tuned = get_peft_model(base.model, config, low_cpu_mem_usage=True)
    batches = []
    for start in range(0, len(rows) - 7, 8):
        ids, labels = pad(rows[start : start + 8], base.tokenizer.pad_token_id)
        batches.append(
            {"input_ids": ids, "attention_mask": (ids != base.tokenizer.pad_token_id).long(), "labels": labels}
        )
    initialize_lora_eva_weights(tuned, batches, show_progress_bar=False)
    return tuned
