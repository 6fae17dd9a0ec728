"""The exact commands that run an export, or a run's adapter, in other programs, and what each of these cannot take."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from core import anatomy, models, vllm
from core.anatomy import Anatomy
from core.export import swift
from core.export.order import Order
from core.text import Language, Text

_SYSTEM = Text(
    "它不知道训练时的系统提示词：像第二条命令那样，每次请求都带上。",
    "It does not know the training's system prompt: send it with every request, as the second command does.",
)
# Without it the base's own sampling settings would count: not what was tested.
_FLOAT32 = Text(
    "vLLM 默认把 float32 模型转成 16 位来算；加 --dtype float32 才不舍入。",
    "vLLM computes float32 models in 16 bits unless --dtype float32 is added.",
)
_SGLANG = "--sampling-defaults openai"
_PEFT = """python - <<'END'
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({base})
model = AutoModelForCausalLM.from_pretrained({base}, dtype="auto", device_map="auto")
model = PeftModel.from_pretrained(model, {folder})
asked = tokenizer.apply_chat_template({messages}, add_generation_prompt=True, return_tensors="pt", return_dict=True)
said = model.generate(**asked.to(model.device), max_new_tokens=200, do_sample=False, repetition_penalty=1.0)
print(tokenizer.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
END"""


@dataclass(frozen=True)
class Command:
    """What to type into a shell; `problem` instead of `text` where the program cannot take it."""

    tool: str
    text: str
    note: Text | None = None
    problem: Text | None = None


def where_it_lies(order: Order, folder: Path) -> list[Command]:
    """`commands` for the export in `folder` as it was made: a zip is unpacked first."""
    if order.format != "zip":
        return commands(order, folder)
    unpack = Command("unzip", f"unzip {_q(str(folder / f'{order.name}.zip'))} -d {_q(str(folder))}")
    return [unpack, *commands(order, folder / order.name)]


def commands(order: Order, folder: Path, base: str = "") -> list[Command]:
    """For the export in `folder` (or, for an adapter, its own folder), each program that takes its format.

    `base`: what to write for the base in place of where it lies on this machine.
    """
    if order.format == "gguf":
        return _gguf(f"{order.name}-{order.quantisation}.gguf", order, folder)
    if order.format == "gguf-adapter":
        return _gguf_adapter(order, folder)
    if order.format in ("merged", "merged-f32", "bnb"):
        return _merged(order, folder)
    found = anatomy.examine(order.adapter)
    return adapter_commands(found, folder, order.model, order.name, order.system, order.language, base)


def adapter_commands(
    found: Anatomy, folder: Path, model: str, name: str, system: str, language: Language = "zh", base: str = ""
) -> list[Command]:
    """For the adapter in `folder` on its base, which the commands call `base` if that is given."""
    base = base or (str(models.inspect(model).folder) if models.is_pocket(model) else model)
    said = messages(system, language)
    call = vllm.Call(base, (f"{name}-base",), {name: folder}, found.rank)
    # Ranks and layers it reads from the adapter.
    sglang = f"python -m sglang.launch_server --model-path {_q(base)} --lora-paths {_q(f'{name}={folder}')} {_SGLANG}"
    options, note = swift.options(model)
    known = f"--model {_q(base)}{options} --adapters {_q(str(folder))}"
    peft = _PEFT.format(base=repr(base), folder=repr(str(folder)), messages=repr(said))
    no_dora = Text(vllm.DORA.zh.format(tool="SGLang"), vllm.DORA.en.format(tool="SGLang"))
    return [
        _server("vLLM", _vllm(call), vllm.Call.port, name, said, vllm.problem(found)),
        _server("SGLang", sglang, 30000, name, said, no_dora if found.kind in ("DoRA", "rsDoRA") else None),
        Command("ms-swift 4.6", f"{_swift(known, system)}\nswift export {known} --merge_lora true", note),
        Command("transformers + PEFT", peft),
    ]


def messages(system: str, language: Language) -> list[dict[str, str]]:
    """The first question to put to an adapter, under the prompt of its training."""
    asked = {"role": "user", "content": "你是谁？" if language == "zh" else "Who are you?"}
    return [{"role": "system", "content": system}, asked] if system else [asked]


def _vllm(call: vllm.Call) -> str:
    return f"vllm {shlex.join(call.arguments(shown=True))}"


def _swift(known: str, system: str) -> str:
    said = f" --system {_q(system)}" if system else ""
    # Without these the base's own sampling would count: not what was tested.
    return (
        f"swift infer {known}{said} --temperature 0 --repetition_penalty 1\nswift deploy {known}{said} --host 127.0.0.1"
    )


def _server(
    tool: str, text: str, port: int, name: str, said: list[dict[str, str]], problem: Text | None = None
) -> Command:
    """A server's command, and one that asks it."""
    if problem is not None:
        return Command(tool, "", None, problem)
    return Command(tool, f"{text}\n{ask(port, name, said)}", _SYSTEM if len(said) > 1 else None)


def ask(port: int, name: str, said: list[dict[str, str]], key: str = "") -> str:
    """A command that asks the model `name` of a server on this machine, greedily. `key`: the variable with its key."""
    body = _q(json.dumps({"model": name, "messages": said, "temperature": 0}, ensure_ascii=False))
    header = f' -H "authorization: Bearer ${key}"' if key else ""
    return f"curl http://127.0.0.1:{port}/v1/chat/completions -H 'content-type: application/json'{header} -d {body}"


def _noted(command: Command, said: Text) -> Command:
    """With `said` before what is noted already."""
    note = command.note
    return replace(command, note=said if note is None else Text(said.zh + note.zh, f"{said.en} {note.en}"))


def _merged(order: Order, folder: Path) -> list[Command]:
    path, said = _q(str(folder)), messages(order.system, order.language)
    call = vllm.Call(str(folder), (order.name,), quantization=vllm.BNB if order.format == "bnb" else "")
    served = _server("vLLM", _vllm(call), vllm.Call.port, order.name, said)
    system = f" --system {_q(order.system)}" if order.system else ""
    options, note = swift.merged_options(order.model)
    chat = f"python app.py chat --model {path} --prompt {_q(said[-1]['content'])}{system}"
    if order.format == "bnb":
        served = _noted(served, vllm.BNB_PLUGIN)
    if order.format == "merged-f32":
        served = _noted(served, _FLOAT32)
    sglang = f"python -m sglang.launch_server --model-path {path} --served-model-name {_q(order.name)} {_SGLANG}"
    found = [
        Command("OneCard", chat),
        served,
        Command("ms-swift 4.6", _swift(f"--model {path}{options}", order.system), note),
    ]
    if order.format != "bnb":
        found.insert(2, _server("SGLang", sglang, 30000, order.name, said))
        convert = f"python convert_hf_to_gguf.py {path} --outfile {_q(order.name + '.gguf')}"
        found.append(Command("llama.cpp", convert, Text("也可以直接导出 GGUF。", "Or export GGUF right here.")))
    return found


def _gguf(file: str, order: Order, folder: Path) -> list[Command]:
    path = _q(str(folder / file))
    return [
        Command("llama.cpp", f"llama-server -m {path} --jinja --port 8080\nllama-cli -m {path} --jinja -sys {_q(order.system)}"),
        Command("Ollama", f"cd {_q(str(folder))}\nollama create {_q(order.name)} -f Modelfile\nollama run {_q(order.name)}"),
    ]  # fmt: skip


def _gguf_adapter(order: Order, folder: Path) -> list[Command]:
    path = _q(str(folder / f"{order.name}-lora.gguf"))
    base = Text("base.gguf 是同一个基座的 GGUF 文件。", "base.gguf is the same base as a GGUF file.")
    return [
        Command("llama.cpp", f"llama-server -m base.gguf --lora {path} --jinja --port 8080", base),
        Command("Ollama", f"cd {_q(str(folder))}\nollama create {_q(order.name)} -f Modelfile", base),
    ]


def _q(text: str) -> str:
    return shlex.quote(text)
