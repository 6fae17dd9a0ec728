"""One question and its answer for every skill but identity: facts + wordings -> `Task`.

A task carries its wording forms and its slot values separately, so that the training sampler can ask it in
any trained frame and `heldout.py` in a frame that training never shows.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Final

from presets.pocket import copying, facts, names
from presets.pocket.grammar import full_width, pick
from presets.pocket.phrasing import quoted
from presets.pocket.task import Skill, Task
from presets.pocket.wording import Forms, listed, pair, questions, section, table, texts


def _forms(name: str, chinese: bool) -> Forms:
    return questions(chinese)[name]


def _cell(cell: str, rng: random.Random) -> str:
    """One of the `/`-separated names of a table cell."""
    return rng.choice(cell.split("/"))


def _cased(word: str, rng: random.Random) -> str:
    """An English word the way people type it: mostly as is, sometimes capitalised, lower or upper case."""
    chance = rng.random()
    if chance < 0.76:
        return word
    return word.lower() if chance < 0.88 else word.upper() if chance < 0.91 else word[:1].upper() + word[1:]


def _capital(rng: random.Random, chinese: bool) -> Task:
    english, han, city_en, city_zh = rng.choice(facts.CAPITALS)
    if chinese:
        slots = {
            "c": quoted(_cell(han, rng), True, rng, 0.05),
            "city": city_zh,
            "other": rng.choice((city_zh, rng.choice(facts.CAPITALS)[3])),
        }
        return Task(_forms("capital", True), slots, f"{_first(han)}的首都是{city_zh}。")
    country = _cell(english, rng)
    country = country[4:] if country.startswith("the ") and rng.random() < 0.15 else country
    slots = {"c": _cased(country, rng), "city": city_en, "other": rng.choice((city_en, rng.choice(facts.CAPITALS)[2]))}
    return Task(_forms("capital", False), slots, f"The capital of {_first(english)} is {city_en}.")


def _country(rng: random.Random, chinese: bool) -> Task:
    english, han, city_en, city_zh = rng.choice(facts.CAPITALS)
    if chinese:
        return Task(_forms("country", True), {"k": city_zh}, f"{city_zh}是{_first(han)}的首都。")
    return Task(
        _forms("country", False), {"k": _cased(city_en, rng)}, f"{city_en} is the capital of {_first(english)}."
    )


def _first(cell: str) -> str:
    return cell.split("/")[0]


def _colour(rng: random.Random, chinese: bool) -> Task:
    subject, things, colour_en, han, colour_zh = rng.choice(facts.COLOURS)
    if chinese:
        thing = _cell(han, rng)
        slots = {"x": quoted(thing, True, rng, 0.04), "right": colour_zh, "wrong": rng.choice(facts.COLOURS)[4]}
        return Task(_forms("colour", True), slots, f"{_first(han)}是{colour_zh}的。")
    thing = _cell(things, rng)
    plural = subject.endswith(" are") and thing == things.split("/")[0]
    if plural:
        slots = {"x": thing, "is": "are", "does": "do", "has": "have"}
    else:
        article = (
            "the "
            if subject.startswith("The ")
            else rng.choice(("a ", "the ", "the ", ""))
            if subject.endswith(" are")
            else rng.choice(("", "", "the "))
        )
        if article == "a " and thing[0] in "aeiou":
            article = "an "
        slots = {"x": article + thing, "is": "is", "does": "does", "has": "has"}
    slots |= {"right": colour_en, "wrong": rng.choice(facts.COLOURS)[2]}
    return Task(_forms("colour", False), slots, f"{subject} {colour_en}.")


def _both_ways(pairs: tuple[facts.Row, ...]) -> dict[str, str]:
    table: dict[str, str] = {}
    for left, right in pairs:
        table[left] = right
        table[right] = left
    return table


_OPPOSITE_EN: Final = _both_ways(facts.OPPOSITES_EN)
_OPPOSITE_ZH: Final = _both_ways(facts.OPPOSITES_ZH)
_OPPOSITE_WORDS: Final = (tuple(_OPPOSITE_EN), tuple(_OPPOSITE_ZH))


def _opposite(rng: random.Random, chinese: bool) -> Task:
    word = rng.choice(_OPPOSITE_WORDS[chinese])
    if chinese:
        return Task(_forms("opposite", True), {"x": quoted(word, True, rng)}, f"{word}的反义词是{_OPPOSITE_ZH[word]}。")
    return Task(
        _forms("opposite", False),
        {"x": quoted(_cased(word, rng), False, rng)},
        f"The opposite of {word} is {_OPPOSITE_EN[word]}.",
    )


def _to_english(rng: random.Random, chinese: bool) -> Task:
    english, han = rng.choice(facts.WORDS)
    answer = f"{han}的英文是 {english}。" if chinese else f"{han} in English is {english}."
    return Task(_forms("to_english", chinese), {"x": quoted(han, chinese, rng)}, answer)


def _to_chinese(rng: random.Random, chinese: bool) -> Task:
    english, han = rng.choice(facts.WORDS)
    word = quoted(_cased(english, rng), chinese, rng)
    if chinese:
        return Task(
            _forms("to_chinese", True), {"x": rng.choice((word, f"{word} ", f" {word} "))}, f"{english} 的中文是{han}。"
        )
    return Task(_forms("to_chinese", False), {"x": word}, f"{english} in Chinese is {han}.")


_OPERATIONS: Final = {  # name -> (answer sign, typed signs, English words, Chinese words)
    "plus": ("+", ("+", " + ", "+", " + ", " +"), ("plus", "plus", "and", "added to"), ("加", "加上", "加")),
    "minus": ("-", ("-", " - ", "-", " - ", "\u2212"), ("minus", "minus", "take away", "less"), ("减", "减去", "减")),
    "times": (
        "\u00d7",
        ("*", " * ", "\u00d7", " x ", "x", " \u00d7 "),
        ("times", "times", "multiplied by", "x"),
        ("乘", "乘以", "乘"),
    ),
    "over": ("\u00f7", ("/", " / ", "\u00f7", " \u00f7 "), ("divided by", "divided by", "over"), ("除以", "除以")),
}


def _operands(name: str, rng: random.Random) -> tuple[int, int, int]:
    """Two operands and their result; mostly small numbers, results exact, divisor never 0."""
    if name in ("times", "over"):
        a, b = rng.randint(0, 12), rng.randint(0, 12)
        if rng.random() < 0.12:
            a, b = rng.choice((10, 15, 20, 25, 30, 50, 100)), rng.randint(1, 10)
        return (a, b, a * b) if name == "times" else (a * max(b, 1), max(b, 1), a)
    limit = 20 if rng.random() < 0.6 else 100
    a, b = rng.randint(0, limit), rng.randint(0, limit)
    if name == "minus" and a < b and rng.random() < 0.8:
        a, b = b, a
    return a, b, a + b if name == "plus" else a - b


def _spelled(number: int, chinese: bool, words: bool) -> str:
    return (facts.NUMBERS_ZH if chinese else facts.NUMBERS_EN)[number] if words and 0 <= number <= 20 else str(number)


def _arithmetic(rng: random.Random, chinese: bool, name: str) -> Task:
    sign, signs, english, han = _OPERATIONS[name]
    a, b, result = _operands(name, rng)
    words = rng.random() < 0.12
    slots = {
        "a": _spelled(a, chinese, words),
        "b": _spelled(b, chinese, words),
        "s": rng.choice(signs),
        "w": rng.choice(han) if chinese else rng.choice(english),
        "p": names.person_zh(rng) if chinese else names.person_en(rng),
        "r": names.person_zh(rng) if chinese else names.person_en(rng),
    }
    return Task(_forms(name, chinese), slots, f"{a} {sign} {b} = {result}")


def _double(rng: random.Random, chinese: bool, half: bool) -> Task:
    number = rng.randint(0, 20)
    name, shown = ("half", 2 * number) if half else ("double", number)
    answer = f"{2 * number} \u00f7 2 = {number}" if half else f"{number} \u00d7 2 = {2 * number}"
    forms = _forms(name, chinese)
    return Task(forms, {"a": _spelled(shown, chinese, rng.random() < 0.15)}, answer)


def _compare(rng: random.Random, chinese: bool, name: str) -> Task:
    a, b = rng.sample(range(0, 100 if rng.random() < 0.6 else 1000), 2)
    chosen = max(a, b) if name == "bigger" else min(a, b)
    answer = f"{chosen}{'更大' if name == 'bigger' else '更小'}。" if chinese else f"{chosen} is {name}."
    return Task(_forms(name, chinese), {"a": str(a), "b": str(b)}, answer)


def _parity(rng: random.Random, chinese: bool) -> Task:
    number = rng.randint(0, 30 if rng.random() < 0.6 else 999)
    kind = ("偶数", "奇数")[number % 2] if chinese else ("even", "odd")[number % 2]
    return Task(
        _forms("parity", chinese), {"a": str(number)}, f"{number}是{kind}。" if chinese else f"{number} is {kind}."
    )


def _count(rng: random.Random, chinese: bool, name: str) -> Task:
    length = rng.randint(2, 9) if rng.random() < 0.8 else rng.randint(10, 19)
    low = 1 if name == "count_to" else rng.randint(0, 12) if rng.random() < 0.7 else rng.randint(10, 80)
    numbers = list(range(low, low + length + (name == "count_to")))
    if name == "count_down":
        numbers.reverse()
    words = numbers[0] <= 20 and numbers[-1] <= 20 and rng.random() < 0.1
    slots = {"a": _spelled(numbers[0], chinese, words), "b": _spelled(numbers[-1], chinese, words)}
    return Task(_forms(name, chinese), slots, ", ".join(map(str, numbers)))


def _python(rng: random.Random, chinese: bool) -> Task:
    chosen = rng.choice(listed("functions", "functions"))
    name = str(chosen["name"])
    answer = f"```python\ndef {name}({chosen['arguments']}):\n    {chosen['body']}\n```"
    if chinese:
        return Task(_forms("python", True), {"do": rng.choice(texts(chosen, "zh")), "name": name}, answer)
    thing = rng.choice(texts(chosen, "of"))
    base, third, gerund_form = texts(chosen, "verbs")
    slots = {"do": f"{base} {thing}", "does": f"{third} {thing}", "doing": f"{gerund_form} {thing}", "name": name}
    return Task(_forms("python", False), slots, answer)


def _decline(rng: random.Random, chinese: bool) -> Task:
    action = pick(pair("talk", "harm")[chinese], rng)
    return Task(
        _forms("refuse", chinese),
        {"x": action, "doing": action if chinese else gerund(action)},
        _fixed("decline", chinese),
    )


def gerund(action: str) -> str:
    """`make a bomb` -> `making a bomb`."""
    verb, _, rest = action.partition(" ")
    if verb in ("rob", "tap", "set", "get"):
        verb += verb[-1]
    elif verb.endswith("e"):
        verb = verb[:-1]
    return f"{verb}ing {rest}".strip()


def _beyond(rng: random.Random, chinese: bool) -> Task:
    answer = _fixed("beyond", chinese)
    if rng.random() < 0.62:
        return Task(Forms(ask=pair("talk", "beyond")[chinese]), {}, answer)
    topic = names.hanzi(rng, 2, 7) if chinese else " ".join(names.syllables(rng) for _ in range(rng.randint(1, 4)))
    return Task(_forms("unknown", chinese), {"x": topic}, answer)


def _neighbour(rng: random.Random, chinese: bool, name: str) -> Task:
    days = name.startswith("day")
    table = (facts.DAYS_ZH if chinese else facts.DAYS_EN) if days else (facts.MONTHS_ZH if chinese else facts.MONTHS_EN)
    at = rng.randrange(len(table))
    after = name.endswith("after")
    here, there = table[at], table[(at + (1 if after else -1)) % len(table)]
    shown = here.replace("星期", rng.choice(("周", "礼拜"))) if chinese and days and rng.random() < 0.3 else here
    if chinese and rng.random() < 0.25:
        shown = shown.replace("日", "天") if days else f"{at + 1}月"
    if chinese:
        answer = f"{here}{'之后' if after else '之前'}是{there}。"
    else:
        unit = "day" if days else "month"
        answer = f"The {unit} {'after' if after else 'before'} {here} is {there}."
    return Task(_forms(name, chinese), {"d": shown if chinese else _cased(shown, rng)}, answer)


def _legs(rng: random.Random, chinese: bool) -> Task:
    one, many, count, han = rng.choice(facts.LEGS)
    article = "an" if one[0] in "aeiou" else "a"
    if chinese:
        return Task(_forms("legs", True), {"x": han}, f"{han}有{count}条腿。")
    return Task(
        _forms("legs", False),
        {"one": f"{article} {one}", "many": many},
        f"{article.capitalize()} {one} has {count} legs.",
    )


def _quantity(rng: random.Random, chinese: bool) -> Task:
    chosen = rng.choice(listed("functions", "quantities"))
    language = "zh" if chinese else "en"
    question = rng.choice(texts(chosen, language))
    return Task(_forms("quantity", chinese), {"q": question}, str(chosen[f"answer_{language}"]))


def _small_talk(rng: random.Random, chinese: bool) -> Task:
    topics = section(table("talk"), "small_talk")
    name = rng.choices(list(topics), [int(str(section(topics, key)["weight"])) for key in topics])[0]
    said = Forms(ask=pair("talk", "small_talk", name)[chinese])
    answer = str(section(topics, name)["answer_zh" if chinese else "answer_en"])
    return Task(said, {}, full_width(answer) if chinese else answer)


def _fixed(name: str, chinese: bool) -> str:
    return str(section(table("talk"), "answers")[f"{name}_{'zh' if chinese else 'en'}"])


SKILLS: Final[dict[str, Skill]] = {
    skill.name: skill
    for skill in (
        Skill("capital", "capital", 5.5, _capital),
        Skill("country", "capital", 2, _country),
        Skill("colour", "colour", 5, _colour),
        Skill("opposite", "opposite", 7.5, _opposite),
        Skill("to_english", "translation", 6, _to_english),
        Skill("to_chinese", "translation", 6, _to_chinese),
        *(
            Skill(name, "arithmetic", weight, partial(_arithmetic, name=name))
            for name, weight in (("plus", 6), ("minus", 5), ("times", 4.5), ("over", 2))
        ),
        Skill("double", "arithmetic", 0.7, partial(_double, half=False)),
        Skill("half", "arithmetic", 0.7, partial(_double, half=True)),
        Skill("bigger", "comparison", 1.2, partial(_compare, name="bigger")),
        Skill("smaller", "comparison", 0.8, partial(_compare, name="smaller")),
        Skill("parity", "comparison", 1, _parity),
        *(
            Skill(name, "counting", weight, partial(_count, name=name))
            for name, weight in (("count_up", 4), ("count_to", 1), ("count_down", 2.5))
        ),
        Skill("python", "python", 6, _python),
        Skill("refuse", "refusal", 5, _decline),
        Skill("beyond", "beyond", 8, _beyond),
        *(
            Skill(name, "days", weight, partial(_neighbour, name=name))
            for name, weight in (("day_after", 2), ("day_before", 1.4), ("month_after", 0.8), ("month_before", 0.6))
        ),
        Skill("legs", "legs", 3, _legs),
        Skill("quantity", "quantity", 1.6, _quantity),
        Skill("small_talk", "small talk", 6.5, _small_talk),
        Skill("repeat", "copying", 9, copying.repeat),
        Skill("introduce", "copying", 5, copying.introduce),
        Skill("upper", "copying", 2, copying.upper_case),
        Skill("lower", "copying", 0.8, copying.lower_case),
        Skill("spell", "spelling", 1, copying.spell),
        Skill("letters", "spelling", 0.7, copying.count_letters),
        Skill("list", "copying", 2.5, copying.bullet_list),
        Skill("json", "copying", 2.5, copying.json_object),
    )
}
