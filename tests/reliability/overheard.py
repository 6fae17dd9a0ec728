"""OneCard in a process of its own that writes down whom it tries to reach: python overheard.py RECORD HOME PORT.

Trains two steps, fails once with secrets in the error, then serves. Every connection, name look-up and child process of
Python's is a line of RECORD (of other machines only); the journey is done when the server ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = ("127.", "::1", "localhost", "0.0.0.0")


def hear(record: Path, event: str, values: tuple[object, ...]) -> None:
    """Write down what one of Python's audit events says of other machines and other programs."""
    if event == "socket.connect":
        place = values[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        place = values[:1]
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        place = ("a child process", str(values[:2])[:200])
    else:
        return
    # A path is a socket of this machine; None is an address to listen on.
    if isinstance(place, tuple) and place and place[0] is not None and not str(place[0]).startswith(HERE):
        with record.open("a") as file:
            file.write(f"{event} {place}\n")


def main() -> None:
    """The journey's beginning, then the server."""
    record = Path(sys.argv[1])
    sys.addaudithook(lambda event, values: hear(record, event, values))
    import logging

    from core import log
    from core.config import TrainConfig
    from core.workspace import Workspace
    from ui.server import serve

    workspace = Workspace(Path(sys.argv[2]))
    workspace.lock()
    log.begin(workspace.home)
    config = TrainConfig(model="pocket", max_steps=2, probe_steps=0, lora_rank=2, gradient_accumulation_steps=1)
    run = workspace.start("identity-50", config, "t")
    assert workspace._job.join(300) and run.status == "finished", run.status
    secrets = " ".join(value for name, value in os.environ.items() if name.endswith(("_TOKEN", "_KEY", "_PASSWORD")))
    try:
        raise OSError(
            f"https://user:{os.environ['HF_TOKEN']}@hub.example/?token={os.environ['ONECARD_TOKEN']} {secrets}"
        )
    except OSError:
        logging.getLogger("onecard.ui").exception("failed with %s", secrets)
        logging.getLogger("uvicorn.error").error("Bearer %s", secrets)
    serve(workspace, port=int(sys.argv[3]), open_browser=False)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
