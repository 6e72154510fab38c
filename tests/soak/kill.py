"""Kills AirLab in the middle of 200 turns, again and again: ``python -m tests.soak.kill [KILLS]``.

Two hundred clients, each with a session of its own, say one thing after another under an Idempotency-Key; half of them
stream. After a random number of answers, while others are being written, the service is killed as by kill -9 and
started anew, and every client sends what it has no answer to again, unchanged. In the end all that was acknowledged
must be stored, once, as it was told; every answer must be whole; and nothing may have been said or answered twice.
Exits 1 where that is not so.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chat.talk import events_of_lines, require_sound_store
from tests.service.kills import kill
from tests.soak.ending import end_when_told
from tests.support.service import BOUND_S, Service, temporary_lab

CLIENTS, SLOTS = 200, 64
MOST_ANSWERS = 150
"""From a start to its kill."""
ADDRESSES = 5
"""That the clients come from: one may open only so many connections."""
TOKEN_S = 0.04
_BACKOFF_S = 0.05
_ALL_S = 120.0


@dataclass
class Client:
    """Says one thing after another, and remembers what it was answered."""

    number: int
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The answer to each thing said, once it was acknowledged."""

    @property
    def session_id(self) -> str:
        """Its session."""
        return f"client-{self.number}"

    @property
    def text(self) -> str:
        """What it says next; said again until it is answered. Longer and shorter, or all would be answered at once."""
        again = " again" * (self.number % 17)
        return f"client {self.number} says thing {len(self.told)} and expects to hear it back{again}"

    async def go_on(self, http: httpx.AsyncClient, turns: float, answered: asyncio.Semaphore) -> None:
        """Take turns until it has so many answers, each released to ``answered``. Raises what httpx raises when the
        service goes away.
        """
        while len(self.told) < turns:
            text = self.text
            answer = await self._ask(http, text)
            if answer is None:
                await asyncio.sleep(_BACKOFF_S)  # the queue is full: as any client does
            else:
                self.told[text] = answer
                answered.release()

    async def _ask(self, http: httpx.AsyncClient, text: str) -> dict[str, Any] | None:
        streams = self.number % 2 == 0
        body = {
            "session_id": self.session_id,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 64,
            "stream": streams,
        }
        headers = {"idempotency-key": f"{self.session_id}/{len(self.told)}"}
        async with http.stream("POST", "/chat", json=body, headers=headers) as answer:
            if answer.status_code == 429:
                await answer.aread()
                return None
            if not streams or answer.status_code != 200:
                text = (await answer.aread()).decode()
                assert answer.status_code == 200, text
                told: dict[str, Any] = json.loads(text)
                return told
            events = events_of_lines([line async for line in answer.aiter_lines()])
        name, last = events[-1] if events else ("nothing", {})
        if name == "error" and last["error"]["code"] == "rate_limit_exceeded":
            return None
        if name != "done":
            raise httpx.RemoteProtocolError(f"the stream ended with {name}: {last}")
        said = "".join(data["text"] for name, data in events if name == "token")
        return {**last, "response": said}


@dataclass
class Report:
    """What came of it all."""

    kills: int
    clients: list[Client] = field(default_factory=lambda: [Client(number) for number in range(CLIENTS)])
    interrupted: int = 0
    """Turns that a kill cut."""
    replayed: int = 0
    """Answers that had been stored, and were lost on their way to the client."""
    took_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def answers(self) -> int:
        """How many were acknowledged."""
        return sum(len(client.told) for client in self.clients)


def soak(kills: int, *, seed: int = 8) -> Report:
    """Kill it so many times; what was found is in the report."""
    report, choices, begun_s = Report(kills), random.Random(seed), time.monotonic()
    with temporary_lab("fake", models={"small": {"context_length": 1024}}, profile={"parallel": SLOTS}) as lab:
        lab.fault("small", echo=True, token_s=TOKEN_S)
        for _ in range(kills):
            with lab.serve() as service:
                asyncio.run(_until_killed(service, report.clients, choices.randint(0, MOST_ANSWERS)))
        with lab.serve() as service:
            most = max(len(client.told) for client in report.clients) + 1
            asyncio.run(_all_answered(service, report.clients, turns=most))
            _compare(service, report)
        require_sound_store(lab)
    report.took_s = time.monotonic() - begun_s
    return report


async def _all_answered(service: Service, clients: list[Client], *, turns: int) -> None:
    async with asyncio.timeout(_ALL_S), _Connections(service) as connections, asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.go_on(connections.of(client), turns, asyncio.Semaphore(0)))


async def _until_killed(service: Service, clients: list[Client], answers: int) -> None:
    """Let all clients talk, kill the service after so many answers, and wait until each has seen that it is gone."""
    answered = asyncio.Semaphore(0)
    async with asyncio.timeout(_ALL_S), _Connections(service) as connections:
        talking = [asyncio.create_task(_talk(client, connections.of(client), answered)) for client in clients]
        for _ in range(answers):
            await answered.acquire()
        await asyncio.to_thread(kill, service)
        await asyncio.gather(*talking)


async def _talk(client: Client, http: httpx.AsyncClient, answered: asyncio.Semaphore) -> None:
    with suppress(httpx.HTTPError):  # it was killed
        await client.go_on(http, math.inf, answered)


class _Connections:
    """HTTP from several addresses of this machine."""

    def __init__(self, service: Service) -> None:
        # Kept: all clients together are as many as AirLab takes connections, and whoever came anew would be refused
        # while it has yet to see that the old one is closed.
        limits = httpx.Limits(max_connections=CLIENTS // ADDRESSES, max_keepalive_connections=None)
        self._clients = [
            httpx.AsyncClient(
                base_url=service.url,
                timeout=BOUND_S,
                transport=httpx.AsyncHTTPTransport(local_address=f"127.0.0.{number + 1}", limits=limits),
            )
            for number in range(ADDRESSES)
        ]

    async def __aenter__(self) -> _Connections:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients))

    def of(self, client: Client) -> httpx.AsyncClient:
        """The one that this client uses."""
        return self._clients[client.number % ADDRESSES]


def _compare(service: Service, report: Report) -> None:
    """What is stored, against what was told."""
    for client in report.clients:
        tree = service.http.get(f"/sessions/{client.session_id}", params={"view": "tree"}).raise_for_status().json()
        report.failures += _problems(client, tree)
        statuses = [turn["status"] for turn in tree["turns"]]
        report.interrupted += statuses.count("interrupted")
        report.replayed += sum(answer["replayed"] for answer in client.told.values())


def _problems(client: Client, tree: dict[str, Any]) -> list[str]:
    stored = {message["id"]: message for message in tree["messages"]}
    found = [
        f"{client.session_id}: {text!r} was answered with {answer['response']!r}, and that is not stored"
        for text, answer in client.told.items()
        if stored.get(answer["message_id"], {}).get("content") != answer["response"] or answer["response"] != text
    ]
    branch = [message["content"] for message in tree["messages"] if message["active"]]
    if branch != [text for said in client.told for text in (said, said)]:
        found.append(f"{client.session_id}: the conversation is not what was said: {branch}")
    if len(stored) != len(branch):
        found.append(f"{client.session_id}: {len(stored) - len(branch)} messages stand beside the conversation")
    done = sum(turn["status"] == "done" for turn in tree["turns"])
    if done != len(client.told):
        found.append(f"{client.session_id}: {len(client.told)} things were said, and {done} turns are done")
    # Failed ones met a full queue.
    if wrong := {turn["status"] for turn in tree["turns"]} - {"done", "interrupted", "failed"}:
        found.append(f"{client.session_id}: turns are {wrong}")
    return found


def main() -> int:
    """Run it, and say what came of it."""
    report = soak(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
    print(
        f"{report.kills} kills in {report.took_s:.0f} s: {report.answers} answers acknowledged, {report.interrupted} "
        f"turns cut and said again, {report.replayed} answers stored and lost on their way, then given again"
    )
    print("\n".join(report.failures) or "nothing lost, nothing half, nothing twice")
    return 1 if report.failures else 0


if __name__ == "__main__":
    end_when_told()
    sys.exit(main())
