"""Which models the fused pass can do, and where their parts are. One table; anything else goes the plain way, with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from core.fused.sizes import FAMILIES, HEAD_NORM, Shape
from core.text import Text

ATTENTION = ("q_proj", "k_proj", "v_proj")
MLP = ("gate_proj", "up_proj")
_ROPE_BY_LENGTH = ("dynamic", "longrope")  # cosines that depend on the longest row in the batch


@dataclass(frozen=True)
class Block:
    """One decoder block's modules. Linear layers may sit inside a PEFT layer."""

    attention: Any
    mlp: Any
    norm1: Any
    norm2: Any


def blocks(model: nn.Module) -> list[Block]:
    """The decoder's blocks, first to last."""
    layers: Any = model.get_submodule("model.layers")
    return [Block(x.self_attn, x.mlp, x.input_layernorm, x.post_attention_layernorm) for x in layers]


def members(block: Block) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """The block's linear modules by group: q/k/v, output, gate/up, down."""
    return (
        [getattr(block.attention, name) for name in ATTENTION],
        [block.attention.o_proj],
        [getattr(block.mlp, name) for name in MLP],
        [block.mlp.down_proj],
    )


def head_norms(block: Block) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Weights of the norms over q's and k's heads; None in families without."""
    if not hasattr(block.attention, "q_norm"):
        return None
    return block.attention.q_norm.weight, block.attention.k_norm.weight


def base(module: Any) -> nn.Linear:
    """The linear layer itself, whether or not PEFT has wrapped it."""
    found: nn.Linear = getattr(module, "base_layer", module)
    return found


def shape_of(model: nn.Module) -> Shape:
    """The decoder's sizes, from its configuration."""
    config: Any = model.config
    heads = config.num_attention_heads
    return Shape(
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        mlp=config.intermediate_size,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        head_norm=config.model_type in HEAD_NORM,
    )


def refusal(model: nn.Module) -> Text | None:
    """Why this model takes the plain way; None if the fused pass can do it."""
    config: Any = model.config
    kind = config.model_type
    if kind not in FAMILIES:
        return Text(
            zh=f"快速路径还不支持 {kind} 结构（支持 {'、'.join(FAMILIES)}）",
            en=f"the fast path does not know the {kind} architecture yet (it knows {', '.join(FAMILIES)})",
        )
    if config.hidden_act != "silu":
        return Text(
            zh=f"激活函数是 {config.hidden_act}，不是 silu", en=f"its activation is {config.hidden_act}, not silu"
        )
    head_dim = shape_of(model).head_dim
    if head_dim % 8 or head_dim > 256:
        return Text(zh=f"每个头的宽度是 {head_dim}", en=f"its heads are {head_dim} wide")
    if getattr(config, "attention_dropout", 0.0):
        return Text(zh="模型在注意力里用 dropout", en="the model uses dropout in its attention")
    if _slides(config):
        return Text(zh="模型使用滑动窗口注意力", en="the model attends through a sliding window")
    rope: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type", "default")) in _ROPE_BY_LENGTH:
        return Text(zh="位置编码随长度变化", en="its position encoding depends on the length")
    return _module_refusal(model)


def _slides(config: Any) -> bool:
    types = getattr(config, "layer_types", None)
    if types:
        return any(kind != "full_attention" for kind in types)
    return bool(getattr(config, "sliding_window", None)) and bool(getattr(config, "use_sliding_window", True))


def _module_refusal(model: nn.Module) -> Text | None:
    """Layers that are not the plain Linear (or NF4 Linear4bit) the pass multiplies by."""
    for block in blocks(model):
        for module, names in ((block.attention, (*ATTENTION, "o_proj")), (block.mlp, (*MLP, "down_proj"))):
            for name in names:
                linear = base(getattr(module, name))
                if not _known(linear):
                    return Text(
                        zh=f"{name} 是 {type(linear).__name__}，不是普通线性层",
                        en=f"{name} is a {type(linear).__name__}, not a plain linear layer",
                    )
                if linear.bias is not None and name not in ATTENTION:
                    return Text(zh=f"{name} 带偏置", en=f"{name} has a bias")
    return None


def is_nf4(linear: nn.Linear) -> bool:
    """Whether the layer keeps its weight as NF4."""
    state: Any = getattr(linear.weight, "quant_state", None)
    return state is not None


def _known(linear: nn.Linear) -> bool:
    if not is_nf4(linear):
        return type(linear) is nn.Linear
    weight: Any = linear.weight
    state = weight.quant_state
    whole = linear.in_features % 64 == 0
    return (
        state.quant_type == "nf4" and state.blocksize == 64 and whole and state.dtype in (torch.bfloat16, torch.float16)
    )
