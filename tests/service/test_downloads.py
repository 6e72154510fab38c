"""Downloads through a running AirLab: pulled, switched to, shown, cancelled, found again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.weights.embedded import MODEL_FILENAME
from bench.projectors import PROJECTORS, write_projector
from tests.conftest import MakeLab
from tests.support.gguf import minimal_gguf
from tests.support.hub import Hub, running_hub
from tests.support.service import BOUND_S, MODEL_FILE, Lab, Service, wait_until

WEIGHTS = minimal_gguf() + bytes(200_000)
REPO = "org/tiny-GGUF"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        running.repos[REPO] = {"tiny-Q4_K_M.gguf": WEIGHTS}
        yield running


def lab_of(make_lab: MakeLab, hub: Hub, engine: str = "fake", **more: Any) -> Lab:
    """``small`` is on disk; ``tiny`` is on the hub."""
    models = {"small": {}, "tiny": {"filename": None, "hf_repo": f"{REPO}:Q4_K_M"}, "lost": {}}
    lab = make_lab(engine, models=models, missing=("tiny", "lost"), environment={"HF_ENDPOINT": hub.url}, **more)
    manifest = json.loads(lab.manifest.read_text())
    del manifest["models"]["tiny"]["filename"]
    lab.write_manifest(json.dumps(manifest))
    return lab


def entry(service: Service, key: str = "tiny") -> dict[str, Any]:
    models = service.http.get("/models").raise_for_status().json()["models"]
    return next(model for model in models if model["key"] == key)


def test_switch_downloads_what_is_not_there_and_then_serves_it(make_lab: MakeLab, hub: Hub) -> None:
    """The thinnest path on the real model: from an empty disk to an answer."""
    hub.repos[REPO] = {"tiny-Q4_K_M.gguf": MODEL_FILE.read_bytes()}
    assert MODEL_FILE.name == MODEL_FILENAME
    with lab_of(make_lab, hub, "embedded").serve() as service:
        assert (entry(service)["exists"], entry(service)["download"]) == (False, None)
        answer = service.http.post("/model/switch", json={"model_key": "tiny"}, timeout=60).raise_for_status().json()
        assert (answer["model_key"], answer["previous_model_key"]) == ("tiny", "small")
        assert service.chat().raise_for_status().json()["choices"][0]["message"]["content"]
        assert entry(service)["exists"]
        assert entry(service)["download"]["state"] == "done"


def test_switch_fetches_the_projector_that_its_model_lacks(make_lab: MakeLab, hub: Hub, tmp_path: Path) -> None:
    write_projector(PROJECTORS[0], tmp_path / "eye.gguf")
    hub.repos["org/eyes"] = {"sees-Q4_1.gguf": MODEL_FILE.read_bytes()}
    models = {"small": {}, "sees": {"hf_repo": "org/eyes:Q4_1", "mmproj": "eye.gguf", "context_length": 1024}}
    with make_lab("embedded", models=models, environment={"HF_ENDPOINT": hub.url}).serve() as service:
        lacking = service.http.post("/model/switch", json={"model_key": "sees"})
        assert "its multimodal projector is not on disk" in lacking.json()["error"]["message"]
        hub.repos["org/eyes"]["eye.gguf"] = (tmp_path / "eye.gguf").read_bytes()
        hub.asked.clear()

        service.http.post("/model/switch", json={"model_key": "sees"}, timeout=60).raise_for_status()

        assert entry(service, "sees")["modalities"] == ["text", "image"]
        assert service.chat(model="sees").raise_for_status().json()["choices"][0]["message"]["content"]
        assert {one.path.rpartition("/")[2] for one in hub.files_asked} == {"eye.gguf"}, "what is there is left alone"


def test_model_field_never_downloads(make_lab: MakeLab, hub: Hub) -> None:
    """Anybody may name a model in a request; only the owner may fill the disk."""
    with lab_of(make_lab, hub).serve() as service:
        answer = service.chat(model="tiny")
        assert answer.status_code == 404
        assert "airlab models pull tiny" in answer.json()["error"]["message"]
        assert service.http.post("/models/tiny/load").status_code == 404
        assert not hub.asked


def test_switch_to_what_cannot_be_had_changes_nothing(make_lab: MakeLab, hub: Hub) -> None:
    hub.repos.clear()
    with lab_of(make_lab, hub).serve() as service:
        answer = service.http.post("/model/switch", json={"model_key": "tiny"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "download_failed")
        assert service.http.post("/model/switch", json={"model_key": "lost"}).status_code == 404
        assert service.http.post("/model/switch", json={"model_key": "nobody"}).status_code == 404
        assert service.http.get("/models").json()["current"] == "small"


def test_client_that_leaves_cancels_no_download(make_lab: MakeLab, hub: Hub) -> None:
    hub.hold_after = 1000
    with lab_of(make_lab, hub).serve() as service:
        with service.asked("/model/switch", {"model_key": "tiny"}):
            assert hub.held.wait(BOUND_S)
        hub.released.set()
        wait_until(lambda: entry(service)["exists"], "tiny is there")
        assert len(hub.files_asked) == 1


def test_two_clients_at_once_share_one_download(make_lab: MakeLab, hub: Hub) -> None:
    hub.hold_after = 1000
    with lab_of(make_lab, hub).serve() as service, ThreadPoolExecutor(2) as pool:
        switch = pool.submit(service.http.post, "/model/switch", json={"model_key": "tiny"})
        assert hub.held.wait(BOUND_S)
        pulled = service.http.post("/models/tiny/pull")
        assert (pulled.status_code, pulled.json()["state"]) == (202, "downloading")
        hub.released.set()
        assert switch.result(BOUND_S).status_code == 200
        assert service.http.get("/models/tiny/pull").json()["state"] == "done"
        assert len(hub.files_asked) == 1


def test_pull_is_shown_cancelled_and_taken_up_after_a_restart(make_lab: MakeLab, hub: Hub) -> None:
    lab = lab_of(make_lab, hub)
    hub.hold_after = 50_000
    with lab.serve() as service:
        assert service.http.get("/models/tiny/pull").status_code == 404
        assert service.http.delete("/models/tiny/pull").status_code == 404
        service.http.post("/models/tiny/pull").raise_for_status()
        assert hub.held.wait(BOUND_S)
        wait_until(lambda: entry(service)["download"]["done_bytes"] == 50_000, "50,000 bytes have come")
        job = service.http.get("/models/tiny/pull").json()
        assert (job["state"], job["total_bytes"]) == ("downloading", len(WEIGHTS))
        cancelled = lab.run("models", "pull", "tiny", "--cancel", "--url", service.url)
        assert cancelled.stdout == "cancelled; 48.8 KiB that came are kept\n"
        assert entry(service)["download"]["state"] == "cancelled"
        assert not entry(service)["exists"]
    hub.hold_after = None
    hub.released.set()
    with lab.serve() as service:
        done = lab.run("models", "pull", "tiny", "--url", service.url)
        assert done.returncode == 0, done.stderr
        assert "tiny is there: " in done.stdout
        assert hub.files_asked[-1].range == "bytes=50000-"
        assert entry(service)["exists"]


def test_stop_does_not_wait_for_a_download(make_lab: MakeLab, hub: Hub) -> None:
    hub.hold_after = 1000
    with lab_of(make_lab, hub).serve() as service:
        service.http.post("/models/tiny/pull").raise_for_status()
        assert hub.held.wait(BOUND_S)


def test_progress_is_among_the_events(make_lab: MakeLab, hub: Hub) -> None:
    hub.hold_after = 1000
    with lab_of(make_lab, hub).serve() as service, service.http.stream("GET", "/events") as events:
        lines = events.iter_lines()
        assert next(lines).startswith(":")
        service.http.post("/models/tiny/pull").raise_for_status()
        seen = []
        for line in lines:
            if line.startswith("event: download_"):
                seen.append(line.removeprefix("event: download_"))
            if seen and seen[-1] == "progressed":
                hub.released.set()
            if seen and seen[-1] == "finished":
                break
        assert seen[0] == "started"
        assert "progressed" in seen


def test_pull_of_what_is_there_asks_nobody(make_lab: MakeLab, hub: Hub) -> None:
    with lab_of(make_lab, hub).serve() as service:
        there = service.http.post("/models/small/pull")
        assert (there.status_code, there.json()["state"]) == (200, "done")
        assert service.http.post("/models/lost/pull").status_code == 400
        assert service.http.post("/models/nobody/pull").status_code == 404
        assert not hub.asked


def test_failed_pull_fails_the_command_with_its_reason(make_lab: MakeLab, hub: Hub) -> None:
    hub.gated.add(REPO)
    lab = lab_of(make_lab, hub)
    with lab.serve() as service:
        done = lab.run("models", "pull", "tiny", "--url", service.url)
        assert done.returncode == 1
        assert "is gated" in done.stderr


def test_model_in_the_cache_is_served_offline(make_lab: MakeLab, hub: Hub) -> None:
    lab = lab_of(make_lab, hub)
    snapshot = lab.folder / "cache" / f"models--{REPO.replace('/', '--')}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "tiny-Q4_K_M.gguf").write_bytes(minimal_gguf())
    lab.environment = {"HF_HUB_OFFLINE": "1", "LLAMA_CACHE": str(lab.folder / "cache")}
    with lab.serve() as service:
        assert entry(service)["exists"]
        assert service.chat(model="tiny").status_code == 200
    assert not hub.asked
