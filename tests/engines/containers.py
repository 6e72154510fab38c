"""Runs for containers, and what a container looks like before Docker has seen it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.engines.base import Fit, Launch, RunSpec, WeightsId
from app.engines.container import Image, Order, Where, order_of
from app.engines.placement import Placement
from app.manifest.engine_sections import DockerEngineSection
from tests.fakes import run_spec

IMAGE_ID = f"sha256:{'1' * 64}"
PLAIN = Image(IMAGE_ID)


def section(**more: Any) -> DockerEngineSection:
    """A profile's engine."""
    return DockerEngineSection(**{"kind": "docker", "image": "airlab:cpu", **more})


def container_run(file: Path = Path("/models/m.gguf"), **more: Any) -> RunSpec:
    """A run of this file in a container; ``engine`` are keys of its section."""
    engine = section(**more.pop("engine", {}))
    weights = WeightsId(file, 1000, 1)
    return run_spec(engine=engine, weights=weights, gpu_layers=0, **{"context_length": 512, **more})


def launch(run: RunSpec, key: str = "small", *, number: int = 1, fit: Fit | None = None) -> Launch:
    """A start of it."""
    return Launch(key, (), Path(f"{number}-{key}.sock"), {}, run, fit)


def order(run: RunSpec, placement: Placement | None = None, image: Image = PLAIN, *, fit: Fit | None = None) -> Order:
    """The container for it, on this host and with a made-up image."""
    where, placement = Where(Path("/run/c"), None, "10001:10001"), placement or Placement()
    return order_of("small", run, "1-small", where=where, image=image, placement=placement, fit=fit)
