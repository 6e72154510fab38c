"""``airlab doctor``: it says what is there, what is missing and what to do, and changes nothing."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cli import checks, doctor
from app.cli.checkup import edits_of
from app.cli.doctor import _python, lines, wants_colour
from app.cli.findings import Finding
from app.devices.ask import ask
from app.units import GIB
from tests.cli.conftest import Call
from tests.conftest import MakeLab
from tests.support.dockerd import hanging_up, scripted_dockerd
from tests.support.rootless import without_roots_rights
from tests.support.service import BOUND_S, KEYS, Lab

VERSION = "version: 9999 (abcdef0)"
NAMES = [
    *("python", "environment", "manifest", "edits", "profile", "engine", "container", "model", "memory", "disk"),
    *("gpu", "port", "keys", "state", "launcher", "docker", "sandbox"),
]


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here hangs; on a busy machine what is only slow would be told as what does not work."""
    monkeypatch.setattr(ask, "__kwdefaults__", {"limit_s": BOUND_S})  # loading the embedded engine reads a large file
    monkeypatch.setattr(doctor, "_LIMIT_S", 2 * BOUND_S)


class Diagnosis:
    """What doctor said of a lab."""

    def __init__(self, code: int, told: dict[str, Any]) -> None:
        self.code = code
        self.problems = [check["name"] for check in told["checks"] if check["verdict"] == "problem"]
        self.names = [check["name"] for check in told["checks"]]
        self._checks = {check["name"]: check for check in told["checks"]}
        assert (told["problems"], code) == (len(self.problems), 1 if self.problems else 0)

    def __getitem__(self, name: str) -> tuple[str, str, str]:
        check = self._checks[name]
        return check["verdict"], check["found"], check["to_fix"] or ""


def lay_program(lab: Lab, name: str, script: str, *, folder: str = "bin") -> Path:
    """An executable; those in ``bin`` are on PATH."""
    program = lab.folder / folder / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def environment_of(lab: Lab, **more: str) -> dict[str, str]:
    """A machine with a llama-server, and without Docker or GPUs but for what the lab lays."""
    engine = lay_program(lab, "llama-server", f'[ "$1" = --version ] && echo "{VERSION}"', folder="engine")
    return {
        "PATH": str(lab.folder / "bin"),
        "LLAMA_SERVER_PATH": str(engine),
        "DOCKER_HOST": f"unix://{lab.folder}/docker.sock",
        **more,
    }


def diagnose(call: Call, lab: Lab, *arguments: str, **environment: str) -> Diagnosis:
    done = call(lab, "doctor", "--json", *arguments, **environment_of(lab, **environment))
    assert done.stderr == ""
    return Diagnosis(done.returncode, json.loads(done.stdout))


def test_machine_with_everything_has_no_problem(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    _ = environment_of(lab), lab.full_environment  # what they lay is no doing of doctor's
    before = sorted(lab.folder.rglob("*"))

    told = diagnose(call, lab)

    assert told.code == 0
    assert told.names == NAMES
    assert told["manifest"] == ("ok", f"{lab.manifest} is right; 1 model", "")
    assert told["profile"][:2] == ("ok", "generic; the first that matches (any: every host is fine)")
    assert told["engine"] == ("ok", f"{lab.folder}/engine/llama-server, {VERSION}", "")
    assert told["model"][0] == "ok"
    assert str(lab.weights("small")) in told["model"][1]
    assert told["port"][:2] == ("ok", "any free one of 127.0.0.1")
    assert told["state"] == ("ok", f"{lab.folder}/.airlab is made at the first start", "")
    assert told["docker"][0] == "not applicable"
    assert sorted(lab.folder.rglob("*")) == before


def test_table_is_for_people_and_80_columns_wide(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(missing=("small",))
    done = call(lab, "doctor", **environment_of(lab))

    assert (done.returncode, done.stderr) == (1, "")
    assert "\nproblem  model        small is in the manifest, but its file is not on disk" in done.stdout
    assert "\n-        docker       " in done.stdout
    assert "\033" not in done.stdout
    table, _, summary = done.stdout.rpartition("\n\n")
    assert summary.startswith("1 problem, ")
    assert [line for line in table.splitlines() if len(line) > 80 and str(lab.folder) not in line] == []


def test_broken_manifest_is_counted_and_the_rest_is_looked_at_all_the_same(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    lab.write_manifest("version: 1\ndefault_model: nope\nmodels:\n  small: {filename: a.gguf, contxt_length: 1}\n")
    told = diagnose(call, lab, AIRLAB_PORT="0")

    assert told.problems == ["manifest"]
    _, found, fix = told["manifest"]
    assert found.startswith(f"1 problem in {lab.manifest}: line 4, models.small.contxt_length: no such setting")
    assert "airlab check" in fix
    assert told["model"][0] == "not applicable"
    assert told["engine"][0] == "ok"

    lab.write_manifest("version: 2\n")
    assert ", the first: line " in diagnose(call, lab)["manifest"][1]


def test_manifest_that_is_not_there_is_a_problem_and_its_name_may_be_given(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    told = diagnose(call, lab, str(lab.folder / "nowhere.yaml"))

    assert told.problems == ["manifest"]
    assert "nowhere.yaml: does not exist" in told["manifest"][1]


def test_profile_that_is_not_there_is_a_problem(make_lab: MakeLab, call: Call) -> None:
    told = diagnose(call, make_lab(), "--profile", "nope")

    assert told.problems == ["profile"]
    assert "generic" in told["profile"][1]


def test_environment_that_cannot_be_used_leaves_the_checks_that_need_none(make_lab: MakeLab, call: Call) -> None:
    told = diagnose(call, make_lab(), AIRLAB_PORT="many")

    assert told.problems == ["environment"]
    assert "AIRLAB_PORT" in told["environment"][1]
    assert told.names == ["python", "environment", "docker", "sandbox"]


def test_names_of_variables_are_shown_and_no_key(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(environment=KEYS)
    done = call(lab, "doctor", **environment_of(lab))

    assert "AIRLAB_ADMIN_KEY" in done.stdout
    assert not any(key in done.stdout for key in KEYS.values())


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'error while loading shared libraries: libcudart.so.12' >&2; exit 127", "libcudart.so.12"),
        ("kill -ILL $$", "failed with exit code -4"),
    ],
)
def test_llama_server_that_does_not_run_here_is_a_problem(
    make_lab: MakeLab, call: Call, script: str, says: str
) -> None:
    lab = make_lab()
    broken = lay_program(lab, "broken", script)
    told = diagnose(call, lab, LLAMA_SERVER_PATH=str(broken))

    assert told.problems == ["engine"]
    assert says in told["engine"][1]
    assert "LLAMA_SERVER_PATH" in told["engine"][2]


def test_llama_server_path_that_is_no_program_is_a_problem(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    told = diagnose(call, lab, LLAMA_SERVER_PATH=str(lab.manifest))

    assert told.problems == ["engine"]
    assert "no executable file" in told["engine"][1]
    assert told["profile"][0] == "ok"


def test_llama_server_with_a_known_hole_is_a_warning(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    for version in ("version: 6000 (abc)", "version: 0.5.0 (build 8145, commit abc)"):
        old = lay_program(lab, "old", f'echo "{version}"')
        assert diagnose(call, lab, LLAMA_SERVER_PATH=str(old))["engine"][0] == "warning"
    for version in ("version: 0.6.0-dev (build 0, commit unknown)", "version: 0.6.0 (build 8146, commit abc)"):
        new = lay_program(lab, "new", f'echo "{version}"')
        assert diagnose(call, lab, LLAMA_SERVER_PATH=str(new))["engine"][0] == "ok"


def test_embedded_engine_is_tried_where_there_is_no_llama_server(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab("embedded")
    verdict, found, _ = diagnose(call, lab, LLAMA_SERVER_PATH="")["engine"]

    assert verdict == "ok"
    assert found.startswith("the embedded one (xllamacpp ")


@pytest.mark.parametrize(
    ("error", "fix"),
    [("libgomp.so.1: cannot open shared object file", "apt-get install libgomp1"), ("No module named x", "make setup")],
)
def test_embedded_engine_that_cannot_be_loaded_is_a_problem_with_what_to_install(
    make_lab: MakeLab, call: Call, monkeypatch: pytest.MonkeyPatch, error: str, fix: str
) -> None:
    lab = make_lab()
    python = lay_program(lab, "python", f'echo "{error}"')
    monkeypatch.setattr(sys, "executable", str(python))

    told = diagnose(call, lab, LLAMA_SERVER_PATH="")

    assert told.problems == ["engine"]
    assert error in told["engine"][1]
    assert told["engine"][2] == fix


def test_default_model_that_is_missing_or_broken_is_a_problem(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(models={"small": {}, "other": {}}, missing=("small", "other"))
    told = diagnose(call, lab)
    assert told.problems == ["model"]
    assert str(lab.weights("small")) in told["model"][1]

    lab.weights("small").write_text("<html>404</html>")
    told = diagnose(call, lab)
    assert told.problems == ["model"]
    assert "small" in told["model"][1]


def test_model_larger_than_the_free_memory_is_a_warning(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    os.truncate(lab.weights("small"), psutil.virtual_memory().total + GIB)  # sparse: it takes no room

    verdict, found, fix = diagnose(call, lab)["memory"]

    assert verdict == "warning"
    assert "of the default model" in found
    assert "default_model" in fix


def test_port_that_another_program_holds_is_a_problem_that_names_it(make_lab: MakeLab, call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = diagnose(call, make_lab(server={"port": port}), AIRLAB_PORT="")

    assert told.problems == ["port"]
    assert f"127.0.0.1:{port} is taken by " in told["port"][1]
    assert f"(pid {os.getpid()})" in told["port"][1]
    assert "AIRLAB_PORT" in told["port"][2]


def test_running_airlab_is_recognised_as_this_one_and_by_its_neighbour_as_another(
    make_lab: MakeLab, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_HEALTH_S", BOUND_S)  # as above
    lab = make_lab()
    with lab.serve() as service:
        port = service.url.rpartition(":")[2]
        own = diagnose(call, lab, AIRLAB_PORT=port)
        other = diagnose(call, make_lab(), AIRLAB_PORT=port)

    assert own.code == 0
    assert own["port"] == ("ok", f"this AirLab serves on 127.0.0.1:{port} (pid {service.process.pid})", "")
    assert own["state"][1].startswith(f"an AirLab runs on {lab.folder}/.airlab: ")
    assert other.problems == ["port"]
    assert "another AirLab" in other["port"][1]


def test_address_of_another_machine_is_a_problem(make_lab: MakeLab, call: Call) -> None:
    told = diagnose(call, make_lab(environment=KEYS), AIRLAB_HOST="192.0.2.1", AIRLAB_PORT="8080")

    assert told.problems == ["port"]
    assert "cannot listen on 192.0.2.1:8080" in told["port"][1]


def test_keys_are_judged_by_where_airlab_listens(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    assert diagnose(call, lab)["keys"][0] == "ok"
    assert diagnose(call, lab, **KEYS, AIRLAB_HOST="0.0.0.0")["keys"][0] == "ok"
    assert diagnose(call, lab, AIRLAB_API_KEY="a")["keys"][0] == "warning"
    assert diagnose(call, lab, AIRLAB_ADMIN_KEY="a")["keys"][0] == "warning"

    told = diagnose(call, lab, AIRLAB_HOST="0.0.0.0", AIRLAB_API_KEY="a")
    assert told.problems == ["keys"]
    assert "export AIRLAB_ADMIN_KEY=" in told["keys"][1]


def test_state_folder_is_told_with_who_holds_its_lock(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    state = lab.folder / ".airlab"
    state.mkdir()
    assert diagnose(call, lab)["state"] == ("ok", f"{state} can be written", "")

    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert f"(pid {os.getpid()})" in diagnose(call, lab)["state"][1]
    finally:
        os.close(descriptor)


def test_state_folder_that_cannot_be_made_is_a_problem(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    told = diagnose(call, lab, AIRLAB_STATE_DIR=str(lab.manifest / "state"))

    assert told.problems == ["state"]
    assert "AIRLAB_STATE_DIR" in told["state"][2]


def test_docker_is_told_with_its_version_and_what_is_wrong_with_it(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    new = json.dumps({"ServerVersion": "28.2.2", "Runtimes": {"runc": {}}}).encode()
    with scripted_dockerd(lab.folder / "docker.sock", new):
        assert diagnose(call, lab)["docker"][:2] == (
            "ok",
            "Docker 28.2.2, without the nvidia runtime, so without GPUs",
        )

    lay_program(lab, "nvidia-ctk", 'echo "NVIDIA Container Toolkit CLI version 1.17.7"')
    old = json.dumps({"ServerVersion": "20.10.24", "Runtimes": {"nvidia": {}}}).encode()
    with scripted_dockerd(lab.folder / "docker.sock", old):
        verdict, found, _ = diagnose(call, lab)["docker"]
    assert verdict == "warning"
    assert "before 28, ports published on 127.0.0.1" in found
    assert "container toolkit before 1.17.8" in found

    with scripted_dockerd(lab.folder / "docker.sock", b"{}"):
        assert diagnose(call, lab)["docker"][0] == "warning"
    assert diagnose(call, lab, DOCKER_HOST="tcp://192.0.2.1:2375")["docker"][0] == "not applicable"


def test_docker_without_the_toolkit_on_a_machine_with_a_driver_is_a_warning(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    lay_program(lab, "nvidia-smi", 'echo "NVIDIA GeForce RTX 5070 Ti, 1024, 16384"')
    with scripted_dockerd(lab.folder / "docker.sock", b'{"ServerVersion": "28.2.2", "Runtimes": {"runc": {}}}'):
        verdict, found, fix = diagnose(call, lab)["docker"]
    assert verdict == "warning"
    assert "cannot have them" in found
    assert "Container Toolkit" in fix


def test_launcher_is_tried_where_one_is_named(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    assert diagnose(call, lab)["launcher"][0] == "not applicable"

    place = lab.folder / "launcher.sock"
    verdict, found, fix = diagnose(call, lab, AIRLAB_LAUNCHER=str(place))["launcher"]
    assert verdict == "warning"
    assert str(place) in found
    assert "docker compose logs launcher" in fix

    with hanging_up(place):
        assert diagnose(call, lab, AIRLAB_LAUNCHER=str(place))["launcher"][0] == "ok"


def test_docker_that_this_user_may_not_use_is_a_warning(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    with scripted_dockerd(lab.folder / "docker.sock", b"{}"):
        (lab.folder / "docker.sock").chmod(0)
        with without_roots_rights():
            verdict, found, fix = diagnose(call, lab)["docker"]
    assert verdict == "warning"
    assert "may not be used" in found
    assert "group" in fix


def test_free_memory_of_gpus_is_told_and_whether_the_engine_can_use_them(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    lay_program(lab, "nvidia-smi", 'echo "NVIDIA GeForce RTX 5070 Ti, 1024, 16384"')
    assert diagnose(call, lab)["gpu"][:2] == ("ok", "NVIDIA GeForce RTX 5070 Ti: 15.0 GiB of 16.0 GiB free")

    verdict, found, fix = diagnose(call, lab, LLAMA_SERVER_PATH="")["gpu"]
    assert verdict == "warning"
    assert "the engine cannot use it" in found
    assert "LLAMA_SERVER_PATH" in fix


def test_manifest_that_is_mounted_by_itself_is_a_warning() -> None:
    """A bind mount of one file stays with the old one when an editor puts a new file in its place."""
    row = "612 580 8:1 /home/me/airlab.yaml {} ro,relatime - ext4 /dev/sda1 rw\n"
    file = Path("/config/airlab.yaml")

    alone = edits_of(file, row.format("/config/airlab.yaml"))
    assert (alone.verdict, "folder" in (alone.to_fix or "")) == ("warning", True)
    assert edits_of(file, row.format("/config")).verdict == "ok"
    assert edits_of(file, "").verdict == "not applicable"


@pytest.mark.parametrize(
    ("system", "release", "version", "verdict", "says"),
    [
        ("Linux", "6.12.9-amd64", (3, 12), "ok", "Linux 6.12.9-amd64"),
        ("Linux", "5.15.167.4-microsoft-standard-WSL2", (3, 12), "ok", "which is WSL2"),
        ("Linux", "4.4.0-19041-Microsoft", (3, 12), "problem", "which is WSL1"),
        ("Linux", "6.12.9-amd64", (3, 14), "warning", "Python 3.11 to 3.13"),
        ("Windows", "11", (3, 12), "problem", "does not run on Windows itself"),
    ],
)
def test_system_is_told_and_refused_where_airlab_cannot_run(
    system: str, release: str, version: tuple[int, ...], verdict: str, says: str
) -> None:
    finding = _python(system, release, version)

    assert finding.verdict == verdict
    assert says in finding.found


def test_colours_are_for_terminals_that_want_them() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb"):
        assert wants_colour(terminal, {"TERM": "xterm"})
        assert not wants_colour(terminal, {"TERM": "xterm", "NO_COLOR": "1"})
        assert not wants_colour(terminal, {"TERM": "dumb"})
    assert not wants_colour(io.StringIO(), {"TERM": "xterm"})


def test_colour_changes_no_column_and_no_finding_can_steer_the_terminal() -> None:
    findings = [
        Finding("port", "problem", "taken by \x1b[2Jevil\r", "stop it"),
        Finding("environment", "ok", "word " * 30),
    ]
    plain = list(lines(findings, width=60, coloured=False))
    coloured = [
        line.replace("\033[31m", "").replace("\033[32m", "").replace("\033[0m", "")
        for line in lines(findings, width=60, coloured=True)
    ]

    assert coloured == plain
    assert max(map(len, plain)) <= 60
    assert "\x1b" not in "".join(plain)
    assert plain[1].strip() == "to fix: stop it"


def test_doctor_runs_as_a_program_of_its_own(make_lab: MakeLab) -> None:
    lab = make_lab()
    shutil.rmtree(lab.folder / "models")
    done = lab.run("doctor", **environment_of(lab))

    assert (done.returncode, done.stderr) == (1, "")
    assert "problem  model" in done.stdout
