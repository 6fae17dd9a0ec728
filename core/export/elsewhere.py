"""The exact commands that run an export, or a run's adapter, in other programs, and what each of these cannot take."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from core import anatomy, models
from core.anatomy import Anatomy
from core.export.order import Order
from core.run import Run
from core.text import Text

# vLLM 0.11 takes these as --max-lora-rank, and no others.
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_DORA = Text("{tool} 不支持 DoRA：请导出合并后的模型。", "{tool} takes no DoRA: export the merged model.")
_PACKED = Text(
    "{tool} 不加载输出层或词向量上的适配器：请导出合并后的模型。",
    "{tool} loads no adapter on the output layer or the embedding: export the merged model.",
)
_RANK = Text(
    "{tool} 的秩上限是 {most}，这个适配器是 {rank}：请导出合并后的模型。",
    "{tool} takes ranks up to {most}, this adapter has {rank}: export the merged model.",
)


@dataclass(frozen=True)
class Command:
    """What to type into a shell; `problem` instead of `text` where the program cannot take it."""

    tool: str
    text: str
    note: Text | None = None
    problem: Text | None = None


def commands(order: Order, folder: Path, run: Run | None = None) -> list[Command]:
    """For the export in `folder` (or, for an adapter, its own folder), each program that takes its format."""
    if order.format == "gguf":
        return _gguf(f"{order.name}-{order.quantisation}.gguf", order, folder)
    if order.format == "gguf-adapter":
        return _gguf_adapter(order, folder)
    if order.format in ("merged", "bnb"):
        return _merged(order, folder)
    return adapter_commands(anatomy.examine(order.adapter), folder, order.model, order.name, order.system)


def adapter_commands(found: Anatomy, folder: Path, model: str, name: str, system: str) -> list[Command]:
    """For the adapter in `folder` on its base."""
    base = str(models.inspect(model).folder) if models.is_pocket(model) else model
    rank = next((each for each in VLLM_RANKS if each >= found.rank), None)
    modules = f"{name}={folder}"
    vllm = (
        f"vllm serve {_q(base)} --enable-lora --lora-modules {_q(modules)} --max-lora-rank {rank} "
        f"--served-model-name {_q(name + '-base')}"
    )
    sglang = (
        f"python -m sglang.launch_server --model-path {_q(base)} --enable-lora --lora-paths {_q(modules)} "
        f"--max-lora-rank {found.rank} --lora-target-modules all"
    )
    swift = " ".join(
        [
            "swift {verb}",
            "--model",
            _q(base),
            "--adapters",
            _q(str(folder)),
            *(["--system", _q(system)] if system else []),
        ]
    )
    peft = f'python -c "from peft import AutoPeftModelForCausalLM as M; m = M.from_pretrained({str(folder)!r}); print(m.peft_config)"'
    return [
        _or("vLLM", vllm, _for_vllm(found, rank)),
        _or("SGLang", sglang, _for_sglang(found)),
        Command("ms-swift 4.6", "\n".join(swift.format(verb=verb) for verb in ("infer", "deploy")) + "\n"
                + f"swift export --adapters {_q(str(folder))} --model {_q(base)} --merge_lora true"),
        Command("transformers + PEFT", peft),
    ]  # fmt: skip


def _for_vllm(found: Anatomy, rank: int | None) -> Text | None:
    if found.kind in ("DoRA", "rsDoRA"):
        return _with(_DORA, "vLLM")
    if rank is None:
        return _with(_RANK, "vLLM", most=VLLM_RANKS[-1], rank=found.rank)
    return _with(_PACKED, "vLLM") if _beyond_blocks(found) else None


def _for_sglang(found: Anatomy) -> Text | None:
    if found.kind in ("DoRA", "rsDoRA"):
        return _with(_DORA, "SGLang")
    return _with(_PACKED, "SGLang") if _beyond_blocks(found) else None


def _beyond_blocks(found: Anatomy) -> bool:
    return any(target in ("lm_head", "embed_tokens") for target in found.targets)


def _merged(order: Order, folder: Path) -> list[Command]:
    path = _q(str(folder))
    vllm = f"vllm serve {path} --served-model-name {_q(order.name)}"
    if order.format == "bnb":
        vllm += " --quantization bitsandbytes"
    system = f" --system {_q(order.system)}" if order.system else ""
    question = _q("你是谁？" if order.language == "zh" else "Who are you?")
    found = [
        Command("OneCard", f"python app.py chat --model {path} --prompt {question}{system}"),
        Command("vLLM", vllm),
        Command("ms-swift 4.6", f"swift infer --model {path}{system}\nswift deploy --model {path}{system}"),
    ]  # fmt: skip
    if order.format == "merged":
        found.insert(2, Command("SGLang", f"python -m sglang.launch_server --model-path {path}"))
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


def _or(tool: str, text: str, problem: Text | None) -> Command:
    return Command(tool, "" if problem else text, None, problem)


def _with(text: Text, tool: str, **values: object) -> Text:
    return Text(text.zh.format(tool=tool, **values), text.en.format(tool=tool, **values))


def _q(text: str) -> str:
    return shlex.quote(text)
