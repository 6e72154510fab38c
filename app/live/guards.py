"""The manifest's ``tools`` and ``policy`` sections -> Policy. Resolves the links of its paths, reads Python tools."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Literal

from app.devices.sandbox import wsl_version
from app.live.snapshot import Snapshot
from app.manifest.load import Loaded
from app.manifest.nodes import Positions
from app.manifest.problems import ManifestProblems, Problem, nearest, shown
from app.manifest.schema import Manifest
from app.manifest.tool_sections import McpServerSection, PolicySection
from app.policy import windows
from app.policy.lint import lint
from app.policy.paths import PROTECTED_UNDER_WSL, protecting
from app.policy.rules import Policy, Root
from app.tools.base import Limits, Protected, ToolSpec, discover
from app.tools.declared import WrongToolError, spec_of

_SOURCE_BYTES = 256 * 1024
"""The longest file of a Python tool."""

builtin_tools = cache(discover)
"""The specs of the built-in tools, by name."""


_SWITCHED_OFF = "tools are switched off (POST /command tools on)"


def in_force(snapshot: Snapshot) -> Policy:
    """The policy as the gate has to see it: without any tool while the server's switch is off."""
    policy = snapshot.policy
    return policy if snapshot.tools_on else replace(policy, tools={}, closed=policy.closed or _SWITCHED_OFF)


class Joined:
    """A policy with the tools of connected MCP servers; the same object until one of the two changes."""

    def __init__(self, connected: Callable[[], Mapping[str, ToolSpec]]) -> None:
        """Take what is connected at each use, not now."""
        self._connected = connected
        self._last: tuple[Policy, Mapping[str, ToolSpec], Policy] | None = None

    def __call__(self, policy: Policy) -> Policy:
        """The policy, and what is offered beside; one without tools stays so."""
        specs = self._connected()
        if policy.closed is not None or not specs:
            return policy
        if self._last is None or self._last[0] is not policy or self._last[1] is not specs:
            self._last = policy, specs, replace(policy, tools={**specs, **policy.tools})
        return self._last[2]


def mcp_servers(snapshot: Snapshot) -> dict[str, McpServerSection]:
    """The MCP servers to be connected to: none while no tool may run."""
    if snapshot.policy.closed is not None:
        return {}
    declared = snapshot.manifest.tools.declared.items()
    return {name: section for name, section in declared if isinstance(section, McpServerSection)}


def policy_for(
    loaded: Loaded,
    home: Path,
    state: Path,
    *,
    folder: Path | None = None,
    manifest: Path | None = None,
    closed: str | None = None,
    wsl: bool | None = None,
) -> Policy:
    """What tools may do.

    Args:
        loaded: The manifest, with its lines.
        home: Where relative paths begin, links resolved.
        state: AirLab's own folder, which no root may hold.
        folder: The manifest's folder, links resolved; ``home`` unless told otherwise.
        manifest: The manifest's file, where ``loaded`` was read from another one, such as the one last in force.
        closed: Why no tool may run at all, if so.
        wsl: Whether this is Linux under Windows; looked up where it is not told.

    Raises:
        ManifestProblems: It names a tool that there is not, or opens a folder that it must not.
    """
    section, positions = loaded.manifest.policy, loaded.positions
    wsl = wsl_version(platform.release()) is not None if wsl is None else wsl
    tools_dir = (folder or home) / "tools"
    private = _own_places(home, state, tools_dir, manifest or Path(positions.source.name))
    problems = _unknown_tools(loaded)
    declared = _declared(loaded, tools_dir, problems)
    more = _protected(section, home, positions, problems)
    policy = Policy(
        tools={**_tools(loaded.manifest), **declared},
        roots=tuple(Root(_absolute(home, root.path), root.access) for root in section.roots),
        protected=(*protecting(*private), *(PROTECTED_UNDER_WSL if wsl else ()), *more),
        limits=Limits(section.limits.read, section.limits.write, section.limits.results, section.limits.call),
        sandbox=section.sandbox,
        destructive=section.destructive,
        allow_private=tuple(section.network.allow_private),
        ports=tuple(section.network.ports),
        turn_s=section.limits.turn,
        mcp_server=section.mcp_server,
        wsl=wsl,
    )
    for index, problem in lint(policy, private):
        fix = "choose a folder of its own for tools, such as workspace"
        problems.append(positions.problem(("policy", "roots", index, "path"), problem, fix=fix))
    if problems:
        raise ManifestProblems(problems, positions.source)
    return policy if closed is None else replace(policy, tools={}, roots=(), closed=closed)


def _own_places(home: Path, state: Path, tools_dir: Path, manifest: Path) -> tuple[PurePosixPath, ...]:
    """What is AirLab's alone: its state, the manifest, the weights, and tools of the manifest's that are programs."""
    return (
        PurePosixPath(state),
        PurePosixPath(os.path.realpath(manifest)),
        PurePosixPath(home / "models"),
        PurePosixPath(tools_dir),
    )


def _absolute(home: Path, path: str) -> PurePosixPath:
    # Links resolved now: a root that leads into our own folders is seen, and one put there later is not followed.
    return PurePosixPath(os.path.realpath(home / path))


def _protected(
    section: PolicySection, home: Path, positions: Positions, problems: list[Problem]
) -> tuple[Protected, ...]:
    """What the manifest adds to the built-in list; what is wrong with it goes into ``problems``."""
    found: list[Protected] = []
    for index, entry in enumerate(() if section.protected == "default" else section.protected):
        reach: Literal["exact", "tree"] = "tree" if entry.exact is None else "exact"
        try:
            found += (Protected(path, reach) for path in _places(home, entry.exact or entry.tree or ""))
        except ValueError as exc:
            place = ("policy", "protected", index, reach)
            problems.append(positions.problem(place, str(exc), fix="write the whole path, by its long names"))
    return tuple(found)


def _places(home: Path, text: str) -> Iterator[PurePosixPath]:
    """The path as it is written, and where its links lead: neither is touched. Raises ValueError."""
    if windows.looks_like_windows(text):
        yield windows.mounted(text)
        return
    yield PurePosixPath(os.path.normpath(home / text))
    yield _absolute(home, text)


def _tools(manifest: Manifest) -> dict[str, ToolSpec]:
    known, wanted = builtin_tools(), manifest.tools.builtin
    return {name: known[name] for name in (known if wanted == "all" else wanted) if name in known}


def _declared(loaded: Loaded, tools_dir: Path, problems: list[Problem]) -> dict[str, ToolSpec]:
    """The tools that the manifest declares itself; what is wrong with them goes into ``problems``."""
    found: dict[str, ToolSpec] = {}
    for name, section in loaded.manifest.tools.declared.items():
        try:
            spec = spec_of(name, section, taken=builtin_tools(), read=partial(_source_of, tools_dir))
            if spec is not None:
                found[name] = spec
        except WrongToolError as exc:
            place = ("tools", name, *exc.place)
            problems.append(loaded.positions.problem(place, exc.message, at_key=not exc.place, fix=exc.fix))
    return found


def _source_of(folder: Path, file: str) -> str:
    """A file of Python below the folder for tools. Raises OSError, or ValueError where it is no such text."""
    with (folder / file).open("rb") as opened:
        source = opened.read(_SOURCE_BYTES + 1)
    if len(source) > _SOURCE_BYTES:
        raise ValueError(f"it is longer than {_SOURCE_BYTES // 1024} KiB")
    return source.decode()


def _unknown_tools(loaded: Loaded) -> list[Problem]:
    known, wanted = tuple(builtin_tools()), loaded.manifest.tools.builtin
    problems = []
    for index, name in enumerate(() if wanted == "all" else wanted):
        if name not in known:
            meant = nearest(name, known)
            message = f"there is no tool {shown(name)}" + (f"; did you mean `{meant}`?" if meant else "")
            fix = f"write {meant}" if meant else "write one of these, or all"
            problem = loaded.positions.problem(
                ("tools", "builtin", index), message, allowed=", ".join(known), fix=fix, suggestion=meant
            )
            problems.append(problem)
    return problems
