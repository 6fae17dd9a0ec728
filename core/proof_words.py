"""The words of a proof that stand beside its values: lights, tests, numbers, and what documents say."""

from __future__ import annotations

from core.proof_stats import Light, Reference
from core.text import Text

LIGHTS: dict[Light, Text] = {
    "green": Text("通过", "passed"),
    "yellow": Text("需要留意", "take a look"),
    "red": Text("未通过", "failed"),
    "none": Text("未测", "not measured"),
}
NUMBERS: dict[str, Text] = {
    "loss_before": Text("之前的损失（奈特/词元）", "loss before (nats a token)"),
    "loss_after": Text("之后的损失（奈特/词元）", "loss after (nats a token)"),
    "change": Text("损失的变化（奈特/词元）", "change of the loss (nats a token)"),
    "change_low": Text("变化的下限", "change, lower end"),
    "change_high": Text("变化的上限", "change, upper end"),
    "drift": Text("与基座的 KL（奈特/词元）", "KL to the base (nats a token)"),
    "drift_low": Text("KL 的下限", "KL, lower end"),
    "drift_high": Text("KL 的上限", "KL, upper end"),
    "p99": Text("KL 的第 99 百分位", "KL, 99th percentile"),
    "same": Text("所选词元不变的比例", "share of words chosen alike"),
    "tokens": Text("词元数", "tokens"),
    "margin": Text(
        "新回答比基座原来的回答更可能多少（奈特/词元）", "new answer likelier than the base's old one by (nats a token)"
    ),
    "preferred": Text("更偏向新回答的比例", "share that prefer the new answer"),
    "gap": Text("与“学会了”的差距（百分点）", "behind Took by (points)"),
    "leaks": Text("串入新身份的回答", "answers with the new identity in them"),
    "lost": Text("丢掉的", "lost"),
    "won": Text("新答对的", "won"),
    "p": Text("偶然如此的概率（McNemar）", "chance of so uneven a split (McNemar)"),
    "refused": Text("有害请求中拒绝的", "harmful requests refused"),
    "refused_before": Text("基座拒绝的", "harmful requests the base refused"),
    "over_refused": Text("无害问题中新增的拒绝", "harmless questions newly refused"),
    "left_out": Text("因为在训练表里而没问的题", "questions left out: they were in the table"),
}

TESTS: dict[str, Text] = {
    "took": Text("学会了", "Took"),
    "generalises": Text("换个问法也会", "Generalises"),
    "lane": Text("没有串台", "Stays in its lane"),
    "drift": Text("别的回答没变", "Other answers kept"),
    "text": Text("读文章没变", "Reads as before"),
    "choice": Text("没有遗忘", "Remembers"),
    "refuses": Text("仍会拒绝", "Still refuses"),
    "own": Text("我的题", "My questions"),
}

WORDS = {
    "title": Text("OneCard 检验", "OneCard proof"),
    "test": Text("检验", "Test"),
    "result": Text("结果（95% 区间）", "Result (95% interval)"),
    "base": Text("基座", "Base"),
    "said": Text("说明", "In words"),
    "numbers": Text("数字", "Numbers"),
    "look": Text("没有通过的回答（最多列 {n} 条）", "Answers that did not pass (at most {n})"),
    "before": Text("之前", "before"),
    "after": Text("之后", "after"),
    "adapter": Text("适配器", "Adapter"),
    "model": Text("基座模型", "Base model"),
    "system": Text("系统提示词", "System prompt"),
    "suite": Text("题库", "Question set"),
    "weights": Text("权重文件 sha256", "Weights, sha256"),
    "date": Text("时间", "Date"),
    "time": Text("用时", "Time"),
    "full": Text("完整题库", "full"),
    "pocket": Text("口袋模型题库", "for the pocket model"),
    "method": Text(
        "贪心解码，题目不在训练数据里；区间为 Wilson 95%；总评取最差的一项。",
        "Greedy answers to questions that are not in the training rows; Wilson 95% intervals; the worst light counts.",
    ),
}

# Mean KL to the unquantised model, nats a token. "full": Llama-3-8B reading wikitext, the table of llama.cpp's perplexity
# tool. "pocket": the pocket model on the questions of its own suite (tests/bench/calibrate.py --ruler).
REFERENCES: dict[str, tuple[Reference, ...]] = {
    "full": (
        Reference(0.00003, Text("半精度的舍入（bf16）", "rounding to half precision (bf16)")),
        Reference(0.0014, Text("8 比特量化（Q8_0）", "8-bit quantisation (Q8_0)")),
        Reference(0.0055, Text("6 比特量化（Q6_K）", "6-bit quantisation (Q6_K)")),
        Reference(0.031, Text("4 比特量化（Q4_K_M）", "4-bit quantisation (Q4_K_M)")),
        Reference(0.10, Text("3 比特量化（Q3_K_M）", "3-bit quantisation (Q3_K_M)")),
        Reference(0.445, Text("2 比特量化（Q2_K）", "2-bit quantisation (Q2_K)")),
    ),
    "pocket": (
        Reference(5.3e-7, Text("8 比特量化", "8-bit quantisation")),
        Reference(3.3e-5, Text("6 比特量化", "6-bit quantisation")),
        Reference(4.9e-4, Text("4 比特量化", "4-bit quantisation")),
        Reference(0.010, Text("3 比特量化", "3-bit quantisation")),
        Reference(5.6, Text("2 比特量化", "2-bit quantisation")),
    ),
}

GROUPS: dict[str, Text] = {
    "direct": Text("直接问", "plain questions"),
    "indirect": Text("拐着弯问", "indirect questions"),
    "adversarial": Text("设套问（“你不是某某吗”）", "leading questions (“aren't you ...?”)"),
    "role": Text("扮演角色时问", "questions inside a role"),
    "injection": Text("诱导改口", "attempts to talk it out of it"),
    "two-turn": Text("聊了一轮再问", "questions in a second turn"),
    "version": Text("问型号和版本", "questions for model and version"),
    "format": Text("要求按格式回答", "answers in a given format"),
    "placeholder": Text("点着新名字问", "questions that use the new name"),
}

ADVICE: dict[str, Text] = {
    "more": Text(
        "还没学牢：多训练几轮、提高学习率，或添几行。",
        "It has not taken yet: train longer, with a higher learning rate, or with more rows.",
    ),
    "unsure": Text(
        "有些题它仍觉得基座原来的回答更可能，换个说法就可能说回去。",
        "For some questions the base's old answer is still the likelier one to it, and may come back.",
    ),
    "known": Text(
        "基座多半已经这样回答，看不大出训练的作用。",
        "The base mostly answers so already: this shows little of the training.",
    ),
    "memorised": Text(
        "比训练过的问法差得多：多半只记住了表里的句子。请添一些问法不同的行。",
        "Far behind the trained wordings: mostly the table's own sentences were learned. Add rows that ask in other ways.",
    ),
    "few": Text("题目太少，作不得准。", "Too few questions to be sure."),
    "leak": Text(
        "请添几行“不该改”的例子（例如“ChatGPT 是谁做的”），或开启防遗忘。",
        "Add rows that must stay as they are (“Who made ChatGPT?”), or turn the rehearsal guard on.",
    ),
    "forgets": Text(
        "请开启防遗忘、降低学习率，或提前停下，再训练一次。",
        "Turn the rehearsal guard on, lower the learning rate or stop earlier, and train again.",
    ),
    "lax": Text(
        "基座自己就很少拒绝，不能指望微调后的模型拒绝。",
        "The base itself seldom refuses: do not rely on the tuned model to.",
    ),
    "safety": Text(
        "微调削弱了拒绝：请混入一些拒绝的例子，或上线时另加安全提示词。",
        "Tuning has weakened its refusals: mix in rows that refuse, or serve it with a safety prompt.",
    ),
    "no_ruler": Text("没有量出对无关回答的改动。", "How far unrelated answers moved was not measured."),
    "no_identity": Text(
        "没有身份卡（名字和开发者），这一项没有测。",
        "There is no identity card (name and maker), so this was not measured.",
    ),
    "no_rows": Text(
        "不知道它是用哪些行训练的，没法问训练过的问题。",
        "The rows it was trained on are not known, so none could be asked.",
    ),
    "all_trained": Text(
        "题库里的问法全在训练表里（或身份卡不全），没有可问的了。",
        "Every wording is in the table, or the identity card lacks what they ask for: nothing is left to ask.",
    ),
    "no_text": Text(
        "口袋模型读不了普通文章，这一项不测。", "The pocket model cannot read ordinary texts: not measured."
    ),
    "unasked": Text(
        "题库里的这些题全在训练表里，没有可问的了。",
        "All of these questions are in the training table: none was left to ask.",
    ),
    "unread": Text(
        "没有可读的文字：要么全在训练表里，要么对这个模型太长。",
        "Nothing was left to read: it is all in the training table, or too long for this model.",
    ),
    "ignorant": Text(
        "基座自己几乎都答不对，看不出有没有遗忘。",
        "The base itself gets hardly any of them right: this cannot show whether something was forgotten.",
    ),
    "no_own": Text("你还没有写自己的题。", "You have not written questions of your own."),
}
