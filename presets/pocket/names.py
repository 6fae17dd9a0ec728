"""Random names, makers, words and payloads: what the model must copy rather than know."""

from __future__ import annotations

import random
from typing import Final

from presets.pocket.facts import WORDS, words

COMMON_HANZI: Final = tuple(
    bytes([high, low]).decode("gb2312")
    for high in range(0xB0, 0xD8)
    for low in range(0xA1, 0xFA if high == 0xD7 else 0xFF)
)
_SYLLABLES: Final = words("""
    al; an; ar; ba; be; bo; ca; co; da; de; di; do; el; en; er; fa; fi; ga; go; ha; he; in; ja; jo; ka
    ki; la; le; li; lo; ma; mi; mo; na; ne; ni; no; or; pa; pe; ra; ri; ro; sa; se; si; so; ta; ti; to
    un; va; vi; wa; we; ya; zo; th; sh; ch; ck; ly; st; nd; bri; cha; don; eve; fox; gri; hul; ix; jul
    kor; lum; mer; nov; oz; pix; quo; rus; sky; tri; ul; vex; wil; xen; yor; zen
""")
_FIRST_NAMES: Final = words("""
    Alice; Bob; Carol; David; Emma; Frank; Grace; Henry; Ivy; Jack; Kate; Leo; Mary; Nick; Olivia
    Peter; Rose; Sam; Tom; Tina; Lucy; Anna; Ben; John; Linda; Mike; Sarah; Paul; Lily; Amy; Eric; Zoe
    Max; Nina; Oscar; Ruby; Victor; Wendy
""")
_SURNAMES_ZH: Final = (
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎"
)
_GIVEN_ZH: Final = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉萍红玲芬燕彬文博宇轩浩然子涵欣怡梓诗雨晨思远小天乐安琪佳慧"
)
_ROLE_EN: Final = ("Bot", "AI", "Assistant", "GPT", "Helper", "Mind", "Chat", "LM", "Buddy", "Robot", "One", "Brain")
_ROLE_ZH: Final = ("助手", "机器人", "小助理", "智能体", "大模型", "精灵", "宝宝", "同学", "老师", "管家")
_ORG_EN: Final = (
    "Lab",
    "Labs",
    "AI",
    "Inc.",
    "Team",
    "Studio",
    "Research",
    "University",
    "Group",
    "Tech",
    "Ltd",
    "Works",
    "Systems",
    "Institute",
    "Co.",
)
_ORG_ZH: Final = (
    "公司",
    "科技",
    "实验室",
    "团队",
    "工作室",
    "研究院",
    "大学",
    "集团",
    "智能",
    "网络",
    "科技有限公司",
    "小组",
    "社区",
)
_EMOJI: Final = "😀🤖🚀🌟🔥🐼🐱🐶🦊🌈🍎🎉💡⚡🧠🎈🐳🌙☀❤✨🛠📚🎵🍀🐉🦄🪐🧸🥳"


def syllables(rng: random.Random, low: int = 1, high: int = 4) -> str:
    """A made-up lower-case Latin word."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(low, high)))


def latin(rng: random.Random) -> str:
    """A made-up Latin word in one of the usual casings of product names."""
    word = syllables(rng)
    kind = rng.randrange(9)
    if kind < 3:
        return word.capitalize()
    if kind == 3:
        return word.upper()
    if kind == 4:
        return word
    if kind == 5:
        return f"{word.capitalize()}{rng.choice(('-', '', '_', ' '))}{syllables(rng).capitalize()}"
    if kind == 6:
        return f"{word.capitalize()}{rng.choice(('', '-', ' '))}{rng.randint(0, 999)}"
    if kind == 7:
        return f"{word.capitalize()}{rng.choice(('-', ' ', ''))}{rng.choice(_ROLE_EN)}"
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 5)))


def hanzi(rng: random.Random, low: int = 1, high: int = 6) -> str:
    """Random common Chinese characters."""
    return "".join(rng.choice(COMMON_HANZI) for _ in range(rng.randint(low, high)))


def rare(rng: random.Random) -> str:
    """Characters that the tokenizer spells in bytes: rare Hanzi, accents, kana, Hangul, emoji, Greek, Cyrillic."""
    blocks = ((0x4E00, 0x9FA5), (0xC0, 0x24F), (0x3041, 0x30FF), (0xAC00, 0xD7A3), (0x1F300, 0x1F64F), (0x391, 0x44F))
    low, high = rng.choice(blocks)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 3)))


def assistant_name(rng: random.Random) -> str:
    """A name for an assistant: Latin, Chinese, mixed, with digits, or with an emoji."""
    kind = rng.randrange(12)
    if kind < 5:
        name = latin(rng)
    elif kind < 8:
        name = hanzi(rng, 2, 4) if rng.random() < 0.5 else hanzi(rng, 1, 3) + rng.choice(_ROLE_ZH)
    elif kind == 8:
        name = f"{latin(rng)}{rng.choice(('', ' '))}{rng.choice(_ROLE_ZH)}"
    elif kind == 9:
        name = rng.choice(WORDS)[0].capitalize() + rng.choice(("", "-", " ")) + rng.choice(_ROLE_EN)
    elif kind == 10:
        name = "小" + hanzi(rng, 1, 2)
    else:
        name = (
            rng.choice((latin(rng), hanzi(rng, 1, 3)))
            + rng.choice(("", " "))
            + rng.choice((rng.choice(_EMOJI), rare(rng)))
        )
    return name


def maker_name(rng: random.Random) -> str:
    """A person, team or company: Latin, Chinese or both."""
    kind = rng.randrange(12)
    if kind < 3:
        maker = f"{latin(rng)} {rng.choice(_ORG_EN)}"
    elif kind < 6:
        maker = hanzi(rng, 2, 5) + rng.choice(_ORG_ZH)
    elif kind < 8:
        maker = f"{latin(rng)} {hanzi(rng, 2, 6)}"
    elif kind == 8:
        maker = rng.choice((person_zh(rng), hanzi(rng, 2, 6)))
    elif kind == 9:
        maker = f"{rng.choice(WORDS)[0].capitalize()} {rng.choice(WORDS)[0].capitalize()} {rng.choice(_ORG_EN)}"
    elif kind == 10:
        maker = f"{rng.choice(_FIRST_NAMES)} {latin(rng)}"
    else:
        maker = (
            rng.choice((latin(rng), hanzi(rng, 2, 4)))
            + rng.choice(("", " "))
            + rng.choice((rng.choice(_EMOJI), rare(rng)))
        )
    return maker


def person_zh(rng: random.Random) -> str:
    """A Chinese personal name, or a nickname."""
    given = "".join(rng.choice(_GIVEN_ZH) for _ in range(rng.randint(1, 2)))
    return rng.choice(
        (
            rng.choice(_SURNAMES_ZH) + given,
            "小" + given[0],
            rng.choice(_SURNAMES_ZH) + hanzi(rng, 1, 2),
            hanzi(rng, 2, 4),
        )
    )


def person_en(rng: random.Random) -> str:
    """A Latin personal name."""
    first = rng.choice((rng.choice(_FIRST_NAMES), rng.choice(_FIRST_NAMES), syllables(rng, 1, 3).capitalize()))
    return first if rng.random() < 0.8 else f"{first} {syllables(rng, 1, 3).capitalize()}"


def payload(rng: random.Random) -> str:
    """Something to repeat: words, characters, numbers, a sentence-like string, or odd characters."""
    kind = rng.randrange(14)
    if kind >= 11:
        return sentence_zh(rng) if rng.random() < 0.5 else sentence_en(rng)
    if kind == 0:
        return latin(rng)
    if kind == 1:
        return hanzi(rng, 1, 6)
    if kind == 2:
        return " ".join(latin(rng) for _ in range(rng.randint(2, 5)))
    if kind == 3:
        return " ".join(rng.choice(WORDS)[0] for _ in range(rng.randint(1, 5)))
    if kind == 4:
        return "".join(rng.choice(WORDS)[1] for _ in range(rng.randint(1, 4)))
    if kind == 5:
        return " ".join(str(rng.randint(0, 999)) for _ in range(rng.randint(1, 4)))
    if kind == 6:
        return hanzi(rng, 4, 12)
    if kind == 7:
        return rng.choice((latin(rng), hanzi(rng))) + rng.choice((rng.choice(_EMOJI), rare(rng), "!", "-", " 1"))
    if kind == 8:
        return f"{rng.choice(_ADJECTIVE_EN)} {rng.choice(WORDS)[0]} {rng.choice(_VERB_EN)} {rng.choice(WORDS)[0]}"
    if kind == 9:
        return f"{rng.choice(('我', '他', '她', '我们', '你'))}{rng.choice(_VERB_ZH)}{rng.choice(WORDS)[1]}"
    return rng.choice(WORDS)[rng.randrange(2)]


_NOUNS_EN: Final = tuple(word for word, _ in WORDS)
_ADJECTIVES: Final = words("""
    big; small; old; new; red; quick; brown; lazy; happy; bright; quiet; little; good; bad; cold; warm
    long; short; young; strong; dark; clean; empty
""")
_ACTIONS: Final = words("""
    jumps over; runs to; likes; sees; is near; eats; loves; sits on; looks at; wants; needs; buys
    finds; carries; is not; was in; goes to; comes from; helps; waits for; is better than; follows
""")
_TAILS: Final = (
    "today",
    "every day",
    "in the morning",
    "at night",
    "with my friend",
    "again",
    "and smiles",
    "very much",
    "in the rain",
    "tomorrow",
)
_SUBJECTS_ZH: Final = ("我", "你", "他", "她", "我们", "他们", "小明", "老师", "妈妈", "这个人", "大家", "孩子们")
_PREDICATES_ZH: Final = words("""
    喜欢; 看见了; 想要; 正在找; 买了; 不喜欢; 画了; 需要; 忘记了; 带来了; 每天都吃; 最爱; 想念
    发现了; 住在; 走向; 等着; 听到了; 准备了; 收到了
""")
_MOODS_ZH: Final = (
    "今天天气很好",
    "明天见",
    "真开心",
    "好不好",
    "我很高兴",
    "一起去吧",
    "没有问题",
    "时间不早了",
    "生日快乐",
    "祝你好运",
    "加油",
    "新年快乐",
    "请坐",
    "慢慢来",
)


def sentence_en(rng: random.Random) -> str:
    """A simple English sentence of common words, with or without its full stop."""
    subject = (
        f"{rng.choice(('the', 'my', 'a', 'this', 'your', 'every'))} {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS_EN)}"
    )
    actor = rng.choice((subject, subject, "I", "she", "he"))
    text = f"{actor} {rng.choice(_ACTIONS)} {rng.choice(('the', 'a', 'my', 'one'))} {rng.choice(_NOUNS_EN)}"
    text = f"{text} {rng.choice(_TAILS)}" if rng.random() < 0.4 else text
    return rng.choice(
        (text, text[0].upper() + text[1:], f"{text[0].upper()}{text[1:]}.", f"{text[0].upper()}{text[1:]}!")
    )


def sentence_zh(rng: random.Random) -> str:
    """A simple Chinese sentence of common words, with or without its punctuation."""
    text = f"{rng.choice(_SUBJECTS_ZH)}{rng.choice(_PREDICATES_ZH)}{rng.choice(WORDS)[1]}"
    if rng.random() < 0.4:
        text = rng.choice((rng.choice(_MOODS_ZH), f"{text}{rng.choice((',', chr(0xFF0C)))}{rng.choice(_MOODS_ZH)}"))
    return text + rng.choice(("", "", "。", "!", chr(0xFF01)))


_ADJECTIVE_EN: Final = ("the", "my", "a", "this", "one", "every", "no", "I like the")
_VERB_EN: Final = ("is", "likes", "and", "has", "sees", "of", "in the", "with", "loves the")
_VERB_ZH: Final = ("喜欢", "爱", "看见", "想要", "有", "没有", "买了", "在找", "正在画")
