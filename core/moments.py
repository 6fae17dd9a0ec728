"""Days and times as each language writes them. The months are named here: a machine's own locale is not the page's."""

from __future__ import annotations

import time

from core.text import Text

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def day(at: float) -> Text:
    """2026年11月3日 or 3 Nov 2026."""
    then = time.localtime(at)
    return Text(
        f"{then.tm_year}年{then.tm_mon}月{then.tm_mday}日", f"{then.tm_mday} {_MONTHS[then.tm_mon - 1]} {then.tm_year}"
    )


def moment(at: float, now: float | None = None) -> Text:
    """The day and time, the year where it is not that of `now`: 11月3日 09:05 or 3 Nov 09:05."""
    then, today = time.localtime(at), time.localtime(now)
    clock = f"{then.tm_hour:02}:{then.tm_min:02}"
    if then.tm_year != today.tm_year:
        return Text(f"{day(at).zh} {clock}", f"{day(at).en} {clock}")
    return Text(f"{then.tm_mon}月{then.tm_mday}日 {clock}", f"{then.tm_mday} {_MONTHS[then.tm_mon - 1]} {clock}")
