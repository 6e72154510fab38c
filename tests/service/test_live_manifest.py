"""The manifest is edited while AirLab serves: what comes into force, what goes on untouched, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.manifest.settle import Quiet
from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, KEYS, USE_KEY, Lab, Service, events_of, wait_until

Save = Callable[[Path, str], None]


def in_place(file: Path, text: str) -> None:
    """As ``echo >`` and some editors do: the same file, written anew."""
    file.write_text(text)


def renamed(file: Path, text: str) -> None:
    """As vim and ``sed -i`` do: another file, put in its place."""
    new = file.with_name(".airlab.yaml.swp")
    new.write_text(text)
    new.replace(file)


def deleted_first(file: Path, text: str) -> None:
    """As some editors over some shares do."""
    file.unlink()
    file.write_text(text)


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    return make_lab(models={"small": {}, "other": {}})


@pytest.fixture
def service(lab: Lab) -> Iterator[Service]:
    with lab.serve() as service:
        yield service


def edited(lab: Lab, **sections: Any) -> str:
    """The manifest's text with these sections changed."""
    return json.dumps(json.loads(lab.manifest.read_text()) | sections, indent=1)


def models(lab: Lab, **changes: Any) -> dict[str, Any]:
    """Its models with these changed; None takes one out."""
    merged = json.loads(lab.manifest.read_text())["models"] | changes
    return {key: model for key, model in merged.items() if model is not None}


def health(service: Service) -> dict[str, Any]:
    answer: dict[str, Any] = service.http.get("/health").json()
    return answer


def until_generation(service: Service, generation: int) -> None:
    wait_until(lambda: health(service)["generation"] == generation, f"generation {generation}")


def until_refused(service: Service) -> str:
    return str(wait_until(lambda: health(service)["reload_error"], "a refusal"))


@pytest.mark.parametrize("save", [in_place, renamed, deleted_first])
def test_fault_017_edit_is_seen_however_an_editor_saves_it(lab: Lab, service: Service, save: Save) -> None:
    save(lab.manifest, edited(lab, default_model="other"))
    until_generation(service, 2)
    save(lab.manifest, edited(lab, default_model="small"))
    until_generation(service, 3)
    assert health(service)["model_key"] == "small"


def test_edit_is_seen_through_links_that_are_swapped(lab: Lab, service: Service) -> None:
    """As Kubernetes updates what it mounts: airlab.yaml -> ..data/airlab.yaml, ..data -> a folder that is swapped."""
    for name, default in (("one", "small"), ("two", "other")):
        (lab.folder / name).mkdir()
        (lab.folder / name / "airlab.yaml").write_text(edited(lab, default_model=default))
    (lab.folder / "..data").symlink_to("one")
    link = lab.folder / "link"
    link.symlink_to("..data/airlab.yaml")
    link.replace(lab.manifest)
    until_generation(service, 2)
    (lab.folder / "..tmp").symlink_to("two")
    (lab.folder / "..tmp").replace(lab.folder / "..data")
    until_generation(service, 3)
    assert health(service)["model_key"] == "other"


def test_fault_003_file_that_is_written_slowly_is_read_once_it_is_whole(lab: Lab, service: Service) -> None:
    text = edited(lab, default_model="other")
    begun_s = time.monotonic()
    with lab.manifest.open("w") as slow:
        slow.write(text[: len(text) // 2])
        slow.flush()
        # Nothing tells when the first half has been noticed; were it read, there would be a refusal.
        wait_until(lambda: health(service)["generation"] == 1, "still the first")
        slow.write(text[len(text) // 2 :])
    took_s = time.monotonic() - begun_s
    until_generation(service, 2)
    counted = service.http.get("/metrics").text
    # A file that rests for so long counts as whole: on a machine where a request takes that, it is rightly refused.
    assert 'airlab_config_reloads_total{result="failed"} 0' in counted or took_s > Quiet().written_s


def test_fault_020_file_that_is_gone_is_said_and_what_was_in_force_stays(lab: Lab, service: Service) -> None:
    text = lab.manifest.read_text()
    lab.manifest.unlink()
    assert "does not exist" in until_refused(service)
    assert service.chat().status_code == 200
    lab.manifest.write_text(text)
    wait_until(lambda: health(service)["status"] == "ok", "all is well again")
    assert health(service)["generation"] == 1


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda file: file.write_bytes(b""), "top level must be a mapping"),
        (lambda file: file.write_text("version: 1\nmodels:\n  - na"), "default_model"),
        (lambda file: file.write_text("[" * 100_000), "nested too deep"),
    ],
)
def test_fault_001_002_006_broken_file_leaves_everything_as_it_was(
    lab: Lab, service: Service, breaks: Callable[[Path], Any], said: str
) -> None:
    assert service.chat().status_code == 200
    pid = service.model()["pid"]
    breaks(lab.manifest)
    assert said in until_refused(service)
    body = health(service)
    assert (body["status"], body["generation"]) == ("degraded", 1)
    assert "airlab_config_last_reload_successful 0" in service.http.get("/metrics").text
    assert service.chat().status_code == 200
    assert service.model()["pid"] == pid


def test_fault_026_file_that_turns_into_a_folder_or_a_pipe_is_refused_and_nothing_hangs(
    lab: Lab, service: Service
) -> None:
    text = lab.manifest.read_text()
    lab.manifest.unlink()
    os.mkfifo(lab.manifest)
    assert "not a regular file" in until_refused(service)
    lab.manifest.unlink()
    lab.manifest.write_text(text)
    wait_until(lambda: health(service)["reload_error"] is None, "all is well again")
    lab.manifest.unlink()
    lab.manifest.mkdir()
    assert until_refused(service)
    assert service.chat().status_code == 200


def test_model_that_did_not_change_keeps_its_process(lab: Lab, service: Service) -> None:
    assert service.chat().status_code == 200
    pid = service.model()["pid"]
    small = json.loads(lab.manifest.read_text())["models"]["small"]
    changed = models(lab, small={**small, "description": "new words"}, other=None)
    renamed(lab.manifest, edited(lab, models=changed))
    until_generation(service, 2)
    assert service.model()["pid"] == pid
    assert service.http.get("/models").json()["models"][0]["description"] == "new words"


def test_model_whose_run_changed_ends_what_it_has_and_starts_anew(lab: Lab, service: Service) -> None:
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))
    with service.stream() as answer:
        pid = service.model()["pid"]
        small = json.loads(lab.manifest.read_text())["models"]["small"]
        renamed(lab.manifest, edited(lab, models=models(lab, small={**small, "context_length": 2048})))
        until_generation(service, 2)
        service.until_state("small", "draining")
        gate.touch()
        assert events_of(answer)[-1] == "[DONE]"
    lab.fault("small")
    assert service.chat().status_code == 200
    assert service.model()["pid"] != pid
    assert service.model()["slots"] == 1


def test_fault_028_model_removed_while_it_streams_ends_the_stream_in_order_and_goes(lab: Lab, service: Service) -> None:
    gate = lab.folder / "gate"
    lab.fault("other", token_gate_file=str(gate))
    with service.stream(model="other") as answer:
        renamed(lab.manifest, edited(lab, models=models(lab, other=None)))
        until_generation(service, 2)
        assert service.chat(model="other").status_code == 404
        gate.touch()
        assert events_of(answer)[-1] == "[DONE]"
    wait_until(lambda: not lab.engine_processes() or None, "its engine is gone")


def test_preload_that_is_switched_on_loads_the_model(lab: Lab, service: Service) -> None:
    other = json.loads(lab.manifest.read_text())["models"]["other"]
    renamed(lab.manifest, edited(lab, models=models(lab, other={**other, "preload": True})))
    service.until_state("other", "ready")


def test_max_loaded_that_is_lowered_sends_the_idle_model_away(make_lab: MakeLab) -> None:
    lab = make_lab(models={"small": {}, "other": {}}, profile={"max_loaded": 2})
    with lab.serve() as service:
        assert service.chat(model="small").status_code == 200
        assert service.chat(model="other").status_code == 200
        renamed(lab.manifest, edited(lab, profiles={"generic": {"match": "any", "max_loaded": 1}}))
        service.until_model("small", lambda row: row["pid"] is None, "unloaded")


def test_owners_steps_for_a_new_model_work_without_a_restart(lab: Lab, service: Service) -> None:
    """Edit the YAML, put the file there, switch; /health shows its key."""
    new = {"filename": "new.gguf", "context_length": 1024, "n_threads": 1}
    renamed(lab.manifest, edited(lab, models=models(lab, new=new)))
    until_generation(service, 2)
    asked = service.http.post("/model/switch", json={"model_key": "new"})
    assert (asked.status_code, "new.gguf" in asked.text) == (404, True)
    lab.lay_weights("new")
    assert service.http.post("/model/switch", json={"model_key": "new"}).status_code == 200
    assert (health(service)["model_key"], health(service)["loaded"]) == ("new", True)


def test_owners_steps_for_a_new_tool_work_without_a_restart(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.write_manifest(edited(lab, tools={"builtin": ["get_current_time"]}))
    with lab.serve() as service:
        assert "1 offered: get_current_time" in service.http.post("/command", json={"command": "tools"}).text
        renamed(lab.manifest, edited(lab, tools={"builtin": ["get_current_time", "list_contents"]}))
        until_generation(service, 2)
        assert "2 offered" in service.http.post("/command", json={"command": "tools"}).text


def test_weights_that_come_are_seen_by_themselves(make_lab: MakeLab) -> None:
    lab = make_lab(models={"small": {}, "late": {}}, missing=("late",))
    with lab.serve() as service:
        lab.lay_weights("late")
        wait_until(lambda: service.http.get("/models").json()["models"][1]["exists"] or None, "its file is seen")


@pytest.fixture
def guarded(lab: Lab) -> Iterator[Service]:
    """Puts nothing in force that allows tools more, until a request confirms it: the watch may be faster than that."""
    lab.write_manifest(edited(lab, policy={"reload_guard": True}, tools={"builtin": []}))
    with lab.serve() as service:
        yield service


MORE_TOOLS = {"builtin": ["get_current_time"]}


def confirmed(lab: Lab, service: Service) -> dict[str, Any]:
    digest = hashlib.sha256(lab.manifest.read_bytes()).hexdigest()
    answer: dict[str, Any] = service.http.post("/manifest/reload", params={"confirm": digest}).json()
    return answer


def test_server_section_is_read_at_start_only_and_the_answer_says_so(lab: Lab, guarded: Service) -> None:
    renamed(lab.manifest, edited(lab, server={"port": 1}, tools=MORE_TOOLS))
    answer = confirmed(lab, guarded)
    assert [change["setting"] for change in answer["plan"]["at_next_start"]] == ["server.port"]
    assert "at the next start only" in answer["message"]
    assert guarded.chat().status_code == 200


def test_reload_by_request_answers_with_the_plan(lab: Lab, guarded: Service) -> None:
    before = guarded.http.get("/manifest").json()
    text = edited(lab, models=models(lab, third={"filename": "other.gguf"}), tools=MORE_TOOLS)
    renamed(lab.manifest, text)
    tried = guarded.http.post("/manifest/reload", params={"dry_run": True}).json()
    done = confirmed(lab, guarded)
    after = guarded.http.get("/manifest")

    assert tried["plan"]["add"] == done["plan"]["add"] == ["third"]
    assert done["generation"] == 2
    assert before["sha256"] != after.json()["sha256"] == done["sha256"]
    assert after.headers["etag"] == f'"{done["sha256"]}"'
    assert after.json()["text"] == text
    assert after.json()["last_attempt"]["ok"] is True


def test_broken_reload_by_request_is_422_with_every_problem_and_its_place(lab: Lab, service: Service) -> None:
    renamed(lab.manifest, edited(lab, modls={}, chat={"max_tool_iterations": 99}))
    answer = service.http.post("/manifest/reload")
    problems = answer.json()["problems"]

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "manifest_invalid")
    assert {problem["path"] for problem in problems} == {"modls", "chat.max_tool_iterations"}
    lines = lab.manifest.read_text().splitlines()
    assert all("modls" in lines[p["line"] - 1] or "99" in lines[p["line"] - 1] for p in problems)
    assert health(service)["generation"] == 1


def test_stale_if_match_is_412(lab: Lab, service: Service) -> None:
    answer = service.http.post("/manifest/reload", headers={"If-Match": f'"{"0" * 64}"'})
    assert (answer.status_code, answer.json()["error"]["code"]) == (412, "precondition_failed")


def test_sighup_reads_the_manifest_again(lab: Lab, service: Service) -> None:
    service.signal(signal.SIGHUP)
    wait_until(
        lambda: 'reloads_total{result="unchanged"} 1' in service.http.get("/metrics").text or None, "it was read again"
    )
    assert health(service)["status"] == "ok"


def test_events_tell_what_happens_as_it_happens(lab: Lab, service: Service) -> None:
    with service.http.stream("GET", "/events") as events:
        lines = events.iter_lines()
        assert next(lines) == ": from now on"
        renamed(lab.manifest, edited(lab, default_model="other"))
        assert next(line for line in lines if line.startswith("event: manifest")) == "event: manifest_committed"
        told = json.loads(next(lines).removeprefix("data: "))
        assert told["generation"] == 2
        assert "current model: small -> other" in told["changes"]


def test_events_end_when_the_service_stops(lab: Lab) -> None:
    with lab.serve() as service, service.http.stream("GET", "/events") as events:
        lines = events.iter_lines()
        next(lines)
        service.signal(signal.SIGTERM)
        assert "event: service_stopping" in list(lines)
        assert service.wait() == 0


def test_manifest_and_events_are_for_the_admin_key_only(make_lab: MakeLab) -> None:
    """The manifest's text and paths are nobody else's business."""
    lab = make_lab(environment=KEYS)
    with lab.serve(key=ADMIN_KEY) as service:
        for method, path in (("GET", "/manifest"), ("POST", "/manifest/reload"), ("GET", "/events")):
            for header in ({"authorization": f"Bearer {USE_KEY}"}, {"x-api-key": USE_KEY}):
                with httpx.Client(base_url=service.url, headers=header) as client:
                    assert client.request(method, path).status_code == 403
        with httpx.Client(base_url=service.url) as anyone:
            renamed(lab.manifest, "models: 3\n")
            wait_until(lambda: anyone.get("/health").json()["status"] == "degraded" or None, "degraded")
            assert "airlab.yaml:1" not in anyone.get("/health").text


def test_fault_024_broken_file_at_start_serves_what_was_in_force_without_tools(lab: Lab) -> None:
    with lab.serve():
        pass
    right = lab.manifest.read_text()
    lab.write_manifest(right.replace('"version": 1', '"version": 2'))
    with lab.serve() as service:
        body = health(service)
        assert (body["status"], body["model_key"]) == ("degraded", "small")
        assert "no tool runs until airlab.yaml is right" in body["message"]
        assert "version" in body["reload_error"]
        assert service.chat().status_code == 200
        assert "none offered" in service.http.post("/command", json={"command": "tools"}).text
        renamed(lab.manifest, right)
        wait_until(lambda: health(service)["status"] == "ok" or None, "all is well again")
        assert "none offered" not in service.http.post("/command", json={"command": "tools"}).text


def test_fault_024_broken_file_at_the_very_first_start_is_waited_for(lab: Lab) -> None:
    """A container that ends at once would only be started again, and nobody would see why."""
    right = lab.manifest.read_text()
    lab.write_manifest("models: 3\n")
    with lab.serve() as service:
        answer = service.http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
        assert "default_model: is missing" in answer.json()["reload_error"]
        refused = service.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_manifest")
        assert int(refused.headers["retry-after"]) > 0
        renamed(lab.manifest, right)
        wait_until(lambda: _is_well(service), "it serves")
        assert service.chat().status_code == 200


def test_service_that_waits_for_a_manifest_ends_at_a_signal(lab: Lab) -> None:
    lab.write_manifest("models: 3\n")
    with lab.serve() as service:
        # It says where before it listens to signals.
        assert service.http.get("/health").status_code == 503
        service.signal(signal.SIGTERM)
        assert service.wait() == 0


def _is_well(service: Service) -> bool:
    try:
        return service.http.get("/health").status_code == 200
    except httpx.TransportError:  # between the two servers there is a moment without one
        return False
