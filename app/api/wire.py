"""How AirLab's own words look on the wire: the shapes of ASGI, and the errors that OpenAI's clients read.

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


class RefusedError(Exception):
    """A request that the edge answers itself, in OpenAI's error shape."""

    def __init__(self, status: int, message: str, *, code: str | None = None, closes: bool = False) -> None:
        """``closes``: where the next request begins on this connection is uncertain, so there will be none."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.closes = closes

    async def answer(self, send: Send) -> None:
        """Send the answer."""
        type_ = "permission_error" if self.status == 403 else "invalid_request_error"
        body = error_body(self.message, type_, code=self.code)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if self.closes:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
