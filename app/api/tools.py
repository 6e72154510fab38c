"""GET /tools and POST /tools/{name}/call: what models are offered, and one call of it by hand, under the same gate."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

from litestar import Request, Response, get, post
from litestar.params import FromPath, JSONBody
from litestar.response import Stream
from msgspec import Struct, field

from app.api.auth import Scope
from app.approvals import Approval
from app.errors import ToolNotFoundError
from app.gate import Offer
from app.live.guards import in_force
from app.manifest.problems import nearest
from app.messages import ToolCall, ToolResult
from app.policy.rules import Policy
from app.service import Service
from app.tools.base import ToolSpec

_HARMLESS = frozenset({"read", "net"})
"""Risks of tools that a key for using models may call by hand, too."""
_PING_S = 15.0
"""A stream that is silent for longer is closed by some proxies."""

Run = Callable[[Callable[[Approval], None]], Awaitable[ToolResult]]


class CallRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /tools/{name}/call."""

    arguments: dict[str, Any] = field(default_factory=dict)
    """What the tool takes, as GET /tools shows it."""
    approvals: bool = False
    """Whether somebody is there to be asked (GET and POST /approvals); otherwise what needs a permission is denied."""
    stream: bool = False
    """Answer with server-sent events: ``approval`` for a call that waits for a person, then ``result``."""


@get("/tools", opt={"scope": Scope.USE})
async def tools(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The tools in force: what each takes, how risky it is, and why it cannot run here, if so; what is enforced."""
    service: Service = request.app.state.owner.service
    snapshot = service.live.current
    return {
        "tools": [_shown(offer) for offer in service.gate.offers()],
        "switch": "on" if snapshot.tools_on else "off",
        "closed": in_force(snapshot).closed,
        "servers": service.servers.status(),
        "sandbox": snapshot.policy.sandbox,
        "destructive": snapshot.policy.destructive,
        "enforced": {kind: {"enforced": why is None, "why_not": why} for kind, why in service.gate.enforced().items()},
    }


@post("/tools/{name:str}/call", opt={"scope": Scope.USE}, status_code=200)
async def call_tool(
    request: Request[Any, Any, Any], name: FromPath[str], data: JSONBody[CallRequest]
) -> Response[dict[str, Any]] | Stream:
    """Call one tool, judged, written down and confined as a model's call would be. A no is an answer: 200, ``denied``.

    A tool that changes something, or runs a program, needs the admin key here: whoever has the other one has it for
    talking to models, whose calls a conversation shows and keeps; here nobody would see what was done with which words.
    """
    service: Service = request.app.state.owner.service
    service.refuse_if_stopping()
    actor = request.scope["state"]["actor"]
    request.app.state.owner.auth.require(actor, needed_for(found(service.gate.policy, name)))
    call = ToolCall(f"call_{secrets.token_hex(6)}", name, json.dumps(data.arguments))
    run = partial(_run, service, call, actor.name, offers_approvals=data.approvals)
    if data.stream:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return Stream(_server_sent(run), media_type="text/event-stream", headers=headers)
    return Response(_told(await run(lambda _: None)))


def found(policy: Policy, name: str) -> ToolSpec:
    """The tool of that name.

    Raises:
        ToolNotFoundError: None in force has it; the message names the nearest.
    """
    if name in policy.tools:
        return policy.tools[name]
    meant = nearest(name, tuple(policy.tools))
    hint = f"; did you mean {meant}?" if meant else ""
    there_are = ", ".join(policy.tools) or "none"
    raise ToolNotFoundError(f"no tool {name[:80]!r} is in force{hint}; there are {there_are}")


def needed_for(spec: ToolSpec) -> Scope:
    """What a caller needs whose calls no conversation shows: the admin key for what changes something or runs."""
    return Scope.USE if spec.risk in _HARMLESS and spec.kind != "command" else Scope.ADMIN


def _shown(offer: Offer) -> dict[str, Any]:
    spec = offer.spec
    return {
        "name": spec.name,
        "description": spec.description,
        "risk": spec.risk,
        "class": spec.kind,
        "parameters": spec.parameters,
        "changes": spec.changes,
        "offered": offer.why_not is None,
        "why_not": offer.why_not,
    }


async def _run(
    service: Service,
    call: ToolCall,
    actor: str,
    tell: Callable[[Approval], None],
    *,
    offers_approvals: bool,
) -> ToolResult:
    return await service.gate.call(call, actor=actor, approvals=tell if offers_approvals else None)


def _told(result: ToolResult) -> dict[str, Any]:
    return {
        "status": result.status,
        "result": json.loads(result.content),
        "verdict": result.reason,
        "duration_s": round(result.duration_s, 4),
        "ran": result.ran,
    }


async def _server_sent(run: Run) -> AsyncGenerator[bytes]:
    """What happens to the call, as it happens; leaving takes the call back."""
    queue: asyncio.Queue[Approval | None] = asyncio.Queue()
    running = asyncio.ensure_future(run(queue.put_nowait))
    running.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while True:
            try:
                approval = await asyncio.wait_for(queue.get(), _PING_S)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if approval is None:
                break
            yield _event("approval", approval.to_json())
        yield _event("result", _told(await running))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _event(name: str, content: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()
