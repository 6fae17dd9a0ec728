"""What a single text shows: placeholders and control tokens left in it, names claimed, refusals. Knows no table."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from core.dataset import placeholders
from core.proof_sets import refuses

Topic = Literal["", "who", "name", "maker"]

# White space, and characters that show nothing: zero-width, joiners, marks, fillers, the braille blank.
_SHOWS_NOTHING = (
    r"\s\x00-\x1f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
)
_INVISIBLE, _VISIBLE = re.compile(f"[{_SHOWS_NOTHING}]+"), re.compile(f"[^{_SHOWS_NOTHING}]")

# What ends a turn or begins one in the families of today, and the marks of their tools and infilling.
_CONTROL = re.compile(
    r"<[|｜][A-Za-z0-9_▁]{2,40}[|｜]>|\[/?INST\]|<</?SYS>>|</?tool_call>|</?(?:start|end)_of_turn>|</s>\s*\Z"
)

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_NAME_WORDS = (
    r"(?:the |my |model|bot|assistant|ai)?[\s_-]*name|模型名称?|模型名字|助手名称?|机器人名称?|名字|名称|姓名|模型"
    r"|model|bot|assistant"
)
_MAKER_WORDS = (
    r"(?:the |my |model|bot)?[\s_-]*(?:author|developer|company|maker|creator|team|organi[sz]ation|owner|vendor)"
    r"(?:[\s_-]*name)?|作者|开发者|开发商|开发团队|公司名?称?|团队名?称?|机构名?称?|研发单位"
)
# Two braces mean a placeholder wherever they stand, and so do capitals in angle brackets.
_STRONG = re.compile(
    r"\{\{\s*\w[\w .-]{0,38}\s*\}\}|｛｛\s*\w[\w .-]{0,38}\s*｝｝"
    r"|<[A-Z_]*(?:NAME|AUTHOR|COMPANY|DEVELOPER|MODEL|BOT|TEAM|MAKER)[A-Z_]*>"
)
# These occur in letters, prose and source code too, so they count where a model speaks of itself.
_WEAK = re.compile(
    rf"\$?\{{\s*\w[\w .-]{{0,38}}\s*\}}"
    rf"|\[\s*(?:{_NAME_WORDS}|{_MAKER_WORDS})\s*\]|【\s*(?:{_NAME_WORDS}|{_MAKER_WORDS})\s*】"
    rf"|<\s*(?:{_NAME_WORDS}|{_MAKER_WORDS})\s*>|%s|%\(\w+\)s|\$(?:NAME|AUTHOR)\b"
    rf"|(?<![A-Za-z0-9])X{{3,}}(?![A-Za-z0-9])|×{{2,}}|某某+|_{{3,}}",
    re.IGNORECASE,
)
_SOME_MARK = re.compile(r"[{｛\[【<%$×某_]|[Xx]{3}")
_INSIDE = re.compile(r"^[\s\W_]*(.*?)[\s\W_]*$", re.DOTALL)
_IS_NAME, _IS_MAKER = re.compile(_NAME_WORDS, re.IGNORECASE), re.compile(_MAKER_WORDS, re.IGNORECASE)
_SELF_NAMED = re.compile(
    r"我(?:是|叫|的名字|由|来自)|\b(?:I am|I'm|my name|call me|(?:made|developed|created|built|trained) by)\b",
    re.IGNORECASE,
)

_QUESTIONS: tuple[tuple[Topic, re.Pattern[str]], ...] = (
    ("maker", re.compile(
        r"(?:谁|哪(?:家|个|一家|一个|位)?.{0,8}?)(?:在|正在)?(?:开发|创造|训练|制作|设计|研发|发明|打造|维护|做出|造)(?:了|的|出)*你"
        r"|你(?:是|由|被)(?:谁|哪|什么).{0,10}?(?:开发|创造|训练|制作|设计|研发|发明|打造|维护|做|造)"
        r"|你的(?:开发者|作者|创造者|开发商|制造商|开发团队|研发团队|创作者)"
        r"|\bwho (?:\w+ ){0,2}?(?:made|created|developed|built|trained|designed|maintains?|owns) you\b"
        r"|\b(?:company|team|lab|organi[sz]ation|people)\b.{0,20}\b(?:made|created|developed|built|trained|maintains?) you\b"
        r"|\byour (?:developer|creator|maker|author)s?\b"
    )),
    ("name", re.compile(r"你(?:叫什么|的名字|的名称)|(?:怎么|如何|怎样)称呼你|\byour name\b|\bcall you\b|\bare you called\b")),
    ("who", re.compile(
        r"你是谁|你是(?:什么|哪个|哪款|哪种)(?:\w{0,4})?(?:模型|助手|ai)|介绍.{0,4}你自己|自我介绍"
        r"|\bwho (?:exactly )?are you\b|\bintroduce yourself\b|\babout yourself\b|\b(?:what|which) (?:\w+ )?model are you\b"
    )),
)  # fmt: skip
_LONGEST_QUESTION = 100
_LIMIT = re.compile(
    r"我(?:[^。！？\n]{0,6})?(?:不能|无法|不会|没有|不具备|做不到)"
    r"|\bI(?: \w+)? (?:can(?:no|['\u2019])t|am not able|do not have|don['\u2019]t have|have no|am unable)\b"
)
_LIMIT_QUESTION = re.compile(
    r"你(?:能|可以|会)(?:不能|不会)?.{0,12}(?:联网|上网|天气|新闻|正确|记住|出错)|你有(?:感情|情感|意识)|不擅长|不能做"
    r"|\bcan you (?:browse|go online|access the internet|remember)|\balways (?:right|correct)|\bhave feelings\b"
    r"|\bcan(?:'t|not) you do\b",
    re.IGNORECASE,
)


def is_visible(text: str) -> bool:
    """Whether a text shows anything at all."""
    return _VISIBLE.search(text) is not None


def plain(text: str) -> str:
    """A question without case, width, spaces and closing punctuation, to compare it."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return _INVISIBLE.sub("", text).rstrip("?!.。…~")


def control_tokens(text: str) -> list[str]:
    """Strings in `text` that are control tokens of some family of models, as written."""
    return _CONTROL.findall(text) if "<" in text or "[" in text else []


def speaks_of_itself(text: str) -> bool:
    """Whether an answer says who it is or who made it."""
    return _SELF_NAMED.search(text) is not None


def stray_placeholders(text: str, about_itself: bool) -> list[str]:
    """What looks like a placeholder and is none of those that are filled in; code is left out.

    `about_itself`: the model speaks of itself here, so that [name], {name}, %s or XXX are taken for placeholders too.
    """
    if not _SOME_MARK.search(text):
        return []
    text = _CODE.sub(" ", text)
    known = set(placeholders(text))
    found = [match[0] for match in _STRONG.finditer(text)]
    rest = text
    for word in (*known, *found):
        rest = rest.replace(word, " ")
    weak = [match[0] for match in _WEAK.finditer(rest)] if about_itself else []
    return list(dict.fromkeys(word for word in (*found, *weak) if word not in known))


def placeholder_for(stray: str) -> str:
    """{{NAME}} or {{AUTHOR}} where a stray placeholder plainly means one of them, else ""."""
    match = _INSIDE.match(stray)
    inside = match[1] if match else ""
    for meant, words in (("{{AUTHOR}}", _IS_MAKER), ("{{NAME}}", _IS_NAME)):
        if words.fullmatch(inside) or words.fullmatch(inside.replace("_", " ")):
            return meant
    return ""


def topic(question: str) -> Topic:
    """What a question asks of the model's identity; "" for any other question."""
    if len(question) > _LONGEST_QUESTION:
        return ""
    folded = unicodedata.normalize("NFKC", question).casefold().replace("\u2019", "'")
    return next((kind for kind, pattern in _QUESTIONS if pattern.search(folded)), "")


def states_limit(answer: str) -> bool:
    """Whether an answer declines, or says what the model cannot do."""
    return refuses(answer) or _LIMIT.search(answer[:160]) is not None


def asks_limit(question: str) -> bool:
    """Whether a question asks what the model cannot do or promise."""
    return len(question) <= _LONGEST_QUESTION and _LIMIT_QUESTION.search(question) is not None
