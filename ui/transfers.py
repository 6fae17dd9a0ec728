"""A large read or download on its way, as a sentence and as a bar."""

from __future__ import annotations

from core.transfer import Transfer
from ui.page import Page
from ui.pieces import safe, show_seconds


def in_words(page: Page, key: str, transfer: Transfer) -> str:
    """The sentence `key` ("transfer.loading" or "transfer.download") with sizes, pace and time left as far as known."""
    words = page.t(key, name=transfer.name.rpartition("/")[2])
    total = transfer.total / 1e9
    digits = 1 if total >= 10 else 2
    parts = [f"{words} {transfer.done / 1e9:.{digits}f} / {total:.{digits}f} GB"]
    if transfer.bytes_per_second and transfer.seconds_left is not None:
        parts.append(f"{transfer.bytes_per_second / 1e6:,.0f} MB/s")
        parts.append(page.t("transfer.left", time=show_seconds(transfer.seconds_left)))
    return " · ".join(parts)


def bar(label: str, share: float) -> str:
    """A bar of `share` (0 to 1), with `label` for those who do not see it."""
    percent = round(100 * share)
    return (
        f'<b class="oc-bar" role="progressbar" aria-label="{safe(label)}" aria-valuenow="{percent}">'
        f'<i style="width:{percent}%"></i></b>'
    )
