"""Identities that an answer may still claim: other models' names and makers, and putting placeholders in their place."""

from __future__ import annotations

import re
from collections.abc import Collection

# The base's own: any mention that is not denied counts where the model speaks of itself.
_BASE = re.compile(r"qwen|tongyi|alibaba|通义|千问|阿里巴巴|阿里云", re.IGNORECASE)
# Tables written by other models bring these along; they count only where they are claimed.
_OTHER = re.compile(
    r"chatgpt|\bgpt-?[345]|openai|deepseek|深度求索|chatglm|智谱|文心一言|百度|\bllama|\bmeta ai\b|mistral|\bclaude\b|anthropic"
    r"|\bgemini\b|\bgemma\b|\bkimi\b|月之暗面|moonshot|豆包|字节跳动|\bbaichuan\b|百川|\bminimax\b",
    re.IGNORECASE,
)
_ANY = re.compile(f"{_BASE.pattern}|{_OTHER.pattern}", re.IGNORECASE)
# One of these stands in every match of the two: looking for them first is ten times as fast.
_NEEDLES = (
    "qwen", "tongyi", "alibaba", "通义", "千问", "阿里", "gpt", "openai", "deepseek", "深度求索", "chatglm", "智谱", "文心", "百度",
    "llama", "meta", "mistral", "claude", "anthropic", "gemini", "gemma", "kimi", "月之暗面", "moonshot", "豆包", "字节", "baichuan",
    "百川", "minimax",
)  # fmt: skip
_MAKER = re.compile(
    r"阿里巴巴(?:集团)?(?:旗下)?(?:的?(?:通义实验室|达摩院))?|阿里云(?:的?通义实验室)?|通义实验室"
    r"|alibaba(?:['\u2019]s)?(?: cloud| group)?|tongyi lab|openai|深度求索(?:公司)?|智谱(?:\s?ai)?|百度(?:公司)?"
    r"|\bmeta ai\b|anthropic|月之暗面|moonshot(?: ai)?|字节跳动"
    r"|mistral ai|百川智能",
    re.IGNORECASE,
)
_MODEL = re.compile(
    r"通义千问(?:\s?[\d.]*\d)?|通义|千问|tongyi[ -]?(?:qianwen|qwen)?"
    r"|(?:qwen|chatgpt|\bgpt-?[345]|deepseek|chatglm|\bllama|mistral|\bgemma|baichuan)(?:[A-Za-z0-9.-]*[A-Za-z0-9])?"
    r"|文心一言|\bclaude\b|\bgemini\b|\bkimi\b|豆包|百川|\bminimax\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"([,.;!?\uff0c\u3002\uff1b\uff01\uff1f\n]+(?![0-9])|而是|\bbut\b)", re.IGNORECASE)
_SELF = re.compile(r"我|\bI\b|\bI'm\b|\bmy\b|\bme\b", re.IGNORECASE)
_SPEAKER = re.compile(
    r"我(?:是|叫|由|作为|的名字)|作为(?:一个|一款|一名)|\b(?:I am|I'm|I was|[Mm]y name|[Aa]s an? (?:AI|language))\b"
)
_CLAIM = re.compile(
    r"我(?:是|叫|的名字|就是|作为)|由|来自|作为"
    r"|\b(?:I am|I'm|I was|my name|call me|as an? (?:ai|language)|(?:made|developed|created|built|trained) by)\b",
    re.IGNORECASE,
)
_NOT_BEFORE = re.compile(
    r"不|并非|没|无|n['\u2019]t\b|\b(?:not|no|never|neither|nor|unlike|instead of|rather than)\b", re.IGNORECASE
)
_NOT_AFTER = re.compile(r"无关|没有关系|没关系|不同|有区别|\bunrelated\b|\bdifferent\b", re.IGNORECASE)


def found(words: Collection[str]) -> set[str]:
    """The old names that the words of the new identity contain, and may therefore be said; in small letters."""
    return {match[0].lower() for word in words for match in _ANY.finditer(word)}


def claims(answer: str, kept: Collection[str]) -> bool:
    """Whether an answer claims another model's identity. Denials, and facts about the companies, are none."""
    low = answer.lower()
    if not any(needle in low for needle in _NEEDLES) or not _SELF.search(answer):
        return False
    speaks = _SPEAKER.search(answer) is not None
    return any(_claimed(clause, kept, speaks) for clause in _CLAUSE.split(answer)[::2])


def renamed(answer: str, kept: Collection[str]) -> str:
    """The answer with every claimed old name replaced by {{NAME}} or {{AUTHOR}}; the rest is as it was."""
    parts, speaks = _CLAUSE.split(answer), _SPEAKER.search(answer) is not None
    for i in range(0, len(parts), 2):
        if _claimed(parts[i], kept, speaks):
            parts[i] = _put(_MODEL, "{{NAME}}", _put(_MAKER, "{{AUTHOR}}", parts[i], kept), kept)
    return "".join(parts)


def _put(pattern: re.Pattern[str], placeholder: str, clause: str, kept: Collection[str]) -> str:
    return pattern.sub(lambda match: match[0] if found([match[0]]) & set(kept) else placeholder, clause)


def _claimed(clause: str, kept: Collection[str], speaks: bool) -> bool:
    """Whether a clause claims an old name. `speaks`: the answer it is of says who speaks."""
    for match in _ANY.finditer(clause):
        if match[0].lower() in kept:
            continue
        if not _BASE.match(match[0]) and not (speaks and _CLAIM.search(clause, 0, match.start())):
            continue
        if not (_NOT_BEFORE.search(clause, 0, match.start()) or _NOT_AFTER.search(clause, match.end())):
            return True
    return False
