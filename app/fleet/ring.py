"""Which AirLabs a request came through, so that none passes it on in a ring. Knows no HTTP but one header's value.

A model on another server may there be a model on another server again. Two AirLabs that have a model of each other
would pass one request on for ever, and fill each other's slots with it.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

from app.errors import BadRequestError, RingError

HEADER = b"x-airlab-via"
"""Holds an id for each AirLab that passed the request on, the first one first."""
MOST_HOPS = 3
"""A request is passed on so often at most; a longer chain is more likely a ring that lost its header on the way."""

OWN = secrets.token_hex(8)
"""This AirLab's id. Drawn anew at each start: it says nothing of this host, and no request outlives the process that
passes it on."""
_ID = re.compile(r"[0-9a-f]{16}")
_came_through: ContextVar[str] = ContextVar("came_through", default="")
# A variable of the request's context, and no argument: between the edge and the connection lie the queue, the turn and
# its rounds, and none of them has to do with it. Tasks that a request starts inherit it.


def came_through(header: bytes) -> None:
    """Keep what the request of this task came with in its header; empty for none."""
    _came_through.set(header.decode("latin-1"))


def is_passed_on() -> bool:
    """Whether an AirLab sent the request of this task, this one or another."""
    return bool(_came_through.get())


def require_no_ring(model: str) -> None:
    """See that the request of this task may be passed on; asked before it waits, as a ring waits for itself.

    Raises:
        RingError: It came through this AirLab before, or through too many others.
        BadRequestError: Its header holds what no AirLab writes there.
    """
    ids = _ids()
    if any(not _ID.fullmatch(each) for each in ids):
        raise BadRequestError("X-AirLab-Via is AirLab's own header; send none", param="X-AirLab-Via")
    if OWN in ids:
        raise RingError(
            f"{model} is not passed on: this request came through this AirLab before, so servers have models of each "
            "other in a ring; to fix: let one of them run the model itself"
        )
    if len(ids) >= MOST_HOPS:
        raise RingError(
            f"{model} is not passed on: this request came through {len(ids)} AirLabs already; to fix: name the server "
            "that runs the model in `remote.url`"
        )


def way() -> str:
    """The header's value for what is passed on for the request of this task."""
    return ", ".join([*_ids(), OWN])


def _ids() -> list[str]:
    came = _came_through.get()
    return [each.strip() for each in came.split(",")] if came else []
