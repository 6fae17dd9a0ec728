"""Run inside LLaMA-Factory's environment: its own ChatModel's greedy answers. CONFIG.json -> ANSWERS.json."""

import json
import sys
from pathlib import Path

from llamafactory.chat import ChatModel

asked = json.loads(Path(sys.argv[1]).read_text("utf-8"))
model = ChatModel(asked["model"])
said = []
for turns in asked["conversations"]:
    system = turns[0]["content"] if turns[0]["role"] == "system" else None
    rest = turns[1:] if turns[0]["role"] == "system" else turns
    said.append(model.chat(rest, system, max_new_tokens=48, do_sample=False)[0].response_text)
Path(sys.argv[2]).write_text(json.dumps(said, ensure_ascii=False), "utf-8")
