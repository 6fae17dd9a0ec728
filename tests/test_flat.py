"""An adapter as two flat buffers: layout, autograd into the views, PEFT's save and load through them."""

from __future__ import annotations

from pathlib import Path

import torch

from core.adapters import read
from core.batch import pack
from core.config import TrainConfig, build
from core.dataset import Row
from core.engine import Engine
from core.flat import FlatAdapter
from core.fused.sizes import Way
from core.fused.weights import Slot, _joined_gradients


def flat_of(engine: Engine, name: str) -> FlatAdapter:
    assert engine.resident is not None
    backend = engine.resident.backend
    return FlatAdapter.of(backend.model, backend.adapter_parameters(engine.handle(name)))


def learn(engine: Engine, name: str, rows: int = 2) -> None:
    """One backward pass of adapter `name`."""
    assert engine.resident is not None
    resident = engine.resident
    examples = [resident.encoder.example(Row(f"q{i}", "", f"a{i}").messages("s")) for i in range(rows)]
    total = sum(example.answer_tokens for example in examples)
    resident.backend.loss_and_grads(pack(examples, "cpu"), engine.handle(name), total, Way())


def test_all_a_come_first_then_all_b_and_neighbours_make_one_matrix(
    tiny_engine: Engine, tiny_config: TrainConfig
) -> None:
    tiny_engine.create_adapter("a", tiny_config)
    assert tiny_engine.resident is not None
    parameters = dict(tiny_engine.resident.backend.model.named_parameters())
    before = {key: value.detach().clone() for key, value in parameters.items()}
    flat = flat_of(tiny_engine, "a")
    names = [place.name for place in flat.places]
    assert ["lora_A" in name for name in names] == [True] * 14 + [False] * 14
    assert [s.name for s in flat.sections] == ["a", "b"] and flat.sections[0].stop == flat.sections[1].start
    assert all(torch.equal(parameters[name], before[name]) for name in names)
    assert all(place.start * 4 % 16 == 0 for place in flat.places)
    q, v = (next(n for n in names if f"layers.1.self_attn.{part}.lora_A" in n) for part in ("q_proj", "v_proj"))
    three = names[names.index(q) : names.index(v) + 1]
    start = next(place.start for place in flat.places if place.name == q)
    weights, gradients = (buffer[start : start + 24 * 32].view(24, 32) for buffer in (flat.data, flat.grad))
    assert torch.equal(weights, torch.cat([before[name] for name in three]))
    gradients.fill_(7.0)
    assert all(bool((parameters[name].grad == 7.0).all()) for name in three)
    slots = [
        Slot(parameters[name], parameters[name.replace("lora_A", "lora_B")], slice(8 * i, 8 * i + 8), slice(0, 1))
        for i, name in enumerate(three)
    ]
    ((columns, joined),) = _joined_gradients(slots)  # one product for the three of them
    assert columns == slice(0, 24) and torch.equal(joined, gradients)


def test_odd_sizes_are_padded_and_the_padding_stays_zero() -> None:
    shapes = {"x.lora_A.d.weight": (1, 3), "y.lora_A.d.weight": (1, 5), "x.lora_B.d.weight": (3, 1), "x.mag.d": (2,)}
    named = [(name, torch.nn.Parameter(torch.ones(shape))) for name, shape in shapes.items()]
    flat = FlatAdapter(named)
    assert [place.start for place in flat.places] == [0, 4, 12, 16] and flat.data.numel() == 20
    assert [(s.name, s.start, s.stop) for s in flat.sections] == [("a", 0, 12), ("b", 12, 16), ("rest", 16, 20)]
    assert flat.data.sum() == 13 and flat.section("b").stop == 16


def test_autograd_adds_into_the_flat_gradient(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    tiny_engine.create_adapter("a", tiny_config)
    assert tiny_engine.resident is not None
    parameters = tiny_engine.resident.backend.adapter_parameters(tiny_engine.handle("a"))
    learn(tiny_engine, "a")
    expected = {id(p): p.grad.clone() for p in parameters if p.grad is not None}
    for parameter in parameters:
        parameter.grad = None
    flat = flat_of(tiny_engine, "a")
    learn(tiny_engine, "a")
    learn(tiny_engine, "a")
    for parameter in parameters:
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 2 * expected[id(parameter)], rtol=1e-5, atol=1e-9)
    whole = torch.cat([grad.flatten() for grad in expected.values()]) * 2
    assert whole.norm() > 0 and torch.allclose(flat.norm(), whole.norm(), rtol=1e-6)
    twice = flat.grad.clone()
    flat.scale_grad(0.5)
    assert torch.equal(flat.grad, twice / 2)
    flat.zero_grad()
    assert all(p.grad is not None and not p.grad.any() for p in parameters)
    flat.release()
    assert all(p.grad is None for p in parameters)


def test_peft_saves_and_loads_through_the_views(tmp_path: Path, tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    tiny_engine.create_adapter("a", tiny_config)
    flat = flat_of(tiny_engine, "a")
    flat.data.normal_(generator=torch.Generator().manual_seed(3))
    tiny_engine.save_adapter("a", tmp_path / "saved", {})
    assert tiny_engine.resident is not None
    backend, handle = tiny_engine.resident.backend, tiny_engine.handle("a")
    kept = {key: tensor.clone() for key, tensor in backend.adapter_state(handle)[0].items()}
    data = flat.data.clone()
    flat.data.zero_()
    backend.load_adapter_state(handle, kept)
    assert torch.equal(flat.data, data)
    tiny_engine.attach(read(tmp_path / "saved", "b"))
    other, _ = backend.adapter_state(tiny_engine.handle("b"))
    assert all(torch.equal(other[key], tensor) for key, tensor in kept.items())
    tiny_engine.detach("b")  # neither an attachment nor a removal moves what is in training
    learn(tiny_engine, "a")
    assert flat.norm() > 0 and flat.finite()


def test_the_layout_does_not_depend_on_the_adapter_s_name(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    layouts = []
    for name, rank in (("a", 8), ("b", 8), ("c", 4)):
        tiny_engine.create_adapter(name, build({"lora_rank": rank}, tiny_config))
        layouts.append(flat_of(tiny_engine, name).layout(tiny_engine.handle(name)))
    assert layouts[0] == layouts[1] != layouts[2]
