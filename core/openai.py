"""Requests of OpenAI's API -> what is to be answered, checked. Knows no web, no thread and no loaded model.

What is understood is obeyed, what cannot be done is refused by name, and what is not known is listed, never dropped in
silence. core.openai_answers writes what goes back.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from core.dataset import Message, Role
from core.encode import Encoder
from core.errors import ConfigError
from core.generate import STRONGEST, Column, Sampling
from core.openai_errors import ApiError, unknown_model
from core.openai_fields import Fields, fields_of, integer_of, read_object, refuse, text_of
from core.served import ServedModel
from core.text import Text

Kind = Literal["chat", "text"]
Prompt = str | tuple[int, ...]

MOST_BYTES = 2_000_000
MOST_CHOICES = 6
MOST_ANSWERS = 32
MOST_STOPS = 4
CHAT_TOKENS = 2048  # OpenAI sets no limit; here a model that never ends would hold memory for its whole context
TEXT_TOKENS = 16

_MOST_MESSAGES = 4096
_SEEDS = 2**63
_UNSUPPORTED = "unsupported_value"
_NOT_HERE = ("这里不支持", "is not supported here")
_NO_TOOLS = ("这里不支持工具", "is not supported here: there are no tools")
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Bookkeeping of OpenAI's own service, and what only its speed or its tools depend on.
_HARMLESS = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prediction", "parallel_tool_calls",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A checked request: the conversation, or each prompt, is answered `n` times; one sampling an answer."""

    kind: Kind
    model: ServedModel
    conversation: tuple[Message, ...]
    prompts: tuple[Prompt, ...]
    samplings: tuple[Sampling, ...]
    n: int = 1
    strength: float = 1.0
    stream: bool = False
    include_usage: bool = False
    echo: bool = False
    ignored: tuple[str, ...] = ()
    trained_system: bool = False
    """Whether the adapter's training prompt was put first, as the request brought none."""

    def columns(self, encoder: Encoder, vocabulary: int, positions: int) -> list[Column]:
        """One column an answer, made of ids: a long prompt is read here once, before anybody's turn with the model.

        Raises ApiError for ids outside the `vocabulary` and for a prompt that leaves none of the model's `positions`.
        """
        columns = []
        for ids in self._ids(encoder):
            name = "messages" if self.kind == "chat" else "prompt"
            if max(ids) >= vocabulary:
                zh, en = (
                    f"含有词元 ID {max(ids)}，超出词表：模型只有 {vocabulary} 个",
                    f"holds token {max(ids)}; the model has",
                )
                refuse(name, zh, f"{en} {vocabulary}")
            if len(ids) >= positions:
                zh, en = f"有 {len(ids)} 个词元；模型一共只能读写 {positions} 个", f"has {len(ids)} tokens; the model"
                refuse(name, zh, f"{en} reads and writes {positions} in all", "context_length_exceeded")
            columns += [Column((), self.model.adapter, self.strength, ids)] * self.n
        return columns

    def _ids(self, encoder: Encoder) -> list[tuple[int, ...]]:
        if self.kind == "chat":
            return [tuple(encoder.prompt(self.conversation))]
        return [tuple(encoder.plain(prompt)) if isinstance(prompt, str) else prompt for prompt in self.prompts]


def read(kind: Kind, body: bytes, models: Sequence[ServedModel]) -> Asked:
    """The request in `body`, of /v1/chat/completions or /v1/completions. Raises ApiError."""
    fields = read_object(body)
    fields.known(*_HARMLESS)
    model = find(models, fields.text("model"))
    ignored: list[str] = []
    chat = kind == "chat"
    conversation = _messages(fields, ignored) if chat else ()
    prompts = () if chat else _prompts(fields)
    added = chat and bool(model.system) and not any(message.role == "system" for message in conversation)
    if added:
        conversation = (Message("system", model.system), *conversation)
    _refuse_what_cannot_be(kind, fields)
    n = _choices(kind, fields, len(prompts) or 1)
    stream = fields.flag("stream")
    sampling = _sampling(kind, fields)
    asked = Asked(
        kind=kind,
        model=model,
        conversation=conversation,
        prompts=prompts,
        samplings=tuple(_seeded(sampling, index) for index in range(n)) * (len(prompts) or 1),
        n=n,
        strength=_strength(fields, model),
        stream=stream,
        include_usage=_include_usage(fields, stream, ignored),
        echo=not chat and _echo(fields, sampling),
        trained_system=added,
    )
    return replace(asked, ignored=tuple(dict.fromkeys([*fields.left, *ignored])))


def find(models: Sequence[ServedModel], name: str | None) -> ServedModel:
    """The model called `name`. Raises ApiError of status 404 with the names that there are."""
    if not name:
        refuse("model", "没有填；填基座模型或适配器的名字", "is missing; name the base model or an adapter")
    for model in models:
        if name == model.name or name in model.aliases:
            return model
    raise unknown_model(name, [model.name for model in models])


# What is answered


def _messages(fields: Fields, ignored: list[str]) -> tuple[Message, ...]:
    given = fields.items("messages")
    if not given:
        refuse("messages", "没有填；至少要有一条消息", "is missing or empty; at least one message is needed")
    if len(given) > _MOST_MESSAGES:
        refuse("messages", f"超过 {_MOST_MESSAGES} 条", f"has more than {_MOST_MESSAGES} messages")
    messages = []
    for index, value in enumerate(given):
        message = fields_of(value, f"messages[{index}]")
        messages.append(_message(message))
        ignored += [f"messages{name[name.index(']') + 1 :]}" for name in message.left]
    return tuple(messages)


def _message(message: Fields) -> Message:
    role = message.text("role")
    if role in ("tool", "function"):
        refuse(
            message.name("role"),
            f"是 {role}；这里不支持工具",
            f"is {role}; tools are not supported here",
            _UNSUPPORTED,
        )
    if role not in _ROLES:
        said, known = "没有填" if role is None else f"是 {role[:40]!r}", ", ".join(_ROLES)
        en = "is missing" if role is None else f"is {role[:40]!r}"
        refuse(message.name("role"), f"{said}；应为 {known} 之一", f"{en}; it must be one of {known}")
    for key in ("tool_calls", "function_call", "audio"):
        if message.take(key):
            refuse(
                message.name(key),
                "这里不支持工具和声音",
                "is not supported here: neither tools nor sound are",
                _UNSUPPORTED,
            )
    message.known("refusal")
    return Message(_ROLES[role], _content(message))


def _content(message: Fields) -> str:
    value, name = message.take("content"), message.name("content")
    if isinstance(value, str):
        return text_of(value, name)
    if value is None:
        refuse(name, "没有填", "is missing")
    if not isinstance(value, list):
        refuse(name, "应为文本，或文本片段的数组", "must be a string or an array of text parts", "invalid_type")
    if not value:
        refuse(name, "是空的", "is empty")
    parts = []
    for index, part in enumerate(value):
        inner = fields_of(part, f"{name}[{index}]")
        if (kind := inner.text("type")) != "text":
            refuse(
                inner.name("type"), f"是 {str(kind)[:40]!r}；模型只读文本（text），不读图片、声音和文件",
                f"is {str(kind)[:40]!r}; the model reads text only, no images, sound or files", _UNSUPPORTED,
            )  # fmt: skip
        text = inner.text("text")
        if text is None:
            refuse(inner.name("text"), "没有填", "is missing")
        parts.append(text)
    return "\n".join(parts)


def _prompts(fields: Fields) -> tuple[Prompt, ...]:
    value = fields.take("prompt")
    if isinstance(value, str):
        return (_plain(value, "prompt"),)
    if not isinstance(value, list):
        zh = "应为文本、文本的数组、词元 ID 的数组，或其数组"
        refuse(
            "prompt", zh, "must be a string, an array of strings, of token ids, or of arrays of those", "invalid_type"
        )
    if not value:
        refuse("prompt", "是空的", "is empty")
    if isinstance(value[0], int) and not isinstance(value[0], bool):
        return (_ids(value, "prompt"),)
    if len(value) > MOST_ANSWERS:
        refuse("prompt", f"超过 {MOST_ANSWERS} 条", f"has more than {MOST_ANSWERS} entries")
    named = [(entry, f"prompt[{index}]") for index, entry in enumerate(value)]
    return tuple(_ids(entry, name) if isinstance(entry, list) else _plain(entry, name) for entry, name in named)


def _plain(value: object, name: str) -> str:
    return text_of(value, name) or refuse(name, "是空的", "is empty")


def _ids(value: Sequence[object], name: str) -> tuple[int, ...]:
    if not value:
        refuse(name, "是空的", "is empty")
    return tuple(integer_of(entry, f"{name}[{index}]", 0, 2**31) for index, entry in enumerate(value))


def _choices(kind: Kind, fields: Fields, prompts: int) -> int:
    """How many answers each prompt gets."""
    n = fields.integer("n", 1, MOST_CHOICES) or 1
    if (answers := n * prompts) > MOST_ANSWERS:
        zh = f"一共要 {answers} 个回答；一个请求最多 {MOST_ANSWERS} 个"
        refuse("prompt", zh, f"asks for {answers} answers in all; a request may ask for {MOST_ANSWERS}")
    best = fields.integer("best_of") if kind == "text" else n
    if best not in (None, n):
        refuse(
            "best_of", f"是 {best}；只能与 n 相同（{n}）", f"is {best}; it can only be n, which is {n}", _UNSUPPORTED
        )
    return n


def _echo(fields: Fields, sampling: Sampling) -> bool:
    echo = fields.flag("echo")
    if echo and sampling.logprobs is not None:
        zh = "不能与 logprobs 同用：提示词的概率没有计算"
        refuse("echo", zh, "cannot be with logprobs: those of the prompt are not computed", _UNSUPPORTED)
    return echo


def _strength(fields: Fields, model: ServedModel) -> float:
    strength = fields.number("strength", 1.0)
    if not 0 <= strength <= STRONGEST:
        refuse(
            "strength",
            f"是 {strength}；应在 0 到 {STRONGEST} 之间",
            f"is {strength}; it must be 0 to {STRONGEST}",
        )
    if model.adapter is None and strength != 1:
        refuse("strength", "只对适配器有意义，而这里问的是基座模型", "is an adapter's, and the base model is asked for")
    return strength


# How it is answered


def _sampling(kind: Kind, fields: Fields) -> Sampling:
    limit, most = _limit(kind, fields)
    values = {
        "temperature": fields.number("temperature", 1.0),
        "top_p": fields.number("top_p", 1.0),
        "repetition_penalty": fields.number("repetition_penalty", 1.0),
    }
    try:
        return Sampling(
            max_new_tokens=most,
            top_k=fields.integer("top_k") or 0,
            seed=_seed(fields),
            stop=_stops(fields),
            logprobs=_chat_logprobs(fields) if kind == "chat" else fields.integer("logprobs"),
            **values,
        )
    except ConfigError as error:  # the sampling itself knows its limits
        renamed = {"max_new_tokens": limit, "logprobs": "top_logprobs" if kind == "chat" else "logprobs"}
        name = renamed.get(error.field, error.field)
        zh, en = (text.replace(error.field, name) for text in (error.text.zh, error.text.en))
        raise ApiError(Text(zh, en), 400, name) from None


def _limit(kind: Kind, fields: Fields) -> tuple[str, int]:
    """The field that says how long an answer may be, and how long."""
    most = fields.integer("max_tokens")
    newer = fields.integer("max_completion_tokens") if kind == "chat" else None
    if most is not None and newer is not None and most != newer:
        refuse("max_tokens", f"是 {most}，而 max_completion_tokens 是 {newer}；只填一个",
               f"is {most} and max_completion_tokens is {newer}; give one of them")  # fmt: skip
    if newer is not None:
        return "max_completion_tokens", newer
    usual = CHAT_TOKENS if kind == "chat" else TEXT_TOKENS
    return "max_tokens", usual if most is None else most


def _seed(fields: Fields) -> int:
    seed = fields.integer("seed")
    return secrets.randbits(62) if seed is None else seed


def _seeded(sampling: Sampling, index: int) -> Sampling:
    """The same with the seed of a request's answer `index` to one prompt: its own, and again the same next time."""
    return replace(sampling, seed=(sampling.seed + index) % _SEEDS) if index else sampling


def _stops(fields: Fields) -> tuple[str, ...]:
    value = fields.take("stop")
    if value is None:
        return ()
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        refuse("stop", "应为文本，或文本的数组", "must be a string or an array of strings", "invalid_type")
    if len(given) > MOST_STOPS:
        refuse("stop", f"超过 {MOST_STOPS} 条", f"has more than {MOST_STOPS} entries")
    return tuple(_plain(entry, "stop" if isinstance(value, str) else f"stop[{i}]") for i, entry in enumerate(given))


def _chat_logprobs(fields: Fields) -> int | None:
    wanted, top = fields.flag("logprobs"), fields.integer("top_logprobs")
    if top is not None and not wanted:
        refuse("top_logprobs", "需要 logprobs 为 true", "needs logprobs to be true")
    return (top or 0) if wanted else None


def _include_usage(fields: Fields, stream: bool, ignored: list[str]) -> bool:
    options = fields.inner("stream_options")
    if options is None:
        return False
    if not stream:
        refuse("stream_options", "只能与 stream: true 同用", "goes with stream: true only")
    options.known("include_obfuscation")
    wanted = options.flag("include_usage")
    ignored += options.left
    return wanted


# What cannot be done


def _refuse_what_cannot_be(kind: Kind, fields: Fields) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        if fields.number(name, 0.0) != 0:
            refuse(
                name, "只能是 0；可用 repetition_penalty", "can only be 0; there is repetition_penalty", _UNSUPPORTED
            )
    if (bias := fields.inner("logit_bias")) is not None and bias.left:
        refuse("logit_bias", *_NOT_HERE, _UNSUPPORTED)
    if kind == "text":
        if fields.text("suffix"):
            refuse("suffix", *_NOT_HERE, _UNSUPPORTED)
        return
    for name in ("tools", "functions"):
        if fields.items(name):
            refuse(name, *_NO_TOOLS, _UNSUPPORTED)
    for name in ("tool_choice", "function_call"):
        if fields.take(name) not in (None, "none", "auto"):
            refuse(name, *_NO_TOOLS, _UNSUPPORTED)
    shape = fields.inner("response_format")
    if shape is not None and (asked := shape.text("type")) != "text":
        zh, en = f"是 {str(asked)[:40]!r}；这里只有 text", f"is {str(asked)[:40]!r}; there is only text here"
        refuse("response_format.type", zh, en, _UNSUPPORTED)
    if fields.take("modalities") not in (None, ["text"]):
        refuse("modalities", '只能是 ["text"]', 'can only be ["text"]', _UNSUPPORTED)
    if fields.take("audio") is not None:
        refuse("audio", *_NOT_HERE, _UNSUPPORTED)
