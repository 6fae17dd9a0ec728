"""The network: a small Qwen2, its optimisers, its loss on labelled positions, and how it is written to disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from presets.pocket.muon import Muon
from presets.pocket.tokenization import MAX_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM


@dataclass(frozen=True)
class Shape:
    """Sizes of the network."""

    hidden: int = 256
    layers: int = 6
    heads: int = 8
    key_value_heads: int = 2
    inner: int = 640


def new_model(tokenizer: PreTrainedTokenizerBase, shape: Shape, seed: int) -> Qwen2ForCausalLM:
    """A fresh network in float32."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        intermediate_size=shape.inner,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def optimisers(model: Qwen2ForCausalLM, learning_rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the body, AdamW for embedding, norms and biases."""
    named = list(model.named_parameters())
    body = [weight for name, weight in named if weight.dim() == 2 and "embed" not in name]
    rest = [weight for name, weight in named if weight.dim() != 2 or "embed" in name]
    return [
        Muon(body, lr=learning_rate, weight_decay=weight_decay),
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def token_losses(model: Qwen2ForCausalLM, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Loss of each labelled token, float32 (n,). `places`: flat indices into ids (B, T) of tokens in the loss.

    Rows are right-padded and attention is causal, so padding needs no mask.
    """
    states = model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
    logits = model.lm_head(states[places - 1])
    return torch.nn.functional.cross_entropy(logits.float(), ids.flatten()[places], reduction="none")


def save_model(model: Qwen2ForCausalLM, folder: Path) -> None:
    """Write bfloat16 weights and tidy configs. The model in memory keeps its dtype."""
    from transformers import GenerationConfig, Qwen2ForCausalLM

    copy = Qwen2ForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        do_sample=False,
        max_new_tokens=128,
    )
    copy.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = "bfloat16"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
