"""``GET /models/{key}/fit``: what a model takes, or would take with other numbers, against what is free now."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from litestar import Request, get
from litestar.params import FromPath, FromQuery, QueryParameter

from app.api.auth import Scope
from app.manifest.schema import CacheType
from app.service import Service

_Context = Annotated[int | None, QueryParameter(ge=512, le=1_048_576, description="tokens, for each conversation")]
_Slots = Annotated[int | None, QueryParameter(ge=1, le=64, description="conversations at once")]


@get("/models/{name:str}/fit", opt={"scope": Scope.USE})
async def fit(
    request: Request[Any, Any, Any],
    name: FromPath[str],
    context_length: _Context = None,
    parallel: _Slots = None,
    cache_type: FromQuery[CacheType | None] = None,
) -> dict[str, Any]:
    """Whether it fits beside what is loaded, and how, with the arithmetic; nothing is started."""
    service: Service = request.app.state.owner.service
    snapshot = service.live.current
    spec = snapshot.models[snapshot.key_of(name)]
    asked = {"context_length": context_length, "slots": parallel, "cache_type": cache_type}
    run = replace(spec.run, **{key: value for key, value in asked.items() if value is not None})  # type: ignore[arg-type]
    return await service.fleet.fit(replace(spec, run=run))
