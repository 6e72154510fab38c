"""What ``airlab plan`` and ``doctor`` say of containers: the exact body that Docker would get, and what is amiss."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

from app.cli.checkup import Facts
from app.cli.findings import Finding, Verdict
from app.devices.dockerd import ask_docker, docker_socket
from app.engines.base import Fit, Launch, RunSpec
from app.engines.command import as_written
from app.engines.container import Image, Order, Where, body_of, order_of, section_of
from app.engines.docker import DockerEngine, own_user
from app.engines.kinds import containers_dir, host_nodes
from app.engines.placement import place
from app.errors import EngineError
from app.manifest.engine_sections import DockerEngineSection
from app.settings import Settings

_KNOCK_S = 2.0


def container(facts: Facts) -> Finding:
    """Whether models can run in containers, where the profile wants that."""
    choice = facts.snapshot.profile if facts.snapshot else None
    if facts.snapshot is None or choice is None or not isinstance(choice.section.engine, DockerEngineSection):
        return Finding("container", "not applicable", "models run without containers here")
    section, spec = choice.section.engine, facts.snapshot.models[facts.snapshot.chosen_model]
    if spec.is_remote or spec.run.weights is None:
        return Finding("container", "not applicable", f"{spec.key} has no file that one could hold")
    verdict: Verdict = "warning" if section.fallback else "problem"
    trouble = _trouble(spec.key, spec.run, facts.settings)
    if trouble is None:
        return Finding("container", "ok", f"{section.image}, for profile {choice.name}")
    instead = "; models run natively instead" if section.fallback else ""
    return Finding("container", verdict, f"{trouble}{instead}", "see docs/containers.md")


def _trouble(key: str, run: RunSpec, settings: Settings) -> str | None:
    """Why no container can be started, as far as that can be known without starting one."""
    if settings.launcher is not None:
        try:
            with socket.socket(socket.AF_UNIX) as knocking:
                knocking.settimeout(_KNOCK_S)
                knocking.connect(str(settings.launcher))
        except OSError as exc:
            return f"no launcher answers at {settings.launcher} ({exc.strerror or exc})"
        return None
    told = planned_container(key, run, "0-doctor", settings)
    if told["container"] is None:
        return str(told["problem"])
    place = docker_socket(os.environ)
    if section_of(run).wants_gpu and place is not None and "nvidia" not in ask_docker(place).runtimes:
        return "Docker cannot hand a GPU to a container: the NVIDIA Container Toolkit is missing"
    return None


def planned_container(
    key: str, run: RunSpec, instance: str, settings: Settings, fit: Fit | None = None
) -> dict[str, Any]:
    """``container``: its name and its body, or None, with the ``problem`` that is in the way.

    Where a launcher starts containers, image and paths are shown as they are seen from here: it alone asks Docker.
    """
    try:
        order = asyncio.run(_order(key, run, instance, settings, fit))
    except EngineError as exc:
        return {"container": None, "problem": exc.message}
    return {"container": {"Name": order.name, **body_of(order)}}


async def _order(key: str, run: RunSpec, instance: str, settings: Settings, fit: Fit | None) -> Order:
    section = section_of(run)
    if settings.launcher is not None:
        where = Where(settings.launcher.parent, None, own_user())
        placement = place(section, fit or as_written(run), host_nodes())
        return order_of(key, run, instance, where=where, image=Image(section.image), placement=placement, fit=fit)
    engine = DockerEngine(containers_dir(settings), os.environ, nodes=host_nodes)
    try:
        return await engine.order_for(Launch(key, (), Path(f"{instance}.sock"), {}, run, fit), instance=instance)
    finally:
        engine.close()
