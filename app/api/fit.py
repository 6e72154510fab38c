"""``GET /models/{key}/fit``: what a model takes, or would take with other numbers, against what is free now."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from litestar import Request, get
from litestar.params import FromPath, FromQuery, QueryParameter

from app.api.auth import Scope
from app.errors import DownloadError
from app.fleet.spec import ModelSpec, with_preview
from app.manifest.schema import CacheType
from app.service import Service
from app.weights.preview import LOOK_S

_Context = Annotated[int | None, QueryParameter(ge=512, le=1_048_576, description="tokens, for each conversation")]
_Slots = Annotated[int | None, QueryParameter(ge=1, le=64, description="conversations at once")]

_Within = Annotated[float, QueryParameter(ge=0, le=LOOK_S, description="seconds to wait for a hub's answer")]


@get("/models/{name:str}/fit", opt={"scope": Scope.USE})
async def fit(
    request: Request[Any, Any, Any],
    name: FromPath[str],
    context_length: _Context = None,
    parallel: _Slots = None,
    cache_type: FromQuery[CacheType | None] = None,
    within_s: _Within = LOOK_S,
) -> dict[str, Any]:
    """Whether it fits beside what is loaded, and how, with the arithmetic; nothing is started, and nothing downloaded.

    For a model that is not on disk, the hub that the manifest names is asked for its size and its header: ten seconds
    at most, once in ten minutes for all who ask. So whoever may use models may ask, and makes the server ask nobody
    whom the manifest does not name. A look goes on when nobody waits for it any more, and answers whoever asks next.
    """
    service: Service = request.app.state.owner.service
    snapshot = service.live.current
    spec = snapshot.models[snapshot.key_of(name)]
    asked = {"context_length": context_length, "slots": parallel, "cache_type": cache_type}
    run = replace(spec.run, **{key: value for key, value in asked.items() if value is not None})  # type: ignore[arg-type]
    spec = replace(spec, run=run)
    return await (_fit_ahead(service, spec, within_s) if spec.can_be_downloaded else service.fleet.fit(spec))


async def _fit_ahead(service: Service, spec: ModelSpec, within_s: float) -> dict[str, Any]:
    """For a model that is not on disk: as it would be, or in words why nobody knows."""
    try:
        preview = await service.previews.of(spec.section, within_s=within_s)
    except DownloadError as exc:
        message = f"{spec.key} is not on disk, and what it would take is not known: {exc.message}"
        return {"model_key": spec.key, "fits": None, "message": message, "download_bytes": None}
    report = await service.fleet.fit(with_preview(spec, preview))
    if preview.problem is not None:
        report |= {"fits": False, "message": f"{spec.key} is not on disk, and is not worth it: {preview.problem}"}
    else:
        report["message"] += preview.caveat
    return {**report, "download_bytes": preview.download_bytes}
