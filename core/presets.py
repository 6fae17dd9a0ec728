"""Training presets: TOML files with a name, a note and the settings that differ from the defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from core import config, storage
from core.config import TrainConfig
from core.device import GB, Device
from core.errors import ConfigError
from core.models import POCKET
from core.text import Text

FOLDER = Path(__file__).resolve().parent.parent / "presets"


@dataclass(frozen=True)
class Preset:
    """A named starting point. `order` sorts the cards; `cuda` marks one that needs a card.

    `pocket` holds what differs for the pocket model: a model of 5 million parameters needs 20 to 50 times the learning
    rate of one of 7 billion.
    """

    id: str
    name: Text
    note: Text
    config: TrainConfig
    order: int = 100
    cuda: bool = False
    pocket: Mapping[str, object] = field(default_factory=dict)

    def for_model(self, model: str) -> Preset:
        """The preset with its base model set, and for the pocket model with the settings that one needs."""
        overlay = self.pocket if model == POCKET else {}
        return replace(self, config=config.build({**overlay, "model": model}, self.config))


def load_presets(user_folder: Path | None = None) -> list[Preset]:
    """The shipped presets, then the user's. Raises ConfigError naming a file that cannot be used."""
    files = sorted(FOLDER.glob("*.toml"))
    if user_folder is not None and user_folder.is_dir():
        files += sorted(user_folder.glob("*.toml"))
    found = [_load(path) for path in files]
    return sorted(found, key=lambda preset: (preset.order, preset.id))


def preset(name: str, user_folder: Path | None = None) -> Preset:
    """The preset called `name`, or the one in the TOML file of that path. Raises ConfigError listing those there are."""
    path = storage.path_of(name) if name.endswith(".toml") else None
    if path is not None and path.is_file():
        return _load(path)
    known = load_presets(user_folder)
    for candidate in known:
        if candidate.id == name:
            return candidate
    ids = ", ".join(candidate.id for candidate in known)
    raise ConfigError(
        Text(zh=f"没有名为 {name} 的方案。可用：{ids}。", en=f"There is no preset {name}. Known: {ids}."), "preset"
    )


def default_preset(device: Device, model: str, presets: list[Preset]) -> Preset:
    """Pocket for the pocket model; on a card bf16 LoRA from 20 GB of its memory, QLoRA below; else the quick one."""
    if model == POCKET:
        wanted = "pocket"
    elif device.kind == "cuda":
        wanted = "identity" if device.memory_total >= 20 * GB else "qlora"
    else:
        wanted = "quick"
    return next((candidate for candidate in presets if candidate.id == wanted), presets[0])


def _load(path: Path) -> Preset:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        name, note = data["name"], data["note"]
        return Preset(
            id=path.stem,
            name=Text(str(name["zh"]), str(name["en"])),
            note=Text(str(note["zh"]), str(note["en"])),
            config=config.build(data.get("settings", {})),
            order=int(data.get("order", 100)),
            cuda=bool(data.get("cuda", False)),
            pocket=dict(data.get("pocket", {})),
        )
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise ConfigError(
            Text(
                zh=f"方案文件 {path} 无法使用：{error}。请修正或删除它。",
                en=f"Preset file {path} cannot be used: {error}. Mend or delete it.",
            ),
            "preset",
        ) from error
