"""LLaMA-Factory: its settings of 0.6 to 0.9, as they are meant here. Source: src/llamafactory/hparams."""

from __future__ import annotations

from core.commands import common
from core.commands.draft import Draft, Rule, fact, is_off, is_on, lacking, many, old, same, switch, useless
from core.commands.shell import Option
from core.commands.swift import model, targets
from core.fact import Value
from core.text import Text

NAME = "LLaMA-Factory"


def dataset(draft: Draft, option: Option) -> None:
    """Names in dataset_info.json, separated by commas."""
    draft.asked_flag = option.written
    draft.asked += [part.strip() for value in option.values for part in value.split(",") if part.strip()]


def validation(draft: Draft, option: Option) -> None:
    """Names in dataset_info.json, separated by commas."""
    draft.validation += [part.strip() for value in option.values for part in value.split(",") if part.strip()]


def tuner(draft: Draft, option: Option) -> None:
    """Only LoRA is here."""
    if option.value == "lora":
        draft.note(option, "taken", Text("训练 LoRA 适配器。", "A LoRA adapter is trained."))
    else:
        draft.note(option, "missing", Text(
            f"这里只训练 LoRA 适配器，不做 {option.value}；学习率等设置请按 LoRA 检查。",
            f"Only LoRA adapters are trained here, no {option.value}; look over the learning rate and the like.",
        ))  # fmt: skip


def quantisation(draft: Draft, option: Option) -> None:
    """4 is QLoRA."""
    if option.value == "4":
        draft.set(option, "quant_method", "bnb")
    elif not is_off(option.value):
        draft.note(
            option, "missing", Text("这里只有 4 比特（NF4）。没有量化。", "Only 4 bits (NF4) are here. Not quantised.")
        )


def quant_method(draft: Draft, option: Option) -> None:
    """bitsandbytes, which older files spell in several ways."""
    if option.value.lower() in ("bnb", "bitsandbytes"):
        draft.note(option, "taken", Text("4 比特 NF4，双重量化。", "4-bit NF4, double quantised."))
    elif not is_off(option.value):
        draft.note(option, "missing", Text("这里只有 bitsandbytes。", "Only bitsandbytes is here."))


def stage(draft: Draft, option: Option) -> None:
    """sft, which is all there is; others were refused before."""
    draft.note(option, "taken", Text("监督微调。", "Supervised fine-tuning."))


def samples(draft: Draft, option: Option) -> None:
    """The first N rows of each set there; drawn at random here."""
    if is_off(option.value) or not (option.value.isascii() and option.value.isdigit()):
        return
    draft.facts["max_samples"] = option


def pissa(draft: Draft, option: Option) -> None:
    """PiSSA, the approximate one by default."""
    if is_on(option.value):
        draft.facts["pissa_init"] = option


def gradient_checkpointing(draft: Draft, option: Option) -> None:
    """On unless disabled."""
    draft.facts["gradient_checkpointing"] = Option(
        "gradient_checkpointing", ("false" if is_on(option.value) else "true",), option.written
    )


def best_alpha(draft: Draft) -> int:
    """Twice the rank."""
    return 2 * int(draft.settings.get("lora_rank", 8))


def finish(draft: Draft) -> None:
    """What several settings decide together."""
    asked, steps = draft.facts.pop("pissa_init", None), draft.facts.pop("pissa_iter", None)
    if asked is not None:
        exact = steps is not None and steps.value == "-1"
        draft.set(asked, "init_weights", "pissa" if exact else "pissa_niter_16")
    shared = draft.facts.pop("max_samples", None)
    if shared is not None:
        draft.asked = [source if "#" in source else f"{source}#≤{shared.value}" for source in draft.asked]
        draft.note(shared, "taken", Text(
            f"每个数据集最多 {shared.value} 行；LLaMA-Factory 取前面的，这里随机抽取。",
            f"At most {shared.value} rows of each set; LLaMA-Factory takes the first ones, here they are drawn at random.",
        ))  # fmt: skip


def defaults(draft: Draft) -> dict[str, Value]:
    """What it takes where the file says nothing (0.9.6, transformers' own among them)."""
    return {
        "num_train_epochs": 3.0, "learning_rate": 5e-5, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
        "lora_rank": 8, "lora_alpha": best_alpha(draft), "lora_dropout": 0.0, "warmup_ratio": 0.0, "weight_decay": 0.0,
        "adam_beta2": 0.999, "lr_scheduler_type": "linear", "max_length": 2048, "logging_steps": 500, "save_steps": 500,
        "seed": 42,
    }  # fmt: skip


RULES: dict[str, Rule] = {
    **common.TRAINER,
    "model_name_or_path": model, "adapter_name_or_path": common.adapter, "checkpoint_dir": old("adapter_name_or_path", common.adapter),
    "stage": stage, "finetuning_type": tuner, "dataset": dataset, "eval_dataset": validation,
    "dataset_dir": fact("dataset_dir"), "max_samples": samples,
    "cutoff_len": same("max_length"), "max_source_length": old("cutoff_len", lacking(common.READING)),
    "max_target_length": old("cutoff_len", lacking(common.READING)),
    "val_size": same("split_dataset_ratio"), "default_system": same("system"), "system": old("default_system", same("system")),
    "lora_rank": same("lora_rank"), "lora_alpha": same("lora_alpha"), "lora_dropout": same("lora_dropout"),
    "lora_target": targets, "loraplus_lr_ratio": same("lorap_lr_ratio"), "use_rslora": switch("use_rslora"),
    "use_dora": switch("use_dora"), "pissa_init": pissa, "pissa_iter": fact("pissa_iter"),
    "quantization_bit": quantisation, "quantization_method": quant_method,
    "preprocessing_num_workers": useless(common.READING), "early_stopping_steps": same("early_stop_interval"),
    "disable_gradient_checkpointing": gradient_checkpointing,
    "compute_type": lambda draft, option: common.dtype(draft, option),
    "pure_bf16": common.precision("bfloat16"),
    "plot_loss": useless(Text("损失曲线总会画出来。", "The loss curve is always drawn.")),
    "create_new_adapter": lacking(Text("这里接着训练原来的适配器。", "Here the adapter itself is gone on with.")),
    **many(useless(Text("对话模板由模型自带，不必指定。", "The chat template comes with the model.")), "template"),
    **many(useless(common.FASTER), """flash_attn use_unsloth use_unsloth_gc enable_liger_kernel low_cpu_mem_usage
        use_reentrant_gc upcast_layernorm upcast_lmhead_output device_map model_max_length block_diag_attn use_kv_cache
        use_v1_kernels packing neat_packing double_quantization quantization_type quantization_device_map
        dataloader_num_workers use_fast_tokenizer offload_folder infer_dtype print_param_status compute_dtype
        include_effective_tokens_per_second split_special_tokens shift_attn use_kt kt_optimize_rule cpu_infer
        chunk_size mode"""),
    **many(useless(common.READING), """overwrite_cache streaming buffer_size preprocessing_batch_size tokenized_path
        cache_dir data_shared_file_system media_dir ignore_pad_token_for_loss cache_path data_seed"""),
    **many(useless(common.SHUFFLED), "disable_shuffling"),
    **many(useless(Text("从哪里下载在模型选择框下面的“下载来源”里选。", "Where models come from is chosen below the model picker.")),
           "model_revision hf_hub_token ms_hub_token om_hub_token"),
    **many(useless(common.SAFE), "trust_remote_code"),
    **many(useless(common.ANSWERING), """do_sample temperature top_p top_k num_beams max_length max_new_tokens
        repetition_penalty length_penalty skip_special_tokens infer_backend eval_num_beams enable_thinking
        preserve_thinking tool_format"""),
    **many(useless(Text("训练结束后在“对比”和“检验”里测。", "Measured after the run, in Compare and by its proof.")),
           "compute_accuracy predict_with_generate eval_on_each_dataset"),
    **many(useless(common.NOT_OUTSIDE), """use_swanlab swanlab_project swanlab_workspace swanlab_run_name swanlab_mode
        swanlab_api_key swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret"""),
    **many(useless(common.ONE_DEVICE), "ray_num_workers ray_init_kwargs master_addr master_port ray_run_name ray_storage_path"),
    **many(useless(common.LOGS), """enable_torch_profiler profiler_output_dir profiler_wait_steps profiler_warmup_steps
        profiler_active_steps profiler_repeat profiler_record_shapes profiler_profile_memory profiler_with_stack
        profile_modules"""),
    **many(useless(common.MEDIA), """freeze_vision_tower freeze_multi_modal_projector freeze_language_model image_max_pixels
        image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels video_fps video_maxlen
        use_audio_in_video audio_sampling_rate"""),
    **many(lacking(common.OTHER_LOSS), "train_on_prompt mask_history use_dft_loss use_asft_loss asft_alpha use_eaft_loss eaft_alpha"),
    **many(lacking(common.OTHER_METHOD), """additional_target resize_vocab add_tokens add_special_tokens
        new_special_tokens_config init_special_tokens rope_scaling mixture_of_depths moe_aux_loss_coef train_from_scratch
        use_galore use_apollo use_badam use_adam_mini use_muon use_llama_pro use_mca use_megatron_bridge
        use_hyper_parallel fp8 fp8_enable_fsdp_float8_all_gather freeze_trainable_layers freeze_trainable_modules
        freeze_extra_modules mix_strategy interleave_probs adapter_folder pissa_convert loraplus_lr_embedding
        megatron_bridge_args hyper_parallel_args hyper_parallel_cp_size fp8_backend kt_weight_path
        kt_non_expert_weight_path kt_expert_checkpoint_path kt_use_lora_experts kt_cpu_activation
        kt_lora_expert_num kt_lora_expert_intermediate_size"""),
    **many(useless(common.OTHER_METHOD), """galore_target galore_rank galore_update_interval galore_scale galore_proj_type
        galore_layerwise apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj apollo_proj_type
        apollo_scale_type apollo_layerwise apollo_scale_front badam_mode badam_start_block badam_switch_mode
        badam_switch_interval badam_update_ratio badam_mask_mode badam_verbose module_dropout oft_rank oft_block_size
        oft_target"""),
}  # fmt: skip
