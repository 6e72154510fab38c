"""``airlab check`` and ``airlab plan``: what the manifest says and would do; nothing is started."""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
from dataclasses import asdict
from typing import Any

from app.cli.containers import planned_container
from app.cli.main import DONE
from app.devices.probe import Host
from app.engines.command import launch_for, socket_name
from app.engines.native import NativeEngine
from app.errors import AirLabError, EngineError
from app.fleet.decide import cannot_start
from app.fleet.spec import ModelSpec
from app.live.inputs import first_snapshot, probe
from app.live.lastgood import read_last_good
from app.live.plan import Plan, make_plan
from app.live.snapshot import Snapshot
from app.manifest.load import Loaded, read_manifest
from app.manifest.schema import DockerEngineSection
from app.settings import Settings, read_settings


def check(options: argparse.Namespace) -> int:
    """Print that it is right, or raise with every problem."""
    settings = read_settings(manifest=options.file)
    snapshot = _snapshot(read_manifest(settings.manifest), settings)
    print(f"{settings.manifest}: right; {len(snapshot.models)} models, profile {snapshot.profile.name}")
    for line in _change(snapshot, settings)[1]:
        print(f"  {line}")
    return DONE


def plan(options: argparse.Namespace) -> int:
    """Print the profile, what would change, and for each model the exact argument list that would start it."""
    settings = read_settings(manifest=options.file, profile=options.profile)
    snapshot = _snapshot(read_manifest(settings.manifest), settings)
    change, lines = _change(snapshot, settings)
    entries = [_entry(spec, settings) for spec in snapshot.models.values()]
    if options.json:
        choice = snapshot.profile
        considered = [asdict(outcome) | {"matched": outcome.matched} for outcome in choice.considered]
        profile = {"profile": choice.name, "reason": choice.reason, "considered": considered}
        print(json.dumps(profile | {"change": None if change is None else change.to_json(), "models": entries}))
        return DONE
    print(f"profile {snapshot.profile.name}: {snapshot.profile.reason}")
    for outcome in snapshot.profile.considered:
        if outcome.name != snapshot.profile.name:
            print(f"  {outcome.name} {'would match' if outcome.matched else 'does not match'}: {outcome.why}")
    print("\n".join(lines))
    for entry in entries:
        current = "  (serves when a request names no model)" if entry["key"] == snapshot.chosen_model else ""
        print(f"\n{entry['key']}: starts {entry['starts']}{current}")
        if entry["container"]:
            print(f"  in a container: {json.dumps(entry['container'], indent=2)}".replace("\n", "\n  "))
        elif entry["problem"]:
            print(f"  cannot start{' in a container' if entry['argv'] else ''}: {entry['problem']}")
        if entry["argv"]:
            print(f"  {shlex.join(entry['argv'])}")
    return DONE


def _snapshot(loaded: Loaded, settings: Settings) -> Snapshot:
    return first_snapshot(loaded, settings, _host(settings))


@functools.cache
def _host(settings: Settings) -> Host:
    """Looked at once for a command: what it compares is to be compared on one host, and a driver may take a second."""
    engine = _engine(settings)
    return probe(engine, settings.launcher)


def _change(snapshot: Snapshot, settings: Settings) -> tuple[Plan | None, list[str]]:
    """What it would change against the manifest last in force here, as a plan and in words; None where none was."""
    before = read_last_good(settings)
    if before is None:
        return None, ["nothing was in force here before: everything is new"]
    try:
        change = make_plan(_snapshot(before, settings), snapshot)
    except AirLabError as exc:
        return None, [f"the manifest last in force does not fit this machine any more: {exc.message}"]
    return change, list(change.lines()) or ["nothing changes against the manifest last in force"]


def _engine(settings: Settings) -> NativeEngine:
    return NativeEngine(settings.run_dir, settings.llama_server_path)


def _entry(spec: ModelSpec, settings: Settings) -> dict[str, Any]:
    starts = "with AirLab" if spec.section.preload else "at the first request"
    entry = {"key": spec.key, "starts": starts, "argv": None, "container": None, "problem": None}
    if spec.is_remote:
        return entry | {"starts": f"nothing here: {spec.where} runs it"}
    # The number in a socket's name is given at the start; 0 stands for it.
    socket = settings.run_dir / socket_name(0, spec.key)
    if (error := cannot_start(spec, settings.home)) is not None:
        return entry | {"problem": error.message}
    try:
        if isinstance(spec.run.engine, DockerEngineSection):
            entry |= planned_container(spec.key, spec.run, socket.stem, settings)
            if entry["container"] or spec.run.engine.fallback is None:
                return entry
        launch = launch_for(spec.key, spec.run, socket=socket, environment=os.environ)
        return entry | {"argv": [*_engine(settings).program(), *launch.arguments]}
    except EngineError as exc:
        return entry | {"problem": exc.message}
