"""POST /chat, as JSON or as server-sent events, and GET /sessions/{id}: the owner's stateful conversation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, JSONBody
from litestar.response import Stream
from msgspec import Meta, Struct

from app.api.auth import Scope
from app.api.errors import answer_for
from app.api.kinds import require_kind
from app.chat.events import TurnEvent, fold
from app.chat.history import read_account
from app.chat.model import Sampling
from app.chat.toolmode import Choice, read_choice
from app.chat.turn import TurnRequest
from app.errors import BadRequestError, SessionNotFoundError
from app.fleet.decide import cannot_start
from app.live.snapshot import Snapshot
from app.manifest.schema import DefaultsSection
from app.messages import Message, ToolCall
from app.service import Service
from app.store.records import SessionKey

_PING_S = 15.0
"""A stream that is silent for longer is closed by some proxies."""

SessionId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]+$")]


class TextPart(Struct):
    """A part of a message; /chat takes text only."""

    type: Literal["text"]
    text: str


class Said(Struct):
    """One message of the client's array."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[Any] | None = None

    @property
    def text(self) -> str:
        """Its text, parts joined."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatRequest(Struct):
    """The body of POST /chat; what is absent comes from the manifest's defaults."""

    messages: Annotated[list[Said], Meta(max_length=10_000)]
    system_prompt: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_048_576)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1000)] | None = None
    repeat_penalty: Annotated[float, Meta(ge=0, le=10)] | None = None
    enable_tools: bool = False
    stream: bool = False
    session_id: SessionId | None = None
    model: str | None = None
    tool_choice: str | dict[str, Any] | None = None
    approvals: bool = False
    """Whether a person follows who can answer what the events ask (POST /approvals/{id})."""


@post("/chat", opt={"scope": Scope.USE}, status_code=200)
async def chat(request: Request[Any, Any, Any], data: JSONBody[ChatRequest]) -> Response[dict[str, Any]] | Stream:
    """Say something in a session; the answer as JSON, or with ``stream`` as server-sent events."""
    service: Service = request.app.state.owner.service
    service.refuse_if_stopping()
    turn = await _turn_request(service, data)
    events = service.chat.turn(turn, actor=request.scope["state"]["actor"].name)
    if data.stream:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return Stream(_server_sent(events), media_type="text/event-stream", headers=headers)
    async with aclosing(events):
        return Response(fold([event async for event in events]))


@get("/sessions/{session_id:path}", opt={"scope": Scope.USE})
async def session(request: Request[Any, Any, Any], session_id: FromPath[str]) -> dict[str, Any]:
    """A session's active branch, tool rounds included, and its turns with how each ended."""
    service: Service = request.app.state.owner.service
    session_id = session_id.removeprefix("/")  # a path parameter, since an id may hold slashes, comes with one before
    key = SessionKey(request.scope["state"]["actor"].name, session_id)
    view = await service.sessions.view(key)
    if view is None:
        raise SessionNotFoundError(f"no session {session_id[:128]!r}; POST /chat with that session_id makes it")
    return {
        "session_id": session_id,
        "created_ms": view.created_ms,
        "updated_ms": view.updated_ms,
        "messages": [msgspec.to_builtins(stored.message) for stored in view.branch],
        "turns": msgspec.to_builtins(view.turns),
    }


async def _turn_request(service: Service, data: ChatRequest) -> TurnRequest:
    snapshot = service.live.current
    account = read_account([Message(said.role, said.text, _replayed(said)) for said in data.messages])
    return TurnRequest(
        session_id=data.session_id or "default",
        account=account,
        model=await _chat_model(service, snapshot, data.model),
        sampling=_sampling(data, snapshot.manifest.defaults),
        system_prompt=data.system_prompt,
        enable_tools=data.enable_tools,
        tool_choice=_tool_choice(snapshot, data),
        approvals=data.approvals,
    )


def _tool_choice(snapshot: Snapshot, data: ChatRequest) -> Choice:
    choice = read_choice(data.tool_choice, snapshot.policy.tools.values())
    if choice not in {"auto", "none"} and not data.enable_tools:
        raise BadRequestError("tool_choice asks for a call; that needs `enable_tools: true`", param="tool_choice")
    return choice


def _replayed(said: Said) -> tuple[ToolCall, ...]:
    """A client may replay a tool round it was shown; that it is one is all that counts."""
    return (ToolCall("", "", ""),) if said.role == "assistant" and said.tool_calls else ()


async def _chat_model(service: Service, snapshot: Snapshot, name: str | None) -> str:
    """The key of a model that can chat and is on disk; said at once and not after a wait."""
    key = snapshot.key_of(name)
    if cannot_start(snapshot.models[key]) is not None:
        await service.reload.look_again()  # its file may have come meanwhile, or gone
        snapshot = service.live.current
        key = snapshot.key_of(name)
    spec = snapshot.models[key]
    if (error := cannot_start(spec, service.settings.home)) is not None:
        raise error
    require_kind(spec, "chat")
    return key


def _sampling(data: ChatRequest, defaults: DefaultsSection) -> Sampling:
    def value(name: str) -> Any:
        asked = getattr(data, name)
        return getattr(defaults, name) if asked is None else asked

    return Sampling(**{name: value(name) for name in ("temperature", "max_tokens", "top_p", "top_k", "repeat_penalty")})


async def _server_sent(turn: AsyncGenerator[TurnEvent]) -> AsyncGenerator[bytes]:
    """A turn's events as server-sent events; an error is the last one. A comment keeps a silent stream open."""
    upcoming = asyncio.ensure_future(anext(turn))
    try:
        while True:
            await asyncio.wait({upcoming}, timeout=_PING_S)
            if not upcoming.done():
                yield b": still here\n\n"
                continue
            event = upcoming.result()
            yield _wire(event.event, event)
            upcoming = asyncio.ensure_future(anext(turn))
    except StopAsyncIteration:
        return
    except Exception as exc:  # noqa: BLE001 # the status line is out: the last event says what went wrong
        yield _wire("error", {"error": answer_for(exc).error})
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)
        await turn.aclose()


def _wire(name: str, content: Any) -> bytes:
    return f"event: {name}\ndata: ".encode() + msgspec.json.encode(content) + b"\n\n"
