"""Finding one's way: the guide, what comes next, keys, links, what can be undone. Sentences of the page, as in ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    # The guide
    "guide.label": ("新手引导", "Getting started"),
    "guide.place": ("第 {at} 步，共 3 步", "Step {at} of 3"),
    "guide.close": ("不用引导", "No guide, thanks"),
    "guide.data": (
        "给模型起名：填右边的身份卡，也可以先用现成的",
        "Name your model in the identity card, or keep the name there",
    ),
    "guide.data.do": ("去训练", "Go to training"),
    "guide.train": ("按“开始训练”，口袋模型约一分钟", "Start training: about a minute for the pocket model"),
    "guide.train.do": ("开始训练", "Start training"),
    "guide.wait": (
        "正在训练：看“固定提问”里的回答怎样变",
        "Training: watch the answers change under “Fixed questions”",
    ),
    "guide.ask": ("学完了，同时问问训练前后的模型", "Done. Ask the model before and after, side by side"),
    "guide.ask.do": ("问“你是谁？”", "Ask “Who are you?”"),
    "guide.done": ("左边是基座模型，右边是你的", "Left: the model as it was. Right: yours"),
    "guide.done.do": ("知道了", "Got it"),
    "guide.failed": ("这次没有练成，原因和办法在下面", "This run did not end well; why, and what to do, is below"),
    "guide.again": ("再看一遍新手引导", "Show the guide again"),
    # What comes next
    "next.compare": ("下一步：和基座模型对比", "Next: compare with the base model"),
    "next.compare.note": (
        "答得好，去{chat}继续聊，或在适配器库里导出；答错了，改正那个回答，它就成为一行数据。",
        "Good answers: go on in {chat}, or export from the adapter library. A wrong one: put it right, and it becomes a row.",
    ),
    "next.chat": ("对话", "Chat"),
    "next.export": (
        "想在 Ollama、llama.cpp 或 vLLM 里用它：打开{library}，选“导出…”。",
        "To use it in Ollama, llama.cpp or vLLM: open the {library} and choose “Export…”.",
    ),
    "next.library": ("适配器库", "adapter library"),
    # Keys
    "keys.open": ("快捷键（?）", "Keyboard shortcuts (?)"),
    "keys.title": ("快捷键", "Keyboard shortcuts"),
    "keys.close": ("关闭", "Close"),
    "keys.tabs": ("打开数据集、训练、对比、对话", "Open Dataset, Train, Compare, Chat"),
    "keys.new": ("新建一行（数据集）", "New row (Dataset)"),
    "keys.search": ("搜索行；在对比和对话里到输入框", "Search the rows; in Compare and Chat: to the question box"),
    "keys.run": ("开始训练，或发送问题", "Start training, or send the question"),
    "keys.run.rows": ("在表格里：在下面新建一行", "In the table: a new row below"),
    "keys.escape": ("停止回答，或关闭窗口", "Stop the answer, or close a window"),
    "keys.undo": ("撤销、重做表格里的修改", "Undo, redo a change of the table"),
    "keys.help": ("显示这张表", "Show this list"),
    "keys.rows": (
        "表格自己的快捷键在表格右上角的键盘图标里。",
        "The table's own keys are behind the keyboard icon above it.",
    ),
    "keys.single": (
        "单键快捷键（输入文字时不起作用）",
        "Shortcuts of a single key (they never act while you type)",
    ),
    # Links
    "link.copy": ("复制链接：这一页、这次训练、这组对比", "Copy a link to this tab, run and comparison"),
    "link.copied": ("链接已复制", "Link copied"),
    "link.by_hand": ("浏览器不让页面复制，请手动复制：", "The browser does not let the page copy. Copy it by hand:"),
    "link.ok": ("好", "OK"),
    "link.gone": (
        "链接里的 {count} 个适配器已经不在这里，换成了基座模型。",
        "Adapters of the link that are not here any more: {count}. The base model stands in their place.",
    ),
    # Undoing
    "undo.settings": ("恢复刚才的设置", "Bring my settings back"),
    "undo.do": ("撤销", "Undo"),
    "undo.deleted": ("已删除“{title}”。", "Deleted “{title}”."),
    "undo.back": ("“{name}”恢复了。", "“{name}” is back."),
    # Pace, as the browser works it out
    "pace.left": ("还要 {time}", "{time} left"),
    # Heard, not seen
    "heard.training": ("训练开始了。", "Training has begun."),
    "heard.idle": ("训练结束了。", "Training has ended."),
    "heard.stopping": ("正在停止训练。", "Training is stopping."),
}
