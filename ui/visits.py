"""What the page's framework keeps for a visit: its memory, the last ones and those under way; its connections, none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradio.utils import LRUCache

if TYPE_CHECKING:
    import gradio as gr

# 1.5 MB each, and the framework's own limit of 10,000 is all of a machine's memory. An open page asks every second, one in the
# background every minute at least: both are among the last.
KEPT = 32


class _Recent(LRUCache):
    """Gradio's own lets go of what came first, though it be in use."""

    def __getitem__(self, key: object) -> object:
        self.move_to_end(key)
        return super().__getitem__(key)


def bound(page: gr.Blocks) -> None:
    """Keep the state of the last `KEPT` visits of a mounted page, and of twice as many what is on its way to them."""
    page.state_session_capacity = KEPT
    page.state_holder.capacity = KEPT
    # What was on its way to a page that left meanwhile waits for it; of 2,000 visits, if nobody says otherwise.
    page._queue.pending_messages_per_session = _Recent(2 * KEPT)
    # It would hold a connection open for every tab, only to learn that the tab was closed, and of six that a browser opens to
    # one server that left none for the sixth tab: all stood still. What is on its way to a tab that was closed ends with the
    # connection that brings it, and `KEPT` bounds what is remembered.
    page.config["connect_heartbeat"] = False
