"""The methods that forgetting.py compares: how many anchors, held how, from which start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One way to train an identity. `anchors` a step are held to the base by `loss`, with weight `strength`."""

    anchors: int = 0
    loss: str = (
        "kl"  # on the answers; "ce": cross entropy on them; "asked", "all": from the question, the system prompt on
    )
    strength: float = 1.0
    start: str = ""  # "null", "corda-ipm", "corda-kpm", "eva"
    frozen: bool = False  # lora_A stays where it starts
    dressed: int = 0  # copies of each row with other openers, case and width
    rank: int = 8
    targets: str = "all-linear"
    rate: float = 1.0
    pool: int = 512
    scale: float = 1.0  # of the finished adapter


METHODS: dict[str, Method] = {
    "off": Method(),
    "off scale 0.8": Method(scale=0.8),
    "mlp": Method(targets="mlp"),
    "dressed": Method(dressed=3),
    "ce-4": Method(4, "ce"),
    "ce-8": Method(8, "ce"),
    "kl-1": Method(1),
    "kl-2": Method(2),
    "kl-4": Method(4),
    "kl-8": Method(8),
    "kl-16": Method(16),
    "kl-4 x0.3": Method(4, strength=0.3),
    "kl-4 x3": Method(4, strength=3),
    "kl-8 x3": Method(8, strength=3),
    "kl-4 x10": Method(4, strength=10),
    "kl-4 pool 128": Method(4, pool=128),
    "asked-4": Method(4, "asked"),
    "asked-4 x3": Method(4, "asked", 3),
    "all-1": Method(1, "all"),
    "all-2": Method(2, "all"),
    "all-4": Method(4, "all"),
    "all-8": Method(8, "all"),
    "all-4 x0.3": Method(4, "all", 0.3),
    "all-4 x3": Method(4, "all", 3),
    "all-4 x10": Method(4, "all", 10),
    "all-2 x3": Method(2, "all", 3),
    "all-4 pool 128": Method(4, "all", pool=128),
    "all-4 pool 256": Method(4, "all", pool=256),
    "all-4 dressed": Method(4, "all", dressed=3),
    "kl-4 dressed": Method(4, dressed=3),
    "kl-4 mlp": Method(4, targets="mlp"),
    "null": Method(start="null", frozen=True),
    "null free": Method(start="null"),
    "null rate 2.5": Method(start="null", frozen=True, rate=2.5),
    "null r16 rate 2.5": Method(start="null", frozen=True, rank=16, rate=2.5),
    "null+kl-4": Method(4, start="null", frozen=True),
    "null free+kl-4": Method(4, start="null"),
    "null+kl-4 rate 2.5": Method(4, start="null", frozen=True, rate=2.5),
    "null r16+kl-4 rate 2.5": Method(4, start="null", frozen=True, rank=16, rate=2.5),
    "null r16+kl-8 x3 rate 2.5": Method(8, strength=3, start="null", frozen=True, rank=16, rate=2.5),
    "null free+all-4": Method(4, "all", start="null"),
    "null r16+all-4 rate 2.5": Method(4, "all", start="null", frozen=True, rank=16, rate=2.5),
    "null r16+all-2 rate 2.5": Method(2, "all", start="null", frozen=True, rank=16, rate=2.5),
    "frozen A": Method(frozen=True),
    "corda-kpm": Method(start="corda-kpm"),
    "corda-ipm": Method(start="corda-ipm"),
    "eva": Method(start="eva"),
    "corda-kpm+kl-4": Method(4, start="corda-kpm"),
    "eva+kl-4": Method(4, start="eva"),
    "eva+all-4": Method(4, "all", start="eva"),
    "corda-kpm+all-4": Method(4, "all", start="corda-kpm"),
}
