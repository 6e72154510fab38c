"""Ports of this machine that nobody else is given."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """A port on which nobody listens, for a server that is told its number; until the block ends, however often.

    One that was free a moment ago may be another process's by the time the server binds it. This one is bound, and so
    is given to nobody who takes any; a server that reuses addresses, as all of them do, can bind it as well.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
