"""GET /sessions/{id}/export and GET /export: conversations to keep, to read, or to train on; streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from litestar import Request, get
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from app.api.auth import Scope
from app.api.sessions import key_of
from app.chat import export
from app.errors import BadRequestError
from app.service import Service
from app.store.harvest import Harvested, Wanted

_NAMES = 500


@get("/sessions/{session_id:str}/export", opt={"scope": Scope.USE})
async def export_session(
    request: Request[Any, Any, Any],
    session_id: FromPath[str],
    *,
    format: FromQuery[export.Format] = "jsonl",  # noqa: A002 # the name in the query
    branches: FromQuery[Literal["active", "all"]] = "active",
    tools: FromQuery[bool] = False,
    reasoning: FromQuery[bool] = False,
    system: FromQuery[bool] = False,
) -> Stream:
    """One session: as JSON lines for fine-tuning, JSON, Markdown or text; with its tool calls, reasoning or prompt."""
    key = key_of(request, session_id)
    wanted = Wanted(key.owner, names=(key.name,), all_branches=branches == "all")
    return await _streamed(request, wanted, export.Shown(tools, reasoning, system), format)


@get("/export", opt={"scope": Scope.USE})
async def export_sessions(  # noqa: PLR0913 # fields of the query
    request: Request[Any, Any, Any],
    *,
    format: FromQuery[export.Format] = "jsonl",  # noqa: A002 # the name in the query
    branches: FromQuery[Literal["active", "all"]] = "active",
    tools: FromQuery[bool] = False,
    reasoning: FromQuery[bool] = False,
    system: FromQuery[bool] = False,
    session_id: Annotated[list[str] | None, QueryParameter()] = None,
    pinned: FromQuery[bool | None] = None,
    since: FromQuery[str | None] = None,
) -> Stream:
    """Many sessions in one file, oldest first: all of the caller's, those named, pinned, or changed ``since`` then."""
    names = tuple(session_id or ())
    if len(names) > _NAMES:
        raise BadRequestError(f"session_id may be given {_NAMES} times; ask again for the rest", param="session_id")
    wanted = Wanted(
        request.scope["state"]["actor"].name,
        names=names,
        pinned=pinned,
        since_ms=None if since is None else _milliseconds(since),
        all_branches=branches == "all",
    )
    return await _streamed(request, wanted, export.Shown(tools, reasoning, system), format)


async def _streamed(
    request: Request[Any, Any, Any], wanted: Wanted, shown: export.Shown, form: export.Format
) -> Stream:
    service: Service = request.app.state.owner.service
    service.refuse_if_stopping()
    await service.harvest.require(wanted.owner, wanted.names)
    name = f"airlab-export.{export.ENDINGS[form]}"
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return Stream(_pieces(service, wanted, shown, form), media_type=export.MEDIA_TYPES[form], headers=headers)


async def _pieces(service: Service, wanted: Wanted, shown: export.Shown, form: export.Format) -> AsyncGenerator[bytes]:
    """The export, a session at a time; of lines, which stand each for itself, one at a time."""
    yield export.opening(form).encode()
    apart = ""
    async for found in service.harvest.sessions(wanted):
        session = _session(found, service.live.current.system_prompt)
        for part in export.parts(session, form):
            yield f"{apart}{export.rendered(part, shown, form)}".encode()
            apart = export.between(form)
    yield export.closing(form).encode()


def _session(found: Harvested, server_prompt: str) -> export.Session:
    info = found.info
    return export.Session(
        info.key.name,
        info.title,
        info.created_ms,
        info.updated_ms,
        [
            export.Conversation(
                branch.messages,
                server_prompt if branch.system_prompt is None else branch.system_prompt,
                branch.message_id,
                branch.is_active,
            )
            for branch in found.branches
        ],
    )


def _milliseconds(since: str) -> int:
    """A day or a moment as UTC milliseconds; without a time zone it is UTC."""
    try:
        moment = datetime.fromisoformat(since)
    except ValueError as exc:
        raise BadRequestError(
            f"since must be a day or a time, such as 2026-11-01 or 2026-11-01T08:00Z, not {since[:64]!r}", param="since"
        ) from exc
    at = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(at.timestamp() * 1000)
