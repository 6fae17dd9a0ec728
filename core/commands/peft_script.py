"""A run as one Python file on torch, transformers and PEFT alone: same rows, order, schedule, loss and start."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from core.config import TrainConfig
from core.lora import GROUPS

_HEAD = '''"""LoRA training on torch, transformers and PEFT, with the settings of the OneCard run @title@.

    pip install torch transformers peft safetensors@extra@
    python train.py                 # reads train.jsonl beside it, writes adapter/

Rows come in the same order and count the same as in OneCard; the loss is the mean over the answers' tokens of a step.
"""

import json
import math
import random
from pathlib import Path

import torch
from peft import @peft_import@
from transformers import AutoModelForCausalLM, AutoTokenizer@bits_import@

HERE = Path(__file__).resolve().parent
@constants@


def load():
    """The tokenizer, and the base with the adapter in it."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    device = "cuda" if torch.cuda.is_available() else "cpu"
@base@
    torch.manual_seed(SEED)
@adapter@
    return tokenizer, model, device
'''

_BODY = '''

def encode(tokenizer, messages):
    """(token ids, labels) of a conversation: every answer is in the loss with the token that ends it, nothing else."""
    ids, labels, done = [], [], ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, messages[:index], True)
        after = render(tokenizer, messages[: index + 1], False)
        if not (before.startswith(done) and after.startswith(before)):
            raise SystemExit("this template rewrites earlier turns: split the row into single-turn rows")
        answer = after[len(before) :]
        closing = "\\n" if answer.endswith("<|im_end|>\\n") else ""
        head = tokenize(tokenizer, before[len(done) :])
        body = tokenize(tokenizer, answer.removesuffix(closing) if closing else answer)
        tail = tokenize(tokenizer, closing)
        ids += head + body + tail
        labels += [-100] * len(head) + body + [-100] * len(tail)
        done = after
    if len(ids) > MAX_LENGTH:
        raise SystemExit(f"a row has {len(ids)} tokens, the limit is {MAX_LENGTH}: shorten it or raise MAX_LENGTH")
    return ids, labels


def render(tokenizer, messages, prompt):
    """The conversation as the model's own chat template writes it."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


def tokenize(tokenizer, text):
    """Token ids of rendered text."""
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def read(name, tokenizer):
    """The rows of a file, tokenised."""
    lines = (HERE / name).read_text("utf-8").split("\\n")
    return [encode(tokenizer, json.loads(line)["messages"]) for line in lines if line.strip()]


def batches(rows):
    """Row indices of each optimizer step; every epoch is shuffled by the seed."""
    epoch = 0
    while True:
        order = list(range(rows))
        random.Random(f"{SEED}-{epoch}").shuffle(order)
        for start in range(0, rows, BATCH_SIZE * ACCUMULATION):
            yield order[start : start + BATCH_SIZE * ACCUMULATION]
        epoch += 1


def learning_rate(step, steps):
    """Linear warm-up, then the schedule down to zero."""
    warmup = math.ceil(steps * WARMUP_RATIO)
    if step < warmup:
        return LEARNING_RATE * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return LEARNING_RATE * @schedule@


def loss_of(model, device, rows):
    """The summed cross entropy of some rows' answers."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows], device=device)
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows], device=device)
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows], device=device)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda" and DTYPE == torch.bfloat16):
        logits = model(input_ids=ids, attention_mask=mask).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


def answer_tokens(rows):
    """How many tokens are in the loss."""
    return max(1, sum(label != -100 for _, labels in rows for label in labels))


def groups(rows):
    """As many rows as go through the model at once."""
    return [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
@evaluate@

def main():
    tokenizer, model, device = load()
    rows = read("train.jsonl", tokenizer)
@reads@    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    steps = @steps@
    print(f"{len(rows)} rows, {steps} steps, {sum(p.numel() for p in trained):,} parameters trained on {device}")
@optimizer@
    model.train()
    for step, chosen in zip(range(steps), batches(len(rows))):
        picked = [rows[i] for i in chosen]
        total = 0.0
        for group in groups(picked):
            loss = loss_of(model, device, group) / answer_tokens(picked)
            loss.backward()
            total += loss.item()
        @clip@
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps) * group["ratio"]
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % @logging_steps@ == 0 or step in (0, steps - 1):
            print(json.dumps({"step": step + 1, "loss": total}), flush=True)
@during@    model.save_pretrained(HERE / "adapter")
    tokenizer.save_pretrained(HERE / "adapter")


if __name__ == "__main__":
    main()
'''

_EVALUATE = '''

@torch.no_grad()
def evaluate(model, device, rows):
    """The mean loss of rows that are not trained on."""
    model.eval()
    loss = sum(loss_of(model, device, group).item() for group in groups(rows)) / answer_tokens(rows)
    model.train()
    return loss

'''

_NOISE = """
    def noise(_, __, embedded):
        if not model.training:
            return embedded
        scale = {alpha} / math.sqrt(embedded.shape[1] * embedded.shape[2])
        return embedded + (torch.rand_like(embedded) * 2 - 1) * scale

    model.get_input_embeddings().register_forward_hook(noise)
"""
_SCHEDULES = {"cosine": "0.5 * (1 + math.cos(math.pi * share))", "linear": "(1 - share)", "constant": "1.0"}


def write(config: TrainConfig, model: str, steps: int, title: str, evaluation: bool) -> str:
    """The program. `model`: id or folder; `steps`: optimizer steps; `evaluation`: whether eval.jsonl lies beside it."""
    held = bool(config.split_dataset_ratio) and not evaluation
    measured = evaluation or held
    places = {
        "schedule": _SCHEDULES[config.lr_scheduler_type],
        "evaluate": _EVALUATE if measured else "",
        "reads": _reads(config, evaluation, held),
        "steps": str(steps),
        "optimizer": _optimizer(config),
        "clip": f"torch.nn.utils.clip_grad_norm_(trained, {config.max_grad_norm!r})"
        if config.max_grad_norm
        else "pass",
        "logging_steps": str(config.logging_steps),
        "during": _during(config, steps, measured),
    }
    return _head(config, model, title) + _filled(_BODY, places)


def _head(config: TrainConfig, model: str, title: str) -> str:
    bits = config.quant_method == "bnb"
    going_on = bool(config.adapters)
    extra = " bitsandbytes" if bits or config.optim != "adamw_torch" else ""
    places = {
        "title": title.replace("\\", " ").replace('"', "'"),
        "extra": extra,
        "peft_import": "PeftModel" if going_on else "LoraConfig, get_peft_model",
        "bits_import": ", BitsAndBytesConfig" if bits else "",
        "constants": "\n".join(f"{name} = {value}" for name, value in _constants(config, model)),
        "base": "\n".join(f"    {line}" for line in _base(config)),
        "adapter": "\n".join(f"    {line}".rstrip() for line in _adapter(config)),
    }
    return _filled(_HEAD, places)


def _filled(template: str, places: Mapping[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda match: places[match[1]], template)


def _literal(value: object) -> str:
    """As Python writes it, text in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return f"[{', '.join(map(_literal, value))}]" if isinstance(value, list) else repr(value)


def _constants(config: TrainConfig, model: str) -> Iterator[tuple[str, str]]:
    yield "MODEL", _literal(model)
    dtype = "torch.bfloat16 if torch.cuda.is_available() else torch.float32"
    yield "DTYPE", dtype if config.torch_dtype == "auto" else f"torch.{config.torch_dtype}"
    yield "SEED", repr(config.seed)
    yield "LEARNING_RATE", repr(config.learning_rate)
    yield "WARMUP_RATIO", repr(config.warmup_ratio)
    yield "BATCH_SIZE", repr(config.per_device_train_batch_size)
    yield "ACCUMULATION", repr(config.gradient_accumulation_steps)
    yield "MAX_LENGTH", repr(config.max_length)


def _base(config: TrainConfig) -> list[str]:
    lines = []
    if config.quant_method == "bnb":
        lines += [
            "bits = BitsAndBytesConfig(",
            '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=DTYPE',
            ")",
            "model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=DTYPE, quantization_config=bits, device_map=device)",
        ]
    else:
        lines.append("model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=DTYPE).to(device)")
    lines.append("model.config.use_cache = False")
    if config.gradient_checkpointing == "on" or (
        config.quant_method == "bnb" and config.gradient_checkpointing == "auto"
    ):
        lines += [
            'model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})',
            "model.enable_input_require_grads()",
        ]
    return lines


def _adapter(config: TrainConfig) -> list[str]:
    if config.adapters:
        lines = [f"model = PeftModel.from_pretrained(model, {_literal(config.adapters)}, is_trainable=True)"]
    else:
        lines = ["adapter = LoraConfig("]
        lines += [f"    {name}={_literal(value)}," for name, value in _lora(config).items()]
        lines += [")", "model = get_peft_model(model, adapter)"]
    if config.neftune_noise_alpha:
        text = _NOISE.replace("{alpha}", repr(config.neftune_noise_alpha))
        lines += [line[4:] for line in text.splitlines()]
    return lines


def _lora(config: TrainConfig) -> Mapping[str, object]:
    named = GROUPS.get(config.target_modules)
    targets: object = config.target_modules
    if config.target_modules != "all-linear":
        targets = sorted(named or config.target_modules.split())
    settings: dict[str, object] = {
        "r": config.lora_rank, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout,
        "target_modules": targets, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    if config.use_rslora == "true":
        settings["use_rslora"] = True
    if config.use_dora == "true":
        settings["use_dora"] = True
    if config.init_weights != "true":
        settings["init_lora_weights"] = config.init_weights
    return settings


def _optimizer(config: TrainConfig) -> str:
    made = {
        "adamw_torch": "torch.optim.AdamW(groups_of, lr=LEARNING_RATE, betas=(0.9, {beta}), weight_decay={decay})",
        "paged_adamw_8bit": "bitsandbytes.optim.PagedAdamW8bit("
        "groups_of, lr=LEARNING_RATE, betas=(0.9, {beta}), weight_decay={decay})",
        "lion_32bit": "bitsandbytes.optim.Lion32bit(groups_of, lr=LEARNING_RATE, betas=(0.9, {beta}), weight_decay={decay})",
    }[config.optim].format(beta=repr(config.adam_beta2), decay=repr(config.weight_decay))
    lines = []
    if config.lorap_lr_ratio:
        lines += [
            "named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]",
            "groups_of = [",
            '    {"params": [p for name, p in named if "lora_A" in name], "ratio": 1.0},',
            f'    {{"params": [p for name, p in named if "lora_A" not in name], "ratio": {config.lorap_lr_ratio!r}}},',
            "]",
        ]
    else:
        lines.append('groups_of = [{"params": trained, "ratio": 1.0}]')
    if config.optim != "adamw_torch":
        lines.append("import bitsandbytes")
    lines.append(f"optimizer = {made}")
    return "\n".join(f"    {line}" for line in lines)


def _reads(config: TrainConfig, evaluation: bool, held: bool) -> str:
    if evaluation:
        return '    held_out = read("eval.jsonl", tokenizer)\n'
    if not held:
        return ""
    count = f"max(0, min(len(rows) - 1, max(1, round(len(rows) * {config.split_dataset_ratio!r}))))"
    return (
        f"    held = set(random.Random(SEED).sample(range(len(rows)), {count}))\n"
        "    held_out = [row for i, row in enumerate(rows) if i in held]\n"
        "    rows = [row for i, row in enumerate(rows) if i not in held]\n"
    )


def _during(config: TrainConfig, steps: int, measured: bool) -> str:
    lines = []
    if measured:
        every = min(config.eval_steps, steps)
        lines += [
            f"        if (step + 1) % {every} == 0 or step == steps - 1:",
            "            loss = evaluate(model, device, held_out)",
            '            print(json.dumps({"step": step + 1, "evaluation_loss": loss}), flush=True)',
        ]
    if config.save_steps < steps:
        lines += [
            f"        if (step + 1) % {config.save_steps} == 0:",
            '            model.save_pretrained(HERE / f"checkpoint-{step + 1}")',
        ]
    return "".join(f"{line}\n" for line in lines)


def planned_steps(config: TrainConfig, rows: int) -> int:
    """Optimizer steps of the run over `rows` rows, those that are held out among them."""
    return config.steps(rows - (0 if config.val_dataset else config.held_out(rows)))
