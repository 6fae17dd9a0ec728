"""Giving an empty model its tensors, its linear layers quantised to NF4 one by one as they come; its embedding last.

The quantising is bitsandbytes' and transformers' own; only the order, and where the embedding lies, are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from core.device import BESIDE_EMBEDDING, has_room
from core.errors import ModelError
from core.models import NO_BITSANDBYTES
from core.shards import Reader, Stored, Weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# 16-bit weights read ahead of the quantiser: one of a 7B's largest, and little on a card of 8 GB.
AHEAD_BYTES = 136 * 2**20


def put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Give an empty model the parameter of that name."""
    owner, _, last = name.rpartition(".")
    cast(Any, parameter)._is_hf_initialized = True  # else transformers sets it anew
    setattr(model.get_submodule(owner), last, parameter)


def put_buffers(model: nn.Module, where: torch.device) -> None:
    """Put the model's buffers on the device."""
    for name, buffer in list(model.named_buffers(remove_duplicate=False)):
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, buffer.to(where))


def fill(
    model: PreTrainedModel,
    weights: Mapping[str, Weight],
    where: torch.device,
    dtype: torch.dtype,
    may_stay_on_host: bool,
) -> None:
    """Make an empty model an NF4 one, as from_pretrained does, with never more than a weight of it in 16 bits too many.

    `weights` in the order in which they are read ahead.
    `may_stay_on_host`: where the card has no room for it beside answers, an embedding matrix of its own stays in host
    memory.
    """
    asked = config(dtype)
    import bitsandbytes
    from transformers.quantizers import AutoHfQuantizer

    quantizer: Any = AutoHfQuantizer.from_config(asked, pre_quantized=False)
    quantizer.validate_environment(device_map={"": where})
    embedding = next(name for name, at in model.named_parameters() if at is model.get_input_embeddings().weight)
    alone = may_stay_on_host and where.type == "cuda" and not _is_tied(model)
    quantizer.preprocess_model(model=model, dtype=dtype, device_map={"": where})
    for name in sorted(weights, key=lambda name: name == embedding):  # else as they are read
        if name == embedding and alone and not has_room(weights[name].nbytes + BESIDE_EMBEDDING):
            put(model, name, nn.Parameter(_on_host(weights[name].stored, dtype)))
            continue
        tensor = weights[name][...]
        if not quantizer.param_needs_quantization(model, name):
            put(model, name, nn.Parameter(tensor))
            continue
        layer = model.get_submodule(name.rpartition(".")[0])
        kind = {key: value for key, value in vars(layer.weight).items() if not key.startswith("_")}
        quantised = bitsandbytes.nn.Params4bit(tensor, requires_grad=False, **kind)
        del tensor
        # For cards together it waits in host memory, but a card quantises it in no time, and a processor in minutes.
        ahead = torch.device("cuda") if where.type == "cpu" and torch.cuda.is_available() else where
        layer.weight = quantised.to(ahead) if ahead == where else quantised.to(ahead).to(where)
        cast(Any, layer)._is_hf_initialized = True
        del quantised
    put_buffers(model, where)
    loaded: Any = model
    loaded.hf_quantizer = quantizer
    quantizer.postprocess_model(model, dtype=dtype, device_map={"": where})
    keep_backward_possible(model)


def _is_tied(model: PreTrainedModel) -> bool:
    """Whether the output layer has the embedding's matrix, by what transformers will tie."""
    return bool(getattr(model, "all_tied_weights_keys", None))


def _on_host(stored: Stored, dtype: torch.dtype) -> torch.Tensor:
    with Reader(torch.device("cpu")) as reader:
        reader.weights({stored.name: stored}, dtype, str, {}, every=True)
        return reader.take_all()[stored.name]


def config(compute: torch.dtype) -> object:
    """Double-quantised NF4. Raises ModelError without bitsandbytes."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError(NO_BITSANDBYTES) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def keep_backward_possible(model: torch.nn.Module) -> None:
    """On processors with AVX512-BF16 an eval forward of Linear4bit repacks its weights and a later backward raises."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
