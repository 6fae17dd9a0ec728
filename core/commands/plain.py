"""Scripts on transformers, PEFT and TRL: flags of `python train.py`, or the arguments in Python source. Nothing is run."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

from core.commands import common, swift
from core.commands.draft import Draft, Rule, fact, is_on, lacking, many, same, switch, useless
from core.commands.shell import Option
from core.fact import Value
from core.text import Text

NAME = "PEFT"
# Calls whose keyword arguments say how a run is trained.
_CALLS = (
    "LoraConfig",
    "TrainingArguments",
    "SFTConfig",
    "Seq2SeqTrainingArguments",
    "BitsAndBytesConfig",
    "get_peft_model",
)
_LOADERS = ("AutoModelForCausalLM", "AutoModel", "FastLanguageModel", "Qwen2ForCausalLM", "LlamaForCausalLM")


def dataset(draft: Draft, option: Option) -> None:
    """Files or hub ids."""
    draft.asked_flag = option.written
    draft.asked += [part for value in option.values for part in value.split(",") if part.strip()]


def quantised(draft: Draft, option: Option) -> None:
    """4 bits."""
    if is_on(option.value):
        draft.set(option, "quant_method", "bnb")


def targets(draft: Draft, option: Option) -> None:
    """Layers; what is not a list of names is all-linear."""
    swift.targets(draft, option)


def initial(draft: Draft, option: Option) -> None:
    """PEFT's init_lora_weights."""
    value = option.value.lower()
    draft.set(option, "init_weights", value if value.startswith(("pissa", "gaussian")) else "true")


def eight_bits(draft: Draft, option: Option) -> None:
    """Not here."""
    if is_on(option.value):
        draft.note(
            option, "missing", Text("这里只有 4 比特（NF4）。没有量化。", "Only 4 bits (NF4) are here. Not quantised.")
        )


def finish(draft: Draft) -> None:
    """Nothing is decided together."""


def defaults(draft: Draft) -> dict[str, Value]:
    """transformers' and PEFT's own; TRL's SFTConfig where it is used."""
    trl = "trl" in draft.facts
    draft.facts.pop("trl", None)
    return {
        "num_train_epochs": 3.0, "learning_rate": 2e-5 if trl else 5e-5, "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1, "lora_rank": 8, "lora_alpha": 8, "lora_dropout": 0.0,
        "target_modules": "q_proj v_proj", "warmup_ratio": 0.0, "weight_decay": 0.0, "adam_beta2": 0.999,
        "lr_scheduler_type": "linear", "logging_steps": 10 if trl else 500, "save_steps": 500, "seed": 42,
        **({"max_length": 1024} if trl else {}),
    }  # fmt: skip


RULES: dict[str, Rule] = {
    **common.TRAINER,
    **many(swift.model, "model model_name model_name_or_path base_model pretrained_model_name_or_path model_id model_path"),
    **many(dataset, "dataset dataset_name dataset_path data_path train_file data train_data data_files dataset_name_or_path"),
    **many(same("lora_rank"), "r lora_r lora_rank rank"),
    **many(same("lora_alpha"), "lora_alpha alpha"),
    **many(same("lora_dropout"), "lora_dropout dropout"),
    **many(targets, "target_modules lora_target_modules"),
    **many(initial, "init_lora_weights init_weights"),
    **many(switch("use_rslora"), "use_rslora"), **many(switch("use_dora"), "use_dora"),
    **many(same("max_length"), "max_length max_seq_length max_seq_len cutoff_len model_max_length"),
    **many(quantised, "load_in_4bit use_4bit qlora"), **many(eight_bits, "load_in_8bit use_8bit"),
    **many(common.dtype, "torch_dtype dtype"),
    **many(same("system"), "system system_prompt system_message"),
    **many(same("split_dataset_ratio"), "val_size val_ratio test_size"),
    **many(same("num_train_epochs"), "epochs num_epochs"), **many(same("learning_rate"), "lr"),
    **many(same("per_device_train_batch_size"), "batch_size train_batch_size"),
    **many(useless(common.FASTER), """attn_implementation bnb_4bit_quant_type bnb_4bit_use_double_quant
        bnb_4bit_compute_dtype bnb_4bit_quant_storage device_map packing padding_free inference_mode low_cpu_mem_usage
        pad_to_multiple_of use_bnb_nested_quant use_flash_attention use_gradient_checkpointing use_exact_model_name
        max_memory quantization_config model_init_kwargs low_cpu_mem peft_config dataset_num_proc pad_token eos_token"""),
    **many(useless(Text("这里训练的就是因果语言模型的 LoRA。", "A causal language model's LoRA is what is trained here.")),
           "task_type use_peft lora_task_type fan_in_fan_out layer_replication"),
    **many(useless(common.READING), "dataset_kwargs dataset_text_field dataset_config dataset_train_split dataset_test_split"),
    **many(useless(common.SAFE), "trust_remote_code revision model_revision"),
    **many(lacking(common.OTHER_LOSS), "completion_only_loss assistant_only_loss loss_type"),
    **many(lacking(common.OTHER_METHOD), """bias modules_to_save lora_modules_to_save layers_to_transform layers_pattern
        rank_pattern alpha_pattern megatron_config loftq_config exclude_modules eva_config corda_config"""),
    "bias": lambda draft, option: lacking(common.OTHER_METHOD)(draft, option) if option.value != "none" else draft.note(
        option, "ignored", Text("不训练偏置。", "Biases are not trained.")),
}  # fmt: skip
RULES["gradient_checkpointing"] = fact("gradient_checkpointing")


def looks_like_source(text: str) -> bool:
    """Whether the text is Python that calls something that says how a run is trained."""
    return any(f"{name}(" in text for name in _CALLS) and _parsed(text) is not None


def options_in(text: str) -> tuple[Option, ...]:
    """The arguments of the calls that say how a run is trained, in their order. Values that are no literals are left out."""
    tree = _parsed(text)
    if tree is None:
        return ()
    known = _constants(tree)
    return tuple(_options(tree, known))


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _constants(tree: ast.Module) -> dict[str, object]:
    """Names that are given one plain value: MODEL = "..."."""
    found: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
    return found


def _options(tree: ast.Module, known: dict[str, object]) -> Iterator[Option]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = (
            node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
        )
        if name == "from_pretrained" and owner in _LOADERS and node.args:
            yield from _option("model", node.args[0], known, f"{owner}.{name}")
        elif name == "load_dataset" and node.args:
            files = next((keyword.value for keyword in node.keywords if keyword.arg == "data_files"), None)
            yield from _option("dataset", files if files is not None else node.args[0], known, name)
        if name in _CALLS or (name == "from_pretrained" and owner in _LOADERS):
            if name == "SFTConfig":
                yield Option("trl", ("true",), name)
            for keyword in node.keywords:
                if keyword.arg and keyword.arg not in ("quantization_config", "peft_config"):
                    yield from _option(keyword.arg, keyword.value, known, keyword.arg)


def _option(name: str, node: ast.expr, known: dict[str, object], written: str) -> Iterator[Option]:
    if isinstance(node, ast.Name) and node.id in known:
        value = known[node.id]
    elif isinstance(node, ast.Attribute):  # torch.bfloat16
        value = node.attr
    else:
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            yield Option("", (name,), written)
            return
    if isinstance(value, list | tuple | set):
        yield Option(name, tuple(str(part) for part in value), written)
    elif isinstance(value, dict):
        yield Option(name, tuple(str(part) for part in value.values() if isinstance(part, str)), written)
    else:
        yield Option(name, (str(value),), written)


def _unread(draft: Draft, option: Option) -> None:
    draft.note(option.written, "missing", Text(
        "它的值在运行时才算出来，这里读不到，请自己填。",
        "Its value is computed when the script runs and cannot be read here; fill it in yourself.",
    ))  # fmt: skip


RULES["trl"] = fact("trl")
RULES[""] = _unread
