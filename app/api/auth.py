"""Who asks, and what a route needs.

Two keys: AIRLAB_API_KEY may use the models, AIRLAB_ADMIN_KEY may also switch, load, unload and shut down. Without any
key everybody may do everything, which ``service.py`` allows on loopback only.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from app.errors import BadRequestError, NotAuthenticatedError, NotPermittedError, TooManyFailuresError
from app.settings import Settings

_FAILURES, _WINDOW_S, _ADDRESSES = 10, 60.0, 1024


class Scope(IntEnum):
    """What a route needs, and what a caller has; a higher one includes the lower ones."""

    OPEN = 0
    USE = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks."""

    name: str
    scope: Scope


@dataclass(slots=True)
class _Key:
    digest: bytes
    actor: Actor


class Auth:
    """Checks keys; remembers, for a minute, which addresses sent wrong ones."""

    def __init__(self, settings: Settings) -> None:
        """Keep digests of the keys, not the keys."""
        given = (
            (settings.api_key, Actor("api-key", Scope.USE)),
            (settings.admin_key, Actor("admin-key", Scope.ADMIN)),
        )
        self._keys = [_Key(_digest(key.get_secret_value().encode()), actor) for key, actor in given if key is not None]
        self._failures: dict[str, deque[float]] = {}

    def who(self, headers: Iterable[tuple[bytes, bytes]], *, address: str) -> Actor:
        """The caller; ``Scope.OPEN`` when keys are set and none was sent.

        Raises:
            NotAuthenticatedError: The key is none of ours.
            BadRequestError: Two different keys were sent.
            TooManyFailuresError: The same, for the eleventh time within a minute from this address.
        """
        if not self._keys:
            return Actor("anonymous", Scope.ADMIN)
        sent = _sent_key(headers)
        if sent is None:
            return Actor("anonymous", Scope.OPEN)
        digest, found = _digest(sent), None
        for key in self._keys:  # all of them, always: the time must not say which one fits
            if hmac.compare_digest(digest, key.digest):
                found = key.actor
        if found is None:
            # Only wrong keys are counted and refused: behind a proxy one bad client must not lock the others out.
            self._refuse_guessing(address)
            self._failures.setdefault(address, deque(maxlen=_FAILURES)).append(time.monotonic())
            raise NotAuthenticatedError("this is no key of this AirLab; send one as `Authorization: Bearer KEY`")
        return found

    def require(self, actor: Actor, needed: Scope) -> None:
        """Raises NotAuthenticatedError or NotPermittedError unless ``actor`` may do what needs ``needed``."""
        if actor.scope >= needed:
            return
        if actor.scope is Scope.OPEN:
            raise NotAuthenticatedError("this needs a key; send it as `Authorization: Bearer KEY`")
        raise NotPermittedError("this needs the admin key (AIRLAB_ADMIN_KEY)")

    def _refuse_guessing(self, address: str) -> None:
        failures = self._failures.get(address)
        if failures is not None and len(failures) == _FAILURES:
            rest_s = failures[0] + _WINDOW_S - time.monotonic()
            if rest_s > 0:
                raise TooManyFailuresError("too many wrong keys from this address", retry_after_s=rest_s)
        if len(self._failures) > _ADDRESSES:
            self._failures.clear()


def _digest(key: bytes) -> bytes:
    # Digests, since compare_digest refuses text that is not ASCII and tells lengths apart.
    return hashlib.sha256(key).digest()


def _sent_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    found: set[bytes] = set()
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() != b"bearer":
                raise BadRequestError("the Authorization header must be `Bearer KEY`", param="Authorization")
            found.add(key.strip())
        elif name == b"x-api-key":
            found.add(value.strip())
    found.discard(b"")  # Open WebUI sends an empty one when it has none
    if len(found) > 1:
        raise BadRequestError("Authorization and x-api-key hold different keys; send one", param="x-api-key")
    return found.pop() if found else None
