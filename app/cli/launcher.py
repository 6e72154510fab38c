"""``airlab launcher``: starts containers for an AirLab that may not use Docker itself."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from pathlib import Path

from app.cli.main import DONE
from app.engines.docker import DockerEngine
from app.engines.kinds import host_nodes
from app.launcher import run
from app.settings import read_settings

_PLACE = Path("/run/airlab/launcher/launcher.sock")


def launcher(options: argparse.Namespace) -> int:
    """Serve until a signal; nothing that it started is left then."""
    settings = read_settings()
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    place = settings.launcher or _PLACE
    peer = os.getuid() if options.peer is None else options.peer
    # A container runs as whoever is to connect to its socket; where that is root, who may connect to any, as nobody.
    user = None if peer in {0, os.getuid()} else f"{peer}:{peer}"
    # The service downloads models, so it can lay links there: none of them is to show a container anything else.
    within = (settings.home / "models", *settings.hub_caches)
    engine = DockerEngine(place.parent, os.environ, user=user, nodes=host_nodes, shared=True, within=within)
    asyncio.run(run(engine, settings, place, peer=peer))
    return DONE
