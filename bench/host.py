"""What must be known of the machine to read the figures again later."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench.targets import llama_server

_PACKAGES = ("httptools", "litestar", "msgspec", "uvicorn", "uvloop", "xllamacpp")


def host_facts() -> dict[str, Any]:
    """Processor, cores, memory, versions, the engine, and how busy the machine was before we began."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "airlab": _revision(),
        "engine": _engine(),
        "load_average": os.getloadavg(),
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _revision() -> str:
    """The commit that is measured; nothing where this is no checkout, or there is no git."""
    try:
        asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _engine() -> str:
    program = llama_server()
    if program is None:
        return "as AirLab finds it: llama-server on PATH, else the embedded engine"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    version = next((line for line in (said.stderr + said.stdout).splitlines() if "version" in line), "")
    return f"{Path(program).name} {version}".strip()
