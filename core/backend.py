"""What the engine asks of whatever computes: one resident model, its adapters, training passes, and texts continued.

Adapters are named by the engine's handles; None is the base. Nobody calls a backend outside a turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

    from core.batch import PackedBatch
    from core.fused.sizes import Way
    from core.text import Text


@dataclass(frozen=True)
class Route:
    """Who answers a row: an adapter by the backend's handle at a strength, or the base (None), which ignores it.

    `strength`, 0 to 1.5, multiplies what the adapter adds; at 0 the row is the base's.
    """

    adapter: str | None = None
    strength: float = 1.0


class Slots(Protocol):
    """Texts being continued together; rows keep their order, new ones are appended, rows that left are gone."""

    def __len__(self) -> int: ...

    def join(self, prompts: Sequence[Sequence[int]], routes: Sequence[Route], most: Sequence[int]) -> torch.Tensor:
        """Read n prompts into n new rows, each exactly as if it were alone.

        most: positions (prompt and answer) each row may come to take. Logits float32 (n, V) of their next tokens, valid
        until the next call. An error leaves the rows there as they were.
        """

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """One more token a row, int64 (B,) on the backend's device. Logits float32 (B, V), valid until the next call.

        After an error the slots can no longer be used.
        """

    def leave(self, rows: Sequence[int]) -> None:
        """These rows (positions in the present order) are done. Their adapters may be gone already."""


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
        """Add the gradient of (sum of token losses) / answer_tokens to `adapter`'s parameters; the losses, float32 (2,).

        They are the parts of cross entropy and of the weighted divergence from the batch's teacher, 0 without one.
        `answer_tokens` counts the whole optimizer step without what is taught; `scale` multiplies the gradient only.
        """

    def loss(self, batch: PackedBatch, adapter: str | None) -> torch.Tensor:
        """Sum of cross entropies over the batch, float32 (), without dropout, noise and gradient."""

    # -- reading --

    def states(self, batch: PackedBatch, adapter: str | None, like: str | None = None) -> torch.Tensor:
        """Last hidden states (K, H) after the final norm at `batch.predict`, in the base's type; no gradient.

        The base's are those of the arithmetic that `like` is read by: only such may be compared.
        """

    def logits(self, states: torch.Tensor, adapter: str | None = None) -> torch.Tensor:
        """float32 (n, V) of hidden states (n, H), by the base's output layer, or the adapter's where it has one."""

    # -- answering --

    def slots(self) -> Slots:
        """A fresh empty one. Its buffers are shared with earlier ones, or reused, where that is sound."""

    def rest(self) -> None:
        """Give back what answering keeps between answers (caches, graphs). Rows of living slots stay."""
