"""Mixes every fault of the scripted llama-server under load: ``python -m tests.soak.fleet [SECONDS]``.

Four models share two places. Clients chat, stream, leave in the middle; meanwhile each start of an engine follows a
script drawn at random, engines are killed, models loaded, unloaded and switched. At the end the faults are taken away:
then every model must serve again, and nothing may be left that was not there before: no process, socket, descriptor,
memory, lease, waiter or open turn. Exits 1 where something is.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import psutil

from app.units import MIB, format_bytes
from tests.soak.ending import end_when_told
from tests.support.service import BOUND_S, CHAT, HELLO, Lab, Service, temporary_lab, wait_until

MODELS = ("small", "b", "c", "d")
CLIENTS = 6
ANSWER_S = 60.0
"""Whatever happens, every request has an answer or an error by then."""
_TURNS = 10
"""Of one session: some answers are megabytes, and a turn reads all that its branch holds."""
MOST_GROWTH_BYTES, MOST_MORE_DESCRIPTORS = 40 * MIB, 4
"""From the middle to the end. Lines of a megabyte leave holes in the heap that the system does not get back."""
ALLOWED = {200, 429, 502, 503, 504}
NO_MEMORY = "alloc_buffer: failed to allocate buffer of size 97517568"
FAULTS: tuple[dict[str, object], ...] = (
    {},
    {"token_s": 0.05},
    {"load_s": 0.5, "progress": True},
    {"load_forever": True},
    {"exit_code": 1},
    {"exit_code": 1, "exit_at": "load"},
    {"exit_code": 1, "exit_at": "load", "exit_message": NO_MEMORY},
    {"exit_code": 3, "exit_at": "request:2"},
    {"ignore_sigterm": True},
    {"fork_setsid_grandchild": True},
    {"health_ok_but_hung": True, "ignore_sigterm": True},
    {"stall_after_tokens": 2},
    {"close_after_tokens": 2},
    {"die_after_tokens": 2},
    {"garbage_sse": True},
    {"no_done": True},
    {"huge_line": True},
    {"bad_utf8": True},
    {"status": 500},
    {"unavailable_n_times": 2},
    {"keep_alive_s": 0.05},
    {"keep_alive_requests": 1},
)


@dataclass
class Report:
    """What came of it all."""

    seconds: float
    seed: int
    answers: Counter[str] = field(default_factory=Counter)
    """How requests ended."""
    deeds: Counter[str] = field(default_factory=Counter)
    """What was done to the fleet."""
    rss_bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The figures."""
        yield f"{self.seconds:.0f} s, seed {self.seed}; requests ended as {dict(self.answers.most_common())}"
        yield f"done meanwhile: {dict(self.deeds.most_common())}"
        if self.rss_bytes:
            first, last = format_bytes(self.rss_bytes[0]), format_bytes(self.rss_bytes[-1])
            yield f"the service had {first} at first and {last} at last; descriptors {self.descriptors}"


class _Soak:
    def __init__(self, lab: Lab, service: Service, report: Report) -> None:
        self._lab, self._service, self._report = lab, service, report
        self._chance = random.Random(report.seed)
        self._ends_s = time.monotonic() + report.seconds
        self._chats: Counter[int] = Counter()
        self._http = httpx.AsyncClient(base_url=service.url, timeout=ANSWER_S)

    async def run(self) -> None:
        """Ask and harm until the time is over."""
        async with self._http, asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._ask_on(number))
            group.create_task(self._harm_on())

    async def _ask_on(self, number: int) -> None:
        while time.monotonic() < self._ends_s:
            key, way = self._chance.choice(MODELS), self._chance.choice((self._plain, self._stream, self._chat))
            leaves_s = self._chance.choice((None, None, None, 0.05, 0.4))
            try:
                # Of the whole: a stream that waits says so every few seconds, which is no answer.
                async with asyncio.timeout(leaves_s or ANSWER_S):
                    ended = await way(key, number)
            except (TimeoutError, httpx.ReadTimeout):
                ended = "no answer" if leaves_s is None else "left"
                if leaves_s is None:
                    self._report.troubles.append(f"{way.__name__} of {key} had no answer within {ANSWER_S:.0f} s")
            except httpx.HTTPError as exc:
                ended = type(exc).__name__
                self._report.troubles.append(f"{way.__name__} of {key}: {exc!r}")
            self._report.answers[ended] += 1

    async def _plain(self, key: str, _: int) -> str:
        answer = await self._http.post(CHAT, json={"model": key, "messages": HELLO, "max_tokens": 8})
        return self._judged(answer.status_code, answer.text)

    async def _stream(self, key: str, _: int) -> str:
        asked = {"model": key, "messages": HELLO, "max_tokens": 8, "stream": True}
        async with self._http.stream("POST", CHAT, json=asked) as answer:
            text = (await answer.aread()).decode(errors="replace")
        return self._judged(answer.status_code, text)

    async def _chat(self, key: str, number: int) -> str:
        """A turn of a session; its stream says how it ended, whatever the engine did."""
        self._chats[number] += 1
        session = f"s{number}-{self._chats[number] // _TURNS}"
        asked = {"model": key, "messages": HELLO, "max_tokens": 8, "stream": True, "session_id": session}
        if self._chance.random() < 0.1:
            asked["keep_alive"] = 0
        async with self._http.stream("POST", "/chat", json=asked) as answer:
            text = (await answer.aread()).decode()
        if answer.status_code == 200:
            last = [line for line in text.splitlines() if line.startswith("event: ")][-1].removeprefix("event: ")
            if last not in {"done", "error"}:
                self._report.troubles.append(f"a turn's last event was {last}")
            return f"chat {last}"
        return self._judged(answer.status_code, text)

    def _judged(self, status: int, text: str) -> str:
        if status not in ALLOWED:
            self._report.troubles.append(f"{status}: {text:.300}")
        return str(status)

    async def _harm_on(self) -> None:
        deeds = (self._script, self._script, self._kill, self._load, self._unload, self._switch)
        while time.monotonic() < self._ends_s:
            deed = self._chance.choice(deeds)
            self._report.deeds[deed.__name__.strip("_")] += 1
            await deed(self._chance.choice(MODELS))
            # No event to wait for: any moment may be the worst one.
            await asyncio.sleep(self._chance.uniform(0.05, 0.5))

    async def _script(self, key: str) -> None:
        fault = self._chance.choice(FAULTS)
        self._lab.fault(key, **fault)
        self._report.deeds[" ".join(fault) or "no fault"] += 1

    async def _kill(self, key: str) -> None:
        rows = (await self._http.get("/ps")).json()["models"]
        pid = next(row["pid"] for row in rows if row["key"] == key)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _load(self, key: str) -> None:
        with suppress(httpx.ReadTimeout):
            await self._http.post(f"/models/{key}/load", params={"beside": "true"}, timeout=2)

    async def _unload(self, key: str) -> None:
        with suppress(httpx.ReadTimeout):
            await self._http.post(f"/models/{key}/unload", timeout=2)

    async def _switch(self, key: str) -> None:
        with suppress(httpx.ReadTimeout):
            await self._http.post("/model/switch", json={"model_key": key}, timeout=2)


def soak(seconds: float, *, seed: int) -> Report:
    """Serve a lab of its own, and soak it for so long."""
    report = Report(seconds, seed)
    profile = {"max_loaded": 2, "parallel": 2}
    models = {key: {"context_length": 1024} for key in MODELS}
    with (
        temporary_lab("fake", models=models, profile=profile, program="tests.soak.hasty") as lab,
        lab.serve() as service,
    ):
        _calm(lab, service, report)
        for half in range(2):  # the first one warms it up
            part = Report(seconds / 2, seed + half, report.answers, report.deeds, troubles=report.troubles)
            asyncio.run(_Soak(lab, service, part).run())
            _calm(lab, service, report)
        _look_for_leaks(service, report)
    return report


def _calm(lab: Lab, service: Service, report: Report) -> None:
    """Take the faults away, see that every model serves, unload all, and note what the service still has."""
    for key in MODELS:
        lab.fault(key)
        service.http.post(f"/models/{key}/unload", timeout=BOUND_S)  # what runs still follows its script
    for key in MODELS:
        answer = service.http.post(f"/models/{key}/load", timeout=BOUND_S)
        if answer.status_code != 200:
            report.troubles.append(f"{key} does not load without a fault: {answer.text:.300}")
        answer = service.chat(model=key)
        if answer.status_code != 200:
            report.troubles.append(f"{key} does not serve without a fault: {answer.status_code} {answer.text:.300}")
    for key in MODELS:
        service.http.post(f"/models/{key}/unload", timeout=BOUND_S)
    wait_until(lambda: not lab.sockets(), "no socket is left")
    wait_until(lambda: not _engines_of(lab, service), "no engine is left")
    process = psutil.Process(service.process.pid)
    report.rss_bytes.append(process.memory_info().rss)
    report.descriptors.append(process.num_fds())


def _engines_of(lab: Lab, service: Service) -> list[psutil.Process]:
    return [process for process in lab.engine_processes() if process.pid != service.process.pid]


def _look_for_leaks(service: Service, report: Report) -> None:
    for row in service.http.get("/ps").json()["models"]:
        if row["state"] != "stopped" or row["busy"] or row["waiting"]:
            report.troubles.append(f"left: {json.dumps(row)}")
    statuses: Counter[str] = Counter()
    cursor: str | None = ""
    while cursor is not None:
        page = service.http.get("/sessions", params={"limit": 200, "cursor": cursor} if cursor else {"limit": 200})
        found = page.raise_for_status().json()
        statuses.update(each["last_turn"]["status"] for each in found["sessions"] if each["last_turn"])
        cursor = found["next_cursor"]
    if open_ := statuses.keys() - {"done", "failed", "cancelled", "interrupted"}:
        report.troubles.append(f"turns are left {sorted(open_)}: {dict(statuses)}")
    growth = report.rss_bytes[-1] - statistics.median(report.rss_bytes[1:2])
    if growth > MOST_GROWTH_BYTES:
        report.troubles.append(f"resident memory grew by {format_bytes(int(growth))} in the second half")
    if report.descriptors[-1] - report.descriptors[0] > MOST_MORE_DESCRIPTORS:
        report.troubles.append(f"descriptors grew: {report.descriptors}")


def main() -> int:
    """Run it, and say what came of it."""
    seed = random.SystemRandom().randrange(1_000_000)
    report = soak(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, seed=seed)
    print("\n".join(report.lines()))
    print("\n".join(f"TROUBLE: {trouble}" for trouble in report.troubles) or "everybody answered, nothing leaked")
    return 1 if report.troubles else 0


if __name__ == "__main__":
    end_when_told()
    sys.exit(main())
