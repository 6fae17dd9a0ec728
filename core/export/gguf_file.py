"""A merged model, or an adapter by itself, as one GGUF file for llama.cpp and Ollama, through the `gguf` package.

Qwen2 and Qwen3 with their own tokenizers; other families by llama.cpp's own converter from the merged folder, which the
refusal says. Weights pass through one at a time, large ones in blocks of rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from core import adapters, anatomy, storage
from core.base_parts import tokenizer_of
from core.errors import ModelError
from core.export.weights import Entry, Told, Weights, scale_of
from core.text import Text

if TYPE_CHECKING:
    import numpy
    from torch import Tensor

Kind = Literal["f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
KINDS: tuple[Kind, ...] = ("f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
FAMILIES = ("qwen2", "qwen3")
_ROW_BLOCK_BYTES = 128_000_000  # float32 bytes that are quantised at once
# llama.cpp knows a pre-tokenizer by name; this is the expression that it calls qwen2.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TAG, _END_TAG = (re.compile(rf"\{{%([-+]?)\s*{name}\s*([-+]?)%\}}") for name in ("generation", "endgeneration"))
_ORDINARY, _CONTROL, _USERS, _UNUSED = 1, 3, 4, 5  # llama.cpp's kinds of token


def check(base: Path) -> None:
    """Raise ModelError for a base that is not written here, before anything is."""
    config = _config(base)
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise _other(base, family)
    if config.get("use_sliding_window") is True or _scaled(config):
        raise _other(base, f"{family} (sliding window / RoPE scaling)")
    _tokens(base)


def write(path: Path, base: Path, weights: Weights, kind: Kind, name: str, told: Told) -> None:
    """Write the model that `weights` gives as `path`. `told` counts the bytes of the weights read."""
    import gguf
    import numpy

    config = _config(base)
    writer: Any = gguf.GGUFWriter(None, _family(base))
    writer.add_name(name)
    _shape(writer, config, base)
    _tokenizer(writer, base)
    writer.add_file_type(getattr(gguf.LlamaFileType, _file_type(kind)))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    names = _names(config, base)
    for entry in weights.entries:
        quantised = _type(entry, kind)
        shape = gguf.quants.quant_shape_to_byte_shape(entry.shape, quantised) if _is_block(quantised) else entry.shape
        block, size = gguf.GGML_QUANT_SIZES[quantised]
        nbytes = _count(entry) // block * size
        stored = numpy.dtype(numpy.uint8 if _is_block(quantised) else numpy.float32)
        writer.add_tensor_info(_name(names, entry.name, base), shape, stored, nbytes, raw_dtype=quantised)
    _begin(writer, path)
    with weights.read() as tensors:
        for entry, tensor in tensors:
            for part in _parts(tensor, _type(entry, kind)):
                part.tofile(writer.fout[0])
            writer.write_padding(writer.fout[0], writer.fout[0].tell())
            told(entry.nbytes)
    writer.close()


def write_adapter(path: Path, base: Path, adapter: Path, strength: float, name: str) -> None:
    """Write a LoRA adapter as `path`: llama.cpp adds it to the base's GGUF. Raises ModelError for DoRA."""
    import gguf
    from safetensors import safe_open

    found = anatomy.examine(adapter)
    unlike = anatomy.misfit(found, base)
    if unlike is not None:
        raise ModelError(unlike)
    if found.kind in ("DoRA", "rsDoRA"):
        raise ModelError(
            Text(
                zh="llama.cpp 不支持 DoRA 适配器。请导出合并后的 GGUF（gguf）。",
                en="llama.cpp takes no DoRA adapters. Export the merged model as GGUF (gguf) instead.",
            )
        )
    writer: Any = gguf.GGUFWriter(None, _family(base))
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp multiplies by alpha / rank; whatever the scale is here, rsLoRA's and the strength are in it.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, scale_of(found) * strength * found.rank)
    names = _names(_config(base), base)
    with safe_open(str(adapter / adapters.WEIGHTS), framework="pt", device="cpu") as file:
        for layer in found.layers:
            place = _name(names, f"{layer}.weight", base)
            for part in "AB":
                tensor = file.get_tensor(f"base_model.model.{layer}.lora_{part}.weight")
                writer.add_tensor(f"{place}.lora_{part.lower()}", tensor.float().contiguous().numpy())
    _begin(writer, path, all_of_it=True)
    writer.close()


def _begin(writer: Any, path: Path, all_of_it: bool = False) -> None:
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    if all_of_it:
        writer.write_tensors_to_file()
        return
    writer.write_ti_data_to_file()
    writer.write_padding(writer.fout[0], writer.fout[0].tell())


def _config(base: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", storage.read_json(base / "config.json"))


def _family(base: Path) -> str:
    return str(_config(base)["model_type"])


def _scaled(config: dict[str, Any]) -> bool:
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return rope.get("rope_type", rope.get("type", "default")) not in (None, "default")


def _shape(writer: Any, config: dict[str, Any], base: Path) -> None:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(float(config.get("rope_theta") or rope.get("rope_theta") or 10_000.0))


def _tokens(base: Path) -> tuple[list[str], list[int], list[str]]:
    """(token, kind of token) by id, and merges. Raises ModelError for a tokenizer that is not Qwen's kind."""
    path = base / "tokenizer.json"
    definition = cast("dict[str, Any]", storage.read_json(path)) if path.is_file() else {}
    model = definition.get("model", {})
    splits = json.dumps(definition.get("pre_tokenizer"), ensure_ascii=False)
    if model.get("type") != "BPE" or json.dumps(_QWEN2, ensure_ascii=False) not in splits:
        raise _other(base, "tokenizer.json")
    size = int(_config(base)["vocab_size"])
    tokens = [f"[PAD{i}]" for i in range(size)]
    kinds = [_UNUSED] * size
    for token, i in model["vocab"].items():
        if i < size:
            tokens[i], kinds[i] = token, _ORDINARY
    for added in definition.get("added_tokens", []):
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = _CONTROL if added["special"] else _USERS
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return tokens, kinds, merges


def _tokenizer(writer: Any, base: Path) -> None:
    tokens, kinds, merges = _tokens(base)
    known = tokenizer_of(base)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)
    for add, token in (
        (writer.add_eos_token_id, known.eos_token_id),
        (writer.add_pad_token_id, known.pad_token_id),
        (writer.add_bos_token_id, known.bos_token_id),
    ):
        if isinstance(token, int):
            add(token)
    if known.chat_template:
        writer.add_chat_template(plain_template(str(known.chat_template)))


def plain_template(template: str) -> str:
    """A chat template without transformers' own tags, which mark answers for training and print nothing.

    Blocks take their place: a tag may also cut the white space around it.
    """
    return _END_TAG.sub(r"{%\1 endif \2%}", _TAG.sub(r"{%\1 if true \2%}", template))


def _names(config: dict[str, Any], base: Path) -> Any:
    import gguf

    architecture = getattr(gguf.MODEL_ARCH, _family(base).upper())
    return gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])


def _name(names: Any, key: str, base: Path) -> str:
    found = names.get_name(key, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise _other(base, key)
    return str(found)


def _type(entry: Entry, kind: Kind) -> Any:
    """What the tensor is stored as: norms and biases in float32, and rows that no block divides in float16."""
    import gguf

    if len(entry.shape) < 2:
        return gguf.GGMLQuantizationType.F32
    wanted = gguf.GGMLQuantizationType[kind.upper()]
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if entry.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _is_block(quantised: Any) -> bool:
    import gguf

    plain = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
    return quantised not in plain


def _file_type(kind: Kind) -> str:
    return {"f32": "ALL_F32"}.get(kind, f"MOSTLY_{kind.upper()}")


def _count(entry: Entry) -> int:
    return entry.nbytes // entry.dtype.itemsize


def _parts(tensor: Tensor, quantised: Any) -> Iterator[numpy.ndarray[Any, Any]]:
    """The tensor's rows as the file holds them, a block of rows at a time. Raises ModelError for what float16 cannot hold."""
    import gguf
    import numpy
    import torch

    rows = tensor.reshape(-1, tensor.shape[-1])
    for part in torch.split(rows, max(1, _ROW_BLOCK_BYTES // (4 * rows.shape[1]))):
        values = part.float().contiguous().numpy()
        if (
            quantised == gguf.GGMLQuantizationType.F16
            and max(-values.min(), values.max()) > numpy.finfo(numpy.float16).max
        ):
            raise ModelError(
                Text(
                    zh="合并后的权重超出了 float16 的范围。请选 bf16 或 q8_0。",
                    en="The merged weights are beyond what float16 can hold. Choose bf16 or q8_0.",
                )
            )
        yield gguf.quants.quantize(values, quantised)


def _other(base: Path, what: str) -> ModelError:
    return ModelError(
        Text(
            zh=f"{base.name} 不能直接写成 GGUF（{what}）：这里只写 Qwen2、Qwen3。请导出合并后的文件夹（merged），再用 llama.cpp "
            "的 convert_hf_to_gguf.py 转换。",
            en=f"{base.name} cannot be written as GGUF here ({what}): Qwen2 and Qwen3 are. Export the merged folder (merged) "
            "and convert it with llama.cpp's convert_hf_to_gguf.py.",
        )
    )
