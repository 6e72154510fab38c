"""``airlab check`` and ``airlab plan``: what the manifest says and would do; nothing is started."""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import shlex
from dataclasses import asdict
from typing import Any

from app.cli.containers import planned_container
from app.cli.main import DONE
from app.devices.ask import printable
from app.devices.probe import Host
from app.engines.command import launch_for, socket_name
from app.engines.native import NativeEngine
from app.errors import AirLabError, DownloadError, EngineError
from app.fleet.admit import fit_on_empty_host
from app.fleet.bounds import by_node
from app.fleet.corrections import ratios_of, read_corrections
from app.fleet.fit import Fitted, Shortfall
from app.fleet.memory import Budget
from app.fleet.refusals import cannot_start
from app.fleet.report import arithmetic_lines
from app.fleet.spec import ModelSpec, with_fit, with_preview
from app.fleet.states import MemoryState
from app.live.inputs import first_snapshot, host_memory, probe
from app.live.lastgood import read_last_good
from app.live.plan import Plan, make_plan
from app.live.snapshot import Snapshot
from app.manifest.cautions import cautions
from app.manifest.engine_sections import DockerEngineSection
from app.manifest.load import Loaded, read_manifest
from app.settings import Settings, read_settings
from app.units import format_bytes
from app.weights.preview import Previews

_HUB_S = 5.0
"""For asking hubs about models that are not on disk, all at once."""


def check(options: argparse.Namespace) -> int:
    """Print that it is right, or raise with every problem."""
    settings = read_settings(manifest=options.file)
    snapshot = _snapshot(read_manifest(settings.manifest), settings)
    print(f"{settings.manifest}: right; {len(snapshot.models)} models, profile {snapshot.profile.name}")
    for line in cautions(snapshot.manifest):
        print(f"  caution: {line}")
    for line in _change(snapshot, settings)[1]:
        print(f"  {line}")
    return DONE


def plan(options: argparse.Namespace) -> int:
    """Print the profile, what would change, and for each model the exact argument list that would start it."""
    settings = read_settings(manifest=options.file, profile=options.profile)
    snapshot = _snapshot(read_manifest(settings.manifest), settings)
    change, lines = _change(snapshot, settings)
    memory = _memory(snapshot, settings)
    ahead = asyncio.run(_look_ahead(snapshot, settings, memory))
    entries = [_entry(spec, settings, memory, ahead.get(spec.key)) for spec in snapshot.models.values()]
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
        for line in entry["memory"]:
            print(f"  memory, {line}")
        if download := entry["download"]:
            size = f" of {format_bytes(download['bytes'])}" if download["bytes"] else ""
            print(f"  after a download{size}: {printable(download['message'])}")
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


def _memory(snapshot: Snapshot, settings: Settings) -> MemoryState:
    """What is free now, as if nothing of AirLab's were loaded."""
    host, engine, profile = _host(settings), _engine(settings), snapshot.profile.section
    memory = host_memory(host, settings, base_bytes=engine.base_bytes)
    reading = asyncio.run(memory.meter.read({}, by_node=by_node(snapshot.models.values())))
    ratios = ratios_of(read_corrections(memory.file) if memory.file else {}, snapshot.models)
    budget = Budget(profile.memory.vram, profile.memory.ram)
    return MemoryState(
        reading,
        is_fresh=True,
        is_being_read=False,
        budget=budget,
        threads=memory.threads,
        ratios=ratios,
        base_bytes=memory.base_bytes,
    )


async def _look_ahead(snapshot: Snapshot, settings: Settings, memory: MemoryState) -> dict[str, dict[str, Any]]:
    """What the models would be that are not on disk and can be downloaded, by key; each hub is asked for seconds."""
    previews = Previews(settings)
    specs = [spec for spec in snapshot.models.values() if spec.can_be_downloaded and not spec.is_remote]

    async def look(spec: ModelSpec) -> dict[str, Any]:
        try:
            preview = await previews.of(spec.section, within_s=_HUB_S)
        except DownloadError as exc:
            return {"bytes": None, "fits": None, "message": f"what it would take is not known: {exc.message}"}
        found = fit_on_empty_host(with_preview(spec, preview), memory)
        lines = "; ".join(arithmetic_lines(found))
        said = preview.problem or (found.message if isinstance(found, Shortfall) else f"it would fit: {lines}")
        fits = isinstance(found, Fitted) and preview.problem is None
        return {"bytes": preview.download_bytes, "fits": fits, "message": f"{said}{preview.caveat}"}

    return dict(zip([spec.key for spec in specs], await asyncio.gather(*map(look, specs)), strict=True))


def _entry(spec: ModelSpec, settings: Settings, memory: MemoryState, download: dict[str, Any] | None) -> dict[str, Any]:
    starts = "with AirLab" if spec.section.preload else "at the first request"
    entry: dict[str, Any] = {"key": spec.key, "starts": starts, "argv": None, "container": None, "problem": None}
    entry |= {"memory": [], "download": download}
    if spec.is_remote:
        return entry | {"starts": f"nothing here: {spec.where} runs it"}
    # The number in a socket's name is given at the start; 0 stands for it.
    socket = settings.run_dir / socket_name(0, spec.key)
    if (error := cannot_start(spec, settings.home)) is not None:
        return entry | {"problem": error.message}
    found = fit_on_empty_host(spec, memory)
    entry["memory"] = list(arithmetic_lines(found))
    if isinstance(found, Shortfall):
        return entry | {"problem": found.message}
    try:
        run = with_fit(spec, found.fit).run
        if isinstance(run.engine, DockerEngineSection):
            entry |= planned_container(spec.key, run, socket.stem, settings, found.fit)
            if entry["container"] or run.engine.fallback is None:
                return entry
        launch = launch_for(spec.key, run, socket=socket, environment=os.environ, fit=found.fit)
        return entry | {"argv": [*_engine(settings).program(), *launch.arguments]}
    except EngineError as exc:
        return entry | {"problem": exc.message}
