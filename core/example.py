"""One tokenised conversation: the ids and which of them are in the loss. Knows no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

IGNORE = -100  # the label torch's cross entropy leaves out


@dataclass(frozen=True)
class Example:
    """One tokenised row. `labels` has `input_ids`' length and is IGNORE wherever a token is not in the loss.

    teacher: (labelled positions, H) in host memory, the base's last hidden states where the labels are predicted. With
    it the loss of a position is `weight` * KL(base || tuned) there, instead of the label's cross entropy.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    teacher: torch.Tensor | None = field(default=None, compare=False, repr=False)
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def answer_tokens(self) -> int:
        """Tokens in the loss."""
        return len(self.labels) - self.labels.count(IGNORE)
