"""While a model loads, is switched, or does not come up: who waits, who is answered at once, and with what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import MakeLab
from tests.support.service import BOUND_S, CHAT, HELLO, Service, events_of

TWO: dict[str, dict[str, Any]] = {"small": {}, "other": {}}
Background = ThreadPoolExecutor


@contextmanager
def loading(make_lab: MakeLab) -> Iterator[tuple[Service, Path]]:
    """A service whose model has begun to load, and the file that ends its loading."""
    lab = make_lab(models={"small": {"preload": True}})
    gate = lab.folder / "gate"
    lab.fault("small", load_until_file=str(gate))
    with lab.serve() as service:
        try:
            service.until_state("small", "starting")
            yield service, gate
        finally:
            gate.touch()  # whatever waits for it must not hold the test up


def switch(service: Service, key: str) -> httpx.Response:
    return service.http.post("/model/switch", json={"model_key": key})


def test_health_and_models_answer_while_a_model_loads(make_lab: MakeLab) -> None:
    with loading(make_lab) as (service, _):
        health = service.http.get("/health")
        models = service.http.get("/v1/models").json()["data"]

    assert health.status_code == 200
    assert (health.json()["status"], health.json()["state"], health.json()["loaded"]) == ("ok", "starting", False)
    assert [model["status"] for model in models] == ["starting"]


def test_health_and_models_answer_while_a_chat_streams(make_lab: MakeLab) -> None:
    lab = make_lab()
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))

    with lab.serve() as service, service.stream() as answer:
        assert service.http.get("/health").json()["loaded"] is True
        assert service.http.get("/v1/models").status_code == 200
        assert service.model()["busy"] == 1
        gate.touch()
        assert events_of(answer)[-1] == "[DONE]"


def test_requests_wait_while_the_model_loads_and_all_are_answered(make_lab: MakeLab, background: Background) -> None:
    with loading(make_lab) as (service, gate):
        asked = [background.submit(service.chat) for _ in range(8)]
        service.until_model("small", lambda row: row["waiting"] == 8, "8 wait")
        gate.touch()

        assert [answer.result(BOUND_S).status_code for answer in asked] == [200] * 8
        assert service.model()["waiting"] == 0


async def test_client_that_gives_up_during_a_load_finds_the_model_ready_later(make_lab: MakeLab) -> None:
    """Who goes away ends his own wait, never a load that has begun."""
    lab = make_lab()
    gate = lab.folder / "gate"
    lab.fault("small", load_until_file=str(gate))

    with lab.serve() as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=BOUND_S) as client:
            asked = asyncio.create_task(client.post(CHAT, json={"messages": HELLO}))
            await asyncio.to_thread(service.until_model, "small", lambda row: row["waiting"] == 1, "it waits")
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        service.until_model("small", lambda row: row["waiting"] == 0, "nobody waits")
        first = service.engine()
        gate.touch()
        service.until_state("small", "ready")

        assert service.chat().status_code == 200
        assert service.engine().pid == first.pid


def test_request_beyond_the_queue_is_a_429_that_says_when_to_come_back(
    make_lab: MakeLab, background: Background
) -> None:
    with loading(make_lab) as (service, gate):
        asked = [background.submit(service.chat, max_tokens=1) for _ in range(32)]
        service.until_model("small", lambda row: row["waiting"] == 32, "32 wait")

        refused = service.chat()

        assert refused.status_code == 429
        assert (refused.json()["error"]["type"], refused.json()["error"]["code"]) == (
            "rate_limit_error",
            "rate_limit_exceeded",
        )
        assert int(refused.headers["retry-after"]) >= 1
        gate.touch()
        assert {answer.result(BOUND_S).status_code for answer in asked} == {200}


def test_no_more_requests_than_slots_reach_the_engine(make_lab: MakeLab, background: Background) -> None:
    lab = make_lab(profile={"parallel": 2})
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))

    with lab.serve() as service:
        asked = [background.submit(service.chat) for _ in range(5)]
        service.until_model("small", lambda row: (row["busy"], row["waiting"]) == (2, 3), "2 busy, 3 wait")
        counts = service.engine().ask("/fake/active?is=2")
        gate.touch()

        assert (counts["active"], counts["queued"]) == (2, 0)
        assert [answer.result(BOUND_S).status_code for answer in asked] == [200] * 5


def test_the_model_field_loads_and_replaces_in_both_directions(make_lab: MakeLab) -> None:
    lab = make_lab(models=TWO)

    with lab.serve() as service:
        for key, gone in (("small", "other"), ("other", "small"), ("small", "other")):
            assert service.chat(model=key).json()["model"] == key
            service.until_state(key, "ready")
            service.until_state(gone, "stopped")
            assert len(lab.engine_processes()) == 1


def test_switch_makes_a_model_the_current_one_in_both_directions(make_lab: MakeLab) -> None:
    lab = make_lab(models=TWO)

    with lab.serve() as service:
        for key, previous in (("other", "small"), ("small", "other")):
            answer = switch(service, key)

            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert body.keys() == {"status", "message", "model_key", "previous_model_key", "load_time"}
            assert (body["status"], body["model_key"], body["previous_model_key"]) == ("success", key, previous)
            assert service.http.get("/health").json()["model_key"] == key
            assert service.http.get("/models").json()["current"] == key
            assert service.chat().json()["model"] == key, "who names no model gets the current one"
            assert service.model(previous)["state"] == "stopped"


def test_switch_lets_the_replaced_model_finish_what_it_has(make_lab: MakeLab, background: Background) -> None:
    lab = make_lab(models=TWO)
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))

    with lab.serve() as service, service.stream(model="small") as answer:
        switched = background.submit(switch, service, "other")
        service.until_state("small", "draining")
        gate.touch()

        assert events_of(answer)[-1] == "[DONE]"
        assert switched.result(BOUND_S).status_code == 200


def test_switch_to_an_unknown_model_is_a_404_at_once(make_lab: MakeLab) -> None:
    with make_lab().serve() as service:
        answer = switch(service, "nope")

        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        assert service.http.get("/health").json()["model_key"] == "small"


@pytest.mark.parametrize("how", ["switch", "load", "chat"])
def test_model_without_its_file_is_a_404_with_the_path_until_the_file_is_laid(make_lab: MakeLab, how: str) -> None:
    lab = make_lab(models=TWO, missing=("other",))

    def ask(service: Service) -> httpx.Response:
        if how == "chat":
            return service.chat(model="other")
        return switch(service, "other") if how == "switch" else service.http.post("/models/other/load")

    with lab.serve() as service:
        before = service.chat()
        refused = ask(service)
        assert refused.status_code == 404
        assert "other.gguf" in refused.json()["error"]["message"]
        assert before.status_code == service.chat().status_code == 200, "the loaded model stays"

        lab.lay_weights("other")

        assert ask(service).status_code == 200
        assert service.http.get("/models").json()["models"][1]["exists"] is True


def test_full_path_of_a_missing_file_is_told(make_lab: MakeLab) -> None:
    lab = make_lab(models=TWO, missing=("other",))

    with lab.serve() as service:
        message = switch(service, "other").json()["error"]["message"]

    assert str(lab.weights("other")) in message


def test_failed_switch_tells_the_engines_last_words_and_the_previous_model_serves_again(make_lab: MakeLab) -> None:
    lab = make_lab(models=TWO)
    lab.fault("other", exit_code=1, exit_at="load", exit_message="error: invalid magic characters")

    with lab.serve() as service:
        assert service.chat().status_code == 200
        refused = switch(service, "other")

        assert refused.status_code == 503
        assert "error: invalid magic characters" in refused.json()["error"]["message"]
        assert service.http.get("/health").json()["model_key"] == "small"
        service.until_state("small", "ready")
        assert service.chat().json()["model"] == "small"
        assert service.model("other")["state"] == "failed"


def test_switch_to_what_does_not_fit_stops_nothing(make_lab: MakeLab) -> None:
    """A model that can never start here is no reason to stop the one that serves."""
    room = {"max_loaded": "auto", "memory": {"ram": "1500MiB"}}
    with make_lab(
        "embedded", models={"small": {}, "wide": {"context_length": 262_144, "parallel": 4}}, profile=room
    ).serve() as service:
        assert service.chat().status_code == 200
        pid = service.engine().pid
        refused = switch(service, "wide")

        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "insufficient_memory")
        assert (service.model()["state"], service.model()["pid"]) == ("ready", pid)
        assert service.http.get("/health").json()["model_key"] == "small"


def test_switch_to_a_server_that_is_away_stops_nothing(make_lab: MakeLab) -> None:
    lab = make_lab(models=TWO)
    manifest = json.loads(lab.manifest.read_text())
    manifest["models"]["other"] = {"remote": {"url": "http://127.0.0.1:9/v1", "model": "m"}}
    lab.write_manifest(json.dumps(manifest))
    with lab.serve() as service:
        assert service.chat().status_code == 200
        pid = service.engine().pid
        refused = switch(service, "other")

        assert refused.status_code == 503
        assert "not to be had" in refused.json()["error"]["message"]
        assert (service.model()["state"], service.model()["pid"]) == ("ready", pid)
        assert service.http.get("/health").json()["model_key"] == "small"


def test_failed_load_is_told_to_everybody_who_waits_and_not_tried_for_each(
    make_lab: MakeLab, background: Background
) -> None:
    lab = make_lab()
    gate = lab.folder / "gate"
    lab.fault("small", load_until_file=str(gate), exit_code=1, exit_at="load", exit_message="out of memory")

    with lab.serve() as service:
        asked = [background.submit(service.chat) for _ in range(4)]
        service.until_model("small", lambda row: row["waiting"] == 4, "4 wait")
        gate.touch()

        answers = [answer.result(BOUND_S) for answer in asked]
        assert {answer.status_code for answer in answers} == {503}
        assert all("out of memory" in answer.json()["error"]["message"] for answer in answers)
        health = service.http.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert "out of memory" in health.json()["message"]


def test_load_by_hand_tries_a_failed_model_again(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.fault("small", starts=[{"exit_code": 1, "exit_at": "load"}, {}])

    with lab.serve() as service:
        assert service.chat().status_code == 503
        assert service.chat().status_code == 503

        loaded = service.http.post("/models/small/load")

        assert loaded.status_code == 200
        assert loaded.json()["model_key"] == "small"
        assert service.chat().status_code == 200


def test_unload_stops_the_engine_and_the_next_request_loads_it_again(make_lab: MakeLab) -> None:
    lab = make_lab()

    with lab.serve() as service:
        service.chat()
        before = service.engine()

        assert service.http.post("/models/small/unload").json() == {"status": "success", "model_key": "small"}
        assert not before.alive
        assert service.model()["state"] == "stopped"
        assert service.http.post("/models/small/unload").status_code == 200, "there is nothing to do"
        assert service.chat().status_code == 200
        assert service.engine().pid != before.pid


def test_unknown_model_cannot_be_loaded_or_unloaded(fake: Service) -> None:
    for verb in ("load", "unload"):
        answer = fake.http.post(f"/models/nope/{verb}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_idle_model_is_unloaded_and_health_stays_ok(make_lab: MakeLab) -> None:
    with make_lab(models={"small": {"idle_timeout": "1s"}}).serve() as service:
        service.chat()
        service.until_state("small", "stopped")

        assert service.http.get("/health").json()["status"] == "ok"


def test_engine_is_given_the_allowed_arguments_and_nothing_of_the_environment(make_lab: MakeLab) -> None:
    """LLAMA_ARG_* and keys in the environment would change what runs, or leak."""
    hostile = {"LLAMA_ARG_CTX_SIZE": "1", "SECRET_TOKEN": "x", "AIRLAB_API_KEY": "a", "AIRLAB_ADMIN_KEY": "b"}
    lab = make_lab(environment=hostile)

    with lab.serve(key="b") as service:
        service.chat()
        engine = service.engine()
        argv = engine.ask("/fake/argv")["argv"]
        environment = Path(f"/proc/{engine.pid}/environ").read_bytes()

    assert argv[argv.index("--alias") + 1] == "small"
    assert argv[argv.index("--ctx-size") + 1] == "1024"
    assert not any(name.encode() in environment for name in hostile)


async def test_many_clients_at_once_each_get_their_own_answer(make_lab: MakeLab) -> None:
    lab = make_lab(profile={"parallel": 4})
    lab.fault("small", echo=True)

    async def ask(client: httpx.AsyncClient, number: int, *, stream: bool) -> str:
        messages = [{"role": "user", "content": f"number {number}"}]
        answer = await client.post(CHAT, json={"messages": messages, "stream": stream})
        assert answer.status_code == 200, answer.text
        if not stream:
            return str(answer.json()["choices"][0]["message"]["content"])
        chunks = [line.removeprefix("data: ") for line in answer.text.split("\n\n")[:-2]]
        deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
        return "".join(delta.get("content") or "" for delta in deltas)

    with lab.serve() as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=BOUND_S) as client:
            said = await asyncio.gather(*(ask(client, number, stream=number % 2 == 0) for number in range(30)))

    assert said == [f"number {number}" for number in range(30)]
