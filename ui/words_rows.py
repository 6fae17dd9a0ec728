"""Words of what is shown and mended row by row, and of advice before the start, in both languages; see ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "finding.row": ("看第 {row} 行", "Show row {row}"),
    "rows.title": ("逐行结果", "Row by row"),
    "rows.note": (
        "没学会的排在前面，点一行就到数据集里修改",
        "un-learned rows first; click one to mend it in the dataset",
    ),
    "rows.waiting": ("训练结束后，这里列出每一行学得怎样。", "Once the run has ended: how well each row was learned."),
    "rows.none": ("这次训练还没有逐行结果。", "The rows of this run have not been measured."),
    "rows.measure": ("现在测量", "Measure now"),
    "rows.making": ("正在逐行测量…", "Measuring row by row…"),
    "rows.stop": ("停止测量", "Stop"),
    "rows.learned": ("学会 {count} 行", "{count} learned"),
    "rows.partly": ("差一点 {count} 行", "{count} nearly"),
    "rows.not": ("没学会 {count} 行", "{count} not learned"),
    "rows.learned.one": ("✓ 学会", "✓ learned"),
    "rows.partly.one": ("差一点", "nearly"),
    "rows.not.one": ("✗ 没学会", "✗ not learned"),
    "rows.word": ("“{word}”", "“{word}”"),
    "rows.end": ("结尾", "its end"),
    "rows.unsure": ("最没把握的是{word}：{chance}", "least sure of {word}: {chance}"),
    "rows.held": ("未参加训练", "not trained on"),
    "rows.show": ("在数据集里看第 {row} 行", "Show row {row} in the dataset"),
    "rows.rest": ("其余 {count} 行", "{count} more rows"),
    "rows.sample": ("共 {total} 行，这里是其中 {shown} 行。", "{shown} of {total} rows."),
    "rows.before": ("训练前的损失", "loss before"),
    "rows.after": ("训练后的损失", "loss after"),
    "rows.meaning": (
        "学会：回答里的每个词元都有一半以上的把握，照这个问法会一字不差地说出来",
        "learned: more than half sure of every token, so that asked this way it says exactly this answer",
    ),
    "rows.more": ("再训练几步", "Train a few more steps"),
    "rows.further": ("接着训练 {steps} 步：{title}", "Training {steps} more steps: {title}"),
    "rows.gone": (
        "数据集里已经没有这一行：数据集或这一行被删除或改过。",
        "This row is no longer in the dataset: it, or the dataset, was deleted or changed.",
    ),
    "fix.changed": ("回答已改。存成训练数据：", "Answer changed. Keep it as a row of"),
    "fix.dataset": ("数据集", "Dataset"),
    "fix.context": (
        "连同前面的 {count} 轮（那里的回答也会照样学）",
        "with the {count} turn(s) before (their answers are trained on, too)",
    ),
    "fix.save": ("存成一行", "Keep as a row"),
    "fix.back": ("撤销", "Undo"),
    "fix.saved": ("已存成“{name}”的第 {row} 行。", "Kept as row {row} of “{name}”."),
    "fix.replaced": ("已改掉“{name}”的第 {row} 行。", "Row {row} of “{name}” now says so."),
    "fix.more": ("从这里再训练几步", "Train a few more steps from here"),
    "fix.hint": (
        "点铅笔就地修改任何一个回答，可以存成训练数据。",
        "The pencil edits any answer in place; it can become a training row.",
    ),
}
