"""Builds the parts, and starts and stops them in one order."""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.chat.chat import Chat
from app.devices.mounts import in_container
from app.engines.kinds import engines_for
from app.errors import DrainingError, ManifestError, SettingsError, StorageError
from app.fleet import ring
from app.fleet.fleet import Fleet
from app.fleet.states import Limits
from app.gate import Gate
from app.journal import Fact, Journal, Trouble
from app.live.guards import Joined, builtin_tools, in_force
from app.live.inputs import first_inputs, host_memory, probe
from app.live.reload import Reload
from app.manifest.load import Loaded
from app.manifest.schema import ServerSection
from app.manifest.watch import Watcher, folders_of
from app.settings import Settings
from app.store.audit import Audit
from app.store.branches import Branches
from app.store.catalog import Catalog
from app.store.db import Database
from app.store.harvest import Harvest
from app.store.search import Search
from app.store.sessions import Sessions
from app.tools.mcp import McpServers
from app.tools.toolbox import Toolbox
from app.weights.downloads import Downloads
from app.weights.inventory import HeaderCache
from app.weights.look import finetuned_dir, models_dir
from app.weights.preview import Previews

DRAIN_S = 20.0
"""How long open turns and requests may go on after the service was told to stop."""
_MARK_S = 5.0
_CLOSED = "airlab.yaml had problems when AirLab started, so no tool runs until they are gone; /health names them"


@dataclass(frozen=True, slots=True)
class ServiceStarted(Fact):
    """AirLab serves."""

    profile: str
    reason: str
    models: int
    engine: str


@dataclass(frozen=True, slots=True)
class TurnsInterrupted(Trouble):
    """The last run ended in the middle of turns; they are marked."""

    turns: int


@dataclass(frozen=True, slots=True)
class ServiceStopping(Fact):
    """No more work is taken."""

    drain_s: float


@dataclass(frozen=True, slots=True)
class StoreNotFolded(Trouble):
    """SQLite's log could not be folded into its file; nothing is lost, the next start does it."""

    error: str


@dataclass(frozen=True, slots=True)
class EnginesLeft(Trouble):
    """Engines survived the stop."""

    models: str


class Service:
    """AirLab without its HTTP."""

    def __init__(
        self, settings: Settings, loaded: Loaded, *, trouble: ManifestError | None = None, limits: Limits | None = None
    ) -> None:
        """Build the parts; nothing runs yet.

        Args:
            settings: The environment.
            loaded: The manifest.
            trouble: What is wrong with the manifest's file, where ``loaded`` only stands in for it: then no tool runs.
            limits: The fleet's numbers.

        Raises:
            SettingsError: The environment and the manifest ask for something that AirLab refuses.
            ManifestProblems: The manifest's policy cannot come into force.
        """
        self.settings = settings
        self.server = server_section(settings, loaded.manifest.server)
        require_keys_for(self.server.host, settings)
        self.journal = Journal()
        self.engine = engines_for(settings, os.environ)
        host = probe(self.engine.native, settings.launcher)
        closed = None if trouble is None else _CLOSED
        memory = host_memory(host, settings, base_bytes=self.engine.base_bytes)
        paces_file = settings.state / "paces.json"
        self.fleet = Fleet(self.engine, settings.run_dir, self.journal, limits, memory=memory, paces_file=paces_file)
        self.database = Database(settings.state / "airlab.db")
        self.sessions, self.audit = Sessions(self.database), Audit(self.database)
        self.catalog, self.branches = Catalog(self.database), Branches(self.database)
        self.search, self.harvest = Search(self.database), Harvest(self.database)
        self.toolbox = Toolbox(self.journal, [spec.entry for spec in builtin_tools().values()])
        headers = HeaderCache()
        inputs = first_inputs(loaded, settings, host, closed=closed, headers=headers, read_headers=False)
        self.servers = McpServers(self.journal, settings.folder, headers={ring.HEADER.decode(): ring.OWN})
        self.reload = Reload(inputs, self.fleet, self.toolbox, self.servers, self.journal, headers=headers)
        self.downloads = Downloads(settings, self.journal, self.reload.look_again)
        self.previews = Previews(settings)
        self.live, joined = self.reload.live, Joined(self.servers.specs)
        self.gate = Gate(
            lambda: joined(in_force(self.live.current)), self.toolbox, self.audit, self.journal, servers=self.servers
        )
        self.chat = Chat(self.live, self.fleet, self.sessions, self.gate)
        self.request_exit: Callable[[], None] = lambda: None
        """Asks whoever runs the service to stop it; set by them."""
        self._trouble = trouble
        self._watcher = Watcher(self.reload.look, self._folders, self.reload.wake, self.journal)
        self._lock: int | None = None
        self.is_stopping = asyncio.Event()
        """Set once no more work is taken."""
        self._hurried = asyncio.Event()
        self._stopping: asyncio.Task[bool] | None = None

    @property
    def stopping(self) -> bool:
        """True once no more work is taken."""
        return self.is_stopping.is_set()

    async def start(self) -> None:
        """Take the state folder, clear what a predecessor left, and let fleet and tools begin.

        Raises:
            SettingsError: Another AirLab runs on this state folder.
            StorageError: The database cannot be used.
        """
        self._lock = _lock_state(self.settings)
        await self.engine.sweep()
        await self.database.connect()
        interrupted = await self.sessions.interrupt_open_turns()
        if interrupted:
            self.journal.note(TurnsInterrupted(interrupted))
        await self.reload.begin(trouble=self._trouble)
        await self._watcher.start()
        snapshot = self.live.current
        program = " ".join(self.engine.program())
        fact = ServiceStarted(snapshot.profile.name, snapshot.profile.reason, len(snapshot.models), program)
        self.journal.note(fact)

    async def stop(self, *, drain_s: float = DRAIN_S) -> bool:
        """Drain and stop everything, once; later callers wait for the same end. True when nothing is left."""
        if self._stopping is None:
            self.is_stopping.set()
            self.journal.note(ServiceStopping(drain_s))
            self._stopping = asyncio.create_task(self._stop(drain_s))
        return await asyncio.shield(self._stopping)

    def hurry(self) -> None:
        """Break off what the stop still waits for."""
        self._hurried.set()
        self.fleet.break_off()

    def refuse_if_stopping(self) -> None:
        """Raises DrainingError once no more work is taken; for whoever is about to begin some."""
        if self.stopping:
            raise DrainingError("AirLab is shutting down and takes no more requests", retry_after_s=5)

    def _folders(self) -> tuple[Path, ...]:
        dropped = finetuned_dir(self.live.current.manifest, self.settings)
        return *folders_of(self.settings.manifest), models_dir(self.settings), dropped

    async def _stop(self, drain_s: float) -> bool:
        """Turns first, since they need models and tools to their end; then requests and engines; the store last."""
        # A question that nobody will answer any more must not use up the time that turns have to end.
        self.gate.approvals.close()
        await self.downloads.close()
        await self._watcher.close()
        await self.reload.close()
        ends_s = time.monotonic() + drain_s
        await self.chat.drained(within_s=drain_s, hurried=self._hurried)
        clean = await self.fleet.shut_down(drain_s=max(0.0, ends_s - time.monotonic()))
        if not clean:
            left = (key for key, now in self.fleet.status().items() if now.pid is not None or now.container is not None)
            self.journal.note(EnginesLeft(", ".join(left)))
        self.engine.close()
        try:
            await asyncio.gather(self.toolbox.close(), self.servers.close())
            # What is left of a turn has no model and no tool any more: it marks itself and ends.
            await self.chat.drained(within_s=_MARK_S, hurried=asyncio.Event())
            await self.database.close()
        except StorageError as exc:
            self.journal.note(StoreNotFolded(exc.message))
        finally:
            if self._lock is not None:
                os.close(self._lock)
        return clean


def server_section(settings: Settings, section: ServerSection) -> ServerSection:
    """Where to listen: what the environment or the command line says, else the manifest."""
    changes = {"host": settings.host, "port": settings.port}
    return section.model_copy(update={name: value for name, value in changes.items() if value is not None})


def require_keys_for(host: str, settings: Settings) -> None:
    """Without keys AirLab listens on loopback only, or in a container whose port is published on loopback only.

    Raises:
        SettingsError: ``host`` is wider and a key is missing; the message holds the lines to add.
    """
    if settings.api_key is not None and settings.api_key == settings.admin_key:
        raise SettingsError("AIRLAB_API_KEY and AIRLAB_ADMIN_KEY are the same: everybody who may chat could shut down")
    if settings.api_key is not None and settings.admin_key is not None:
        return
    reached = reached_at(host, settings)
    if _is_loopback(reached):
        return
    missing = [
        name
        for name, key in (("AIRLAB_API_KEY", settings.api_key), ("AIRLAB_ADMIN_KEY", settings.admin_key))
        if key is None
    ]
    are_not = f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not set"
    if _is_published(settings):
        raise SettingsError(
            f"this container's port is published on {reached}, which others can reach, and {are_not}. Write into .env "
            "beside compose.yaml:\n"
            + "\n".join(f"  {name}=SOMETHING LONG, such as `openssl rand -hex 32` prints" for name in missing)
            + "\nor publish it on 127.0.0.1 only (AIRLAB_PUBLISH)."
        )
    lines = "\n".join(f"  export {name}=$(openssl rand -hex 32)" for name in missing)
    raise SettingsError(
        f"server.host is {host}, which others can reach, and {are_not}. Set it before the start:\n{lines}\n"
        "or listen on 127.0.0.1 only."
    )


def reached_at(host: str, settings: Settings) -> str:
    """The address that decides who can come: in a container the one that its host publishes the port on, if told."""
    return settings.published if settings.published is not None and _is_published(settings) else host


def _is_published(settings: Settings) -> bool:
    # Outside of a container the variable would open what it is meant to keep shut.
    return settings.published is not None and in_container()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _lock_state(settings: Settings) -> int:
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(settings.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise SettingsError(
            f"AirLab cannot keep its state in {settings.state}: {exc.strerror}; point AIRLAB_STATE_DIR at a folder of "
            "its own"
        ) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise SettingsError(
            f"another AirLab runs on {settings.state}; stop it, or give this one a folder of its own with "
            "AIRLAB_STATE_DIR"
        ) from exc
    return lock
