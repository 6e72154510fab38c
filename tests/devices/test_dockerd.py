"""What a Docker daemon says of itself is read; one that is silent, strange or gone is told of, and never raises."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from app.devices.dockerd import Docker, ask_docker, docker_socket
from tests.support.dockerd import scripted_dockerd


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a socket may lie: its path must be short."""
    with TemporaryDirectory(prefix="airlab-") as folder:
        yield Path(folder) / "docker.sock"


def said(place: Path, body: object, *, status: int = 200) -> Docker:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    with scripted_dockerd(place, sent, status=status) as asked:
        told = ask_docker(place)
    assert asked == ["/info"]
    return told


def test_daemon_says_its_version_its_runtimes_and_whether_it_is_rootless(place: Path) -> None:
    info = {
        "ServerVersion": "28.2.2",
        "Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "nvidia-container-runtime"}},
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"],
    }
    assert said(place, info) == Docker("28.2.2", ("runc", "nvidia"), rootless=True)
    assert said(place, {"ServerVersion": "20.10.24"}) == Docker("20.10.24")


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"ServerVersion": 7}', b"[" * 200_000, b'"' + b"x" * 2_000_000 + b'"'],
    ids=["nothing", "a page", "a list", "no version", "a number", "a deep list", "too much"],
)
def test_strange_answer_is_no_version(place: Path, body: bytes) -> None:
    told = said(place, body)

    assert told.version is None
    assert told.why_not.startswith("gave no answer that AirLab can read")


def test_words_of_the_daemon_cannot_steer_a_terminal(place: Path) -> None:
    told = said(place, {"ServerVersion": "28\x1b[2J\n1", "Runtimes": {"\x07": None}})

    assert (told.version, told.runtimes) == ("28 [2J 1", ("",))


def test_refusal_and_oddly_typed_fields_are_survived(place: Path) -> None:
    assert "500" in said(place, {"message": "no"}, status=500).why_not
    assert said(place, {"ServerVersion": "1", "Runtimes": [], "SecurityOptions": None}) == Docker("1")


def test_daemon_that_never_answers_is_left_in_time(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(place))
        silent.listen(1)

        assert ask_docker(place, limit_s=0.05) == Docker(None, why_not="did not answer within 0.05 s")


def test_socket_that_nobody_listens_on_is_told(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place))

    assert "refused" in ask_docker(place).why_not
    assert ask_docker(place.with_name("none")).version is None


def test_proxy_of_the_environment_is_not_asked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    assert said(place, {"ServerVersion": "1"}).version == "1"


def test_socket_is_where_docker_host_says() -> None:
    assert docker_socket({}) == Path("/var/run/docker.sock")
    assert docker_socket({"DOCKER_HOST": "unix:///run/user/1000/docker.sock"}) == Path("/run/user/1000/docker.sock")
    assert docker_socket({"DOCKER_HOST": "tcp://10.0.0.1:2375"}) is None
