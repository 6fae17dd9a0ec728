"""Words of rows mixed in from elsewhere, in both languages; see ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "mix.title": ("混入数据", "Mix"),
    "mix.note": ("护住原有能力", "keeps its other skills"),
    "mix.alone": ("只训练本表的 {rows} 行。", "Trained on this table's {rows} rows alone."),
    "mix.total": ("共 {rows} 行", "{rows} rows in all"),
    "mix.share": ("{percent}%", "{percent}%"),
    "mix.bar": ("各来源所占的行数", "Share of the rows by source"),
    "mix.kind.table": ("本表", "this table"),
    "mix.kind.built-in": ("内置", "built in"),
    "mix.kind.dataset": ("数据集", "dataset"),
    "mix.kind.file": ("文件", "file"),
    "mix.kind.hub": ("在线数据集", "hub"),
    "mix.repeat.label": ("本表每行重复几遍", "How often each row of the table comes"),
    "mix.notes": ("读取时的 {count} 条说明", "{count} notes on reading it"),
    "mix.first": ("只下载了前 {rows} 行", "only the first {rows} rows were fetched"),
    "mix.count.label": ("从 {name} 取多少行", "Rows to take from {name}"),
    "mix.again": ("每行 {times} 遍", "each row {times} times"),
    "mix.remove": ("去掉 {name}", "Take {name} out"),
    "mix.low": ("本表低于 20%", "table under 20%"),
    "mix.low.repeat": ("本表重复 {times} 遍", "Repeat the table {times} times"),
    "mix.low.fewer": ("其他数据减到 {rows} 行", "Cut the others to {rows} rows"),
    "mix.scenario": ("起步配方…", "Start from…"),
    "mix.scenario.label": ("按用途选一个起步配方", "A starting mix for a purpose"),
    "mix.scenario.alone": ("只用本表", "This table alone"),
    "mix.scenario.option": ("{name}：{note}", "{name}: {note}"),
    "mix.lacking": (
        "内置数据不够：要达到这个配方的比例，还差 {rows} 行。可以再添加一个在线数据集，例如 alpaca-gpt4-data-zh#{rows}。",
        "There are {rows} built-in rows too few for this share. A hub's set can be added, for example "
        "alpaca-gpt4-data-en#{rows}.",
    ),
    "mix.add": ("添加来源", "Add a source"),
    "mix.add.hint": ("名称、文件路径或数据集 ID", "Name, file path or hub id"),
    "mix.add.note": (
        "内置：general（通用）、code（编程）；也可以是另一个数据集、本机文件的完整路径，或在线数据集，如 "
        "alpaca-gpt4-data-zh#500、hf::owner/set、ms::owner/set。",
        "Built in: general, code. Or another dataset, the full path of a file, or a hub's set such as "
        "alpaca-gpt4-data-en#500, hf::owner/set, ms::owner/set.",
    ),
    "mix.add.ok": ("添加", "Add"),
    "mix.download": ("从 {hub} 下载", "Download from {hub}"),
    "mix.downloading": ("正在下载 {done} / {total} MB", "Downloading {done} / {total} MB"),
    "mix.asking": ("正在连接…", "Connecting…"),
    "mix.cancel": ("取消", "Cancel"),
    "mix.elsewhere": ("还没有下载", "not downloaded yet"),
    "mix.clear": ("清空混入数据", "Clear the mix"),
    "mix.twice": ("{name} 已经在里面了，请直接改行数。", "{name} is in the mix already; change its count instead."),
    "how.mix": ("数据来源", "Rows from"),
    "how.mix.part": ("{name} {rows} 行", "{name} {rows} rows"),
    "how.mix.of": ("{name} {rows} 行（共 {available} 行）", "{name} {rows} of {available} rows"),
    "how.mix.times": ("{name} {available} 行 × {times}", "{name} {available} rows × {times}"),
    "how.mix.hash": ("sha256 {digest}…", "sha256 {digest}…"),
}
