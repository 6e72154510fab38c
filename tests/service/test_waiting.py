"""What those who wait for a model are told over HTTP, and how long their request keeps it loaded."""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import MakeLab
from tests.support.service import BOUND_S


def test_answer_that_had_to_wait_says_so_in_a_header(make_lab: MakeLab) -> None:
    """Loads are measured: the second wait for the same model comes with a guess."""
    with make_lab().serve() as service:
        first = service.chat(keep_alive=0)
        warm = service.chat()
        service.http.post("/models/small/unload")
        again = service.chat()

    assert re.fullmatch(r"ahead=0, waited=\d+\.\d", first.headers["x-airlab-queue"])
    assert re.fullmatch(r"ahead=0, eta=\d+\.\d, waited=\d+\.\d", again.headers["x-airlab-queue"])
    assert [answer.status_code for answer in (first, warm, again)] == [200] * 3


def test_answer_that_waits_for_nothing_says_nothing_of_it(make_lab: MakeLab) -> None:
    with make_lab().serve() as service:
        service.chat()
        assert "x-airlab-queue" not in service.chat().headers


@pytest.mark.parametrize("stream", [False, True])
def test_answer_with_tools_of_the_server_that_had_to_wait_says_so_too(make_lab: MakeLab, stream: bool) -> None:
    with make_lab().serve() as service:
        cold, warm = (service.chat(server_tools=["get_current_time"], stream=stream) for _ in range(2))

    assert [answer.status_code for answer in (cold, warm)] == [200, 200]
    assert re.fullmatch(r"ahead=0, waited=\d+\.\d", cold.headers["x-airlab-queue"])
    assert "x-airlab-queue" not in warm.headers


def test_refusal_after_a_wait_says_how_long_it_was(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.fault("small", exit_code=1, exit_at="load", exit_message="out of luck", load_s=0.3)
    with lab.serve() as service:
        answer = service.chat()

    assert answer.status_code == 503
    waited = re.fullmatch(r"ahead=0, waited=(\d+\.\d)", answer.headers["x-airlab-queue"])
    assert waited is not None
    assert float(waited[1]) > 0


def test_chat_tells_how_long_it_will_take(make_lab: MakeLab) -> None:
    asked = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
    with make_lab().serve() as service:
        guesses = []
        for _ in range(2):
            answer = service.http.post("/chat", json=asked)
            told = next(block for block in answer.text.split("\n\n") if block.startswith("event: waiting\n"))
            guesses.append(json.loads(told.split("data: ")[1])["eta_s"])
            service.http.post("/models/small/unload")

    assert guesses[0] is None
    assert guesses[1] >= 0


def test_how_long_a_load_takes_is_still_known_after_a_restart(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.serve() as service:
        service.chat()
    with lab.serve() as service:
        first = service.chat()

    assert re.fullmatch(r"ahead=0, eta=\d+\.\d, waited=\d+\.\d", first.headers["x-airlab-queue"])


def test_spoilt_file_of_loads_keeps_no_service_from_starting(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.serve() as service:
        service.chat()
    (lab.folder / ".airlab" / "paces.json").write_text("[" * 100_000)
    with lab.serve() as service:
        first = service.chat()
        assert "waits are guessed anew" in service.log

    assert re.fullmatch(r"ahead=0, waited=\d+\.\d", first.headers["x-airlab-queue"])


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
def test_keep_alive_0_unloads_the_model_after_the_answer(make_lab: MakeLab, path: str) -> None:
    asked = {"messages": [{"role": "user", "content": "Hello"}], "keep_alive": 0}
    with make_lab().serve() as service:
        assert service.http.post(path, json=asked).status_code == 200
        service.until_state("small", "stopped")


def test_keep_alive_does_not_reach_the_engine(make_lab: MakeLab) -> None:
    with make_lab().serve() as service:
        service.chat(keep_alive="10m")
        bodies = [asked["body"] for asked in service.engine().ask("/fake/requests") if asked["method"] == "POST"]
    assert bodies
    assert all("keep_alive" not in body for body in bodies)


@pytest.mark.parametrize("wrong", ["soon", -2, "40d", True])
@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
def test_keep_alive_that_is_none_is_refused(make_lab: MakeLab, path: str, wrong: object) -> None:
    asked = {"messages": [{"role": "user", "content": "Hello"}], "keep_alive": wrong}
    with make_lab().serve() as service:
        answer = service.http.post(path, json=asked)
    assert answer.status_code == 400
    assert "keep_alive" in answer.json()["error"]["message"] or answer.json()["error"]["param"] == "keep_alive"


def test_model_is_loaded_beside_the_others_only_where_there_is_room(make_lab: MakeLab) -> None:
    lab = make_lab(models={"small": {}, "other": {}})
    with lab.serve() as service:
        service.chat()
        refused = service.http.post("/models/other/load?beside=true", timeout=BOUND_S)
        zero = service.http.post("/models/other/load?keep_alive=0")
        alone = service.http.post("/models/other/load?keep_alive=-1", timeout=BOUND_S)

    assert (refused.status_code, zero.status_code, alone.status_code) == (503, 400, 200)
    assert "cannot be loaded beside" in refused.json()["detail"]
