"""``airlab check`` and ``airlab plan``: what the manifest says and would do; nothing is started."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from typing import Any

from app.cli.main import DONE
from app.devices.probe import probe_host
from app.engines.command import launch_for, socket_name
from app.engines.native import NativeEngine
from app.errors import EngineError
from app.fleet.decide import missing_weights
from app.fleet.spec import ModelSpec
from app.live.reload import first_snapshot
from app.manifest.load import read_manifest
from app.settings import Settings, read_settings


def check(options: argparse.Namespace) -> int:
    """Print that it is right, or raise with every problem."""
    settings = read_settings(manifest=options.file)
    loaded = read_manifest(settings.manifest)
    first_snapshot(loaded.manifest, settings, probe_host(can_offload=_engine(settings).can_offload))
    print(f"{settings.manifest}: right; {len(loaded.manifest.models)} models")
    return DONE


def plan(options: argparse.Namespace) -> int:
    """Print the profile, and for each model the exact argument list that would start it."""
    settings = read_settings(manifest=options.file, profile=options.profile)
    engine = _engine(settings)
    host = probe_host(can_offload=engine.can_offload)
    snapshot = first_snapshot(read_manifest(settings.manifest).manifest, settings, host)
    entries = [_entry(spec, settings, engine) for spec in snapshot.models.values()]
    if options.json:
        print(json.dumps({"profile": snapshot.profile.name, "reason": snapshot.profile.reason, "models": entries}))
        return DONE
    print(f"profile {snapshot.profile.name}: {snapshot.profile.reason}")
    for entry in entries:
        current = "  (serves when a request names no model)" if entry["key"] == snapshot.chosen_model else ""
        print(f"\n{entry['key']}: starts {entry['starts']}{current}")
        print(f"  {shlex.join(entry['argv'])}" if entry["argv"] else f"  cannot start: {entry['problem']}")
    return DONE


def _engine(settings: Settings) -> NativeEngine:
    return NativeEngine(settings.run_dir, settings.llama_server_path)


def _entry(spec: ModelSpec, settings: Settings, engine: NativeEngine) -> dict[str, Any]:
    starts = "with AirLab" if spec.section.preload else "at the first request"
    entry = {"key": spec.key, "starts": starts, "argv": None, "problem": None}
    # The number in a socket's name is given at the start; 0 stands for it.
    socket = settings.run_dir / socket_name(0, spec.key)
    if spec.run.weights is None:
        return entry | {"problem": missing_weights(spec, settings.home).message}
    try:
        launch = launch_for(spec.key, spec.run, socket=socket, environment=os.environ)
        return entry | {"argv": [*engine.program(), *launch.arguments]}
    except EngineError as exc:
        return entry | {"problem": exc.message}
