"""A client that leaves ends its own generation: seen in the slots of the engines that really generate."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import MakeLab
from tests.support.service import CHAT, HELLO, EngineProcess, Service, wait_until

POLL_S = 1.2
"""Asking for the slots more often delays what is looked for: the engine answers between two tokens."""
LONG: dict[str, Any] = {"messages": HELLO, "max_tokens": 3000, "ignore_eos": True}


def slot_of(engine: EngineProcess) -> dict[str, Any]:
    slot: dict[str, Any] = engine.ask("/slots")[0]
    return slot


def assert_generation_ends_early(service: Service, engine: EngineProcess) -> None:
    slot = wait_until(
        lambda: None if (now := slot_of(engine))["is_processing"] else now, "the slot is free", every_s=POLL_S
    )
    assert slot["next_token"][0]["has_next_token"], "it was broken off, not finished"
    service.until_model("small", lambda row: row["busy"] == 0, "no slot is leased")
    assert engine.alive
    assert service.chat(max_tokens=1).status_code == 200


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_client_that_leaves_ends_its_generation(make_lab: MakeLab, engine_kind: str, stream: bool) -> None:
    lab = make_lab(engine_kind, models={"small": {"context_length": 4096}})

    with lab.serve() as service:
        assert service.chat(max_tokens=1).status_code == 200
        engine = service.engine()
        if stream:
            with service.http.stream("POST", CHAT, json={**LONG, "stream": True}) as answer:
                lines = answer.iter_lines()  # kept: when it goes, httpx closes the stream
                next(lines)
                assert slot_of(engine)["is_processing"]
        else:
            with service.asked(CHAT, LONG):
                wait_until(lambda: slot_of(engine)["is_processing"], "it is generated", every_s=POLL_S)

        assert_generation_ends_early(service, engine)


def test_client_that_leaves_the_queue_never_reaches_the_engine(make_lab: MakeLab) -> None:
    lab = make_lab()
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))

    with lab.serve() as service, service.stream() as first:
        lines = first.iter_lines()  # kept: when it goes, httpx closes the stream
        next(lines)
        with service.asked(CHAT, {"messages": HELLO}):
            service.until_model("small", lambda row: (row["busy"], row["waiting"]) == (1, 1), "one waits")
        service.until_model("small", lambda row: (row["busy"], row["waiting"]) == (1, 0), "one busy, nobody waits")

        seen = service.engine().ask("/fake/requests")
        assert [request["path"] for request in seen if request["method"] == "POST"] == [CHAT]
        gate.touch()


def test_connection_to_the_engine_is_closed_when_the_client_leaves(make_lab: MakeLab) -> None:
    """The scripted engine counts whom it lost: a closed connection, not the end of the answer, ended it."""
    lab = make_lab()
    lab.fault("small", stall_after_tokens=1)

    with lab.serve() as service:
        with service.stream() as answer:
            next(answer.iter_lines())
        engine = service.engine()
        assert engine.ask("/fake/cancelled?is=1")["active"] == 0
        with service.asked(CHAT, {"messages": HELLO}):
            engine.ask("/fake/active?is=1")
        assert engine.ask("/fake/cancelled?is=2")["active"] == 0
