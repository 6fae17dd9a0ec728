"""A tiny real model, made anew for each session: 2 layers, grouped-query attention, biases, random weights, ChatML."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ["ONECARD_TOKEN"] = ""  # a program that a test starts asks for none; test_hosts.py has those that do
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Each worker's share of the processors: more threads than these wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("ONECARD_TEST_CUDA", "")

from core.config import TrainConfig
from core.dataset import Message
from core.engine import Engine

# One Chromium for all tests of a process: Playwright does not start a second time beside itself. A fixture is found by
# its name here.
from tests.chromium import browser, page, serve, serve_workspace, start  # noqa: F401

_CHATML = (
    "{%- if messages[0]['role'] != 'system' -%}<|im_start|>system\nYou are Tiny.<|im_end|>\n{%- endif -%}"
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def make_model(folder: Path, family: str = "qwen2", layers: int = 2, seed: int = 0) -> Path:
    """Write a tiny model with its tokenizer. `family` "llama" has a template that is not ChatML."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = _CHATML
    if family == "llama":
        tokenizer.chat_template = (
            "{%- for m in messages -%}{{ '[' + m['role'] + '] ' + m['content'] }}"
            "{%- if m['role'] == 'assistant' -%}<|im_end|>{%- endif -%}\n{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{ '[assistant] ' }}{%- endif -%}"
        )
    tokenizer.save_pretrained(folder)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": family == "qwen2",
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(**shape)) if family == "qwen2" else LlamaForCausalLM(LlamaConfig(**shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # biases start at zero, and would test nothing
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny Qwen2 model."""
    return make_model(tmp_path_factory.mktemp("tiny-qwen2"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama whose template is not ChatML."""
    return make_model(tmp_path_factory.mktemp("tiny-llama"), family="llama")


@pytest.fixture(autouse=True)
def few_questions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run asks a handful of questions, except where these are what is tested: a random model never ends an answer."""
    if request.module.__name__.rpartition(".")[2] not in ("test_probing", "test_prove", "test_scatter"):
        monkeypatch.setattr("core.pinned._HARDER", 2)
        monkeypatch.setattr("core.pinned._GENERAL", 1)


@pytest.fixture
def tiny_config(tiny_model: Path) -> TrainConfig:
    """Settings of a short run on the tiny model."""
    return TrainConfig(
        model=str(tiny_model), learning_rate=1e-2, num_train_epochs=2, gradient_accumulation_steps=4, probe_steps=0
    )


@pytest.fixture
def tiny_engine(tiny_model: Path) -> Engine:
    """An engine with the tiny model loaded, on the processor."""
    engine = Engine()
    engine.load(str(tiny_model))
    return engine


@pytest.fixture
def plain_engine(tiny_engine: Engine) -> Engine:
    """The same, with every training pass by autograd: what can be turned to float64."""
    import torch

    from core.plain import PlainBackend

    resident = tiny_engine.resident
    assert resident is not None
    backend = PlainBackend(resident.backend.model, torch.device("cpu"), None)  # type: ignore[attr-defined]
    tiny_engine._resident = replace(resident, backend=backend)
    return tiny_engine


def conversation(
    question: str, answer: str | None = None, system: str = "You are a helpful assistant."
) -> tuple[Message, ...]:
    """A one-turn conversation, with the answer if given."""
    turns = (Message("system", system), Message("user", question))
    return turns if answer is None else (*turns, Message("assistant", answer))


@pytest.fixture
def chat() -> object:
    """The conversation builder, for tests that cannot import from here."""
    return conversation


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public files beside the checkout; tests that need them are skipped where they are absent."""
    folder = Path(os.environ.get("ONECARD_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder} (set ONECARD_SHARED_DATA)")
    return folder
