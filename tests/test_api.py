"""The API's pure part: what a request is read as, what is refused and by which name, and how answers are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from core import openai
from core.dataset import Message
from core.errors import BusyError, ConfigError, DatasetError, ModelError, UserError, WontFitError
from core.generate import Column, Reply, Token
from core.openai import Asked, Kind
from core.openai_answers import Answer, event
from core.openai_errors import ApiError, explain
from core.served import ServedModel, base_model
from core.text import Text

MODELS = [base_model("Qwen/Tiny"), ServedModel("小禾", "run-1", "小禾", "你是小禾。"), ServedModel("plain", "run-2")]
USER = [{"role": "user", "content": "hi"}]


def chat(**fields: object) -> Asked:
    return openai.read("chat", json.dumps({"model": "base", "messages": USER, **fields}).encode(), MODELS)


def text(**fields: object) -> Asked:
    return openai.read("text", json.dumps({"model": "base", "prompt": "once", **fields}).encode(), MODELS)


def refused(kind: Kind, body: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        openai.read(kind, body if isinstance(body, bytes) else json.dumps(body).encode(), MODELS)
    error = caught.value
    for language in ("zh", "en"):
        said = error.body(language)["error"]
        assert isinstance(said, dict) and str(said["message"]).endswith(("。", ".")), said
    return error


class _Letters:
    """As much of an encoder as requests need: a letter is its code."""

    stop_ids = ()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        return [ord(letter) for message in messages for letter in message.content]

    def plain(self, said: str) -> list[int]:
        return [ord(letter) for letter in said]


# What is understood


def test_the_defaults_are_openai_s() -> None:
    asked = chat()
    (sampling,) = asked.samplings
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (1.0, 1.0, 0, 1.0)
    assert (sampling.max_new_tokens, sampling.stop, sampling.logprobs) == (openai.CHAT_TOKENS, (), None)
    assert not (asked.stream or asked.include_usage or asked.echo or asked.ignored)
    assert text().samplings[0].max_new_tokens == 16
    assert chat().samplings[0].seed != chat().samplings[0].seed  # without a seed no two requests draw the same


def test_every_field_reaches_the_sampling() -> None:
    asked = chat(
        model="plain", temperature=0, top_p=0.5, max_tokens=7, stop=["a", "b"], seed=3, n=2, logprobs=True, top_logprobs=4,
        top_k=9, repetition_penalty=1.1, strength=0.5, stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    first, second = asked.samplings
    assert (first.temperature, first.top_p, first.top_k, first.repetition_penalty) == (0, 0.5, 9, 1.1)
    assert (first.max_new_tokens, first.stop, first.logprobs, first.seed) == (7, ("a", "b"), 4, 3)
    assert second == replace(first, seed=4)
    assert asked.stream and asked.include_usage and asked.strength == 0.5 and asked.ignored == ()
    assert asked.columns(_Letters(), 200, 99) == [Column((), "run-2", 0.5, (104, 105))] * 2
    assert chat(max_completion_tokens=5).samplings[0].max_new_tokens == 5
    assert chat(max_completion_tokens=5, max_tokens=5).samplings[0].max_new_tokens == 5
    assert chat(stop="x").samplings[0].stop == ("x",) and chat(logprobs=True).samplings[0].logprobs == 0
    assert chat(seed=-(2**63), n=2).samplings[1].seed >= 0


def test_null_stands_for_a_field_left_out() -> None:
    names = (
        "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "n", "logprobs", "top_logprobs",
        "stream", "stream_options", "presence_penalty", "frequency_penalty", "logit_bias", "tools", "tool_choice",
        "response_format", "user", "metadata", "strength", "top_k", "repetition_penalty", "functions", "audio",
    )  # fmt: skip
    asked, plain = chat(**dict.fromkeys(names)), chat()
    seedless = replace(asked.samplings[0], seed=0), replace(plain.samplings[0], seed=0)
    assert seedless[0] == seedless[1] and asked.ignored == ()


def test_what_asks_for_nothing_is_no_error() -> None:
    asked = chat(
        tools=[], tool_choice="none", response_format={"type": "text"}, presence_penalty=0, frequency_penalty=0.0,
        logit_bias={}, user="u", metadata={"a": "b"}, store=False, service_tier="auto", modalities=["text"],
        parallel_tool_calls=True, stream=False,
    )  # fmt: skip
    assert asked.ignored == ()
    assert text(suffix="", best_of=1).ignored == ()


def test_unknown_fields_are_named_not_dropped() -> None:
    asked = openai.read(
        "chat",
        json.dumps({
            "model": "base", "messages": [{**USER[0], "name": "a"}, {**USER[0], "name": "b", "cache": 1}],
            "min_p": 0.1, "tempertaure": 0, "stream": True, "stream_options": {"x": 1},
        }).encode(),
        MODELS,
    )  # fmt: skip
    assert asked.ignored == ("min_p", "tempertaure", "messages.name", "messages.cache", "stream_options.x")


def test_roles_and_parts_become_messages() -> None:
    asked = chat(
        messages=[
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": []},
            {"role": "user", "content": ""},
        ]
    )
    assert [(m.role, m.content) for m in asked.conversation] == [
        ("system", "d"), ("user", "a\nb"), ("assistant", "c"), ("user", "")
    ]  # fmt: skip


def test_an_adapter_answers_under_its_training_prompt_unless_the_request_brings_one() -> None:
    asked = chat(model="小禾")
    assert asked.conversation[0] == Message("system", "你是小禾。") and asked.trained_system
    for role in ("system", "developer"):
        own = chat(model="小禾", messages=[{"role": role, "content": ""}, *USER])
        assert own.conversation[0] == Message("system", "") and not own.trained_system
    assert not chat(model="plain").trained_system and not chat().trained_system


@pytest.mark.parametrize(
    ("name", "adapter"), [("base", None), ("Qwen/Tiny", None), ("小禾", "run-1"), ("plain", "run-2")]
)
def test_the_model_s_name_chooses_the_adapter(name: str, adapter: str | None) -> None:
    assert chat(model=name).model.adapter == adapter


def test_a_base_from_a_folder_is_called_by_the_folder_s_last_name(tmp_path: object) -> None:
    model = base_model(f"{tmp_path}/")
    assert "/" not in model.name and f"{tmp_path}/" in model.aliases and "base" in model.aliases


def test_prompts_are_strings_or_ids_one_or_several() -> None:
    for given, ids in (
        ("ab", [(97, 98)]),
        (["ab", "c"], [(97, 98), (99,)]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
        (["c", [3]], [(99,), (3,)]),
    ):
        asked = text(prompt=given, n=2, seed=1)
        columns = asked.columns(_Letters(), 100, 99)
        assert columns == [Column((), None, 1.0, one) for one in ids for _ in range(2)]
        assert [s.seed for s in asked.samplings] == [1, 2] * len(ids)


def test_a_prompt_the_model_cannot_read_is_refused_before_anybody_s_turn() -> None:
    table: list[tuple[Asked, str, str]] = [
        (text(prompt=[10]), "prompt", "invalid_value"),
        (text(prompt="abc"), "prompt", "context_length_exceeded"),
        (chat(messages=[{"role": "user", "content": "\x01\x02\x03"}]), "messages", "context_length_exceeded"),
    ]
    for asked, param, code in table:
        with pytest.raises(ApiError) as caught:
            asked.columns(_Letters(), 200 if code.startswith("context") else 10, 3)
        assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert text(prompt="ab").columns(_Letters(), 200, 3)


# What is refused: (change to a good request, the field that is named)

DEEP = b'{"model":"base","messages":' + b"[" * 200_000
BODIES: list[tuple[bytes, str]] = [
    (b"", "JSON"), (b"{", "JSON"), (b"[]", "object"), (b"null", "object"), (b'"x"', "object"), (b"\xff\xfe", "JSON"),
    (b'{"model": NaN}', "NaN"), (b'{"a": ' + b"9" * 5000 + b"}", "JSON"), (DEEP, "nested"), (b'{"a":1}{"b":2}', "JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "word"), BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("kind", ["chat", "text"])
def test_a_body_that_is_no_object_is_refused(kind: Kind, body: bytes, word: str) -> None:
    error = refused(kind, body)
    assert error.status == 400 and error.code == "invalid_json" and word in str(error)


NOT_NUMBERS = ("1", True, [], {}, [1])
NOT_WHOLE = (*NOT_NUMBERS, 1.0, 1.5)
NOT_TEXT = (1, True, [], {}, 1.5)
NOT_FLAGS = ("true", 1, 0, [], {})
BOTH: list[tuple[dict[str, object], str]] = [
    *(({"model": value}, "model") for value in (*NOT_TEXT, "", None)),
    *(({name: value}, name) for name in ("temperature", "top_p", "repetition_penalty", "presence_penalty",
                                         "frequency_penalty", "strength") for value in NOT_NUMBERS),
    *(({name: value}, name) for name in ("max_tokens", "seed", "n", "top_k") for value in NOT_WHOLE),
    *(({"stream": value}, "stream") for value in NOT_FLAGS),
    *(({"temperature": value}, "temperature") for value in (-0.1, 5.1, 1e300, 10**400)),
    *(({"top_p": value}, "top_p") for value in (0, -1, 1.01)),
    *(({"top_k": value}, "top_k") for value in (-1, 10**9)),
    *(({"repetition_penalty": value}, "repetition_penalty") for value in (0, -1, 100)),
    *(({"max_tokens": value}, "max_tokens") for value in (0, -1, 10**9)),
    *(({"n": value}, "n") for value in (0, -1, 7)),
    *(({"seed": value}, "seed") for value in (2**64, -(2**63) - 1)),
    *(({"stop": value}, "stop") for value in (1, True, {}, "", ["a"] * 5)),
    *(({"stop": value}, "stop[1]") for value in (["a", ""], ["a", 1], ["a", None])),
    *(({name: value}, name) for name in ("presence_penalty", "frequency_penalty") for value in (0.1, -2)),
    *(({"logit_bias": value}, "logit_bias") for value in ({"5": 1}, [], 1)),
    *(({"model": "小禾", "strength": value}, "strength") for value in (-0.1, 1.6)),
    ({"strength": 0.5}, "strength"),  # the base has none
    *(({"stream_options": value, "stream": True}, "stream_options") for value in (1, [], "x")),
    ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
]  # fmt: skip
CHAT: list[tuple[dict[str, object], str]] = [
    *(({"messages": value}, "messages") for value in (None, [], "hi", {}, 1, [USER[0]] * 5000)),
    *(({"messages": [USER[0], value]}, "messages[1]") for value in (None, "hi", 1, [])),
    *(({"messages": [{"content": "x", "role": value}]}, "messages[0].role")
      for value in (None, "", "User", "tool", "function", "evil", 1, [])),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    *(({"messages": [{"role": "user", "content": value}]}, "messages[0].content") for value in (None, 1, {}, [], True)),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    *(({"messages": [{"role": "user", "content": [value]}]}, "messages[0].content[0]") for value in ("x", 1, None)),
    *(({"messages": [{"role": "user", "content": [{"type": kind, "text": "x"}]}]}, "messages[0].content[0].type")
      for kind in ("image_url", "input_audio", "file", "refusal", None)),
    *(({"messages": [{"role": "user", "content": [{"type": "text", "text": value}]}]}, "messages[0].content[0].text")
      for value in (None, 1, [])),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"), ({"max_completion_tokens": "5"}, "max_completion_tokens"),
    ({"max_completion_tokens": 5, "max_tokens": 6}, "max_tokens"),
    *(({"logprobs": value}, "logprobs") for value in NOT_FLAGS),
    *(({"logprobs": True, "top_logprobs": value}, "top_logprobs") for value in (-1, 21, True, "1", 1.0)),
    ({"top_logprobs": 1}, "top_logprobs"), ({"top_logprobs": 1, "logprobs": False}, "top_logprobs"),
    *(({name: [{}]}, name) for name in ("tools", "functions")), ({"tools": {}}, "tools"),
    *(({"tool_choice": value}, "tool_choice") for value in ("required", {"type": "function"}, 1)),
    *(({"response_format": {"type": kind}}, "response_format.type") for kind in ("json_object", "json_schema", None)),
    *(({"response_format": value}, "response_format") for value in ("text", 1, [])),
    ({"modalities": ["text", "audio"]}, "modalities"), ({"audio": {}}, "audio"),
]  # fmt: skip
TEXT: list[tuple[dict[str, object], str]] = [
    *(({"prompt": value}, "prompt") for value in (None, "", [], 1, True, {}, ["x"] * 33)),
    *(({"prompt": value}, "prompt[1]") for value in (["x", ""], ["x", 1], ["x", None], [[1], []], [1, -1], [1, 2**40],
                                                     [1, "x"], [1, 1.0], [1, True])),
    *(({"prompt": [value, "x"]}, "prompt[0]") for value in (True, None, {}, 1.5)),
    ({"prompt": [[1], [2, "x"]]}, "prompt[1][1]"),
    ({"prompt": ["x"] * 30, "n": 2}, "prompt"),
    *(({"logprobs": value}, "logprobs") for value in (True, -1, 21, "1", 1.0)),
    *(({"echo": value}, "echo") for value in NOT_FLAGS), ({"echo": True, "logprobs": 1}, "echo"),
    *(({"suffix": value}, "suffix") for value in ("x", 1, [])),
    *(({"best_of": value}, "best_of") for value in (0, 2, "1", True)), ({"best_of": 1, "n": 2}, "best_of"),
]  # fmt: skip


def _short(case: object) -> str:
    return repr(case)[:50]


@pytest.mark.parametrize(("change", "param"), [*BOTH, *CHAT], ids=_short)
def test_a_bad_value_in_a_chat_request_is_refused_by_name(change: dict[str, object], param: str) -> None:
    error = refused("chat", {"model": "base", "messages": USER, **change})
    assert (error.status, error.param) == (400, param), str(error)
    assert error.body()["error"]["type"] == "invalid_request_error"  # type: ignore[index]


@pytest.mark.parametrize(("change", "param"), [*BOTH, *TEXT], ids=_short)
def test_a_bad_value_in_a_completion_request_is_refused_by_name(change: dict[str, object], param: str) -> None:
    error = refused("text", {"model": "base", "prompt": "once", **change})
    assert (error.status, error.param) == (400, param), str(error)


@pytest.mark.parametrize("name", ["gpt-4", "../../etc/passwd", "run-1", "Base", "小禾@0.5", "x" * 10_000, "\n"])
def test_an_unknown_model_is_404_and_names_those_that_there_are(name: str) -> None:
    error = refused("chat", {"model": name, "messages": USER})
    assert (error.status, error.param, error.code) == (404, "model", "model_not_found")
    assert "Qwen/Tiny, 小禾, plain" in str(error) and len(str(error)) < 400


# Errors from inside


def test_every_error_has_its_status() -> None:
    said = Text(zh="不行。", en="No.")
    table: list[tuple[BaseException, int, str | None]] = [
        (ConfigError(said, "messages"), 400, "messages"), (ConfigError(said, "top_p"), 400, "top_p"),
        (DatasetError(said), 400, "messages"), (BusyError(said), 503, None), (WontFitError(said, 2, 1), 503, None),
        (ModelError(said), 503, "model"), (UserError(said), 503, None), (ApiError(said, 429), 429, None),
    ]  # fmt: skip
    for error, status, param in table:
        told = explain(error)
        assert (told.status, told.param, told.of("zh")) == (status, param, "不行。"), error
    assert explain(ConfigError(said, "messages"), "prompt").param == "prompt"
    # What a person must mend is not worth asking again at once; what passes by itself is.
    assert explain(ModelError(said)).headers == {"x-should-retry": "false"}
    assert explain(BusyError(said)).headers == {"retry-after": "2"}


def test_a_fault_of_ours_says_nothing_of_the_inside() -> None:
    told = explain(ValueError("/secret/path"))
    assert told.status == 500 and "secret" not in json.dumps(told.body()) + told.of("zh")


# What goes back


def _token(data: bytes, logprob: float = -0.5) -> Token:
    said = data.decode("utf-8", errors="replace")
    return Token(data[0], said, data, logprob, ((said, data, logprob), ("?", b"\xff", float("-inf"))))


def _reply(said: str, finish: str = "", data: list[bytes] | None = None, tokens: int = 3) -> Reply:
    listed = [_token(one) for one in data or []]
    return Reply(said, tokens, 5, 0.1, 9.0, bool(finish), finish, token_list=listed)


def test_a_whole_answer_has_openai_s_shape() -> None:
    whole = Answer(chat(n=2)).whole([_reply("你好", "stop"), _reply("hi", "length", tokens=4)])
    assert whole["object"] == "chat.completion" and str(whole["id"]).startswith("chatcmpl-")
    assert whole["model"] == "Qwen/Tiny"
    first, second = whole["choices"]  # type: ignore[misc]
    assert first["message"] == {"role": "assistant", "content": "你好", "refusal": None}
    assert (first["index"], first["finish_reason"], first["logprobs"]) == (0, "stop", None)
    assert (second["index"], second["finish_reason"]) == (1, "length")
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}  # the prompt counts once


def test_a_completion_echoes_each_prompt_before_each_of_its_answers() -> None:
    asked = text(prompt=["once", "more"], n=2, echo=True)
    whole = Answer(asked, ["once", "more"]).whole([_reply(str(i), "stop") for i in range(4)])
    assert [c["text"] for c in whole["choices"]] == ["once0", "once1", "more2", "more3"]  # type: ignore[attr-defined]
    assert whole["object"] == "text_completion" and whole["usage"]["prompt_tokens"] == 10  # type: ignore[index]


def test_the_chunks_of_a_stream_add_up_to_the_whole() -> None:
    answer = Answer(chat(stream=True, stream_options={"include_usage": True}, n=2))
    steps = [("", ""), ("你", "a"), ("你", "ab"), ("你好 ", "ab"), ("你好 吗", "abc")]
    chunks = [*answer.opening()]
    for one, two in steps:
        chunks += answer.news([_reply(one), _reply(two)])
    final = [_reply("你好 吗", "stop"), _reply("abcd", "length")]
    chunks += answer.news(final, last=True)
    *spoken, usage = chunks
    said, ends, roles = ["", ""], {}, []
    for chunk in spoken:
        (choice,) = chunk["choices"]  # type: ignore[misc]
        assert chunk["usage"] is None and chunk["object"] == "chat.completion.chunk"
        said[choice["index"]] += choice["delta"].get("content", "")
        roles += [choice["index"]] if "role" in choice["delta"] else []
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
    assert said == ["你好 吗", "abcd"] and ends == {0: "stop", 1: "length"} and roles == [0, 1]
    assert usage["choices"] == [] and usage["usage"] == answer.usage(final)
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_no_text_goes_out_twice_and_nothing_without_news() -> None:
    answer = Answer(chat(stream=True))
    assert len([*answer.news([_reply("ab")])]) == 1
    assert [*answer.news([_reply("ab")])] == []
    (end,) = answer.news([_reply("ab", "stop")], last=True)
    assert end["choices"][0]["delta"] == {} and "usage" not in end  # type: ignore[index]


def test_logprobs_name_every_token_once_however_they_are_sent() -> None:
    data = [b"a", "你".encode()[:1], "你".encode()[1:], b"b"]
    final = _reply("a你b", "stop", data)
    whole = Answer(chat(logprobs=True, top_logprobs=2)).whole([final])
    content = whole["choices"][0]["logprobs"]["content"]  # type: ignore[index]
    assert [bytes(token["bytes"]) for token in content] == data
    assert content[0]["top_logprobs"][1]["logprob"] == -9999.0  # JSON has no infinity
    answer, sent = Answer(chat(stream=True, logprobs=True)), []
    for said, shown in (("a", 2), ("a", 3), ("a你", 3), ("a你b", 4)):
        for chunk in answer.news([_reply(said, "", data[:shown])]):
            (choice,) = chunk["choices"]  # type: ignore[misc]
            tokens = [bytes(token["bytes"]) for token in choice["logprobs"]["content"]]
            assert b"".join(tokens).decode() == choice["delta"]["content"]
            sent += tokens
    for chunk in answer.news([final], last=True):
        sent += [bytes(t["bytes"]) for t in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]  # type: ignore[index]
    assert sent == data


def test_a_completion_s_logprobs_have_offsets_in_characters() -> None:
    data = ["你".encode()[:1], "你".encode()[1:], b"b", b"c"]
    whole = Answer(text(logprobs=2)).whole([_reply("你bc", "stop", data)])
    told = whole["choices"][0]["logprobs"]  # type: ignore[index]
    assert told["text_offset"] == [0, 0, 1, 2]
    assert told["tokens"] == ["bytes:\\xe4", "bytes:\\xbd\\xa0", "b", "c"]
    assert told["top_logprobs"][2] == {"b": -0.5, "bytes:\\xff": -9999.0}
    answer, offsets = Answer(text(stream=True, logprobs=2)), []
    for said, shown, last in (("你", 2, False), ("你b", 3, False), ("你bc", 4, True)):
        for chunk in answer.news([_reply(said, "stop" if last else "", data[:shown])], last):
            offsets += (chunk["choices"][0]["logprobs"] or {"text_offset": []})["text_offset"]  # type: ignore[index]
    assert offsets == [0, 0, 1, 2]


@pytest.mark.parametrize("said", ["a\u2028b\u2029c\u0085d", "\n\n", "\r", "data: x", "你😀", "\x00\x1f", '"\\'])
def test_an_event_is_one_line_whatever_was_said(said: str) -> None:
    sent = event({"x": said})
    assert sent.startswith(b"data: ") and sent.endswith(b"\n\n")
    assert len(sent.decode().removesuffix("\n\n").splitlines()) == 1
    assert json.loads(sent[6:]) == {"x": said}
