"""A base larger than one card, spread over the cards of a run: each keeps a part of every weight (torch's FSDP2).

A layer's parts are brought together just before it computes and dropped after it, on all cards at the same time: whatever
runs the model has to run on all of them. Only steps and evaluation losses do; nothing is asked of such a base.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from core.config import TrainConfig, fact_of
from core.errors import ConfigError
from core.text import Text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from core.models import ModelInfo

REASON = Text(
    zh="基座分摊在几张卡上（FSDP），训练途中不提问",
    en="the base is spread over several cards (FSDP), and no questions are asked on the way",
)
# What would have to ask the base, or to read its weights whole.
_WITHOUT = {
    "rehearsal": ("off",),
    "stop_when_taken": ("false",),
    "use_dora": ("false",),
    "init_weights": ("true", "gaussian"),
    "neftune_noise_alpha": (0.0,),
}


def asked() -> bool:
    """Whether the launcher was told to spread the base (accelerate launch --use_fsdp)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def check(config: TrainConfig) -> None:
    """Raise ConfigError for the first setting that a spread base cannot follow."""
    for name, allowed in _WITHOUT.items():
        value = getattr(config, name)
        if value not in allowed:
            label = fact_of(name).label
            raise ConfigError(
                Text(
                    zh=f"基座分摊在几张卡上（--use_fsdp）时不能用“{label.zh}”（{name} = {value}）。请设置 --{name} {allowed[0]}。",
                    en=f"{label.en} ({name} = {value}) does not go with a base spread over several cards (--use_fsdp). Set "
                    f"--{name} {allowed[0]}.",
                ),
                name,
            )


def over_cards(model: PreTrainedModel, where: torch.device) -> None:
    """Move `model`, which lies in the host's memory whole, to all cards of the run, a part of each weight to each.

    Layer by layer, so that no card ever holds more than its part and one layer.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(where.type, (dist.get_world_size(),))
    model.requires_grad_(False)
    if getattr(model, "is_loaded_in_4bit", False):
        from core.spread_nf4 import unwrap

        unwrap(model, where)
    layers = set(model._no_split_modules or ())
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def saved_bytes(info: ModelInfo, base_bytes: int, cards: int, width: int) -> int:
    """How much less than the whole base of `base_bytes` a card holds, at the moment when it holds most of it.

    That is its part, the embeddings (`width` bytes a number) and two layers whole: one computes while the next is brought
    together. A 7B in 4 bits saves next to nothing on two cards: its embeddings are 40 % of it.
    """
    embeddings = info.embedding_parameters * width
    whole = embeddings + 2 * (base_bytes - embeddings) / info.layers
    return max(0, int(base_bytes - base_bytes / cards - whole))
