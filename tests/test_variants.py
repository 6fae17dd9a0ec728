"""Kinds of adapter beyond plain LoRA: rsLoRA, DoRA, PiSSA, NEFTune, and going on from an adapter that is there."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import adapters, lora
from core.backend import Route
from core.batch import pack
from core.config import TrainConfig, build
from core.dataset import Row
from core.encode import IGNORE, Example
from core.engine import Engine, Resident
from core.errors import ConfigError, ModelError
from core.fused.sizes import Way
from core.neftune import with_noise
from core.run import Run
from core.train import train
from tests.full import full

PROMPTS = [[5, 9, 200, 31, 7], [8, 8, 120], [77, 3, 14, 15, 92, 65], [1, 2, 3, 4]]
KINDS: dict[str, dict[str, object]] = {
    "lora": {},
    "rslora": {"use_rslora": "true"},
    "gaussian": {"init_weights": "gaussian"},
    "dora": {"use_dora": "true"},
    "dora and rslora": {"use_dora": "true", "use_rslora": "true"},
    "pissa": {"init_weights": "pissa"},
    "pissa, approximate": {"init_weights": "pissa_niter_16"},
    "pissa and rslora": {"init_weights": "pissa", "use_rslora": "true"},
}


def there(engine: Engine) -> Resident:
    assert engine.resident is not None
    return engine.resident


def parameters(engine: Engine, name: str) -> list[torch.nn.Parameter]:
    return there(engine).backend.adapter_parameters(engine.handle(name))


def made(engine: Engine, name: str, config: TrainConfig, **values: object) -> None:
    engine.create_adapter(name, build({"lora_rank": 4, **values}, config))


def shake(engine: Engine, name: str, size: float = 0.2) -> None:
    """Move every trainable tensor, as training would."""
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for p in parameters(engine, name):
            p.add_(torch.empty_like(p).normal_(0, size, generator=generator))


def logits(engine: Engine, routing: list[str | None], prompts: list[list[int]] = PROMPTS) -> torch.Tensor:
    """Of the next token and of one after it, (2, B, V)."""
    routes = [Route(None if name is None else engine.handle(name)) for name in routing]
    slots = there(engine).backend.slots()
    first = slots.join(prompts, routes, [64] * len(prompts)).clone()
    return torch.stack([first, slots.step(torch.full((len(prompts),), 11))])


def base_weights(engine: Engine) -> dict[str, torch.Tensor]:
    """Copies of every tensor of the base, under the names it has without adapters."""
    state = there(engine).backend.model.state_dict()
    return {key.replace(".base_layer", ""): t.clone() for key, t in state.items() if "lora_" not in key}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def by_peft(base: torch.nn.Module, folder: Path, prompts: list[list[int]] = PROMPTS) -> torch.Tensor:
    """The same logits by PEFT's own forward, an adapter from its folder over a model of its own, row by row."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, str(folder)).eval()
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([[*ids, 11]])).logits[0, -2:] for ids in prompts]
    return torch.stack(rows, dim=1).float()


def example(length: int = 20, answer: int = 8, seed: int = 0) -> Example:
    ids = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Example(tuple(ids), (IGNORE,) * (length - answer) + tuple(ids[-answer:]))


def gradients(engine: Engine, name: str, groups: list[list[Example]]) -> list[torch.Tensor]:
    total = sum(e.answer_tokens for group in groups for e in group)
    for group in groups:
        there(engine).backend.loss_and_grads(pack(group, "cpu"), engine.handle(name), total, Way())
    found = [p.grad for p in parameters(engine, name) if p.grad is not None]
    assert len(found) == len(parameters(engine, name))
    for p in parameters(engine, name):
        p.grad = None
    return found


def close(one: torch.Tensor, two: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return float((one - two).abs().max()) <= tolerance * max(1.0, float(two.abs().max()))


# -- every kind --


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_of_any_kind_answers_as_the_base(
    tiny_engine: Engine, tiny_config: TrainConfig, kind: str
) -> None:
    base = logits(tiny_engine, [None] * 4)
    made(tiny_engine, "a", tiny_config, **KINDS[kind])
    assert close(logits(tiny_engine, ["a"] * 4), base)
    shake(tiny_engine, "a")
    assert not close(logits(tiny_engine, ["a"] * 4), base, 1e-2)


@pytest.mark.parametrize(
    ("kind", "quant_method"),
    [
        pytest.param(kind, quant, marks=full if quant == "bnb" and kind not in ("lora", "dora") else ())
        for kind in KINDS
        for quant in ("none", "bnb")
    ],
)
def test_each_row_of_a_mixed_batch_is_what_peft_answers_and_base_rows_are_the_base_to_the_bit(
    tiny_model: Path, tiny_config: TrainConfig, tmp_path: Path, kind: str, quant_method: str
) -> None:
    if quant_method == "bnb":
        pytest.importorskip("bitsandbytes")
    engine, other = Engine(), Engine()
    for one in (engine, other):
        one.load(str(tiny_model), quant_method)
    # Rows of a DoRA go through passes of their own where the others' are fused; bits depend on the rows of a pass.
    together = [0, 2] if there(engine).backend.fast and "dora" in kind else [0, 1, 2, 3]
    base, pure = (logits(engine, [None] * len(rows), [PROMPTS[row] for row in rows]) for rows in (range(4), together))
    made(engine, "kind", tiny_config, **KINDS[kind])
    made(engine, "plain", tiny_config, target_modules="attention")
    for name in ("kind", "plain"):
        shake(engine, name)
        engine.save_adapter(name, tmp_path / name, {})
    routing: list[str | None] = [None, "kind", "plain", "kind"]
    mixed = logits(engine, routing)
    reference = by_peft(there(other).backend.model, tmp_path / "kind")
    assert torch.equal(mixed[:, 0], pure[:, 0])
    assert close(mixed[:, [1, 3]], reference[:, [1, 3]], 2e-5)
    assert close(logits(engine, ["kind"] * 4), reference, 2e-5)
    assert not close(mixed[:, [1, 3]], base[:, [1, 3]], 1e-2)
    engine.detach("kind")
    assert close(mixed[:, 2], logits(engine, ["plain"] * 4)[:, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_of_any_kind_comes_back_and_leaves_no_trace(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path, kind: str
) -> None:
    weights, base = base_weights(tiny_engine), logits(tiny_engine, [None] * 4)
    made(tiny_engine, "made", tiny_config, **KINDS[kind])
    shake(tiny_engine, "made")
    before = logits(tiny_engine, ["made"] * 4)
    tiny_engine.save_adapter("made", tmp_path / "a", {})
    tiny_engine.detach("made")
    assert same(base_weights(tiny_engine), weights)
    tiny_engine.attach(adapters.read(tmp_path / "a", "again"))
    assert close(logits(tiny_engine, ["again"] * 4), before)
    tiny_engine.detach("again")
    assert torch.equal(logits(tiny_engine, [None] * 4), base) and same(base_weights(tiny_engine), weights)
    assert not any("lora" in key for key, _ in there(tiny_engine).backend.model.named_modules())


@pytest.mark.parametrize("kind", ["rslora", "dora"])
def test_the_gradient_of_a_packed_step_is_pefts_own(
    plain_engine: Engine, tiny_config: TrainConfig, tmp_path: Path, kind: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    made(plain_engine, "a", tiny_config, **KINDS[kind])
    shake(plain_engine, "a")
    there(plain_engine).backend.model.double()
    plain_engine.save_adapter("a", tmp_path / "a", {})
    rows = [example(20, 8, 0), example(9, 3, 1), example(31, 20, 2)]
    mine = gradients(plain_engine, "a", [rows])
    base = AutoModelForCausalLM.from_pretrained(there(plain_engine).info.folder, dtype=torch.float64)
    model = PeftModel.from_pretrained(base, str(tmp_path / "a"), is_trainable=True)
    for row in rows:
        out = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        labels = torch.tensor(row.labels[1:])
        (torch.nn.functional.cross_entropy(out, labels, ignore_index=IGNORE, reduction="sum") / 31).backward()
    reference = [p.grad for key, p in model.named_parameters() if "lora_" in key]
    assert len(mine) == len(reference) == (42 if kind == "dora" else 28)
    for one, two in zip(mine, reference, strict=True):
        assert two is not None and float((one - two).abs().max()) <= 1e-6 * float(two.abs().max())


@pytest.mark.parametrize("kind", ["lora", "dora", "pissa", "noise"])
def test_every_kind_runs_over_a_16_bit_base_as_on_a_card(
    tiny_engine: Engine, tiny_model: Path, tiny_config: TrainConfig, kind: str
) -> None:
    from transformers import AutoModelForCausalLM

    from core.plain import PlainBackend

    values = {**KINDS, "noise": {"neftune_noise_alpha": 1.0}}[kind]
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    backend = PlainBackend(model, torch.device("cpu"), torch.bfloat16)
    lora.put(backend, "a", build({"lora_rank": 4, **values}, tiny_config), there(tiny_engine).info)
    made(tiny_engine, "a", tiny_config, **values)
    batch, losses = pack([example()], "cpu"), []
    for one, name in ((backend, "a"), (there(tiny_engine).backend, tiny_engine.handle("a"))):
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(one.adapter_parameters(name), lr=1e-2)
        losses.append([])
        for _ in range(3):
            losses[-1].append(float(one.loss_and_grads(batch, name, 8, Way())[0]))
            optimizer.step()
            optimizer.zero_grad()
        losses[-1].append(float(one.loss(batch, name)) / 8)
        assert all(p.dtype == torch.float32 for p in one.adapter_parameters(name))
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0][-1] < losses[0][0]
    mixed = backend.slots().join(PROMPTS, [Route(), Route("a"), Route(), Route("a")], [64] * 4).clone()
    base = backend.slots().join(PROMPTS, [Route()] * 4, [64] * 4)
    assert torch.equal(mixed[[0, 2]], base[[0, 2]]) and not torch.equal(mixed[1], base[1])


def test_only_plain_lora_is_called_plain(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    kinds = {**KINDS, "dropout": {"lora_dropout": 0.1}, "noise": {"neftune_noise_alpha": 5.0}}
    for name, values in kinds.items():
        made(tiny_engine, name, tiny_config, **values)
    backend = there(tiny_engine).backend
    plain = [name for name in kinds if backend.is_plain_lora(tiny_engine.handle(name))]
    assert plain == ["lora", "rslora", "gaussian"]


# -- rsLoRA --


def test_rslora_scales_by_the_root_of_the_rank(tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path) -> None:
    for name, use in (("plain", "false"), ("rs", "true")):
        made(tiny_engine, name, tiny_config, lora_rank=16, lora_alpha=32, use_rslora=use)
        with torch.no_grad():
            for p in parameters(tiny_engine, name):
                p.fill_(0.01)
        tiny_engine.save_adapter(name, tmp_path / name, {})
    layer = there(tiny_engine).backend.model.get_submodule("model.layers.0.mlp.up_proj")
    scaling = [layer.scaling[tiny_engine.handle(name)] for name in ("plain", "rs")]
    assert scaling == [2.0, 8.0]
    assert json.loads((tmp_path / "rs" / "adapter_config.json").read_text())["use_rslora"] is True


# -- DoRA --


def test_dora_learns_magnitudes_and_its_answers_follow_the_training(
    tiny_engine: Engine, tiny_config: TrainConfig
) -> None:
    made(tiny_engine, "a", tiny_config, use_dora="true")
    backend, handle = there(tiny_engine).backend, tiny_engine.handle("a")
    optimizer = torch.optim.AdamW(parameters(tiny_engine, "a"), lr=1e-2)
    batch, losses = pack([example()], "cpu"), []
    magnitudes = [p for p in parameters(tiny_engine, "a") if p.dim() == 1]
    begun = [p.detach().clone() for p in magnitudes]
    for _ in range(4):
        losses.append(float(backend.loss_and_grads(batch, handle, 8, Way())[0]))
        optimizer.step()
        optimizer.zero_grad()
        assert float(backend.loss(batch, handle)) / 8 < losses[-1]  # answers see the step just done
        logits(tiny_engine, ["a", None, "a", None])
    assert len(magnitudes) == 14 and all(not torch.equal(p, q) for p, q in zip(magnitudes, begun, strict=True))


def test_no_answer_of_a_dora_uses_norms_from_before_a_change(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    made(tiny_engine, "a", tiny_config, use_dora="true")
    backend, handle, batch = there(tiny_engine).backend, tiny_engine.handle("a"), pack([example()], "cpu")
    answer, twin, tokens = backend.slots(), backend.slots(), torch.tensor([1, 2, 3, 4])
    for slots in (answer, twin):
        slots.join(PROMPTS, [Route(handle)] * 4, [64] * 4)
    backend.loss_and_grads(batch, handle, 8, Way())
    torch.optim.SGD(parameters(tiny_engine, "a"), lr=0.5).step()
    stepped = answer.step(tokens).clone()  # in the middle of an answer
    logits(tiny_engine, ["a"] * 4)
    assert torch.equal(stepped, twin.step(tokens))
    shake(tiny_engine, "a")
    evaluated = backend.loss(batch, handle)
    answered = logits(tiny_engine, ["a"] * 4)
    assert torch.equal(evaluated, backend.loss(batch, handle))
    shake(tiny_engine, "a")
    moved = logits(tiny_engine, ["a"] * 4)
    backend.loss(batch, handle)
    assert torch.equal(moved, logits(tiny_engine, ["a"] * 4)) and not torch.equal(moved, answered)


def test_dora_begins_at_a_16_bit_base_exactly(tiny_model: Path, tiny_config: TrainConfig) -> None:
    engine = Engine()
    engine.load(str(tiny_model), torch_dtype="bfloat16")
    made(engine, "a", tiny_config, use_dora="true")
    for module in there(engine).backend.model.modules():
        if getattr(module, "lora_magnitude_vector", None):
            ((_, vector),) = module.lora_magnitude_vector.items()
            exact = module.base_layer.weight.detach().double().norm(dim=1)
            assert vector.weight.dtype == torch.float32 and close(vector.weight.detach().double(), exact, 1e-6)


# -- PiSSA --


@pytest.mark.parametrize(("use_rslora", "dropout"), [("false", 0.0), ("true", 0.0), ("false", 0.5)])
def test_pissa_trains_as_pefts_own_on_a_copy_and_leaves_the_base_alone(
    tiny_engine: Engine, tiny_model: Path, tiny_config: TrainConfig, use_rslora: str, dropout: float
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    copied = AutoModelForCausalLM.from_pretrained(tiny_model)
    untouched = {key: t.clone() for key, t in copied.state_dict().items()}
    asked = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, use_rslora=use_rslora == "true", init_lora_weights="pissa",
        target_modules="all-linear",
    )  # fmt: skip
    model = get_peft_model(copied, asked)
    weights = base_weights(tiny_engine)
    values = {"init_weights": "pissa", "lora_alpha": 8, "use_rslora": use_rslora, "lora_dropout": dropout}
    made(tiny_engine, "a", tiny_config, **values)
    theirs = [p for key, p in model.named_parameters() if "lora_" in key]
    mine = parameters(tiny_engine, "a")
    assert all(torch.equal(one, two) for one, two in zip(mine, theirs, strict=True))
    assert not same(
        {k.replace(".base_layer", ""): t for k, t in copied.state_dict().items()}, untouched
    )  # why not theirs
    row = example()
    optimizers = [torch.optim.AdamW(group, lr=1e-3, weight_decay=0.1) for group in (mine, theirs)]
    backend, handle = there(tiny_engine).backend, tiny_engine.handle("a")
    for step in range(3):
        torch.manual_seed(step)
        loss = backend.loss_and_grads(pack([row], "cpu"), handle, 8, Way())[0]
        torch.manual_seed(step)
        out = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        reference = torch.nn.functional.cross_entropy(out, torch.tensor(row.labels[1:]), ignore_index=IGNORE)
        reference.backward()
        assert float(loss) == pytest.approx(float(reference.detach()), rel=1e-5)
        for one, two in zip(mine, theirs, strict=True):
            assert one.grad is not None and two.grad is not None
            assert float((one.grad - two.grad).abs().max()) <= 2e-4 * float(two.grad.abs().max())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert same(base_weights(tiny_engine), weights)
    assert all(close(one.detach(), two.detach(), 2e-4) for one, two in zip(mine, theirs, strict=True))


def test_pissa_is_an_ordinary_lora_of_twice_the_rank_on_disk(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    made(tiny_engine, "a", tiny_config, init_weights="pissa", lora_alpha=8)
    shake(tiny_engine, "a")
    handle, backend = tiny_engine.handle("a"), there(tiny_engine).backend
    tiny_engine.save_adapter("a", tmp_path / "a", {})
    saved = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["init_lora_weights"]) == (8, 16, True)
    tensors = load_file(tmp_path / "a" / adapters.WEIGHTS)
    assert len(tensors) == 28 and all(8 in t.shape for t in tensors.values())
    trained = [p.detach().clone() for p in parameters(tiny_engine, "a")]
    assert sum(p.numel() for p in trained) * 2 == sum(t.numel() for t in tensors.values())
    backend.load_adapter_state(handle, {key: t * 2 for key, t in tensors.items()})
    backend.load_adapter_state(handle, tensors)
    assert all(torch.equal(p, q) for p, q in zip(parameters(tiny_engine, "a"), trained, strict=True))
    again, _ = backend.adapter_state(handle)
    assert same(again, tensors)


def test_a_pissa_wider_than_a_layer_is_refused_and_leaves_no_trace(
    tiny_engine: Engine, tiny_config: TrainConfig
) -> None:
    base = logits(tiny_engine, [None] * 4)
    with pytest.raises(ConfigError, match=r"rank 17 .* 16") as caught:  # k_proj is 16 wide
        made(tiny_engine, "a", tiny_config, init_weights="pissa", lora_rank=17)
    assert caught.value.field == "lora_rank" and tiny_engine.attached == ()
    assert torch.equal(logits(tiny_engine, [None] * 4), base)
    assert not any("lora" in key for key, _ in there(tiny_engine).backend.model.named_modules())


def test_pissa_and_dora_exclude_each_other(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="use_dora") as caught:
        made(tiny_engine, "a", tiny_config, init_weights="pissa", use_dora="true")
    assert caught.value.field == "init_weights" and "use_dora" in caught.value.of("zh")


# -- NEFTune --


def test_the_noise_is_uniform_within_alpha_over_the_root_of_the_rows_own_size() -> None:
    lengths, width, alpha = (4, 400, 25), 64, 5.0
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    torch.manual_seed(0)
    noise = with_noise(torch.zeros(1, sum(lengths), width), positions, alpha)[0]
    for row, length in zip(noise.split(lengths), lengths, strict=True):
        bound = alpha / math.sqrt(length * width)
        assert 0.95 * bound < float(row.abs().max()) <= bound
        assert float(row.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert abs(float(row.mean())) < 0.15 * bound


def test_noise_is_in_training_passes_of_its_own_adapter_only(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    made(tiny_engine, "noisy", tiny_config, neftune_noise_alpha=100.0)
    made(tiny_engine, "quiet", tiny_config)
    backend, batch = there(tiny_engine).backend, pack([example()], "cpu")
    before = torch.random.get_rng_state()
    quiet = float(backend.loss_and_grads(batch, tiny_engine.handle("quiet"), 8, Way())[0])
    evaluated = float(backend.loss(batch, tiny_engine.handle("noisy"))) / 8
    assert torch.equal(before, torch.random.get_rng_state())
    noisy = float(backend.loss_and_grads(batch, tiny_engine.handle("noisy"), 8, Way())[0])
    assert evaluated == pytest.approx(quiet, rel=1e-6) and abs(noisy - quiet) > 1e-3


def test_noise_depends_on_the_random_state_and_not_on_the_split(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    made(tiny_engine, "a", tiny_config, neftune_noise_alpha=20.0)
    shake(tiny_engine, "a")
    there(tiny_engine).backend.model.double()
    rows = [example(20, 8, 0), example(9, 3, 1), example(31, 20, 2)]

    def drawn(seed: int, groups: list[list[Example]]) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return gradients(tiny_engine, "a", groups)

    whole = drawn(1, [rows])
    for groups in ([rows[:1], rows[1:]], [[row] for row in rows]):
        assert all(close(one, two, 1e-9) for one, two in zip(drawn(1, groups), whole, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(drawn(2, [rows]), whole, strict=True))


# -- going on from an adapter --


@pytest.fixture
def earlier(tmp_path: Path, tiny_engine: Engine, tiny_config: TrainConfig) -> Path:
    """A trained adapter's folder: rank 4, alpha 32, on the MLP layers."""
    made(tiny_engine, "earlier", tiny_config, target_modules="mlp")
    shake(tiny_engine, "earlier")
    tiny_engine.save_adapter("earlier", tmp_path / "earlier", {})
    return tmp_path / "earlier"


@pytest.mark.parametrize("beside", [True, False], ids=["beside it", "alone"])
def test_a_run_goes_on_from_an_adapter(
    tiny_engine: Engine, tiny_config: TrainConfig, earlier: Path, tmp_path: Path, beside: bool
) -> None:
    begun = [p.detach().clone() for p in parameters(tiny_engine, "earlier")]
    if not beside:
        tiny_engine.detach("earlier")
    made(tiny_engine, "next", tiny_config, target_modules="mlp", adapters=str(earlier), lora_dropout=0.25)
    now = parameters(tiny_engine, "next")
    assert all(torch.equal(p, q) for p, q in zip(now, begun, strict=True))
    there(tiny_engine).backend.loss_and_grads(pack([example()], "cpu"), tiny_engine.handle("next"), 8, Way())
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in now)
    torch.optim.AdamW(now, lr=1e-2).step()
    assert not any(torch.equal(p, q) for p, q in zip(now, begun, strict=True))
    if beside:
        assert all(torch.equal(p, q) for p, q in zip(parameters(tiny_engine, "earlier"), begun, strict=True))
    tiny_engine.save_adapter("next", tmp_path / "next", {})
    saved = json.loads((tmp_path / "next" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_dropout"]) == (4, 0.25)


@pytest.mark.parametrize("name,ours,theirs", [
    ("lora_rank", 8, "4"),
    ("lora_alpha", 16, "32"),
    ("use_rslora", "true", "false"),
    ("use_dora", "true", "false"),
    ("init_weights", "pissa", "true"),
    ("target_modules", "all-linear", "down_proj gate_proj up_proj"),
    ("target_modules", "up_proj", "down_proj gate_proj up_proj"),
])  # fmt: skip
def test_a_setting_that_contradicts_the_adapter_is_refused_with_both_values(
    tiny_engine: Engine, tiny_config: TrainConfig, earlier: Path, name: str, ours: object, theirs: str
) -> None:
    values = {"target_modules": "mlp", "adapters": str(earlier), name: ours}
    with pytest.raises(ConfigError) as caught:
        made(tiny_engine, "next", tiny_config, **values)
    assert caught.value.field == name and tiny_engine.attached == ("earlier",)
    for sentence in (caught.value.of("zh"), caught.value.of("en")):
        assert theirs in sentence and str(ours) in sentence and str(earlier) in sentence
    made(tiny_engine, "next", tiny_config, **{**values, name: "mlp" if name == "target_modules" else theirs})


def test_settings_are_held_against_the_adapter_before_a_model_is_there(tiny_config: TrainConfig, earlier: Path) -> None:
    good = build({"adapters": str(earlier), "lora_rank": 4, "target_modules": "mlp"}, tiny_config)
    lora.check(good)
    lora.check(build({"lora_rank": 8}, tiny_config))
    with pytest.raises(ConfigError, match="4"):
        lora.check(build({"lora_rank": 8}, good))
    with pytest.raises(ModelError, match="no adapter folder"):
        lora.check(build({"adapters": str(earlier / "nowhere")}, good))


def test_an_adapter_of_another_model_is_not_gone_on_from(
    tmp_path: Path, tiny_config: TrainConfig, earlier: Path
) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    source = Path(tiny_config.model)
    wider = tmp_path / "wider"
    shape = {**json.loads((source / "config.json").read_text()), "intermediate_size": 64}
    Qwen2ForCausalLM(Qwen2Config(**shape)).save_pretrained(wider)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (wider / name).write_bytes((source / name).read_bytes())
    engine = Engine()
    engine.load(str(wider))
    base = logits(engine, [None] * 4)
    with pytest.raises(ModelError, match="6 of another shape"):
        made(engine, "next", tiny_config, target_modules="mlp", adapters=str(earlier))
    assert engine.attached == () and torch.equal(logits(engine, [None] * 4), base)


def test_an_adapter_of_other_layers_is_called_another_models(
    tiny_engine: Engine, tiny_config: TrainConfig, earlier: Path
) -> None:
    tensors = load_file(earlier / adapters.WEIGHTS)
    save_file({key.replace("up_proj", "w1"): t for key, t in tensors.items()}, earlier / adapters.WEIGHTS)
    with pytest.raises(ModelError, match="was made for"):
        made(tiny_engine, "next", tiny_config, target_modules="mlp", adapters=str(earlier))
    assert tiny_engine.attached == ("earlier",)


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_can_be_gone_on_from(tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path, kind: str) -> None:
    made(tiny_engine, "first", tiny_config, **KINDS[kind])
    shake(tiny_engine, "first")
    tiny_engine.save_adapter("first", tmp_path / "first", {})
    values = adapters.settings(adapters.read(tmp_path / "first"))
    made(tiny_engine, "next", tiny_config, **values, adapters=str(tmp_path / "first"))
    assert close(logits(tiny_engine, ["next"] * 4), logits(tiny_engine, ["first"] * 4))
    assert all(float(g.abs().max()) > 0 for g in gradients(tiny_engine, "next", [[example()]]))


# -- whole runs --

ROWS = [Row(f"question {i} " + "x" * (3 * i), "", f"answer {i}") for i in range(8)]


def trained(folder: Path, config: TrainConfig) -> Run:
    run = Run.create(folder, config, ROWS, "test", "test")
    train(Engine(), run, threading.Event())
    return run


@pytest.mark.parametrize("kind", [
    {"use_dora": "true"}, {"init_weights": "pissa"}, {"neftune_noise_alpha": 50.0, "lora_dropout": 0.1},
], ids=["dora", "pissa", "noise and dropout"])  # fmt: skip
def test_a_run_of_any_kind_gives_the_same_bytes_twice_and_can_be_gone_on_from(
    tmp_path: Path, tiny_config: TrainConfig, kind: dict[str, object]
) -> None:
    config = build({"lora_rank": 4, **kind}, tiny_config)
    torch.manual_seed(1)
    first = trained(tmp_path / "first", config)
    torch.manual_seed(2)  # an outside state must not matter
    second = trained(tmp_path / "second", config)
    assert first.adapter is not None and second.adapter is not None
    one, two = ((run.adapter / adapters.WEIGHTS).read_bytes() for run in (first, second) if run.adapter)
    assert one == two
    values = {**adapters.settings(adapters.read(first.adapter)), "adapters": str(first.adapter), "init_weights": "true"}
    after = trained(tmp_path / "after", build({**values, "neftune_noise_alpha": 0.0}, config))
    losses = [event["loss"] for run in (first, after) for event in run.events if event["type"] == "step"]
    assert len(losses) == 8 and losses[4] < losses[0]
