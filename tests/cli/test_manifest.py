"""``airlab check`` and ``airlab plan``: they say what is wrong or would be done, and start nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from tests.cli.conftest import Call
from tests.conftest import MakeLab
from tests.support.service import BOUND_S, ROOT, Lab


def test_check_says_that_a_manifest_is_right(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(models={"small": {}, "other": {}})
    done = call(lab, "check")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{lab.manifest}: right; 2 models, profile generic\n  nothing was in force here before: everything is new\n"
    )


def test_what_is_in_force_already_changes_nothing_and_needs_no_second_look(make_lab: MakeLab, call: Call) -> None:
    """It is compared with a copy, which lies elsewhere and is protected in no other way."""
    lab = make_lab()
    with lab.serve():
        pass
    said = call(lab, "check").stdout
    assert said.endswith("nothing changes against the manifest last in force\n")
    assert "look twice" not in said


def test_check_tells_of_a_key_that_would_be_read_on_its_way(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    manifest = json.loads(lab.manifest.read_text())
    manifest["models"]["far"] = {"remote": {"url": "http://vllm.example.com/v1", "key_env": "FAR_KEY"}}
    lab.write_manifest(json.dumps(manifest))
    done = call(lab, "check")

    assert done.returncode == 0
    assert "  caution: models.far.remote: the key in FAR_KEY is sent to http://vllm.example.com/v1" in done.stdout


def test_check_prints_every_problem_with_its_place_and_exits_78(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    lab.write_manifest(
        "version: 1\ndefault_model: [no]\nmodels:\n  small:\n    filename: a.gguf\n    contxt_length: 1\n"
    )
    done = call(lab, "check")

    assert (done.returncode, done.stdout) == (78, "")
    assert f"{lab.manifest}:2:16: default_model" in done.stderr
    assert f"{lab.manifest}:6:5: models.small.contxt_length" in done.stderr
    assert "did you mean `context_length`?" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_takes_a_file(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    other = lab.folder / "other.yaml"
    other.write_text("version: 2\n")

    assert call(lab, "check").returncode == 0
    assert call(lab, "check", str(other)).returncode == 78


def test_manifest_that_cannot_be_read_is_a_problem_and_no_traceback(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    for path in ("nowhere.yaml", "models"):
        for command in (["check"], ["plan"], ["serve", "--strict"]):
            done = call(lab, *command, AIRLAB_MANIFEST=str(lab.folder / path))
            assert done.returncode in {1, 78}, done
            assert path in done.stderr
            assert "Traceback" not in done.stderr


def test_strict_serve_refuses_a_broken_manifest_with_its_problems(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    lab.write_manifest("version: 1\n")
    done = call(lab, "serve", "--strict")

    assert (done.returncode, done.stdout) == (78, "")
    assert "default_model" in done.stderr
    assert "models" in done.stderr


def test_plan_prints_the_exact_arguments_and_starts_nothing(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(models={"small": {"preload": True}, "other": {}}, missing=("other",))
    done = call(lab, "plan")

    assert (done.returncode, done.stderr) == (0, "")
    assert "profile generic" in done.stdout
    assert "small: starts with AirLab  (serves when a request names no model)" in done.stdout
    assert f"{lab.folder / 'llama-server'} --model {lab.weights('small')}" in done.stdout
    assert f"not on disk: put it at {lab.weights('other')}" in done.stdout
    assert lab.engine_processes() == []
    assert lab.sockets() == []


PROFILES: dict[str, Any] = {
    "big": {"match": {"min_memory": "900TiB"}},
    "this": {"match": "any"},
    "spare": {"match": "any"},
}


def give_profiles(lab: Lab, profiles: dict[str, Any]) -> Lab:
    lab.write_manifest(json.dumps(json.loads(lab.manifest.read_text()) | {"profiles": profiles}))
    return lab


def test_plan_says_why_each_profile_matches_or_does_not(make_lab: MakeLab, call: Call) -> None:
    lab = give_profiles(make_lab(), PROFILES)
    lines = call(lab, "plan").stdout.splitlines()[:3]
    memory = re.compile("  big does not match: min_memory: the host has [0-9.]+ [KMGT]iB, less than 900.0 TiB")

    assert lines[0] == "profile this: the first that matches (any: every host is fine)"
    assert memory.fullmatch(lines[1])
    assert lines[2] == "  spare would match: any: every host is fine"


def test_plan_as_json_has_the_outcome_of_every_rule(make_lab: MakeLab, call: Call) -> None:
    considered = json.loads(call(give_profiles(make_lab(), PROFILES), "plan", "--json").stdout)["considered"]

    assert [(profile["name"], profile["matched"]) for profile in considered] == [
        ("big", False),
        ("this", True),
        ("spare", True),
    ]
    assert considered[1]["rules"] == [{"rule": "any", "matched": True, "why": "every host is fine"}]


def test_host_that_no_profile_is_for_is_refused_with_the_line_to_add(make_lab: MakeLab, call: Call) -> None:
    lab = give_profiles(make_lab(), {"big": PROFILES["big"]})
    for command in ("check", "plan", "serve"):
        done = call(lab, command)
        assert done.returncode == 1
        assert "big: min_memory: the host has" in done.stderr
        assert "generic: {match: any}" in done.stderr
        assert "Traceback" not in done.stderr


def test_planned_arguments_are_those_that_run(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    planned = json.loads(call(lab, "plan", "--json").stdout)["models"][0]["argv"]

    with lab.serve() as service:
        service.chat()
        run = service.engine().ask("/fake/argv")["argv"]

    socket = planned.index("--host") + 1
    assert planned[1:socket] == run[: socket - 1]
    assert planned[socket + 1 :] == run[socket:]


def test_plan_as_json_names_what_cannot_start(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(missing=("small",))
    [entry] = json.loads(call(lab, "plan", "--json").stdout)["models"]

    assert (entry["key"], entry["argv"]) == ("small", None)
    assert str(lab.weights("small")) in entry["problem"]


def test_profile_that_is_not_there_is_refused_with_those_that_are(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    for done in (call(lab, "plan", "--profile", "nope"), call(lab, "plan", AIRLAB_PROFILE="nope")):
        assert done.returncode == 1
        assert "nope" in done.stderr
        assert "generic" in done.stderr


def test_plan_into_a_pipe_that_closes_early_leaves_no_traceback(make_lab: MakeLab, call: Call) -> None:
    """``airlab plan --json | head -c 1``, with more to say than a pipe holds: the write meets the closed end."""
    lab = make_lab(models={f"model-{number}": {} for number in range(300)})
    command = [sys.executable, "-m", "app", "plan", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=lab.full_environment, text=True, stdout=pipe, stderr=pipe) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(1) == "{"
        process.stdout.close()
        assert process.stderr.read() == ""
        process.wait(BOUND_S)
