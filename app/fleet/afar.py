"""HTTP to a model on another server: its address, its key, and whether it is a llama-server. Else as upstream.py."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from app.errors import (
    AirLabError,
    BadRequestError,
    EngineAnsweredError,
    KeyRefusedError,
    QueueFullError,
    RingError,
    UnavailableError,
    UpstreamError,
    UpstreamStalledError,
)
from app.fleet import ring
from app.fleet.channel import Channel, SilentError
from app.fleet.states import Limits
from app.fleet.upstream import Upstream, words_of
from app.units import MIB

_PATH = Path("/nonexistent")
_LOOK_BYTES = MIB
"""Longest answer to a look; 1,000 models in vLLM's words take half of it."""
_SOON_S, _LATEST_S = 5.0, 3600.0
"""When to ask again where the server does not say it, and the longest wait that it is believed."""


class _Listed(Struct):
    id: str
    aliases: list[str] | None = None


class _Listing(Struct):
    """The answer to /v1/models, as far as it is read."""

    data: list[_Listed] | None = None


class _Props(Struct):
    """What tells a llama-server from others that answer /props."""

    default_generation_settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server of OpenAI's protocol listens, from a URL such as http://ray-head:8000/v1."""

    host: str
    port: int
    tls: bool
    root: str
    """Path before ``/v1``, without a slash at its end."""

    @classmethod
    def of(cls, url: str) -> Address:
        """Read the manifest's URL; with or without ``/v1`` at its end."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        root = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), tls, root)

    @property
    def netloc(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class RemoteUpstream(Upstream):
    """Connections to one server elsewhere."""

    server = "the server"

    def __init__(self, address: Address, key: str | None, *, context_tokens: int, limits: Limits | None = None) -> None:
        """Open nothing yet.

        Args:
            address: Where it listens.
            key: Sent as a bearer; None sends none.
            context_tokens: What the manifest says of the model's context.
            limits: How long it may be silent.
        """
        super().__init__(_PATH)
        self.is_llama_server = False
        """Known once ``look`` has asked."""
        self.context_tokens = context_tokens
        self.broke = False
        """Whether a connection was lost, or could not be made, since it was last looked at."""
        self._address, self._sends_key, self._limits = address, bool(key), limits or Limits()
        bearer = f"authorization: Bearer {key}\r\n" if key else ""
        self._head = f"host: {address.netloc}\r\nuser-agent: airlab\r\naccept-encoding: identity\r\n{bearer}"
        self._tls = ssl.create_default_context() if address.tls else None

    async def look(self, model: str) -> None:
        """See that it lives and has the model, and what kind of server it is.

        Raises:
            KeyRefusedError: It wants a key, or another one.
            AirLabError: It does not answer, or has no such model.
        """
        self.broke = False
        entries = (await self.ask("/v1/models", of=_Listing, limit_bytes=_LOOK_BYTES)).data or []
        if not any(model == entry.id or model in (entry.aliases or ()) for entry in entries):
            # Its words: they end up on terminals.
            names = [entry.id[:100] for entry in entries[:20]]
            shown = ", ".join(name if name.isprintable() else repr(name)[:100] for name in names)
            raise UpstreamError(f"it has no model {model!r}, but {shown or 'none at all'}")
        self.is_llama_server = await self._has_props()

    def refusal(self, status: int, body: bytes, *, retry_after: str = "") -> AirLabError:
        """As ever, but for what is about AirLab and its server, and no fault of the client's.

        After a key that was refused, and a model that is gone, the next request looks first.
        """
        words = f"({status}): {words_of(body)}"
        match status:
            case 401 if self._sends_key:
                error: AirLabError = KeyRefusedError(f"{self.server} does not take the key that AirLab sends {words}")
            case 401:
                error = KeyRefusedError(f"{self.server} wants a key {words}")
            case 403:
                whose = "the key that AirLab sends" if self._sends_key else "AirLab, which sends no key"
                error = KeyRefusedError(f"{self.server} does not permit this to {whose} {words}")
            case 404:
                error = UnavailableError(f"{self.server} has no such model or route {words}", retry_after_s=_SOON_S)
            case 429:
                message = f"{self.server} has too much to do {words}"
                return QueueFullError(message, retry_after_s=_wait_s(retry_after))
            case 503:
                message = f"{self.server} cannot serve this now {words}"
                return UnavailableError(message, retry_after_s=_wait_s(retry_after))
            case 508:
                return RingError(f"{self.server} found a ring {words}")
            case _:
                return super().refusal(status, body)
        self.broke = True
        return error

    async def _has_props(self) -> bool:
        """Only llama-server itself answers /props, and what else it needs to count and to guide."""
        try:
            await self.ask("/props", of=_Props, limit_bytes=_LOOK_BYTES)
        except (BadRequestError, EngineAnsweredError, UnavailableError, UpstreamError):
            return False
        return True

    async def _connect(self) -> Channel:
        try:
            channel = await Channel.connect_tcp(self._address.host, self._address.port, self._tls)
        except UnicodeError as exc:  # of the encoding that names are looked up in
            raise UpstreamError(f"{self._address.host!r} is no name that could be looked up: {exc}") from exc
        channel.first_byte_s, channel.next_byte_s = self._limits.silent_s, self._limits.remote_silent_s
        return channel

    def _may_ask_again(self, body: bytes | None) -> bool:
        # A generation may have begun there all the same, and cost somebody money.
        return body is None

    def _broken(self, exc: Exception) -> AirLabError:
        self.broke = True
        if isinstance(exc, SilentError) and self._closed_because is None:
            return UpstreamStalledError(f"{self.server} {exc}")
        return super()._broken(exc)

    def _request(self, path: str, body: bytes | None) -> bytes:
        target = f"{self._address.root}{path}"
        if body is None:
            return f"GET {target} HTTP/1.1\r\n{self._head}\r\n".encode("ascii")
        via = f"{ring.HEADER.decode()}: {ring.way()}\r\n"
        length = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{via}"
        return f"POST {target} HTTP/1.1\r\n{self._head}{length}\r\n".encode("ascii") + body


def _wait_s(retry_after: str) -> float:
    """Seconds from a Retry-After; dates, which hardly anybody sends, are not read."""
    digits = retry_after.strip()
    return min(float(digits), _LATEST_S) if digits.isascii() and digits.isdigit() else _SOON_S


def said(exc: AirLabError, key_env: str | None) -> str:
    """What is wrong with a server elsewhere, with what to do where that is clear; on one line, whatever it sent."""
    words = " ".join("".join(char if char.isprintable() else " " for char in exc.message).split())
    if not isinstance(exc, KeyRefusedError):
        return words
    if key_env is None:
        return f"{words}; to fix: give the model a key_env"
    return f"{words}; to fix: set the environment variable {key_env} to a key that it takes, and start AirLab anew"
