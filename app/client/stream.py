"""Server-sent events out of bytes: their names and their JSON. Knows nothing of what they mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from app.errors import ServerAwayError

_MOST_BYTES = 64 * 1024 * 1024
"""No event is longer; what is has not come from an AirLab."""


def read_events(pieces: Iterable[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each event, as soon as its empty line is there; comments are passed over.

    Raises:
        ServerAwayError: What comes is no stream of JSON objects.
    """
    name, data = "message", b""
    for line in _lines(pieces):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode(errors="replace")
        elif field == b"data":
            data += value + b"\n"
        elif not line:
            if data:
                yield name, _object(data)
            name, data = "message", b""


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    # By hand: str.splitlines, which httpx uses, also breaks at U+2028 and others, which stand inside of JSON texts.
    rest = bytearray()
    for piece in pieces:
        searched = len(rest)
        rest += piece
        while (end := rest.find(b"\n", searched)) >= 0:
            yield bytes(rest[:end]).removesuffix(b"\r")
            del rest[: end + 1]
            searched = 0
        if len(rest) > _MOST_BYTES:
            raise ServerAwayError(f"an event of more than {_MOST_BYTES} bytes: that is no AirLab")


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ServerAwayError(f"what came is no JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ServerAwayError("what came is no JSON object")
    return found
