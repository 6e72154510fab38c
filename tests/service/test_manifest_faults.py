"""Faults of the manifest that only show while AirLab serves: mounts, open folders, tools in the middle of a chat."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chat.talk import calls, configure, streaming
from tests.conftest import MakeLab
from tests.service.test_live_manifest import edited, health, in_place, renamed, until_generation, until_refused
from tests.support.service import Lab, Service, wait_until

TIME, READ = "get_current_time", "read_file"


def test_fault_016_root_that_would_open_airlab_or_the_system_is_refused_with_its_line(make_lab: MakeLab) -> None:
    """/var/run leads to /run, where Docker's socket lies."""
    lab = make_lab()
    state, models = lab.folder / ".airlab", lab.folder / "models"
    with lab.serve() as service:
        for path in map(str, ("/", lab.folder, state, state / "deeper", models, "/etc", "/var/run")):
            renamed(lab.manifest, edited(lab, policy={"roots": [{"path": "workspace"}, {"path": path}]}))
            answer = service.http.post("/manifest/reload")
            (problem,) = answer.json()["problems"]

            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "manifest_invalid")
            assert problem["path"] == "policy.roots[1].path"
            assert json.dumps(path) in lab.manifest.read_text().splitlines()[problem["line"] - 1]
            assert problem["fix"]
        assert health(service)["generation"] == 1


@contextmanager
def mounted(lab: Lab, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """AirLab in a namespace of its own, as in a container: there ``source`` is mounted over ``target``."""
    mount = ["mount", "--bind", str(source), str(target)]
    tried = ["unshare", "--mount", *mount]
    may = os.geteuid() == 0 and shutil.which("unshare") is not None
    if not may or subprocess.run(tried, capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing may be mounted here")
    inner = f'{shlex.join(mount)} && exec {shlex.quote(sys.executable)} "$@"'
    python = lab.folder / "python-in-a-container"
    python.write_text(f'#!/bin/sh\nexec unshare --mount sh -c {shlex.quote(inner)} sh "$@"\n')
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    with lab.serve() as service:
        yield service


def test_fault_018_edit_in_a_mounted_folder_is_seen_however_it_is_saved(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(models={"small": {}, "other": {}})
    config = lab.folder / "config"
    (lab.folder / "host").mkdir()
    config.mkdir()
    ours = lab.folder / "host" / "airlab.yaml"
    ours.write_text(lab.manifest.read_text())
    lab.environment = {"AIRLAB_MANIFEST": str(config / "airlab.yaml")}
    with mounted(lab, ours.parent, config, monkeypatch) as service:
        renamed(ours, edited(lab, default_model="other"))
        until_generation(service, 2)
        in_place(ours, edited(lab, default_model="small"))
        until_generation(service, 3)
        assert not list(config.iterdir()), "the folder below the mount is another one"


def test_fault_018_file_that_is_mounted_alone_is_seen_when_written_in_place_and_only_then(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount holds on to the file that it was made of: `sed -i` puts another beside it. `airlab doctor` warns."""
    lab = make_lab(models={"small": {}, "other": {}})
    ours = lab.folder / "host.yaml"
    ours.write_text(lab.manifest.read_text())
    with mounted(lab, ours, lab.manifest, monkeypatch) as service:
        in_place(ours, edited(lab, default_model="other"))
        until_generation(service, 2)
        assert health(service)["model_key"] == "other"
        renamed(ours, edited(lab, default_model="small"))
        assert service.http.post("/manifest/reload").json()["result"] == "unchanged"
        assert "single file" in lab.run("doctor").stdout


def test_fault_020_file_that_is_back_within_a_moment_is_no_failure(make_lab: MakeLab) -> None:
    lab = make_lab(models={"small": {}, "other": {}})
    with lab.serve() as service:
        whole = lab.manifest.with_name("whole")
        whole.write_text(edited(lab, default_model="other"))
        lab.manifest.unlink()
        # However far the look has got by now: it waits for two seconds.
        whole.replace(lab.manifest)
        until_generation(service, 2)
        assert 'reloads_total{result="failed"} 0' in service.http.get("/metrics").text


def test_fault_023_valid_invalid_valid_shows_in_metric_and_health(make_lab: MakeLab) -> None:
    lab = make_lab(models={"small": {}, "other": {}})
    with lab.serve() as service:
        right = edited(lab, default_model="other")
        seen = [_state(service)]
        for text, status in (("models: 3\n", 422), (right, 200)):
            renamed(lab.manifest, text)
            assert service.http.post("/manifest/reload").status_code == status
            seen.append(_state(service))
    assert seen == [(1, 1, "ok"), (1, 0, "degraded"), (2, 1, "ok")]


def _state(service: Service) -> tuple[int, int, str]:
    metric = "airlab_config_last_reload_successful "
    lines = service.http.get("/metrics").text.splitlines()
    (successful,) = (int(line.removeprefix(metric)) for line in lines if line.startswith(metric))
    body = health(service)
    return body["generation"], successful, body["status"]


def test_fault_027_policy_that_is_tightened_in_the_middle_of_a_chat_binds_its_next_call(make_lab: MakeLab) -> None:
    """The turn was begun, and its model was told of the tools, under the old one."""
    lab = make_lab("fake", models={"small": {"context_length": 16384}})
    gate, file = lab.folder / "gate", lab.folder / "workspace" / "a.txt"
    configure(lab, tools={"builtin": [TIME, READ]})
    file.parent.mkdir()
    file.write_text("a secret")
    # The first call is one token long and passes the gate; the second waits in front of it.
    replies = [calls((TIME, {})), calls((READ, {"path": str(file)})), "done"]
    lab.fault("small", supports_tools=True, replies=replies, token_gate_file=str(gate))
    with lab.serve() as service, streaming(service, "go", enable_tools=True, max_tokens=256) as events:
        assert _result(events)["status"] == "ok"
        renamed(lab.manifest, edited(lab, policy={"roots": []}))
        assert service.http.post("/manifest/reload").json()["generation"] == 2
        gate.touch()
        denied = _result(events)
        assert (denied["name"], denied["status"]) == (READ, "denied")
        assert "secret" not in json.dumps(denied["result"])
        assert [name for name, _ in events][-1] == "done"


def _result(events: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return next(data for name, data in events if name == "tool_result")


def test_settings_that_a_repaired_file_does_not_fit_are_told_and_the_wait_goes_on(make_lab: MakeLab) -> None:
    """Whoever looks at /health sees the next thing to do, and not for ever the first."""
    lab = make_lab()
    right = lab.manifest.read_text()
    lab.write_manifest("models: 3\n")
    with lab.serve() as service:
        renamed(lab.manifest, json.dumps(json.loads(right) | {"server": {"host": "0.0.0.0"}}))
        wait_until(lambda: "AIRLAB_ADMIN_KEY" in until_refused(service) or None, "what is wrong now")
        renamed(lab.manifest, right)
        wait_until(lambda: _is_well(service), "it serves")


def _is_well(service: Service) -> bool:
    try:
        return bool(health(service)["status"] == "ok")
    except httpx.TransportError:  # between the two servers there is a moment without one
        return False
