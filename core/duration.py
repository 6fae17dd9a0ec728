"""How long a run will take, before it starts: by an earlier run's speed, else by what machines of its kind reach."""

from __future__ import annotations

from core.config import TrainConfig
from core.device import Device
from core.estimate import fused
from core.models import ModelInfo

# Dense 16-bit tensor-core peak by card, in TFLOP/s, from the vendors' data sheets; used for the first guess of time only.
_TFLOPS = {
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "5090": 210,
    "4090": 165,
    "4080": 97,
    "4070": 58,
    "3090": 71,
    "3080": 60,
    "A6000": 155,
    "L40": 181,
    "A10": 125,
    "V100": 125,
    "T4": 65,
}


def seconds(
    info: ModelInfo, config: TrainConfig, device: Device, tokens: int, steps: int, measured: float | None
) -> float:
    """Training time for `tokens` in all over `steps`. `measured`: tokens per second of an earlier run here, if any."""
    if measured:
        return tokens / measured
    if device.kind == "cpu":
        # 6 operations a weight and token; about 12 GFLOP/s a core reached on small matrices.
        return tokens * 6 * (info.linear_parameters + info.embedding_parameters) / 12e9 / 2 + steps * 0.02
    known = next((peak for name, peak in _TFLOPS.items() if name in device.name), 60)
    reached, step = (0.55, 0.01) if fused(info, config, device) else (0.3, 0.15)
    return tokens * 4 * (info.linear_parameters + info.embedding_parameters) / (known * 1e12 * reached) + steps * step
