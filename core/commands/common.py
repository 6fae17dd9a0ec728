"""Flags that every tool takes over from transformers' TrainingArguments, and why most of them change nothing here."""

from __future__ import annotations

from core.commands.draft import Draft, Rule, fact, is_off, is_on, lacking, many, same, useless
from core.commands.shell import Option
from core.text import Text

ONE_DEVICE = Text("这里只用一张卡、一个进程。", "One device and one process here.")
FOLDERS = Text(
    "每次训练都有自己的文件夹，在“训练记录”里找得到，不会互相覆盖。",
    "Each run has a folder of its own, listed under Runs; none overwrites another.",
)
FASTER = Text(
    "只影响速度或显存，不影响学到什么；OneCard 自己选最快的做法。",
    "Only a matter of speed or memory, not of what is learned; OneCard picks the fastest way itself.",
)
NOT_OUTSIDE = Text("OneCard 不向外发送任何东西。", "OneCard sends nothing to the outside.")
READING = Text("只影响怎样读入和缓存数据，行还是这些行。", "How rows are read and cached; the rows are the same.")
ANSWERING = Text(
    "只影响回答时的抽样，不影响训练；在“对话”里设置。", "About answering, not training; it is set in Chat."
)
LOGS = Text("只影响日志怎么写。", "How logs are written, nothing else.")
SAFE = Text(
    "OneCard 总是用 safetensors，并且从不运行模型仓库里的代码。",
    "OneCard always uses safetensors and never runs a model repository's code.",
)
OTHER_METHOD = Text(
    "属于另一种训练方法，这里没有；会按普通 LoRA 训练。",
    "Part of another training method that is not here; plain LoRA is trained.",
)
OTHER_LOSS = Text(
    "会改变损失的算法，这里没有；损失是每个回答词元的交叉熵平均。",
    "Changes the loss and has no counterpart; the loss is the mean cross entropy of the answers' tokens.",
)
MEDIA = Text("用于图像、语音等多模态模型；这里只训练文字。", "For images and sound; only text is trained here.")
EVAL_SIZE = Text(
    "验证时每批的行数由空闲显存决定，损失不变。",
    "Rows per evaluation pass follow the free memory; the loss is the same.",
)
KEEPS_BEST = Text("验证损失最低的检查点总会保留。", "The checkpoint with the lowest evaluation loss always stays.")
SHUFFLED = Text("每一轮都会打乱，由随机种子决定。", "Every epoch is shuffled by the seed.")

_OPTIMIZERS = {
    "adamw_torch": "adamw_torch", "adamw_torch_fused": "adamw_torch", "adamw_hf": "adamw_torch", "adamw": "adamw_torch",
    "paged_adamw_8bit": "paged_adamw_8bit", "adamw_8bit": "paged_adamw_8bit", "adamw_bnb_8bit": "paged_adamw_8bit",
    "paged_adamw_32bit": "adamw_torch", "paged_adamw": "adamw_torch", "lion_32bit": "lion_32bit", "lion": "lion_32bit",
}  # fmt: skip
_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}


def optimizer(draft: Draft, option: Option) -> None:
    """The optimizer, or the nearest there is."""
    found = _OPTIMIZERS.get(option.value)
    if found is None:
        draft.note(
            option,
            "missing",
            Text(
                "这里没有这个优化器，改用 AdamW。",
                "This optimizer is not here; AdamW is used.",
            ),
        )
    elif found == option.value:
        draft.set(option, "optim", found)
    else:
        draft.set(option, "optim", found, why=Text("结果与它相同或最接近。", "It does the same or comes nearest."))


def schedule(draft: Draft, option: Option) -> None:
    """The learning rate's curve."""
    found = _SCHEDULES.get(option.value)
    if found is None:
        draft.note(
            option, "missing", Text("这里没有这种学习率调度，改用 cosine。", "This curve is not here; cosine is used.")
        )
        draft.settings["lr_scheduler_type"] = "cosine"
    else:
        draft.set(option, "lr_scheduler_type", found)


def max_steps(draft: Draft, option: Option) -> None:
    """-1 means by epochs."""
    if is_off(option.value):
        draft.note(option, "ignored", Text("按轮数训练。", "The run goes by epochs."))
    else:
        draft.set(option, "max_steps", option.value)


def precision(setting: str) -> Rule:
    """`--bf16 true`."""

    def read(draft: Draft, option: Option) -> None:
        if is_on(option.value):
            draft.set(option, "torch_dtype", setting)
        else:
            draft.note(option, "ignored", Text("没有打开，不起作用。", "Not switched on, without effect."))

    return read


_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "half": "float16", "float": "float32",
           "auto": "auto", "none": "auto", "null": "auto"}  # fmt: skip


def dtype(draft: Draft, option: Option) -> None:
    """torch_dtype, in any tool's words."""
    value = option.value.lower().removeprefix("torch.")
    why = None
    if value in ("float16", "fp16", "half"):
        why = Text(
            "float16 容易溢出成 nan，显卡支持时 bfloat16 更稳，占用相同。",
            "float16 overflows to nan more easily; bfloat16 takes the same memory where the card has it.",
        )
    draft.set(option, "torch_dtype", _DTYPES.get(value, value), why=why)


def save_limit(draft: Draft, option: Option) -> None:
    """None keeps every checkpoint."""
    draft.set(option, "save_total_limit", "1000" if is_off(option.value) else option.value)


def report(draft: Draft, option: Option) -> None:
    """Only TensorBoard has a counterpart: nothing is sent outside."""
    wanted = {value for value in option.values if not is_off(value)}
    if "tensorboard" in wanted or "all" in wanted:
        draft.set(option, "report_to", "tensorboard")
    elif wanted:
        draft.note(option, "missing", NOT_OUTSIDE)
    else:
        draft.note(option, "ignored", Text("不另行记录。", "Nothing is reported elsewhere."))


def adapter(draft: Draft, option: Option) -> None:
    """The adapter to go on from."""
    if is_off(option.value):
        draft.note(option, "ignored", Text("从头训练。", "The adapter starts afresh."))
        return
    draft.set(option, "adapters", option.value)


def resume(draft: Draft, option: Option) -> None:
    """Another tool's checkpoint cannot be gone on with here."""
    if is_off(option.value):
        draft.note(option, "ignored", Text("从头训练。", "The run starts afresh."))
        return
    draft.note(
        option,
        "missing",
        Text(
            "别的工具的检查点不能在这里接着跑优化器；要接着训练它的适配器，把那个文件夹填在“接着训练”里。",
            "Another tool's optimizer state cannot be resumed here; to go on from its adapter, enter that folder under "
            "Go on from.",
        ),
    )


# transformers.TrainingArguments, 4.30 to 5.23.
TRAINER: dict[str, Rule] = {
    **{name: same(name) for name in (
        "num_train_epochs", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay",
        "adam_beta2", "max_grad_norm", "logging_steps", "seed", "neftune_noise_alpha", "warmup_ratio",
    )},
    "max_steps": max_steps,
    "optim": optimizer,
    "lr_scheduler_type": schedule,
    "bf16": precision("bfloat16"),
    "fp16": precision("float16"),
    "report_to": report,
    "save_total_limit": save_limit,
    "resume_from_checkpoint": resume,
    **{name: fact(name) for name in (
        "warmup_steps", "eval_strategy", "eval_steps", "save_strategy", "save_steps", "gradient_checkpointing",
    )},
    "evaluation_strategy": fact("eval_strategy"),
    "activation_checkpointing": fact("gradient_checkpointing"),
    **many(useless(FOLDERS), "output_dir overwrite_output_dir run_name logging_dir"),
    **many(useless(ONE_DEVICE), """deepspeed fsdp fsdp_config ddp_backend ddp_timeout ddp_find_unused_parameters
        ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph local_rank parallelism_config accelerator_config
        average_tokens_across_devices dispatch_batches split_batches save_on_each_node log_on_each_node
        log_level_replica fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap no_cuda use_cpu use_mps_device
        xpu_backend tpu_num_cores tpu_metrics_debug use_ipex sharded_ddp place_model_on_device"""),
    **many(useless(FASTER), """tf32 torch_compile torch_compile_backend torch_compile_mode use_liger_kernel
        liger_kernel_config gradient_checkpointing_kwargs activation_checkpointing_kwargs torch_empty_cache_steps
        auto_find_batch_size dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
        dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order group_by_length
        length_column_name train_sampling_strategy eval_accumulation_steps
        fp16_full_eval bf16_full_eval fp16_opt_level fp16_backend half_precision_backend use_cache
        enable_jit_checkpoint optim_args jit_mode_eval mp_parameters past_index"""),
    **many(useless(NOT_OUTSIDE), """push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push
        hub_revision trackio_space_id trackio_bucket_id trackio_static_space_id project push_to_hub_model_id
        push_to_hub_organization push_to_hub_token"""),
    **many(useless(LOGS), """logging_strategy logging_first_step logging_nan_inf_filter log_level disable_tqdm
        include_num_input_tokens_seen include_tokens_per_second skip_memory_metrics debug"""),
    **many(useless(KEEPS_BEST), "load_best_model_at_end metric_for_best_model greater_is_better"),
    **many(useless(SAFE), "save_safetensors safe_serialization trust_remote_code"),
    **many(useless(EVAL_SIZE), """per_device_eval_batch_size eval_delay prediction_loss_only eval_on_start
        eval_do_concat_batches eval_use_gather_object include_for_metrics include_inputs_for_metrics
        batch_eval_metrics label_names per_gpu_eval_batch_size"""),
    **many(useless(Text(
        "检查点总带着优化器状态，随时可以继续训练。", "Checkpoints always hold the optimizer's state, to be resumed."
    )), "save_only_model ignore_data_skip restore_callback_states_from_checkpoint full_determinism data_seed"),
    **many(useless(Text("这里总是训练。", "It always trains here.")), "do_train do_eval do_predict remove_unused_columns"),
    **many(lacking(OTHER_METHOD), "optim_target_modules lr_scheduler_kwargs dataloader_drop_last"),
    **many(lacking(OTHER_LOSS), "label_smoothing_factor"),
    **many(useless(Text("AdamW 的常用值，这里固定。", "AdamW's usual value, fixed here.")), "adam_beta1 adam_epsilon"),
}  # fmt: skip
