"""What to know of a dataset before training on it: findings with the rows they are about. Knows no model, no page.

Checks the rows as training will see them (placeholders replaced), but names them by their place in the table. The single
checks are in core.doctor, what settings do to so many rows in core.advice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from core import advice
from core.advice import Finding as Finding
from core.config import TrainConfig
from core.dataset import Dataset, Row
from core.doctor import content, whole
from core.doctor.facts import Facts, RowFacts
from core.text import Text

# Tables with more rows are not tokenised for the totals: only the rows that may be too long are.
MOST_COUNTED = 5_000

Count = Callable[[Row], int]


def check(
    dataset: Dataset,
    config: TrainConfig,
    count_tokens: Count | None,
    mixed: int = 0,
    parameters: int = 0,
    facts: Facts | None = None,
) -> list[Finding]:
    """Every finding, the bad ones first. Without `count_tokens` (tokens of a resolved row) lengths are not checked.

    `mixed`: rows that will be mixed in from elsewhere; they count for the steps and the table's share. `parameters`: of
    the base model, 0 where that is not known. `facts`: what is remembered of rows between two checks.
    """
    facts = facts or Facts()
    known = facts.of(dataset)
    if not known:
        return [_nothing()]
    identity = dataset.identity
    findings = [
        *_refusing(known, dataset, config, count_tokens),
        *advice.advise(config, len(known) * config.dataset_repeat + mixed, parameters),
        *whole.share(config, len(known), mixed),
        *content.stray(known, identity),
        *content.old_names(known, identity),
        *content.nameless(known, identity),
        *content.spellings(known, identity),
        *whole.conflicts(known),
        *whole.repeats(known),
        *whole.nearly_same(known, facts),
        *whole.languages(known, identity),
        *whole.paraphrases(known, identity),
        *whole.refusals(known, config, identity),
        *content.control_tokens(known),
        *content.tested(known),
    ]
    if len(dataset.rows) > len(known):
        findings.append(_blank(dataset))
    order = ("bad", "warn", "ok")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def refusal(
    dataset: Dataset, config: TrainConfig, count_tokens: Count | None, facts: Facts | None = None
) -> Finding | None:
    """The first finding that forbids training, or None, without looking for anything else."""
    known = (facts or Facts()).of(dataset)
    return blocking(_refusing(known, dataset, config, count_tokens)) if known else _nothing()


def blocking(findings: Iterable[Finding]) -> Finding | None:
    """The first finding that forbids training, or None."""
    return next((finding for finding in findings if finding.level == "bad"), None)


def _refusing(known: content.Known, dataset: Dataset, config: TrainConfig, count_tokens: Count | None) -> list[Finding]:
    """The findings of which some forbid training."""
    exact = len(known) <= MOST_COUNTED
    count = None if count_tokens is None else _counter(count_tokens)
    return [
        *content.unfilled(known),
        *content.unfilled_system(config, dataset.identity),
        *content.missing(known),
        *content.lengths(known, config, count, exact),
    ]


def _counter(count_tokens: Count) -> Callable[[int, RowFacts], int]:
    return lambda _, facts: count_tokens(facts.row)


def _nothing() -> Finding:
    text = Text(
        "没有可训练的行。请至少写一行问题和回答。",
        "There are no rows to train on. Write at least one question and answer.",
    )
    return Finding("bad", text, kind="empty")


def _blank(dataset: Dataset) -> Finding:
    rows = tuple(i for i, row in enumerate(dataset.rows) if row.is_blank)
    text = Text(f"{len(rows):,} 个空行不参加训练。", f"Empty rows left out of training: {len(rows):,}.")
    return Finding("ok", text, rows, kind="blank", mends=(content.delete(rows),))
