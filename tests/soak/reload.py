"""Reloads the manifest a thousand times under streaming clients: ``python -m tests.soak.reload [RELOADS]``.

Eight clients stream from one model without a pause, one asks another model something short every tenth of a second, and
meanwhile the file is saved again and again, one time in three broken. Neither model is touched by any edit. Then comes
a control of the same length without a reload: this machine's own delays. Exits 1 where something was lost, broken off,
restarted, leaked or delayed.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from app.units import MIB, format_bytes
from tests.soak.clients import MOST_DELAY_S, STREAMS, TOKEN_S, TOKENS, Clients, Delays
from tests.soak.edits import base_manifest, guards_change, is_broken, manifest
from tests.soak.ending import end_when_told
from tests.support.service import BOUND_S, Lab, Service, temporary_lab

WATCHED_ONE_IN, IN_PLACE_ONE_IN = 20, 20
MOST_GROWTH_BYTES = 10 * MIB
"""What an allocator may keep in reserve: after some thousand reloads it wants no more."""


@dataclass
class Report:
    """What came of it all."""

    reloads: int
    took_s: float = 0.0
    reloading: Delays = field(default_factory=Delays)
    control: Delays = field(default_factory=Delays)
    failures: list[str] = field(default_factory=list)
    pids: list[dict[str, int]] = field(default_factory=list)
    """Of the models that no edit touches: before and after."""
    rss_bytes: list[int] = field(default_factory=list)
    """Of the service, after each reload."""
    descriptors: list[int] = field(default_factory=list)
    """Open in the service, after each reload."""
    counted: dict[str, int] = field(default_factory=dict)
    """The service's own counters of reloads, and its generation."""
    told: Counter[str] = field(default_factory=Counter)
    """Events about the manifest, as GET /events told them."""

    @property
    def agrees(self) -> bool:
        """Whether events, counters and generation say the same."""
        told = self.told["manifest_committed"], self.told["manifest_refused"]
        counted = self.counted["committed"], self.counted["failed"]
        # What is in force shows before it is counted: a copy goes to the disk in between.
        return told == counted and self.counted["generation"] == counted[0] + 1

    def growth(self, values: list[int]) -> float:
        """Median of the last tenth against that of the first."""
        part = max(1, len(values) // 10)
        return statistics.median(values[-part:]) - statistics.median(values[:part])

    def troubles(self) -> Iterator[str]:
        """What is wrong whatever the machine; delays are for ``late``."""
        yield from self.failures
        if self.pids[0] != self.pids[1]:
            yield f"a model that no edit touched was restarted: {self.pids}"
        broken = sum(map(is_broken, range(1, self.reloads + 1)))
        right = self.reloads - broken
        if (self.counted["committed"], self.counted["generation"]) != (right, right + 1):
            yield f"{right} right files were saved, and the service counted {self.counted}"
        if self.counted["failed"] < broken:
            yield f"{broken} broken files were saved, and the service counted {self.counted}"
        if not self.agrees:
            yield f"the events told of {dict(self.told)}, and the service counted {self.counted}"
        if self.growth(self.rss_bytes) > MOST_GROWTH_BYTES:
            yield f"resident memory grew by {format_bytes(int(self.growth(self.rss_bytes)))}"
        if self.growth(self.descriptors) > 2:  # the request that looks, and the connection of a client that asks again
            yield f"file descriptors grew by {self.growth(self.descriptors):.0f}"

    def lines(self) -> Iterator[str]:
        """The figures."""
        yield f"{self.reloads} reloads in {self.took_s:.0f} s ({1000 * self.took_s / self.reloads:.0f} ms each)"
        yield f"counted: {self.counted}; told: {dict(self.told)}"
        for name, delays in (("while reloading", self.reloading), ("control", self.control)):
            yield (
                f"{name}: {delays.answers} streams; {len(delays.tokens)} tokens late by {_spread_ms(delays.tokens)}; "
                f"{len(delays.probes)} short requests took {_spread_ms(delays.probes)}; "
                f"more than {1000 * MOST_DELAY_S:.0f} ms late: {dict(delays.late)}"
            )
        rss_mib = [value / MIB for value in self.rss_bytes]
        grown_mib = self.growth(self.rss_bytes) / MIB
        yield f"resident memory: {rss_mib[0]:.1f} -> {rss_mib[-1]:.1f} MiB, grew {grown_mib:.2f}"
        yield f"file descriptors: {self.descriptors[0]} -> {self.descriptors[-1]}, at most {max(self.descriptors)}"
        yield f"process ids: {self.pids}"


def _spread_ms(values: list[float]) -> str:
    ordered = sorted(values)
    parts = (0.5, 0.99, 0.999, 1.0)
    shown = (f"{1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]:.1f}" for part in parts)
    return " / ".join(shown) + " ms (p50/p99/p99.9/max)"


class Soak:
    """One run."""

    def __init__(self, lab: Lab, service: Service, base: dict[str, Any], reloads: int) -> None:
        self.report = Report(reloads)
        self._lab, self._service, self._base = lab, service, base
        self._http = httpx.AsyncClient(base_url=service.url, timeout=BOUND_S)
        self._process = psutil.Process(service.process.pid)
        self._generation = 1
        self._told: Counter[str] = Counter()

    async def run(self, *, control: bool) -> Report:
        """Reload, then be quiet for as long, if wanted; the clients ask all the time."""
        report, clients = self.report, Clients(self._service.url)
        async with self._http, self._listening(), clients.asking():
            report.pids.append(await self._pids())
            clients.delays = report.reloading
            begun_s = time.monotonic()
            for number in range(1, report.reloads + 1):
                await self._reload(number)
                report.rss_bytes.append(self._process.memory_info().rss)
                report.descriptors.append(self._process.num_fds())
            report.took_s = time.monotonic() - begun_s
            await self._count()
            if control:
                clients.delays = report.control
                await asyncio.sleep(report.took_s)
            report.pids.append(await self._pids())
        report.failures += clients.failures
        return report

    async def _reload(self, number: int) -> None:
        """Save once, and see that it was read; every so often it is the service that has to notice by itself."""
        broken = is_broken(number)
        kind = "broken" if broken else "guards" if guards_change(number) else "right"
        self.report.reloading.going_on = kind
        self._save(number)
        self._generation += not broken
        if number % WATCHED_ONE_IN == 0:
            await self._until_noticed(broken=broken)
            return
        answer = await self._http.post("/manifest/reload")
        if answer.status_code != (422 if broken else 200):
            self.report.failures.append(f"reload {number} was answered {answer.status_code}: {answer.text[:300]}")
        elif not broken and answer.json()["generation"] != self._generation:
            self.report.failures.append(f"reload {number} gave generation {answer.json()['generation']}")

    def _save(self, number: int) -> None:
        text = manifest(self._base, number)
        if number % IN_PLACE_ONE_IN == 5:
            self._lab.manifest.write_text(text)
        else:
            new = self._lab.manifest.with_suffix(".new")
            new.write_text(text)
            new.replace(self._lab.manifest)

    async def _until_noticed(self, *, broken: bool) -> None:
        async with asyncio.timeout(BOUND_S):
            while True:
                body = (await self._http.get("/manifest")).json()
                if not body["last_attempt"]["ok"] if broken else body["generation"] == self._generation:
                    return
                await asyncio.sleep(0.02)

    async def _count(self) -> None:
        """The counters, once the events have told as much; a moment later in any case."""
        report, ends_s = self.report, time.monotonic() + BOUND_S
        while True:
            report.counted, report.told = await self._counted(), self._told.copy()
            if report.agrees or time.monotonic() > ends_s:
                return
            await asyncio.sleep(0.02)

    async def _counted(self) -> dict[str, int]:
        lines = (await self._http.get("/metrics")).text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        counted = {
            result: int(values[f'airlab_config_reloads_total{{result="{result}"}}'])
            for result in ("committed", "unchanged", "failed")
        }
        return counted | {"generation": int(values["airlab_config_generation"])}

    async def _pids(self) -> dict[str, int]:
        rows = (await self._http.get("/ps")).json()["models"]
        return {row["key"]: row["pid"] for row in rows if row["key"] in {"small", "other"}}

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Count what GET /events tells."""
        begun = asyncio.Event()

        async def listen() -> None:
            async with self._http.stream("GET", "/events", timeout=None) as events:
                async for line in events.aiter_lines():
                    begun.set()
                    if line.startswith("event: "):
                        self._told[line.removeprefix("event: ")] += 1

        listener = asyncio.create_task(listen())
        try:
            async with asyncio.timeout(BOUND_S):
                await begun.wait()
            yield
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener


def soak(reloads: int, *, more_models: int, control: bool) -> Report:
    """Serve a lab of its own, and reload it so many times."""
    models = {"small": {"parallel": STREAMS}, "other": {"parallel": 2}}
    with temporary_lab("fake", models=models, profile={"max_loaded": 2}) as lab:
        base = base_manifest(lab, more_models)
        lab.write_manifest(json.dumps(base, indent=1))
        lab.fault("small", tokens=TOKENS, token_s=TOKEN_S)
        with lab.serve() as service:
            for key in models:
                assert service.chat(model=key).status_code == 200
            return asyncio.run(Soak(lab, service, base, reloads).run(control=control))


def main() -> int:
    reloads = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    report = soak(reloads, more_models=200, control=True)
    print("\n".join(report.lines()))
    troubles = list(report.troubles())
    more_ms = 1000 * (report.reloading.worst_s - report.control.worst_s)
    if more_ms > 1000 * MOST_DELAY_S:
        troubles.append(f"the worst delay was {more_ms:.0f} ms longer than the worst of the control")
    print("\n".join(f"TROUBLE: {trouble}" for trouble in troubles) or "nothing lost, nothing restarted, nothing leaked")
    return 1 if troubles else 0


if __name__ == "__main__":
    end_when_told()
    sys.exit(main())
