"""What a client of the API is told when a request cannot be answered: OpenAI's error object and its HTTP status."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import BusyError, ConfigError, DatasetError, ModelError, UserError, WontFitError
from core.text import Language, Text

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
_SHOWN = 50
_RETRY_SECONDS = 2
_CODES = {400: "invalid_value", 413: "request_too_large", 415: "unsupported_media_type"}


class ApiError(UserError):
    """A request that is not answered. `param`: the field at fault. `retry_after`: seconds until it may go better."""

    def __init__(
        self, text: Text, status: int = 400, param: str | None = None, code: str = "", retry_after: int | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.param = param
        self.code = code or _CODES.get(status, "")
        self.retry_after = retry_after

    def body(self, language: Language = "en") -> dict[str, object]:
        """The JSON that goes out."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        said = {"message": self.of(language), "type": kind, "param": self.param, "code": self.code or None}
        return {"error": said}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer: whether, and when, asking again makes sense."""
        if self.retry_after is not None:
            return {"retry-after": str(self.retry_after)}
        # OpenAI's clients repeat a request that ended as 5xx; one that needs a person would load a model three times.
        return {"x-should-retry": "false"} if self.status >= 500 else {}


def explain(error: BaseException, prompt: str = "messages") -> ApiError:
    """`error` as a client is told of it; what is no UserError is a fault of ours and says nothing of the inside.

    `prompt`: the field that says what to answer.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ConfigError):
        too_long = error.field == "messages"
        return ApiError(
            error.text, 400, prompt if too_long else error.field, "context_length_exceeded" if too_long else ""
        )
    if isinstance(error, DatasetError):
        return ApiError(error.text, 400, prompt)
    if isinstance(error, BusyError):
        return ApiError(error.text, 503, code="busy", retry_after=_RETRY_SECONDS)
    if isinstance(error, WontFitError):
        return ApiError(error.text, 503, code="out_of_memory")
    if isinstance(error, ModelError):
        return ApiError(error.text, 503, "model", "model_unavailable")
    if isinstance(error, UserError):
        return ApiError(error.text, 503, code="unavailable")
    return ApiError(
        Text(
            zh="程序内部出错，这是我们的问题。详情在启动程序的终端里。",
            en="An internal error; this is our fault. Details are in the terminal that started the program.",
        ),
        500,
        code="internal_error",
    )


def unknown_model(name: str, known: Sequence[str]) -> ApiError:
    """404, with the names that there are."""
    shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    return ApiError(
        Text(
            zh=f"没有名为“{name[:200]}”的模型。现有：{shown}。",
            en=f"There is no model “{name[:200]}”. There are: {shown}.",
        ),
        404,
        "model",
        "model_not_found",
    )


def too_many(waiting: int) -> ApiError:
    """429: the queue is full."""
    return ApiError(
        Text(
            zh=f"已有 {waiting} 个请求在排队，没有再接受新的。请过 {_RETRY_SECONDS} 秒再试。",
            en=f"{waiting} requests are waiting already; no more are taken in. Try again in {_RETRY_SECONDS} seconds.",
        ),
        429,
        code="queue_full",
        retry_after=_RETRY_SECONDS,
    )


def closing() -> ApiError:
    """503: the server is being stopped."""
    return ApiError(
        Text(zh="程序正在退出，回答没有写完。", en="The program is closing; the answer is not complete."),
        503,
        code="closing",
    )
