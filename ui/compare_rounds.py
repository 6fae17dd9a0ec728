"""A round of Compare on its way through the page: what was asked, how tokens are chosen, and the tokens that came back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from core import comparison, token_view
from core.comparison import LETTERS, Answer, Round, Setup, Words
from core.generate import Reply, Sampling
from ui.compare_columns import Side, Wanted
from ui.page import Page
from ui.pieces import note, safe
from ui.talk import Turn

_LONGEST = 512


@dataclass(frozen=True)
class Asking:
    """A question on its way: the columns, what each was told so far, and which stands where."""

    question: str
    setups: list[Setup]
    histories: list[list[Turn]]
    sampling: Sampling
    words: list[Words]
    order: tuple[int, ...]
    blind: bool
    begun: float
    heads: Sequence[Wanted] = ()  # as the columns were when it was asked

    def round(self, replies: Sequence[Reply], model: str) -> Round:
        """What it came to."""
        answers = tuple(
            Answer.of(reply, comparison.judge(self.question, reply.text, words))
            for reply, words in zip(replies, self.words, strict=True)
        )
        earlier = max(sum(turn["role"] == "user" for turn in history) - 1 for history in self.histories)
        return Round(
            self.question, tuple(self.setups), answers, self.sampling, model, self.begun, earlier=earlier,
            order=self.order, blind=self.blind,
        )  # fmt: skip


def sampling_fields(page: Page) -> list[gr.components.Component]:
    """The settings of how tokens are chosen, in the order in which `sampling` reads them."""
    t, key = page.t, "sampling-{}".format
    with gr.Row(elem_classes="oc-sampling"):
        fields: list[gr.components.Component] = [
            gr.Slider(0, 1.5, 0, step=0.05, label=t("chat.temperature"), elem_id=key("temperature")),
            gr.Slider(0.05, 1, 1, step=0.05, label="top-p", elem_id=key("top-p")),
            gr.Slider(0, 200, 0, step=1, label="top-k", elem_id=key("top-k")),
            gr.Slider(0.8, 2, 1, step=0.05, label=t("sampling.penalty"), elem_id=key("penalty")),
            gr.Slider(16, 4096, _LONGEST, step=16, label=t("chat.length"), elem_id=key("length")),
            gr.Number(0, precision=0, label=t("sampling.seed"), elem_id=key("seed")),
        ]
    gr.HTML(note(t("sampling.note")), apply_default_css=False)
    return fields


def sampling(values: Sequence[object]) -> Sampling:
    """What the fields say; one that was emptied is as it was at first."""
    temperature, top_p, top_k, penalty, length, seed = values
    return Sampling(
        temperature=float(temperature or 0), top_p=float(top_p or 1), top_k=int(top_k or 0),
        repetition_penalty=float(penalty or 1), max_new_tokens=int(length or _LONGEST), seed=int(seed or 0),
    )  # fmt: skip


def tokens(page: Page, sides: Sequence[Side], one: Round | None, count: int) -> dict[object, object]:
    """The probabilities of a round: every answer beside the first one, the first beside the second. None: none are shown."""
    shown: dict[object, object] = {side.tokens: "" for side in sides}
    if one is None or len(one.columns) != count:
        return shown
    lists = [one.answers[column].token_list for column in one.places]
    for i, (side, theirs) in enumerate(zip(sides, lists, strict=False)):
        other = 0 if i else 1
        there = lists[other] if other < len(lists) else ()
        drawn = token_view.draw(theirs, there, page.t("tokens.label", column=side.letter), LETTERS[other])
        shown[side.tokens] = drawn if theirs else note(page.t("tokens.none"))
    return shown


def legend(page: Page) -> str:
    """What the colours of tokens mean."""
    keys = {"more": "tokens.more", "less": "tokens.less", "rare": "tokens.rare"}
    words = "".join(
        f'<span><i class="oc-token {kind}-3">■</i> {safe(page.t(key))}</span>' for kind, key in keys.items()
    )
    return f'<div class="oc-legend" role="note" aria-label="{safe(page.t("tokens.legend"))}">{words}</div>'
