"""Teacher-forced readings: against transformers one row at a time, whatever the packing, the path and the memory."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from core import score as readings
from core.config import TrainConfig, build
from core.encode import IGNORE, Example
from core.engine import Engine, Resident
from core.errors import ModelError, WontFitError
from core.score import base_states, choices, losses, score

WORDS = ["hello", "who are you, and who made you?", "short", "a longer answer " * 9, "x"]


def there(engine: Engine) -> Resident:
    """What is loaded."""
    assert engine.resident is not None
    return engine.resident


def examples(engine: Engine) -> list[Example]:
    """Conversations of several lengths; the answer is in the loss."""
    from core.dataset import Message

    return [there(engine).encoder.example((Message("user", word), Message("assistant", word[::-1]))) for word in WORDS]


def with_adapter(engine: Engine, config: TrainConfig, zero: bool = False, **settings: object) -> str:
    """Attach a random adapter "a", or one that changes nothing."""
    engine.create_adapter("a", build(settings, config))
    if not zero:
        for index, parameter in enumerate(there(engine).backend.adapter_parameters(engine.handle("a"))):
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.1
            parameter.data.copy_(values)
    return "a"


def by_hand(engine: Engine, example: Example, adapter: str | None) -> torch.Tensor:
    """log p (labelled tokens, V) in float64, by transformers; with the adapter's change added to each weight."""
    model = AutoModelForCausalLM.from_pretrained(there(engine).info.folder, dtype=torch.float64)
    if adapter is not None:
        backend = there(engine).backend
        tensors, config = backend.adapter_state(engine.handle(adapter))
        names = {key.partition(".lora_")[0].removeprefix("base_model.model.") for key in tensors}
        for name in names:
            a, b = (tensors[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
            model.get_submodule(name).weight.data += config.lora_alpha / config.r * (b @ a)
    with torch.no_grad():
        logits = model(torch.tensor([example.input_ids])).logits[0, :-1]
    found: torch.Tensor = logits.log_softmax(-1)[[label != IGNORE for label in example.labels[1:]]]
    return found


def labels_of(example: Example) -> torch.Tensor:
    """The labels (K,)."""
    return torch.tensor([label for label in example.labels[1:] if label != IGNORE])


@pytest.mark.parametrize("engine", ["tiny_engine", "plain_engine"])
def test_readings_are_what_transformers_finds_row_by_row(
    engine: str, tiny_config: TrainConfig, request: pytest.FixtureRequest
) -> None:
    made: Engine = request.getfixturevalue(engine)
    name = with_adapter(made, tiny_config)
    rows = examples(made)
    means = losses(made, name, rows)
    for example, found, mean in zip(rows, score(made, name, rows), means, strict=True):
        base, tuned = by_hand(made, example, None), by_hand(made, example, name)
        labels = labels_of(example)[:, None]
        drift = (base.exp() * (base - tuned)).sum(-1)
        assert found.base == pytest.approx(base.gather(1, labels)[:, 0].tolist(), abs=1e-4)
        assert found.tuned == pytest.approx(tuned.gather(1, labels)[:, 0].tolist(), abs=1e-4)
        assert found.drift == pytest.approx(drift.tolist(), abs=1e-5) and max(found.drift) > 1e-3
        assert found.same == tuple((base.argmax(-1) == tuned.argmax(-1)).tolist())
        assert mean == pytest.approx(-sum(found.tuned) / len(found.tuned), rel=1e-5)


@pytest.mark.parametrize("engine", ["tiny_engine", "plain_engine"])
def test_an_adapter_that_changes_nothing_reads_no_drift_at_all(
    engine: str, tiny_config: TrainConfig, request: pytest.FixtureRequest
) -> None:
    made: Engine = request.getfixturevalue(engine)
    name = with_adapter(made, tiny_config, zero=True)
    for found in [*score(made, name, examples(made)), *score(made, None, examples(made))]:
        assert found.base == found.tuned and set(found.drift) == {0.0} and all(found.same)


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": "true"}, {"init_weights": "pissa"}, {"target_modules": "q_proj lm_head"}],
    ids=["dora", "pissa", "head"],
)
def test_what_only_the_plain_way_can_read_is_compared_with_the_base_read_that_way(
    tiny_llama: Path, tiny_config: TrainConfig, settings: dict[str, object]
) -> None:
    engine = Engine()
    engine.load(str(tiny_llama))
    name = with_adapter(engine, tiny_config, zero=True, **settings)
    start = score(engine, name, examples(engine))
    # PiSSA's start is the base but for rounding, since its two parts cancel.
    assert all(drift < 1e-6 for found in start for drift in found.drift)
    if "pissa" not in settings.values():
        assert all(found.base == found.tuned for found in start)
    for parameter in there(engine).backend.adapter_parameters(engine.handle(name)):
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    assert all(max(found.drift) > 1e-6 for found in score(engine, name, examples(engine)))


def test_passes_and_portions_change_nothing(
    tiny_engine: Engine, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, rows = with_adapter(tiny_engine, tiny_config), examples(tiny_engine)
    once = score(tiny_engine, name, rows)
    monkeypatch.setattr(readings, "_PASS_TOKENS", 60)
    monkeypatch.setattr(readings, "_LOGIT_BYTES", {"cpu": 5000})
    for before, after in zip(once, score(tiny_engine, name, rows), strict=True):
        assert after.tuned == pytest.approx(before.tuned, abs=1e-5)
        assert after.drift == pytest.approx(before.drift, abs=1e-6)


def test_choices_are_the_probabilities_of_the_next_token(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    name, prompts = with_adapter(tiny_engine, tiny_config), [[5, 6, 7], [9] * 40, [1]]
    options = [[3, 4], [10, 11, 12], [0, 255]]
    for adapter in (None, name):
        for prompt, own, found in zip(prompts, options, choices(tiny_engine, adapter, prompts, options), strict=True):
            asked = Example((*prompt, 0), (*(IGNORE,) * len(prompt), 0))
            right = by_hand(tiny_engine, asked, adapter)[0]
            assert found == pytest.approx(right[own].tolist(), abs=1e-4)


def test_the_bases_states_are_the_teacher_of_each_example(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    rows = examples(tiny_engine)
    states = base_states(tiny_engine, rows)
    for example, state in zip(rows, states, strict=True):
        right = by_hand(tiny_engine, example, None)
        assert state.shape[0] == right.shape[0] and state.device.type == "cpu"
        found = there(tiny_engine).backend.logits(state).log_softmax(-1)
        assert torch.allclose(found.double(), right, atol=1e-4)
    name = with_adapter(tiny_engine, tiny_config)
    taught = [replace(row, teacher=state) for row, state in zip(rows, states, strict=True)]
    assert score(tiny_engine, name, taught) == score(tiny_engine, name, rows)


def test_a_set_stop_ends_it_between_two_passes(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "_PASS_TOKENS", 60)
    stop, rows = threading.Event(), examples(tiny_engine)
    read = there(tiny_engine).backend.states

    def states(*given: object, **named: object) -> torch.Tensor:
        stop.set()
        return read(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(there(tiny_engine).backend, "states", states)
    assert 0 < len(score(tiny_engine, None, rows, stop)) < len(rows)
    assert losses(tiny_engine, None, rows, stop) == [] == choices(tiny_engine, None, [[1]], [[2]], stop)
    assert not tiny_engine.busy


def test_a_pass_that_does_not_fit_is_halved_and_one_row_that_does_not_is_an_error(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, backend, most = examples(tiny_engine), there(tiny_engine).backend, [150]
    right, read = score(tiny_engine, None, rows), backend.states

    def states(batch: object, *given: object, **named: object) -> torch.Tensor:
        if batch.tokens > most[0]:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(batch, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "states", states)
    with pytest.raises(WontFitError):
        most[0] = 20
        score(tiny_engine, None, rows)
    most[0] = max(len(row) for row in rows)
    assert [len(found.base) for found in score(tiny_engine, None, rows)] == [len(found.base) for found in right]
    assert not tiny_engine.busy


def test_reading_in_the_middle_of_training_leaves_the_gradient_as_it_is(
    tiny_engine: Engine, tiny_config: TrainConfig
) -> None:
    from core.batch import pack
    from core.fused.sizes import Way

    name, rows = with_adapter(tiny_engine, tiny_config), examples(tiny_engine)
    backend, handle = there(tiny_engine).backend, tiny_engine.handle("a")

    def gradient() -> list[torch.Tensor]:
        for parameter in backend.adapter_parameters(handle):
            parameter.grad = None
        with tiny_engine.turn():
            backend.loss_and_grads(pack(rows, "cpu"), handle, 10, Way())
        return [p.grad.clone() for p in backend.adapter_parameters(handle) if p.grad is not None]

    before = gradient()
    first = score(tiny_engine, name, rows)
    assert all(torch.equal(a, b) for a, b in zip(before, gradient(), strict=True))
    for parameter in backend.adapter_parameters(handle):
        parameter.data *= 0.5  # as a step does
    assert score(tiny_engine, name, rows) != first
    assert all(math.isfinite(value) for found in first for value in found.tuned)


def test_an_adapter_that_is_not_there_is_an_error_that_says_so(tiny_engine: Engine) -> None:
    with pytest.raises(ModelError, match="nobody"):
        score(tiny_engine, "nobody", examples(tiny_engine))
    assert score(tiny_engine, None, []) == []
