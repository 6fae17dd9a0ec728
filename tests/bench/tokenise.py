"""Seconds to tokenise a table as training does: wall and processor time, by the real Qwen2.5 tokenizer.

    python -m tests.bench.tokenise ../shared/data/qwen2.5-tokenizer [rows] [tokens]

Rows are cut from the words of presets/general and the starter sets, each with a question, a system prompt and an answer.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from core import starter, storage, truncation
from core.config import TrainConfig
from core.dataset import Row, from_json
from core.encode import Encoder, TemplateEncoder, encoder_for
from core.mix import BUILT_IN

SYSTEM = "You are a helpful assistant."


def rows(encoder: Encoder, count: int, tokens: int) -> list[Row]:
    """`count` rows of about `tokens` tokens; no two are alike, so nothing is looked up instead of tokenised."""
    shipped = [
        from_json(value, i) for path in BUILT_IN.values() for i, value in enumerate(storage.read_json_lines(path))
    ]
    shipped += [row for table in starter.starter_sets() for row in table.rows]
    text = "\n".join(f"{row.question} {row.output}" for row in shipped)
    per_token = len(text) / len(encoder.plain(text))
    draw, size = random.Random(0), round((tokens - 21) * per_token)
    found = []
    for index in range(count):
        start = draw.randrange(len(text) - size)
        found.append(Row(f"{index} {text[start : start + 40]}", "", text[start + 40 : start + size]))
    return found


def measure(encoder: Encoder, table: list[Row]) -> tuple[float, float, float]:
    """(wall seconds, processor seconds, mean tokens a row) of tokenising them as a run does."""
    config = TrainConfig(max_length=4096)
    wall, processor = time.perf_counter(), time.process_time()
    fitted = truncation.fit_rows(encoder, [row.messages(SYSTEM) for row in table], config)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return wall, processor, sum(one.tokens for one in fitted) / len(fitted)


def main(folder: Path, count: int = 10_000, tokens: int = 200) -> None:
    """Print a line for the ChatML encoder and one for the general one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    table = rows(encoder_for(tokenizer), count, tokens)
    for encoder in (encoder_for(tokenizer), TemplateEncoder(tokenizer)):
        wall, processor, mean = measure(encoder, table)
        name = type(encoder).__name__
        print(f"{name}: {count:,} rows x {mean:.0f} tokens in {wall:.2f} s, {processor:.2f} s of one core")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
