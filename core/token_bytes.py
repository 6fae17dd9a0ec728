"""Token id -> the bytes it stands for, alone. Needed where a token is shown by itself: probabilities."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """For byte-level BPE (Qwen, Llama 3) and for SentencePiece with or without byte tokens (Llama 2, Gemma)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        self._byte_level = '"ByteLevel"' in json.dumps([definition.get("decoder"), definition.get("pre_tokenizer")])
        self._added = {int(token["id"]): str(token["content"]) for token in definition.get("added_tokens") or ()}

    def __call__(self, token: int) -> bytes:
        """Bytes of one token; a control token's are its name."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if not isinstance(piece, str):
            return b""  # the output layer is wider than the vocabulary
        if self._byte_level:
            known = _byte_of()
            return bytes(known[c] for c in piece) if all(c in known for c in piece) else piece.encode()
        if match := _BYTE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return piece.replace("\u2581", " ").encode()


@functools.cache
def _byte_of() -> dict[str, int]:
    """Character -> byte of byte-level BPE (GPT-2): printable bytes stand for themselves, the others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}
