"""Replies -> what goes back to a client of OpenAI's API: one whole answer, or a stream of chunks. Pure values.

A choice is a column: choice i of a request answers prompt i // n.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core import __version__
from core.generate import Reply, Token
from core.openai import Asked

Json = dict[str, object]
FINGERPRINT = f"onecard-{__version__}"
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_LEAST_LOGPROB = -9999.0  # what OpenAI writes for a token that cannot be: JSON has no infinity
# Some readers of event streams end a line at these, too, and JSON may hold them as they are.
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


def encoded(value: Json) -> bytes:
    """JSON on one line, whatever the reader takes for the end of one."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS).encode("utf-8")


def event(value: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + encoded(value) + b"\n\n"


@dataclass
class _Sent:
    """How much of a choice is out: characters, bytes of them, and tokens."""

    characters: int = 0
    size: int = 0
    tokens: int = 0
    read: int = 0  # bytes of those tokens


class Answer:
    """One request's answer on its way out. Not for several threads."""

    def __init__(self, asked: Asked, prompts: Sequence[str] = ()) -> None:
        """`prompts`: the text of each prompt, where it is to be echoed."""
        self._asked = asked
        self._chat = asked.kind == "chat"
        self._echoes = [text for text in prompts for _ in range(asked.n)] if asked.echo else [""] * len(asked.samplings)
        self._sent = [_Sent() for _ in asked.samplings]
        kind = ("chat.completion.chunk" if asked.stream else "chat.completion") if self._chat else "text_completion"
        self._head: Json = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": asked.model.name,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self, replies: Sequence[Reply]) -> Json:
        """The complete answer of a request that does not stream."""
        choices: list[Json] = []
        for index, reply in enumerate(replies):
            logprobs = self._logprobs(reply.token_list, 0) if self._wants_logprobs else None
            if self._chat:
                said = {"role": "assistant", "content": reply.text, "refusal": None}
                choice: Json = {"index": index, "message": said, "logprobs": logprobs}
            else:
                choice = {"index": index, "text": self._echoes[index] + reply.text, "logprobs": logprobs}
            choices.append({**choice, "finish_reason": reply.finish})
        return {**self._head, "choices": choices, "usage": self.usage(replies)}

    def opening(self) -> Iterator[Json]:
        """The chunks before the first word: who speaks, or the echoed prompts."""
        for index, echo in enumerate(self._echoes):
            if self._chat:
                yield self._chunk(index, {"role": "assistant", "content": ""})
            elif echo:
                yield self._chunk(index, echo)

    def news(self, replies: Sequence[Reply], last: bool = False) -> Iterator[Json]:
        """A chunk for each choice that has grown; with `last` all that is left, and why each choice ended."""
        for index, reply in enumerate(replies):
            # One read each: another thread may be writing on.
            text, sent = reply.text, self._sent[index]
            grown, before = text[sent.characters :], sent.read
            sent.characters, sent.size = len(text), sent.size + len(grown.encode("utf-8"))
            tokens = self._due(reply, sent, last)
            offset = _characters(text, before) if tokens else 0
            if grown or tokens:
                yield self._chunk(index, {"content": grown} if self._chat else grown, tokens, offset)
        if last:
            for index, reply in enumerate(replies):
                yield self._chunk(index, {} if self._chat else "", finish=reply.finish)
            if self._asked.include_usage:
                yield {**self._head, "choices": [], "usage": self.usage(replies)}

    def usage(self, replies: Sequence[Reply]) -> Json:
        """Tokens read and written; a prompt counts once, however often it was answered."""
        read = sum(reply.prompt_tokens for reply in replies[:: self._asked.n])
        written = sum(reply.tokens for reply in replies)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    @property
    def _wants_logprobs(self) -> bool:
        return self._asked.samplings[0].logprobs is not None

    def _chunk(
        self, index: int, said: object, tokens: Sequence[Token] = (), offset: int = 0, finish: str | None = None
    ) -> Json:
        logprobs = self._logprobs(tokens, offset) if tokens else None
        body = {"delta" if self._chat else "text": said}
        chunk = {**self._head, "choices": [{"index": index, **body, "logprobs": logprobs, "finish_reason": finish}]}
        return {**chunk, "usage": None} if self._asked.include_usage else chunk

    def _due(self, reply: Reply, sent: _Sent, last: bool) -> list[Token]:
        """The tokens whose text is out by now: what is held back of the text holds its tokens back."""
        if not self._wants_logprobs:
            return []
        if last:
            return reply.token_list[sent.tokens :]
        due = []
        for token in reply.token_list[sent.tokens :]:
            if sent.read + len(token.bytes) > sent.size:
                break
            sent.read += len(token.bytes)
            due.append(token)
        sent.tokens += len(due)
        return due

    def _logprobs(self, tokens: Sequence[Token], offset: int) -> Json:
        if self._chat:
            return {"content": [_detail(token) for token in tokens], "refusal": None}
        data, starts = b"".join(token.bytes for token in tokens), [0]
        for token in tokens:
            starts.append(starts[-1] + len(token.bytes))
        offsets = [offset + len(data[:start].decode("utf-8", errors="ignore")) for start in starts[:-1]]
        return {
            "tokens": [_spelled(token.text, token.bytes) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [
                {_spelled(text, data): _finite(value) for text, data, value in token.top} for token in tokens
            ],
            "text_offset": offsets,
        }


def _characters(text: str, size: int) -> int:
    """How many whole characters of `text` its first `size` bytes hold."""
    return len(text.encode("utf-8")[:size].decode("utf-8", errors="ignore"))


def _detail(token: Token) -> Json:
    own: Json = {"token": token.text, "logprob": _finite(token.logprob), "bytes": list(token.bytes)}
    top = [{"token": text, "logprob": _finite(value), "bytes": list(data)} for text, data, value in token.top]
    return {**own, "top_logprobs": top}


def _spelled(text: str, data: bytes) -> str:
    """A token's text; of a part of a character its bytes, as OpenAI spells them, so that no two look the same."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
    return text


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)
