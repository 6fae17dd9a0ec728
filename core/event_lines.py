"""A run's events as lines for people, for the command line."""

from __future__ import annotations

from typing import cast

from core.run import Event, Run
from core.text import Text


def line(event: Event, run: Run) -> Text:
    """An event as a line for people."""
    kind, step = event["type"], event.get("step")
    if kind == "step":
        numbers = f"loss {event['loss']:.4f}  lr {event['learning_rate']:.2e}  {event['tokens_per_second']:.0f} tok/s"
        return Text(zh=f"第 {step}/{run.steps} 步  {numbers}", en=f"step {step}/{run.steps}  {numbers}")
    if kind == "probed":
        hits = f"{event['hits']}/{event['total']}"
        return Text(zh=f"第 {step} 步提问：身份命中 {hits}", en=f"probed at step {step}: identity {hits}")
    if kind == "acquired":
        hits = f"{event['hits']}/{event['total']}"
        return Text(zh=f"第 {step} 步学会了新身份（{hits}）", en=f"identity acquired at step {step} ({hits})")
    if kind == "chosen":
        return Text(zh=f"采用第 {step} 步的适配器", en=f"the adapter of step {step} is used")
    if kind == "failed":
        return Text(zh=str(event["message_zh"]), en=str(event["message_en"]))
    if kind == "loading":
        return Text(zh="正在载入模型", en="loading the model")
    if kind == "rehearsing":
        asked = event["asked"]
        return Text(zh=f"正在请基座回答 {asked} 个通用问题", en=f"asking the base {asked} general questions")
    if kind == "rehearsed":
        anchors = event["anchors"]
        return Text(zh=f"防遗忘：用上 {anchors} 个回答", en=f"rehearsal guard: {anchors} answers to hold on to")
    if kind == "started":
        rows, steps, device, cards = event["rows"], event["steps"], event["device"], int(str(event.get("cards", 1)))
        zh, en = (f"{cards} 张 {device}", f"{cards} cards ({device})") if cards > 1 else (device, device)
        return Text(zh=f"开始：{rows} 行，{steps} 步，在 {zh} 上", en=f"started: {rows} rows, {steps} steps on {en}")
    if kind == "evaluated":
        loss = f"{event['loss']:.4f}"
        return Text(zh=f"第 {step} 步的验证损失：{loss}", en=f"evaluation loss at step {step}: {loss}")
    if kind == "resumed":
        return _resumed(event)
    if kind == "truncated":
        out, cut, tokens = event["left_out"], event["cut"], event["tokens_cut"]
        held = event.get("set") == "evaluation"
        zh, en = ("过长的验证行", "evaluation rows too long") if held else ("过长的行", "rows too long")
        return Text(
            zh=f"{zh}：略去 {out} 行，从前面截断 {cut} 行（共 {tokens} 个词元）",
            en=f"{en}: {out} left out, {cut} cut at the beginning ({tokens} tokens)",
        )
    if kind == "smaller_split":
        most = event["max_tokens"]
        zh, en = ("，各层重算", ", layers recomputed") if event["recompute"] else ("", "")
        return Text(
            zh=f"显存不够：从这里起每次最多 {most} 个词元{zh}",
            en=f"out of memory: passes of at most {most} tokens from here on{en}",
        )
    if kind == "saved":
        path = run.folder / str(event["path"])
        return Text(zh=f"已保存 {path}", en=f"saved {path}")
    if kind == "finished" and "reason_en" in event:
        return Text(zh=f"训练完成。{event['reason_zh']}", en=f"finished. {event['reason_en']}")
    return {"finished": Text("训练完成", "finished"), "stopped": Text("已停止", "stopped")}.get(
        str(kind), Text(str(kind), str(kind))
    )


def _resumed(event: Event) -> Text:
    """Where a run goes on from, and which newer checkpoints could not be read."""
    step, damaged = event["step"], cast(list[str], event["damaged"])
    said = Text(zh=f"从第 {step} 步之后继续", en=f"resumed after step {step}")
    if not damaged:
        return said
    names = ", ".join(damaged)
    return Text(
        zh=f"{said.zh}；更新的检查点 {'、'.join(damaged)} 已损坏，没有使用，已改名为 damaged-…",
        en=f"{said.en}; newer checkpoints are damaged and were passed over, renamed damaged-...: {names}",
    )
