"""The API's routes: /v1/models, /v1/chat/completions, /v1/completions. Carries requests to core and answers back.

The event loop only passes things on; every answer has a thread of a bounded pool, in which core's stream blocks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from core import openai
from core.openai import Kind
from core.openai_errors import ApiError, explain
from core.served import Served, ServedModel
from core.text import Language, Text
from ui.answering import Answering, Floor
from ui.guard import API, is_api

_ENDPOINTS: dict[str, tuple[str, ...]] = {
    f"{API}/models": ("GET", "HEAD"),
    f"{API}/models/": ("GET", "HEAD"),
    f"{API}/chat/completions": ("POST",),
    f"{API}/completions": ("POST",),
}
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Endpoint:
    """The API over what is served."""

    def __init__(self, served: Served, floor: Floor | None = None) -> None:
        self._served = served
        self._floor = floor or Floor()
        self._since = int(time.time())

    def close(self) -> None:
        """End every answer under way within a token; nothing is answered any more."""
        self._floor.close()

    def routes(self) -> list[BaseRoute]:
        """To be added before any mount."""
        return [
            Route(f"{API}/models", self._models, methods=["GET"]),
            Route(f"{API}/models/{{name:path}}", self._model, methods=["GET"]),
            Route(f"{API}/chat/completions", self._asking("chat"), methods=["POST"]),
            Route(f"{API}/completions", self._asking("text"), methods=["POST"]),
            Route(f"{API}/{{rest:path}}", self._elsewhere, methods=_METHODS),
        ]

    def _models(self, _request: Request) -> Response:
        models = self._served.models()
        return JSONResponse({"object": "list", "data": [self._shown(model, models[0]) for model in models]})

    def _model(self, request: Request) -> Response:
        if not request.path_params["name"]:
            return self._models(request)
        models = self._served.models()
        try:
            found = openai.find(models, request.path_params["name"])
        except ApiError as error:
            return refusal(request, error)
        return JSONResponse(self._shown(found, models[0]))

    def _shown(self, model: ServedModel, base: ServedModel) -> dict[str, object]:
        made = model.created or self._since
        entry = {"id": model.name, "object": "model", "created": made, "owned_by": "onecard", "root": base.name}
        if model.adapter is None:
            return {**entry, "parent": None}
        return {**entry, "parent": base.name, "title": model.title, "system": model.system}

    def _asking(self, kind: Kind) -> Callable[[Request], Awaitable[Response]]:
        async def ask(request: Request) -> Response:
            try:
                body = await _body(request)
                asked = await run_in_threadpool(lambda: openai.read(kind, body, self._served.models()))
            except ApiError as error:
                return refusal(request, error)
            return Answering(asked, self._served, self._floor, language(request))

        return ask

    def _elsewhere(self, request: Request) -> Response:
        path = request.url.path
        for known, methods in _ENDPOINTS.items():
            if path == known or (known.endswith("/") and path.startswith(known)):
                said = " / ".join(methods)
                text = Text(zh=f"{known} 只接受 {said}。", en=f"{known} takes {said} only.")
                return refusal(request, ApiError(text, 405, code="method_not_allowed"), {"allow": ", ".join(methods)})
        there = ", ".join(f"{methods[0]} {known}" for known, methods in _ENDPOINTS.items())
        text = Text(
            zh=f"这里没有 {path[:200]}。现有：{there}。", en=f"There is no {path[:200]} here. There are: {there}."
        )
        return refusal(request, ApiError(text, 404, code="unknown_url"))


def language(request: Request) -> Language:
    """The language of error messages: Chinese where it is the first asked for, else English."""
    return "zh" if request.headers.get("accept-language", "").strip().lower().startswith("zh") else "en"


def refusal(request: Request, error: ApiError, headers: dict[str, str] | None = None) -> Response:
    """The response that says why a request is not answered."""
    return JSONResponse(error.body(language(request)), error.status, {**error.headers, **(headers or {})})


def broken(request: Request, error: Exception) -> Response:
    """What a fault of ours looks like from outside; the server logs it with its traceback."""
    if is_api(request.url.path):
        return refusal(request, explain(error))
    return PlainTextResponse("Internal Server Error", 500)


async def _body(request: Request) -> bytes:
    """The body of a request that says it is JSON. Raises ApiError for another type or a body over the limit."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Only JSON: what a page of another site can send without asking first is never that.
    if not re.fullmatch(r"application/(json|[\w.-]+\+json)", kind):
        zh = "请求应是 JSON：请加上 content-type: application/json。"
        raise ApiError(Text(zh=zh, en="The request must be JSON: send content-type: application/json."), 415)
    taken = bytearray()
    try:
        async for part in request.stream():
            taken += part
            if len(taken) > openai.MOST_BYTES:
                size = f"{openai.MOST_BYTES // 1_000_000} MB"
                raise ApiError(
                    Text(zh=f"请求太大：上限是 {size}。", en=f"The request is too large: the limit is {size}."), 413
                )
    except ClientDisconnect:  # nobody is there to read this
        raise ApiError(Text(zh="请求没有传完。", en="The request was not sent to its end."), 400) from None
    return bytes(taken)
