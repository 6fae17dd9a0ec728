"""The README of an export, a model card: what it was trained on, how, what the proof found, its limits, how to run it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from core import config as settings
from core import dataset, models, proof
from core.config import TrainConfig
from core.dataset import Row
from core.export.elsewhere import commands
from core.export.order import LABELS, Order
from core.export.receipt import Receipt
from core.proof import Proof
from core.run import Run
from core.text import Text

Say = Callable[[str, str], str]

_UNASKED = ("model", "system", "prove", "probe_steps", "probe_share", "save_steps", "dataloader_num_workers")


def model_card(order: Order, run: Run | None, proved: Proof | None, receipt: Receipt | None) -> str:
    """Markdown with Hugging Face's header, in the order's language."""
    zh = order.language == "zh"

    def say(chinese: str, english: str) -> str:
        return chinese if zh else english

    parts = [_header(order), f"# {order.name}", _intro(order, say)]
    parts += [f"## {say('数据', 'Data')}", _data(run, order.rows, say)]
    parts += [f"## {say('设置', 'Settings')}", _settings(run, say)]
    parts += [f"## {say('检验', 'Proof')}", _proof(order, proved, say)]
    if receipt is not None:
        parts += [f"## {say('复测', 'This file, tested')}", receipt_text(receipt).of(order.language)]
    parts += [f"## {say('限制', 'Limits')}", _limits(run, say)]
    parts += [f"## {say('怎样运行', 'How to run it')}"]
    parts.append(say("在这个文件夹的上一级运行：", "In the folder that holds this one:"))
    for command in commands(order, Path(order.target.name), run):
        note = f"\n\n{command.note.of(order.language)}" if command.note else ""
        if command.problem is not None:
            parts.append(f"**{command.tool}**: {command.problem.of(order.language)}")
            continue
        parts.append(f"**{command.tool}**\n\n```bash\n{command.text}\n```{note}")
    return "\n\n".join(parts) + "\n"


def _header(order: Order) -> str:
    adapter = order.format in ("adapter", "zip", "gguf-adapter")
    base = "PocketQwen" if models.is_pocket(order.model) else order.model
    lines = {
        "base_model": json.dumps(base, ensure_ascii=False),
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": "[lora, onecard]",
        "language": "[zh, en]",
    }
    return "\n".join(["---", *(f"{key}: {value}" for key, value in lines.items()), "---"])


def _intro(order: Order, say: Say) -> str:
    label = LABELS[order.format].of(order.language)
    strength = (
        ""
        if order.strength == 1
        else (
            f"，强度 {order.strength:g} 已算进权重"
            if order.language == "zh"
            else f", strength {order.strength:g} folded in"
        )
    )
    base = models.inspect(order.model).label
    system = order.system or ("（无）" if order.language == "zh" else "(none)")
    if order.language == "zh":
        return (
            f"由 OneCard（单卡工坊）在 {base} 上训练的 LoRA 适配器，导出为：{label}{strength}。\n\n"
            f"训练时用的系统提示词，使用时请照写：\n\n> {_quoted(system)}"
        )
    return (
        f"A LoRA adapter that OneCard trained on {base}, exported as: {label}{strength}.\n\n"
        f"The system prompt it was trained with; use the same:\n\n> {_quoted(system)}"
    )


def _data(run: Run | None, with_rows: bool, say: Say) -> str:
    if run is None:
        return say(
            "这个适配器是导入的，不知道它是用什么数据训练的。",
            "An imported adapter: what it was trained on is not known.",
        )
    rows = run.rows
    zh = sum(row.language == "zh" for row in rows)
    text = say(
        f"{len(rows)} 行（中文 {zh}，英文 {len(rows) - zh}），sha256 `{rows_digest(rows)}`。",
        f"{len(rows)} rows ({zh} Chinese, {len(rows) - zh} English), sha256 `{rows_digest(rows)}`.",
    )
    if run.config.mix:
        text += say(f" 其中混入：`{run.config.mix}`。", f" Mixed in: `{run.config.mix}`.")
    if with_rows:
        lines = "\n".join(json.dumps(dataset.to_json(row), ensure_ascii=False) for row in rows)
        text += (
            f"\n\n<details><summary>{say('全部数据行', 'All rows')}</summary>\n\n```json\n{lines}\n```\n\n</details>"
        )
    return text


def rows_digest(rows: list[Row] | tuple[Row, ...]) -> str:
    """sha256 of the rows as one JSON line each."""
    lines = "".join(json.dumps(dataset.to_json(row), ensure_ascii=False) + "\n" for row in rows)
    return hashlib.sha256(lines.encode("utf-8", "replace")).hexdigest()


def _settings(run: Run | None, say: Say) -> str:
    if run is None:
        return say("不知道。", "Not known.")
    default = TrainConfig()
    lines = [f"| {say('设置', 'Setting')} | {say('值', 'Value')} |", "|---|---|"]
    for each in fields(TrainConfig):
        value = getattr(run.config, each.name)
        told = each.name in ("num_train_epochs", "learning_rate", "lora_rank", "lora_alpha", "target_modules", "seed")
        if each.name not in _UNASKED and (told or value != getattr(default, each.name)):
            name = settings.fact_of(each.name).label.of("zh" if say("zh", "en") == "zh" else "en")
            lines.append(f"| {name} `{each.name}` | `{value}` |")
    return "\n".join(lines)


def _proof(order: Order, proved: Proof | None, say: Say) -> str:
    if proved is None:
        return say("没有检验过。", "It has not been proved.")
    return proof.markdown(proved, order.language).split("\n", 1)[-1].strip()


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


def _limits(run: Run | None, say: Say) -> str:
    return say(
        "它只在上面写的系统提示词下测试过；换一个提示词，新身份可能减弱。回答可能出错；训练数据之外的内容没有核对。",
        "It was tested under the system prompt above; under another one the new identity may weaken. Answers may be wrong; "
        "nothing beyond the training rows was checked.",
    )


def _quoted(text: str) -> str:
    return text.replace("\n", "\n> ")
