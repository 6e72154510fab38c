"""What plan and doctor say of models in containers; Docker is missing here, or is another's to start."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Call
from tests.conftest import MakeLab
from tests.support.docker import IMAGE
from tests.support.dockerd import hanging_up
from tests.support.service import Lab

NOWHERE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
ENGINE = {"kind": "docker", "image": "lab:1"}


def finding(call: Call, lab: Lab, **environment: str) -> tuple[str, str]:
    told = json.loads(call(lab, "doctor", "--json", **environment).stdout)
    check = next(each for each in told["checks"] if each["name"] == "container")
    return check["verdict"], check["found"]


def test_profile_without_containers_is_not_looked_at(make_lab: MakeLab, call: Call) -> None:
    assert finding(call, make_lab())[0] == "not applicable"


def test_missing_docker_is_a_problem_where_nothing_stands_in(make_lab: MakeLab, call: Call) -> None:
    verdict, found = finding(call, make_lab(profile={"engine": ENGINE}), **NOWHERE)

    assert verdict == "problem"
    assert "Docker does not run here" in found


def test_missing_docker_is_a_warning_where_something_stands_in(make_lab: MakeLab, call: Call) -> None:
    verdict, found = finding(call, make_lab(profile={"engine": {**ENGINE, "fallback": "native"}}), **NOWHERE)

    assert verdict == "warning"
    assert found.endswith("models run natively instead")


def test_launcher_is_knocked_at(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(profile={"engine": ENGINE})
    place = lab.folder / "l.sock"
    verdict, found = finding(call, lab, AIRLAB_LAUNCHER=str(place))
    assert (verdict, f"no launcher answers at {place}" in found) == ("problem", True)

    with hanging_up(place):
        assert finding(call, lab, AIRLAB_LAUNCHER=str(place)) == ("ok", "lab:1, for profile generic")


@pytest.mark.docker
def test_image_that_is_here_is_right_and_one_that_is_not_is_named(make_lab: MakeLab, call: Call) -> None:
    assert finding(call, make_lab(profile={"engine": {**ENGINE, "image": IMAGE}}))[0] == "ok"

    verdict, found = finding(call, make_lab(profile={"engine": {**ENGINE, "image": "airlab-test-none:1"}}))
    assert verdict == "problem"
    assert "the image airlab-test-none:1 cannot be used" in found


def test_plan_says_why_there_is_no_container_and_what_runs_instead(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(profile={"engine": {**ENGINE, "fallback": "native"}})
    [entry] = json.loads(call(lab, "plan", "--json", **NOWHERE).stdout)["models"]

    assert "Docker does not run here" in entry["problem"]
    assert entry["argv"][0].endswith("llama-server")
    assert "cannot start in a container: Docker does not run here" in call(lab, "plan", **NOWHERE).stdout


def test_plan_of_a_container_that_the_launcher_starts_needs_no_docker(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(profile={"engine": ENGINE})
    place = str(lab.folder / "l.sock")
    [entry] = json.loads(call(lab, "plan", "--json", AIRLAB_LAUNCHER=place, **NOWHERE).stdout)["models"]

    assert entry["container"]["Image"] == "lab:1"
    assert entry["container"]["HostConfig"]["NetworkMode"] == "none"
    assert entry["argv"] is None
