"""Our errors, and Litestar's, as HTTP: the one place that knows which status and code each becomes.

Everywhere the OpenAI shape ``{"error": {message, type, param, code}}``; the owner's routes repeat the text as
``detail``.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, NotFoundException

from app import errors
from app.api.queries import refusal_of

log = logging.getLogger("airlab")

Headers = list[tuple[bytes, bytes]]


class Answer(NamedTuple):
    """An error on its way out."""

    status: int
    error: dict[str, Any]
    headers: dict[str, str]


_TABLE: tuple[tuple[type[errors.AirLabError], int, str, str | None], ...] = (
    # The first class that fits counts, so the special ones come first.
    (errors.BadRequestError, 400, "invalid_request_error", None),
    (errors.RouteNotFoundError, 404, "invalid_request_error", None),
    (errors.WrongMethodError, 405, "invalid_request_error", None),
    (errors.NotAuthenticatedError, 401, "authentication_error", "invalid_api_key"),
    (errors.NotPermittedError, 403, "permission_error", None),
    (errors.ModelNotFoundError, 404, "invalid_request_error", "model_not_found"),
    (errors.SessionNotFoundError, 404, "invalid_request_error", "session_not_found"),
    (errors.SessionBusyError, 409, "invalid_request_error", "session_busy"),
    (errors.KeyReusedError, 422, "invalid_request_error", "idempotency_key_reused"),
    (errors.WeightsMissingError, 404, "invalid_request_error", "model_not_found"),
    (errors.WeightsBrokenError, 503, "server_error", "model_unavailable"),
    (errors.ToolNotFoundError, 404, "invalid_request_error", "tool_not_found"),
    (errors.ApprovalNotFoundError, 404, "invalid_request_error", "approval_not_found"),
    (errors.ManifestRefusedError, 400, "invalid_request_error", "manifest_refused"),
    (errors.ManifestEditError, 409, "invalid_request_error", "manifest_not_editable"),
    (errors.ManifestReadOnlyError, 409, "invalid_request_error", "manifest_read_only"),
    (errors.AlreadyThereError, 409, "invalid_request_error", "already_there"),
    (errors.ManifestBusyError, 503, "server_error", "manifest_busy"),
    (errors.ManifestError, 422, "invalid_request_error", "manifest_invalid"),
    (errors.PreconditionFailedError, 412, "invalid_request_error", "precondition_failed"),
    (errors.ConfirmationNeededError, 409, "invalid_request_error", "confirmation_needed"),
    (errors.TooManyFailuresError, 429, "rate_limit_error", "rate_limit_exceeded"),
    (errors.QueueFullError, 429, "rate_limit_error", "rate_limit_exceeded"),
    (errors.UnavailableError, 503, "server_error", "model_unavailable"),
    (errors.DoesNotFitError, 503, "server_error", "insufficient_memory"),
    (errors.ModelFailedError, 503, "server_error", "model_unavailable"),
    (errors.StorageFullError, 507, "server_error", "storage_full"),
    (errors.StorageError, 500, "server_error", "storage_error"),
    (errors.DownloadNotFoundError, 404, "invalid_request_error", "download_not_found"),
    (errors.DownloadError, 502, "server_error", "download_failed"),
    (errors.EngineError, 503, "server_error", "model_unavailable"),
    (errors.WaitTimeoutError, 504, "server_error", "timeout"),
    (errors.RingError, 508, "server_error", "loop_detected"),
    (errors.EngineAnsweredError, 502, "server_error", "upstream_error"),
    (errors.UpstreamStalledError, 502, "server_error", "upstream_stalled"),
    (errors.UpstreamError, 502, "server_error", "upstream_error"),
)


def answer_for(exc: BaseException) -> Answer:
    """What a client is told of an exception; one that is not ours is logged and told as 500 without its text."""
    if not isinstance(exc, errors.AirLabError):
        log.error("a request failed in a way that AirLab has no words for", exc_info=exc)
        return Answer(500, _error("AirLab failed at this request; its log has the reason", "server_error"), {})
    status, type_, code = next((row[1:] for row in _TABLE if isinstance(exc, row[0])), (500, "server_error", None))
    error = _error(exc.message, type_, param=getattr(exc, "param", None), code=getattr(exc, "code", None) or code)
    headers: dict[str, str] = {}
    if isinstance(exc, errors.ContextTooLongError):
        error |= {"n_prompt_tokens": exc.prompt_tokens, "n_ctx": exc.context_tokens}
    if isinstance(exc, errors.UnavailableError):
        headers["retry-after"] = str(max(1, math.ceil(exc.retry_after_s)))
    if isinstance(exc, errors.WrongMethodError):
        headers["allow"] = exc.allowed
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return Answer(status, error, headers)


def litestar_handler(request: Request[Any, Any, Any], exc: Exception) -> Response[dict[str, Any]]:
    """Litestar's exception handler for everything, its own exceptions included."""
    if isinstance(exc, NotFoundException):
        exc = errors.RouteNotFoundError(f"there is no {request.url.path:.100}; /schema shows what there is")
    answer = _of_litestar(request, exc) if isinstance(exc, HTTPException) else answer_for(_ours(exc))
    content = {"error": answer.error, "detail": answer.error["message"]}
    return Response(content, status_code=answer.status, headers=answer.headers, media_type="application/json")


def _ours(exc: Exception) -> Exception:
    # What reading a hostile body raises in Litestar: not JSON, nested without end, not UTF-8.
    if isinstance(exc, msgspec.MsgspecError | RecursionError | UnicodeDecodeError):
        return errors.BadRequestError(f"the body is no valid JSON: {exc}")
    return exc


def _of_litestar(request: Request[Any, Any, Any], exc: HTTPException) -> Answer:
    type_ = "invalid_request_error" if exc.status_code < 500 else "server_error"
    problems = [each for each in exc.extra if isinstance(each, dict)] if isinstance(exc.extra, list) else []
    texts = [refusal_of(request, each) for each in problems]
    param = next((str(each["key"]) for each in problems if "key" in each), None)
    headers = {name.lower(): value for name, value in (exc.headers or {}).items()}
    return Answer(exc.status_code, _error("; ".join(texts) or exc.detail, type_, param=param), headers)


def _error(message: str, type_: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"message": message, "type": type_, "param": param, "code": code}
