"""A base model from its folder into memory: what from_pretrained makes, read faster and laid out for fused products.

Where files and model agree name by name, our reader (core.shards) fills the buffers while transformers builds an empty
model, which is then given them. Otherwise, and for NF4, from_pretrained is given weights that are still in their files
and answers `weight[...]` by waiting for the reader. Where that does not fit either, it reads the files itself.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from core import load_nf4
from core.base_parts import config_of, named, tokenizer_of
from core.errors import ModelError
from core.fused.sizes import FAMILIES
from core.fused.weights import allocate
from core.load_nf4 import put, put_buffers
from core.models import ModelInfo, Progress
from core.shards import Allocate, Block, Reader, Stored, stored_tensors
from core.text import Text

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Products that share their input: as row slices of one matrix they are one product for whoever wants it so.
_JOINED = (
    (re.compile(r"(.+\.self_attn)\.q_proj\.(weight|bias)"), ("q_proj", "k_proj", "v_proj")),
    (re.compile(r"(.+\.mlp)\.gate_proj\.(weight|bias)"), ("gate_proj", "up_proj")),
)
_ALONE = (
    (re.compile(r"(.+\.self_attn)\.o_proj\.(weight)"), ("o_proj",)),
    (re.compile(r"(.+\.mlp)\.down_proj\.(weight)"), ("down_proj",)),
)
_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Base:
    """A base model in eval mode on its device, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_base(
    info: ModelInfo,
    quant_method: str,
    dtype: str,
    where: torch.device,
    progress: Progress | None = None,
    padded: bool = False,
) -> Base:
    """Read a base model to `where`. Parameters, buffers and answers are those of from_pretrained, to the bit.

    `quant_method` "bnb" makes its linear layers NF4, one weight at a time. `progress` is told from a reading thread.
    `padded` reads linear weights that stay as they are into the buffers of the fused pass (fused/weights.py), so that
    laying them out moves nothing; what is spare in them is not set. Such a model's `save_pretrained` has to be given a
    `state_dict` of contiguous copies.
    Raises ModelError if weights are missing, of another shape, or have no place in the model.
    """
    told = progress or (lambda name, done, total: None)
    told(info.label, 0, info.weight_bytes)

    def report(done: int) -> None:
        told(info.label, min(done, info.weight_bytes), info.weight_bytes)

    kind = getattr(torch, dtype)
    tensors = stored_tensors(info.folder)
    room = allocate if padded else None
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None
    model: PreTrainedModel | None = None
    with ThreadPoolExecutor(1) as pool, _short_turns():
        if tensors is not None:
            ahead = load_nf4.AHEAD_BYTES if quant_method == "bnb" else None
            with Reader(where, ahead, report) as reader:
                if quant_method == "bnb":
                    made = reader.weights(tensors, kind, _in_order, _places(tensors, "bias", None), every=True)
                    ordered = {name: made[name] for name in sorted(made, key=_in_order)}
                    fill = partial(load_nf4.fill, weights=ordered, where=where, dtype=kind, may_stay_on_host=padded)
                else:
                    reader.weights(tensors, kind, _in_order, _places(tensors, "", room), every=True)
                    fill = partial(_fill, reader=reader, where=where)
                    if info.family in FAMILIES:
                        reader.start()  # before the seconds in which transformers is imported for the first time
                model, tokenizer = _assembled(info, kind, tensors, pool, fill)
        if model is None:
            _quiet_libraries()
            tokenizer = tokenizer or _tokenizer(info, pool)
            model = _through_transformers(info, quant_method, kind, where, report, room)
        assert tokenizer is not None
        base = Base(model, tokenizer())
    if where.type == "cuda":
        torch.cuda.synchronize(where)
        torch.cuda.empty_cache()
    told(info.label, info.weight_bytes, info.weight_bytes)
    return base


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads take Python from each other more often while the block runs.

    A reading thread wants it seven times a piece, for microseconds, and would wait the usual 5 ms each time for the one
    that builds the tokenizer: a tenth of the pace.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _tokenizer(info: ModelInfo, pool: ThreadPoolExecutor) -> Callable[[], PreTrainedTokenizerBase]:
    """Start to make the tokenizer; what is returned waits for it."""
    import transformers

    _ = transformers.AutoTokenizer  # imported by this thread: two must not import it at once
    return pool.submit(tokenizer_of, info.folder).result


# -- an empty model that is given its tensors --


def _assembled(
    info: ModelInfo,
    dtype: torch.dtype,
    tensors: Mapping[str, Stored],
    pool: ThreadPoolExecutor,
    fill: Callable[[PreTrainedModel], None],
) -> tuple[PreTrainedModel | None, Callable[[], PreTrainedTokenizerBase]]:
    """The model once `fill` gave it its tensors, and the tokenizer on its way; no model if only transformers can make it."""
    _quiet_libraries()
    config = config_of(info.folder)
    model = _empty(info.folder, config, dtype)
    if model is not None:
        _check_shapes(info, model, tensors)
    agreed = model is not None and _agrees(model, tensors, dtype)
    tokenizer = _tokenizer(
        info, pool
    )  # not sooner: all of the model is imported by now, and two must not import at once
    if model is None or not agreed:
        return None, tokenizer
    fill(model)
    _finish(model)
    model.eval()
    _name(info, model)
    return model, tokenizer


def _empty(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel | None:
    """A model of that configuration whose parameters have no memory; its buffers do.

    None where the class is of another kind, or the files hold quantised weights.
    """
    from accelerate import init_empty_weights
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    known = isinstance(MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None), type)
    if not known or getattr(config, "quantization_config", None) is not None:
        return None
    with named(folder, "config.json"), init_empty_weights(include_buffers=False), no_init_weights():
        made = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation="sdpa")
    return cast("PreTrainedModel", made)


def _agrees(model: PreTrainedModel, tensors: Mapping[str, Stored], dtype: torch.dtype) -> bool:
    """Whether the files hold exactly the model's parameters, under its names, and it keeps them all in `dtype`."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    family: Any = model
    parameters = dict(model.named_parameters())
    wider = family._keep_in_fp32_modules or family._keep_in_fp32_modules_strict
    narrow = all(parameter.dtype == dtype for parameter in parameters.values())
    # A buffer that is not in the files is computed when the model is built; this one as from_pretrained computes it.
    computed = all(name.endswith("inv_freq") for name, _ in model.named_buffers())
    named = parameters.keys() - family.all_tied_weights_keys.keys() == tensors.keys()
    return named and computed and narrow and not wider and not get_model_conversion_mapping(family, add_legacy=False)


def _fill(model: PreTrainedModel, reader: Reader, where: torch.device) -> None:
    """Give an empty model all that `reader` reads, and put its buffers on the device."""
    for name, tensor in reader.take_all().items():
        put(model, name, nn.Parameter(tensor))
    put_buffers(model, where)


def _finish(model: PreTrainedModel) -> None:
    """What from_pretrained does once every parameter has its value."""
    loaded: Any = model
    loaded._weight_conversions = []  # what save_pretrained has to undo, and in which order it goes
    loaded.tie_weights()
    left = [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.is_meta]
    assert not left, f"parameters without a value: {left}"


# -- through transformers --


def _through_transformers(
    info: ModelInfo,
    quant_method: str,
    dtype: torch.dtype,
    where: torch.device,
    report: Callable[[int], None],
    room: Allocate | None,
) -> PreTrainedModel:
    """The model as from_pretrained puts it together, its files read by us if they can be."""
    options: dict[str, Any] = {
        "dtype": dtype,
        "device_map": {"": where},
        "attn_implementation": "sdpa",
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # so that they are reported: `_check` refuses them
    }
    if quant_method == "bnb":
        options["quantization_config"] = load_nf4.config(dtype)
    model = _load_laid_out(info, options, where, report, room) or _load_as_stored(info, options)
    if quant_method == "bnb":
        load_nf4.keep_backward_possible(model)
    return model


def _load_laid_out(
    info: ModelInfo,
    options: dict[str, Any],
    where: torch.device,
    report: Callable[[int], None],
    room: Allocate | None,
) -> PreTrainedModel | None:
    """The model through our reader; None if its files or its class need what only from_pretrained does."""
    dtype, config, tensors = options["dtype"], config_of(info.folder), stored_tensors(info.folder)
    empty = _empty(info.folder, config, dtype)
    if tensors is None or empty is None:
        return None
    _check_shapes(info, empty, tensors)  # a quantiser takes weights of any shape
    places = _places(tensors, "bias" if "quantization_config" in options else "", room)
    # What transformers quantises or converts exists twice for a moment: little of that may be read ahead of it.
    passing = "quantization_config" in options or any(stored.dtype != dtype for stored in tensors.values())
    with Reader(where, load_nf4.AHEAD_BYTES if passing else None, report) as reader:
        weights = reader.weights(tensors, dtype, _in_order, places)
        model, outcome = cast(Any, type(empty)).from_pretrained(None, config=config, state_dict=weights, **options)
    _check(info, outcome)
    if any(parameter.dtype != dtype for name, parameter in model.named_parameters() if name in places):
        return None  # a family that keeps these in a wider type than the buffers they share
    _name(info, model)
    return cast("PreTrainedModel", model)


def _name(info: ModelInfo, model: Any) -> None:
    """Where the model is from, and how its makers would have it answer."""
    from transformers import GenerationConfig

    model.config.name_or_path = model.name_or_path = str(info.folder)
    if (info.folder / "generation_config.json").is_file():
        with named(info.folder, "generation_config.json"):
            found = GenerationConfig.from_pretrained(str(info.folder), local_files_only=True)
        model.generation_config = found


def _load_as_stored(info: ModelInfo, options: dict[str, Any]) -> PreTrainedModel:
    """The model as from_pretrained reads it."""
    from transformers import AutoModelForCausalLM

    with named(info.folder, "config.json, model.safetensors"):
        model, outcome = AutoModelForCausalLM.from_pretrained(
            str(info.folder), use_safetensors=True, local_files_only=True, trust_remote_code=False, **options
        )
    _check(info, outcome)
    return cast("PreTrainedModel", model)


def _places(tensors: Mapping[str, Stored], only: str, room: Allocate | None) -> dict[str, tuple[Block, int]]:
    """For each tensor that shares a buffer with its neighbours, or with `room` beside it: the buffer and its place in it.

    `only` "bias" leaves the weights apart: they will be quantised one by one.
    """
    places: dict[str, tuple[Block, int]] = {}
    for name in tensors:
        for pattern, members in _JOINED if room is None else _JOINED + _ALONE:
            found = pattern.fullmatch(name)
            if found is None or only not in ("", found[2]):
                continue
            names = [f"{found[1]}.{member}.{found[2]}" for member in members]
            parts = [tensors[part] for part in names if part in tensors]
            if len(parts) == len(names) and len({(part.shape[1:], part.dtype) for part in parts}) == 1:
                block = Block(parts, room if len(parts[0].shape) == 2 else None)
                places |= {part: (block, index) for index, part in enumerate(names)}
    return places


def _check(info: ModelInfo, outcome: Mapping[str, Any]) -> None:
    """Raise ModelError unless files and model belong together, tensor by tensor."""
    lost = sorted(outcome["missing_keys"])
    if lost:
        raise ModelError(
            Text(
                zh=f"{info.folder} 的权重缺少 {len(lost)} 个张量（例如 {lost[0]}），会变成随机值，因此不加载。请重新下载。",
                en=f"The weights in {info.folder} lack {len(lost)} tensors (first: {lost[0]}); they would be random, so "
                "the model is not loaded. Download it again.",
            )
        )
    foreign = sorted(outcome["unexpected_keys"])
    if foreign:
        raise ModelError(
            Text(
                zh=f"{info.folder} 的权重里有 {len(foreign)} 个张量在模型中没有位置（例如 {foreign[0]}）：权重和 config.json "
                "不是同一个模型的，因此不加载。请重新下载。",
                en=f"The weights in {info.folder} hold {len(foreign)} tensors the model has no place for (first: "
                f"{foreign[0]}): weights and config.json are not of one model, so it is not loaded. Download it again.",
            )
        )
    _refuse_shapes(info, [(name, tuple(stored), tuple(meant)) for name, stored, meant in outcome["mismatched_keys"]])


def _check_shapes(info: ModelInfo, empty: PreTrainedModel, tensors: Mapping[str, Stored]) -> None:
    """Compare the files with an empty model."""
    meant = empty.state_dict()
    both = [(name, stored.shape, tuple(meant[name].shape)) for name, stored in tensors.items() if name in meant]
    _refuse_shapes(info, [found for found in both if found[1] != found[2]])


def _refuse_shapes(info: ModelInfo, unlike: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> None:
    if not unlike:
        return
    name, stored, meant = min(unlike)
    raise ModelError(
        Text(
            zh=f"{info.folder} 的权重有 {len(unlike)} 个张量形状不符（例如 {name}：文件里是 {stored}，config.json 要求 "
            f"{meant}），因此不加载。请重新下载。",
            en=f"{len(unlike)} tensors in {info.folder} have another shape than config.json says (first: {name}, "
            f"{stored} in the file, {meant} expected), so the model is not loaded. Download it again.",
        )
    )


def _in_order(name: str) -> list[str | int]:
    """A key that sorts layer 2 before layer 10: the order in which transformers asks."""
    return [int(part) if part.isdigit() else part for part in _NUMBERS.split(name)]


def _quiet_libraries() -> None:
    """Keep other libraries' progress bars and advice off the console; their errors still come through."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # missing CPU kernels it can do without
    # Its report of what `_check` refuses. No level: transformers takes one for a wish to hear of tensor parallelism.
    logging.getLogger("transformers.modeling_utils").addFilter(_errors_only)
    # PEFT asks transformers under a name deprecated after 5.17.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
