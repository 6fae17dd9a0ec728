"""Starting the server anew in the same process id: for a card that only a new process can use. Knows no route."""

from __future__ import annotations

import os
import signal
import sys


class Restart:
    """Whether the server is to start anew after it has stopped."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self) -> None:
        """Let the server stop as by Ctrl+C: a run is saved, answers end; then `carry_out` begins."""
        if self.asked:
            return
        self.asked = True
        signal.raise_signal(signal.SIGINT)

    def carry_out(self) -> None:
        """Replace this process by the same command in the same environment, if that was asked for.

        Its files and its lock are closed by that, and the card's driver frees what it held.
        """
        if not self.asked:
            return
        print("OneCard: starting anew ...", file=sys.stderr, flush=True)
        arguments = sys.orig_argv[1:]
        if "--no-open" not in arguments:
            arguments = [*arguments, "--no-open"]  # the page that asked is open
        os.execve(sys.executable, [sys.executable, *arguments], dict(os.environ))
