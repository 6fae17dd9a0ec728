"""One column of Compare: its head, its settings, its conversation; and what all columns together are asked with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gradio as gr

from core import comparison
from core.comparison import LETTERS, MOST_COLUMNS, Answer, Setup, Speaker, Words
from core.dataset import Identity
from core.generate import STRONGEST, Reply
from ui import talk
from ui.chatbot import Chatbot
from ui.fix import FixBar, is_answer
from ui.page import Page
from ui.pieces import icon, safe, tag, with_labels
from ui.talk import BASE, Turn
from ui.token_box import TokenBox

PROMPTED = ":prompted"  # the picker's value for the base under a system prompt of its own; no adapter's id has a colon
_TOOLS = """
const side = () => element.closest('.oc-side');
const close = () => { if (side()?.dataset.open === 'yes') onecard.unfold(side(), false); };
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button?.dataset.act === 'remove') trigger('remove');
  else if (button) onecard.unfold(side(), side().dataset.open !== 'yes');
});
// The letter before the picker knows how strongly the column's adapter acts.
const letter = side().querySelector('[id^=tag-]'), settings = element.querySelector('[data-act=settings]');
const say = () => {
  const strength = letter.querySelector('.oc-letter')?.dataset.strength;
  const words = strength ? text.strength.replace('{value}', strength) : text.settings;
  settings.querySelector('span').textContent = words;
  settings.setAttribute('aria-label', `${words} · ${settings.title}`);
};
new MutationObserver(say).observe(letter, {childList: true, subtree: true, attributes: true});
say();
document.addEventListener('pointerdown', event => { if (!side()?.contains(event.target)) close(); });
document.addEventListener('keydown', event => { if (event.key === 'Escape' && !event.isComposing) close(); });
"""
_USE = "element.addEventListener('click', event => { if (event.target.closest('button')) trigger('use'); });"


class ColumnTools(gr.HTML):
    """A column's two buttons: its settings, which unfold in the browser, with the strength; and removal. Event: remove."""

    def __init__(self, page: Page, letter: str, **rest: object) -> None:
        remove = safe(page.t("compare.remove", column=letter))
        settings = safe(page.t("compare.settings", column=letter))
        labels = {"strength": page.t("strength.now"), "settings": page.t("strength.none")}
        super().__init__(
            value='<div class="oc-acts">'
            f'<button type="button" class="oc-strength" data-act="settings" aria-expanded="false" title="{settings}">'
            f"{icon('tune')}<span></span></button>"
            f'<button type="button" data-act="remove" aria-label="{remove}" title="{remove}">{icon("close")}</button></div>',
            js_on_load=with_labels(labels, _TOOLS), apply_default_css=False, **rest,
        )  # fmt: skip

    def api_info(self) -> dict[str, object]:
        """The value is html."""
        return {"type": "string"}


class ColumnNote(gr.HTML):
    """The line above a conversation. Event: use, when the newer adapter that it offers is wanted."""

    def __init__(self, **rest: object) -> None:
        super().__init__(value="", js_on_load=_USE, apply_default_css=False, **rest)

    def api_info(self) -> dict[str, object]:
        """The value is html."""
        return {"type": "string"}


class Side:
    """The components of the column at place `index`. In a blind round they show an answer without its name."""

    def __init__(self, page: Page, index: int, shown: bool) -> None:
        self.page, self.index, self.letter = page, index, LETTERS[index]
        key, t = self.letter.lower(), page.t
        with gr.Column(min_width=300, visible=shown, elem_id=f"side-{key}", elem_classes="oc-side") as self.box:
            with gr.Row(elem_classes="oc-column-head"):
                self.tag = gr.HTML(
                    self.draw_tag(BASE, 1.0, False), elem_id=f"tag-{key}", apply_default_css=False, min_width=0
                )
                # As the tab is opened with, mostly: a value that stays tells of no change.
                self.pick = gr.Dropdown(
                    choices(page),
                    value=talk.newest(page) if index == 1 else BASE,
                    label=t("compare.column", column=self.letter),
                    show_label=False,
                    elem_id=f"pick-{key}",
                    min_width=120,
                )
                self.name = gr.HTML(
                    "",
                    elem_id=f"name-{key}",
                    elem_classes="oc-blind-name",
                    visible=False,
                    apply_default_css=False,
                    min_width=0,
                )
                self.verdict = gr.HTML(
                    elem_id=f"verdict-{key}", elem_classes="oc-verdict", apply_default_css=False, min_width=0
                )
                self.tools = ColumnTools(page, self.letter, elem_id=f"tools-{key}", min_width=0)
            self._build_settings(key)
            self.note = ColumnNote(elem_id=f"note-{key}", elem_classes="oc-who-line", min_width=0)
            self.chat = Chatbot(
                elem_id=f"chat-{key}", elem_classes="oc-chat", label=t("compare.column", column=self.letter),
                height="calc(100dvh - 392px)", min_height=260, placeholder=t("compare.empty"), editable="all",
                **talk.CHATBOT,
            )  # fmt: skip
            self.tokens = TokenBox(page, elem_id=f"tokens-{key}")
            self.meter = gr.HTML(talk.idle_meter(), elem_id=f"meter-{key}", apply_default_css=False)
            self.vote = gr.Button(
                t("blind.vote", column=self.letter),
                size="sm",
                visible=False,
                elem_id=f"vote-{key}",
                elem_classes="oc-vote",
            )

    def _build_settings(self, key: str) -> None:
        t = self.page.t
        with gr.Column(elem_id=f"settings-{key}", elem_classes="oc-side-settings") as self.settings:
            self.strength = gr.Slider(
                0, STRONGEST, 1, step=0.05, label=t("compare.strength"), visible=False, elem_id=f"strength-{key}"
            )
            self.own = gr.Checkbox(False, label=t("compare.own"), elem_id=f"own-{key}", container=False)
            self.prompt = gr.Textbox(
                show_label=False, label=t("compare.prompt"), placeholder=t("compare.prompt"), lines=2, max_lines=6,
                visible=False, elem_id=f"prompt-{key}", container=False,
            )  # fmt: skip

    @property
    def settled(self) -> list[gr.components.Component]:
        """What says who answers in this column."""
        return [self.pick, self.strength, self.own, self.prompt]

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The column's settings and conversation."""
        return [*self.settled, self.chat]

    @property
    def answers(self) -> list[gr.components.Component]:
        """What an answer changes."""
        return [self.chat, self.tokens, self.meter, self.verdict, self.vote, self.tag, self.name]

    def draw_tag(self, pick: str, strength: float, own: bool) -> str:
        """The letter, coloured by whether an adapter answers, with what is not as usual; ColumnTools reads the strength."""
        plain, words = pick in (BASE, PROMPTED), [self.letter]
        if not plain and strength != 1:
            words.append(f"×{strength:g}")
        if own and pick != PROMPTED:
            words.append(self.page.t("compare.tag.prompt"))
        acts = "" if plain else f' data-strength="{strength:.2f}"'
        return f'<span class="oc-letter"{acts}>{tag(" ".join(words), "base" if plain else "tuned")}</span>'

    def draw_blind(self) -> str:
        """The letter alone."""
        return f'<span class="oc-letter">{tag(self.letter)}</span>'

    def show(self, history: list[Turn], reply: Reply | None, verdict: str = "") -> dict[object, object]:
        """A conversation with the answer so far."""
        turns = history if reply is None else talk.answered(history, reply)
        return {self.chat: turns, self.meter: talk.meter(self.page, reply), self.verdict: verdict, self.tokens: ""}

    def clear(self) -> dict[object, object]:
        """Nothing was said."""
        return {
            self.chat: [], self.meter: talk.idle_meter(), self.verdict: "", self.tokens: "",
            self.vote: gr.update(visible=False), self.name: "",
        }  # fmt: skip

    def on_settings(self, pick: str, strength: float, own: bool, _prompt: str) -> dict[object, object]:
        """Strength or own prompt changed: the letter says so."""
        return {
            self.tag: self.draw_tag(str(pick or BASE), float(strength or 0), own),
            self.prompt: gr.update(visible=own),
        }

    def settle(
        self, pick: str, strength: float, own: bool, prompt: str, choices: object = None
    ) -> dict[object, object]:
        """Set who answers here."""
        offered = {} if choices is None else {"choices": choices}
        return {
            self.pick: gr.update(value=pick, **offered),
            self.strength: gr.update(value=strength, visible=pick not in (BASE, PROMPTED)),
            self.own: own,
            self.prompt: gr.update(value=prompt, visible=own),
            self.tag: self.draw_tag(pick, strength, own),
        }


@dataclass(frozen=True)
class Wanted:
    """What a person set one column to."""

    pick: str
    strength: float
    own: bool
    prompt: str
    history: list[Turn]


def read(page: Page, count: int, values: Sequence[object]) -> list[Wanted]:
    """The first `count` columns of what the page sent, five values each. One not chosen yet is what it will be chosen as."""
    found = []
    for i in range(max(1, min(int(count), MOST_COLUMNS))):
        pick, strength, own, prompt, history = values[5 * i : 5 * i + 5]
        given = 1.0 if strength is None else float(strength)  # an emptied number
        answerer = pick if isinstance(pick, str) else (talk.newest(page) if i == 1 else BASE)
        found.append(Wanted(answerer, given, bool(own), str(prompt or ""), talk.plain(history)))
    return found


def label(page: Page, pick: str, strength: float, own: bool, names: dict[str, str]) -> str:
    """Who answers in a column, in words; `names` has the pickers' ones."""
    plain = pick in (BASE, PROMPTED)
    words = names.get(BASE if plain else pick, pick)
    if not plain and strength != 1:
        words += f" ×{strength:g}"
    return f"{words} + {page.t('talk.system')}" if own else words


def speaker(page: Page, wanted: Wanted, names: dict[str, str]) -> Speaker:
    """Who answers in the column as it is set."""
    plain, words = wanted.pick in (BASE, PROMPTED), label(page, wanted.pick, wanted.strength, wanted.own, names)
    return Speaker(None if plain else wanted.pick, 1.0 if plain else wanted.strength, wanted.own, words)


def setup(page: Page, wanted: Wanted, system: str, names: dict[str, str]) -> Setup:
    """The column as core takes it; `names` has the pickers' words."""
    plain = wanted.pick in (BASE, PROMPTED)
    prompt = (wanted.prompt if wanted.own else system).strip()
    said = label(page, wanted.pick, wanted.strength, wanted.own, names)
    return Setup(None if plain else wanted.pick, 1.0 if plain else wanted.strength, prompt, said)


def choices(page: Page) -> list[tuple[str, str]]:
    """The pickers' entries: the base, the base told who to be, every adapter."""
    base, *made = talk.choices(page)
    return [base, (page.t("compare.prompted", model=page.workspace.status().model), PROMPTED), *made]


def control_prompt(page: Page, picks: Sequence[str]) -> str:
    """What the base is told so that it says it is what the first picked adapter, else the newest one, was trained to be."""
    known = {choice.id: choice for choice in page.workspace.adapters()}
    for pick in [*picks, talk.newest(page)]:
        choice = known.get(pick)
        if choice is None:
            continue
        if choice.run is not None:
            text = comparison.control_prompt(
                Identity.parse(choice.run.config.model_name, choice.run.config.model_author)
            )
        else:
            text = comparison.control_prompt(Identity(*choice.words[0][:4])) if len(choice.words[0]) >= 4 else ""
        if text:
            return text
    return ""


def editor(bar: FixBar, index: int) -> Callable[..., object]:
    """What an edit in the column at place `index` does, for its chat, settings, the shared prompt and the blind switch."""

    def on_edit(
        event: gr.EditData,
        history: list[Turn],
        pick: str,
        _strength: float,
        own: bool,
        prompt: str,
        system: str,
        blind: bool,
    ) -> object:
        """Offer to make a changed answer a row. A question stays as it was, and so does an answer without a name."""
        if blind or not is_answer(history, event.index):
            return bar.restore(index, event, history)
        told = "" if pick == PROMPTED else prompt if own else system
        return bar.begin(index, event, history, "" if pick in (BASE, PROMPTED) else str(pick or ""), str(told or ""))

    return on_edit


def words_of(page: Page, setups: Sequence[Setup]) -> list[Words]:
    """By whose identity each column is judged: its own adapter's, a base by that of B, else of the first adapter."""
    ordered = [*setups[1:2], *setups[:1], *setups[2:]]
    judge = next((column.adapter for column in ordered if column.adapter), None)
    known: dict[str | None, Words] = {None: ((), ())}
    for adapter in {judge, *(column.adapter for column in setups)} - {None}:
        known[adapter] = page.workspace.identity_words(adapter)
    return [known[column.adapter or judge] for column in setups]


def draw_verdict(page: Page, verdict: str) -> str:
    """A tag for what an answer says of who the model is; "" if it says nothing."""
    tags = {"hit": ("✓ " + page.t("verdict.hit"), "ok"), "old": (page.t("verdict.old"), "warn")}
    return tag(*tags[verdict]) if verdict in tags else ""


def draw_meter(page: Page, answer: Answer) -> str:
    """Time and length of an answer that is there already."""
    reply = Reply(
        answer.text, answer.tokens, answer.prompt_tokens, answer.first_token_seconds, answer.tokens_per_second, True,
        answer.finish,
    )  # fmt: skip
    return talk.meter(page, reply)
