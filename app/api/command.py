"""POST /command: ``system``, ``layers``, ``mem`` and ``tools``; without a value it reads, with one it sets.

What is set here ranks above the environment and the YAML, until the service stops.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from litestar import Request, Response, post
from litestar.params import JSONBody
from msgspec import Struct

from app.api import walls
from app.api.auth import Scope
from app.devices.memory import gpu_memory, memory_words
from app.errors import AirLabError, BadRequestError
from app.service import Service
from app.units import format_bytes

_ON = frozenset({"on", "true", "yes", "1"})
_OFF = frozenset({"off", "false", "no", "0"})
_SYSTEM_CHARACTERS = 32_768


class CommandRequest(Struct):
    """The body of POST /command."""

    command: str = ""
    value: Any = None
    """Text or a number."""


class Outcome(Struct):
    """What a command led to; ``current_value`` is always text."""

    message: str
    current_value: str
    status: str = "success"


@post("/command", opt={"scope": Scope.ADMIN}, status_code=200)
async def command(
    request: Request[Any, Any, Any], data: JSONBody[CommandRequest]
) -> Outcome | Response[dict[str, Any]]:
    """Read or set what the owner tunes while AirLab runs."""
    service: Service = request.app.state.owner.service
    try:
        value = _text(data.value)
        return await COMMANDS.get(data.command, _unknown)(service, value)
    except BadRequestError as exc:
        error = {"message": exc.message, "type": "invalid_request_error", "param": exc.param or "value", "code": None}
        body = {"status": "error", "message": exc.message, "error": error, "detail": exc.message}
        return Response(body, status_code=400)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | int | float):
        raise BadRequestError("value must be text or a number")
    return str(value).strip()


async def _unknown(_service: Service, _value: str | None) -> Outcome:
    raise BadRequestError(f"no such command; there are {', '.join(COMMANDS)}", param="command")


async def _system(service: Service, value: str | None) -> Outcome:
    if value is None:
        return Outcome("the system prompt", service.live.current.system_prompt)
    if len(value) > _SYSTEM_CHARACTERS:
        raise BadRequestError(f"the system prompt may have {_SYSTEM_CHARACTERS} characters, not {len(value)}")
    service.reload.override(replace(service.reload.overrides, system_prompt=value))
    return Outcome("the system prompt is set", value)


async def _layers(service: Service, value: str | None) -> Outcome:
    key = service.live.current.chosen_model
    if value is None:
        return await _layers_now(service, key)
    wanted = _layer_count(value)
    service.reload.override(replace(service.reload.overrides, gpu_layers=wanted))
    service.fleet.begin_unload(key)  # anew also where the number is the one it had
    try:
        await service.fleet.load(key)  # forgives a cool-down, and brings up an engine that was down
        state = "it is loaded anew; the setting holds for every model"
    except AirLabError as exc:
        state = f"but it does not load: {exc.message}"
    if service.live.current.models[key].run.gpu_layers != wanted:
        state += "; this engine has no part for a GPU (set LLAMA_SERVER_PATH to one that has)"
    return await _layers_now(service, key, state)


async def _layers_now(service: Service, key: str, *more: str) -> Outcome:
    spec = service.live.current.models[key]
    layers = "auto" if spec.run.gpu_layers is None else str(spec.run.gpu_layers)
    return Outcome("; ".join([f"{key}: {spec.device}", *more, await gpu_memory()]), layers)


def _layer_count(value: str) -> int:
    text = "-1" if value == "all" else value.removesuffix(".0")
    # Digits only: int() reads 1_0 as ten.
    layers = int(text) if re.fullmatch(r"-?[0-9]{1,4}", text) else -2
    if not -1 <= layers <= 1000:
        raise BadRequestError(f"layers takes -1 or all (every layer), 0 (none) or a number up to 1000, not {value!r}")
    return layers


async def _mem(service: Service, value: str | None) -> Outcome:
    if value is not None:
        raise BadRequestError("mem only shows what is used; to change it, set layers, or edit context_length")
    engines = service.fleet.status().values()
    words = await memory_words([engine.pid for engine in engines if engine.pid is not None])
    if contained := [engine.container_bytes for engine in engines if engine.container is not None]:
        words += f"; containers {format_bytes(sum(contained))}"
    return Outcome(f"{words}; {await gpu_memory()}", words)


async def _tools(service: Service, value: str | None) -> Outcome:
    if value is not None:
        if value.lower() not in _ON | _OFF:
            raise BadRequestError(f"tools takes on or off, not {value!r}")
        service.reload.override(replace(service.reload.overrides, tools_on=value.lower() in _ON))
    offered, why_not = service.gate.offered()
    switch = "on" if service.live.current.tools_on else "off"
    names = ", ".join(tool.name for tool in offered)
    details = f"{len(offered)} offered: {names}" if offered else "none offered"
    enforced = walls.in_words(service.gate.enforced())
    return Outcome(f"tools are {switch}; {details}{f'; {why_not}' if why_not else ''}; {enforced}", switch)


COMMANDS: dict[str, Callable[[Service, str | None], Awaitable[Outcome]]] = {
    "system": _system,
    "layers": _layers,
    "mem": _mem,
    "tools": _tools,
}
