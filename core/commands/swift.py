"""ms-swift: its flags of 2.x, 3.x and 4.6, as they are meant here. Sources: swift/arguments, swift/trainers/arguments.py."""

from __future__ import annotations

import math
import re

from core.commands import common
from core.commands.draft import Draft, Rule, fact, is_off, lacking, many, old, same, switch, useless
from core.commands.shell import Option
from core.fact import Value
from core.text import Text

NAME = "ms-swift"
SELF_COGNITION = ("swift/self-cognition", "modelscope/self-cognition", "AI-ModelScope/self-cognition", "self-cognition")
OFFLOAD = Text(
    "这是 vLLM 部署时的参数，swift sft 里没有，命令会报错。显存不够时请用 4 比特基座（QLoRA），或调低最大长度。",
    "That is an option of vLLM's server; swift sft has none and fails. If memory is short, use a 4-bit base (QLoRA) or a "
    "lower maximum length.",
)
_BITS = Text(
    "--quant_bits 只有和 --quant_method bnb 一起才会量化，单独写时 ms-swift 会按不量化训练。这里按 QLoRA（4 比特 NF4）读取。",
    "--quant_bits quantises only together with --quant_method bnb; alone, ms-swift trains unquantised. Read as QLoRA "
    "(4-bit NF4).",
)


def tuner(draft: Draft, option: Option) -> None:
    """`lora`, and what older commands say instead of it."""
    value = option.value.lower()
    if value == "qlora":
        draft.facts["quant_method"] = Option("quant_method", ("bnb",), option.written)
        draft.facts.setdefault("quant_bits", Option("quant_bits", ("4",), option.written))
        draft.note(option, "wrong", Text(
            "没有 qlora 这种类型，命令会报错；应写 --tuner_type lora --quant_method bnb --quant_bits 4，这里照此读取。",
            "There is no type qlora, the command fails; it is --tuner_type lora --quant_method bnb --quant_bits 4, and read "
            "so.",
        ))  # fmt: skip
    elif value in ("lora", "longlora"):
        draft.note(option, "taken", Text("训练 LoRA 适配器。", "A LoRA adapter is trained."))
    else:
        draft.note(option, "missing", Text(
            f"这里只训练 LoRA 适配器，不做 {value}；学习率等设置请按 LoRA 检查。",
            f"Only LoRA adapters are trained here, no {value}; look over the learning rate and the like.",
        ))  # fmt: skip


def model(draft: Draft, option: Option) -> None:
    """The base model's id or folder."""
    draft.model, draft.model_flag = option.value, option.shown


def model_type(draft: Draft, option: Option) -> None:
    """A loader's name in 3.x and 4.x; the model itself in 2.x."""
    value = option.value
    if value == "qwen":
        draft.note(option, "wrong", Text(
            "qwen 是第一代 Qwen 的加载方式和模板，用在 Qwen2.5 上是错的；去掉即可，会自动识别为 qwen2。",
            "qwen is the loader and template of the first Qwen, wrong for Qwen2.5; leave it out, qwen2 is found by itself.",
        ))  # fmt: skip
        return
    found = re.fullmatch(r"(qwen[\w]*?)-([\d.a-z_]+b(?:-[a-z]\d+b)?)-(instruct|chat)", value)
    if found and not draft.model:
        family = {"qwen1half": "Qwen1.5", "qwen2_5": "Qwen2.5"}.get(found[1], found[1].replace("qwen", "Qwen", 1))
        size = found[2].replace("_", ".").upper()
        draft.model = f"Qwen/{family}-{size}-{found[3].capitalize()}"
        draft.note(option, "renamed", Text(
            f"2.x 用它指定模型，现在写 --model {draft.model}。", f"In 2.x it named the model; it is --model {draft.model} now."
        ))  # fmt: skip
        return
    draft.note(option, "ignored", Text("会从模型文件自动识别。", "It is found from the model's files."))


def dataset(draft: Draft, option: Option) -> None:
    """Sources separated by spaces; the comma form is split."""
    for value in option.values:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if len(parts) > 1:
            draft.note(option, "wrong", Text(
                "ms-swift 不认识逗号写法，会当成一个文件名；数据集之间应当用空格。这里拆开读取。",
                "ms-swift does not split at commas and looks for one file of that name; put spaces between. Read as several.",
            ))  # fmt: skip
        draft.asked += parts
    draft.asked_flag = option.written


def validation(draft: Draft, option: Option) -> None:
    """The evaluation set."""
    draft.validation += [part for value in option.values for part in value.split(",") if part.strip()]


def names(draft: Draft, option: Option) -> None:
    """`zh [en]`."""
    draft.names = option.values
    _who(draft, option, "{{NAME}}")


def authors(draft: Draft, option: Option) -> None:
    """`zh [en]`."""
    draft.authors = option.values
    _who(draft, option, "{{AUTHOR}}")


def _who(draft: Draft, option: Option, mark: str) -> None:
    if any(source.partition("#")[0] in SELF_COGNITION for source in draft.asked):
        draft.note(option, "taken", Text("写进数据集的身份卡。", "Goes into the dataset's identity card."))
        return
    draft.note(option, "taken", Text(
        f"写进数据集的身份卡，替换行里的 {mark}，并用来判断回答。在 ms-swift 里它只对自带的 self-cognition 起作用，不会改别的文件。",
        f"Goes into the dataset's identity card: it replaces {mark} in the rows and answers are judged by it. In ms-swift "
        "it works on its own self-cognition set only and changes no other file.",
    ))  # fmt: skip


def self_cognition(draft: Draft, option: Option) -> None:
    """2.x: how many rows of its identity set."""
    if not is_off(option.value):
        draft.asked.append(f"swift/self-cognition#{option.value}")
        draft.note(option, "taken", Text(
            f"现在写作 --dataset swift/self-cognition#{option.value}。", f"It is --dataset swift/self-cognition#{option.value}."
        ))  # fmt: skip


def targets(draft: Draft, option: Option) -> None:
    """all-linear, or layers' names; 2.x also said ALL and DEFAULT."""
    values = [part for value in option.values for part in re.split(r"[,\s]+", value) if part]
    if any(value.lower() in ("all", "all-linear") for value in values):
        draft.set(option, "target_modules", "all-linear")
    elif "DEFAULT" in values or "AUTO" in values:
        draft.set(option, "target_modules", "q_proj k_proj v_proj")
    else:
        draft.set(option, "target_modules", " ".join(values))


def learning_workers(draft: Draft, option: Option) -> None:
    """Threads that tokenise."""
    if is_off(option.value):
        draft.note(
            option, "ignored", Text("开始前用默认的线程数切分词元。", "Rows are tokenised with the usual threads.")
        )
    else:
        draft.set(option, "dataloader_num_workers", option.value)


def system(draft: Draft, option: Option) -> None:
    """Text, in which \\n stands for a new line."""
    draft.set(option, "system", " ".join(option.values).replace("\\n", "\n"))


def accumulation(draft: Draft, option: Option) -> None:
    """None is 16 rows a step."""
    if not is_off(option.value):
        draft.set(option, "gradient_accumulation_steps", option.value)


def truncation(draft: Draft, option: Option) -> None:
    """What becomes of rows that are too long."""
    value = option.value.removeprefix("truncation_")
    if "truncation_strategy" not in _settings():
        draft.note(
            option,
            "missing",
            Text("太长的行在开始前指出，不截断。", "Rows that are too long are named before the start, not cut."),
        )
    elif value in ("delete", "left", "raise"):
        draft.set(option, "truncation_strategy", value)
    else:
        draft.note(option, "missing", Text(
            "从右边截会丢掉回答的结尾，模型就学不会停；这里没有采用，太长的行会在开始前指出。",
            "Cutting on the right loses the answer's end, and the model never learns to stop; not taken, rows that are too "
            "long are named before the start.",
        ))  # fmt: skip


def _settings() -> list[str]:
    from core import config

    return config.names()


def finish(draft: Draft) -> None:
    """What several flags decide together."""
    method, bits = draft.facts.pop("quant_method", None), draft.facts.pop("quant_bits", None)
    if bits is not None and not is_off(bits.value):
        if bits.value != "4":
            draft.note(
                bits,
                "missing",
                Text("这里只有 4 比特（NF4）。没有量化。", "Only 4 bits (NF4) are here. Not quantised."),
            )
        else:
            draft.set(bits, "quant_method", "bnb", "taken" if method else "wrong", None if method else _BITS)
    if method is not None and method.value != "bnb" and not is_off(method.value):
        draft.settings.pop("quant_method", None)
        draft.note(method, "missing", Text(
            "这里只有 bitsandbytes 的 4 比特（bnb）。没有量化。", "Only bitsandbytes' 4 bits (bnb) are here. Not quantised."
        ))  # fmt: skip
    elif method is not None and bits is None and not is_off(method.value):
        draft.set(method, "quant_method", "bnb")
    elif method is not None and method.written == "--quant_method":
        draft.note(method, "taken", Text("4 比特 NF4，双重量化。", "4-bit NF4, double quantised."))


def defaults(draft: Draft) -> dict[str, Value]:
    """What 4.6 takes where the command says nothing."""
    rows = draft.settings.get("per_device_train_batch_size", 1)
    return {
        "num_train_epochs": 3.0, "learning_rate": 1e-4, "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": math.ceil(16 / int(rows)), "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.05,
        "warmup_ratio": 0.0, "weight_decay": 0.1, "adam_beta2": 0.95, "lr_scheduler_type": "cosine", "logging_steps": 5,
        "save_steps": 500, "seed": 42,
        **({"truncation_strategy": "delete"} if "truncation_strategy" in _settings() else {}),
    }  # fmt: skip


RULES: dict[str, Rule] = {
    **common.TRAINER,
    **{name: same(name) for name in ("lora_rank", "lora_alpha", "lora_dropout", "max_length", "lorap_lr_ratio",
                                     "init_weights", "split_dataset_ratio", "early_stop_interval")},
    "model": model, "model_id_or_path": old("model", model, "2.x"), "model_type": model_type,
    "tuner_type": tuner, "train_type": old("tuner_type", tuner, "3.x"), "sft_type": old("tuner_type", tuner, "2.x"),
    "dataset": dataset, "val_dataset": validation,
    "custom_train_dataset_path": old("dataset", dataset, "2.x"),
    "custom_val_dataset_path": old("val_dataset", validation, "2.x"),
    "dataset_test_ratio": old("split_dataset_ratio", same("split_dataset_ratio"), "2.x"),
    "self_cognition_sample": old("dataset", self_cognition, "2.x"),
    "model_name": names, "model_author": authors, "system": system,
    "torch_dtype": common.dtype, "dtype": old("torch_dtype", common.dtype, "2.x"),
    "target_modules": targets, "lora_target_modules": old("target_modules", targets, "2.x"),
    "lora_dropout_p": old("lora_dropout", same("lora_dropout"), "2.x"),
    "lora_lr_ratio": old("lorap_lr_ratio", same("lorap_lr_ratio"), "2.x"),
    "init_lora_weights": old("init_weights", same("init_weights"), "2.x"),
    "neftune_alpha": old("neftune_noise_alpha", same("neftune_noise_alpha"), "2.x"),
    "batch_size": old("per_device_train_batch_size", same("per_device_train_batch_size"), "2.x"),
    "eval_batch_size": old("per_device_eval_batch_size", useless(common.EVAL_SIZE), "2.x"),
    "gradient_accumulation_steps": accumulation,
    "use_rslora": switch("use_rslora"), "use_dora": switch("use_dora"),
    "quant_method": fact("quant_method"), "quant_bits": fact("quant_bits"),
    "quantization_bit": old("quant_bits", fact("quant_bits"), "2.x"),
    "dataloader_num_workers": learning_workers, "truncation_strategy": truncation,
    "adapters": common.adapter, "optimizer": lacking(common.OTHER_METHOD),
    "only_save_model": old("save_only_model", common.TRAINER["save_only_model"], "2.x"),
    "cpu_offload_gb": lambda draft, option: draft.note(option, "wrong", OFFLOAD),
    **many(useless(common.FASTER), """attn_impl experts_impl device_map max_memory packing packing_length packing_num_proc
        packing_strategy padding_free padding_side lazy_tokenize use_logits_to_keep tuner_backend local_repo_path
        init_strategy use_flash_attn use_flash_ckpt train_backend use_liger device_map_config device_map_config_path
        device_max_memory gpu_memory_fraction lora_dtype bnb_4bit_quant_storage bnb_4bit_compute_dtype
        bnb_4bit_comp_dtype bnb_4bit_quant_type bnb_4bit_use_double_quant vit_gradient_checkpointing
        ds3_gather_for_generation enable_npu_model_patch template_backend max_model_len use_swift_lora packing_cache
        gc_collect_after_offload"""),
    **many(useless(common.ONE_DEVICE), """sequence_parallel_size zero_hpz_partition_size deepspeed_autotp_size fsdp_num
        tp pp sequence_parallel use_ray ray_exp_name device_groups deepspeed_config_path"""),
    **many(useless(common.READING), """dataset_num_proc load_from_cache_file streaming shuffle_buffer_size download_mode
        cached_dataset cached_val_dataset strict disable_auto_column_mapping custom_dataset_info
        custom_register_path external_plugins streaming_val_size streaming_buffer_size preprocess_num_proc
        check_dataset_strategy model_cache_dir load_data_args check_model
        check_model_is_latest"""),
    **many(useless(common.SHUFFLED), "val_dataset_shuffle dataset_shuffle train_dataloader_shuffle train_sampler_random"),
    "columns": fact("columns"),
    **many(useless(Text("从哪里下载在模型选择框下面的“下载来源”里选。", "Where models come from is chosen below the model picker.")),
           "use_hf model_revision"),
    **many(useless(common.FOLDERS), """add_version create_checkpoint_symlink add_output_dir_suffix
        check_ckpt_dir test_oom_error"""),
    **many(useless(Text("对话模板由模型自带，不必指定。", "The chat template comes with the model.")),
           "template template_type use_chat_template task_type num_labels problem_type"),
    **many(useless(common.ANSWERING), """max_new_tokens temperature top_k top_p repetition_penalty num_beams stream stop_words
        logprobs top_logprobs do_sample response_prefix enable_thinking preserve_thinking add_non_thinking_prefix
        structured_outputs_regex predict_with_generate"""),
    **many(useless(common.SAFE), "max_shard_size"),
    **many(useless(common.NOT_OUTSIDE), """push_hub_strategy swanlab_token swanlab_project swanlab_workspace swanlab_exp_name
        swanlab_notification_method swanlab_webhook_url swanlab_secret swanlab_sender_email swanlab_receiver_email
        swanlab_smtp_server swanlab_smtp_port swanlab_email_language swanlab_mode"""),
    **many(useless(Text("损失按整步的词元平均。", "The loss is the mean over a step's tokens.")), "acc_strategy acc_steps"),
    **many(lacking(Text("请用 --num_train_epochs 或 --max_steps。", "Use --num_train_epochs or --max_steps.")), "max_epochs"),
    **many(useless(Text("训练结束后在“对比”和“检验”里测。", "Measured after the run, in Compare and by its proof.")),
           """eval_use_evalscope eval_dataset eval_dataset_args eval_limit eval_generation_config extra_eval_args
        eval_metric metric metric_warmup_step eval_datasets eval_datasets_args"""),
    **many(useless(common.MEDIA), """max_pixels norm_bbox freeze_llm freeze_vit freeze_aligner aligner_lr vit_lr
        rescale_image vit_use_gc"""),
    **many(useless(Text("ms-swift 自己的运行细节，这里没有影响。", "A detail of ms-swift's own working, without effect here.")),
           """ignore_args_error model_kwargs load_args callbacks disable_ignore_empty_think data_seed dataset_seed
        interleave_prob stopping_strategy tools_prompt agent_template load_dataset_config ckpt_dir lora_modules
        is_encoder_decoder model_layer_cls_name router_aux_loss_coef resume_only_model"""),
    **many(lacking(common.OTHER_METHOD), """freeze_parameters freeze_parameters_regex freeze_parameters_ratio
        trainable_parameters trainable_parameters_regex additional_trainable_parameters target_regex lora_target_regex
        target_parameters modules_to_save lora_modules_to_save lora_bias lora_bias_trainable use_galore lisa_step_interval
        galore_target_modules lisa_activated_layers new_special_tokens rope_scaling reft_layer_key reft_layers reft_args
        neftune_backend min_lr optimizer_name hqq_axis hqq_dynamic_config_path galore_config"""),
    **many(useless(common.OTHER_METHOD), """lora_ga_batch_size lora_ga_iters lora_ga_max_length lora_ga_direction lora_ga_scale
        lora_ga_stable_gamma fourier_n_frequency fourier_scaling boft_block_size boft_block_num boft_n_butterfly_factor
        boft_dropout vera_rank vera_projection_prng_key vera_dropout vera_d_initial adapter_act adapter_length
        adalora_target_r adalora_init_r adalora_tinit adalora_tfinal adalora_deltaT adalora_beta1 adalora_beta2
        adalora_orth_reg_weight llamapro_num_new_blocks llamapro_num_groups reft_rank reft_intervention_type
        galore_rank galore_update_proj_gap galore_scale galore_proj_type galore_optim_per_parameter galore_with_embedding
        galore_quantization galore_proj_quant galore_proj_bits galore_proj_group_size galore_cos_threshold
        galore_gamma_proj galore_queue_size mrl_dims boft_modules_to_save
        boft_target_modules ia3_feedforward_modules ia3_modules_to_save ia3_target_modules vera_modules_to_save
        vera_target_modules"""),
    **many(lacking(common.OTHER_LOSS), """loss_scale is_binary_loss_scale enable_dft_loss enable_channel_loss loss_type
        loss_name use_loss_scale loss_scale_config_path channels"""),
    **many(lacking(Text("请在数据集后面写 #行数。", "Put #count behind a dataset instead.")),
           "train_dataset_sample val_dataset_sample train_dataset_mix_ratio train_dataset_mix_ds"),
}  # fmt: skip
