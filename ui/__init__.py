"""The page: everything that knows gradio. Handlers read, call core and show; no rule of the product lives here."""

from __future__ import annotations

import os

from core.errors import UserError
from core.text import Text

_LOCAL = ("localhost", "127.0.0.1", "::1")


def prepare_environment() -> None:
    """Set what gradio and huggingface_hub read while they are imported. Call it before `import gradio`.

    Raises UserError if GRADIO_VIBE_MODE is set: gradio would let anybody who sees the page edit and run code.
    """
    if os.environ.get("GRADIO_VIBE_MODE"):
        raise UserError(
            Text(
                zh="环境变量 GRADIO_VIBE_MODE 会让打开页面的人在这台机器上改写并运行代码。请先取消它（unset GRADIO_VIBE_MODE）再启动。",
                en="GRADIO_VIBE_MODE lets whoever opens the page edit and run code on this machine. "
                "Unset it (unset GRADIO_VIBE_MODE) and start again.",
            )
        )
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    # Else a table of the last 10,000 events is made anew after every event, for a page that is not served here: more
    # time of the processor than the events, and memory that grows.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**12)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # A proxy must not stand between the page and its own server.
    for name in ("NO_PROXY", "no_proxy"):
        known = [host for host in os.environ.get(name, "").split(",") if host.strip()]
        os.environ[name] = ",".join([*known, *(host for host in _LOCAL if host not in known)])
