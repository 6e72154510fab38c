"""Mixes every fault of the scripted llama-server under load: ``python -m tests.soak.fleet [SECONDS]``.

Four models share two places, and a fifth runs elsewhere, behind a toxic proxy. Clients chat, stream, read slowly, and
leave after less or more than AirLab's own patience; meanwhile each start of an engine follows a script drawn by chance,
engines and the server elsewhere are killed, models loaded, unloaded, switched, the manifest edited, files replaced. At
the end the faults are taken away: then every model must serve again, and nothing may be left that was not there before:
no process, socket, descriptor, memory, lease, waiter or open turn. Exits 1 where something is.
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
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from app.units import MIB, format_bytes
from tests.soak.elsewhere import MODEL as FAR
from tests.soak.elsewhere import Elsewhere, elsewhere
from tests.soak.ending import end_when_told
from tests.soak.harms import FAULTS, MODELS, ONLY_HERE, edited, laid, lay
from tests.support.gguf import minimal_gguf
from tests.support.service import BOUND_S, CHAT, HELLO, Lab, Service, temporary_lab, wait_until

CLIENTS = 6
ANSWER_S = 60.0
"""Whatever happens, every request has an answer or an error by then."""
LEAVES_S = (None, None, None, 0.05, 0.4, 0.8, 1.5, 4.0)
"""When a client leaves: before AirLab gives a hung engine up (``hasty.SHORT.hung_s``), or after; or never."""
KEEP_ALIVE = (None, None, None, 0, 1, "2s", -1)
READS_EVERY_S, SLOW_PIECES = 0.05, 200
"""A slow reader takes this long over each of the first pieces; of a line of a megabyte, sliced, there are thousands."""
_TURNS = 10
"""Of one session: some answers are megabytes, and a turn reads all that its branch holds."""
MOST_GROWTH_BYTES, MOST_MORE_DESCRIPTORS = 40 * MIB, 4
"""From the middle to the end. Lines of a megabyte leave holes in the heap that the system does not get back."""
ALLOWED = {200, 429, 502, 503, 504}
FAULTY = {"502", "503", "chat error"}
"""How requests end that met a fault."""


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
    least: int = 0
    """It goes on, within bounds, until so many requests went well, and one did not."""

    def lines(self) -> Iterator[str]:
        """The figures."""
        yield f"{self.seconds:.0f} s, seed {self.seed}; requests ended as {dict(self.answers.most_common())}"
        yield f"done meanwhile: {dict(self.deeds.most_common())}"
        if self.rss_bytes:
            sizes = ", ".join(map(format_bytes, self.rss_bytes))
            yield f"the service had {sizes} at first, in the middle and at last; descriptors {self.descriptors}"


class _Soak:
    def __init__(self, lab: Lab, service: Service, far: Elsewhere, report: Report) -> None:
        self._lab, self._service, self._far, self._report = lab, service, far, report
        self._chance = random.Random(report.seed)
        self._ends_s = time.monotonic() + report.seconds
        self._chats: Counter[int] = Counter()
        self._http = httpx.AsyncClient(base_url=service.url, timeout=ANSWER_S)

    async def run(self) -> None:
        """Ask and harm until the time is over."""
        async with self._http, self._far.reachable(self._chance), asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._ask_on(number))
            group.create_task(self._harm_on())

    def _goes_on(self) -> bool:
        late_s, answers, least = time.monotonic() - self._ends_s, self._report.answers, self._report.least
        is_short = least > 0 and (answers["200"] < least or not answers.keys() & FAULTY)
        return late_s < 0 or (is_short and late_s < BOUND_S)

    async def _ask_on(self, number: int) -> None:
        while self._goes_on():
            key = self._chance.choice((*MODELS, FAR))
            way = self._chance.choice((self._plain, self._stream, self._slow, self._chat))
            leaves_s = self._chance.choice(LEAVES_S)
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
        answer = await self._http.post(CHAT, json=self._asked(key))
        return self._judged(answer.status_code, answer.text)

    async def _stream(self, key: str, _: int) -> str:
        async with self._http.stream("POST", CHAT, json=self._asked(key, stream=True)) as answer:
            text = (await answer.aread()).decode(errors="replace")
        return self._judged(answer.status_code, text)

    async def _slow(self, key: str, _: int) -> str:
        """As a stream whose reader has other things to do."""
        async with self._http.stream("POST", CHAT, json=self._asked(key, stream=True)) as answer:
            text, pieces = "", 0
            async for piece in answer.aiter_bytes():
                text, pieces = text[-500:] + piece.decode(errors="replace"), pieces + 1
                if pieces <= SLOW_PIECES:
                    await asyncio.sleep(READS_EVERY_S)
        return self._judged(answer.status_code, text)

    def _asked(self, key: str, **more: object) -> dict[str, object]:
        keep_alive = self._chance.choice(KEEP_ALIVE)
        asked = {"model": key, "messages": HELLO, "max_tokens": 8, **more}
        return asked if keep_alive is None else asked | {"keep_alive": keep_alive}

    async def _chat(self, key: str, number: int) -> str:
        """A turn of a session; its stream says how it ended, whatever the engine did."""
        self._chats[number] += 1
        session = f"s{number}-{self._chats[number] // _TURNS}"
        asked = self._asked(key, stream=True, session_id=session)
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
        often = (self._script, self._script, self._kill, self._load, self._unload, self._switch)
        deeds = (*often, *often, self._edit, self._edit, self._replace, self._restart_elsewhere)
        while self._goes_on():
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

    async def _edit(self, _: str) -> None:
        """Save the manifest with other settings of some models; now and then it is broken."""
        text = json.dumps(edited(self._lab, self._chance), indent=1)
        self._lab.write_manifest(text if self._chance.random() < 0.8 else text[: len(text) // 2])

    async def _replace(self, key: str) -> None:
        """Put another file in a model's place, or one that is none."""
        name = f"another-{self._chance.randrange(1000)}"
        lay(
            self._lab.weights(key),
            minimal_gguf(general__name=name) if self._chance.random() < 0.7 else b"GGUF and no more",
        )

    async def _restart_elsewhere(self, _: str) -> None:
        fault = self._chance.choice([each for each in FAULTS if not each.keys() & ONLY_HERE])
        self._far.start(fault)

    async def _load(self, key: str) -> None:
        with suppress(httpx.TimeoutException):
            await self._http.post(f"/models/{key}/load", params={"beside": "true"}, timeout=2)

    async def _unload(self, key: str) -> None:
        with suppress(httpx.TimeoutException):
            await self._http.post(f"/models/{key}/unload", timeout=2)

    async def _switch(self, key: str) -> None:
        with suppress(httpx.TimeoutException):
            await self._http.post("/model/switch", json={"model_key": key}, timeout=2)


def soak(seconds: float, *, seed: int, least: int = 0) -> Report:
    """Serve a lab of its own, and soak it for so long; for longer where so few requests went well by then."""
    report = Report(seconds, seed)
    profile = {"max_loaded": 2, "parallel": 2}
    models = {key: {"context_length": 1024} for key in MODELS}
    with ExitStack() as stack:
        far = stack.enter_context(elsewhere(Path(stack.enter_context(TemporaryDirectory(prefix="airlab-far-")))))
        lab = stack.enter_context(temporary_lab("fake", models=models, profile=profile, program="tests.soak.hasty"))
        manifest = json.loads(lab.manifest.read_text())
        manifest["models"][FAR] = {"remote": {"url": far.url, "model": FAR}, "parallel": 2, "context_length": 1024}
        laid(lab).write_text(json.dumps(manifest, indent=1))
        lab.write_manifest(laid(lab).read_text())
        service = stack.enter_context(lab.serve())
        _calm(lab, service, report)
        for half in range(2):  # the first one warms it up
            part = replace(report, seconds=seconds / 2, seed=seed + half, least=least * half)
            asyncio.run(_Soak(lab, service, far, part).run())
            _calm(lab, service, report)
            asyncio.run(_see_far(service, far, report))
        _look_for_leaks(service, report)
    return report


async def _see_far(service: Service, far: Elsewhere, report: Report) -> None:
    """The model elsewhere serves, once its server and the way there are well."""
    far.start({})
    far.is_toxic = False
    async with far.reachable(random.Random(0)), httpx.AsyncClient(base_url=service.url, timeout=BOUND_S) as http:
        status = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(BOUND_S):
                while status != 200:
                    asked = {"model": FAR, "messages": HELLO, "max_tokens": 4}
                    status = (await http.post(CHAT, json=asked)).status_code
                    await asyncio.sleep(0.2)
    far.is_toxic = True
    if status != 200:
        report.troubles.append(f"{FAR} does not serve without a fault: {status}")


def _calm(lab: Lab, service: Service, report: Report) -> None:
    """Take the faults away, see that every model serves, unload all, and note what the service still has."""
    lab.write_manifest(laid(lab).read_text())
    for key in MODELS:
        lay(lab.weights(key), minimal_gguf())
        lab.fault(key)
    if (answer := service.http.post("/manifest/reload", timeout=BOUND_S)).status_code != 200:
        report.troubles.append(f"the manifest of before is not in force again: {answer.text:.300}")
    for key in MODELS:
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
        if (row["state"] != "stopped" and row["key"] != FAR) or row["busy"] or row["waiting"]:
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
