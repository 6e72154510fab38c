"""What ``airlab plan`` says of models that run in containers: the exact body that Docker would be asked to create."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from app.engines.base import Launch, RunSpec
from app.engines.container import Image, Order, Where, body_of, order_of, section_of
from app.engines.docker import DockerEngine, own_user
from app.engines.kinds import containers_dir, host_nodes
from app.engines.placement import place
from app.errors import EngineError
from app.settings import Settings


def planned_container(key: str, run: RunSpec, instance: str, settings: Settings) -> dict[str, Any]:
    """``container``: its name and its body, or None, with the ``problem`` that is in the way.

    Where a launcher starts containers, image and paths are shown as they are seen from here: it alone asks Docker.
    """
    try:
        order = asyncio.run(_order(key, run, instance, settings))
    except EngineError as exc:
        return {"container": None, "problem": exc.message}
    return {"container": {"Name": order.name, **body_of(order)}}


async def _order(key: str, run: RunSpec, instance: str, settings: Settings) -> Order:
    section = section_of(run)
    if settings.launcher is not None:
        where = Where(settings.launcher.parent, None, own_user())
        placement = place(run, section, host_nodes(), ())
        return order_of(key, run, instance, where=where, image=Image(section.image), placement=placement)
    engine = DockerEngine(containers_dir(settings), os.environ, nodes=host_nodes)
    try:
        return await engine.order_for(Launch(key, (), Path(f"{instance}.sock"), {}, run), instance=instance)
    finally:
        engine.close()
