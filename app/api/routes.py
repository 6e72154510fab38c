"""The owner's routes, in Litestar: health, models, switch, load, unload, shutdown, and the schema of them all."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from litestar import Litestar, Request, Response, Router, get, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Struct

from app.api import pages, sessions, statuspage
from app.api.again import edit, regenerate, resume
from app.api.approvals import answer_approval, approvals
from app.api.audit import audit
from app.api.auth import Auth, Scope
from app.api.chat import chat
from app.api.command import command
from app.api.downloads import cancel_pull, fetch_first, pull, pulled
from app.api.edits import add_model, add_tool, remove_model, remove_tool
from app.api.errors import litestar_handler
from app.api.events import events
from app.api.export import export_session, export_sessions
from app.api.fit import fit
from app.api.keep_alive import keep_alive_s
from app.api.logs import logs
from app.api.manifest import manifest, reload_manifest
from app.api.metrics import metrics
from app.api.tools import call_tool, tools
from app.errors import BadRequestError
from app.fleet.refusals import cannot_start
from app.service import Service
from app.units import format_duration


class SwitchRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /model/switch."""

    model_key: str


class SwitchAnswer(Struct):
    """What a switch led to; ``load_time`` in seconds."""

    status: str
    message: str
    model_key: str
    previous_model_key: str
    load_time: float


class Owner:
    """What the handlers share."""

    def __init__(self, service: Service, auth: Auth) -> None:
        """One for each application."""
        self.service = service
        self.auth = auth


async def _scope_guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Litestar guard: the caller's key must reach the scope that the route names.

    A coroutine although it awaits nothing: Litestar would run a plain function in a thread.
    """
    auth = connection.app.state.owner.auth
    address = connection.client.host if connection.client else ""
    actor = auth.who(connection.scope["headers"], address=address)
    auth.require(actor, handler.opt["scope"])
    connection.scope["state"]["actor"] = actor


@get("/health", opt={"scope": Scope.OPEN})
async def health(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """Whether AirLab is well, from memory; 503 only while it shuts down."""
    service: Service = request.app.state.owner.service
    may_see_details = request.scope["state"]["actor"].scope >= Scope.USE
    body = pages.health(
        service.live.current,
        service.fleet.status(),
        service.reload.last,
        stopping=service.stopping,
        details=may_see_details,
        gaps=service.gate.gaps(),
    )
    return Response(body, status_code=503 if service.stopping else 200)


@get("/models", opt={"scope": Scope.USE})
async def models(request: Request[Any, Any, Any], include_finetuned: FromQuery[bool] = True) -> dict[str, Any]:
    """Every model of the manifest, for people and for OpenAI clients."""
    service: Service = request.app.state.owner.service
    body = pages.owner_models(service.live.current, service.fleet.status(), include_finetuned=include_finetuned)
    for entry in body["models"]:
        entry["download"] = _download(service, entry["key"])
    return body


def _download(service: Service, key: str) -> dict[str, Any] | None:
    job = service.downloads.of(key)
    return job.told() if job is not None else None


@get("/ps", opt={"scope": Scope.USE})
async def running(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The state of every model: process, slots, requests that wait, download; and the memory that models share."""
    service: Service = request.app.state.owner.service
    body = pages.running_models(service.live.current, service.fleet.status(), now_s=time.monotonic())
    for row in body["models"]:
        row["download"] = _download(service, row["key"])
    return body | {"memory": pages.memory(service.fleet.shares())}


@post("/model/switch", opt={"scope": Scope.ADMIN}, status_code=200)
async def switch(request: Request[Any, Any, Any], data: JSONBody[SwitchRequest]) -> SwitchAnswer:
    """Make a model the current one: download it if need be, load it, and stop the one it replaces.

    Where it cannot be had, what served before serves on, and where it does not come up, again.
    """
    service: Service = request.app.state.owner.service
    service.refuse_if_stopping()
    await fetch_first(service, data.model_key, actor=request.scope["state"]["actor"].name)
    begun_s = time.monotonic()
    key = await _loadable(service, data.model_key)
    # Before what serves now is stopped for it.
    await service.fleet.refuse_out_of_reach(key)
    previous = service.live.current.chosen_model
    service.reload.choose_model(key)
    unloads = previous != key and not service.live.current.models[previous].section.pin
    leaving = service.fleet.begin_unload(previous) if unloads else []
    try:
        await service.fleet.load(key)
    except asyncio.CancelledError:
        raise  # the client left; what it asked for goes on
    except Exception:
        # A model that does not come up must not stay the one that serves; a later switch is not undone.
        if service.live.current.chosen_model == key:
            service.reload.choose_model(previous)
            if leaving:
                service.fleet.bring_back(previous)
        raise
    took_s = time.monotonic() - begun_s
    return SwitchAnswer("success", f"{key} is ready after {format_duration(took_s)}", key, previous, round(took_s, 3))


@post("/models/{name:str}/load", opt={"scope": Scope.ADMIN}, status_code=200)
async def load(
    request: Request[Any, Any, Any],
    name: FromPath[str],
    beside: FromQuery[bool] = False,
    keep_alive: FromQuery[str | None] = None,
) -> dict[str, Any]:
    """Load a model and say when it is ready.

    With ``beside`` only where nothing has to leave for it; ``keep_alive`` as in a request, but not 0.
    """
    service: Service = request.app.state.owner.service
    keep_s = keep_alive_s(keep_alive)
    if keep_s == 0:
        raise BadRequestError("keep_alive is 0: that would unload what is to be loaded", param="keep_alive")
    key, begun_s = await _loadable(service, name), time.monotonic()
    await service.fleet.load(key, beside=beside, keep_alive_s=keep_s)
    return {"status": "success", "model_key": key, "load_time": round(time.monotonic() - begun_s, 3)}


@post("/models/{name:str}/unload", opt={"scope": Scope.ADMIN}, status_code=200)
async def unload(request: Request[Any, Any, Any], name: FromPath[str]) -> dict[str, Any]:
    """Unload a model once it has finished what it has."""
    service: Service = request.app.state.owner.service
    key = service.live.current.key_of(name)
    await service.fleet.unload(key)
    return {"status": "success", "model_key": key}


@post("/shutdown", opt={"scope": Scope.ADMIN}, status_code=202)
async def shutdown(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Drain and stop everything."""
    service: Service = request.app.state.owner.service
    service.request_exit()
    return {"status": "success", "message": "AirLab finishes what it has and stops"}


async def _loadable(service: Service, name: str) -> str:
    """The key of a model whose file is there; looked for anew, since it may have come meanwhile."""
    service.refuse_if_stopping()
    service.live.current.key_of(name)
    await service.reload.look_again()
    snapshot = service.live.current
    key = snapshot.key_of(name)
    if (error := cannot_start(snapshot.models[key], service.settings.home)) is not None:
        raise error
    return key


def owner_app(service: Service, auth: Auth) -> Litestar:
    """The Litestar application of the owner's routes."""
    app = Litestar(
        route_handlers=[
            *(statuspage.page, statuspage.style, statuspage.script),
            *(health, models, running, switch, load, unload, shutdown, metrics, events),
            *(chat, command, manifest, reload_manifest),
            *(sessions.sessions, sessions.create_session, sessions.session, sessions.change_session),
            *(sessions.remove_session, sessions.fork, sessions.switch_branch, sessions.undo),
            *(regenerate, edit, resume, export_session, export_sessions),
            *(pull, pulled, cancel_pull, logs, fit),
            *(add_model, remove_model, add_tool, remove_tool),
            *(tools, call_tool, approvals, answer_approval, audit),
        ],
        guards=[_scope_guard],
        exception_handlers={Exception: litestar_handler},
        openapi_config=OpenAPIConfig(
            title="AirLab",
            version="0.1.0",
            use_handler_docstrings=True,
            openapi_router=Router("/schema", route_handlers=[], opt={"scope": Scope.USE}),
            # JSON alone: the pages that Litestar would add load their scripts from other people's servers.
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        ),
        logging_config=None,
        debug=False,
    )
    app.state.owner = Owner(service, auth)
    return app
