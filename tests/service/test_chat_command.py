"""POST /command over real HTTP: read, set, refuse; and ``layers`` brings back an engine that is down."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.chat.talk import configure, prompts, said
from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, KEYS, USE_KEY, Lab, Service


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    lab = make_lab("fake")
    configure(lab, tools={"builtin": ["get_current_time"]})
    return lab


def post(service: Service, name: Any, *value: Any, key: str | None = None) -> httpx.Response:
    body = {"command": name} | ({"value": value[0]} if value else {})
    return service.http.post("/command", json=body, headers={"authorization": f"Bearer {key}"} if key else {})


def command(service: Service, name: str, *value: Any) -> dict[str, Any]:
    answer = post(service, name, *value)
    assert answer.status_code == 200, answer.text
    outcome: dict[str, Any] = answer.json()
    assert outcome.keys() == {"status", "message", "current_value"}
    assert outcome["status"] == "success"
    assert isinstance(outcome["current_value"], str)
    return outcome


def test_every_command_reads_without_a_value(lab: Lab) -> None:
    with lab.serve() as service:
        assert command(service, "system")["current_value"] == "You are a helpful assistant."
        assert command(service, "layers")["current_value"] in {"auto", "0"}
        assert "host" in command(service, "mem")["current_value"]
        assert command(service, "tools")["current_value"] == "on"
        assert command(service, "tools", None)["current_value"] == "on"
        said(service, "hi")
        assert "engines" in command(service, "mem")["message"]


def test_what_is_set_is_in_force_at_once_and_gone_at_a_restart(lab: Lab) -> None:
    with lab.serve() as service:
        assert command(service, "system", " You are a pirate. ")["current_value"] == "You are a pirate."
        assert command(service, "system")["current_value"] == "You are a pirate."
        assert command(service, "tools", "OFF")["current_value"] == "off"
        assert "none" not in command(service, "tools")["current_value"]
        assert command(service, "layers", 3)["current_value"] == command(service, "layers")["current_value"] == "3"
        answer = said(service, "hi", enable_tools=True)
        assert "switch is off" in answer["notices"][0]
        assert answer["device"] == "Hybrid (3 layers)"
        assert prompts(service)[-1]["messages"][0]["content"] == "You are a pirate."
        assert command(service, "system", "")["current_value"] == ""
        said(service, "hi", session_id="bare")
        assert [message["role"] for message in prompts(service)[-1]["messages"]] == ["user"]

    with lab.serve() as service:
        assert command(service, "system")["current_value"] == "You are a helpful assistant."
        assert command(service, "tools")["current_value"] == "on"


def test_layers_takes_numbers_and_text_and_the_engine_gets_them(lab: Lab) -> None:
    taken = {0: "0", "0": "0", " 12 ": "12", 13.0: "13", -1: "-1", "-1": "-1", "all": "-1", "1000": "1000"}
    with lab.serve() as service:
        for value, current in taken.items():
            assert command(service, "layers", value)["current_value"] == current
            argv = service.engine().ask("/fake/argv")["argv"]
            assert argv[argv.index("--n-gpu-layers") + 1] in {current, "999"}


@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("layers", "many", "value"),
        ("layers", -2, "value"),
        ("layers", 1001, "value"),
        ("layers", 1.5, "value"),
        ("layers", "", "value"),
        ("layers", 1e300, "value"),
        ("layers", "9" * 5000, "value"),
        ("layers", [1], "value"),
        ("layers", {"a": 1}, "value"),
        ("layers", True, "value"),
        ("tools", "maybe", "value"),
        ("tools", 2, "value"),
        ("mem", "8 GiB", "value"),
        ("mem", 0, "value"),
        ("system", "x" * 32_769, "value"),
        ("shutdown", None, "command"),
        ("", None, "command"),
        ("LAYERS", 0, "command"),
    ],
    ids=lambda value: f"{value!r:.12}",
)
def test_bad_command_is_a_400_that_says_what_is_allowed_and_changes_nothing(
    fake: Service, name: str, value: Any, param: str
) -> None:
    before = [command(fake, known)["current_value"] for known in ("system", "layers", "tools")]
    answer = post(fake, name, value)

    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert body["status"] == "error"
    assert body["message"] == body["detail"] == body["error"]["message"]
    assert len(body["message"]) < 6000
    assert body["error"]["param"] == param
    assert [command(fake, known)["current_value"] for known in ("system", "layers", "tools")] == before


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"command": 5}', b'{"command": null}', b'{"command": ["system"]}', b"[]", b"{"]
)
def test_body_of_another_shape_is_a_400(fake: Service, body: bytes) -> None:
    answer = fake.http.post("/command", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_command_needs_the_admin_key(fake: Service) -> None:
    """It changes what every user of the server gets."""
    assert post(fake, "system", key=USE_KEY).status_code == 403
    assert post(fake, "system", key="wrong").status_code == 401
    assert post(fake, "system", key=ADMIN_KEY).status_code == 200
    anonymous = httpx.post(f"{fake.url}/command", json={"command": "system"})
    assert anonymous.status_code == 401


def test_layers_brings_back_an_engine_that_died(lab: Lab) -> None:
    """Five deaths in a row make a pause of many seconds; the owner who sets layers does not wait for it."""
    lab.fault("small", starts=[{"die_after_tokens": 0}] * 4 + [{}])
    with lab.serve() as service:
        service.http.post("/chat", json={"messages": [{"role": "user", "content": "hi"}]})
        service.http.post("/chat", json={"messages": [{"role": "user", "content": "hi"}]})
        assert service.model()["state"] != "ready"
        command(service, "layers", 0)
        assert service.model()["state"] == "ready"
        assert said(service, "hi")["response"].startswith("word1")


def test_layers_brings_back_a_model_that_failed_and_says_so_when_it_cannot(lab: Lab) -> None:
    """The owner's usual mistake is too many layers; the way out must not need a restart."""
    lab.fault("small", exit_code=1, exit_at="load", exit_message="out of memory")
    with lab.serve() as service:
        assert "does not load" in command(service, "layers", 99)["message"]
        assert service.model()["state"] == "failed"
        lab.fault("small")
        outcome = command(service, "layers", 0)

        assert (outcome["current_value"], "loaded anew" in outcome["message"]) == ("0", True)
        assert service.model()["state"] == "ready"
        assert said(service, "hi")["response"].startswith("word1")


def test_layers_lets_an_open_answer_end(lab: Lab) -> None:
    lab.fault("small", tokens=40, token_s=0.02)
    with lab.serve() as service:
        said(service, "warm up")
        with service.stream(max_tokens=64) as stream:
            lines = stream.iter_lines()
            next(lines)
            command(service, "layers", 0)
            rest = list(lines)
    assert "data: [DONE]" in rest


def test_commands_of_a_service_without_keys_are_open(make_lab: MakeLab) -> None:
    """Without keys AirLab listens on loopback only, and everybody there may do everything."""
    lab = make_lab("fake", environment=dict.fromkeys(KEYS, ""))
    with lab.serve() as service:
        command(service, "tools", 0)
        assert command(service, "tools")["current_value"] == "off"
        command(service, "tools", 1)
        assert command(service, "tools")["current_value"] == "on"
