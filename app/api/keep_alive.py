"""``keep_alive`` of a request: how long its model stays loaded when nobody uses it."""

from __future__ import annotations

import math

from app.errors import BadRequestError
from app.units import parse_duration_s

KeepAlive = float | str
"""Seconds or a duration such as 10m; 0 to unload it when nobody uses it any more, -1 to keep it."""
_MOST_S = 30 * 86400


def keep_alive_s(value: KeepAlive | None) -> float | None:
    """Read it: seconds, infinite for -1; None where the request says nothing.

    Raises:
        BadRequestError: It is neither, or longer than 30 days.
    """
    if value is None:
        return None
    try:
        seconds = _seconds(value)
    except ValueError as exc:
        raise BadRequestError(f"keep_alive: {exc}", param="keep_alive") from exc
    if seconds == -1:
        return math.inf
    if not 0 <= seconds <= _MOST_S:
        message = f"keep_alive is {value!r:.40}; give 0 to {_MOST_S} seconds, a duration such as 10m, or -1 to keep it"
        raise BadRequestError(message, param="keep_alive")
    return seconds


def _seconds(value: KeepAlive) -> float:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return parse_duration_s(value[:40])
