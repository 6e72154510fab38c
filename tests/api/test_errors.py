"""Every error we raise has its status and its shape; what is not ours says nothing of itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from app import errors
from app.api.errors import answer_for


def classes(root: type[errors.AirLabError] = errors.AirLabError) -> set[type[errors.AirLabError]]:
    """Those of the tree itself; what a room adds to it is built in a way of its own."""
    found = {root}.union(*(classes(child) for child in root.__subclasses__()))
    return {kind for kind in found if kind.__module__ == errors.__name__}


STATUSES: dict[str, tuple[int, str, str | None]] = {
    "BadRequestError": (400, "invalid_request_error", None),
    "ContextTooLongError": (400, "invalid_request_error", "context_length_exceeded"),
    "NotAuthenticatedError": (401, "authentication_error", "invalid_api_key"),
    "NotPermittedError": (403, "permission_error", None),
    "RouteNotFoundError": (404, "invalid_request_error", None),
    "ModelNotFoundError": (404, "invalid_request_error", "model_not_found"),
    "WeightsMissingError": (404, "invalid_request_error", "model_not_found"),
    "WeightsBrokenError": (503, "server_error", "model_unavailable"),
    "ToolNotFoundError": (404, "invalid_request_error", "tool_not_found"),
    "WrongMethodError": (405, "invalid_request_error", None),
    "ManifestReadOnlyError": (409, "invalid_request_error", "manifest_read_only"),
    "ManifestBusyError": (503, "server_error", "manifest_busy"),
    "QueueFullError": (429, "rate_limit_error", "rate_limit_exceeded"),
    "TooManyFailuresError": (429, "rate_limit_error", "rate_limit_exceeded"),
    "UpstreamError": (502, "server_error", "upstream_error"),
    "UnavailableError": (503, "server_error", "model_unavailable"),
    "DrainingError": (503, "server_error", "model_unavailable"),
    "ModelCoolingError": (503, "server_error", "model_unavailable"),
    "ModelFailedError": (503, "server_error", "model_unavailable"),
    "EngineError": (503, "server_error", "model_unavailable"),
    "WaitTimeoutError": (504, "server_error", "timeout"),
}
"""Of the client contract's table; a class that is not here only has to have a shape."""

_MORE: dict[str, dict[str, Any]] = {
    "ToolError": {"code": "x"},
    "ContextTooLongError": {"prompt_tokens": 9, "context_tokens": 8},
    "WrongMethodError": {"allowed": "GET"},
    "UnavailableError": {"retry_after_s": 1.2},
    "QueueFullError": {"retry_after_s": 1.2},
    "ModelCoolingError": {"retry_after_s": 1.2},
    "DrainingError": {"retry_after_s": 1.2},
    "ManifestBusyError": {"retry_after_s": 1.2},
    "TooManyFailuresError": {"retry_after_s": 1.2},
}


def made(kind: type[errors.AirLabError]) -> errors.AirLabError:
    return kind("what was wrong", **_MORE.get(kind.__name__, {}))


@pytest.mark.parametrize("name", STATUSES)
def test_error_has_the_status_type_and_code_of_the_contract(name: str) -> None:
    answer = answer_for(made(getattr(errors, name)))

    assert (answer.status, answer.error["type"], answer.error["code"]) == STATUSES[name]


@pytest.mark.parametrize("kind", sorted(classes(), key=str), ids=str)
def test_every_error_keeps_its_sentence_and_has_all_four_keys(kind: type[errors.AirLabError]) -> None:
    answer = answer_for(made(kind))

    assert {"message", "type", "param", "code"} <= answer.error.keys()
    assert answer.error["message"] == "what was wrong"
    assert 400 <= answer.status < 600


def test_what_can_be_tried_again_says_when_in_whole_seconds() -> None:
    for retry_after_s, told in ((0.0, "1"), (1.2, "2"), (60.0, "60")):
        answer = answer_for(errors.UnavailableError("later", retry_after_s=retry_after_s))
        assert answer.headers == {"retry-after": told}


def test_headers_that_a_status_calls_for() -> None:
    assert answer_for(errors.NotAuthenticatedError("no key")).headers == {"www-authenticate": "Bearer"}
    assert answer_for(errors.WrongMethodError("GET only", allowed="GET")).headers == {"allow": "GET"}


def test_prompt_that_is_too_long_comes_with_both_counts() -> None:
    answer = answer_for(errors.ContextTooLongError("too long", prompt_tokens=9, context_tokens=8))

    assert (answer.error["n_prompt_tokens"], answer.error["n_ctx"], answer.error["param"]) == (9, 8, "messages")


def test_error_that_is_not_ours_is_logged_and_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A traceback may hold paths, prompts or keys; the log is the owner's, the answer is anybody's."""
    with caplog.at_level(logging.ERROR, "airlab"):
        answer = answer_for(ValueError("secret"))

    assert (answer.status, answer.error["type"]) == (500, "server_error")
    assert "secret" not in str(answer)
    assert caplog.records[0].exc_info
