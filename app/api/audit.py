"""GET /audit: the account of tool calls."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from litestar import Request, get
from litestar.params import FromQuery

from app.api.auth import Scope
from app.errors import BadRequestError
from app.service import Service
from app.store.audit import AuditEntry

_MOST = 1000


@get("/audit", opt={"scope": Scope.ADMIN})
async def audit(
    request: Request[Any, Any, Any],
    limit: FromQuery[int] = 100,
    tool: FromQuery[str | None] = None,
    session: FromQuery[str | None] = None,
) -> dict[str, Any]:
    """The last tool calls, newest first: what was asked, what was decided and why, who allowed it, how it ended.

    ``unfinished``: it runs, or AirLab ended before it did.
    """
    if not 1 <= limit <= _MOST:
        raise BadRequestError(f"limit is {limit}; allowed: 1 to {_MOST}", param="limit")
    service: Service = request.app.state.owner.service
    entries = await service.audit.recent(limit, tool=tool, session=session)
    return {"entries": [_shown(entry) for entry in entries]}


def _shown(entry: AuditEntry) -> dict[str, Any]:
    intent = entry.intent
    return {
        "id": entry.id,
        "at": datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "actor": intent.actor,
        "session": intent.session,
        "turn": intent.turn,
        "tool": intent.tool,
        "arguments": intent.arguments,
        "verdict": intent.verdict,
        "reason": intent.reason,
        "approved_by": intent.approved_by,
        "status": entry.status,
        "duration_s": entry.duration_s,
        "result_bytes": entry.result_bytes,
    }
