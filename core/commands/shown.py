"""A run, or the form as it stands, as other tools' commands, with what they cannot say; and the files that go with them.

The rows go along as a file of conversations, system prompt, mix and identity already in them: the command stands alone.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core import evaluation_set, mix, models
from core.commands import peft_script
from core.config import TrainConfig
from core.dataset import Row
from core.downloads import downloads_of
from core.errors import UserError
from core.hub import is_hub_name
from core.lora import GROUPS
from core.preview import filled
from core.text import Text

if TYPE_CHECKING:
    from core.run import Run
    from core.workspace import Workspace

Kind = Literal["swift", "llamafactory", "peft"]
KINDS: tuple[Kind, ...] = ("swift", "llamafactory", "peft")
NAMES: Mapping[Kind, str] = {"swift": "ms-swift 4.6", "llamafactory": "LLaMA-Factory", "peft": "PEFT"}
FILES: Mapping[Kind, str] = {"swift": "train.sh", "llamafactory": "train.yaml", "peft": "train.py"}
_CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
# LLaMA-Factory's names of the templates, by how the model's id begins.
_TEMPLATES = {"qwen3": "qwen3_nothink", "qwen2": "qwen", "qwen1.5": "qwen", "qwen": "qwen", "llama-3": "llama3",
              "meta-llama-3": "llama3", "mistral": "mistral", "gemma": "gemma", "phi-3": "phi", "yi-": "yi",
              "internlm2": "intern2", "baichuan2": "baichuan2", "chatglm3": "chatglm3", "glm-4": "glm4",
              "deepseek": "deepseek"}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What is shown: settings, the rows as they are trained (placeholders replaced, mix included), evaluation rows.

    problem: why there are no rows.
    """

    config: TrainConfig
    rows: Sequence[Row]
    evaluation: Sequence[Row] = ()
    title: str = ""
    huggingface: bool = True
    problem: Text | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return peft_script.planned_steps(self.config, len(self.rows))

    @property
    def model(self) -> str:
        """The base model as the others find it: a hub's id, or a folder."""
        name = self.config.model
        if models.is_pocket(name):
            return str(models.POCKET_FOLDER)
        return name if is_hub_name(name) and not Path(name).is_dir() else str(Path(name).expanduser())


@dataclass(frozen=True)
class Command:
    """The text, and what of the run it cannot say."""

    kind: Kind
    text: str
    notes: tuple[Text, ...]


def show(kind: Kind, subject: Subject) -> Command:
    """The subject as the tool's command."""
    if kind == "swift":
        text = _swift(subject)
    elif kind == "llamafactory":
        text = _factory(subject)
    else:
        title = subject.title or subject.config.model
        text = peft_script.write(subject.config, subject.model, subject.steps, title, bool(subject.evaluation))
    return Command(kind, text, tuple(_notes(kind, subject)))


def files(kind: Kind, subject: Subject) -> dict[str, bytes]:
    """The command's file, and the rows that it reads: everything needed to run it elsewhere."""
    found = {FILES[kind]: show(kind, subject).text, "train.jsonl": _lines(subject.rows, subject.config.system)}
    if subject.evaluation:
        found["eval.jsonl"] = _lines(subject.evaluation, subject.config.system)
    if kind == "llamafactory":
        named = ["train", *(["eval"] if subject.evaluation else [])]
        found["dataset_info.json"] = json.dumps({name: _registered(name) for name in named}, indent=2) + "\n"
    return {name: text.encode() for name, text in found.items()}


def _lines(rows: Iterable[Row], system: str) -> str:
    turns = ([{"role": turn.role, "content": turn.content} for turn in row.messages(system)] for row in rows)
    return "".join(json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in turns)


def _registered(name: str) -> dict[str, object]:
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system"}  # fmt: skip
    return {"file_name": f"{name}.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}


def of_run(run: Run, workspace: Workspace) -> Subject:
    """A run, with the rows that were frozen into it."""
    return Subject(run.config, run.rows, run.evaluation_rows, run.title, _huggingface(workspace))


def of_form(workspace: Workspace, table: str, config: TrainConfig) -> Subject:
    """A run that is not started yet; without rows where they cannot be had, and why."""
    try:
        dataset = workspace.dataset(table)
        rows = mix.gather(dataset, config, workspace.sources.find).rows
        held = evaluation_set.draw(config, lambda name: workspace.dataset(name).resolved())
    except UserError as error:
        return Subject(config, (), (), table, _huggingface(workspace), error.text)
    config = filled(config, dataset.identity)
    return Subject(config, rows, held, table, _huggingface(workspace))


def _huggingface(workspace: Workspace) -> bool:
    return downloads_of(workspace.home).hub.name == "hf"


# -- ms-swift --


def _swift(subject: Subject) -> str:
    flags = "".join(f" \\\n  --{name} {value}" for name, value in _swift_flags(subject))
    return f"CUDA_VISIBLE_DEVICES=0 \\\nswift sft{flags}\n"


def _swift_flags(subject: Subject) -> Iterator[tuple[str, str]]:
    config = subject.config
    yield "model", shlex.quote(subject.model)
    if subject.huggingface and is_hub_name(subject.model):
        yield "use_hf", "true"
    yield "tuner_type", "lora"
    yield "dataset", "train.jsonl"
    if subject.evaluation:
        yield "val_dataset", "eval.jsonl"
    elif config.split_dataset_ratio:
        yield "split_dataset_ratio", repr(config.split_dataset_ratio)
    # In a file's rows already; here so that `swift infer` uses it, too. A name of a file would be read instead.
    if config.system and not config.system.endswith(".txt"):
        yield "system", shlex.quote(config.system.replace("\n", "\\n"))
    yield "max_length", str(config.max_length)
    yield "truncation_strategy", "delete" if config.truncation_strategy == "raise" else config.truncation_strategy
    if config.torch_dtype != "auto":
        yield "torch_dtype", config.torch_dtype
    if config.quant_method == "bnb":
        yield "quant_method", "bnb"
        yield "quant_bits", "4"
    yield "lora_rank", str(config.lora_rank)
    yield "lora_alpha", str(config.lora_alpha)
    yield "lora_dropout", _number(config.lora_dropout)
    yield "target_modules", " ".join(_targets(config))
    for name in ("use_rslora", "use_dora"):
        if getattr(config, name) == "true":
            yield name, "true"
    if config.init_weights != "true":
        yield "init_weights", config.init_weights
    if config.lorap_lr_ratio:
        yield "lorap_lr_ratio", _number(config.lorap_lr_ratio)
    if config.adapters:
        yield "adapters", shlex.quote(config.adapters)
    yield from _trainer("swift", subject)
    if config.early_stop_interval and _measures(subject):
        yield "early_stop_interval", str(config.early_stop_interval)
    yield "output_dir", "output"


# -- LLaMA-Factory --


def _factory(subject: Subject) -> str:
    lines = "".join(f"{name}: {value}\n" for name, value in _factory_settings(subject))
    return f"# llamafactory-cli train train.yaml\n{lines}"


def _factory_settings(subject: Subject) -> Iterator[tuple[str, str]]:
    config = subject.config
    yield "model_name_or_path", json.dumps(subject.model)
    yield "stage", "sft"
    yield "do_train", "true"
    yield "finetuning_type", "lora"
    yield "template", _template(subject.model)
    yield "dataset_dir", "."
    yield "dataset", "train"
    if subject.evaluation:
        yield "eval_dataset", "eval"
    elif config.split_dataset_ratio:
        yield "val_size", repr(config.split_dataset_ratio)
    yield "cutoff_len", str(config.max_length)
    if config.torch_dtype in ("auto", "bfloat16"):
        yield "bf16", "true"
    elif config.torch_dtype == "float16":
        yield "fp16", "true"
    if config.quant_method == "bnb":
        yield "quantization_bit", "4"
        yield "quantization_method", "bnb"
    yield "lora_rank", str(config.lora_rank)
    yield "lora_alpha", str(config.lora_alpha)
    yield "lora_dropout", _number(config.lora_dropout)
    yield "lora_target", "all" if config.target_modules == "all-linear" else ",".join(_targets(config))
    for name in ("use_rslora", "use_dora"):
        if getattr(config, name) == "true":
            yield name, "true"
    if config.init_weights.startswith("pissa"):
        yield "pissa_init", "true"
        yield "pissa_iter", "-1" if config.init_weights == "pissa" else "16"
    if config.lorap_lr_ratio:
        yield "loraplus_lr_ratio", _number(config.lorap_lr_ratio)
    if config.adapters:
        yield "adapter_name_or_path", json.dumps(config.adapters)
    yield from _trainer("llamafactory", subject)
    if config.early_stop_interval and _measures(subject):
        yield "early_stopping_steps", str(config.early_stop_interval)
    yield "output_dir", "output"


def _template(model: str) -> str:
    name = model.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    if models.is_pocket(model):
        return "qwen"
    return next((template for start, template in _TEMPLATES.items() if name.startswith(start)), "default")


# -- both --


def _trainer(kind: Kind, subject: Subject) -> Iterator[tuple[str, str]]:
    """What both take from transformers."""
    config, steps = subject.config, subject.steps
    if config.max_steps or _padded(subject):
        yield "max_steps", str(steps)
    else:
        yield "num_train_epochs", _number(config.num_train_epochs)
    yield "per_device_train_batch_size", str(config.per_device_train_batch_size)
    yield "gradient_accumulation_steps", str(config.gradient_accumulation_steps)
    yield "learning_rate", _number(config.learning_rate)
    constant = "constant_with_warmup" if config.warmup_ratio else "constant"
    yield "lr_scheduler_type", constant if config.lr_scheduler_type == "constant" else config.lr_scheduler_type
    yield "warmup_ratio", _number(config.warmup_ratio)
    yield "optim", config.optim
    yield "weight_decay", _number(config.weight_decay)
    yield "adam_beta2", _number(config.adam_beta2)
    yield "max_grad_norm", _number(config.max_grad_norm)
    if config.neftune_noise_alpha:
        yield "neftune_noise_alpha", _number(config.neftune_noise_alpha)
    if config.gradient_checkpointing == "off":
        yield ("gradient_checkpointing", "false") if kind == "swift" else ("disable_gradient_checkpointing", "true")
    if _measures(subject):
        yield "eval_strategy", "steps"
        yield "eval_steps", str(config.eval_steps)
    yield "save_steps", str(config.save_steps)
    yield "save_total_limit", str(config.save_total_limit)
    yield "logging_steps", str(config.logging_steps)
    if config.report_to != "none":
        yield "report_to", config.report_to
    yield "seed", str(config.seed)


def _trained(subject: Subject) -> int:
    rows = len(subject.rows)
    return rows - (0 if subject.evaluation else subject.config.held_out(rows))


def _padded(subject: Subject) -> bool:
    """Whether the run is longer than its epochs, to have its least number of steps."""
    config, rows = subject.config, _trained(subject)
    return bool(rows) and not config.max_steps and config.steps(rows) != replace(config, min_steps=0).steps(rows)


def _measures(subject: Subject) -> bool:
    return bool(subject.evaluation or subject.config.split_dataset_ratio)


def _targets(config: TrainConfig) -> tuple[str, ...]:
    return GROUPS.get(config.target_modules) or tuple(config.target_modules.split())


def _number(value: float) -> str:
    # With a point: YAML reads 1e-04 as a word.
    text = repr(float(value))
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return text.removesuffix(".0") if "e" not in text else text


def _notes(kind: Kind, subject: Subject) -> Iterator[Text]:
    config = subject.config
    if subject.problem is not None:
        yield subject.problem
    yield Text(
        "数据要放在旁边：点“下载”得到命令和 train.jsonl（系统提示词、混入的行和身份卡都已写进去）。",
        "The rows go beside it: Download gives the command and train.jsonl (system prompt, mix and identity are in it).",
    )
    lacking = [(config.rehearsal != "off", Text("防遗忘", "the rehearsal guard")),
               (config.stop_when_taken == "true", Text("学会就停", "stop when taken")),
               (config.prove == "true", Text("训练后检验", "the proof after the run")),
               (bool(config.probe_steps), Text("途中提问", "probing between steps")),
               (config.save_seconds not in (0, TrainConfig.save_seconds), Text("按时间保存", "saving by time")),
               (bool(config.max_memory_gb), Text("显存上限", "the memory limit"))]  # fmt: skip
    absent = [text for on, text in lacking if on]
    if absent:
        yield Text(
            f"没有对应写法，不会带上：{'、'.join(text.zh for text in absent)}。",
            f"Without counterpart and left out: {', '.join(text.en for text in absent)}.",
        )
    if _padded(subject):
        yield Text(
            f"“最少步数”没有对应写法，按算出来的 {subject.steps} 步写。",
            f"Minimum steps has no counterpart; the {subject.steps} steps it comes to are written.",
        )
    if kind != "peft" and config.optim == "lion_32bit":
        yield Text(
            "那里的 Lion 由 bitsandbytes 提供，需要显卡。", "Lion comes from bitsandbytes there and needs a card."
        )
    if kind == "llamafactory":
        yield from _factory_notes(subject)
    if kind == "swift" and config.truncation_strategy == "raise":
        yield Text(
            "ms-swift 没有“报错”这一档：超过 max_length 的行会被悄悄丢掉。",
            "ms-swift cannot refuse: rows over max_length are dropped in silence there.",
        )
    if kind == "peft" and config.truncation_strategy != "raise":
        yield Text(
            "脚本不截断也不略去：超过 MAX_LENGTH 的行会报错。",
            "The script neither cuts nor leaves out: a row over MAX_LENGTH is refused.",
        )
    if kind != "peft":
        yield Text(
            "行的先后、dropout 的随机数各工具不同，曲线接近但不会逐位相同。",
            "Row order and dropout's draws differ between tools: the curve comes close, not to the bit.",
        )
    if any(
        mark in text for row in subject.rows for text in (row.question, row.output, row.system) for mark in _CONTROL
    ):
        yield Text(
            "有的行里写了特殊词元（如 <|im_end|>）。OneCard 当作文字，那里会当作真正的特殊词元。",
            "Some rows hold control strings such as <|im_end|>. They are text in OneCard and real control tokens there.",
        )


def _factory_notes(subject: Subject) -> Iterator[Text]:
    if _template(subject.model) == "default":
        yield Text(
            "template 请改成这个模型在 LLaMA-Factory 里的模板名。",
            "Set template to LLaMA-Factory's name of this model's template.",
        )
    if subject.config.init_weights == "gaussian":
        yield Text("gaussian 初始值没有对应写法。", "The gaussian start has no counterpart.")
    yield Text(
        "LLaMA-Factory 会把超过 cutoff_len 的行悄悄截断，回答可能被截掉结尾。",
        "LLaMA-Factory cuts rows over cutoff_len in silence, sometimes an answer's end.",
    )
