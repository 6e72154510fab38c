"""What ``huggingface_hub`` speaks HTTP with: its answers are bounded in bytes and in time, and lead to no other host.

The library reads an answer whole, however long it is and however slowly it comes, and follows redirects anywhere. Its
time limits begin anew with every byte, so a server that sends one now and then, in a body or before it, would hold a
thread for ever: here the connection is cut off when the time is over. To be imported at first need: it imports the
library, and sets its client for all of this process, in which nobody else uses it.
"""

from __future__ import annotations

import contextlib
import contextvars
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub import set_client_factory

from app.units import MIB

MAX_ANSWER_BYTES = 4 * MIB
"""The list of a repository with 500 files and their checksums takes 300 KiB."""


class AnswerError(Exception):
    """The hub answers in a way that no hub does."""


class _Deadline:
    """Cuts off the connections of one thread's requests when their time is over."""

    def __init__(self) -> None:
        self.is_over = False
        self._lock = threading.Lock()
        self._link: socket.socket | None = None

    def see(self, event: str, info: Mapping[str, Any]) -> None:
        """Told what a connection does: each one that is made, and once more when it is encrypted."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        with self._lock:
            self._link = info["return_value"].get_extra_info("socket")
            if self.is_over:
                self._cut()

    def end(self) -> None:
        """The time is over."""
        with self._lock:
            self.is_over = True
            self._cut()

    def _cut(self) -> None:
        if self._link is not None:
            # Whoever reads from it is at its end. Below TLS, which no two threads may use at once.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._link, socket.SHUT_RDWR)


_deadline: contextvars.ContextVar[_Deadline | None] = contextvars.ContextVar("_deadline", default=None)


@contextmanager
def answers_within(seconds: float) -> Iterator[None]:
    """Each answer in the block has come whole by then, or AnswerError is raised. To find an address may take longer."""
    deadline = _Deadline()
    before = _deadline.set(deadline)
    timer = threading.Timer(seconds, deadline.end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as exc:
        if deadline.is_over:
            raise AnswerError("its answer does not end") from exc
        raise
    finally:
        timer.cancel()
        _deadline.reset(before)


class _Bounded(httpx2.SyncByteStream):
    """A body of at most so many bytes."""

    def __init__(self, stream: httpx2.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        came = 0
        for piece in self._stream:
            came += len(piece)
            if came > MAX_ANSWER_BYTES:
                raise AnswerError(f"its answer is longer than {MAX_ANSWER_BYTES // MIB} MiB")
            yield piece

    def close(self) -> None:
        self._stream.close()


def _look_at(answer: httpx2.Response) -> None:
    """Before the body is read: refuse what could be more than it seems, or lead elsewhere."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise AnswerError("it compresses its answer although it was asked not to")
    if answer.has_redirect_location:
        after = answer.url.join(answer.headers["location"])
        is_same = (after.scheme, after.port) == (answer.url.scheme, answer.url.port) or after.scheme == "https"
        if after.host != answer.url.host or not is_same:
            raise AnswerError(f"it sends us to {after.host}; if that is where it is now, set HF_ENDPOINT")
    if isinstance(answer.stream, httpx2.SyncByteStream):
        answer.stream = _Bounded(answer.stream)


def _watch(request: httpx2.Request) -> None:
    """Before a request, and each that a redirect makes of it."""
    deadline = _deadline.get()
    if deadline is not None:
        request.extensions = {**request.extensions, "trace": deadline.see}


def _client() -> httpx2.Client:
    return httpx2.Client(
        headers={"accept-encoding": "identity"},
        event_hooks={"request": [_watch], "response": [_look_at]},
        # One that is used again would not be seen to be made.
        limits=httpx2.Limits(max_keepalive_connections=0),
        follow_redirects=True,
    )


set_client_factory(_client)
