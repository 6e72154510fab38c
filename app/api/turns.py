"""What turns take and give over HTTP, whichever route begins them: options in, an answer as JSON or as events out."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from litestar import Request, Response
from litestar.params import HeaderParameter
from litestar.response import Stream
from msgspec import Meta, Struct

from app.api.errors import answer_for
from app.api.keep_alive import KeepAlive, keep_alive_s
from app.api.kinds import require_kind
from app.chat.events import TurnEvent, fold
from app.chat.history import Account
from app.chat.model import Sampling
from app.chat.toolmode import Choice, read_choice
from app.chat.turn import TurnRequest
from app.errors import BadRequestError, ModelNotFoundError
from app.fleet.refusals import cannot_start
from app.live.snapshot import Snapshot
from app.manifest.schema import DefaultsSection
from app.service import Service
from app.store.records import Again, Once, SessionKey, SessionSettings

_PING_S = 15.0
"""A stream that is silent for longer is closed by some proxies."""
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

RetryKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key", description="1 to 255 visible ASCII characters; a retry under it is no second turn."
    ),
]
# Without the look ahead, Python's $ would let a last end of line through.
SessionId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+(?!\n)$")]
MessageId = Annotated[int, Meta(ge=1, le=2**53 - 1)]
SystemPrompt = Annotated[str, Meta(max_length=1_048_576)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
MaxTokens = Annotated[int, Meta(ge=1, le=1_048_576)]
TopP = Annotated[float, Meta(ge=0, le=1)]
TopK = Annotated[int, Meta(ge=0, le=1000)]
RepeatPenalty = Annotated[float, Meta(ge=0, le=10)]


class TurnOptions(Struct):
    """How a turn is answered; what is absent comes from the session's settings, then from the manifest."""

    system_prompt: SystemPrompt | None = None
    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    repeat_penalty: RepeatPenalty | None = None
    enable_tools: bool | None = None
    stream: bool = False
    model: str | None = None
    tool_choice: str | dict[str, Any] | None = None
    keep_alive: KeepAlive | None = None
    """How long the model stays loaded afterwards: seconds, or text such as 10m; 0 to unload it, -1 to keep it.
    Without effect for a model on another server."""
    approvals: bool = False
    """Whether a person follows who can answer what the events ask (POST /approvals/{id})."""


Answered = Response[dict[str, Any]] | Stream


async def answered(
    request: Request[Any, Any, Any],
    data: TurnOptions,
    key: SessionKey,
    account: Account,
    *,
    retry_key: str | None,
    again: Again | None = None,
) -> Answered:
    """Run a turn and answer with it.

    Args:
        request: Names the route.
        data: The body.
        key: The session, which need not be there.
        account: What was said.
        retry_key: The Idempotency-Key.
        again: Where in the stored tree the turn begins anew, if not at the end of the active branch.

    Raises:
        AirLabError: The turn cannot be begun, or failed; in a stream, the latter is its last event.
    """
    service: Service = request.app.state.owner.service
    service.refuse_if_stopping()
    once = None if retry_key is None else _once(request.url.path, data, key, retry_key)
    # Whether a retry fits its key comes first: its answer may have moved what it speaks of.
    is_retry = once is not None and await service.chat.is_answered(once)
    if again is not None and not is_retry:
        await service.branches.require(key, again)
    events = service.chat.turn(await _turn_request(service, data, key, account, again, once), actor=key.owner)
    if data.stream:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return Stream(_server_sent(events), media_type="text/event-stream", headers=headers)
    async with aclosing(events):
        return Response(fold([event async for event in events]))


async def _turn_request(
    service: Service,
    data: TurnOptions,
    key: SessionKey,
    account: Account,
    again: Again | None,
    once: Once | None,
) -> TurnRequest:
    snapshot = service.live.current
    asked = asked_by(data)
    settings = asked
    info = await service.catalog.info(key)
    if info is not None:
        settings = settings.over(await _of_broken_off(service, key, again)).over(info.settings)
    enable_tools = bool(settings.enable_tools)
    return TurnRequest(
        session_id=key.name,
        account=account,
        model=await _chat_model(service, snapshot, data.model, settings.model),
        sampling=_sampling(settings, snapshot.manifest.defaults),
        system_prompt=settings.system_prompt,
        enable_tools=enable_tools,
        tool_choice=_tool_choice(snapshot, data, enable_tools=enable_tools),
        approvals=data.approvals,
        keep_alive_s=keep_alive_s(data.keep_alive),
        again=again,
        asked=asked if account.system_prompt is None else _with_prompt(asked, account.system_prompt),
        once=once,
    )


def asked_by(data: Struct) -> SessionSettings:
    """What a body itself sets."""
    named = {name: getattr(data, name) for name in SessionSettings.__dataclass_fields__}
    return SessionSettings(**{**named, "model": named["model"] or None})


async def _of_broken_off(service: Service, key: SessionKey, again: Again | None) -> SessionSettings:
    """What the turn was asked with that is to be resumed."""
    turn = await service.sessions.last_turn(key) if again is not None and again.way == "resume" else None
    return turn.asked if turn is not None else SessionSettings()


def _with_prompt(asked: SessionSettings, system_prompt: str) -> SessionSettings:
    return SessionSettings(system_prompt=system_prompt).over(asked)


def _once(path: str, data: TurnOptions, key: SessionKey, retry_key: str) -> Once:
    """A request's Idempotency-Key, with what it stands for: route and body, streamed or not."""
    if not _IDEMPOTENCY_KEY.fullmatch(retry_key):
        raise BadRequestError(
            "Idempotency-Key must be 1 to 255 visible ASCII characters, such as a UUID", param="Idempotency-Key"
        )
    asked = msgspec.structs.replace(data, stream=False)
    body = msgspec.json.encode([path, msgspec.to_builtins(asked)], order="deterministic")
    return Once(key.owner, retry_key, hashlib.sha256(body).digest())


def _tool_choice(snapshot: Snapshot, data: TurnOptions, *, enable_tools: bool) -> Choice:
    choice = read_choice(data.tool_choice, snapshot.policy.tools.values())
    if choice not in {"auto", "none"} and not enable_tools:
        raise BadRequestError("tool_choice asks for a call; that needs `enable_tools: true`", param="tool_choice")
    return choice


async def _chat_model(service: Service, snapshot: Snapshot, asked: str | None, name: str | None) -> str:
    """The key of a model that can chat and is on disk; said at once and not after a wait."""
    try:
        key = snapshot.key_of(name)
    except ModelNotFoundError as exc:
        if asked:
            raise
        raise ModelNotFoundError(
            f"the session's own model is gone: {exc.message}. PATCH /sessions/{{id}} sets another"
        ) from exc
    if cannot_start(snapshot.models[key]) is not None:
        await service.reload.look_again()  # its file may have come meanwhile, or gone
        snapshot = service.live.current
        key = snapshot.key_of(name)
    spec = snapshot.models[key]
    if (error := cannot_start(spec, service.settings.home)) is not None:
        raise error
    require_kind(spec, "chat")
    return key


def _sampling(settings: SessionSettings, defaults: DefaultsSection) -> Sampling:
    def value(name: str) -> Any:
        asked = getattr(settings, name)
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
