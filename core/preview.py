"""Before the start: what a dataset and settings would give (steps, tokens, time, memory), and why they would not do.

Loads tokenizers, never weights; remembers each row's length, so that an edit counts one row and not the table.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from core import duration, estimate, health, lora, models, obstacles, rehearsal, row_view, truncation
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row
from core.device import memory_allowed
from core.doctor.facts import Facts
from core.encode import Encoder, encoder_for
from core.engine import Engine
from core.errors import DatasetError, WontFitError
from core.estimate import Fits
from core.health import Finding
from core.holders import held
from core.lengths import Length, Lengths, cut_findings, mixed_findings, numbers_of
from core.models import ModelInfo
from core.row_view import RowView
from core.run import Run
from core.schedule import divide
from core.text import Text


@dataclass(frozen=True)
class Preview:
    """What Start would do. `findings` of level "bad" forbid it; `memory_bytes` is the estimated peak."""

    rows: int
    tokens: int
    longest: int
    steps: int
    seconds: float | None
    memory_bytes: int
    free_bytes: int
    fits: Fits
    findings: tuple[Finding, ...]


class Previews:
    """Tokenizers and row lengths, remembered between previews."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._encoders: dict[str, Encoder] = {}
        self._lengths = Lengths()
        self._facts = Facts()

    def preview(
        self, table: Dataset, rows: Sequence[Row], config: TrainConfig, engine: Engine, runs: Sequence[Run]
    ) -> Preview:
        """`rows`: the table's and what is mixed in, resolved. `runs` are searched for a measured speed."""
        config = filled(config, table.identity)
        info = models.inspect(config.model)
        encoder = self.encoder(info, engine)
        mixed = len(rows) - sum(not row.is_blank for row in table.rows) * config.dataset_repeat
        fitted = self._lengths.of(rows, config, info, encoder)
        findings = [*self._findings(table, mixed, config, info, encoder), *_refused(table, fitted)]
        findings += mixed_findings(fitted[len(fitted) - mixed :], config.max_length) if mixed else []
        kept = [length for row, length in zip(rows, fitted, strict=True) if length.parts and row.output.strip()]
        lengths = [part for length in kept for part in length.parts]
        tokens = sum(length for length, _ in lengths)
        training, _ = divide(kept, config)
        steps = config.steps(sum(len(length.parts) for length in training))
        free = _free_bytes(engine, config)

        def needed_by(other: TrainConfig) -> int:
            try:
                return estimate.plan(
                    info, other, engine.device, lengths or [(16, 8)], free, anchors=_anchors(other)
                ).memory_bytes
            except WontFitError as error:
                return error.needed_bytes

        needed = needed_by(config)
        allowed = min(free, int(config.max_memory_gb * 1e9)) if config.max_memory_gb else free
        findings += obstacles.memory(config, engine.device, needed, allowed, needed_by, held(engine.device))
        computed = int(tokens / max(1, len(lengths)) * min(len(lengths), config.rows_per_step) * steps)
        speed = measured_speed(config, runs)
        if not speed:  # what was measured is the rows' speed, with all that comes beside them
            computed += steps * sum(length for length, _ in _anchors(config))
        return Preview(
            rows=len(kept),
            tokens=tokens,
            longest=max((length for length, _ in lengths), default=0),
            steps=steps,
            seconds=duration.seconds(info, config, engine.device, computed, steps, speed) if kept else None,
            memory_bytes=needed,
            free_bytes=allowed,
            fits=estimate.judge(needed, allowed),
            findings=tuple(findings),
        )

    def findings(self, table: Dataset, mixed: int, config: TrainConfig, engine: Engine) -> tuple[Finding, ...]:
        """What there is to know of the table alone: quick for a large one, whose rows are not all tokenised for it."""
        config = filled(config, table.identity)
        info = models.inspect(config.model)
        return tuple(self._findings(table, mixed, config, info, self.encoder(info, engine)))

    def _findings(
        self, table: Dataset, mixed: int, config: TrainConfig, info: ModelInfo, encoder: Encoder
    ) -> list[Finding]:
        size = info.linear_parameters + info.embedding_parameters
        found = health.check(table, config, self._counter(info, encoder, config), mixed, size, self._facts)
        exact = [self._exact(finding, table, config, info, encoder) for finding in found]
        return [*(finding for told in exact for finding in told), *_unknown_targets(config)]

    def _exact(
        self, finding: Finding, table: Dataset, config: TrainConfig, info: ModelInfo, encoder: Encoder
    ) -> list[Finding]:
        """The finding; that of rows to be cut with what is cut of each, and those that cannot be, apart."""
        if finding.kind != "too_long" or config.truncation_strategy != "left":
            return [finding]
        rows = [table.rows[i].resolved(table.identity) for i in finding.rows]
        return cut_findings(finding, self._lengths.of(rows, config, info, encoder), config.max_length)

    def view(self, row: Row, config: TrainConfig, engine: Engine) -> RowView:
        """What the model sees of a resolved row."""
        return row_view.view(self.encoder(models.inspect(config.model), engine), row, config)

    def control_strings(self, model: str, engine: Engine) -> list[str]:
        """What would be control tokens of a model if a template wrote it."""
        return sorted(set(self.encoder(models.inspect(model), engine).control.tokens.values()))

    def encoder(self, info: ModelInfo, engine: Engine) -> Encoder:
        """The model's encoder: the resident one, or one loaded without the weights."""
        resident = engine.resident
        if resident is not None and resident.info.folder == info.folder:
            return resident.encoder
        key = str(info.folder)
        with self._guard:
            if key not in self._encoders:
                self._encoders[key] = encoder_of(info)
            return self._encoders[key]

    def check(self, table: Dataset, mixed: Sequence[Row], config: TrainConfig, engine: Engine) -> None:
        """Refuse what cannot be trained on here, before anything is written.

        Raises DatasetError with the first bad row of the table or of what is mixed in, WontFitError if the card is too
        small for every way of running it.
        """
        config = filled(config, table.identity)
        info = models.inspect(config.model)
        encoder = self.encoder(info, engine)
        check_rows(table, mixed, config, self._counter(info, encoder, config), self._facts)
        own = self._lengths.of(table.resolved(), config, info, encoder)
        places = [i for i, row in enumerate(table.rows) if not row.is_blank]
        for place, length in zip(places, own, strict=True):
            if length.refused is not None:
                raise DatasetError(truncation.named(length.refused, place), row=place)
        lengths = [*own, *self._lengths.of(mixed, config, info, encoder)]
        for index, length in enumerate(lengths[len(own) :]):
            if length.refused is not None:
                raise DatasetError(_of_mix(truncation.named(length.refused, index)))
        kept = [lengths[i] for i in truncation.kept([length.parts for length in lengths])]
        parts = [part for length in kept for part in length.parts]
        estimate.plan(info, config, engine.device, parts, _free_bytes(engine, config), anchors=_anchors(config))

    def _counter(self, info: ModelInfo, encoder: Encoder, config: TrainConfig) -> Callable[[Row], int]:
        return lambda row: self._lengths.of([row], config, info, encoder)[0].tokens


def filled(config: TrainConfig, card: Identity) -> TrainConfig:
    """The settings with the system prompt's placeholders replaced, as they are frozen and trained with."""
    system = card.resolve_alone(config.system)
    return config if system == config.system else replace(config, system=system)


def _refused(table: Dataset, lengths: Sequence[Length]) -> list[Finding]:
    """Rows that the model's template refuses. `lengths`: of the table's own rows first."""
    places = [i for i, row in enumerate(table.rows) if not row.is_blank]
    refused = [(i, one.refused) for i, one in zip(places, lengths, strict=False) if one.refused and not one.tokens]
    if not refused:
        return []
    shown, rows = refused[0][1], tuple(place for place, _ in refused)
    numbers = numbers_of(rows)
    text = Text(zh=f"第 {numbers.zh} 行：{shown.zh}", en=f"Row {numbers.en}: {shown.en}")
    return [Finding("bad", text, rows, kind="template")]


def _anchors(config: TrainConfig) -> list[tuple[int, int]]:
    """Lengths of the guard's anchors of a step; nobody has asked the base for them yet."""
    return [estimate.USUAL_ANCHOR] * rehearsal.anchors_per_step(config)


def _unknown_targets(config: TrainConfig) -> list[Finding]:
    """A hint for target modules that few models have; the model itself is asked at the start."""
    usual = {lora.ALL_LINEAR, *lora.GROUPS, *(name for names in lora.GROUPS.values() for name in names)}
    odd = " ".join(name for name in config.target_modules.split() if name not in usual)
    if not odd and config.target_modules.strip():
        return []
    text = Text(
        zh=f"目标模块 {odd or '（空）'} 不常见，开始时会对照模型核对。",
        en=f"Target modules {odd or '(none)'} are unusual; the start will check them.",
    )
    return [Finding("warn", text)]


def encoder_of(info: ModelInfo) -> Encoder:
    """A model's encoder without its weights."""
    from core.base_parts import tokenizer_of

    return encoder_for(tokenizer_of(info.folder))


def check_rows(
    table: Dataset,
    mixed: Sequence[Row],
    config: TrainConfig,
    count: Callable[[Row], int],
    facts: Facts | None = None,
) -> None:
    """Refuse rows that cannot be trained on: DatasetError with the first reason and its row. `mixed` is resolved."""
    if not any(not row.is_blank for row in table.rows):
        raise DatasetError(
            Text(
                zh="数据表是空的。请至少写一行问题和回答，再开始训练。",
                en="The table is empty. Write at least one question and answer, then start.",
            )
        )
    found = health.refusal(table, config, count, facts)
    if found is not None:
        raise DatasetError(found.text, row=found.rows[0] if found.rows else None)
    found = health.refusal(Dataset("mix", tuple(mixed)), config, count, facts) if mixed else None
    if found is not None:
        raise DatasetError(_of_mix(found.text))


def _of_mix(text: Text) -> Text:
    return Text(zh=f"混入数据（行号按抽取顺序）：{text.zh}", en=f"Mix in (rows in the order drawn): {text.en}")


def measured_speed(config: TrainConfig, runs: Sequence[Run]) -> float | None:
    """Median tokens per second of the newest run with the same model, precision and adapter size; None without one."""
    keys = (
        "model", "quant_method", "lora_rank", "target_modules", "torch_dtype", "gradient_checkpointing", "use_dora",
        "init_weights", "neftune_noise_alpha", "lora_dropout", "max_memory_gb",
    )  # fmt: skip
    for run in runs:
        speeds = sorted(float(str(e["tokens_per_second"])) for e in run.history if e["type"] == "step")
        if len(speeds) >= 5 and all(getattr(run.config, key) == getattr(config, key) for key in keys):
            return speeds[len(speeds) // 2]
    return None


def _free_bytes(engine: Engine, config: TrainConfig) -> int:
    """Memory a run may take, the resident base included: it is there already, or makes room for another."""
    resident = engine.resident
    ours = 0
    if resident is not None:
        loaded = replace(config, quant_method=resident.quant_method, torch_dtype=resident.dtype)
        ours = estimate.resident_bytes(resident.info, loaded, engine.device)
    return memory_allowed(engine.device, ours)
