"""Requests that write to a hub: who may hear the token, what is tried again, and each refusal as a sentence."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from core.errors import ModelError
from core.hub import Hub, authority, strange_answer, unreachable
from core.models import Stopped
from core.redact import redact
from core.text import Text
from core.waiting import Quiet, waited

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 5
Done = TypeVar("Done")
_AGAIN = (408, 429, 500, 502, 503, 504)
_MOST_SAID = 400


@contextlib.contextmanager
def connection() -> Iterator[httpx.Client]:
    """A client that writes: a hub may take its time over a large file, and a redirect never gets its bytes."""
    import httpx

    with httpx.Client(timeout=httpx.Timeout(60.0, connect=15.0, read=180.0, pool=None)) as client:
        yield client


class Wire:
    """A client, a hub, and the token that only this hub hears. `pause(n)`: seconds before the n-th attempt.

    `quiet` hears of answers that are late, while nothing large is sent.
    """

    def __init__(
        self,
        client: httpx.Client,
        hub: Hub,
        token: str,
        stop: threading.Event | None = None,
        pause: Callable[[int], float] | None = None,
        quiet: Quiet | None = None,
    ) -> None:
        self.client, self.hub, self.stop = client, hub, stop or threading.Event()
        self._token, self._pause, self._quiet = token, pause or _pause, quiet

    def ask(
        self,
        method: str,
        path: str,
        about: str,
        *,
        body: object = None,
        lines: bytes | None = None,
        missing: bool = False,
        again: bool = True,
        signed: bool = False,
    ) -> httpx.Response | None:
        """The hub's answer to a request with a JSON body, or with JSON `lines`; `about` is the repository.

        With `missing`, None where there is no such thing. `again`: a request that may be made twice. `signed`: the address
        itself is the permission, and no token goes there. Raises ModelError.
        """
        url = path if "://" in path else f"{self.hub.endpoint}{path}"
        headers = {"User-Agent": "onecard"} | ({} if signed else self.authority(url))
        if lines is not None:
            headers["Content-Type"] = "application/x-ndjson"
        attempt = 0
        while True:
            self.check()
            attempt += 1
            made = functools.partial(self._once, method, url, headers, body, lines)
            # What may be done already is waited for: whoever stops it would else be told that it was not.
            problem, answer = waited(made, self.stop if again else None, self._quiet)
            # Nothing reached the hub, or it said that it did nothing.
            harmless = problem is None and answer is not None and answer.status_code in (429, 503)
            more = attempt < ATTEMPTS and (again or harmless)
            if problem is not None and not more:
                raise problem
            if answer is not None and not (answer.status_code in _AGAIN and more):
                return self._judged(answer, about, missing)
            self.rest(attempt, answer)

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: object, lines: bytes | None
    ) -> tuple[ModelError | None, httpx.Response | None]:
        import httpx

        try:
            if lines is not None:
                return None, self.client.request(method, url, headers=headers, content=lines)
            return None, self.client.request(method, url, headers=headers, json=body)
        except httpx.HTTPError as error:
            return unreachable(self.hub, error), None

    def _judged(self, answer: httpx.Response, about: str, missing: bool) -> httpx.Response | None:
        if missing and answer.status_code in (401, 404):
            return None
        if answer.status_code >= 300:
            raise self.refused(answer, about)
        return answer

    def read(self, answer: httpx.Response | None) -> dict[str, object]:
        """The JSON object of an answer. Raises ModelError if it is none."""
        try:
            found = answer.json() if answer is not None else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise strange_answer(self.hub)
        return found

    def apart(self, work: Callable[[], Done]) -> Done:
        """What `work` returns or raises, waited for no longer than somebody wants it: a hub may be silent for minutes."""
        return waited(work, self.stop)

    def check(self) -> None:
        """Raise Stopped if nobody wants it any more."""
        if self.stop.is_set():
            raise Stopped

    def rest(self, attempt: int, answer: httpx.Response | None = None) -> None:
        """Wait before the next attempt, as long as the hub asks for."""
        asked = answer.headers.get("Retry-After", "") if answer is not None else ""
        self.stop.wait(min(60.0, float(asked)) if asked.isdigit() else self._pause(attempt))

    def authority(self, url: str) -> dict[str, str]:
        """The token's headers for this address: the hub itself may hear it, no other host, and nothing unencrypted."""
        asked, ours = urlsplit(url), urlsplit(self.hub.endpoint)
        host, home = asked.hostname or "", (ours.hostname or "").removeprefix("www.")
        inside = host == ours.hostname or host == home or host.endswith(f".{home}")
        safe = asked.scheme == "https" or host in ("127.0.0.1", "localhost")
        # On this machine every port is another program.
        same = host not in ("127.0.0.1", "localhost") or asked.netloc == ours.netloc
        return authority(self.hub, self._token) if inside and safe and same else {}

    def said(self, answer: httpx.Response) -> str:
        """The hub's own words, without anything secret."""
        words = answer.headers.get("X-Error-Message", "")
        try:
            found = answer.json()
        except ValueError:
            found = None
        for key in ("error", "message", "Message", "msg") if isinstance(found, dict) else ():
            words = words or (found[key] if isinstance(found.get(key), str) else "")
        return redact(" ".join(words.split())[:_MOST_SAID], (self._token,) if self._token else ())

    def refused(self, answer: httpx.Response, about: str) -> ModelError:
        """The error for an answer that is no success."""
        status, words, label = answer.status_code, self.said(answer), self.hub.label
        zh, en = f"：“{words}”" if words else "", f" It says: “{words}”." if words else ""
        if status == 401:
            return ModelError(
                Text(
                    f"{label.zh} 不接受这个令牌（HTTP 401）：它无效、过期或被撤销了。请{how_to_log_in(self.hub).zh}。",
                    f"{label.en} does not accept the token (HTTP 401): it is wrong, expired or revoked. "
                    f"{how_to_log_in(self.hub).en}.",
                )
            )
        if status == 403:
            return ModelError(
                Text(
                    f"{label.zh} 不允许写入 {about}（HTTP 403）{zh}。令牌要有写入权限，账号要能写入 {about.partition('/')[0]}，"
                    "空间也要够。",
                    f"{label.en} does not allow writing to {about} (HTTP 403).{en} The token needs the right to write, the "
                    f"account a place in {about.partition('/')[0]}, and there must be space left.",
                )
            )
        if status == 404:
            return ModelError(
                Text(
                    f"{label.zh} 上没有 {about}（HTTP 404），或这个账号看不到它。请检查组织和名称。",
                    f"{label.en} has no {about} (HTTP 404), or this account cannot see it. Check the owner and the name.",
                )
            )
        if status == 429:
            return ModelError(
                Text(
                    f"{label.zh} 说请求太多（HTTP 429）。请过一会儿再试。",
                    f"{label.en} says these are too many requests (HTTP 429). Try again later.",
                )
            )
        return ModelError(
            Text(
                f"{label.zh} 没有接受 {about}（HTTP {status}）{zh}。请按它说的改，或稍后再试。",
                f"{label.en} did not accept {about} (HTTP {status}).{en} Mend what it names, or try again later.",
            )
        )


def how_to_log_in(hub: Hub) -> Text:
    """How a person gives OneCard a token that may write. Starts in the middle of a sentence in Chinese."""
    if hub.name == "hf":
        return Text(
            "在 https://huggingface.co/settings/tokens 新建一个可写入（write）的令牌，再运行 hf auth login，或设置环境变量 HF_TOKEN"
            " 后重启",
            "Make a token with write access at https://huggingface.co/settings/tokens, then run hf auth login, or set HF_TOKEN and "
            "restart",
        )
    return Text(
        "在 https://www.modelscope.cn/my/myaccesstoken 取得访问令牌，设置环境变量 MODELSCOPE_API_TOKEN 后重启",
        "Take the access token at https://www.modelscope.cn/my/myaccesstoken, set MODELSCOPE_API_TOKEN and restart",
    )


def _pause(attempt: int) -> float:
    return float(min(30, 2**attempt))
