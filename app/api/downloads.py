"""/models/{key}/pull: download a model, see how far it is, cancel it. And what a switch waits for.

A download belongs to the server: a client that goes away ends nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath

from app.api.auth import Scope
from app.engines.base import WeightsId
from app.errors import DoesNotFitError, DownloadError, DownloadNotFoundError, WeightsBrokenError
from app.fleet.spec import ModelSpec, with_preview
from app.service import Service
from app.units import format_bytes
from app.weights.jobs import Job
from app.weights.transfer import Progress

Answered = Response[dict[str, Any]]


@post("/models/{name:str}/pull", opt={"scope": Scope.ADMIN}, status_code=202)
async def pull(request: Request[Any, Any, Any], name: FromPath[str]) -> Answered:
    """Download a model's files, or go on with it; 200 where they are on disk already, whoever put them there."""
    service: Service = request.app.state.owner.service
    service.refuse_if_stopping()
    key = service.live.current.key_of(name)
    spec = service.live.current.models[key]
    if spec.run.weights is not None and spec.problem is None:
        return Response(_there(key, spec.run.weights), status_code=200)
    job = service.downloads.start(key, spec.section, actor=request.scope["state"]["actor"].name)
    return Response(_told(key, job), status_code=202)


@get("/models/{name:str}/pull", opt={"scope": Scope.USE})
async def pulled(request: Request[Any, Any, Any], name: FromPath[str]) -> dict[str, Any]:
    """How far a model's newest download is."""
    service: Service = request.app.state.owner.service
    key = _key(service, name)
    job = service.downloads.of(key)
    if job is None:
        raise DownloadNotFoundError(f"nothing of {key} was downloaded since the start")
    return _told(key, job)


@delete("/models/{name:str}/pull", opt={"scope": Scope.ADMIN}, status_code=200)
async def cancel_pull(request: Request[Any, Any, Any], name: FromPath[str]) -> dict[str, Any]:
    """Cancel a model's download, for all who wait for it. What came is kept, and a later pull goes on from there."""
    service: Service = request.app.state.owner.service
    key = _key(service, name)
    return _told(key, service.downloads.cancel(key))


async def fetch_first(service: Service, name: str, *, actor: str) -> None:
    """Have a model's files on disk, those that go with it too, if they can be downloaded and are not there.

    Raises as a download does, and before anything comes that would be for nothing: where the model can never fit into
    this host's memory, or its file cannot be used.
    """
    snapshot = service.live.current
    spec = snapshot.models[snapshot.key_of(name)]
    if spec.can_be_downloaded:
        first = partial(_refuse_useless, service, spec)
    elif spec.lacks_companion:
        first = None  # small beside what is there already
    else:
        return
    job = service.downloads.start(spec.key, spec.section, actor=actor, first=first)
    await service.downloads.finished(job)


async def _refuse_useless(service: Service, spec: ModelSpec) -> None:
    try:
        preview = await service.previews.of(spec.section)
    except DownloadError:
        return  # the download says it, or does better
    if preview.problem is not None:
        raise WeightsBrokenError(f"{spec.key} was not downloaded: {preview.problem}")
    try:
        await service.fleet.refuse_hopeless(with_preview(spec, preview))
    except DoesNotFitError as exc:
        size = format_bytes(preview.download_bytes)
        raise DoesNotFitError(
            f"{exc.message}. Its {size} were not downloaded; `airlab models pull {spec.key}` does so all the same"
        ) from exc


def _key(service: Service, name: str) -> str:
    """A model's key; also of one that was removed from the manifest while it is downloaded."""
    return name if service.downloads.of(name) is not None else service.live.current.key_of(name)


def _told(key: str, job: Job) -> dict[str, Any]:
    return {"model_key": key, **job.told()}


def _there(key: str, weights: WeightsId) -> dict[str, Any]:
    """As a job that had nothing to do."""
    job = Job(source="", keys={key}, outcome="done", files=((weights.path, Progress(weights.size_bytes)),))
    return _told(key, job) | {"source": None, "total_bytes": weights.size_bytes}
