"""AirLab with its models in containers, as a whole: the real model, Docker's daemon, the launcher, and their deaths."""

from __future__ import annotations

import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.conftest import MakeLab
from tests.support.docker import (
    IMAGE,
    containers_below,
    docker_api,
    remove_containers_below,
)
from tests.support.service import BOUND_S, CHAT, MODEL_FILE, ROOT, Lab, Service, events_of, wait_until

docker = pytest.mark.docker
ENGINE = {"kind": "docker", "image": IMAGE}
HELLO = {"messages": [{"role": "user", "content": "Tell me a long story about a lighthouse."}]}
LONG = {**HELLO, "stream": True, "max_tokens": 800, "ignore_eos": True}


@contextmanager
def lab_of(make_lab: MakeLab, **more: Any) -> Iterator[Lab]:
    """A lab whose models run in containers; none of them is left when the block ends."""
    lab = make_lab("embedded", profile={"engine": ENGINE}, **more)
    try:
        yield lab
    finally:
        left = remove_containers_below(lab.folder)
    assert not left, f"containers were left: {left}"


def state(service: Service, key: str = "small") -> dict[str, Any]:
    rows: list[dict[str, Any]] = service.http.get("/ps").json()["models"]
    return next(row for row in rows if row["key"] == key)


def chat(service: Service, **more: Any) -> httpx.Response:
    return service.http.post("/v1/chat/completions", json={**HELLO, "max_tokens": 8, **more})


@docker
def test_real_model_streams_out_of_a_container(make_lab: MakeLab) -> None:
    with lab_of(make_lab) as lab:
        with lab.serve() as service:
            with service.http.stream("POST", "/v1/chat/completions", json={**LONG, "max_tokens": 8}) as answer:
                events = events_of(answer)
            now = state(service)
            [container] = containers_below(lab.folder)

            assert events[-1] == "[DONE]"
            assert len(events) > 5
            assert (now["state"], now["pid"]) == ("ready", None)
            assert container["Id"].startswith(now["container"])
            assert service.http.get("/health").json()["status"] == "ok"
            used = service.http.post("/command", json={"command": "mem"}).json()["current_value"]
            assert re.search(r"; containers [0-9.]+ [KMG]iB", used), used
            assert f"small: ready in container {now['container']}" in lab.run("ps", "--url", service.url).stdout
        assert containers_below(lab.folder) == []


@docker
def test_plan_prints_the_container_and_starts_none(make_lab: MakeLab) -> None:
    with lab_of(make_lab) as lab:
        done = lab.run("plan")

        assert '"NetworkMode": "none"' in done.stdout
        assert '"Image": "sha256:' in done.stdout
        assert containers_below(lab.folder) == []


@docker
def test_fault_028_model_that_is_removed_finishes_what_it_says_and_stops(make_lab: MakeLab) -> None:
    with lab_of(make_lab, models={"small": {}, "other": {}}) as lab, lab.serve() as service:
        with service.http.stream("POST", "/v1/chat/completions", json={**LONG, "max_tokens": 200}) as answer:
            lines = answer.iter_lines()
            next(lines)
            lab.write_manifest(lab.manifest.read_text().replace('"small"', '"renamed"'))
            wait_until(lambda: chat(service, model="small").status_code == 404, "the edit is in force")
            assert [line for line in lines if line][-1] == "data: [DONE]"
        wait_until(lambda: not containers_below(lab.folder), "its container is gone")


@docker
@pytest.mark.parametrize("stream", [True, False])
def test_fault_048_049_client_that_leaves_frees_its_slot(make_lab: MakeLab, stream: bool) -> None:
    with lab_of(make_lab) as lab, lab.serve() as service:
        assert chat(service).status_code == 200
        if stream:
            with service.http.stream("POST", "/v1/chat/completions", json=LONG) as answer:
                lines = answer.iter_lines()  # held: its end would close the connection
                next(lines)
                assert state(service)["busy"] == 1
        else:
            with service.asked(CHAT, {**LONG, "stream": False, "max_tokens": 1000}):
                wait_until(lambda: state(service)["busy"] == 1, "it has its slot")
        wait_until(lambda: state(service)["busy"] == 0, "the slot is free")
        assert chat(service).status_code == 200, "the engine has nothing left of it"


@docker
def test_fault_100_container_that_dies_in_mid_stream(make_lab: MakeLab) -> None:
    with lab_of(make_lab) as lab, lab.serve() as service:
        with service.http.stream("POST", "/v1/chat/completions", json=LONG) as answer:
            lines = answer.iter_lines()
            next(lines)
            with docker_api() as api:
                api.kill(containers_below(lab.folder)[0]["Id"], "SIGKILL")
            rest = [line for line in lines if line]
        assert '"error"' in rest[-1]
        assert "[DONE]" not in "".join(rest)
        wait_until(lambda: chat(service).status_code == 200, "another container took its place")
        assert len(containers_below(lab.folder)) == 1


@docker
def test_fault_104_container_of_a_killed_service_is_swept_by_the_next(make_lab: MakeLab) -> None:
    with lab_of(make_lab) as lab:
        with lab.serve() as service:
            assert chat(service).status_code == 200
            service.process.send_signal(signal.SIGKILL)
            service.process.wait(BOUND_S)
        [left] = containers_below(lab.folder)
        with lab.serve() as service:
            assert left["Id"] not in {each["Id"] for each in containers_below(lab.folder)}
            assert chat(service).status_code == 200
        assert containers_below(lab.folder) == []


@docker
def test_fault_107_model_whose_container_has_too_little_memory_is_refused_with_the_arithmetic(
    make_lab: MakeLab,
) -> None:
    """What runs out of memory all the same is told by the engine's tests, and tried once more by the fleet's."""
    with lab_of(make_lab) as lab:
        text = lab.manifest.read_text().replace('"kind": "docker"', '"kind": "docker", "memory": "64MiB"')
        lab.write_manifest(text)
        with lab.serve() as service:
            answer = chat(service)

            assert answer.status_code == 503
            assert "does not fit" in answer.text
            assert "64.0 MiB is all that its container may take" in answer.text
            assert state(service)["state"] == "stopped"


def test_fault_108_service_lives_where_docker_is_down(make_lab: MakeLab) -> None:
    """Needs no Docker: it is the one that is missing."""
    lab = make_lab("fake", profile={"engine": ENGINE}, environment={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    with lab.serve() as service:
        answer = chat(service)
        now = state(service)

        assert answer.status_code == 503
        assert "Docker does not run here" in answer.text
        assert now["state"] not in {"failed", "ready"}, "it cools down, and is tried again"
        assert service.http.get("/health").status_code == 200


def test_fallback_runs_the_model_natively_and_health_says_why(make_lab: MakeLab) -> None:
    engine = {**ENGINE, "gpus": "all", "fallback": "native"}
    lab = make_lab("fake", profile={"engine": engine}, environment={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    with lab.serve() as service:
        assert chat(service).status_code == 200
        health, now = service.http.get("/health").json(), state(service)

        assert (now["state"], now["container"]) == ("ready", None)
        assert now["pid"] is not None
        assert health["status"] == "degraded"
        assert health["device"].startswith("the host's own engine, because Docker does not run here")
        assert "small runs on the host's own engine, because Docker does not run here" in health["message"]


def test_fallback_of_an_engine_without_gpu_is_the_processor(make_lab: MakeLab) -> None:
    engine = {**ENGINE, "gpus": "all", "fallback": "native"}
    lab = make_lab("embedded", profile={"engine": engine}, environment={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    with lab.serve() as service:
        assert chat(service).status_code == 200

        assert "small runs on CPU, because Docker does not run here" in service.http.get("/health").json()["message"]


@docker
def test_fault_109_missing_image_is_told_and_not_tried_again_and_again(make_lab: MakeLab) -> None:
    with lab_of(make_lab) as lab:
        lab.write_manifest(lab.manifest.read_text().replace(IMAGE, "airlab-test-none:1"))
        with lab.serve() as service:
            answer = chat(service)

            assert answer.status_code in {500, 503}
            assert "the image airlab-test-none:1 cannot be used" in answer.text
            assert state(service)["state"] == "failed"


@contextmanager
def launcher_of(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """``airlab launcher`` for this lab; stopped at the end."""
    with (lab.folder / "launcher.log").open("a") as log:
        command = [sys.executable, "-m", "app", "launcher"]
        process = subprocess.Popen(
            command, cwd=ROOT, env=lab.full_environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout
    try:
        ready, _, _ = select.select([process.stdout], [], [], BOUND_S)
        assert ready
        assert "listens at" in process.stdout.readline(), (lab.folder / "launcher.log").read_text()
        yield process
    finally:
        process.terminate()
        process.wait(BOUND_S)
        process.stdout.close()
    assert "Traceback" not in (lab.folder / "launcher.log").read_text()


@contextmanager
def launched_lab(make_lab: MakeLab) -> Iterator[Lab]:
    with lab_of(make_lab) as lab:
        # Nowhere for the service: it is to have no way to Docker but the launcher.
        place = lab.folder / "l/launcher.sock"
        lab.environment = {"AIRLAB_LAUNCHER": str(place)}
        lab.weights("small").unlink()
        shutil.copyfile(MODEL_FILE, lab.weights("small"))
        yield lab


@docker
def test_fault_110_link_out_of_models_gets_no_container(make_lab: MakeLab) -> None:
    """The service writes below models/, so that it could lay a link there to any file of the host."""
    with launched_lab(make_lab) as lab, launcher_of(lab):
        lab.weights("small").unlink()
        lab.lay_weights("small")
        with lab.serve() as service:
            answer = chat(service)
        assert answer.status_code >= 500
        assert "small.gguf is a link that leads out of models/" in answer.text
        assert containers_below(lab.folder) == []


@docker
def test_real_model_streams_out_of_a_container_of_the_launcher(make_lab: MakeLab) -> None:
    with launched_lab(make_lab) as lab, launcher_of(lab):
        lab.environment = {**lab.environment, "DOCKER_HOST": "unix:///nowhere/docker.sock"}
        with lab.serve() as service:
            with service.http.stream("POST", "/v1/chat/completions", json={**LONG, "max_tokens": 8}) as answer:
                assert events_of(answer)[-1] == "[DONE]"
            assert state(service)["container"]
        assert containers_below(lab.folder) == [], "the service stopped them"


@docker
def test_fault_104_service_that_was_killed_finds_nothing_of_its_predecessors(make_lab: MakeLab) -> None:
    with launched_lab(make_lab) as lab, launcher_of(lab):
        with lab.serve() as service:
            assert chat(service).status_code == 200
            service.process.send_signal(signal.SIGKILL)
            service.process.wait(BOUND_S)
        [left] = containers_below(lab.folder)
        with lab.serve() as service:
            assert left["Id"] not in {each["Id"] for each in containers_below(lab.folder)}
            assert chat(service).status_code == 200


@docker
def test_fault_104_launcher_that_was_killed_sweeps_and_the_service_goes_on(make_lab: MakeLab) -> None:
    with launched_lab(make_lab) as lab:
        with launcher_of(lab) as launcher, lab.serve() as service:
            assert chat(service).status_code == 200
            [before] = containers_below(lab.folder)
            launcher.send_signal(signal.SIGKILL)
            launcher.wait(BOUND_S)
            assert chat(service).status_code == 200, "what runs goes on without it"
            with launcher_of(lab):
                wait_until(lambda: chat(service).status_code == 200 and containers_below(lab.folder), "runs anew")
                [after] = containers_below(lab.folder)
                assert after["Id"] != before["Id"]
                assert service.http.get("/health").status_code == 200
                # Stopped while its launcher lives: nothing is left then.
                service.process.send_signal(signal.SIGTERM)
                assert service.wait() == 0
        assert containers_below(lab.folder) == []
