"""Whether a model fits is said before its gigabytes come: by /fit, plan and pull, and at a switch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.units import MIB
from tests.cli.conftest import Call
from tests.cli.conftest import call as call  # noqa: PLC0414 # a fixture
from tests.conftest import MakeLab
from tests.support.gguf import minimal_adapter, minimal_gguf, shaped_gguf
from tests.support.hub import Hub, running_hub
from tests.support.service import ADMIN_KEY, BOUND_S, KEYS, MODEL_FILE, USE_KEY, Lab

REPO = "org/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"
TIB = 2**40


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        hold(running, layer_bytes=4 * MIB)
        yield running


def hold(hub: Hub, *, layer_bytes: int) -> int:
    """Let the hub hold a model of two such layers; its size in bytes."""
    beginning, size_bytes = shaped_gguf(layer_bytes=layer_bytes)
    hub.repos[REPO], hub.claims = {FILE: beginning}, {FILE: size_bytes}
    return size_bytes


def lab_of(make_lab: MakeLab, hub: Hub, **environment: str) -> Lab:
    """``small`` is on disk; ``tiny`` is on the hub."""
    models = {"small": {}, "tiny": {"hf_repo": f"{REPO}:Q4_K_M"}}
    given = {"HF_ENDPOINT": hub.url, **environment}
    lab = make_lab(models=models, missing=("tiny",), profile={"n_gpu_layers": 0}, environment=given)
    manifest = json.loads(lab.manifest.read_text())
    del manifest["models"]["tiny"]["filename"]
    lab.write_manifest(json.dumps(manifest))
    return lab


def test_fit_of_a_model_on_the_hub_is_the_sum_of_its_parts_and_downloads_nothing(make_lab: MakeLab, hub: Hub) -> None:
    """For whoever may use models: whom the server asks, the manifest says, and no more often than in ten minutes."""
    size_bytes = hub.claims[FILE]
    lab = lab_of(make_lab, hub, **KEYS)
    with lab.serve(key=USE_KEY) as service:
        found = service.http.get("/models/tiny/fit").raise_for_status().json()
        longer = service.http.get("/models/tiny/fit", params={"context_length": 4096}).json()

    assert (found["fits"], found["estimate"], found["download_bytes"]) == (True, "from the header", size_bytes)
    assert next(item["bytes"] for item in found["items"] if item["what"] == "weights") == 8 * MIB
    assert longer["devices"][0]["needed_bytes"] > found["devices"][0]["needed_bytes"]
    assert (len(hub.looks), hub.files_asked) == (1, [])


def test_sum_before_a_download_is_the_sum_after_it(make_lab: MakeLab, hub: Hub) -> None:
    """On a real model: what is read over the network is what is read from the disk."""
    hub.repos[REPO], hub.claims = {FILE: MODEL_FILE.read_bytes()}, {}
    with lab_of(make_lab, hub).serve() as service:
        before = service.http.get("/models/tiny/fit").raise_for_status().json()
        service.http.post("/model/switch", json={"model_key": "tiny"}, timeout=BOUND_S).raise_for_status()
        service.http.post("/models/tiny/unload").raise_for_status()
        after = service.http.get("/models/tiny/fit").raise_for_status().json()

    assert before["estimate"] == after["estimate"] == "from the header"
    assert before["items"] == after["items"]
    assert (before["download_bytes"], "download_bytes" in after) == (MODEL_FILE.stat().st_size, False)


def test_fit_says_in_words_why_nobody_knows(make_lab: MakeLab, hub: Hub) -> None:
    with lab_of(make_lab, hub, HF_HUB_OFFLINE="1").serve() as service:
        found = service.http.get("/models/tiny/fit").raise_for_status().json()

    assert (found["fits"], found["download_bytes"], hub.asked) == (None, None, [])
    assert found["message"].startswith(
        "tiny is not on disk, and what it would take is not known: HF_HUB_OFFLINE is set"
    )


def test_fit_of_a_file_that_could_not_be_used_says_so(make_lab: MakeLab, hub: Hub) -> None:
    hub.repos[REPO], hub.claims = {FILE: minimal_adapter()}, {}
    with lab_of(make_lab, hub).serve() as service:
        found = service.http.get("/models/tiny/fit").raise_for_status().json()
        switched = service.http.post("/model/switch", json={"model_key": "tiny"})

    assert found["fits"] is False
    assert "holds no model" in found["message"]
    assert (switched.status_code, hub.files_asked) == (503, [])
    assert "holds no model" in switched.json()["error"]["message"]


def test_fit_waits_for_a_hub_no_longer_than_it_is_told(make_lab: MakeLab, hub: Hub) -> None:
    """A menu of models must not hang on the slowest hub; the look goes on, and the next to ask has it."""
    hub.spare_looks, hub.hold_after = False, 100
    with lab_of(make_lab, hub).serve() as service:
        early = service.http.get("/models/tiny/fit", params={"within_s": 0}).json()
        assert hub.held.wait(BOUND_S)
        hub.released.set()
        late = service.http.get("/models/tiny/fit").json()
        assert service.http.get("/models/tiny/fit", params={"within_s": 60}).status_code == 400

    assert (early["fits"], late["fits"], len(hub.looks)) == (None, True, 1)


def test_switch_to_what_can_never_fit_is_refused_before_its_gigabytes_come(make_lab: MakeLab, hub: Hub) -> None:
    size_bytes = hold(hub, layer_bytes=8 * TIB)
    with lab_of(make_lab, hub).serve() as service:
        refused = service.http.post("/model/switch", json={"model_key": "tiny"})
        fit = service.http.get("/models/tiny/fit").json()
        models = service.http.get("/models").json()

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "insufficient_memory")
    assert "tiny does not fit: on RAM it needs weights 16.0 TiB + " in error["message"]
    assert "Its 16.0 TiB were not downloaded; `airlab models pull tiny` does so all the same" in error["message"]
    assert (fit["fits"], fit["download_bytes"]) == (False, size_bytes)
    assert (models["current"], hub.files_asked) == ("small", [])
    assert next(model for model in models["models"] if model["key"] == "tiny")["download"]["state"] == "failed"


def test_switch_whose_memory_is_not_sure_downloads(make_lab: MakeLab, hub: Hub) -> None:
    """Where the header does not come, nobody is kept from what may well fit."""
    hold(hub, layer_bytes=8 * TIB)
    hub.spare_looks, hub.statuses = False, [503]
    with lab_of(make_lab, hub).serve() as service:
        error = service.http.post("/model/switch", json={"model_key": "tiny"}).json()["error"]

    assert "the disk of" in error["message"], "the download began, and saw that there is no room on the disk"
    assert hub.files_asked


def test_switch_joins_a_download_that_goes_on(make_lab: MakeLab, hub: Hub) -> None:
    """What comes already costs nothing more: its owner was warned when it began."""
    hub.repos[REPO], hub.claims, hub.hold_after = {FILE: minimal_gguf() + bytes(1000)}, {}, 100
    with lab_of(make_lab, hub).serve() as service, ThreadPoolExecutor(1) as pool:
        service.http.post("/models/tiny/pull").raise_for_status()
        assert hub.held.wait(BOUND_S)
        switch = pool.submit(service.http.post, "/model/switch", json={"model_key": "tiny"})
        hub.released.set()
        assert switch.result(BOUND_S).status_code == 200
    assert (len(hub.files_asked), hub.looks) == (1, [])


def test_pull_of_what_does_not_fit_warns_before_it_begins(make_lab: MakeLab, hub: Hub) -> None:
    """The owner may mean to take it elsewhere, or to buy memory."""
    hold(hub, layer_bytes=8 * TIB)
    lab = lab_of(make_lab, hub, **KEYS)
    with lab.serve() as service:
        done = lab.run("models", "pull", "tiny", "--url", service.url, AIRLAB_ADMIN_KEY=ADMIN_KEY)

    warning, *_ = done.stderr.splitlines()
    assert warning.startswith("warning: tiny does not fit: on RAM it needs weights 16.0 TiB + ")
    assert "this download needs 16.0 TiB" in done.stderr, "it began all the same, and met a disk that is too small"


def test_pull_of_what_fits_warns_of_nothing(make_lab: MakeLab, hub: Hub) -> None:
    lab = lab_of(make_lab, hub)
    with lab.serve() as service:
        assert "warning" not in lab.run("models", "pull", "tiny", "--url", service.url).stderr


def test_plan_shows_what_a_download_would_take(make_lab: MakeLab, hub: Hub, call: Call) -> None:
    lab = lab_of(make_lab, hub)
    said = call(lab, "plan").stdout
    [_, entry] = json.loads(call(lab, "plan", "--json").stdout)["models"]

    assert "after a download of 8.0 MiB: it would fit: RAM: weights 8.0 MiB + KV cache of 1 x 1024 tokens" in said
    assert "airlab models pull tiny" in entry["problem"]
    assert (entry["download"]["bytes"], entry["download"]["fits"]) == (hub.claims[FILE], True)
    assert not hub.files_asked


def test_plan_says_what_would_not_fit_and_what_nobody_knows(make_lab: MakeLab, hub: Hub, call: Call) -> None:
    hold(hub, layer_bytes=8 * TIB)
    lab = lab_of(make_lab, hub)
    assert "after a download of 16.0 TiB: tiny does not fit: on RAM it needs" in call(lab, "plan").stdout

    hub.asked.clear()
    done = call(lab, "plan", HF_HUB_OFFLINE="1")
    assert (done.returncode, hub.asked) == (0, [])
    assert "after a download: what it would take is not known: HF_HUB_OFFLINE is set" in done.stdout
