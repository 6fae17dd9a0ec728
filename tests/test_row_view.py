"""What the model sees of a row: every token once, what is in the loss, what was inserted, what was only typed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from core import token_view
from core.config import TrainConfig
from core.dataset import Message, Row
from core.encode import Encoder, encoder_for
from core.row_view import RowView, view
from core.truncation import fit
from core.workspace import Workspace
from ui.edits import Edits
from ui.page import Page
from ui.row_panel import draw

ROW = Row("你是谁？😀", "再说一遍", "我是小禾。\n龘靐", "", (Message("user", "hi"), Message("assistant", "hello")))


@cache
def qwen(folder: Path) -> Encoder:
    return encoder_for(AutoTokenizer.from_pretrained(folder))


@pytest.fixture
def encoder(shared_data: Path) -> Encoder:
    return qwen(shared_data / "qwen2.5-tokenizer")


def written(shown: RowView) -> str:
    return "".join(piece.text for piece in shown.examples[0])


def test_the_pieces_are_the_tokens_in_order_and_no_character_is_broken(encoder: Encoder) -> None:
    config = TrainConfig()
    shown, trained = view(encoder, ROW, config), fit(encoder, ROW.messages(config.system), config)
    (example,), (pieces,) = trained.examples, shown.examples
    assert tuple(token for piece in pieces for token in piece.ids) == example.input_ids
    assert any(len(piece.ids) > 1 for piece in pieces) and "\ufffd" not in written(shown)
    answers = "".join(piece.text for piece in pieces if piece.in_loss)
    assert answers == "hello<|im_end|>我是小禾。\n龘靐<|im_end|>"
    assert shown.answer_tokens == example.answer_tokens == sum(len(piece.ids) for piece in pieces if piece.in_loss)
    assert (shown.tokens, shown.limit, shown.problem, shown.left_out) == (len(example), 2048, None, False)


def test_control_tokens_are_the_templates_and_typed_ones_are_marked_as_text(encoder: Encoder) -> None:
    shown = view(encoder, Row("a<|im_end|>b", "", "x <tool_call> y", "<|im_start|>"), TrainConfig())
    control = [piece.text for piece in shown.examples[0] if piece.control]
    assert control == ["<|im_start|>", "<|im_end|>"] * 3
    assert shown.typed == ("<|im_start|>", "<|im_end|>", "<tool_call>")
    marked = "".join(piece.text for piece in shown.examples[0] if piece.typed)
    assert all(string in marked for string in shown.typed) and len(marked) < 40
    assert not any(piece.typed for piece in view(encoder, ROW, TrainConfig()).examples[0])


@pytest.mark.parametrize(
    ("row", "system", "expected"),
    [
        (Row("q", "", "a", "mine"), "theirs", ("mine", "row")),
        (Row("q", "", "a"), "theirs", ("theirs", "settings")),
        (Row("q", "", "a"), "", ("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", "template")),
    ],
)
def test_the_system_prompt_is_the_one_that_is_really_inserted(
    encoder: Encoder, row: Row, system: str, expected: tuple[str, str]
) -> None:
    shown = view(encoder, row, TrainConfig(system=system))
    assert (shown.system, shown.system_from) == expected
    assert f"system\n{shown.system}<|im_end|>" in written(shown)


def test_a_template_without_a_system_prompt_says_that_there_is_none(tiny_llama: Path) -> None:
    encoder = encoder_for(AutoTokenizer.from_pretrained(tiny_llama))
    shown = view(encoder, Row("q", "", "a"), TrainConfig(system=""))
    assert (shown.system, shown.system_from) == ("", "none") and written(shown) == "[user] q[assistant] a<|im_end|>"


@pytest.mark.parametrize("strategy", ["raise", "left", "delete"])
def test_a_row_over_the_limit_is_shown_as_it_is_trained_or_why_not(encoder: Encoder, strategy: str) -> None:
    row = Row("word " * 200, "", "the end")
    shown = view(encoder, row, TrainConfig(max_length=64, truncation_strategy=strategy))
    assert shown.tokens > 200 and "the end<|im_end|>" in written(shown)
    if strategy == "left":
        assert shown.tokens - shown.tokens_cut <= 64 and shown.problem is None and not shown.left_out
        assert written(shown).count("word") < 64
    else:
        assert shown.tokens_cut == 0 and written(shown).count("word") == 200
        assert (shown.problem is not None, shown.left_out) == (strategy == "raise", strategy == "delete")


def test_the_html_holds_what_was_typed_as_text_and_every_token(encoder: Encoder) -> None:
    (pieces,) = view(encoder, Row("<script>&", "", "<b>a</b>\n"), TrainConfig()).examples
    drawn = token_view.draw_row(pieces, "tokens")
    assert "<script>" not in drawn and "<b>" not in drawn and "&lt;" in drawn
    assert drawn.count('<span class="t') == len(pieces)
    short = token_view.draw_row(pieces, "tokens", (3, 2), "more")
    assert short.count('<span class="t') == 5 and 'data-act="all">more<' in short


OPENED = (  # asked with words that a finished turn does not have: one example for each answer
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n<think>\n' }}{%- endif -%}"
)


def test_the_panel_tells_a_cut_a_left_out_row_and_one_of_several_examples(
    tmp_path: Path, shared_data: Path, encoder: Encoder
) -> None:
    workspace = Workspace(tmp_path)
    page = Page(workspace, "en", Edits(workspace))
    row = Row("word " * 200, "", "the end", "", ROW.history)
    cut = draw(page, view(encoder, row, TrainConfig(max_length=64, truncation_strategy="left")))
    assert "before the cut" in cut and "2 messages, " in cut and "in the loss" in cut
    left_out = draw(page, view(encoder, row, TrainConfig(max_length=64, truncation_strategy="delete")))
    assert "left out of training" in left_out
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "qwen2.5-tokenizer")
    tokenizer.chat_template = OPENED
    several = draw(page, view(encoder_for(tokenizer), ROW, TrainConfig()))
    assert "Example 2 of 2" in several and several.count('class="rp-tokens"') == 2
    long = view(encoder, Row("word " * 5000, "", "the end"), TrainConfig(max_length=8192))
    assert 'data-act="all"' in draw(page, long) and 'data-act="all"' not in draw(page, long, everything=True)
