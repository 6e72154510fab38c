"""``airlab bench`` with contexts and slots of its own: every pair a load, the running AirLab as it was."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from app.cli import benchlab
from app.cli.benchlab import Numbers, combinations, manifest_for
from app.manifest.load import parse_manifest
from tests.cli.conftest import Call
from tests.conftest import MakeLab
from tests.support.fake import starts_of
from tests.support.service import BOUND_S, ROOT, wait_until

QUICK = ("--prompts", "16", "--tokens", "4", "--repeat", "1", "--at-once", "1")


def test_every_context_with_every_number_of_slots_is_a_load_beside_the_running_airlab(
    make_lab: MakeLab, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bench that changed the numbers of what serves others would be an outage."""
    monkeypatch.setattr(benchlab, "_ASK_S", BOUND_S)  # on a busy machine it takes an AirLab for away that is only slow
    lab = make_lab("fake", models={"small": {"pin": True, "on": {"generic": {"n_ctx": 600}}}, "other": {}})
    manifest = lab.manifest.read_bytes()
    with lab.serve() as service:
        assert service.chat().status_code == 200
        before = (service.model()["pid"], service.http.get("/health").json()["generation"])
        more = {"AIRLAB_PORT": service.url.rpartition(":")[2]}
        done = call(lab, "bench", "small", "--contexts", "512,1k", "--slots", "1,2", *QUICK, "--json", **more)
        assert (service.model()["pid"], service.http.get("/health").json()["generation"]) == before

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert [(one["context_length"], one["slots"]) for one in figures] == [(512, 1), (512, 2), (1024, 1), (1024, 2)]
    assert all(one["load_s"] is not None and one["memory_bytes"] > 0 for one in figures)
    assert f"the AirLab at {service.url} has small loaded" in done.stderr
    assert "[4 of 4] small with a context of 1024 and 2 slots, about " in done.stderr
    assert lab.manifest.read_bytes() == manifest


def test_what_does_not_fit_is_said_with_the_arithmetic_and_the_rest_is_measured(
    make_lab: MakeLab, engine_kind: str
) -> None:
    lab = make_lab(engine_kind, models={"small": {}, "gone": {}}, missing=("gone",))
    svg = lab.folder / "plot.svg"
    measured = ("--contexts", "1048576,512", "--slots", "32", *QUICK, "--json", "--svg", str(svg))
    done = lab.run("bench", *measured)

    assert done.returncode == 0, done.stderr
    assert [(one["model"], one["context_length"], one["slots"]) for one in json.loads(done.stdout)] == [
        ("small", 512, 32)
    ]
    said = " ".join(done.stderr.split())
    assert "left out: small does not fit: on RAM it needs weights" in said
    assert "KV cache of 32 x 1048576 tokens" in said
    assert svg.read_text().startswith("<svg")
    assert lab.engine_processes() == []
    assert list(lab.folder.glob("airlab-*")) == [], "neither its state nor its sockets are left"


def test_model_that_another_one_of_the_bench_sent_away_is_timed_at_its_load(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab("fake", models={"small": {}, "other": {}})
    with lab.serve() as service:
        service.http.post("/models/other/load").raise_for_status()
        done = call(lab, "bench", "small", "other", *QUICK, "--json", "--url", service.url)
    assert [figure["load_s"] is None for figure in json.loads(done.stdout)] == [False, False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_measured_before_an_interruption_is_kept(make_lab: MakeLab, call: Call, number: int) -> None:
    """A bench of many loads takes long; Ctrl-C, or a closed terminal, says that what there is will do."""
    lab = make_lab("fake")
    lab.fault("small", starts=[{}, {"load_forever": True}])
    # Whoever runs the tests may ignore some of them, as nohup does, and children inherit that.
    bench = ["env", "--default-signal", sys.executable, "-m", "app", "bench", "--contexts", "512,1k", *QUICK]
    with subprocess.Popen(bench, cwd=ROOT, env=lab.full_environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.startswith("[2 of 2]") for line in process.stderr)
        wait_until(lambda: starts_of(lab.weights("small")) == 2, "the model that never comes up is loading")
        own = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert "figures kept as run 1: 1; `airlab bench --show` prints them\n" in process.stderr.read()
        assert process.wait(BOUND_S) == 130
    assert psutil.wait_procs(own, BOUND_S)[1] == []
    assert [one["context_length"] for one in json.loads(call(lab, "bench", "--show", "--json").stdout)] == [512]
    assert lab.engine_processes() == []


def test_interruption_before_anything_was_measured_says_that_nothing_is_kept(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab("fake")
    lab.fault("small", load_forever=True)
    bench = ["env", "--default-signal", sys.executable, "-m", "app", "bench", "--contexts", "512", *QUICK]
    with subprocess.Popen(bench, cwd=ROOT, env=lab.full_environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.startswith("[1 of 1]") for line in process.stderr)
        wait_until(lab.engine_processes, "the model that never comes up is loading")
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "stopped before anything was measured: nothing is kept\n"
        assert process.wait(BOUND_S) == 130
    assert json.loads(call(lab, "bench", "--show", "--json").stdout) == []
    assert lab.engine_processes() == []


def test_airlab_of_a_bench_that_is_killed_is_gone_with_it(make_lab: MakeLab) -> None:
    """Nobody knows its port, and it would hold models in memory for ever."""
    lab = make_lab("fake")
    lab.fault("small", load_forever=True)
    bench = [sys.executable, "-m", "app", "bench", "--contexts", "512", *QUICK]
    with subprocess.Popen(bench, cwd=ROOT, env=lab.full_environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.startswith("[1 of 1]") for line in process.stderr)
        wait_until(lab.engine_processes, "the model loads")
        own = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert len(own) >= 2
    assert psutil.wait_procs(own, BOUND_S)[1] == []


def test_file_of_figures_that_cannot_be_used_is_said_before_anything_is_measured(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab("fake")
    call(lab, "bench", "--show")
    [book] = lab.folder.rglob("bench.db")
    book.write_text("this is no database, whatever its name says" * 9)
    done = call(lab, "bench", "--contexts", "512", *QUICK)
    assert (done.returncode, "bench.db cannot be used" in done.stderr) == (1, True), done.stderr
    assert "[1 of 1]" not in done.stderr


def test_nothing_measured_is_a_failure(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab("fake", models={"small": {}, "gone": {}}, missing=("gone",))
    done = call(lab, "bench", "gone", "--contexts", "512", *QUICK)
    assert done.returncode == 1
    assert "nothing was measured" in done.stderr
    assert "gone" in done.stderr
    assert call(lab, "bench", "nobody", "--contexts", "512").returncode == 1
    assert call(lab, "bench", "small", "--contexts", "512", "--url", "http://127.0.0.1:9").returncode == 1


def test_a_bench_of_its_own_leaves_the_launcher_to_the_airlab_that_serves(make_lab: MakeLab, call: Call) -> None:
    """A launcher removes what runs for one AirLab when a second one starts."""
    lab = make_lab("fake")
    path = lab.folder / "launcher.sock"
    with socket.socket(socket.AF_UNIX) as launcher:
        launcher.bind(str(path))
        launcher.listen()
        launcher.setblocking(False)
        done = call(lab, "bench", "small", "--slots", "1", *QUICK, AIRLAB_LAUNCHER=str(path))
        assert done.returncode == 0, done.stderr
        with pytest.raises(BlockingIOError):
            launcher.accept()


def test_numbers_that_are_none_are_answered_with_what_is_allowed(make_lab: MakeLab, call: Call) -> None:
    for option, text, says in (
        ("--contexts", "2x", "write one like 8192 or 8k"),
        ("--contexts", "100", "must be 512 to 1048576"),
        ("--contexts", "1,,2", "is no token count"),
        ("--slots", "65", "must be 1 to 64"),
        ("--prompts", "0", "must be 1 to 1048576"),
    ):
        done = call(make_lab("fake"), "bench", option, text)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr


def test_numbers_win_over_what_a_profile_says_of_the_model() -> None:
    text = b"""
version: 1
default_model: other
profiles: {generic: {match: any, max_loaded: auto, default_model: other, parallel: 3}}
models:
  other: {filename: o.gguf}
  a:
    filename: a.gguf
    context_length: auto
    preload: true
    not_with: [other]
    base_model: other
    idle_timeout: 5m
    cache_type: q8_0
    on: {generic: {n_ctx: 4k, parallel: 4, n_threads: 2}}
tools: {calendar: {kind: mcp, command: [nobody]}}
"""
    manifest = parse_manifest(text, name="airlab.yaml").manifest
    data = manifest_for(manifest, "a", manifest.models["a"], Numbers(8192, 2))
    built = parse_manifest(json.dumps(data).encode(), name="built").manifest

    model = built.models["a"]
    assert (model.context_length, model.parallel, model.cache_type, model.preload) == (8192, 2, "q8_0", False)
    assert (model.on["generic"].n_ctx, model.on["generic"].parallel, model.on["generic"].n_threads) == (None, None, 2)
    assert list(built.models) == ["a"]
    assert built.profiles["generic"].max_loaded == "auto"
    assert (built.tools.builtin, built.policy.roots) == ([], [])
    kept = manifest_for(manifest, "a", manifest.models["a"], Numbers(None, 2))["models"]["a"]
    assert (kept["context_length"], kept["on"]["generic"]) == ("auto", {"n_ctx": 4096, "n_threads": 2})


@pytest.mark.parametrize(
    ("contexts", "slots", "said"),
    [
        ((512,), (), ["a context of 512"]),
        ((), (1, 2), ["1 slot", "2 slots"]),
        ((512, 1024), (3,), ["a context of 512 and 3 slots", "a context of 1024 and 3 slots"]),
    ],
)
def test_what_is_not_given_is_left_as_the_manifest_has_it(
    contexts: tuple[int, ...], slots: tuple[int, ...], said: list[str]
) -> None:
    assert [str(numbers) for numbers in combinations(contexts, slots)] == said
