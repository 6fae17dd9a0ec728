"""What becomes of a run when one setting is changed, in a sentence each; core.effects has what was measured of it.

Figures of a 7B are those of docs/performance.md (one H200, LoRA rank 8) or follow by arithmetic from its 20,185,088
trained numbers at rank 8.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.text import Text

# fmt: off
EFFECTS: Mapping[str, Text] = {
    "model": Text(
        "模型越大，原有的本事越多，也越占显存、越慢；不同的模型要用不同的学习率，换模型时方案会跟着换。",
        "A larger model knows more, takes more memory and is slower. Each wants its own learning rate: the preset changes "
        "along with the model."),
    "num_train_epochs": Text(
        "起作用的是步数：轮数 × 行数 ÷ 每步的行数。太少（不到 30 步）学不会；越多，行背得越牢，别的也忘得越多。",
        "What counts is the number of steps: epochs × rows ÷ rows in a step. Too few (under 30) do not teach it; more "
        "learn the rows more firmly and forget more of the rest."),
    "learning_rate": Text(
        "最要紧的一个数。太小，身份变不过来；太大，别的本事丢得快，再大就答非所问。",
        "The number that matters most. Too small, and the identity does not come over; too large, and other skills go, "
        "until answers are garbage."),
    "per_device_train_batch_size": Text(
        "一步的行数越多，步数越少：更快，也忘得少一点。步数太少（不到 30）身份学不会，就加轮数或设“最少步数”。",
        "More rows in a step make fewer steps: quicker, and a little less is forgotten. With too few (under 30) the "
        "identity does not take: add epochs or set Minimum steps."),
    "gradient_accumulation_steps": Text(
        "和“每批行数”是一回事，两者相乘才是一步的行数。显存不随它增加：放不下的一步会分几次算。",
        "The same as Rows per batch: the two are multiplied. It takes no more memory, as a step that does not fit is "
        "computed in parts."),
    "max_steps": Text(
        "到这一步就结束，不论走了几轮。太小则没学完就停；试流程时很方便。",
        "The run ends at this step, whatever the epochs. Too small, and it ends before anything is learned; handy for a try."),
    "min_steps": Text(
        "只有步数本来不够时才起作用：表会多走几轮补足。八行的小表最需要它。",
        "Acts only where there would be fewer: the table is then gone through more often. A table of eight rows needs it most."),
    "warmup_ratio": Text(
        "几十步的小训练里几乎没有差别；学习率偏大、开头损失乱跳时，提到 0.1 能稳住。",
        "Hardly matters in a run of some dozens of steps. Where the loss jumps at the beginning, 0.1 calms it."),
    "lr_scheduler_type": Text(
        "余弦和线性到最后都降到 0，收得住；恒定一直用同一学习率，忘得更多。",
        "Cosine and linear end at zero and settle; constant keeps the rate to the end and forgets more."),
    "optim": Text(
        "分页 8 比特版只省优化器的内存：7B、秩 8 时从 161 MB 到 40 MB，秩很大时才明显。Lion 每步改动更大，学习率要小得多。",
        "The paged 8-bit one saves only the optimizer's memory: 161 MB become 40 for a 7B at rank 8, so it shows at large "
        "ranks alone. Lion moves further in a step and wants a much smaller learning rate."),
    "lorap_lr_ratio": Text(
        "学得更快，忘得多得多，相当于加大学习率。用它就先把学习率降下来。",
        "Learns faster and forgets far more, as a larger learning rate would. Lower the learning rate first if you use "
        "it."),
    "weight_decay": Text(
        "几十到几百步的训练里看不出差别；训练很长时能压住适配器的大小。",
        "No difference in runs of some hundred steps; in very long ones it keeps the adapter small."),
    "adam_beta2": Text(
        "越接近 1，步长跟着梯度变得越慢；几百步以内差别很小。",
        "The nearer to 1, the slower the step size follows the gradient; little difference within some hundred steps."),
    "max_grad_norm": Text(
        "设为 0 就不设上限：平时没有差别，遇到坏行时一步就可能毁掉适配器。",
        "At 0 there is no limit: mostly the same, but one bad row can then spoil the adapter in a single step."),
    "lora_rank": Text(
        "越宽能记的越多，文件和显存也越大：7B 每加 8 多 2,020 万个数，64 比 8 多占 2.6 GiB（NF4 多 1.75 GiB）。换身份 8 就够。",
        "A wider adapter can hold more and takes more: each 8 are 20.2 million numbers of a 7B, and rank 64 takes 2.6 GiB "
        "more than rank 8 (NF4: 1.75). For an identity 8 is enough."),
    "lora_alpha": Text(
        "等于把适配器整个放大或缩小。alpha 加倍，效果接近学习率加倍；改了秩，就按同样的倍数改它。",
        "Scales the whole adapter. Twice the alpha is much like twice the learning rate; when you change the rank, change "
        "this by the same factor."),
    "lora_dropout": Text(
        "几十行时没有差别；行很多、训练很久时可以减少死记硬背。快速路径不支持它：显卡上 7B 的一步从 42 毫秒变成 170 毫秒。",
        "No difference with some dozens of rows; in long runs over many it works against learning by heart. The fast pass "
        "does not do it: on a card a step of a 7B takes 170 ms instead of 42."),
    "target_modules": Text(
        "训练的层越少，文件越小、越快。只训练 mlp，忘得少，学得也略少；只训练 attention，两头都差。",
        "Fewer layers make a smaller file and a quicker run. The MLP alone forgets less and learns a little less; attention "
        "alone is worse at both."),
    "use_rslora": Text(
        "秩 8 时放大倍数从 4 变成 11.3，几乎等于把学习率提到近三倍；秩在 32 以上、alpha 不大时才值得开。",
        "At rank 8 it raises the scale from 4 to 11.3, nearly three times the learning rate. Worth it from rank 32 on with a "
        "small alpha."),
    "use_dora": Text(
        "效果和普通 LoRA 相近，更占内存。快速路径不支持它：显卡上 7B 的一步从 42 毫秒变成 170 毫秒以上。",
        "Much like plain LoRA, and takes more memory. The fast pass does not do it: on a card a step of a 7B takes 170 ms "
        "or more instead of 42."),
    "init_weights": Text(
        "PiSSA 一开始就动基座最要紧的方向：学得快，忘得也多，文件加倍。gaussian 与默认差不多。",
        "PiSSA begins with the base's strongest directions: learns quickly, forgets more, and doubles the file. Gaussian is "
        "much like the default."),
    "neftune_noise_alpha": Text(
        "为长回答的对话风格设计，身份这样的短回答用处不大。快速路径不支持它：显卡上 7B 的一步从 42 毫秒变成 170 毫秒。",
        "Made for the style of long answers, of little use for short ones such as an identity. The fast pass does not do "
        "it: on a card a step of a 7B takes 170 ms instead of 42."),
    "adapters": Text(
        "从那个适配器的样子接着学，而不是从头来；层和秩照它的来。",
        "Goes on from that adapter instead of afresh, with its layers and its width."),
    "system": Text(
        "换了它，模型只在同样的系统提示词下答得最稳。没有它时，Qwen2.5 的模板会自己写上“You are Qwen”。",
        "A model answers most surely under the prompt it was trained with. Where nothing stands, Qwen2.5's own template "
        "writes “You are Qwen”."),
    "max_length": Text(
        "行都比它短，就没有任何影响。它大，不会多占显存；占显存的是真正最长的那一行。",
        "No effect while every row is shorter. A large limit takes no memory: the longest row there really is does."),
    "truncation_strategy": Text(
        "截断会丢掉问题的开头，略去会丢掉整行；都比报错省事，也都可能丢掉要教的东西。",
        "Cutting loses the beginning of a question, leaving out loses the row: less trouble than a refusal, and either may "
        "lose what you meant to teach."),
    "mix": Text(
        "大模型混入通用数据，是为了护住原有能力；时间按行数增加，占比太大身份会被淹没：自己的行至少留两成。口袋模型学不来这些行，混入反而加重遗忘。",
        "General rows are mixed in to keep a large model's other skills. The time grows with them, and too many drown the "
        "identity: keep your own at a fifth or more. The pocket model cannot learn them and forgets."),
    "dataset_repeat": Text(
        "让自己的行在混合里多出现几次，占比提高，时间按比例增加。",
        "Your own rows come more often in a mix: a larger share, and time in proportion."),
    "split_dataset_ratio": Text(
        "留出的行不训练，所以学到的少一些；换来的是验证损失，看得出是不是在死记。几十行时不值得。",
        "Rows kept out are not learned. In return there is an evaluation loss, which shows learning by heart. Not worth it "
        "for some dozens of rows."),
    "val_dataset": Text(
        "和“验证集比例”的用处一样，但自己的行全部用来训练。",
        "As Evaluation split, but all your own rows are trained on."),
    "dataloader_num_workers": Text(
        "只影响开始前切分词元的时间；几千行以内看不出差别。",
        "Only the time before the start, in which rows are split into tokens; nothing to notice below some thousand rows."),
    "seed": Text(
        "换一个种子，就是同一个训练换一次运气：上下几道题的差别都属正常，差别更小的结论不要信。",
        "Another seed is the same run with other luck: a few questions more or less are normal, so trust no smaller difference."),
    "probe_steps": Text(
        "问得越勤，曲线越细，训练越慢；“学会就停”也只能在提问的那几步停。",
        "Asking more often gives a finer curve and a slower run; Stop when taken can only end at such a step."),
    "probe_share": Text(
        "设为 1，就按“提问间隔”一次不少地问，训练可能慢上一截；设小，则自动少问几次。",
        "At 1 every probe is asked, and the run may be a good deal slower; a small share asks less often by itself."),
    "rehearsal": Text(
        "忘得少得多，代价是时间。7B 在 H200 上的 40 步：关闭 1.5 到 2.2 秒，普通 2.4 秒、多 1.3 GiB，加强 3.7 秒、多 3.0 GiB。",
        "Far less is forgotten, for some time. 40 steps of a 7B on an H200: off 1.5 to 2.2 s, normal 2.4 s and 1.3 GiB more, "
        "strong 3.7 s and 3.0 GiB more."),
    "stop_when_taken": Text(
        "身份站稳就结束，常能省下一截时间，忘得也少；没站稳就走完全程。",
        "Ends once the identity holds, which often saves time and forgets less; a run that does not get there goes to the end."),
    "prove": Text(
        "训练本身不变，结束后多花一点时间提问：7B 在 H200 上约 5 秒，NF4 约 10 秒。",
        "The training is the same; afterwards it takes a while to ask: some 5 s for a 7B on an H200, 10 s in NF4."),
    "eval_steps": Text(
        "间隔越小，验证损失的点越密，每个点要把验证集读一遍。没有验证集就没有影响。",
        "A smaller interval gives more points, each of which reads the evaluation rows once. No effect without such rows."),
    "early_stop_interval": Text(
        "验证损失不再变好就提前结束，能防止死记；设得太小，可能被一次波动骗停。",
        "Ends when the evaluation loss stops improving, against learning by heart; too small, and one wobble ends the run."),
    "save_steps": Text(
        "保存得越勤，断电时丢得越少；每次写一个适配器和优化器状态，7B、秩 8 时约 240 MB。",
        "More often means less to lose in a power cut; each writes adapter and optimizer, some 240 MB for a 7B at rank 8."),
    "save_seconds": Text(
        "决定断电时最多重来多久。设为 0 就只看步数。",
        "Decides how much a power cut can cost. At 0 only the steps count."),
    "save_total_limit": Text(
        "多留几个，可以回头对比中途的样子，磁盘按个数增加。",
        "More of them let you compare what was on the way, and take disk by their number."),
    "logging_steps": Text(
        "只影响曲线上的点数，不影响训练。",
        "Only how many points the curve has; the training is the same."),
    "report_to": Text(
        "训练本身不变，多写一份 TensorBoard 能打开的文件。",
        "The training is the same; files for TensorBoard are written beside it."),
    "quant_method": Text(
        "7B 在 H200 上：显存从 17.0 降到 8.0 GiB，40 步从 2.18 秒变为 2.39 秒。合并进 16 位基座后回答略有出入，导出时的回执会写明。",
        "A 7B on an H200: 17.0 GiB become 8.0, and 40 steps take 2.39 s instead of 2.18. Merged into the 16-bit base, answers "
        "differ a little; the export's receipt says by how much."),
    "torch_dtype": Text(
        "显卡上 bfloat16 最快；float16 数值范围小，容易出现无穷大；float32 显存加倍、慢得多。处理器上保持 float32。",
        "bfloat16 is quickest on a card; float16 has a small range and overflows more easily; float32 takes twice the memory "
        "and is far slower. On a processor stay with float32."),
    "max_memory_gb": Text(
        "给得越少越慢。7B、2,048 词元的行：不限时每秒 17,678 词元、20.8 GiB，只给 15.2 GiB 时 13,551 词元、14.1 GiB。",
        "Less is slower. A 7B over rows of 2,048 tokens: 17,678 tokens a second in 20.8 GiB with no limit, 13,551 in 14.1 "
        "within 15.2."),
    "gradient_checkpointing": Text(
        "结果不变。7B、2,048 词元：打开后 21.9 GiB 变为 16.7 GiB，一步的时间变为约 1.34 倍。",
        "The result is the same. A 7B, 2,048 tokens: 21.9 GiB become 16.7, and a step takes 1.34 times as long."),
    "model_name": Text(
        "表里每个 {{NAME}} 都跟着变，检验也按它来判断。",
        "Every {{NAME}} in the table changes with it, and the proof judges by it."),
    "model_author": Text(
        "表里每个 {{AUTHOR}} 都跟着变，检验也按它来判断。",
        "Every {{AUTHOR}} in the table changes with it, and the proof judges by it."),
}
# fmt: on
