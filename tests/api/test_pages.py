"""What listings and health show: readings of a snapshot and the fleet's status, field for field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.api import pages
from app.devices.probe import probe_host
from app.fleet.states import State
from app.fleet.status import ModelStatus
from app.live.inputs import first_snapshot
from app.live.reload import Attempt
from app.live.snapshot import Snapshot
from app.settings import Settings
from tests.support.gguf import minimal_gguf
from tests.support.manifest import loaded

MODELS: dict[str, dict[str, Any]] = {
    "base": {"filename": "base.gguf", "aliases": ["org/base"], "context_length": 8192, "kind": ["embedding", "chat"]},
    "tuned": {"filename": "custom/tuned.gguf", "is_finetuned": True, "base_model": "base", "training_data": "mine"},
    "hub": {"filename": "hub.gguf", "hf_repo": "org/repo:Q4"},
    "web": {"filename": "web.gguf", "download_url": "https://example.com/web.gguf", "name": "From the web"},
    "lost": {"filename": "lost.gguf"},
}
ENTRY = {
    *("key", "name", "filename", "description", "exists", "loaded", "recommended", "is_finetuned", "context_length"),
    *("vram_estimate", "usage", "hf_repo", "download_url", "base_model", "training_data", "source", "tool_mode"),
}
"""The fields that the owner's page asks for."""


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """Five models, of which the first two are on disk."""
    for name in ("AIRLAB_PROFILE", "N_GPU_LAYERS", "AIRLAB_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for filename in ("base.gguf", "custom/tuned.gguf"):
        file = tmp_path / "models" / filename
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(minimal_gguf(general__file_type=15, llama__context_length=32768))
    return first_snapshot(
        loaded("base", MODELS), Settings(manifest=tmp_path / "airlab.yaml"), probe_host(can_offload=True)
    )


def status(state: State = State.STOPPED, message: str | None = None) -> dict[str, ModelStatus]:
    return {key: ModelStatus(state, 100.0, 42, 2, 1, 3, message) for key in MODELS}


def health(snapshot: Snapshot, now: dict[str, ModelStatus], last: Attempt | None = None, **more: Any) -> dict[str, Any]:
    last = last or Attempt(0.0, "committed")
    return pages.health(snapshot, now, last, **{"stopping": False, "details": True, **more})


@pytest.mark.parametrize("state", [State.STOPPED, State.STARTING, State.READY, State.DRAINING, State.STOPPING])
def test_health_is_ok_for_a_model_that_is_not_in_trouble(snapshot: Snapshot, state: State) -> None:
    """A model that was unloaded for being idle is no fault."""
    body = health(snapshot, status(state))

    assert (body["status"], body["state"], body["loaded"]) == ("ok", state, state is State.READY)
    assert body["message"] == f"base is {state}"


@pytest.mark.parametrize("state", [State.FAILED, State.COOLING, State.STUCK])
def test_health_is_degraded_for_a_model_in_trouble_and_says_why(snapshot: Snapshot, state: State) -> None:
    body = health(snapshot, status(state, "out of memory"))

    assert body["status"] == "degraded"
    assert body["message"] == f"base is {state}: out of memory"


def test_health_is_degraded_while_it_stops(snapshot: Snapshot) -> None:
    assert health(snapshot, status(), stopping=True)["message"] == "shutting down"


def test_health_without_details_is_three_fields(snapshot: Snapshot) -> None:
    assert health(snapshot, status(), details=False).keys() == {"status", "message", "model_key"}


def test_health_without_details_keeps_log_lines_and_paths_to_itself(snapshot: Snapshot) -> None:
    """Anybody may ask without a key; what an engine printed is for those who have one."""
    body = health(snapshot, status(State.FAILED, message="/home/ada/x.gguf: out of memory"), details=False)

    assert body["message"] == "base is failed"


def test_health_is_degraded_while_the_file_is_broken_and_shows_its_first_problem(snapshot: Snapshot) -> None:
    last = Attempt(0.0, "failed", None, "airlab.yaml:3:1: models: no such setting\n  more")
    body = health(snapshot, status(), last)

    assert body["status"] == "degraded"
    assert body["message"].endswith("what was in force before is: airlab.yaml:3:1: models: no such setting")
    assert body["reload_error"] == last.error
    assert "airlab.yaml:3" not in str(health(snapshot, status(), last, details=False))


def test_health_says_that_no_tool_runs_while_another_manifest_stands_in(snapshot: Snapshot) -> None:
    stands_in = replace(snapshot, policy=replace(snapshot.policy, closed="the file was broken at start"))

    assert health(stands_in, status())["message"] == "no tool runs until airlab.yaml is right"


def test_health_says_that_the_folder_for_finetunes_is_not_wholly_seen(snapshot: Snapshot) -> None:
    seen = replace(snapshot, weights_problem="custom/ has more than 1000 entries, and the others are not looked at")

    assert health(seen, status())["message"] == f"models may be missing: {seen.weights_problem}"
    assert health(seen, status(), details=False)["message"] == "models may be missing"


def test_owner_entry_has_every_field(snapshot: Snapshot) -> None:
    entries = pages.owner_models(snapshot, status(State.READY), include_finetuned=True)["models"]

    assert [entry["key"] for entry in entries] == list(MODELS)
    assert all(entry.keys() >= ENTRY for entry in entries)
    assert (entries[0]["name"], entries[3]["name"]) == ("base", "From the web")
    assert [entry["exists"] for entry in entries] == [True, True, False, False, False]


def test_owner_entry_shows_what_the_header_says(snapshot: Snapshot) -> None:
    base, *_, lost = pages.owner_models(snapshot, status(), include_finetuned=True)["models"]

    assert (base["architecture"], base["parameters"], base["quantisation"]) == ("llama", 8, "Q4_K_M")
    assert (base["trained_context_length"], base["chat_template"], base["knows_tools"]) == (32768, False, False)
    assert (base["problem"], base["adapters"]) == (None, [])
    assert [lost[name] for name in ("architecture", "parameters", "chat_template", "problem")] == [None] * 4


def test_model_whose_file_is_broken_is_shown_with_the_reason(snapshot: Snapshot) -> None:
    broken = replace(snapshot.models["base"], problem="base.gguf is empty")
    seen = replace(snapshot, models={**snapshot.models, "base": broken})

    assert pages.owner_models(seen, status(), include_finetuned=True)["models"][0]["problem"] == "base.gguf is empty"
    assert health(seen, status())["message"] == "base cannot start: base.gguf is empty"
    assert health(seen, status(), details=False)["message"] == "base cannot start"
    assert health(seen, status(State.READY))["status"] == "ok"


def test_source_says_where_a_model_comes_from_or_would(snapshot: Snapshot) -> None:
    entries = pages.owner_models(snapshot, status(), include_finetuned=True)["models"]

    assert [entry["source"] for entry in entries] == ["local", "local_finetuned", "hf", "url", "local"]


def test_finetuned_models_can_be_left_out(snapshot: Snapshot) -> None:
    body = pages.owner_models(snapshot, status(), include_finetuned=False)

    assert [entry["key"] for entry in body["models"]] == ["base", "hub", "web", "lost"]


def test_openai_entry_has_whole_numbers_and_no_null(snapshot: Snapshot) -> None:
    for entry in pages.openai_models(snapshot, status())["data"]:
        assert type(entry["created"]) is int
        assert None not in entry.values()
    assert pages.openai_model(snapshot.models["base"], status()["base"])["capabilities"] == ["chat", "embedding"]


def test_running_models_are_shown_with_their_age_in_seconds(snapshot: Snapshot) -> None:
    body = pages.running_models(snapshot, status(State.READY), now_s=104.25)

    assert body["current"] == "base"
    assert body["models"][0] == {
        "key": "base",
        "state": "ready",
        "for_s": 4.2,
        "pid": 42,
        "container": None,
        "slots": 2,
        "busy": 1,
        "waiting": 3,
        "message": None,
        "memory_bytes": None,
    }


def test_health_is_degraded_where_tools_cannot_be_confined(snapshot: Snapshot) -> None:
    """A wall that is not there must be seen by whoever looks after the machine."""
    body = health(snapshot, status(), gaps={"fs_read": "no Landlock here"})

    assert body["status"] == "degraded"
    assert "fs_read tools cannot be confined here: no Landlock here" in body["message"]
