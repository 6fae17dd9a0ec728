"""What the engine asks of whatever computes: one resident model, its adapters, one training pass, one answering pass.

Adapters are named by the engine's handles; None is the base. Nobody calls a backend outside a turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

    from core.batch import PackedBatch
    from core.fused.sizes import Way
    from core.text import Text


class Backend(Protocol):
    """The arithmetic behind an engine. B rows of a batch, T tokens, V words of the vocabulary."""

    device: torch.device
    """Where batches and tokens must lie."""

    fast: bool
    """Whether training passes of plain LoRA adapters are fused here."""

    # -- adapters --

    def add_adapter(self, name: str, config: LoraConfig, seed: int, noise_alpha: float = 0.0) -> None:
        """Put a new adapter, without effect yet, into the model. Raises ValueError for unknown target layers.

        `seed` decides its start. `noise_alpha`: NEFTune's noise on the embeddings, in training passes only.
        """

    def delete_adapter(self, name: str) -> None:
        """Take an adapter out; without any, the model is exactly the base. Unknown names are fine."""

    def adapter_state(self, name: str) -> tuple[dict[str, torch.Tensor], LoraConfig]:
        """An adapter as it is written to disk: tensors under PEFT's own keys, and its configuration."""

    def load_adapter_state(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill an adapter with tensors of the keys and shapes that `adapter_state` gives."""

    def adapter_parameters(self, name: str) -> list[torch.nn.Parameter]:
        """All that is trained of an adapter, in the model's order, always the same objects."""

    def linear_names(self) -> set[str]:
        """Last names of the model's linear layers, the output layer among them."""

    def all_linear_names(self) -> set[str]:
        """Last names of the layers that `all-linear` covers: all but the output layer."""

    # -- training --

    def plain_reason(self, adapter: str) -> Text | None:
        """Why this adapter's training passes go through autograd; None if they are fused."""

    def settle(self, way: Way) -> None:
        """Put the base where training passes that go this way want it, before memory is taken for them."""

    def finish(self, adapter: str) -> None:
        """Give back the memory that training `adapter` needed besides the adapter itself."""

    def loss_and_grads(
        self, batch: PackedBatch, adapter: str, answer_tokens: int, way: Way, scale: float = 1.0
    ) -> torch.Tensor:
        """Add the gradient of (sum of token losses) / answer_tokens to `adapter`'s parameters; the loss part, float32 ().

        `answer_tokens` counts the whole optimizer step; `scale` multiplies the gradient only.
        """

    def loss(self, batch: PackedBatch, adapter: str | None) -> torch.Tensor:
        """Sum of token losses over the batch, float32 (), without dropout, noise and gradient."""

    # -- answering --

    def prefill(
        self, ids: Sequence[Sequence[int]], routing: Sequence[str | None], pad_id: int
    ) -> tuple[torch.Tensor, object]:
        """Read B prompts, each with its own adapter. Logits float32 (B, V) of each next token, and the cache."""

    def decode(self, tokens: torch.Tensor, routing: Sequence[str | None], cache: object) -> tuple[torch.Tensor, object]:
        """One more token a row, int64 (B,). Logits float32 (B, V), and the grown cache."""
