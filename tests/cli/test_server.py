"""``airlab serve``: what it says at its start, and what keeps it from starting."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx

from tests.conftest import MakeLab
from tests.support.service import Lab


def assert_refused(lab: Lab, *says: str, **environment: str) -> None:
    """AirLab does not start, says why in a sentence, and leaves nothing."""
    done = lab.run("serve", **environment)

    assert done.returncode == 1, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr, done.stderr
    assert all(text in done.stderr for text in says), done.stderr
    assert lab.engine_processes() == []


def test_port_in_use_is_refused_before_anything_starts(make_lab: MakeLab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        lab = make_lab(models={"small": {"preload": True}})
        assert_refused(lab, f"cannot listen on 127.0.0.1:{port}", "AIRLAB_PORT", AIRLAB_PORT=port)
    assert not (lab.folder / ".airlab" / "lock").exists()


def test_address_of_another_machine_is_refused(make_lab: MakeLab) -> None:
    keys = {"AIRLAB_API_KEY": "a", "AIRLAB_ADMIN_KEY": "b"}
    assert_refused(make_lab(), "192.0.2.1", AIRLAB_HOST="192.0.2.1", **keys)
    assert_refused(make_lab(), "no.such.host.invalid", AIRLAB_HOST="no.such.host.invalid", **keys)


def test_second_airlab_on_the_same_state_folder_is_refused_and_the_first_serves_on(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.serve() as service:
        service.chat()
        engine = service.engine()

        done = lab.run("serve")

        assert done.returncode == 1, done
        assert "another AirLab runs on" in done.stderr
        assert "AIRLAB_STATE_DIR" in done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert engine.alive
        assert service.chat().status_code == 200


def test_second_airlab_with_a_state_folder_of_its_own_serves_beside_the_first(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.serve() as first:
        first.chat()
        beside = make_lab()
        beside.environment = {"AIRLAB_MANIFEST": str(lab.manifest), "AIRLAB_STATE_DIR": str(beside.folder / "state")}
        with beside.serve() as second:
            assert second.chat().status_code == 200
            assert first.chat().status_code == 200


def test_llama_server_path_that_is_no_program_is_refused_with_what_to_do(make_lab: MakeLab) -> None:
    lab = make_lab()
    assert_refused(lab, "LLAMA_SERVER_PATH", "no executable file", LLAMA_SERVER_PATH=str(lab.manifest))


def test_state_folder_that_cannot_be_made_is_refused(make_lab: MakeLab) -> None:
    lab = make_lab()
    assert_refused(lab, str(lab.manifest), AIRLAB_STATE_DIR=str(lab.manifest / "state"))


def test_temporary_folder_whose_path_is_too_long_for_sockets_is_told(make_lab: MakeLab) -> None:
    lab = make_lab()
    long = lab.folder / ("x" * 100)
    long.mkdir()
    lab.environment = {"TMPDIR": str(long)}
    with lab.serve() as service:
        answer = service.chat()

    assert answer.status_code == 503
    assert "point TMPDIR at a shorter folder" in answer.json()["error"]["message"]


def test_address_is_the_one_line_on_standard_output_and_the_rest_is_log(make_lab: MakeLab) -> None:
    with make_lab(environment={"AIRLAB_LOG_LEVEL": "error"}).serve() as service:
        assert service.url.startswith("http://127.0.0.1:")
        assert service.http.get("/health").status_code == 200
        assert service.log == ""


def test_ipv6_loopback_is_served_and_announced_in_brackets(make_lab: MakeLab) -> None:
    with make_lab(environment={"AIRLAB_HOST": "::1"}).serve() as service:
        assert service.url.startswith("http://[::1]:")
        assert httpx.get(f"{service.url}/health").status_code == 200


def test_command_line_wins_over_environment_and_manifest(make_lab: MakeLab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = make_lab(server={"port": 1}).run("serve", "--port", port, AIRLAB_PORT="2")

    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_state_stays_beside_the_manifest_and_is_nobody_elses(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.serve():
        state = Path(lab.folder / ".airlab")
        assert state.stat().st_mode & 0o777 == 0o700
