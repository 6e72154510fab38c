"""How AirLab's own words look on the wire: the shapes of ASGI, the errors that OpenAI's and Anthropic's clients read.

Knows no request and no route: what is refused, and with which status, is decided by its callers.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def error_body(message: str, type_: str, *, param: str | None = None, code: str | None = None) -> bytes:
    """An error as JSON in OpenAI's shape; all four keys are always there, since clients index them.

    Args:
        message: What was wrong and what to do, for a person.
        type_: OpenAI's kind of error, such as ``invalid_request_error``.
        param: The field at fault.
        code: What a program compares, such as ``invalid_host``.
    """
    return json.dumps({"error": {"message": message, "type": type_, "param": param, "code": code}}).encode()


_ANTHROPIC_PATH = "/v1/messages"
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def speaks_anthropic(path: str) -> bool:
    """Whether a path is one of Anthropic's, whose clients read errors of another shape."""
    return path == _ANTHROPIC_PATH or path.startswith(f"{_ANTHROPIC_PATH}/")


def anthropic_error_body(status: int, message: str) -> bytes:
    """An error as JSON in Anthropic's shape; its clients go by the status, and show the type."""
    type_ = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return json.dumps({"type": "error", "error": {"type": type_, "message": message}}).encode()


class RefusedError(Exception):
    """A request that the edge answers itself."""

    def __init__(self, status: int, message: str, *, code: str | None = None, closes: bool = False) -> None:
        """``closes``: where the next request begins on this connection is uncertain, so there will be none."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.closes = closes

    async def answer(self, send: Send, path: str) -> None:
        """Send the answer, in the error shape of those who ask for this path."""
        type_ = "permission_error" if self.status == 403 else "invalid_request_error"
        body = error_body(self.message, type_, code=self.code)
        if speaks_anthropic(path):
            body = anthropic_error_body(self.status, self.message)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if self.closes:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
