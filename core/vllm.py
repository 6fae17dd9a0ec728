"""What vLLM is called with, and what it cannot take: the same arguments for the commands shown and the server started.

Names and limits are those of vLLM 0.33 (vllm/engine/arg_utils.py, config/lora.py, lora/peft_helper.py there).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from core import anatomy, models
from core.anatomy import Anatomy
from core.errors import ModelError, UserError
from core.text import Text

VLLM = "ONECARD_VLLM"
# What --max-lora-rank takes; newer versions know 1 as well.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Adapters beyond these wait in host memory and take turns: each slot on the card costs memory for the largest rank.
MOST_SLOTS = 8
BNB = "bitsandbytes"
BNB_PLUGIN = Text(
    "vLLM 从 0.28 起要另装 4 比特插件：pip install vllm-bnb-plugin。",
    "From 0.28 on, vLLM needs its 4-bit plugin: pip install vllm-bnb-plugin.",
)
NOT_INSTALLED = Text(
    "没有找到 vLLM。它会固定自己的 torch 版本，请装进单独的环境：python -m venv ~/vllm && ~/vllm/bin/pip install vllm，"
    f"再设置 {VLLM}=~/vllm/bin/vllm 并重新启动 OneCard。",
    "vLLM was not found. It pins a torch of its own, so give it an environment of its own: python -m venv ~/vllm && "
    f"~/vllm/bin/pip install vllm; then set {VLLM}=~/vllm/bin/vllm and start OneCard again.",
)
DORA = Text("{tool} 不支持 DoRA：请导出合并后的模型。", "{tool} takes no DoRA: export the merged model.")
_PACKED = Text(
    "vLLM 不加载 Qwen2 等模型输出层或词向量上的适配器：请导出合并后的模型。",
    "vLLM loads no adapter on the output layer or the embedding of Qwen2 and others: export the merged model.",
)
_RANK = Text(
    "vLLM 的秩上限是 {most}，这个适配器是 {rank}：请导出合并后的模型。",
    "vLLM takes ranks up to {most}, this adapter has {rank}: export the merged model.",
)
# Of no use to vLLM, or wrong for it: OneCard's own settings and keys, tokens of hubs that it need not ask, torch's and
# OpenMP's settings that fit our process.
_NOT_PASSED = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "HF_TOKEN",
               "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One base in `base` (folder or hub id), answering to `names`, and adapters by name; `rank` is their largest.

    `gpu_memory_utilization`: share of the card that vLLM may take; None leaves vLLM's own. `max_model_len`: tokens of a
    conversation, 0 for the model's own limit. `more`: further arguments, as they are.
    """

    base: str
    names: Sequence[str]
    adapters: Mapping[str, Path] = field(default_factory=dict)
    rank: int = 0
    host: str = "127.0.0.1"
    port: int = 8000
    quantization: str = ""
    dtype: str = ""
    gpu_memory_utilization: float | None = None
    max_model_len: int = 0
    more: Sequence[str] = ()

    def arguments(self, shown: bool = False) -> list[str]:
        """`serve BASE ...`, for vLLM's command; `shown`: as one would type it.

        Sampling defaults of the base's generation_config.json (temperature, repetition penalty) are left out: what was
        tested was tested without them. The host is always said: vLLM's own default is every network. One that we start
        answers no other web page; older versions answer all.
        """
        made = ["serve", self.base, "--host", self.host]
        made += [] if shown else ["--port", str(self.port), "--allowed-origins", "[]"]
        made += ["--served-model-name", *self.names, "--generation-config", "vllm"]
        for flag, value in (("--quantization", self.quantization), ("--dtype", self.dtype)):
            made += [flag, value] if value else []
        if self.gpu_memory_utilization is not None:
            made += ["--gpu-memory-utilization", f"{self.gpu_memory_utilization:.2f}"]
        made += ["--max-model-len", str(self.max_model_len)] if self.max_model_len else []
        if self.adapters:
            count = len(self.adapters)
            made += ["--enable-lora", "--max-lora-rank", str(slot_rank(self.rank) or RANKS[-1])]
            made += ["--max-loras", str(min(count, MOST_SLOTS))] if count > 1 else []
            made += ["--max-cpu-loras", str(count)] if count > MOST_SLOTS else []
            made += ["--lora-modules", *(_module(name, folder) for name, folder in self.adapters.items())]
        return [*made, *self.more]


def sharing(call: Call, share: float | None) -> Call:
    """The same with a share of the card, where there is one to say."""
    return call if share is None else replace(call, gpu_memory_utilization=share)


def slot_rank(rank: int) -> int | None:
    """The smallest --max-lora-rank that takes `rank`; None where there is none."""
    return next((each for each in RANKS if each >= rank), None)


def problem(found: Anatomy) -> Text | None:
    """Why vLLM cannot take this adapter; None if it can."""
    if found.kind in ("DoRA", "rsDoRA"):
        return Text(DORA.zh.format(tool="vLLM"), DORA.en.format(tool="vLLM"))
    if slot_rank(found.rank) is None:
        values = {"most": RANKS[-1], "rank": found.rank}
        return Text(_RANK.zh.format(**values), _RANK.en.format(**values))
    return _PACKED if any(target in ("lm_head", "embed_tokens") for target in found.targets) else None


def fitted(name: str, folder: Path, model: str) -> Anatomy:
    """The adapter in `folder`. Raises ModelError, naming it, if vLLM cannot take it or it does not fit the base."""
    found = anatomy.examine(folder)
    why = problem(found)
    if why is not None:
        raise ModelError(Text(f"适配器“{name}”：{why.zh}", f"Adapter “{name}”: {why.en}"))
    unlike = anatomy.misfit(found, models.inspect(model).folder)
    if unlike is not None:
        raise ModelError(
            Text(
                f"适配器“{name}”与基座 {model} 不符：{unlike.zh}。",
                f"Adapter “{name}” does not fit the base {model}: {unlike.en}.",
            )
        )
    return found


def find() -> Path | None:
    """vLLM's command: the one that $ONECARD_VLLM names, the one beside this Python, the one on the path; None: no vLLM."""
    named = os.environ.get(VLLM, "").strip()
    if named:
        path = Path(named).expanduser()
        return path if os.access(path, os.X_OK) and path.is_file() else None
    beside = shutil.which("vllm", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("vllm")
    return Path(found) if found else None


def found_or_refused() -> Path:
    """vLLM's command. Raises UserError with the lines that install it."""
    path = find()
    if path is not None:
        return path
    named = os.environ.get(VLLM, "").strip()
    if named:
        raise UserError(
            Text(
                f"{VLLM} 指向 {named}，那里没有可以执行的文件。请改正它，或取消这个环境变量。",
                f"{VLLM} is {named}, and no program is there. Correct it, or unset it.",
            )
        )
    raise UserError(NOT_INSTALLED)


def environment(keys: Sequence[str] = ()) -> dict[str, str]:
    """The variables vLLM is started with: ours less what it must not see, nothing sent home, nothing fetched.

    A key goes by the environment: an argument could be read by every user of the machine. Raises UserError for more than
    one key, which vLLM does not take so.
    """
    if len(keys) > 1:
        raise UserError(
            Text(
                f"vLLM 通过环境变量只接受一个密钥，这里有 {len(keys)} 个。请只留一个。",
                f"vLLM takes one key by the environment; {len(keys)} are given. Leave one.",
            )
        )
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("ONECARD_") and name not in _NOT_PASSED
    }
    kept |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return kept | ({"VLLM_API_KEY": keys[0]} if keys else {})


def _module(name: str, folder: Path) -> str:
    """One value of --lora-modules. With a comma in it vLLM reads JSON, and a name ends at the first "="."""
    if "," in f"{name}{folder}" or "=" in name:
        return json.dumps({"name": name, "path": str(folder)}, ensure_ascii=False)
    return f"{name}={folder}"
