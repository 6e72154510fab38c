"""Servers elsewhere that are hostile, broken or busy: a request fails in words, and AirLab stays as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psutil
import pytest

from tests.conftest import MakeLab
from tests.support.service import HELLO, Service
from tests.support.stranger import Stranger, bare_server, near

MIB = 1024 * 1024
Far = tuple[Service, Stranger]


@pytest.fixture
def far(make_lab: MakeLab) -> Iterator[Far]:
    """An AirLab, and the server that its ``big`` runs on."""
    with bare_server() as server, near(make_lab, server.url, BIG_KEY="k").serve() as service:
        service.until_state("big", "ready")
        yield service, server


@pytest.mark.parametrize("stream", [False, True])
def test_chat_that_never_ends_is_broken_off_before_it_fills_the_memory(far: Far, stream: bool) -> None:
    """It took 3.9 GB in ten seconds, with no end but that of the service."""
    service, server = far
    server.is_endless = True
    process = psutil.Process(service.process.pid)
    before_bytes = process.memory_info().rss
    body = {"messages": HELLO, "model": "big", "max_tokens": 8, "session_id": "s", "stream": stream}
    answer = service.http.post("/chat", json=body)
    assert "goes on and on, where 8 tokens were asked for" in answer.text
    assert answer.status_code == (200 if stream else 502)
    assert process.memory_info().rss - before_bytes < 128 * MIB
    assert service.model("big")["busy"] == 0
    assert [turn["status"] for turn in service.http.get("/sessions/s?view=tree").json()["turns"]] == ["failed"]

    server.is_endless = False
    assert service.http.post("/chat", json=body).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat"])
def test_server_that_falls_silent_in_an_answer_is_given_up(make_lab: MakeLab, path: str) -> None:
    """Its client may never leave: the slot, and the session's turn, were held for good."""
    silence = threading.Event()
    with bare_server() as server:
        lab = near(make_lab, server.url)
        lab.program = "tests.soak.hasty"
        with lab.serve() as service:
            service.until_state("big", "ready")
            server.hangs = silence
            body = {"messages": HELLO, "model": "big", "stream": True}
            answer = service.http.post(path, json=body)
            assert "and on" in answer.text
            assert "upstream_stalled" in answer.text
            assert "the server sent nothing for 1 s" in answer.text
            assert service.model("big")["busy"] == 0
            silence.set()
            server.hangs = None
            assert service.http.post(path, json=body).status_code == 200


def test_page_of_a_server_does_not_go_out_as_one_of_ours(far: Far) -> None:
    service, server = far
    server.kind = "text/html; charset=utf-8"
    answer = service.chat(model="big")
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/json"
    assert "the server answered with 'text/html', which is neither JSON nor" in answer.json()["error"]["message"]
    server.kind = "Application/JSON; charset=utf-8"
    assert service.chat(model="big").headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat"])
@pytest.mark.parametrize(
    ("refused", "status", "retry_after"),
    [(429, 429, "7"), (503, 503, "7"), (401, 502, None), (403, 502, None), (404, 503, "5"), (508, 508, None)],
)
def test_refusal_reaches_the_client_as_what_it_is(
    far: Far, path: str, refused: int, status: int, retry_after: str | None
) -> None:
    service, server = far
    server.refusal = (refused, {"retry_after": "7"})
    answer = service.http.post(path, json={"messages": HELLO, "model": "big"})
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
    assert f"({refused}): no" in answer.json()["error"]["message"]
    server.refusal = None
    assert service.http.post(path, json={"messages": HELLO, "model": "big"}).status_code == 200
