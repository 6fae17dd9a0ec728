"""Checks of what stands in single rows: each returns its findings, with the rows and what would mend them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from core.advice import Finding, Fix, Mend
from core.config import TrainConfig
from core.dataset import Identity, placeholders
from core.doctor.card import is_spelling
from core.doctor.facts import RowFacts
from core.doctor.signs import is_visible, placeholder_for
from core.text import Text

Known = Sequence[tuple[int, RowFacts]]
_TEMPLATE_TOKENS = 256  # more than a template writes around a conversation, its own system prompt included


def of(rows: Sequence[int]) -> Text:
    """Row numbers as people count them: at most five."""
    shown = [str(i + 1) for i in rows[:5]]
    if len(rows) > 5:
        return Text(
            f"第 {'、'.join(shown)} …… 行（共 {len(rows):,} 行）", f"Rows {', '.join(shown)}, … ({len(rows):,} in all)"
        )
    return Text(f"第 {'、'.join(shown)} 行", f"Row{'s' * (len(rows) > 1)} {', '.join(shown)}")


def delete(rows: Sequence[int]) -> Mend:
    """The mend that removes rows."""
    count = len(rows)
    label = Text(f"删除这 {count:,} 行", f"Delete {count:,} rows" if count > 1 else "Delete the row")
    return Mend("remove", label, tuple(rows))


def unfilled(known: Known) -> list[Finding]:
    """Placeholders that are left because the identity card has no value for them."""
    left: dict[str, list[int]] = defaultdict(list)
    for i, facts in known:
        for kind in facts.unfilled:
            left[kind].append(i)
    labels = {"name": Text("模型名字", "the model's name"), "author": Text("开发者", "its maker")}
    marks = {"name": ("{{NAME}}", "{{name}}", "<NAME>"), "author": ("{{AUTHOR}}", "{{author}}", "<AUTHOR>")}
    return [
        Finding(
            "bad",
            Text(
                f"{of(left[kind]).zh}要用到{label.zh}，但身份卡里没有填。请在身份卡里填上。",
                f"{of(left[kind]).en}: {label.en} is used, but the identity card does not give it. Fill it in there.",
            ),
            tuple(left[kind]),
            kind=f"unfilled_{kind}",
            words=marks[kind],
        )
        for kind, label in labels.items()
        if left[kind]
    ]


def unfilled_system(config: TrainConfig, identity: Identity) -> list[Finding]:
    """Placeholders of the settings' system prompt that are left because the identity card has no value for them."""
    left = list(dict.fromkeys(placeholders(identity.resolve_alone(config.system))))
    if not left:
        return []
    shown = "  ".join(left)
    text = Text(
        f"训练设置里的“系统提示词”用到 {shown}，但身份卡里没有填。请在身份卡里填上，或从系统提示词里去掉。",
        f"The settings' System prompt has {shown}, but the identity card does not give it. Fill it in there, or take it out "
        "of the prompt.",
    )
    return [Finding("bad", text, kind="unfilled_system")]


def missing(known: Known) -> list[Finding]:
    """Rows without a question or without an answer."""
    unanswered = tuple(i for i, facts in known if not is_visible(facts.row.output))
    unasked = tuple(i for i, facts in known if not is_visible(facts.row.question))
    found = ((unanswered, "unanswered", "回答", "answer"), (unasked, "unasked", "问题", "question"))
    return [
        Finding(
            "bad",
            Text(f"{of(rows).zh}没有{zh}。请补上，或删除。", f"{of(rows).en}: no {en}. Write it or delete."),
            rows,
            kind=kind,
            mends=(delete(rows),),
        )
        for rows, kind, zh, en in found
        if rows
    ]


def stray(known: Known, identity: Identity) -> list[Finding]:
    """What looks like a placeholder and would be trained on as it stands."""
    rows = tuple(i for i, facts in known if facts.stray)
    if not rows:
        return []
    written = tuple(dict.fromkeys(word for _, facts in known for word in facts.stray))
    shown = "  ".join(written[:4]) + (" …" if len(written) > 4 else "")
    words = tuple((word, placeholder_for(word)) for word in sorted(written, key=len, reverse=True))
    words = tuple((word, meant) for word, meant in words if meant and _given(identity, meant))
    mendable = tuple(i for i, facts in known if {word for word, _ in words} & set(facts.stray))
    label = Text("改成 {{NAME}} / {{AUTHOR}}", "Make them {{NAME}} / {{AUTHOR}}")
    return [
        Finding(
            "warn",
            Text(
                f"{of(rows).zh}里有没换掉的占位符 {shown}，会照字面学进去。",
                f"{of(rows).en}: {shown} looks like a placeholder and would be learned as it stands.",
            ),
            rows,
            kind="stray",
            mends=(Mend("replace", label, mendable, words),) if mendable else (),
            words=written,
        )
    ]


def control_tokens(known: Known) -> list[Finding]:
    """Control tokens that were typed or pasted into cells; they are trained on as plain text."""
    rows = tuple(i for i, facts in known if facts.controls)
    if not rows:
        return []
    written = tuple(dict.fromkeys(word for _, facts in known for word in facts.controls))
    shown = "  ".join(written[:4]) + (" …" if len(written) > 4 else "")
    words = tuple((word, "") for word in sorted(written, key=len, reverse=True))
    return [
        Finding(
            "warn",
            Text(
                f"{of(rows).zh}里有特殊词元 {shown}。它们只会当作普通文字学，不会结束或开始一轮对话。",
                f"{of(rows).en}: the control tokens {shown} are learned as plain text; they end and begin no turn.",
            ),
            rows,
            kind="control_tokens",
            mends=(Mend("replace", Text("从这些行里去掉", "Take them out"), rows, words),),
            words=written,
        )
    ]


def old_names(known: Known, identity: Identity) -> list[Finding]:
    """Answers in which the model still claims another name or maker. A new name that contains an old one is fine."""
    rows = tuple(i for i, facts in known if facts.claims_old)
    if not rows:
        return []
    label = Text("换成身份卡里的名字", "Put the card's names there")
    can = _given(identity, "{{NAME}}") and _given(identity, "{{AUTHOR}}")
    return [
        Finding(
            "warn",
            Text(
                f"{of(rows).zh}的回答里仍自称别的身份（如 Qwen、通义、阿里、ChatGPT）。请改成新的名字。",
                f"{of(rows).en}: the answer still claims an old identity (Qwen, Alibaba, ChatGPT). Change it.",
            ),
            rows,
            kind="old_names",
            mends=(Mend("rename", label, rows),) if can else (),
            words=("Qwen", "通义千问", "通义", "千问", "Tongyi", "阿里巴巴", "阿里云", "Alibaba Cloud", "Alibaba", "ChatGPT",
                   "OpenAI", "DeepSeek"),
        )
    ]  # fmt: skip


def nameless(known: Known, identity: Identity) -> list[Finding]:
    """Answers to questions about the identity in which neither name nor maker stands."""
    named, made = _given(identity, "{{NAME}}"), _given(identity, "{{AUTHOR}}")
    without_name, without_maker = [], []
    for i, facts in known:
        if facts.row.system or not is_visible(facts.row.output):
            continue
        # "Who are you" is answered by either.
        if (
            named
            and not facts.names_itself
            and (facts.topic == "name" or (facts.topic == "who" and not facts.names_maker))
        ):
            without_name.append(i)
        elif made and facts.topic == "maker" and not facts.names_maker:
            without_maker.append(i)
    found = []
    if without_name:
        text = Text(
            f"{of(without_name).zh}问的是模型的身份，回答里却没有它的名字。",
            f"{of(without_name).en}: asked who it is, the model does not say its name.",
        )
        label = Text("在回答前加上“我是{{NAME}}。”", "Begin with “I am {{NAME}}.”")
        mend = Mend("name", label, tuple(without_name))
        found.append(Finding("warn", text, tuple(without_name), kind="nameless", mends=(mend,)))
    if without_maker:
        text = Text(
            f"{of(without_maker).zh}问的是谁开发的，回答里却没有开发者。",
            f"{of(without_maker).en}: asked who made it, the model does not say its maker.",
        )
        label = Text("在回答前加上“我由{{AUTHOR}}开发。”", "Begin with “I was developed by {{AUTHOR}}.”")
        mend = Mend("author", label, tuple(without_maker))
        found.append(Finding("warn", text, tuple(without_maker), kind="makerless", mends=(mend,)))
    return found


def spellings(known: Known, identity: Identity) -> list[Finding]:
    """The card's words spelled another way; without a card, names that are spelled otherwise than most often."""
    found = {i: facts.misspelt for i, facts in known if facts.misspelt}
    right = " / ".join(identity.words)
    if not identity.words:
        right, found = _usual_name(known)
    if not found:
        return []
    rows = tuple(found)
    written = {word: meant for pairs in found.values() for word, meant in pairs}
    shown = [f"“{word}”" for word in list(written)[:4]]
    words = tuple(sorted(written.items(), key=lambda pair: -len(pair[0])))
    zh, en = ("身份卡上是", "on the card") if identity.words else ("多数行是", "in most rows")
    label = Text("统一成身份卡里的写法", "Spell it as on the card") if identity.words else None
    return [
        Finding(
            "warn",
            Text(
                f"{of(rows).zh}里名字另有写法：{'、'.join(shown)}（{zh} {right}）。",
                f"{of(rows).en}: the name is spelled {', '.join(shown)} here ({en}: {right}).",
            ),
            rows,
            kind="spellings",
            mends=(Mend("replace", label or Text(f"统一成 {right}", f"Spell it {right}"), rows, words),),
            words=tuple(written),
        )
    ]


def _usual_name(known: Known) -> tuple[str, dict[int, tuple[tuple[str, str], ...]]]:
    """(the name that is given most often, {row: ((another spelling of it, the name),)})."""
    counts = Counter(name for _, facts in known for name in facts.given)
    if not counts:
        return "", {}
    usual = counts.most_common(1)[0][0]
    others = {name for name in counts if is_spelling(name, usual)}
    found = {
        i: tuple((name, usual) for name in dict.fromkeys(facts.given) if name in others)
        for i, facts in known
        if others & set(facts.given)
    }
    return usual, found


def tested(known: Known) -> list[Finding]:
    """Questions by which the proof tells whether the identity generalises; it leaves out those that were trained on."""
    rows = tuple(i for i, facts in known if facts.held_out)
    if not rows:
        return []
    where = of(rows)
    return [
        Finding(
            "warn",
            Text(
                f"{where.zh}的问题也是检验题：训练过就不能再用来检验，检验时会跳过。建议换一种问法。",
                f"{where.en}: also a question of the proof, which leaves out what was trained on. Word it otherwise.",
            ),
            rows,
            kind="tested",
            mends=(delete(rows),),
        )
    ]


def lengths(
    known: Known, config: TrainConfig, count: Callable[[int, RowFacts], int] | None, exact: bool
) -> list[Finding]:
    """How many rows and tokens, and the rows over the limit. `count`: tokens of a row; `exact`: of all, for the totals.

    Without `exact` only rows that could be too long by their bytes are counted.
    """
    zh = sum(facts.language == "zh" for _, facts in known)
    en = len(known) - zh
    split = Text(
        f"共 {len(known):,} 行：中文 {zh:,}，英文 {en:,}", f"{len(known):,} rows: {zh:,} Chinese, {en:,} English"
    )
    if count is None:
        return [Finding("ok", Text(f"{split.zh}。", f"{split.en}."), kind="rows")]
    limit, around = config.max_length, _TEMPLATE_TOKENS + len(config.system.encode("utf-8", "surrogatepass"))
    counts = {i: count(i, facts) for i, facts in known if exact or facts.size + around > limit}
    told = _totals(known, split, counts) if exact else Text(f"{split.zh}。", f"{split.en}.")
    found = [Finding("ok", told, kind="rows")]
    if over := sorted(i for i, tokens in counts.items() if tokens > limit):
        found.append(_too_long(over, counts, limit, config.truncation_strategy))
    return found


def _totals(known: Known, split: Text, counts: dict[int, int]) -> Text:
    zh = sum(counts[i] for i, facts in known if facts.language == "zh")
    total, longest = sum(counts.values()), max(counts.values())
    return Text(
        f"{split.zh}；词元 {total:,}（中文 {zh:,}，英文 {total - zh:,}），最长的一行 {longest:,}。",
        f"{split.en}; {total:,} tokens ({zh:,} Chinese, {total - zh:,} English), longest row {longest:,}.",
    )


def _too_long(over: Sequence[int], counts: dict[int, int], limit: int, truncation: str) -> Finding:
    shown_zh = "、".join(f"{i + 1}（{counts[i]:,}）" for i in over[:5]) + ("、…" if len(over) > 5 else "")
    shown_en = ", ".join(f"{i + 1} ({counts[i]:,})" for i in over[:5]) + (", …" if len(over) > 5 else "")
    longest = max(counts[i] for i in over)
    enough = next((size for size in (512, 1024, 2048, 4096, 8192, 16_384, 32_768) if size >= longest), 0)
    raised = (Fix(Text(f"最大长度改为 {enough:,}", f"Maximum length {enough:,}"), (("max_length", enough),)),)
    fixes = raised if enough else ()
    where_zh = f"{len(over):,} 行超过最大长度 {limit:,} 词元：第 {shown_zh}行。"
    where_en = f"Longer than the maximum length of {limit:,} tokens: row {shown_en}."
    if truncation == "delete":
        text = Text(f"{where_zh}这些行不参加训练。", f"{where_en} These rows are left out of training.")
        return Finding("warn", text, tuple(over), fixes, kind="too_long", mends=(delete(over),))
    if truncation == "left":
        cut = sum(counts[i] - limit for i in over)
        text = Text(
            f"{where_zh}训练时从最早的轮次和问题开头共截去 {cut:,} 个词元，回答不受影响。",
            f"{where_en} {cut:,} tokens are cut from their oldest turns and questions; the answers stay whole.",
        )
        return Finding("warn", text, tuple(over), fixes, kind="too_long", mends=(delete(over),))
    text = Text(f"{where_zh}请缩短，或调大“最大长度”。", f"{where_en} Shorten, or raise Maximum length.")
    return Finding("bad", text, tuple(over), fixes, kind="too_long", mends=(delete(over),))


def _given(identity: Identity, placeholder: str) -> bool:
    return bool(identity.name("zh") if placeholder == "{{NAME}}" else identity.author("zh"))
