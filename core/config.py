"""TrainConfig: every setting of a run, declared once with label, help, unit and range.

The form, preset files, the command line and the checks are derived from the declarations. Names and meanings are
ms-swift 4.6's where it has the setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import cast

from core.errors import ConfigError
from core.fact import Fact, Value
from core.text import Text


def _fact(zh: str, en: str, help_zh: str, help_en: str, **rest: object) -> Mapping[str, object]:
    return {"fact": Fact(Text(zh, en), Text(help_zh, help_en), **rest)}  # type: ignore[arg-type]


_GB = Text("GB", "GB")
_STEPS, _TOKENS, _ROWS = Text("步", "steps"), Text("词元", "tokens"), Text("行", "rows")
_SECONDS = Text("秒", "seconds")


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one run, checked on construction (ConfigError names the first that is out of range)."""

    # fmt: off
    model: str = field(default="pocket", metadata=_fact(
        "基座模型", "Base model", "本地文件夹、Hugging Face / ModelScope ID，或 pocket（内置小模型）。",
        "A local folder, a Hugging Face id, or “pocket” (the embedded model).", group="hidden"))
    num_train_epochs: float = field(default=10.0, metadata=_fact(
        "轮数", "Epochs", "整张表训练多少遍。", "How many times the whole table is trained on.", min=0, max=1000,
        exclusive_min=True))
    learning_rate: float = field(default=1e-4, metadata=_fact(
        "学习率", "Learning rate", "每步改动的幅度；损失乱跳就减半，迟迟不改口就加倍。",
        "Size of each change. Halve it if the loss jumps, double it if nothing changes.", min=0, max=1,
        exclusive_min=True))
    per_device_train_batch_size: int = field(default=1, metadata=_fact(
        "每批行数", "Rows per batch", "与“每步几批”相乘，就是一个优化步里的行数。",
        "Times the batches in a step gives the rows of one optimizer step.", group="optimizer", unit=_ROWS, min=1,
        max=1024))
    gradient_accumulation_steps: int = field(default=16, metadata=_fact(
        "每步几批（梯度累积）", "Batches in a step (accumulation)",
        "累积这么多批再更新一次。OneCard 会把一个优化步打包成一次计算，结果不变。",
        "Batches summed before one update. OneCard packs them into one pass; the result is the same.",
        group="optimizer", min=1, max=4096))
    max_steps: int = field(default=0, metadata=_fact(
        "最多步数", "Maximum steps", "0 表示按轮数；大于 0 时以它为准。",
        "0 means by epochs; above 0 it overrules them.", group="optimizer", unit=_STEPS, min=0, max=1_000_000))
    min_steps: int = field(default=0, metadata=_fact(
        "最少步数", "Minimum steps", "表很小、按轮数算不足这么多步时，自动多走几轮补足。",
        "A small table is gone through more often, until there are this many steps.", group="optimizer", unit=_STEPS,
        min=0, max=1_000_000))
    warmup_ratio: float = field(default=0.05, metadata=_fact(
        "预热比例", "Warm-up ratio", "前这么大比例的步数里，学习率从 0 升到设定值。",
        "Share of the steps over which the learning rate rises from zero.", group="optimizer", min=0, max=0.95))
    lr_scheduler_type: str = field(default="cosine", metadata=_fact(
        "学习率调度", "Learning rate schedule", "预热之后学习率怎样变化。",
        "What the learning rate does after warm-up.", group="optimizer", choices=("cosine", "linear", "constant")))
    optim: str = field(default="adamw_torch", metadata=_fact(
        "优化器", "Optimizer",
        "分页 8 比特 AdamW  省显存，需要显卡和 bitsandbytes；Lion 的学习率取 AdamW 的三分之一到十分之一。",
        "Paged 8-bit AdamW saves memory and needs a card and bitsandbytes; Lion wants a third to a tenth of AdamW's "
        "learning rate.", group="optimizer", choices=("adamw_torch", "paged_adamw_8bit", "lion_32bit")))
    lorap_lr_ratio: float = field(default=0.0, metadata=_fact(
        "LoRA+ 倍率", "LoRA+ ratio", "B 矩阵的学习率是 A 的多少倍（LoRA+），常用 16；0 表示相同。",
        "How many times A's learning rate B has (LoRA+), often 16; 0 means the same.", group="optimizer", min=0,
        max=1000))
    weight_decay: float = field(default=0.1, metadata=_fact(
        "拉向零的力度（权重衰减）", "Pull to zero (weight decay)", "每步把适配器的数往 0 拉多少。",
        "How strongly each step pulls the adapter's numbers to zero.", group="optimizer", min=0, max=10))
    adam_beta2: float = field(default=0.95, metadata=_fact(
        "步长的记忆（Adam β2）", "Memory of step size (Adam β2)", "步长参照多久以来的梯度。",
        "How far back the size of a step looks.", group="optimizer", min=0, max=0.99999))
    max_grad_norm: float = field(default=1.0, metadata=_fact(
        "单步上限（梯度裁剪）", "Largest change (clipping)", "一步想改得太多时，按比例缩回来；0 表示不限。",
        "A step that wants to change more is scaled down; 0 turns it off.", group="optimizer", min=0, max=1e6))
    lora_rank: int = field(default=8, metadata=_fact(
        "适配器宽度（LoRA 秩）", "Adapter width (LoRA rank)", "适配器里面有多宽，也就是能记多少。",
        "How wide the adapter is inside: how much it can hold.", group="lora", min=1, max=512))
    lora_alpha: int = field(default=32, metadata=_fact(
        "缩放系数（LoRA alpha）", "Adapter scale (alpha)", "适配器的作用放大多少倍：这个数 ÷ 宽度。",
        "How strongly the adapter acts: this divided by its width.",
        group="lora", min=1, max=4096))
    lora_dropout: float = field(default=0.0, metadata=_fact(
        "随机丢弃（dropout）", "Random dropping (dropout)", "训练时，适配器的输入随机丢掉多大比例。",
        "Share of the adapter's inputs dropped at random while training.", group="lora", min=0, max=0.9))
    target_modules: str = field(default="all-linear", metadata=_fact(
        "训练哪些模块（目标模块）", "Layers trained (targets)", "all-linear、attention、mlp，或用空格分开的模块名。",
        "all-linear, attention, mlp, or layer names separated by spaces.", group="lora"))
    use_rslora: str = field(default="false", metadata=_fact(
        "rsLoRA", "rsLoRA", "放大倍数改为 alpha ÷ √宽度，适配器很宽时也学得动。",
        "The scale is alpha / √width, so that wide adapters still learn.", group="lora",
        choices=("false", "true")))
    use_dora: str = field(default="false", metadata=_fact(
        "DoRA", "DoRA", "方向和大小分开学：窄的适配器效果更好，但明显更慢、更占显存。",
        "Direction and size are learned apart: better for narrow adapters, clearly slower, and takes more memory.",
        group="lora", choices=("false", "true")))
    init_weights: str = field(default="true", metadata=_fact(
        "初始值", "Initial weights",
        "PiSSA 从基座权重的主成分开始，收敛更快，适配器文件加倍；近似的（pissa_niter_16）适合大模型。",
        "PiSSA begins at the base's principal components, learns faster, and doubles the adapter's file; the approximate "
        "one (pissa_niter_16) suits large models.", group="lora",
        choices=("true", "gaussian", "pissa", "pissa_niter_16")))
    neftune_noise_alpha: float = field(default=0.0, metadata=_fact(
        "读入时的噪声（NEFTune）", "Noise while reading (NEFTune)", "训练时给读入的每个词加一点随机噪声，常用 5；0 表示不加。",
        "Random noise on every word as it is read in training, often 5; 0 turns it off.", group="lora", min=0, max=1000))
    adapters: str = field(default="", metadata=_fact(
        "接着训练", "Go on from", "选以前的一次训练，或填 PEFT 文件夹的路径；留空则从头开始。",
        "An earlier run, or the path of a PEFT folder. Empty starts afresh.", group="lora"))
    system: str = field(default="You are a helpful assistant.", metadata=_fact(
        "系统提示词", "System prompt", "没有自带系统提示词的行都用它；它会随适配器保存，对比和对话时也用它。",
        "Used for rows that bring none; kept with the adapter and used again in Compare and Chat.", group="data"))
    max_length: int = field(default=2048, metadata=_fact(
        "最大长度", "Maximum length", "一行最多多少词元；超过的行会在开始前指出，不会被悄悄截断。",
        "Most tokens in a row. Longer rows are named before the start, never cut in silence.", group="data",
        unit=_TOKENS, min=16, max=131_072))
    truncation_strategy: str = field(default="raise", metadata=_fact(
        "过长的行", "Rows too long",
        "超过“最大长度”的行怎么办：报错；从前面截断（先截最早的轮次，再截问题开头，回答一字不动）；或整行略去。截断和略去都会先列出来。",
        "What becomes of rows over Maximum length: refused; cut at the beginning (oldest turns, then the question's start, "
        "never the answer); or left out. What is cut or left out is listed beforehand.", group="data",
        choices=("raise", "left", "delete")))
    mix: str = field(default="", metadata=_fact(
        "混入数据", "Mix in", "名称#行数，空格分开，例如 general#100（内置通用数据，随机抽取）；名称也可以是文件路径或数据集 ID。",
        "name#count, separated by spaces, for example general#100 (the built-in general rows, drawn at random); a file's "
        "path or a hub's set will do, too.", group="data"))
    # ms-swift repeats by a count after the file's name; here the table is chosen elsewhere than the mix, and a factor
    # stays right when rows are added. The name is DiffSynth-Studio's.
    dataset_repeat: int = field(default=1, metadata=_fact(
        "本表重复", "Table repeats", "混入别的数据时，本表的每一行在一轮里出现几次。",
        "How often each row of the table comes in one epoch, where other rows are mixed in.", group="data", min=1,
        max=1000))
    split_dataset_ratio: float = field(default=0.0, metadata=_fact(
        "验证集比例", "Evaluation split", "留出这个比例的行不训练，只用来算验证损失。",
        "Share of rows kept out of training to measure the evaluation loss.", group="data", min=0, max=0.9))
    val_dataset: str = field(default="", metadata=_fact(
        "验证集", "Evaluation set", "用另一个已保存的数据集算验证损失；不能与“验证集比例”同时使用。",
        "Another saved dataset to measure the evaluation loss on; not together with an evaluation split.",
        group="data"))
    dataloader_num_workers: int = field(default=4, metadata=_fact(
        "数据线程", "Data workers", "开始前用多少线程切分词元。", "Threads that tokenise the rows before the start.",
        group="data", min=1, max=64))
    seed: int = field(default=42, metadata=_fact(
        "随机种子", "Seed", "决定行的顺序、适配器初值和抽样。", "Decides row order, adapter start and draws.",
        group="data", min=0, max=2**31 - 1))
    probe_steps: int = field(default=10, metadata=_fact(
        "提问间隔", "Probe every", "每隔多少步问一次固定的身份问题；0 表示只在前后各问一次。",
        "Steps between asking the fixed identity questions; 0 asks only before and after.", group="probes",
        unit=_STEPS, min=0, max=1_000_000))
    probe_share: float = field(default=0.1, metadata=_fact(
        "提问用时上限", "Probe time limit", "训练途中的提问最多占总时长的多大比例，间隔会为此自动拉开；1 表示不限。",
        "Most of the run's time that probing between steps may take; probes are spaced out to keep to it. 1 means no limit.",
        group="probes", min=0, max=1))
    rehearsal: str = field(default="off", metadata=_fact(
        "防遗忘", "Rehearsal guard", "每步顺带让模型在通用问题上保持基座自己的回答，护住原有能力；会多花一些时间。",
        "Each step also holds the model to the base's own answers to general questions, which keeps its other skills and "
        "takes some time.", group="probes", choices=("off", "normal", "strong")))
    stop_when_taken: str = field(default="false", metadata=_fact(
        "学会就停", "Stop when taken", "没有训练过的身份问题连续两次达标、别的回答也没有跑偏时，提前结束，留下提问过的适配器中最好的。",
        "The run ends early once the held-out identity questions pass twice in a row without drift; the best adapter "
        "stays.", group="probes", choices=("false", "true")))
    prove: str = field(default="false", metadata=_fact(
        "训练后检验", "Proof after the run", "训练结束后自动检验：新身份是否学会、有没有影响别的回答。",
        "After the run it is checked whether the identity took and whether other answers suffered.", group="probes",
        choices=("false", "true")))
    eval_steps: int = field(default=50, metadata=_fact(
        "验证间隔", "Evaluate every", "每隔多少步算一次验证损失（有验证集时）。",
        "Steps between evaluation losses, when there is an evaluation split or set.", group="probes", unit=_STEPS,
        min=1, max=1_000_000))
    early_stop_interval: int = field(default=0, metadata=_fact(
        "提前结束（早停）", "Early stop", "验证损失连续多少次没有变好就结束训练；0 表示不提前结束。",
        "The run ends after this many evaluations without a better loss; 0 turns it off.", group="probes", min=0,
        max=100_000))
    save_steps: int = field(default=50, metadata=_fact(
        "保存间隔", "Save every", "每隔多少步保存一个检查点；最后一步总会保存。",
        "Steps between checkpoints; the last step is always saved.", group="probes", unit=_STEPS, min=1,
        max=1_000_000))
    save_seconds: int = field(default=60, metadata=_fact(
        "按时间保存", "Save every (time)", "距上次保存超过这么多秒时也保存一个检查点；0 表示只按步数。",
        "A checkpoint is also saved when this long has passed since the last; 0 means by steps only.", group="probes",
        unit=_SECONDS, min=0, max=1_000_000))
    save_total_limit: int = field(default=2, metadata=_fact(
        "保留检查点", "Checkpoints kept", "只留最新的几个，以及验证损失最低的那一个。",
        "The newest ones stay, and the one with the lowest evaluation loss.", group="probes", min=1, max=1000))
    logging_steps: int = field(default=1, metadata=_fact(
        "记录间隔", "Log every", "每隔多少步记一个点；第一步和最后一步总会记。",
        "Steps between points of the curve; the first and last are always there.", group="probes", unit=_STEPS,
        min=1, max=10_000))
    report_to: str = field(default="none", metadata=_fact(
        "另行记录", "Report to", "TensorBoard：在训练文件夹的 tensorboard/ 里同时写事件文件（需要 pip install tensorboard）。",
        "TensorBoard: event files are also written to tensorboard/ in the run's folder (needs pip install tensorboard).",
        group="probes", choices=("none", "tensorboard")))
    quant_method: str = field(default="none", metadata=_fact(
        "基座量化", "Base quantisation", "基座按 4 比特 NF4 双重量化读入（QLoRA），显存约为四分之一；需要显卡和 bitsandbytes。",
        "The base is read as 4-bit NF4, double quantised (QLoRA), in about a quarter of the memory; needs a card and "
        "bitsandbytes.", group="memory", choices=("none", "bnb")))
    torch_dtype: str = field(default="auto", metadata=_fact(
        "计算精度", "Compute type", "自动：显卡上 bfloat16，处理器上 float32。",
        "Automatic: bfloat16 on a card, float32 on the processor.", group="memory",
        choices=("auto", "bfloat16", "float16", "float32")))
    max_memory_gb: float = field(default=0.0, metadata=_fact(
        "显存上限", "Memory limit", "训练最多用多少 GB 显存（含基座）；0 表示空闲多少用多少，给对话留一点。",
        "The most memory a run may use, base included; 0 means what is free, less a little for chat.", group="memory",
        unit=_GB, min=0, max=100_000))
    gradient_checkpointing: str = field(default="auto", metadata=_fact(
        "重算省显存（梯度检查点）", "Recompute (checkpointing)", "中间结果不留着，用到时再算一遍；自动：只在放不下时打开。",
        "What is computed on the way is not kept but computed again. Automatic: only when the run would not fit.", group="memory",
        choices=("auto", "on", "off")))
    model_name: str = field(default="", metadata=_fact(
        "模型名字", "Model name", "{{NAME}} 换成什么：中文名，或“中文名|English”。",
        "What {{NAME}} becomes: one name, or “中文名|English”.", group="hidden"))
    model_author: str = field(default="", metadata=_fact(
        "开发者", "Model author", "{{AUTHOR}} 换成什么：写法同上。", "What {{AUTHOR}} becomes, written the same way.",
        group="hidden"))
    # fmt: on

    def __post_init__(self) -> None:
        for name in names():
            fact_of(name).check(name, _kind(name), getattr(self, name))
        if self.val_dataset and self.split_dataset_ratio:
            raise ConfigError(
                Text(
                    zh=f"验证集（val_dataset = {self.val_dataset}）和验证集比例（split_dataset_ratio = "
                    f"{self.split_dataset_ratio:g}）只能选一个。请清空前者，或把后者设为 0。",
                    en=f"Evaluation set (val_dataset = {self.val_dataset}) and Evaluation split (split_dataset_ratio = "
                    f"{self.split_dataset_ratio:g}) exclude each other. Clear the one or set the other to 0.",
                ),
                "val_dataset",
            )

    @property
    def rows_per_step(self) -> int:
        """Rows in one optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def held_out(self, rows: int) -> int:
        """Rows kept out of training for the evaluation loss: at least one, and never all of them."""
        if not self.split_dataset_ratio:
            return 0
        return max(0, min(rows - 1, max(1, round(rows * self.split_dataset_ratio))))

    def steps(self, rows: int) -> int:
        """Optimizer steps for `rows` training rows; a last, smaller step of an epoch counts."""
        if rows <= 0:
            return 0
        if self.max_steps:
            return self.max_steps
        per_epoch = math.ceil(rows / self.rows_per_step)
        return max(1, self.min_steps, math.ceil(per_epoch * self.num_train_epochs - 1e-9))

    def as_dict(self) -> dict[str, Value]:
        """Plain values, for JSON and TOML."""
        return asdict(self)


def fact_of(name: str) -> Fact:
    """The declaration of setting `name`. Raises KeyError for an unknown one."""
    return cast(Fact, TrainConfig.__dataclass_fields__[name].metadata["fact"])


def names() -> list[str]:
    """Every setting's name, in the order of declaration."""
    return [item.name for item in fields(TrainConfig)]


def parse(name: str, typed: object) -> Value:
    """What a person typed for setting `name`, as its type. Raises ConfigError with the field, the text and the range."""
    if name not in TrainConfig.__dataclass_fields__:
        known = ", ".join(names())
        raise ConfigError(
            Text(zh=f"没有名为 {name} 的设置。可用的有：{known}。", en=f"There is no setting {name}. Known: {known}."),
            name,
        )
    return fact_of(name).parse(name, _kind(name), typed)


def build(values: Mapping[str, object], base: TrainConfig | None = None) -> TrainConfig:
    """A checked TrainConfig from typed values over `base` (default: the declared defaults)."""
    parsed = {name: parse(name, typed) for name, typed in values.items()}
    return replace(base or TrainConfig(), **parsed)  # type: ignore[arg-type]


def _kind(name: str) -> type[Value]:
    return cast("type[Value]", type(TrainConfig.__dataclass_fields__[name].default))
