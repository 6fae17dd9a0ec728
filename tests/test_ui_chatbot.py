"""What is written in a conversation reaches the browser so that it stays text, and comes back as it was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.chatbot import JOINER, Chatbot, edited, joined, parted

MARK = "·"


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("<b>x</b> 1 < 2 <3", "<·b>x<·/b> 1 < 2 <3"),
        ("<!-- a --> <?p?> &lt; &#39; & b", "<·!-- a --> <·?p?> &·lt; &·#39; & b"),
        ("`<b>` and <b>", "`<b>` and <·b>"),
        ("\\`<b>\\`", "\\`<·b>\\`"),
        ("```html\n<b>x</b>\n```\n<i>", "```html\n<b>x</b>\n```\n<·i>"),
        ("```\n```\n<b>", "```\n```\n<·b>"),
        ("~~~\n<a> of an answer under way", "~~~\n<a> of an answer under way"),
        ("```<b>``` <c>", "```<b>``` <·c>"),
        ("$$a<b$$ <b>", "$$a<b$$ <·b>"),
    ],
)
def test_html_is_joined_and_code_is_left_alone(written: str, sent: str) -> None:
    assert joined(written) == sent.replace(MARK, JOINER) and parted(joined(written)) == written


@given(st.text(alphabet=f"<&`~$\\/!?#ab; \n{JOINER}"))
def test_what_comes_back_is_what_was_written(written: str) -> None:
    assert parted(joined(written)) == written


def test_handlers_see_what_was_written_and_the_browser_what_stays_text() -> None:
    chat = Chatbot(reasoning_tags=[("<think>", "</think>")])
    sent = chat.postprocess([{"role": "assistant", "content": "<think>a <b></think>x <i>"}])
    assert [message.content[0].text for message in sent.root] == [f"a <{JOINER}b>", f"x <{JOINER}i>"]
    back = chat.preprocess(sent)
    assert [turn["content"][0]["text"] for turn in back] == ["a <b>", "x <i>"]  # type: ignore[index]
    assert chat.get_block_name() == "chatbot" and chat.preprocess(None) == []


def test_an_edit_leaves_no_joiner_behind() -> None:
    assert edited(joined("a <b>"), f"a {JOINER}b>") == ("a <b>", "a b>")
    assert edited("a", f"a <{JOINER}i>") == ("a", "a <i>")
