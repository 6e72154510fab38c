"""HTTP to a model on another server: its address, its key, and whether it is a llama-server. Else as upstream.py."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.errors import AirLabError, BadRequestError, EngineAnsweredError, KeyRefusedError, UpstreamError
from app.fleet import ring
from app.fleet.channel import Channel
from app.fleet.upstream import Upstream

_PATH = Path("/nonexistent")


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

    def __init__(self, address: Address, key: str | None, *, context_tokens: int) -> None:
        """Open nothing yet.

        Args:
            address: Where it listens.
            key: Sent as a bearer; None sends none.
            context_tokens: What the manifest says of the model's context.
        """
        super().__init__(_PATH)
        self.is_llama_server = False
        """Known once ``look`` has asked."""
        self.context_tokens = context_tokens
        self.broke = False
        """Whether a connection was lost, or could not be made, since it was last looked at."""
        self._address, self._sends_key = address, bool(key)
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
        listed = await self.ask("/v1/models")
        entries = listed.get("data") if isinstance(listed, dict) else None
        names = [str(entry.get("id")) for entry in entries if isinstance(entry, dict)] if entries else []
        aliases = [alias for entry in entries or () if isinstance(entry, dict) for alias in entry.get("aliases") or ()]
        if names and model not in {*names, *aliases}:
            # Its words: they end up on terminals.
            shown = ", ".join(name[:100] if name.isprintable() else repr(name)[:100] for name in names[:20])
            raise UpstreamError(f"it has no model {model!r}, but {shown}")
        self.is_llama_server = await self._has_props()

    def refusal(self, status: int, body: bytes) -> AirLabError:
        """As ever, but for 401: that is about the key that AirLab sends, and no fault of the client's."""
        error = super().refusal(status, body)
        if status != 401:
            return error
        what = "does not take the key that AirLab sends" if self._sends_key else "wants a key"
        words = error.message.removeprefix(f"{self.server} refused the request: ")
        return KeyRefusedError(f"{self.server} {what} (401): {words}")

    async def _has_props(self) -> bool:
        """Only llama-server itself answers /props, and what else it needs to count and to guide."""
        try:
            props = await self.ask("/props")
        except (BadRequestError, EngineAnsweredError, UpstreamError):
            return False
        return isinstance(props, dict) and "default_generation_settings" in props

    async def _connect(self) -> Channel:
        return await Channel.connect_tcp(self._address.host, self._address.port, self._tls)

    def _broken(self, exc: Exception) -> AirLabError:
        self.broke = True
        return super()._broken(exc)

    def _request(self, path: str, body: bytes | None) -> bytes:
        target = f"{self._address.root}{path}"
        if body is None:
            return f"GET {target} HTTP/1.1\r\n{self._head}\r\n".encode("ascii")
        via = f"{ring.HEADER.decode()}: {ring.way()}\r\n"
        length = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{via}"
        return f"POST {target} HTTP/1.1\r\n{self._head}{length}\r\n".encode("ascii") + body


def said(exc: AirLabError, key_env: str | None) -> str:
    """What is wrong with a server elsewhere, with what to do where that is clear; on one line, whatever it sent."""
    words = " ".join("".join(char if char.isprintable() else " " for char in exc.message).split())
    if not isinstance(exc, KeyRefusedError):
        return words
    if key_env is None:
        return f"{words}; to fix: give the model a key_env"
    return f"{words}; to fix: set the environment variable {key_env} to a key that it takes, and start AirLab anew"
