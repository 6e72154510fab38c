"""The checks of ``airlab doctor``: each looks at one thing of this machine, changes nothing, and says what to do."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import re
import shutil
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import psutil

from app.cli.checkup import Facts
from app.cli.containers import container
from app.cli.findings import Finding, Verdict
from app.devices.ask import ask, printable
from app.devices.cards import nvidia_cards
from app.devices.dockerd import ask_docker, docker_socket
from app.devices.holders import lock_holder, port_holder
from app.devices.memory import read_vram
from app.devices.sandbox import probe_kernel
from app.errors import SettingsError
from app.fleet.refusals import cannot_start
from app.service import reached_at, require_keys_for
from app.units import GIB, format_bytes
from app.weights.look import models_dir

_SAFE_LLAMA_BUILD = 8146
"""Older ones let a crafted model file write outside their memory (CVE-2026-27940)."""
_SAFE_DOCKER = 28
"""Older ones let neighbours in the same network reach ports that are published on 127.0.0.1 only."""
_SAFE_TOOLKIT = (1, 17, 8)
"""Older ones let an image take over the host (CVE-2025-23266)."""
_ROOM_BYTES = 2 * GIB
_HEALTH_S = 1.0
"""AirLab answers within a tenth of it, whatever it does."""
_HEALTH_BYTES = 64 * 1024

# Without the engine's own argument list: what is asked is only whether the wheel loads.
_IMPORT = "try:\n    import xllamacpp\nexcept ImportError as exc:\n    print(exc)"


def machine_checks(facts: Facts | None) -> dict[str, Callable[[], Finding]]:
    """Every check, by the name of what it finds; without facts those that need none."""
    checks: dict[str, Callable[[], Finding]] = {}
    if facts is not None:
        needing = (engine, container, model, memory, disk, gpu, port, keys, state, launcher)
        checks = {check.__name__: partial(check, facts) for check in needing}
    return checks | {"docker": docker, "sandbox": sandbox}


def engine(facts: Facts) -> Finding:
    """Which llama-server would run, and whether it does."""
    if facts.program is None:
        return Finding("engine", "problem", facts.no_program)
    if facts.is_embedded:
        return _embedded_engine()
    program = facts.program[0]
    told = ask([program, "--version"])
    if told.text is None:
        return Finding(
            "engine",
            "problem",
            f"{program} {told.why_not}",
            "install one that runs here, or unset LLAMA_SERVER_PATH to take the embedded engine",
        )
    lines = [line for line in told.text.splitlines() if line.strip()]
    version = printable(next((line for line in lines if "version" in line), "it names no version"))
    build = re.search(r"\bbuild (\d+)|version: (\d+)\b(?!\.)", version)
    if build and 0 < int(build[1] or build[2]) < _SAFE_LLAMA_BUILD:
        return Finding(
            "engine",
            "warning",
            f"{program}, {version}: a crafted model file can take it over",
            f"take build {_SAFE_LLAMA_BUILD} or later",
        )
    return Finding("engine", "ok", f"{program}, {version}")


def _embedded_engine() -> Finding:
    told = ask([sys.executable, "-c", _IMPORT])
    trouble = told.why_not if told.text is None else printable(told.text)
    if not trouble:
        version = importlib.metadata.version("xllamacpp")
        return Finding("engine", "ok", f"the embedded one (xllamacpp {version}), for processors only")
    fix = "apt-get install libgomp1" if "libgomp" in trouble else "make setup"
    return Finding("engine", "problem", f"no llama-server, and the embedded engine cannot run: {trouble}", fix)


def model(facts: Facts) -> Finding:
    """Whether the model that serves when a request names none can be loaded."""
    if facts.snapshot is None:
        return Finding("model", "not applicable", "no manifest that could be in force")
    spec = facts.snapshot.models[facts.snapshot.chosen_model]
    if trouble := cannot_start(spec, facts.settings.home):
        return Finding("model", "problem", trouble.message)
    weights = spec.run.weights
    shown = f"{weights.path}, {format_bytes(weights.size_bytes)}" if weights else spec.device
    return Finding("model", "ok", f"{spec.key}: {shown}")


def memory(facts: Facts) -> Finding:
    """Free memory, against the file of the default model."""
    now = psutil.virtual_memory()
    found = f"{format_bytes(now.available)} of {format_bytes(now.total)} free"
    weights = facts.snapshot.models[facts.snapshot.chosen_model].run.weights if facts.snapshot else None
    if weights is None or weights.size_bytes < now.available:
        return Finding("memory", "ok", found)
    found += f", less than the {format_bytes(weights.size_bytes)} of the default model"
    return Finding("memory", "warning", found, "close other programs, or choose a smaller default_model")


def disk(facts: Facts) -> Finding:
    """Room where downloads would go."""
    folder = _nearest(models_dir(facts.settings))
    free = shutil.disk_usage(folder).free
    found = f"{format_bytes(free)} free at {folder}"
    if free >= _ROOM_BYTES:
        return Finding("disk", "ok", found)
    return Finding("disk", "warning", found, "make room: most models take some GiB")


def gpu(facts: Facts) -> Finding:
    """Free memory of GPUs, and whether the engine can use them."""
    cards, why_none = read_vram()
    shown = [
        f"{card.gpu}: {format_bytes(card.total_bytes - card.used_bytes)} of {format_bytes(card.total_bytes)} free"
        for card in cards
    ] or [each.name for each in facts.host.gpus or ()]
    if not shown and nvidia_cards():
        fix = "install NVIDIA's driver; for containers also its Container Toolkit, then `docker compose build cuda`"
        return Finding("gpu", "warning", f"an NVIDIA card is in this machine, and cannot be seen here: {why_none}", fix)
    if not shown:
        return Finding("gpu", "not applicable", why_none)
    found = "; ".join(shown)
    if facts.host.can_offload:
        return Finding("gpu", "ok", found)
    fix = "point LLAMA_SERVER_PATH at a llama-server that was built for it"
    return Finding("gpu", "warning", f"{found}; the engine cannot use it", fix)


def port(facts: Facts) -> Finding:
    """Whether AirLab could listen, and if not, who does."""
    host, number = facts.server.host, facts.server.port
    if number == 0:
        return Finding("port", "ok", f"any free one of {host}")
    address = host
    try:
        family, kind, proto, _, place = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        address = str(place[0])
        with socket.socket(family, kind, proto) as trial:
            # As AirLab itself does: what a predecessor left in TIME_WAIT is no hindrance.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return _taken(facts, address)
        fix = "set AIRLAB_HOST or server.host to an address of this machine, AIRLAB_PORT or server.port above 1023"
        return Finding("port", "problem", f"cannot listen on {host}:{number}: {exc.strerror}", fix)
    return Finding("port", "ok", f"{host}:{number} is free")


def _taken(facts: Facts, address: str) -> Finding:
    shown = f"{facts.server.host}:{facts.server.port}"
    holder, own = port_holder(address, facts.server.port), lock_holder(facts.settings.state / "lock")
    if holder and own and holder.pid is not None and holder.pid == own.pid:
        return Finding("port", "ok", f"this AirLab serves on {shown} (pid {own.pid})")
    who = str(holder) if holder else "a process that cannot be seen from here"
    if _is_airlab(address, facts.server.port):
        who = f"another AirLab, {who}"
    fix = "stop it, or set AIRLAB_PORT or server.port to a free one"
    return Finding("port", "problem", f"{shown} is taken by {who}", fix)


def _is_airlab(address: str, number: int) -> bool:
    """Whether what listens there answers like AirLab; who it is it need not prove, since nothing follows from it."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    url = f"http://{f'[{address}]' if ':' in address else address}:{number}/health"
    try:
        with httpx.stream("GET", url, timeout=_HEALTH_S, trust_env=False) as answer:
            body = json.loads(next(answer.iter_bytes(_HEALTH_BYTES), b""))
    except (httpx.HTTPError, ValueError, RecursionError):
        return False
    return isinstance(body, dict) and {"status", "message", "model_key"} <= body.keys()


def keys(facts: Facts) -> Finding:
    """Which keys are set, and what that means for who may listen and ask."""
    host, settings = facts.server.host, facts.settings
    try:
        require_keys_for(host, settings)
    except SettingsError as exc:
        return Finding("keys", "problem", exc.message)
    match settings.api_key is not None, settings.admin_key is not None:
        case True, True:
            return Finding("keys", "ok", f"both are set; AirLab may listen on any address, and listens on {host}")
        case True, False:
            found = (
                "AIRLAB_ADMIN_KEY is not set: nobody may switch, load or shut down, and only loopback is listened on"
            )
            return Finding("keys", "warning", found, "export AIRLAB_ADMIN_KEY=$(openssl rand -hex 32)")
        case False, True:
            found = "AIRLAB_API_KEY is not set: every client needs the admin key, and only loopback is listened on"
            return Finding("keys", "warning", found, "export AIRLAB_API_KEY=$(openssl rand -hex 32)")
    reached = reached_at(host, settings)
    return Finding(
        "keys", "ok", f"none is set: everybody on this machine may do everything, and only {reached} is listened on"
    )


def state(facts: Facts) -> Finding:
    """Whether AirLab can keep its state, and who does so now."""
    folder = facts.settings.state
    nearest = _nearest(folder)
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        fix = "point AIRLAB_STATE_DIR at a folder that this user may write"
        return Finding("state", "problem", f"AirLab cannot keep its state in {folder}: {nearest} refuses", fix)
    holder = lock_holder(folder / "lock")
    if holder is not None:
        return Finding("state", "ok", f"an AirLab runs on {folder}: {holder}")
    return Finding("state", "ok", f"{folder} {'can be written' if nearest == folder else 'is made at the first start'}")


def _nearest(folder: Path) -> Path:
    """The folder, or what there is of the way to it."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def docker() -> Finding:
    """Docker's daemon; only models that run in containers need it."""
    place = docker_socket(os.environ)
    if place is None:
        return Finding("docker", "not applicable", "DOCKER_HOST names no unix socket, and AirLab asks no other")
    try:
        there = stat.S_ISSOCK(place.stat().st_mode)
    except OSError:
        there = False
    if not there:
        return Finding("docker", "not applicable", f"no socket at {place}; only models in containers need Docker")
    told = ask_docker(place)
    if told.version is None:
        fix = "look at its log, or restart it"
        if told.denied:
            fix = "add this user to the socket's group, which makes it root here; or use no models in containers"
        return Finding("docker", "warning", f"Docker at {place} {told.why_not}", fix)
    has_nvidia = "nvidia" in told.runtimes
    verdict, notes = _docker_notes(told.version, has_nvidia=has_nvidia)
    runtime = "with the nvidia runtime" if has_nvidia else "without the nvidia runtime, so without GPUs"
    found = f"Docker {told.version}{', rootless' if told.rootless else ''}, {runtime}"
    fixes = ["update it"] if notes else []
    if not has_nvidia and shutil.which("nvidia-smi"):
        verdict = "warning"
        notes.append("there is a driver for NVIDIA's GPUs, but models in containers cannot have them")
        fixes.append("install the NVIDIA Container Toolkit, then: nvidia-ctk runtime configure --runtime=docker")
    return Finding("docker", verdict, "; ".join([found, *notes]), "; ".join(fixes) or None)


def launcher(facts: Facts) -> Finding:
    """Whether the launcher, which starts models in containers for an AirLab that may not use Docker, can be reached."""
    place = facts.settings.launcher
    if place is None:
        return Finding("launcher", "not applicable", "AIRLAB_LAUNCHER names none; only AirLab in a container needs one")
    try:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.settimeout(_HEALTH_S)
            trial.connect(str(place))
    except OSError as exc:
        fix = "look at its log (docker compose logs launcher); until then models run where AirLab runs, or not at all"
        return Finding("launcher", "warning", f"it cannot be reached at {place}: {exc.strerror or exc}", fix)
    return Finding("launcher", "ok", f"it listens at {place}")


def _docker_notes(version: str, *, has_nvidia: bool) -> tuple[Verdict, list[str]]:
    notes = []
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) < _SAFE_DOCKER:
        notes.append(f"before {_SAFE_DOCKER}, ports published on 127.0.0.1 can be reached from the same network")
    program = shutil.which("nvidia-ctk") if has_nvidia else None
    told = ask([program, "--version"]).text if program else None
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", told or "")
    if found and tuple(map(int, found.groups())) < _SAFE_TOOLKIT:
        safe = ".".join(map(str, _SAFE_TOOLKIT))
        notes.append(f"NVIDIA's container toolkit before {safe} lets an image take over this machine")
    return ("warning" if notes else "ok"), notes


def sandbox() -> Finding:
    """Whether the kernel can confine tools."""
    kernel = probe_kernel()
    if kernel.lacks:
        fix = "run a Linux kernel from 6.2 on with Landlock; WSL2 and Docker's default profile have it"
        return Finding("sandbox", "warning", f"tools cannot be confined: no {', no '.join(kernel.lacks)}", fix)
    return Finding("sandbox", "ok", f"Landlock ABI {kernel.landlock_abi}, seccomp, no_new_privs, openat2, pidfd")
