"""/sessions: list, search, show, make, set, remove, fork, switch, undo. A session belongs to the key that made it."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, QueryParameter
from msgspec import UNSET, Meta, Struct, UnsetType

from app.api.auth import Scope
from app.api.turns import MaxTokens, MessageId, RepeatPenalty, SessionId, SystemPrompt, Temperature, TopK, TopP
from app.errors import PreconditionFailedError, SessionNotFoundError
from app.service import Service
from app.store.catalog import Change
from app.store.records import Found, SessionInfo, SessionKey, SessionSettings, SessionView, StoredMessage

SLASH = "\x1f"
"""How a slash inside a session's id stands in the path that the router sees; ids hold no control characters."""

Answered = Response[dict[str, Any]]
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
IfMatch = Annotated[
    str | None, HeaderParameter(name="If-Match", description="The ETag that was seen; 412 where it is another by now.")
]
SessionName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+(?!\n)$")]


class SessionFields(Struct, forbid_unknown_fields=True):
    """What can be set of a session; null takes back what was set, what is absent stays as it is."""

    name: SessionName | UnsetType | None = UNSET
    pinned: bool | UnsetType = UNSET
    model: str | UnsetType | None = UNSET
    system_prompt: SystemPrompt | UnsetType | None = UNSET
    enable_tools: bool | UnsetType | None = UNSET
    temperature: Temperature | UnsetType | None = UNSET
    max_tokens: MaxTokens | UnsetType | None = UNSET
    top_p: TopP | UnsetType | None = UNSET
    top_k: TopK | UnsetType | None = UNSET
    repeat_penalty: RepeatPenalty | UnsetType | None = UNSET


class NewSession(SessionFields):
    """The body of POST /sessions."""

    session_id: SessionId | None = None


class ForkRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /sessions/{id}/fork."""

    message_id: MessageId | None = None
    """The answer up to which is copied; the active branch's last without one."""
    session_id: SessionId | None = None
    """The new session's; made up without one."""


class SwitchRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /sessions/{id}/switch."""

    message_id: MessageId


@get("/sessions", opt={"scope": Scope.USE})
async def sessions(
    request: Request[Any, Any, Any],
    limit: Annotated[int, QueryParameter(ge=1, le=200)] = 50,
    cursor: FromQuery[str | None] = None,
    pinned: FromQuery[bool | None] = None,
    q: FromQuery[str | None] = None,
) -> dict[str, Any]:
    """The caller's sessions, the last used first; with ``q`` those in which all its words occur, with where they do.

    ``next_cursor`` is where the next page begins, null at the end; a page of a search may be short before.
    """
    service: Service = request.app.state.owner.service
    owner = request.scope["state"]["actor"].name
    if q is None:
        page = await service.catalog.page(owner, limit=limit, cursor=cursor, pinned=pinned)
    else:
        page = await service.search.page(owner, q, limit=limit, cursor=cursor, pinned=pinned)
    shown = [_found(found) if q is not None else info_json(found.info) for found in page.found]
    return {"sessions": shown, "next_cursor": page.next}


@post("/sessions", opt={"scope": Scope.USE}, status_code=201)
async def create_session(request: Request[Any, Any, Any], data: JSONBody[NewSession]) -> Answered:
    """Make an empty session with a name and settings; POST /chat makes one by itself, too."""
    service = _service(request)
    key = SessionKey(request.scope["state"]["actor"].name, data.session_id or new_id())
    return _answer(await service.catalog.create(key, _change(service, data)), 201)


@get("/sessions/{session_id:str}", opt={"scope": Scope.USE})
async def session(
    request: Request[Any, Any, Any], session_id: FromPath[str], view: FromQuery[Literal["branch", "tree"]] = "branch"
) -> Answered:
    """A session with its turns, and its active branch or its whole tree, tool rounds included."""
    service: Service = request.app.state.owner.service
    key = key_of(request, session_id)
    found = await (service.catalog.tree(key) if view == "tree" else service.sessions.view(key))
    if found is None:
        raise SessionNotFoundError(f"no session {key.name[:128]!r}; POST /chat with that session_id makes it")
    return _viewed(found)


@patch("/sessions/{session_id:str}", opt={"scope": Scope.USE}, status_code=200)
async def change_session(
    request: Request[Any, Any, Any],
    session_id: FromPath[str],
    data: JSONBody[SessionFields],
    if_match: IfMatch = None,
) -> Answered:
    """Set name, pin, model, system prompt, tools and generation settings; with ``If-Match`` only of that version."""
    service = _service(request)
    change = _change(service, data)
    return _answer(await service.catalog.change(key_of(request, session_id), change, version=_version(if_match)))


@delete("/sessions/{session_id:str}", opt={"scope": Scope.USE}, status_code=200)
async def remove_session(
    request: Request[Any, Any, Any], session_id: FromPath[str], if_match: IfMatch = None
) -> dict[str, Any]:
    """Remove a session with all that was said in it; 409 while a turn of it runs."""
    service, key = _service(request), key_of(request, session_id)
    async with service.chat.undisturbed(key):
        await service.catalog.remove(key, version=_version(if_match))
    return {"status": "success", "session_id": key.name}


@post("/sessions/{session_id:str}/fork", opt={"scope": Scope.USE}, status_code=201)
async def fork(request: Request[Any, Any, Any], session_id: FromPath[str], data: JSONBody[ForkRequest]) -> Answered:
    """Copy a branch up to an answer, with name and settings, into a new session."""
    service, key = _service(request), key_of(request, session_id)
    new = SessionKey(key.owner, data.session_id or new_id())
    return _answer(await service.branches.fork(key, data.message_id, new), 201)


@post("/sessions/{session_id:str}/switch", opt={"scope": Scope.USE}, status_code=200)
async def switch_branch(
    request: Request[Any, Any, Any],
    session_id: FromPath[str],
    data: JSONBody[SwitchRequest],
    if_match: IfMatch = None,
) -> Answered:
    """Make the newest branch through a message the active one; 409 while a turn of the session runs."""
    service, key = _service(request), key_of(request, session_id)
    async with service.chat.undisturbed(key):
        return _viewed(await service.branches.switch(key, data.message_id, version=_version(if_match)))


@post("/sessions/{session_id:str}/undo", opt={"scope": Scope.USE}, status_code=200)
async def undo(request: Request[Any, Any, Any], session_id: FromPath[str], if_match: IfMatch = None) -> Answered:
    """Take the last user message, with what answered it, off the active branch; it stays stored."""
    service, key = _service(request), key_of(request, session_id)
    async with service.chat.undisturbed(key):
        undone = await service.branches.undo(key, version=_version(if_match))
    return _viewed(undone.view, undone={"message_id": undone.message_id, "content": undone.content})


def key_of(request: Request[Any, Any, Any], session_id: str) -> SessionKey:
    """The session that a path names, of whoever asks."""
    return SessionKey(request.scope["state"]["actor"].name, session_id.replace(SLASH, "/"))


def new_id() -> str:
    """An id for a session whose maker names none."""
    return secrets.token_hex(8)


def info_json(info: SessionInfo) -> dict[str, Any]:
    """A session as clients are shown it in lists."""
    last = info.last_turn
    return {
        "session_id": info.key.name,
        "name": info.title,
        "name_set": info.titled,
        "pinned": info.pinned,
        "created_ms": info.created_ms,
        "updated_ms": info.updated_ms,
        "version": info.version,
        "message_count": info.messages,
        "head": info.head,
        "last_turn": None if last is None else {"id": last[0], "status": last[1]},
        "settings": msgspec.to_builtins(info.settings),
    }


def _service(request: Request[Any, Any, Any]) -> Service:
    service: Service = request.app.state.owner.service
    service.refuse_if_stopping()
    return service


def _change(service: Service, data: SessionFields) -> Change:
    """What a body asks for; its model must be there, by any of its names."""
    fields = {
        name: value for name in SessionSettings.__dataclass_fields__ if (value := getattr(data, name)) is not UNSET
    }
    if fields.get("model"):
        service.live.current.key_of(fields["model"])
    name = None if data.name is UNSET else data.name
    pinned = None if data.pinned is UNSET else data.pinned
    return Change(title=name, forget_title=data.name is None, pinned=pinned, settings=fields)


def _version(if_match: str | None) -> int | None:
    """The version that must be there, where the caller names one; ``*`` is any."""
    if if_match is None or if_match == "*":
        return None
    bare = if_match.removeprefix("W/").strip('"')
    if not (bare.isascii() and bare.isdigit() and len(bare) < 19):
        raise PreconditionFailedError(
            f"If-Match must be the ETag of an answer about this session, not {if_match[:64]!r}"
        )
    return int(bare)


def _answer(info: SessionInfo, status: int = 200) -> Answered:
    return Response(info_json(info), status_code=status, headers=_etag(info))


def _etag(info: SessionInfo) -> dict[str, str]:
    return {"etag": f'"{info.version}"'}


def _found(found: Found) -> dict[str, Any]:
    return {**info_json(found.info), "matches": [match._asdict() for match in found.matches]}


def _viewed(view: SessionView, **more: Any) -> Answered:
    active = _active(view)
    shown = [_message(stored, active=stored.id in active) for stored in view.branch]
    turns = [_turn(turn) for turn in msgspec.to_builtins(view.turns)]
    body = {**info_json(view.info), "messages": shown, "turns": turns, **more}
    return Response(body, headers=_etag(view.info))


def _turn(turn: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in turn.items() if name != "asked"}


def _active(view: SessionView) -> set[int]:
    """The messages of the active branch."""
    parents = {stored.id: stored.parent for stored in view.branch}
    active: set[int] = set()
    at = view.info.head
    while at is not None:
        active.add(at)
        at = parents[at]
    return active


def _message(stored: StoredMessage, *, active: bool) -> dict[str, Any]:
    return {
        "id": stored.id,
        "parent": stored.parent,
        **msgspec.to_builtins(stored.message),
        "tokens": None if stored.count is None else stored.count.tokens,
        "turn": stored.turn_id,
        "created_ms": stored.created_ms,
        "active": active,
    }
