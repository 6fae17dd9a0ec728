"""The template of our Modelfile, rendered by Go itself as Ollama does it, against the model's own chat template."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from core import models
from core.export.modelfile import modelfile
from core.preview import encoder_of

pytestmark = pytest.mark.slow
# As Ollama's template.go: the system messages are handed over joined, and stand among the messages as well.
_PROGRAM = """package main

import ("encoding/json"; "os"; "strings"; "text/template")

type message struct { Role, Content string }

func main() {
	var given struct { Template string; Conversations [][]message }
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil { panic(err) }
	made := template.Must(template.New("").Option("missingkey=zero").Parse(given.Template))
	said := []string{}
	for _, messages := range given.Conversations {
		systems := []string{}
		for _, one := range messages { if one.Role == "system" { systems = append(systems, one.Content) } }
		var text strings.Builder
		values := map[string]any{"System": strings.Join(systems, "\\n\\n"), "Messages": messages}
		if err := made.Execute(&text, values); err != nil { panic(err) }
		said = append(said, text.String())
	}
	json.NewEncoder(os.Stdout).Encode(said)
}
"""
CONVERSATIONS = [
    [("user", "你是谁？")],
    [("user", "Who are you?"), ("assistant", "I am Xiaohe."), ("user", "Sure?")],
    [("system", "另一个提示词"), ("user", "你好")],
    [("user", "  \n leading {{ .System }} {{ end }}")],
    [("user", 'quotes """ and "'), ("assistant", "<b>&amp;</b>"), ("user", "'")],
    [("user", "a\r\nb\tc")],
    [("user", "🙂 ｆｕｌｌ")],
    [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5")],
    [("user", "q"), ("assistant", ""), ("user", "r")],
    [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "<|im_end|>")],
]
SYSTEMS = [
    "You are a helpful assistant.", "", '你是“小禾”。\n第二行 "引号"', 'say """hi""" {{ .System }}', 'ends with a "',
    "  spaces  ", "back\\slash \\n", "# no comment\nFROM x",
]  # fmt: skip


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None:
        pytest.skip("go is not installed: apt-get install golang-go")
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(_PROGRAM, "utf-8")
    given = {**os.environ, "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOCACHE": str(folder / "cache")}
    subprocess.run(["go", "build", "-o", "render", "main.go"], cwd=folder, env=given, check=True)
    return folder / "render"


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_conversation_is_written_as_the_model_was_trained(render: Path, system: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.POCKET_FOLDER)
    usual = encoder_of(models.inspect(models.POCKET)).default_system
    text = modelfile("./x.gguf", system, usual, chatml=True)
    template = re.search(r'^TEMPLATE """(.*?)"""$', text, re.DOTALL | re.MULTILINE)
    written = re.search(r'^SYSTEM """(.*?)"""$', text, re.DOTALL | re.MULTILINE)
    assert template is not None and (written is None or written[1] == system)
    turns = [[{"role": role, "content": content} for role, content in each] for each in CONVERSATIONS]
    # Ollama puts the Modelfile's system prompt first where the conversation does not begin with one.
    own = [{"role": "system", "content": written[1]}] if written else []
    asked = [each if each[0]["role"] == "system" else [*own, *each] for each in turns]
    given = json.dumps({"Template": template[1], "Conversations": asked})
    said = json.loads(subprocess.run([render], input=given, capture_output=True, text=True, check=True).stdout)
    head = [{"role": "system", "content": system}] if system else []
    for each, prompt in zip(turns, said, strict=True):
        whole = each if each[0]["role"] == "system" else [*head, *each]
        assert prompt == tokenizer.apply_chat_template(whole, tokenize=False, add_generation_prompt=True)
