"""Asks a server for a file: over https unless it is in this network, and through redirects that lead nowhere private.

Nothing of a token goes anywhere but to the address that it is for. Knows nothing of what becomes of the bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from app.errors import DownloadError
from app.weights.addresses import public_address, refuse_plain_http
from app.weights.hub import RemoteFile

if TYPE_CHECKING:
    import httpx2

_REDIRECTS = 5
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
_LENGTH = re.compile(r"[0-9]{1,18}")


class AgainError(Exception):
    """Not this time; another try can work."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        """``pause_s``: before that, in seconds, by the server's word."""
        super().__init__(message)
        self.pause_s = pause_s


@asynccontextmanager
async def followed(
    client: httpx2.AsyncClient,
    file: RemoteFile,
    headers: Mapping[str, str],
    *,
    redirected: Callable[[httpx2.Response], None] = lambda _: None,
) -> AsyncIterator[httpx2.Response]:
    """The answer at the end of at most five redirects, 200, 206 or 416; its body still to be read.

    Args:
        client: One that follows no redirect by itself.
        file: What is asked for.
        headers: Beside the file's own.
        redirected: Told every redirect of the file's own host.

    Raises:
        DownloadError: It is not given to us, or lies where AirLab does not go.
        AgainError: The server is busy.
        httpx2.TransportError: The connection broke.
    """
    import httpx2  # noqa: PLC0415 # at first need

    first = httpx2.URL(file.url)
    await asyncio.to_thread(refuse_plain_http, str(first))
    hop = first
    for _ in range(_REDIRECTS + 1):
        answer = await client.send(await _request(client, file, first, hop, headers), stream=True)
        try:
            if not answer.is_redirect:
                _look_at_status(answer, file)
                yield answer
                return
            if hop.host == first.host:
                redirected(answer)
            hop = _next_hop(hop, answer)
        finally:
            await answer.aclose()
    raise DownloadError(f"{file.url} redirects more than {_REDIRECTS} times; check the address")


async def _request(
    client: httpx2.AsyncClient, file: RemoteFile, first: httpx2.URL, hop: httpx2.URL, headers: Mapping[str, str]
) -> httpx2.Request:
    plain = {**headers, "accept-encoding": "identity", "user-agent": "airlab"}
    if (hop.scheme, hop.host, hop.port) == (first.scheme, first.host, first.port):
        return client.build_request("GET", hop, headers={**plain, **file.headers, **headers})
    # Where a server sends us, no token goes, and nothing inside this network is asked.
    address = await public_address(hop.host, hop.port or {"https": 443}.get(hop.scheme, 80))
    pinned = hop.copy_with(host=address)
    name = hop.netloc.decode("ascii")
    return client.build_request("GET", pinned, headers={**plain, "host": name}, extensions={"sni_hostname": hop.host})


def _look_at_status(answer: httpx2.Response, file: RemoteFile) -> None:
    """Let 200, 206 and 416 pass, say what the others mean."""
    status = answer.status_code
    if status in {200, 206, 416}:
        return
    if status == 429 or status >= 500:
        after = answer.headers.get("retry-after", "")
        raise AgainError(f"the server answered {status}", min(float(after), 60.0) if after.isdecimal() else 0.0)
    meant = {
        401: "it wants a token: set HF_TOKEN, or check the address",
        403: "it is not given to us: accept its terms with the account of HF_TOKEN, or check the address",
        404: "there is no such file",
        410: "it is gone",
    }
    raise DownloadError(f"{file.name}: the server answered {status}; {meant.get(status, 'check the address')}")


def _next_hop(hop: httpx2.URL, answer: httpx2.Response) -> httpx2.URL:
    import httpx2  # noqa: PLC0415

    try:
        after = hop.join(answer.headers.get("location", ""))
    except httpx2.InvalidURL as exc:
        raise DownloadError(f"{hop.host} redirected the download to something that is no address") from exc
    allowed = {"https"} if hop.scheme == "https" else {"https", "http"}
    if after.scheme not in allowed or not after.host or after.userinfo:
        raise DownloadError(f"the download was redirected to {str(after)[:200]}, where AirLab does not go")
    return after


def span(answer: httpx2.Response, have: int) -> tuple[int, int]:
    """Where the body begins in the file, and how long the whole file is, in bytes.

    Args:
        answer: To a request for what comes after the first ``have`` bytes.
        have: So many.

    Raises:
        DownloadError: It does not say, or sends something else.
    """
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise DownloadError("the server compresses the file although it was asked not to; check the address")
    if answer.status_code == 206:
        match = _RANGE.fullmatch(answer.headers.get("content-range", ""))
        if match is None or int(match[1]) != have:
            raise DownloadError("the server answers with another part of the file than it was asked for")
        return have, int(match[2])
    if answer.status_code == 416:
        return have, have
    length = answer.headers.get("content-length", "")
    if _LENGTH.fullmatch(length) is None:
        raise DownloadError("the server does not say how long the file is, so it is not downloaded")
    return 0, int(length)
