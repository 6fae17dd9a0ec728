"""The README of an export, a model card: what it is, how to run it, what the proof found, its limits, data and settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from core import adapters, dataset, models, proof
from core import config as settings
from core.comparison_file import fenced
from core.config import TrainConfig
from core.dataset import Identity, Row
from core.export.elsewhere import commands
from core.export.order import LABELS, Order
from core.export.receipt import Receipt
from core.moments import day
from core.proof import Proof
from core.run import Run
from core.sources.names import hub_set
from core.text import Text

Say = Callable[[str, str], str]

_LIBRARIES = {
    "adapter": "peft", "zip": "peft", "gguf-adapter": "gguf", "merged": "transformers", "merged-f32": "transformers",
    "bnb": "transformers", "gguf": "gguf",
}  # fmt: skip
# What a hub draws a model's family tree of.
_RELATIONS = {
    "adapter": "adapter", "zip": "adapter", "gguf-adapter": "adapter", "merged": "finetune", "merged-f32": "finetune",
    "bnb": "quantized", "gguf": "quantized",
}  # fmt: skip
_ALWAYS = ("num_train_epochs", "learning_rate", "lora_rank", "lora_alpha", "target_modules", "seed")
_UNASKED = (
    "model", "system", "prove", "probe_steps", "probe_share", "save_steps", "dataloader_num_workers", "adapters",
)  # fmt: skip
_BASE = "BASE"


def model_card(order: Order, run: Run | None, proved: Proof | None, receipt: Receipt | None) -> str:
    """Markdown with Hugging Face's header, in the order's language."""
    zh = order.language == "zh"

    def say(chinese: str, english: str) -> str:
        return chinese if zh else english

    parts = [_header(order, run), f"# {order.name}", *_intro(order, run, say)]
    parts += [f"## {say('怎样运行', 'How to run it')}", *_running(order, say)]
    parts += [f"## {say('检验', 'Proof')}", _proof(order, proved, say)]
    if receipt is not None:
        parts += [f"## {say('复测', 'This file, tested')}", receipt_text(receipt).of(order.language)]
    parts += [f"## {say('限制', 'Limits')}", _limits(run, proved, say)]
    parts += [f"## {say('数据', 'Data')}", _data(run, order.rows, say)]
    parts += [f"## {say('设置', 'Settings')}", _settings(run, say)]
    return "\n\n".join(parts) + "\n"


def _header(order: Order, run: Run | None) -> str:
    lines: dict[str, object] = {}
    if _is_id(order.model):
        lines |= {"base_model": order.model, "base_model_relation": _RELATIONS[order.format]}
    lines |= {
        "library_name": _LIBRARIES[order.format],
        "pipeline_tag": "text-generation",
        "tags": ["lora", "onecard"],
    }
    languages = sorted({row.language for row in run.rows}) if run is not None else []
    if languages:
        lines["language"] = languages
    # JSON is YAML: nothing in a name can end its line or begin another key.
    return "\n".join(
        ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in lines.items()), "---"]
    )


def _intro(order: Order, run: Run | None, say: Say) -> list[str]:
    kind = LABELS[order.format].of(order.language)
    if order.format == "gguf":
        kind += say("，", ", ") + order.quantisation.upper()
    if order.strength != 1:
        kind += say(f"，强度 {order.strength:g} 已算进权重", f", with strength {order.strength:g} folded in")
    base = models.inspect(order.model).label
    tool = "OneCard" if run is not None else str(adapters.card_of(order.adapter).get("tool") or "")
    if tool == "OneCard":
        made = say(
            f"由 OneCard（单卡工坊）在 {base} 上训练的 LoRA 适配器", f"A LoRA adapter that OneCard trained on {base}"
        )
    elif tool:
        made = say(f"{base} 的 LoRA 适配器，由 {tool} 训练", f"A LoRA adapter of {base} that {tool} trained")
    else:
        made = say(f"{base} 的 LoRA 适配器", f"A LoRA adapter of {base}")
    parts = [f"{made}{say('，导出为：', ', exported as: ')}{kind}{say('。', '.')}"]
    card = run.table.identity if run is not None else Identity()
    names = " / ".join(name for name in (card.name_zh, card.name_en) if name)
    makers = " / ".join(name for name in (card.author_zh, card.author_en) if name)
    if names:
        by = say(f"，由 {_flat(makers)} 开发", f", made by {_flat(makers)}") if makers else ""
        parts.append(
            say(f"被问到时，它说自己是 **{_flat(names)}**{by}。", f"Asked who it is, it says **{_flat(names)}**{by}.")
        )
    if order.system:
        told = say("训练时用的系统提示词，使用时请照写：", "The system prompt it was trained with; use the same:")
        return [*parts, told, "\n".join(fenced(order.system))]
    return [*parts, say("训练时没有另外的系统提示词。", "It was trained without a system prompt of its own.")]


def _running(order: Order, say: Say) -> list[str]:
    parts = [say("在这个文件夹的上一级运行：", "In the folder that holds this one:")]
    # Whoever reads it has unpacked a zip.
    folder = Path(order.name if order.format == "zip" else order.target.name)
    found = commands(order, folder, "" if _is_id(order.model) else _BASE)
    if not _is_id(order.model) and order.format in ("adapter", "zip"):
        label = models.inspect(order.model).label
        parts.append(
            say(
                f"命令里的 {_BASE} 是基座 {_flat(label)} 的文件夹：请换成它在你机器上的路径。",
                f"In the commands {_BASE} is the folder of the base, {_flat(label)}: put its path on your machine there.",
            )
        )
    for command in found:
        note = f"\n\n{command.note.of(order.language)}" if command.note else ""
        if command.problem is not None:
            parts.append(f"**{command.tool}**: {command.problem.of(order.language)}")
            continue
        parts.append(f"**{command.tool}**\n\n```bash\n{command.text}\n```{note}")
    return parts


def _data(run: Run | None, with_rows: bool, say: Say) -> str:
    if run is None:
        return say(
            "这个适配器是导入的，不知道它是用什么数据训练的。",
            "An imported adapter: what it was trained on is not known.",
        )
    rows = run.rows
    zh = sum(row.language == "zh" for row in rows)
    text = say(
        f"{len(rows)} 行（中文 {zh}，英文 {len(rows) - zh}）。每行写成一行 JSON 后的 sha256：`{rows_digest(rows)}`。",
        f"{len(rows)} rows ({zh} Chinese, {len(rows) - zh} English). sha256 of them as one JSON line each: "
        f"`{rows_digest(rows)}`.",
    )
    if run.config.mix:
        text += say(f"其中混入：{_code(_mixed(run.config.mix))}。", f" Mixed in: {_code(_mixed(run.config.mix))}.")
    if with_rows:
        lines = "\n".join(json.dumps(dataset.to_json(row), ensure_ascii=False) for row in rows)
        shown = "\n".join(fenced(lines))
        text += f"\n\n<details><summary>{say('全部数据行', 'All rows')}</summary>\n\n{shown}\n\n</details>"
    return text


def rows_digest(rows: list[Row] | tuple[Row, ...]) -> str:
    """sha256 of the rows as one JSON line each."""
    lines = "".join(json.dumps(dataset.to_json(row), ensure_ascii=False) + "\n" for row in rows)
    return hashlib.sha256(lines.encode("utf-8", "replace")).hexdigest()


def _settings(run: Run | None, say: Say) -> str:
    if run is None:
        return say("不知道。", "Not known.")
    default = TrainConfig()
    began = day(run.created)
    device = str((run.first("started") or {}).get("device") or "")
    taken = run.adapter_step or run.step
    told = say(
        f"{began.zh}在 {_flat(device)} 上训练，用的是第 {taken} 步的权重（计划 {run.steps} 步）。没有列出的设置都是默认值。",
        f"Trained on {began.en} on {_flat(device)}; these are the weights of step {taken} of {run.steps} planned. Settings that are "
        "not listed have their default.",
    )
    if run.config.adapters:
        told += say("它是接着另一个适配器训练的。", " It went on from another adapter.")
    lines = [told, "", f"| {say('设置', 'Setting')} | {say('值', 'Value')} |", "|---|---|"]
    for each in fields(TrainConfig):
        value = getattr(run.config, each.name)
        value = _mixed(value) if each.name == "mix" else value
        if each.name not in _UNASKED and (each.name in _ALWAYS or value != getattr(default, each.name)):
            label = settings.fact_of(each.name).label
            name = say(label.zh, label.en)
            lines.append(f"| {name} `{each.name}` | {_code(str(value))} |")
    return "\n".join(lines)


def _proof(order: Order, proved: Proof | None, say: Say) -> str:
    if proved is None:
        return say("没有检验过。", "It has not been proved.")
    if not order.rows:  # the rows stay at home, those that a test asks too
        tests = [
            replace(test, readings=tuple(r for r in test.readings if "row" not in r.tags)) for test in proved.tests
        ]
        proved = replace(proved, tests=tuple(tests))
    text = proof.markdown(proved, order.language).split("\n", 1)[-1].strip()
    table, _, rest = text.partition("\n## ")
    each = say("每项检验的数字，和没有通过的回答", "The numbers of each test, and answers that did not pass")
    shown = re.sub(r"^## ", "### ", f"## {rest}", flags=re.MULTILINE)
    return f"{table.strip()}\n\n<details><summary>{each}</summary>\n\n{shown}\n\n</details>" if rest else table.strip()


def receipt_text(receipt: Receipt) -> Text:
    """The receipt in a few sentences."""
    if receipt.light == "none":
        return receipt.why
    before, now, about = receipt.identity
    identity = (
        Text(
            f"身份题 {about} 题：测试时答对 {before}，这个文件 {now}。",
            f"Identity questions: {about}; right when tested {before}, in this file {now}.",
        )
        if about
        else Text("", "")
    )
    if 2 * now < about:
        identity = Text(
            f"{identity.zh}一致不等于学会：它还没有学会新身份。",
            f"{identity.en} As tested does not mean learned: it has not taken on the new identity.",
        )
    read = (
        Text(
            f"逐词比较 {receipt.read} 处：KL 平均 {receipt.drift:.2g}、最大 {receipt.drift_most:.2g}，"
            f"logit 最大差 {receipt.apart:.3g}。",
            f"Read word by word at {receipt.read} places: KL {receipt.drift:.2g} on average, {receipt.drift_most:.2g} at most; "
            f"largest difference of a logit {receipt.apart:.3g}.",
        )
        if receipt.read
        else Text("", "")
    )
    return Text(
        f"这个文件导出后被载入并问了 {receipt.asked} 个问题。{receipt.why.zh}{identity.zh}{read.zh}",
        " ".join(
            part
            for part in (
                f"This file was loaded after the export and asked {receipt.asked} questions.",
                receipt.why.en,
                identity.en,
                read.en,
            )
            if part
        ),
    )


def _limits(run: Run | None, proved: Proof | None, say: Say) -> str:
    found = []
    if proved is None:
        found.append(
            say(
                "没有做过检验，身份和原有能力都没有核对。",
                "Not proved: neither its identity nor what it kept was checked.",
            )
        )
    found += [
        say(
            "换一个系统提示词，或不写，原来的身份可能会出来。",
            "Under another system prompt, or none, the base's old identity may answer.",
        ),
        say("回答可能出错，请不要不经核对就采用。", "Answers may be wrong; do not rely on them unchecked."),
        say("基座模型的许可证和限制同样适用。", "The base model's licence and limits apply to it as well."),
    ]
    if run is not None and run.config.quant_method == "bnb":
        found.insert(0, say(
            "训练时基座是 4 比特的；配 16 位基座使用，回答会略有不同。",
            "The base had four bits in training; on the 16-bit base answers differ a little.",
        ))  # fmt: skip
    return "\n".join(f"- {each}" for each in found)


def _is_id(model: str) -> bool:
    """Whether a hub has the base by this name. A hub refuses what is no id, and a folder's path is nobody's business."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) is not None and not Path(model).is_dir()


def _mixed(mix: str) -> str:
    """What was mixed in; of a file its name, not where it lies."""
    return re.sub(r"\S*[/\\]([^\s/\\]+)", lambda part: part[0] if hub_set(part[0].partition("#")[0]) else part[1], mix)


def _code(text: str) -> str:
    """`text` as code in a table's cell."""
    flat = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{flat}`"


def _flat(text: str) -> str:
    """`text` on one line, without markup."""
    return re.sub(r"([\\`*_\[\]|~#!<>])", r"\\\1", " ".join(text.split()))
