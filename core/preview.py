"""Before the start: what a dataset and settings would give (steps, tokens, time, memory), and why they would not do.

Loads tokenizers, never weights; remembers each row's length, so that an edit counts one row and not the table.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from core import duration, estimate, health, lora, models, rehearsal
from core.config import TrainConfig
from core.dataset import Dataset, Row
from core.device import memory_allowed
from core.encode import Encoder, encoder_for
from core.engine import Engine
from core.errors import DatasetError, WontFitError
from core.estimate import Fits
from core.health import Finding
from core.models import ModelInfo
from core.run import Run
from core.text import Text

_MOST_LENGTHS = 200_000


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
        self._lengths: dict[tuple[str, str, Row], tuple[int, int]] = {}

    def preview(
        self, table: Dataset, rows: Sequence[Row], config: TrainConfig, engine: Engine, runs: Sequence[Run]
    ) -> Preview:
        """`rows`: the table's and what is mixed in, resolved. `runs` are searched for a measured speed."""
        info = models.inspect(config.model)
        encoder = self.encoder(info, engine)
        mixed = len(rows) - sum(not row.is_blank for row in table.rows)
        count = self._counter(info, encoder, config)
        size = info.linear_parameters + info.embedding_parameters
        findings = (*health.check(table, config, count, mixed, size), *_unknown_targets(config))
        useful = [row for row in rows if row.output.strip()]
        lengths = [self._length(info, encoder, row, config.system) for row in useful]
        tokens = sum(length for length, _ in lengths)
        steps = config.steps(len(useful) - config.held_out(len(useful)))
        free = _free_bytes(engine, config)
        try:
            needed = estimate.plan(
                info, config, engine.device, lengths or [(16, 8)], free, anchors=_anchors(config)
            ).memory_bytes
        except WontFitError as error:
            needed = error.needed_bytes
        if config.max_memory_gb:
            free = min(free, int(config.max_memory_gb * 1e9))
        computed = int(tokens / max(1, len(useful)) * min(len(useful), config.rows_per_step) * steps)
        speed = measured_speed(config, runs)
        if not speed:  # what was measured is the rows' speed, with all that comes beside them
            computed += steps * sum(length for length, _ in _anchors(config))
        return Preview(
            rows=len(useful),
            tokens=tokens,
            longest=max((length for length, _ in lengths), default=0),
            steps=steps,
            seconds=duration.seconds(info, config, engine.device, computed, steps, speed) if useful else None,
            memory_bytes=needed,
            free_bytes=free,
            fits=estimate.judge(needed, free),
            findings=findings,
        )

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
        info = models.inspect(config.model)
        encoder = self.encoder(info, engine)
        check_rows(table, mixed, config, self._counter(info, encoder, config))
        rows = [*table.resolved(), *mixed]
        lengths = [self._length(info, encoder, row, config.system) for row in rows]
        estimate.plan(info, config, engine.device, lengths, _free_bytes(engine, config), anchors=_anchors(config))

    def _counter(self, info: ModelInfo, encoder: Encoder, config: TrainConfig) -> Callable[[Row], int]:
        return lambda row: self._length(info, encoder, row, config.system)[0]

    def _length(self, info: ModelInfo, encoder: Encoder, row: Row, system: str) -> tuple[int, int]:
        """(tokens, answer tokens) of a resolved row."""
        key = (str(info.folder), system, row)
        if key not in self._lengths:
            if len(self._lengths) > _MOST_LENGTHS:
                self._lengths.clear()
            example = encoder.example(row.messages(system))
            self._lengths[key] = (len(example), example.answer_tokens)
        return self._lengths[key]


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
        zh=f"目标层 {odd or '(空)'} 不常见,开始时会对照模型核对。",
        en=f"Target modules {odd or '(none)'} are unusual; the start will check them.",
    )
    return [Finding("warn", text)]


def encoder_of(info: ModelInfo) -> Encoder:
    """A model's encoder without its weights."""
    from transformers import AutoTokenizer

    return encoder_for(AutoTokenizer.from_pretrained(str(info.folder), local_files_only=True, trust_remote_code=False))


def check_rows(table: Dataset, mixed: Sequence[Row], config: TrainConfig, count: Callable[[Row], int]) -> None:
    """Refuse rows that cannot be trained on: DatasetError with the first reason and its row. `mixed` is resolved."""
    if not any(not row.is_blank for row in table.rows):
        raise DatasetError(
            Text(
                zh="数据表是空的。请至少写一行问题和回答,再开始训练。",
                en="The table is empty. Write at least one question and answer, then start.",
            )
        )
    found = health.blocking(health.check(table, config, count, len(mixed)))
    if found is not None:
        raise DatasetError(found.text, row=found.rows[0] if found.rows else None)
    found = health.blocking(health.check(Dataset("mix", tuple(mixed)), config, count)) if mixed else None
    if found is not None:
        text = Text(
            zh=f"混入数据(行号按抽取顺序):{found.text.zh}", en=f"Mix in (rows in the order drawn): {found.text.en}"
        )
        raise DatasetError(text)


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
