"""The status page: one HTML file, one style sheet, one script, read once and served from memory.

They reveal nothing, so they need no key; what they show, the page asks for with the key of whoever looks at it. Nothing
but these three may run or be fetched in it, whatever text ends up there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litestar import Request, Response, get

from app.api.auth import Scope

_FILES = Path(__file__).parent / "assets"
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "content-security-policy": _CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Asked for each time, and answered 304: a page of another version must not talk to this server.
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    media_type: str
    etag: str


def _read(name: str, media_type: str) -> _Asset:
    body = (_FILES / name).read_bytes()
    return _Asset(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


_PAGE = _read("index.html", "text/html")
_STYLE = _read("page.css", "text/css")
_SCRIPT = _read("page.js", "text/javascript")


@get("/", opt={"scope": Scope.OPEN}, include_in_schema=False)
async def page(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The status page, for a browser."""
    return _answer(request, _PAGE)


@get("/page.css", opt={"scope": Scope.OPEN}, include_in_schema=False)
async def style(request: Request[Any, Any, Any]) -> Response[bytes]:
    """How the page looks."""
    return _answer(request, _STYLE)


@get("/page.js", opt={"scope": Scope.OPEN}, include_in_schema=False)
async def script(request: Request[Any, Any, Any]) -> Response[bytes]:
    """What the page does."""
    return _answer(request, _SCRIPT)


def _answer(request: Request[Any, Any, Any], asset: _Asset) -> Response[bytes]:
    """The file, or 304 where the browser has this very one."""
    headers = {**_HEADERS, "etag": asset.etag}
    known = request.headers.get("if-none-match", "")
    if asset.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(b"", status_code=304, headers=headers, media_type=asset.media_type)
    return Response(asset.body, headers=headers, media_type=asset.media_type)
