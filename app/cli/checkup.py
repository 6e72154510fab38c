"""What ``airlab doctor`` reads before it looks at anything else: environment, manifest, engine, profile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from app.cli.findings import Finding
from app.devices.cpu import read
from app.devices.mounts import mount_points
from app.devices.probe import Host, probe_host
from app.engines.native import NativeEngine
from app.errors import EngineError, ManifestError, SettingsError
from app.live.inputs import first_snapshot, probe
from app.live.snapshot import Snapshot
from app.manifest.load import Loaded, read_manifest
from app.manifest.problems import MAX_PROBLEMS, ManifestProblems, shown_path
from app.manifest.schema import ServerSection
from app.service import server_section
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Facts:
    """What several checks need; None for what could not be had, which a finding tells."""

    settings: Settings
    server: ServerSection
    """Where AirLab would listen."""
    program: tuple[str, ...] | None
    """The llama-server that would run."""
    no_program: str
    """Why there is none, in words."""
    host: Host
    snapshot: Snapshot | None
    """What a start would put in force."""

    @property
    def is_embedded(self) -> bool:
        """Whether the embedded engine would run."""
        return self.program is not None and "app.engines.embedded" in self.program


def read_facts(settings: Settings) -> tuple[Facts, tuple[Finding, ...]]:
    """What a start with these settings would read, and what is to be said of it."""
    engine = NativeEngine(settings.run_dir, settings.llama_server_path)
    program, no_program = None, ""
    try:
        program, host = engine.program(), probe(engine, settings.launcher)
    except EngineError as exc:
        no_program, host = exc.message, probe_host(can_offload=True)
    loaded, snapshot, findings = _in_force(settings, host)
    server = server_section(settings, loaded.manifest.server if loaded else ServerSection())
    return Facts(settings, server, program, no_program, host, snapshot), findings


def _in_force(settings: Settings, host: Host) -> tuple[Loaded | None, Snapshot | None, tuple[Finding, ...]]:
    file, edits = settings.manifest, edits_of(settings.manifest, read(Path("/proc/self/mountinfo")))
    loaded = None
    try:
        loaded = read_manifest(file)
        snapshot = first_snapshot(loaded, settings, host)
    except ManifestError as exc:
        return loaded, None, (_broken(file, exc), edits)
    except SettingsError as exc:
        return loaded, None, (_right(file, loaded), edits, Finding("profile", "problem", exc.message))
    profile = Finding("profile", "ok", f"{snapshot.profile.name}; {snapshot.profile.reason}")
    return loaded, snapshot, (_right(file, loaded), edits, profile)


def _right(file: Path, loaded: Loaded | None) -> Finding:
    count = len(loaded.manifest.models) if loaded else 0
    return Finding("manifest", "ok", f"{file} is right; {count} model{'' if count == 1 else 's'}")


def _broken(file: Path, trouble: ManifestError) -> Finding:
    if not isinstance(trouble, ManifestProblems):
        return Finding("manifest", "problem", trouble.message)
    count, first = len(trouble.problems), trouble.problems[0]
    many = "1 problem" if count == 1 else f"{count}{' or more' if count == MAX_PROBLEMS else ''} problems"
    place = f"line {first.line}, {shown_path(first.path)}: " if first.path else ""
    found = f"{many} in {file}{', the first' if count > 1 else ''}: {place}{first.message}"
    return Finding("manifest", "problem", found, f"airlab check {file} shows {'it' if count == 1 else 'all of them'}")


def edits_of(file: Path, mountinfo: str) -> Finding:
    """Whether an edit reaches us: a file that is mounted by itself stays the old one when an editor replaces it."""
    mounted = mount_points(mountinfo)
    if not mounted:
        return Finding("edits", "not applicable", "this system does not tell what is mounted")
    if not {PurePosixPath(file.absolute()), PurePosixPath(file.resolve())} & mounted:
        return Finding("edits", "ok", "changes of the manifest are seen while AirLab runs")
    return Finding(
        "edits",
        "warning",
        f"{file} is mounted as a single file, so an editor that replaces it leaves the old one here",
        "mount its folder instead, such as ./config:/config:ro",
    )
