"""The page in front of the pages: one field for the token or the password. Everything it shows is in it."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Literal

from core.text import Language, Text

Kind = Literal["token", "password", "either"]
Why = Literal["first", "wrong", "again", "later"]

_TITLE = Text(zh="打开 OneCard", en="Open OneCard")
_LABEL: dict[Kind, Text] = {
    "token": Text(zh="令牌", en="Token"),
    "password": Text(zh="密码", en="Password"),
    "either": Text(zh="密码或令牌", en="Password or token"),
}
_OPEN = Text(zh="打开", en="Open")
_LINK = Text(
    zh="启动 OneCard 的终端里有一个带 ?token= 的链接：用它打开，或者把 ?token= 后面的令牌粘贴到这里。"
    "设置过 ONECARD_TOKEN 时，令牌就是它的值。",
    en="The terminal in which OneCard was started shows a link with ?token= in it: open that, or paste what follows "
    "?token= here. If ONECARD_TOKEN was set, the token is its value.",
)
_FIRST: dict[Kind, Text] = {
    "token": Text(zh="需要令牌：这个页面只对启动它的人开放。", en="Token needed: this page is for whoever started it."),
    "password": Text(
        zh="需要密码：就是启动 OneCard 时在 ONECARD_PASSWORD 里设置的那个。",
        en="Password needed: the one set in ONECARD_PASSWORD when OneCard was started.",
    ),
    "either": Text(
        zh="需要密码（ONECARD_PASSWORD）或令牌（ONECARD_TOKEN）：启动 OneCard 时设置的那个。",
        en="Password needed (ONECARD_PASSWORD) or token (ONECARD_TOKEN), as set when OneCard was started.",
    ),
}
_AGAIN = Text(
    zh="OneCard 重新启动过，之前的登录不再有效。数据集和训练记录都在。",
    en="OneCard was started again, so you have to sign in once more. Your datasets and runs are all there.",
)
_WRONG: dict[Kind, Text] = {
    "token": Text(
        zh="令牌不对：可能没有复制完整，也可能来自上一次启动。",
        en="Wrong token: it was copied in part, or is of an earlier start.",
    ),
    "password": Text(zh="密码不对，请再试一次。", en="Wrong password; try again."),
    "either": Text(zh="密码或令牌不对，请再试一次。", en="Wrong password or token; try again."),
}
_LATER = Text(
    zh="这个地址输错的次数太多。请在 {seconds} 秒后再试。",
    en="Too many wrong tries from this address. Try again in {seconds} seconds.",
)

_STYLE = (Path(__file__).parent / "static" / "sign_in.css").read_text("utf-8")
_MARK = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><rect width="24" height="24" rx="7" fill="#0f766e"/>'
    '<rect x="5.8" y="7.8" width="12.4" height="8.4" rx="2.5" fill="none" stroke="#fff" stroke-width="1.6"/>'
    '<circle cx="12" cy="12" r="2" fill="#5eead4"/></svg>'
)
# The part of the address behind # never reaches the server; it says which tab was meant.
_KEEP_PLACE = "const next = document.forms[0].elements.next; next.value += location.hash;"


def said(kind: Kind, why: Why, seconds: int = 0) -> list[Text]:
    """The sentences of the page, the most important first. `seconds` counts for "later" only."""
    link = [_LINK] if kind == "token" else []  # beside a password a token is one that was set, and no link is printed
    if why == "later":
        return [Text(zh=_LATER.zh.format(seconds=seconds), en=_LATER.en.format(seconds=seconds))]
    if why == "again":
        return [_AGAIN, _FIRST[kind], *link]
    return [*([_WRONG[kind]] if why == "wrong" else []), _FIRST[kind], *link]


def draw(kind: Kind, why: Why, following: str, language: Language, seconds: int = 0) -> str:
    """The page, in the reader's language first. `following` is the path to go to when it is right."""
    sentences = said(kind, why, seconds)
    other: Language = "en" if language == "zh" else "zh"

    def paragraphs(shown: Language) -> str:
        marks = ["bad" if why in ("wrong", "later") and i == 0 else ("" if i == 0 else "soft") for i in range(9)]
        return "".join(f'<p class="{m}">{escape(s.of(shown))}</p>' for s, m in zip(sentences, marks, strict=False))

    label = f"{_LABEL[kind].of(language)} · {_LABEL[kind].of(other)}"
    button = f"{_OPEN.of(language)} · {_OPEN.of(other)}"
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{_TITLE.of(language)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body><main><h1>{_MARK}{_TITLE.of(language)}</h1>{paragraphs(language)}"
        f'<form method="post" action="/sign-in"><input type="hidden" name="next" value="{escape(following)}">'
        f'<label for="word">{label}</label><div><input id="word" name="word" type="password" required autofocus '
        f'autocomplete="current-password" maxlength="1024"><button>{button}</button></div></form>'
        f'<section lang="{other}" class="soft">{paragraphs(other)}</section></main>'
        f"<script>{_KEEP_PLACE}</script></body></html>"
    )


def bounce(following: str) -> str:
    """A page that goes on to `following` by way of the sign-in.

    A link on another site brings no SameSite=Strict cookie along; the step from this page to the next does.
    """
    target = json.dumps(f"/sign-in?next={following}").replace("<", "\\u003c")
    plain = escape(f"/sign-in?next={following}")
    return (
        '<!doctype html><html><head><meta charset="utf-8"><title>OneCard</title><link rel="icon" href="data:,">'
        f'<noscript><meta http-equiv="refresh" content="0;url={plain}"></noscript></head><body>'
        f"<script>location.replace({target} + encodeURIComponent(location.hash))</script></body></html>"
    )
