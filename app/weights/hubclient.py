"""What ``huggingface_hub`` speaks HTTP with: its answers are bounded in bytes and in time, and lead to no other host.

The library reads an answer whole, however long it is and however slowly it comes, and follows redirects anywhere. To be
imported at first need: it imports the library.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import set_client_factory

from app.units import MIB

MAX_ANSWER_BYTES = 4 * MIB
"""The list of a repository with 500 files and their checksums takes 300 KiB."""

_ends_s: contextvars.ContextVar[float] = contextvars.ContextVar("_ends_s")


class AnswerError(Exception):
    """The hub answers in a way that no hub does."""


@contextmanager
def answers_within(seconds: float) -> Iterator[None]:
    """Every answer in the block has come whole by then, or AnswerError is raised when more of it comes."""
    before = _ends_s.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends_s.reset(before)


class _Bounded(httpx2.SyncByteStream):
    """A body of at most so many bytes, by a time."""

    def __init__(self, stream: httpx2.SyncByteStream, ends_s: float) -> None:
        self._stream, self._ends_s = stream, ends_s

    def __iter__(self) -> Iterator[bytes]:
        came = 0
        for piece in self._stream:
            came += len(piece)
            if came > MAX_ANSWER_BYTES:
                raise AnswerError(f"its answer is longer than {MAX_ANSWER_BYTES // MIB} MiB")
            if time.monotonic() > self._ends_s:
                raise AnswerError("its answer does not end")
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
        answer.stream = _Bounded(answer.stream, _ends_s.get(float("inf")))


def _client() -> httpx2.Client:
    headers = {"accept-encoding": "identity"}
    return httpx2.Client(headers=headers, event_hooks={"response": [_look_at]}, follow_redirects=True)


set_client_factory(_client)
