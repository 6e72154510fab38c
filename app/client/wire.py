"""The connection to an AirLab: keys, time limits, its errors as ours, and asking again while it is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from app.client.events import Retrying
from app.errors import AnsweredError, ServerAwayError

_CONNECT_S = 5.0
_SILENT_S = 60.0
"""A stream says something every 15 s, if only that it is still there."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 8.0
_LATER = frozenset({429, 503})
"""With Retry-After: nothing was done, and a later try can work."""

Params = Mapping[str, str | int | bool | list[str] | None]


class Patience:
    """How long an AirLab that is away is waited for: twice as long each time, ``limit_s`` seconds in all."""

    def __init__(self, limit_s: float) -> None:
        """0 for not at all."""
        self._left_s, self._next_s = limit_s, _FIRST_WAIT_S

    def wait_s(self, error: ServerAwayError, *, asked_s: float = 0.0) -> float:
        """Seconds until the next try, at least what AirLab ``asked`` for; raises ``error`` when there is none left."""
        wait_s = max(self._next_s, asked_s)
        if wait_s > self._left_s:
            raise error
        self._left_s -= wait_s
        self._next_s = min(self._next_s * 2, _LONGEST_WAIT_S)
        return wait_s


class LaterError(ServerAwayError):
    """AirLab is there, but not ready: it says itself when to ask again."""

    def __init__(self, message: str, *, after_s: float) -> None:
        """``after_s`` in seconds."""
        super().__init__(message)
        self.after_s = after_s


class Wire:
    """Sends requests, and waits for an AirLab that is away where that cannot do anything twice."""

    def __init__(
        self,
        url: str,
        key: str | None,
        admin_key: str | None,
        *,
        patience_s: float,
        told: Callable[[Retrying], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """``told`` hears of each wait before it begins."""
        self.url, self.patience_s = url.rstrip("/"), patience_s
        self._keys = {False: key or admin_key, True: admin_key or key}
        self._told, self.pause = told, pause
        try:
            # No proxy of the environment's, and no redirect is followed: the key is for AirLab alone.
            self._http = httpx.Client(base_url=self.url, timeout=_CONNECT_S, trust_env=False)
        except ValueError as exc:
            raise self._away(exc) from exc

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        admin: bool = False,
        waits: bool = True,
    ) -> Any:
        """The JSON that AirLab answers.

        Args:
            method: GET is asked again whatever happens, others only where AirLab has not begun.
            path: With what is variable in it quoted.
            body: Sent as JSON.
            params: None values are left out.
            headers: Further ones.
            admin: The admin key is sent, where there is one. What needs it may take as long as it takes, such as a
                load: AirLab itself watches the progress.
            waits: Whether an AirLab that is away is waited for.

        Raises:
            ServerAwayError: Nobody answers, for as long as ``patience_s``.
            AnsweredError: AirLab says no.
        """
        patience = Patience(self.patience_s if waits else 0.0)
        timeout = httpx.Timeout(_CONNECT_S, read=None if admin else _SILENT_S)
        given = {name: value for name, value in (params or {}).items() if value is not None}
        sent = {**self._authorization(admin=admin), **(headers or {})}
        while True:
            try:
                response = self._http.request(method, path, json=body, params=given, headers=sent, timeout=timeout)
                return self._read(response)
            except LaterError as exc:
                self._wait(patience, exc, asked_s=exc.after_s)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
                away = self._away(exc)
                if method != "GET" and not isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout):
                    raise away from exc
                self._wait(patience, away)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Iterator[bytes]]:
        """The bytes of an answer as they come; leaving the block leaves the answer, which cancels a turn.

        Raises:
            ServerAwayError: Nobody answers, or it breaks off; it is not asked again.
            AnsweredError: AirLab says no.
        """
        timeout = httpx.Timeout(_CONNECT_S, read=_SILENT_S)
        given = {name: value for name, value in (params or {}).items() if value is not None}
        sent = {**self._authorization(admin=False), **(headers or {})}
        try:
            with self._http.stream(method, path, json=body, params=given, headers=sent, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    self._read(response)
                yield response.iter_bytes()
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise self._away(exc) from exc

    def _authorization(self, *, admin: bool) -> dict[str, str]:
        key = self._keys[admin]
        return {"authorization": f"Bearer {key}"} if key else {}

    def _wait(self, patience: Patience, away: ServerAwayError, *, asked_s: float = 0.0) -> None:
        wait_s = patience.wait_s(away, asked_s=asked_s)
        self._told(Retrying(away.message, wait_s))
        self.pause(wait_s)

    def _read(self, response: httpx.Response) -> Any:
        try:
            body = response.json()
        except (ValueError, RecursionError) as exc:
            raise ServerAwayError(f"what answers at {self.url} is no AirLab: it sent no JSON") from exc
        # /health is an answer also where its status says that all is not well.
        if response.is_success or response.url.path.endswith("/health"):
            return body
        raise _error(response, body)

    def _away(self, exc: Exception) -> ServerAwayError:
        if isinstance(exc, httpx.ReadTimeout | httpx.ReadError | httpx.RemoteProtocolError):
            return ServerAwayError(f"AirLab at {self.url} broke off: {exc or type(exc).__name__}")
        return ServerAwayError(
            f"no AirLab answers at {self.url}: {exc or type(exc).__name__}; is `airlab serve` running?"
        )


def _error(response: httpx.Response, body: Any) -> Exception:
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or f"status {response.status_code}, without a reason")
    if response.status_code in _LATER and (after := response.headers.get("retry-after", "")).isdecimal():
        return LaterError(message, after_s=float(after))
    return AnsweredError(message, status=response.status_code, code=error.get("code"))
