"""Text that grows: whole characters, nothing of a stop string, the same in the end as decoding all at once."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from core.encode import Encoder, TemplateEncoder
from core.growing_text import GrowingText

TEXT = "Hello, 你好 😀! the end\n  of it 👩‍👩‍👧"


def sentencepiece() -> PreTrainedTokenizerBase:
    """As Llama 2's: pieces with a mark for spaces, and a token for each byte."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"Helo,!thndfi\n", "你"]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "▁t", "▁th", "▁the"])}
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(params=["byte-level", "sentencepiece"])
def encoder(request: pytest.FixtureRequest, tiny_model: Path) -> Encoder:
    if request.param == "byte-level":
        return TemplateEncoder(AutoTokenizer.from_pretrained(tiny_model))
    return TemplateEncoder(sentencepiece())


def ids_of(encoder: Encoder, text: str) -> list[int]:
    ids: list[int] = encoder._tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[attr-defined]
    return ids


@pytest.mark.parametrize("pace", [1, 2, 5])
def test_only_whole_characters_are_shown_and_what_was_shown_stays(encoder: Encoder, pace: int) -> None:
    ids, growing = ids_of(encoder, TEXT), GrowingText(encoder)
    assert encoder.decode(ids) == TEXT
    shown = [growing.read(ids[:end], done=False) for end in range(0, len(ids) + 1, pace)]
    assert growing.read(ids, done=True) == TEXT
    assert all(TEXT.startswith(text) for text in shown)
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(shown))
    assert len(set(shown)) > len(TEXT) / pace / 2  # as it comes, not all at the end


def test_what_is_no_text_is_shown_in_the_end_as_it_is(encoder: Encoder) -> None:
    good = ids_of(encoder, "Hello ")
    torn = [*good, *ids_of(encoder, "😀")[-4:-1]]  # the last byte is missing
    growing = GrowingText(encoder)
    assert [growing.read(torn[:end], False) for end in range(len(good), len(torn) + 1)] == [encoder.decode(good)] * 4
    assert growing.read(torn, True) == encoder.decode(torn) != encoder.decode(good)


def test_any_bytes_end_up_as_decoding_them_all_at_once_has_them(tiny_model: Path) -> None:
    encoder = TemplateEncoder(AutoTokenizer.from_pretrained(tiny_model))
    chance = random.Random(0)
    for _ in range(200):
        ids, growing = [chance.randrange(256) for _ in range(40)], GrowingText(encoder)
        shown = [growing.read(ids[:end], done=False) for end in range(41)]
        final = growing.read(ids, done=True)
        assert final == encoder.decode(ids) and all(final.startswith(text) for text in shown)


def test_only_the_end_is_decoded_again(encoder: Encoder) -> None:
    lengths = []

    class Counting:
        def decode(self, ids: list[int]) -> str:
            lengths.append(len(ids))
            return encoder.decode(ids)

    ids, growing = ids_of(encoder, TEXT * 5), GrowingText(Counting())  # type: ignore[arg-type]
    for end in range(len(ids) + 1):
        growing.read(ids[:end], done=False)
    assert max(lengths) < 30 and len(ids) > 150


@pytest.mark.parametrize("stops", [("lo,",), ("好 😀", "lo, 你好"), ("nothing", " 你"), ("</s>", "Hello, 你好 😀!")])
def test_nothing_of_a_stop_string_is_ever_shown(encoder: Encoder, stops: tuple[str, ...]) -> None:
    ids, growing = ids_of(encoder, TEXT), GrowingText(encoder, stops)
    cut = min(at for at in (TEXT.find(stop) for stop in stops) if at >= 0)
    for end in range(len(ids) + 1):
        text = growing.read(ids[:end], done=False)
        assert TEXT[:cut].startswith(text)
        if growing.stopped:
            break
    assert growing.stopped and text == TEXT[:cut]
    assert encoder.decode(ids[: growing.tokens_shown]).startswith(text) and growing.tokens_shown <= end


def test_the_beginning_of_a_stop_string_that_came_to_nothing_is_shown(encoder: Encoder) -> None:
    ids, growing = ids_of(encoder, TEXT), GrowingText(encoder, ("end\n  of us", "👧 and"))
    shown = [growing.read(ids[:end], done=False) for end in range(len(ids) + 1)]
    assert not any(text.endswith("end") for text in shown) and not shown[-1].endswith("👧")
    assert growing.read(ids, done=True) == TEXT and not growing.stopped


def test_each_token_has_its_bytes(encoder: Encoder) -> None:
    text = "Hello 你😀"
    spelled = b"".join(encoder.token_bytes(i) for i in ids_of(encoder, text))
    assert spelled.decode().lstrip(" ") == text
    assert encoder.token_bytes(encoder.stop_ids[0]) in (b"<|im_end|>", b"</s>")
    assert encoder.token_bytes(10**6) == b""
