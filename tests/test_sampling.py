"""Choosing tokens for a whole batch: every row by its own settings and numbers, whatever the rows beside it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from core.generate import Sampling
from core.sampling import Choice, Chooser, Draws

CPU = torch.device("cpu")
VOCABULARY = 301
SETTINGS = [
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=5),
    Sampling(temperature=1.3, top_p=0.8),
    Sampling(temperature=1.0, top_p=0.9, top_k=40, repetition_penalty=1.3),
    Sampling(repetition_penalty=1.7),
    Sampling(temperature=2.0, top_k=200, logprobs=3),
    Sampling(logprobs=0),
    Sampling(temperature=0.5, top_k=10_000, top_p=0.01),
]


def chooser(settings: list[Sampling], texts: list[list[int]] | None = None) -> Chooser:
    texts = texts or [[1, 2, 3]] * len(settings)
    return Chooser.of(settings, [Draws(s.seed) for s in settings], texts, VOCABULARY, CPU)


def chosen(choice: Choice) -> list[int]:
    return [token for token, _ in choice.unpack(choice.packed.tolist())]


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    """Rounded to bfloat16 as a model's are: many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, VOCABULARY, generator=generator) * 3).bfloat16().float()


def test_a_row_chooses_the_same_alone_and_in_any_company() -> None:
    settings = [replace(setting, seed=index) for index, setting in enumerate(SETTINGS * 3)]  # more than drawn at once
    steps = [logits(len(settings), seed) for seed in range(12)]
    together, alone = chooser(settings), [chooser([setting]) for setting in settings]
    for step in steps:
        found = chosen(together.choose(step))
        assert found == [chosen(one.choose(step[row : row + 1]))[0] for row, one in enumerate(alone)]


def test_rows_that_come_and_go_change_nothing_for_the_others() -> None:
    steps = [logits(len(SETTINGS), seed) for seed in range(9)]
    alone = [chooser([setting]) for setting in SETTINGS]
    expected = [[chosen(one.choose(step[row : row + 1]))[0] for row, one in enumerate(alone)] for step in steps]
    early, late = [0, 1, 2, 4, 5], [3, 6, 7, 8]
    batch = chooser([SETTINGS[row] for row in early])
    for at in range(3):
        assert chosen(batch.choose(steps[at][early])) == [expected[at][row] for row in early]
    new = chooser([SETTINGS[row] for row in late])
    for at in range(3):  # they begin with their own first three
        new.choose(steps[at][late])
    batch, rows = batch.joined(new), early + late
    for at in range(3, 9):
        assert chosen(batch.choose(steps[at][rows])) == [expected[at][row] for row in rows]
        kept = list(range(1, len(rows)))
        batch, rows = batch.kept(kept), [rows[index] for index in kept]


def test_nothing_is_drawn_that_transformers_would_leave_out() -> None:
    text = [7, 7, 9, 20]
    for seed in range(3):
        row = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3  # no two are equal
        for setting in [s for s in SETTINGS if s.temperature]:
            steps = LogitsProcessorList(
                [
                    RepetitionPenaltyLogitsProcessor(setting.repetition_penalty),
                    TemperatureLogitsWarper(setting.temperature),
                    *([TopKLogitsWarper(setting.top_k)] if setting.top_k else []),
                    *([TopPLogitsWarper(setting.top_p)] if setting.top_p < 1 else []),
                ]
            )
            mass = steps(torch.tensor([text]), row.clone()).softmax(-1)[0].double()
            batch = chooser([replace(setting, seed=index) for index in range(400)], [text] * 400)
            drawn = Counter(chosen(batch.choose(row.expand(400, -1))))
            assert all(mass[token] > 0 for token in drawn)
            likeliest = int(mass.argmax())
            deviation = (400 * mass[likeliest] * (1 - mass[likeliest])) ** 0.5
            assert abs(drawn[likeliest] - 400 * mass[likeliest]) < 4 * deviation + 1e-6


def test_the_penalty_covers_prompt_and_answer_as_transformers_has_it() -> None:
    text = [5, 6, 7]
    batch, processor = chooser([Sampling(repetition_penalty=1.7)], [text]), RepetitionPenaltyLogitsProcessor(1.7)
    for seed in range(20):
        row = logits(1, seed)
        expected = int(processor(torch.tensor([text]), row.clone()).argmax())
        before = row.clone()
        assert chosen(batch.choose(row)) == [expected] and torch.equal(row, before)
        text.append(expected)


def test_probabilities_of_the_models_own_distribution_come_with_the_token() -> None:
    settings = [Sampling(), Sampling(temperature=3.0, repetition_penalty=2.0, logprobs=2), Sampling(logprobs=4)]
    rows = logits(3)
    choice = chooser(settings).choose(rows)
    (_, none), (drawn, two), (best, four) = choice.unpack(choice.packed.tolist())
    log = rows.log_softmax(-1)
    assert none is None and two is not None and four is not None
    assert two.logprob == pytest.approx(float(log[1, drawn])) and four.logprob == pytest.approx(float(log[2].max()))
    assert [len(two.top), len(four.top)] == [2, 4] and best == four.top[0][0]
    assert [number for _, number in four.top] == pytest.approx(log[2].topk(4).values.tolist())
    assert all(number == pytest.approx(float(log[1, token])) for token, number in two.top)


def test_a_draw_at_the_very_end_is_still_a_token_that_may_be() -> None:
    class Ends(Draws):
        def next(self) -> float:
            return 1 - 2**-53

    setting = Sampling(temperature=1.0, top_k=3)
    rows = torch.zeros(1, VOCABULARY)
    rows[0, [3, 4, 5]] = 9.0
    assert chosen(Chooser([setting], [Ends(0)], CPU, None).choose(rows)) == [5]


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    chooser(SETTINGS).choose(logits(len(SETTINGS)))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_smallest_temperatures_draw_the_likeliest_and_what_is_no_number_draws_nothing() -> None:
    given = logits(6)
    given[4, 7], given[5, 3] = float("nan"), float("inf")
    settings = [
        Sampling(temperature=t, top_p=p)
        for t, p in ((1e-38, 1), (1e-46, 0.9), (5e-324, 1), (1e-3, 1), (1, 1), (1, 0.5))
    ]
    choice = chooser(settings).choose(given)
    assert chosen(choice) == [*given[:4].argmax(-1).tolist(), -1, -1]
    # What is read into the model next must be a word of it all the same.
    assert bool(((choice.tokens >= 0) & (choice.tokens < given.shape[-1])).all())
