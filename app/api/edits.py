"""POST and DELETE of /models and /tools: they edit the manifest's file, and put it in force.

The same changes as ``airlab models`` and ``airlab tools`` make. ``If-Match`` with the SHA-256 of the file (the ETag of
every answer here) refuses when somebody else was faster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from litestar import Request, Response, delete, post
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from app.api.auth import Scope
from app.api.errors import answer_for
from app.api.manifest import if_match, problems_json
from app.devices.probe import probe_host
from app.errors import AirLabError, BadRequestError, ManifestRefusedError, PreconditionFailedError
from app.journal import Fact
from app.live.guards import builtin_tools
from app.live.inputs import first_snapshot
from app.manifest import changes
from app.manifest.load import Loaded
from app.manifest.problems import ManifestProblems
from app.manifest.write import rewrite
from app.service import Service

Answered = Response[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ManifestEdited(Fact):
    """Somebody changed the manifest's file by request."""

    actor: str
    change: str
    digest: str


class ToolRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /tools."""

    name: str


@post("/models", opt={"scope": Scope.ADMIN}, status_code=201)
async def add_model(request: Request[Any, Any, Any], data: JSONBody[dict[str, Any]]) -> Answered:
    """Add a model to the manifest: ``key``, and what the manifest takes for a model; null is as if left out."""
    key, fields = data.pop("key", None), {name: value for name, value in data.items() if value is not None}
    if not isinstance(key, str):
        raise BadRequestError("key must be text: the model's name in airlab.yaml and in requests", param="key")

    def told(loaded: Loaded) -> dict[str, Any]:
        entry = loaded.manifest.models[key].model_dump(mode="json", exclude_unset=True)
        return {"model_key": key, "model": entry}

    return await _edit(request, f"added models.{key}", partial(changes.add_model, key=key, fields=fields), told, 201)


@delete("/models/{key:str}", opt={"scope": Scope.ADMIN}, status_code=200)
async def remove_model(request: Request[Any, Any, Any], key: FromPath[str]) -> Answered:
    """Remove a model from the manifest. Its file stays, and it finishes the requests that it has."""
    change = partial(changes.remove_model, key=key)
    return await _edit(request, f"removed models.{key}", change, lambda _loaded: {"model_key": key}, 200)


@post("/tools", opt={"scope": Scope.ADMIN}, status_code=201)
async def add_tool(request: Request[Any, Any, Any], data: JSONBody[ToolRequest]) -> Answered:
    """Offer one more built-in tool to models."""
    change = partial(changes.add_tool, name=data.name, known=builtin_tools())
    return await _edit(request, f"added {data.name} to tools.builtin", change, _tools, 201)


@delete("/tools/{name:str}", opt={"scope": Scope.ADMIN}, status_code=200)
async def remove_tool(request: Request[Any, Any, Any], name: FromPath[str]) -> Answered:
    """Offer one built-in tool less; the next call of it is refused already."""
    change = partial(changes.remove_tool, name=name, known=builtin_tools())
    return await _edit(request, f"removed {name} from tools.builtin", change, _tools, 200)


def _tools(loaded: Loaded) -> dict[str, Any]:
    builtin = loaded.manifest.tools.builtin
    return {"tools": list(builtin_tools()) if builtin == "all" else builtin}


async def _edit(
    request: Request[Any, Any, Any],
    what: str,
    change: Callable[[Loaded], str],
    told: Callable[[Loaded], dict[str, Any]],
    status: int,
) -> Answered:
    """Change the file and put it in force; 202 where it is changed, but cannot come into force yet."""
    service: Service = request.app.state.owner.service
    service.refuse_if_stopping()
    wanted = if_match(request)

    def change_what_was_seen(loaded: Loaded) -> str:
        if wanted is not None and wanted != loaded.digest:
            raise PreconditionFailedError(
                f"{service.settings.manifest} is {loaded.digest:.12} by its SHA-256, not {wanted:.12}: somebody "
                "changed it meanwhile; look at it, then try again"
            )
        return change(loaded)

    def check(loaded: Loaded) -> None:
        first_snapshot(loaded, service.settings, probe_host(can_offload=service.engine.can_offload))

    try:
        loaded = await asyncio.to_thread(rewrite, service.settings.manifest, change_what_was_seen, check=check)
    except (ManifestRefusedError, ManifestProblems) as exc:
        return _refusal(exc)
    # A client that leaves from here on leaves a changed file behind, which is then read like any other.
    service.journal.note(ManifestEdited(request.scope["state"]["actor"].name, what, loaded.digest[:12]))
    body = {"status": "success", "message": what, **told(loaded), "sha256": loaded.digest, "in_force": True}
    try:
        await service.reload.read_again()
    except AirLabError as exc:
        body |= {"in_force": False, "message": f"{what} in the file, which is not in force yet: {exc.message}"}
        status = 202
    return Response(body, status_code=status, headers={"etag": f'"{loaded.digest}"'})


def _refusal(exc: ManifestRefusedError | ManifestProblems) -> Answered:
    """With every problem for programs, too."""
    answer, cause = answer_for(exc), exc if isinstance(exc, ManifestProblems) else exc.__cause__
    problems = problems_json(cause.problems) if isinstance(cause, ManifestProblems) else []
    body = {"error": answer.error, "detail": exc.message, "problems": problems}
    return Response(body, status_code=answer.status)
