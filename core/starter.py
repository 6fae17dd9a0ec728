"""The datasets a new home begins with: the articles' eight rows, and fifty of our own in both languages."""

from __future__ import annotations

from pathlib import Path

from core import dataset, storage
from core.dataset import Dataset, Identity

FOLDER = Path(__file__).resolve().parent.parent / "presets" / "starter"

_IDENTITIES = {
    "articles-8": Identity("Swift-Robot", "Swift-Robot", "CSDN 迪菲赫尔曼", "CSDN 迪菲赫尔曼"),
    "identity-50": Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI"),
}


def starter_sets() -> list[Dataset]:
    """In the order to save them: the last one is the newest, so it is the one the page opens."""
    return [
        Dataset(
            name,
            tuple(dataset.from_json(v, i) for i, v in enumerate(storage.read_json_lines(FOLDER / f"{name}.jsonl"))),
            identity,
        )
        for name, identity in _IDENTITIES.items()
    ]
