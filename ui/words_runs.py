"""A run in one file, two runs side by side, one that was cut off: sentences of the page, as in ui.locale."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "runs.compare": ("把“{title}”和另一次训练对比", "Compare “{title}” with another run"),
    "runs.download": ("打包“{title}”，带到另一台机器", "Pack “{title}” for another machine"),
    "runs.open": ("打开训练文件…", "Open a run file…"),
    "runs.brought": ("已打开“{title}”。", "“{title}” is among the runs now."),
    "runs.there": ("“{title}”已经在这里了，完全相同。", "“{title}” is here already, every file the same."),
    # The dialog of a run's file
    "runfile.title": ("打包“{title}”", "Pack “{title}”"),
    "runfile.open": ("打开训练文件", "Open a run file"),
    "runfile.close": ("关闭", "Close"),
    "runfile.inside": ("一个 zip 文件，约 {size}：{parts}。", "One zip file, about {size}: {parts}."),
    "runfile.part.rows": ("{rows} 行数据", "{rows} rows"),
    "runfile.part.settings": ("全部设置", "all settings"),
    "runfile.part.events": ("曲线和每次提问的回答", "curve and answers of every probing"),
    "runfile.part.proof": ("检验", "the proof"),
    "runfile.part.adapter": ("适配器", "the adapter"),
    "runfile.part.points": ("途中各次提问的适配器", "the adapters it was probed with"),
    "runfile.more": (
        "连检查点一起，约 {size}（要在另一台机器上继续训练才需要）",
        "With the checkpoints, about {size} (only needed to go on training on another machine)",
    ),
    "runfile.rows": (
        "里面有训练用的每一行数据。在另一台机器的“训练记录”里打开它，看到的和这里一样；每个文件都有 SHA-256，打开时会核对。",
        "Every training row is in it. Opened under Runs on another machine, it looks as it does here; each file has its "
        "SHA-256, which is checked there.",
    ),
    "runfile.pack": ("打包下载", "Pack and download"),
    "runfile.adapter": ("只要适配器", "The adapter only"),
    "runfile.about": (
        "选一个用 OneCard 打包的训练（zip）。里面的每个文件核对无误后才放进训练记录；同一个文件打开两次也没关系。",
        "Choose a run that was packed by OneCard (zip). Every file in it is checked before it joins the runs; to open it "
        "twice does no harm.",
    ),
    "runfile.choose": ("选择文件…", "Choose a file…"),
    "runfile.cancel": ("取消", "Cancel"),
    "runfile.uploading": ("已传", "Sent"),
    "runfile.checking": ("正在核对每个文件…", "Checking every file…"),
    "runfile.failed": (
        "没有连上，请检查程序是否还在运行，然后再试。",
        "No connection. Is the program still running? Try again.",
    ),
    "runfile.live": ("“{title}”正在训练，结束后才能打包。", "“{title}” is training; it can be packed once that ends."),
    "runfile.gone": ("这次训练已经删除了。", "This run has been deleted."),
    # Two runs side by side
    "versus.title": ("对比训练", "Compare runs"),
    "versus.of": ("对比“{title}”", "Compare “{title}”"),
    "versus.note": ("设置、数据、曲线、检验和结果", "settings, data, curves, proofs and outcomes"),
    "versus.list": ("和哪一次对比", "Which run to compare with"),
    "versus.curves": ("损失曲线", "Loss curves"),
    "versus.axis.step": ("步", "step"),
    "versus.axis.loss": ("损失", "loss"),
    "versus.evaluation": ("{title}：验证", "{title}: eval"),
    "versus.svg": ("存为 SVG", "Save as SVG"),
    "versus.png": ("存为 PNG", "Save as PNG"),
    "versus.csv": ("存为 CSV（每一个点）", "Save as CSV (every point)"),
    "versus.drawing": ("正在画图…", "Drawing…"),
    "versus.nochart": (
        "图没有画出来，数字可以存为 CSV。",
        "The chart could not be drawn; its numbers can be saved as CSV.",
    ),
    "versus.failed": ("没有读到，请检查程序是否还在运行。", "Not read. Is the program still running?"),
    "versus.settings": ("不同的设置", "Settings that differ"),
    "versus.settings.same": ("设置完全相同。", "All settings are the same."),
    "versus.default": ("默认", "default"),
    "versus.empty": ("空", "empty"),
    "versus.data": ("数据", "Data"),
    "versus.data.same": ("数据相同，{rows} 行，一字不差。", "The same data, row by row. Rows: {rows}."),
    "versus.data.rows": ("{first} 行和 {second} 行。", "Rows: {first} and {second}."),
    "versus.data.mixed": ("混入的行：", "Mixed-in rows:"),
    "versus.rows": ("逐行对比…", "Row by row…"),
    "versus.proof": ("检验", "Proof"),
    "versus.proof.none": ("两次都还没有检验。", "Neither run has been proved yet."),
    "versus.proof.missing": ("还没有检验", "not proved yet"),
    "versus.proof.other": (
        "两次检验用的基座、量化或题库不同，数字不能直接相比。",
        "The proofs are of different bases, quantisations or question sets; their numbers do not compare directly.",
    ),
    "versus.verdict": ("结论", "Verdict"),
    "versus.base": ("基座 {hits} / {n}", "base {hits} of {n}"),
    "versus.outcome": ("结果和速度", "Outcome and speed"),
    "versus.status": ("结束", "Ended"),
    "versus.reason": ("{word}：{reason}", "{word}: {reason}"),
    "versus.steps": ("步数", "Steps"),
    "versus.loss": ("训练损失，第一点 → 最后", "Training loss, first → last"),
    "versus.best": ("最低的验证损失", "Lowest evaluation loss"),
    "versus.hits": ("身份命中", "Identity hits"),
    "versus.adapter": ("采用的适配器", "Adapter in use"),
    "versus.at": ("第 {step} 步", "step {step}"),
    "versus.time": ("用时", "Time"),
    "versus.speed": ("速度（中位数）", "Speed (median)"),
    "versus.speed.value": ("{tokens} 词元/秒，{seconds} 秒/步", "{tokens} tok/s, {seconds} s/step"),
    "versus.memory": ("内存或显存峰值", "Peak memory"),
    "versus.device": ("设备", "Device"),
    "run.interrupted.note": (
        "程序在这次训练的第 {step} 步退出，训练中断了。按下面的按钮，从第 {saved} 步的检查点继续训练。",
        "The program ended at step {step} of this run, which was interrupted. The button below goes on from the checkpoint "
        "of step {saved}.",
    ),
    "run.interrupted.anew": (
        "程序在这次训练的第 {step} 步退出，训练中断了。还没有存下检查点：按下面的按钮，用同样的数据和设置从第 0 步重新训练。",
        "The program ended at step {step} of this run, which was interrupted. No checkpoint was saved by then: the button "
        "below trains it again from step 0, with the same rows and settings.",
    ),
    "run.interrupted.kept": (
        "途中保留的适配器还在（第 {steps} 步），现在就可以用；重新训练到那一步时才会换成新的。",
        "Adapters kept on the way are still there (steps {steps}) and can be used now; each is replaced only when its step "
        "is trained again.",
    ),
    "run.interrupted.saved": (
        "中断前存下的检查点在文件夹 {folder} 里。",
        "The checkpoints saved before that are in the folder {folder}.",
    ),
}
