"""Who can be asked the same questions: the engine with an adapter, a folder that was exported, a GGUF file."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from core.dataset import Message
from core.encode import IGNORE, Encoder, Example
from core.errors import ModelError
from core.generate import Column, Sampling, stream
from core.text import Text

if TYPE_CHECKING:
    import torch

    from core.engine import Engine

Told = Callable[[int], None]
"""Called with the number of answers that are done."""
_AT_ONCE = 64


class Speaker(Protocol):
    """Answers prompts of token ids, greedily, and tells what it thinks of given answers."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt as this speaker's own tokenizer and template write it."""

    def answers(self, prompts: Sequence[Sequence[int]], limits: Sequence[int], told: Told) -> list[list[int]]:
        """Ids of each greedy answer, its end token left out. Fewer if it was stopped."""

    def logits(self, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
        """float32 (len(answer), V): what each token of the answer was chosen from."""

    def text(self, ids: Sequence[int]) -> str:
        """An answer's words."""


class EngineSpeaker:
    """The engine's resident base, alone or with an attached adapter at a strength."""

    def __init__(
        self, engine: Engine, adapter: str | None, strength: float = 1.0, stop: threading.Event | None = None
    ) -> None:
        self._engine, self._adapter, self._strength, self._stop = engine, adapter, strength, stop

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """See Speaker."""
        return self._encoder.prompt(messages)

    def answers(self, prompts: Sequence[Sequence[int]], limits: Sequence[int], told: Told) -> list[list[int]]:
        """See Speaker. Raises ModelError if the adapter is not attached any more."""
        found: list[list[int]] = []
        for first in range(0, len(prompts), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            columns = [Column((), self._adapter, self._strength, tuple(ids)) for ids in prompts[part]]
            sampling = [Sampling(max_new_tokens=limit) for limit in limits[part]]
            for replies in stream(self._engine, columns, sampling, self._stop):
                told(len(found) + sum(reply.done for reply in replies))
            if self._stop is not None and self._stop.is_set():
                return found
            found += [self._without_end(reply.ids) for reply in replies]
        return found

    def logits(self, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
        """See Speaker. At full strength only."""
        from core.score import logits

        example = Example((*prompt, *answer), (*(IGNORE,) * len(prompt), *answer))
        return logits(self._engine, self._adapter, [example])[0]

    def text(self, ids: Sequence[int]) -> str:
        """See Speaker."""
        return self._encoder.decode(ids)

    @property
    def _encoder(self) -> Encoder:
        resident = self._engine.resident
        if resident is None:
            raise ModelError(Text(zh="还没有载入模型。", en="No model is loaded yet."))
        return resident.encoder

    def _without_end(self, ids: Sequence[int]) -> list[int]:
        ends = self._encoder.stop_ids
        return [i for i in ids if i not in ends]


class GgufSpeaker:
    """A GGUF file in llama.cpp, on the processor; with `adapter`, a LoRA GGUF is added to it."""

    def __init__(self, path: Path, adapter: Path | None, context: int, stop: threading.Event | None = None) -> None:
        """Raises ModelError if llama-cpp-python is missing, or cannot read the file."""
        from llama_cpp import Llama

        self._stop = stop
        try:
            self._model: Any = Llama(
                str(path),
                n_ctx=context,
                n_batch=context,
                logits_all=True,
                verbose=False,
                lora_path=None if adapter is None else str(adapter),
            )
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                Text(
                    zh=f"llama.cpp 读不了 {path.name}（{error}）。请重新导出。",
                    en=f"llama.cpp cannot read {path.name} ({error}). Export it again.",
                )
            ) from error

    @contextlib.contextmanager
    def opened(self) -> Iterator[GgufSpeaker]:
        """Itself; its memory is given back at the end of the block."""
        try:
            yield self
        finally:
            self._model.close()

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """By the template and the tokens that are in the file."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        template = self._model.metadata.get("tokenizer.chat_template", "")
        # As transformers and llama.cpp's own server render templates.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = environment.from_string(template).render(messages=turns, add_generation_prompt=True, bos_token="")
        return list(self._model.tokenize(text.encode(), add_bos=False, special=True))

    def answers(self, prompts: Sequence[Sequence[int]], limits: Sequence[int], told: Told) -> list[list[int]]:
        """See Speaker."""
        found: list[list[int]] = []
        for ids, limit in zip(prompts, limits, strict=True):
            if self._stop is not None and self._stop.is_set():
                return found
            answer: list[int] = []
            self._model.reset()
            for token in self._model.generate(list(ids), temp=0.0, top_k=1, repeat_penalty=1.0):
                if self._is_end(token) or len(answer) >= limit:
                    break
                answer.append(int(token))
            found.append(answer)
            told(len(found))
        return found

    def _is_end(self, token: int) -> bool:
        import llama_cpp

        return bool(llama_cpp.llama_vocab_is_eog(self._model._model.vocab, token))

    def logits(self, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
        """See Speaker."""
        import numpy
        import torch

        self._model.reset()
        self._model.eval([*prompt, *answer])
        rows = self._model.scores[len(prompt) - 1 : len(prompt) + len(answer) - 1]
        return torch.from_numpy(numpy.array(rows, dtype=numpy.float32))

    def text(self, ids: Sequence[int]) -> str:
        """See Speaker."""
        return str(self._model.detokenize(list(ids)).decode("utf-8", "replace"))


def llama_cpp_is_here() -> bool:
    """Whether GGUF files can be asked on this machine."""
    return importlib.util.find_spec("llama_cpp") is not None
