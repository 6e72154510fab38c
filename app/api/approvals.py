"""GET /approvals and POST /approvals/{id}: calls that wait for a person, and the person's word."""

from __future__ import annotations

from typing import Any

from litestar import Request, get, post
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from app.api.auth import Actor, Scope
from app.service import Service


class GrantRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /approvals/{id}."""

    grant: bool
    """true: do it. false: do not."""


@get("/approvals", opt={"scope": Scope.USE})
async def approvals(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The calls that wait, with what each would do: those that this key asked for, with the admin key all."""
    service: Service = request.app.state.owner.service
    pending = service.gate.approvals.pending(_own(request.scope["state"]["actor"]))
    return {"approvals": [approval.to_json() for approval in pending]}


@post("/approvals/{approval_id:str}", opt={"scope": Scope.USE}, status_code=200)
async def answer_approval(
    request: Request[Any, Any, Any], approval_id: FromPath[str], data: JSONBody[GrantRequest]
) -> dict[str, str]:
    """Allow a call that waits, or refuse it; 404 once it is answered, out of time, or its caller gone.

    What is allowed is judged again before it runs: rules that were tightened meanwhile still deny it.
    """
    service: Service = request.app.state.owner.service
    actor: Actor = request.scope["state"]["actor"]
    waiting = service.gate.approvals
    approval = waiting.answer(approval_id, grant=data.grant, by=actor.name, actor=_own(actor))
    said = "granted" if data.grant else "refused"
    return {"status": said, "tool": approval.tool, "message": f"{said}: {approval.words}"}


def _own(actor: Actor) -> str | None:
    """Whose calls this caller may see and answer; None: everybody's."""
    return None if actor.scope >= Scope.ADMIN else actor.name
