"""Words of exports, in both languages; see ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "library.system.write": ("没有记录，可以填在这里", "Not recorded; write it here"),
    "library.system.unknown": (
        "来源里没有写系统提示词。如果训练时用了，请填上：不填的话，对话时它可能说回原来的身份。",
        "Its source names no system prompt. If it was trained with one, write it here: without it the old identity may answer.",
    ),
    "library.system.factory": (
        "LLaMA-Factory 的命令行训练不把系统提示词（default_system）写在适配器旁边。训练时用了就请填上：不填，它可能说回原来的身份。",
        "Trained on the command line, LLaMA-Factory does not write its system prompt (default_system) beside the adapter. If "
        "there was one, write it here: without it the old identity may answer.",
    ),
    "library.brought.bare": (
        "已导入“{name}”。来源里没有写训练时的系统提示词；用了的话，请展开它填上。",
        "Imported “{name}”. Nothing tells the system prompt of its training; if there was one, unfold it and write it in.",
    ),
    "library.prompted": (
        "“{name}”的系统提示词已保存，对话和检验都会用它。",
        "The system prompt of “{name}” is saved; chat and proofs use it.",
    ),
    "outside.row": (
        "训练数据里的一行，回答相同；内容不写进回执",
        "A training row, the same answer; its words are not in the receipt",
    ),
    "outside.row.differs": (
        "训练数据里的一行，回答不同；内容不写进回执",
        "A training row, another answer; its words are not in the receipt",
    ),
    "outside.title": ("导出", "Export"),
    "outside.open": ("导出…", "Export…"),
    "outside.close": ("关闭", "Close"),
    "outside.format": ("导出成什么", "Export as"),
    "outside.adapter.note": (
        "给 PEFT、vLLM、SGLang、ms-swift；要配同一个基座",
        "For PEFT, vLLM, SGLang, ms-swift; needs the same base",
    ),
    "outside.zip.note": (
        "同上，一个文件，可以导入到别的 OneCard",
        "The same in one file; another OneCard can import it",
    ),
    "outside.merged.note": (
        "不再需要适配器，任何程序都能加载；16 位",
        "Needs no adapter any more, loads anywhere; 16 bits",
    ),
    "outside.merged-f32.note": (
        "同上，两倍大小，不做舍入：回答与测试时逐字相同",
        "The same at twice the size, nothing rounded: answers as tested, word for word",
    ),
    "outside.gguf.note": (
        "一个文件，给 llama.cpp 和 Ollama；附 Modelfile",
        "One file for llama.cpp and Ollama, with a Modelfile",
    ),
    "outside.gguf-adapter.note": ("只有适配器，加在基座的 GGUF 上", "The adapter alone, added to the base's GGUF"),
    "outside.bnb.note": ("合并后再量化到 NF4，显存最省", "Merged, then quantised to NF4; takes the least memory"),
    "outside.quantisation": ("GGUF 精度", "GGUF precision"),
    "outside.strength": ("强度", "Strength"),
    "outside.strength.note": ("算进权重里；1 就是测试时的样子", "folded into the weights; 1 is what was tested"),
    "outside.name": ("名称", "Name"),
    "outside.folder": ("放在", "Into"),
    "outside.rows": ("把训练数据写进说明（README）", "Put the training rows into the README"),
    "outside.start": ("开始导出", "Export"),
    "outside.cancel": ("取消", "Cancel"),
    "outside.cancelling": ("正在取消…", "Cancelling…"),
    "outside.about": ("约 {size}", "about {size}"),
    "outside.written": (
        "{what}，{done} / {total}，{rate}/s，还要 {left}",
        "{what}, {done} of {total}, {rate}/s, {left} left",
    ),
    "outside.asking": ("{what}，{done} / {total}", "{what}, {done} of {total}"),
    "outside.busy": ("正在导出另一个适配器。", "Another adapter is being exported."),
    "outside.seconds": ("{count} 秒", "{count} s"),
    "outside.minutes": ("{count} 分钟", "{count} min"),
    "outside.none": (
        "还没有导出过。导出后，文件会被载入再问一遍同样的问题，结果写在旁边的 receipt.json 里。",
        "Nothing has been exported yet. Afterwards the file is loaded and asked the same questions again; what came of it is "
        "written beside it, in receipt.json.",
    ),
    "outside.made": ("已导出", "Exported"),
    "outside.untested": ("还没有复测", "Not tested yet"),
    "outside.again": ("再测一次", "Test again"),
    "outside.answers": ("逐题对比：{same} / {asked} 相同", "Question by question: {same} of {asked} the same"),
    "outside.tested": ("测试时", "When tested"),
    "outside.now": ("这个文件", "This file"),
    "outside.near": (
        "两个词元的概率几乎相同，差 {gap} logit",
        "two words all but equally likely, {gap} logits apart",
    ),
    "outside.run": ("怎样运行", "How to run it"),
    "outside.copy": ("复制", "Copy"),
    "outside.copied": ("已复制", "Copied"),
    "outside.remove": ("删除", "Delete"),
    "outside.remove.ask": (
        "删除导出的 {name}？文件会从磁盘上消失。",
        "Delete the export {name}? Its files will be gone.",
    ),
    "outside.failed": ("与程序失去联系，请检查它是否还在运行。", "No answer from the program. Is it still running?"),
}
