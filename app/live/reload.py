"""The only writer of Live: takes every changed input the one way in, and makes the result the snapshot in force.

A change of the file is read at rest, parsed, resolved, planned and prepared before anything happens; then one
synchronous step puts it in force. Whatever fails before that step changes nothing. What changes meanwhile sets the
flag again, and the newest wins.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

from app.errors import AirLabError, ConfirmationNeededError, PreconditionFailedError, SettingsError
from app.fleet.fleet import Fleet
from app.fleet.memory import Budget
from app.journal import Fact, Journal, Trouble, log
from app.live.guards import mcp_servers, policy_for
from app.live.lastgood import keep_last_good
from app.live.plan import Plan, make_plan
from app.live.prepare import make_roots
from app.live.resolve import Inputs, resolve
from app.live.snapshot import Live, Overrides, Snapshot
from app.manifest.load import Loaded, parse_manifest
from app.manifest.problems import ManifestProblems, Problem
from app.manifest.settle import Quiet, Stamp, read_settled, stamp_of
from app.manifest.watch import Look
from app.policy.rules import Policy, confinements
from app.tools.mcp import McpServers
from app.tools.toolbox import Toolbox
from app.weights.inventory import HeaderCache, Inventory
from app.weights.look import look_for_weights

Result = Literal["committed", "unchanged", "failed"]


@dataclass(frozen=True, slots=True)
class ManifestCommitted(Fact):
    """Another manifest, other weights or another host are in force."""

    generation: int
    digest: str
    changes: str


@dataclass(frozen=True, slots=True)
class ManifestRefused(Trouble):
    """The file as it is now is not put in force; what was in force stays."""

    problems: int
    first: str


@dataclass(frozen=True, slots=True)
class LastGoodNotKept(Trouble):
    """What is in force could not be kept for a start with a broken file."""

    error: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of reading the manifest once."""

    at_s: float
    """Unix time."""
    result: Result
    plan: Plan | None = None
    error: str | None = None
    """All that is wrong, in words, where the attempt failed."""
    problems: tuple[Problem, ...] = ()

    @property
    def short_error(self) -> str | None:
        """The first line of what is wrong."""
        return None if self.error is None else self.error.partition("\n")[0]


class Reload:
    """Owns the inputs that can change while AirLab runs."""

    def __init__(
        self,
        inputs: Inputs,
        fleet: Fleet,
        toolbox: Toolbox,
        servers: McpServers,
        journal: Journal,
        *,
        headers: HeaderCache | None = None,
        quiet: Quiet | None = None,
    ) -> None:
        """Resolve what is there at start; ``begin`` tells the fleet. Raises as ``resolve`` does."""
        self.live = Live(resolve(inputs, generation=1))
        self.loaded_at_s = time.time()
        """Unix time at which what is in force was read."""
        self.last = Attempt(self.loaded_at_s, "committed")
        self.counts: Counter[Result] = Counter()
        """Attempts since the start, by what came of them."""
        self._inputs, self._fleet, self._journal = inputs, fleet, journal
        self._toolbox, self._servers = toolbox, servers
        self._headers, self._quiet = headers or HeaderCache(), quiet or Quiet()
        self._stamp: Stamp | None = stamp_of(inputs.settings.manifest)
        self._one_at_a_time = asyncio.Lock()
        self._looks = count(1)
        self._shown = 0  # the look at model files that is in force; one that began earlier knows less
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # The service's own.

    async def begin(self, *, trouble: AirLabError | None = None) -> None:
        """Put the first snapshot in force, and read the manifest again whenever ``wake`` says so.

        Args:
            trouble: What is wrong with the file, where another one stands in for it.

        Raises:
            SettingsError: A folder for tools is missing and cannot be made.
        """
        if trouble is None:
            await self._keep()
        else:
            self.last = self._refused(trouble)
        await asyncio.to_thread(make_roots, self.live.current.policy)
        self._tell()
        self._task = asyncio.create_task(self._read_when_woken())
        self._task.add_done_callback(_say_if_it_failed)

    async def close(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """The file may have changed: read it soon. A change while it is read is not lost."""
        self._woken.set()

    def look(self) -> Look:
        """What a watcher compares: the file by its stamp, model files by size and time. For a thread."""
        settings, manifest = self._inputs.settings, self._inputs.loaded.manifest
        weights = look_for_weights(manifest, settings, self._headers, read_headers=False)
        return Look(stamp_of(settings.manifest), weights.seen)

    # Changes by request.

    @property
    def overrides(self) -> Overrides:
        """What was set by request since the start."""
        return self._inputs.overrides

    @property
    def loaded(self) -> Loaded:
        """The manifest in force, with its text and lines."""
        return self._inputs.loaded

    def override(self, overrides: Overrides) -> None:
        """Set what ranks above the file, until the service stops or that key is edited."""
        self._adopt(replace(self._inputs, overrides=overrides))

    def choose_model(self, key: str) -> None:
        """Make ``key`` the current model."""
        self.override(replace(self.overrides, chosen_model=key))

    async def look_again(self, *, first: bool = False) -> None:
        """Look whether model files came or went; ``first`` only learns more of what is in force already."""
        loaded = None
        while loaded is not self._inputs.loaded:
            loaded, number = self._inputs.loaded, next(self._looks)
            weights = await asyncio.to_thread(look_for_weights, loaded.manifest, self._inputs.settings, self._headers)
            if loaded is self._inputs.loaded and number > self._shown:
                self._shown = number
                self._adopt(replace(self._inputs, weights=weights), is_news=not first)

    async def read_again(
        self, *, dry_run: bool = False, if_match: str | None = None, confirm: str | None = None
    ) -> Attempt:
        """Read the file, and put it in force if it is right.

        Args:
            dry_run: Only say what would happen.
            if_match: Digest of the manifest that must be in force; another one means that somebody was faster.
            confirm: Digest of the file, where its changes need to be confirmed (``policy.reload_guard``).

        Returns:
            What came of it; never a failed attempt.

        Raises:
            ManifestProblems: The file is not right; what was in force stays.
            AirLabError: It cannot come into force here; the same.
        """
        async with self._one_at_a_time:
            if if_match is not None and if_match != self.loaded.digest:
                raise PreconditionFailedError(
                    f"the manifest in force is {self.loaded.digest:.12}, not {if_match:.12}: somebody changed it "
                    "meanwhile; look at GET /manifest, then try again"
                )
            try:
                attempt = await self._attempt(dry_run=dry_run, confirm=confirm)
            except AirLabError as exc:
                if not dry_run:
                    self.last = self._refused(exc)
                raise
            except Exception as exc:
                # A file must never end the reading of files: refused like any other, the log keeps the traceback.
                log.error("the manifest could not be read in a way that AirLab has words for", exc_info=exc)
                failure = AirLabError("AirLab failed at this file; its log has the reason. What was in force stays")
                self.last = self._refused(failure)
                raise failure from exc
            if not dry_run:
                self.last = attempt
                self.counts[attempt.result] += 1
                # Last: a caller who leaves now leaves an edit that is in force, and told as such.
                await self._keep()
            return attempt

    # One attempt.

    async def _attempt(self, *, dry_run: bool, confirm: str | None) -> Attempt:
        settings = self._inputs.settings
        data, stamp = await read_settled(settings.manifest, self._stamp, self._quiet)
        self._stamp = stamp
        loaded = await asyncio.to_thread(self._parse, data)
        number = next(self._looks)
        weights = await asyncio.to_thread(look_for_weights, loaded.manifest, settings, self._headers)
        policy = await asyncio.to_thread(policy_for, loaded, settings.home, settings.state, folder=settings.folder)
        old = self.live.current
        new = resolve(self._with(loaded, weights, policy), generation=old.generation + 1)
        plan = make_plan(old, new)
        is_new = loaded.digest != self.loaded.digest  # else it was confirmed, or needed no word, when it came
        guarded = is_new and self.loaded.manifest.policy.reload_guard and plan.needs_care
        if dry_run:
            return Attempt(time.time(), "unchanged" if plan.is_empty else "committed", plan)
        if guarded and confirm != loaded.digest:
            raise ConfirmationNeededError(
                f"this change needs to be confirmed: {'; '.join(plan.needs_care)}; to put it in force, "
                f"POST /manifest/reload?confirm={loaded.digest}"
            )
        await self._prepare(old, new, loaded)
        is_overtaken, self._shown = number < self._shown, max(number, self._shown)
        changed = self._adopt(self._with(loaded, weights, policy))
        self.loaded_at_s = time.time()
        if changed:
            changes = "; ".join(plan.lines())
            self._journal.note(ManifestCommitted(self.live.current.generation, loaded.digest[:12], changes[:500]))
        if is_overtaken:
            await self.look_again()
        return Attempt(time.time(), "committed" if changed else "unchanged", plan)

    def _parse(self, data: bytes) -> Loaded:
        if hashlib.sha256(data).hexdigest() == self.loaded.digest:
            return self.loaded
        return parse_manifest(data, name=str(self._inputs.settings.manifest))

    def _with(self, loaded: Loaded, weights: Inventory, policy: Policy) -> Inputs:
        """The inputs of this moment, with what was read."""
        overrides = self.overrides.surviving(self.loaded.manifest, loaded.manifest)
        return replace(self._inputs, loaded=loaded, weights=weights, policy=policy, overrides=overrides)

    async def _prepare(self, old: Snapshot, new: Snapshot, loaded: Loaded) -> None:
        """Have ready what the new snapshot needs, beside what the old one uses."""
        if confinements(new.policy) == confinements(old.policy):
            return
        try:
            await asyncio.to_thread(make_roots, new.policy)
        except SettingsError as exc:
            problem = loaded.positions.problem(("policy", "roots"), exc.message)
            raise ManifestProblems([problem], loaded.positions.source) from exc
        try:
            # Until the commit the old rules hold: nothing runs without a wall that they ask for.
            degraded = "degraded" == old.policy.sandbox == new.policy.sandbox
            self._toolbox.keep(confinements(old.policy) | confinements(new.policy), degraded=degraded)
            await self._toolbox.ready()
        except BaseException:
            self._keep_tools(old)
            raise

    def _adopt(self, inputs: Inputs, *, is_news: bool = True) -> bool:
        """The commit: one synchronous step. False when these inputs change nothing that anybody could see."""
        old = self.live.current
        new = resolve(inputs, generation=old.generation + is_news)
        self._inputs = inputs
        if replace(new, generation=old.generation) == old:
            return False
        self.live.current = new
        self._tell()
        return True

    def _tell(self) -> None:
        snapshot = self.live.current
        profile = snapshot.profile.section
        places = None if profile.max_loaded == "auto" else profile.max_loaded
        self._fleet.want(snapshot.models, max_loaded=places, budget=Budget(profile.memory.vram, profile.memory.ram))
        self._keep_tools(snapshot)
        self._servers.keep(mcp_servers(snapshot))

    def _keep_tools(self, snapshot: Snapshot) -> None:
        self._toolbox.keep(confinements(snapshot.policy), degraded=snapshot.policy.sandbox == "degraded")

    async def _keep(self) -> None:
        try:
            await asyncio.to_thread(keep_last_good, self._inputs.settings, self.loaded)
        except OSError as exc:
            self._journal.note(LastGoodNotKept(exc.strerror or str(exc)))

    def _refused(self, exc: AirLabError) -> Attempt:
        problems = exc.problems if isinstance(exc, ManifestProblems) else ()
        self.counts["failed"] += 1
        attempt = Attempt(time.time(), "failed", None, exc.message, problems)
        self._journal.note(ManifestRefused(max(1, len(problems)), attempt.short_error or ""))
        return attempt

    async def _read_when_woken(self) -> None:
        await self.look_again(first=True)  # the start took no time to look into model files
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self.read_again()
            except AirLabError:
                continue  # noted where it was met; the next change wakes us again


def _say_if_it_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (failure := task.exception()) is not None:
        log.critical("the manifest is not read any more until a restart", exc_info=failure)
