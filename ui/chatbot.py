"""A conversation in which HTML stays the characters that were written; Markdown, code and formulas are drawn.

Gradio draws a message as Markdown, in which HTML is a part of the language. What would begin a tag or an entity is sent
with an invisible joiner in it, and comes back without: handlers never see it. What is copied has none (onecard.js).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import gradio as gr
from gradio.components.chatbot import ChatbotDataMessages, TextMessage

JOINER = "\u2060"
# A fenced block, code within a line, a formula: drawn as they are. Else: what may begin a tag, a comment or an entity.
_PARTS = re.compile(
    r"(?P<drawn>^ {0,3}(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})[^\n]*(?:\n.*?)??(?:\n {0,3}(?P=fence)[`~]*[ \t]*$|\Z)"
    r"|(?<![\\`])(?P<ticks>`+)(?!`)[^\n]+?(?<!`)(?P=ticks)(?!`)|\$\$.+?\$\$)"
    rf"|(?P<begins>[<&])(?P<joiner>{JOINER}?)(?={JOINER}*[A-Za-z/!?#])",
    re.MULTILINE | re.DOTALL,
)


def joined(text: str) -> str:
    """`text` as the browser gets it."""
    return _PARTS.sub(lambda part: part["drawn"] or f"{part['begins']}{JOINER}{part['joiner']}", text)


def parted(text: str) -> str:
    """What was written, of what the browser has."""
    return _PARTS.sub(lambda part: part["drawn"] or part["begins"], text)


def edited(before: str, after: str) -> tuple[str, str]:
    """What was written before and after an edit in the browser, where half of a mark may have been taken away."""
    old, new = parted(before), parted(after)
    return old, new if JOINER in old else new.replace(JOINER, "")


class Chatbot(gr.Chatbot):
    """gr.Chatbot, but for that."""

    is_template = True  # drawn by gradio's own

    def preprocess(self, payload: ChatbotDataMessages | None) -> list[object]:
        """The messages as they were written."""
        return super().preprocess(_each(payload, parted))

    def postprocess(self, value: list[object] | None) -> ChatbotDataMessages:
        """The messages as the browser gets them, thoughts apart."""
        return _each(super().postprocess(value), joined)


def _each(messages: ChatbotDataMessages | None, change: Callable[[str], str]) -> ChatbotDataMessages:
    for message in messages.root if messages else ():
        for part in message.content:
            if isinstance(part, TextMessage):
                part.text = change(part.text)
    return messages or ChatbotDataMessages(root=[])
