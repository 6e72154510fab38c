"""Memory on the whole way: predicted, refused with the sum, shared by models side by side, measured and remembered."""

from __future__ import annotations

import json

import pytest

from app.devices.resident import resident
from tests.conftest import MakeLab
from tests.support.service import Service, wait_until

ROOM = {"max_loaded": "auto", "memory": {"ram": "1500MiB"}, "n_threads": 1}


@pytest.mark.llama
def test_prediction_is_near_what_llama_server_takes_and_is_remembered(make_lab: MakeLab) -> None:
    """A sample of ``make bench-fit``; wider, since the prompt of one word fills no buffer."""
    lab = make_lab("real", models={"small": {"context_length": 4096, "parallel": 2}}, profile=ROOM)
    with lab.serve() as service:
        predicted = service.http.get("/models/small/fit").json()
        assert service.chat().status_code == 200
        measured = wait_until(lambda: service.model()["memory_bytes"], "what the engine takes was measured")
        found = resident(service.engine().pid)
        again = service.http.get("/models/small/fit").json()

    needed = sum(item["bytes"] for item in predicted["items"] if not item["grows"])
    assert needed == pytest.approx(measured, rel=0.15)
    assert found is not None
    assert measured == pytest.approx(found.resident_bytes, rel=0.05)
    assert (predicted["measured_bytes"], again["measured_bytes"]) == (None, measured)
    kept = json.loads((lab.folder / ".airlab" / "memory.json").read_text())
    assert kept["small"]["measured_bytes"] == measured


def test_two_models_run_side_by_side_where_both_fit(make_lab: MakeLab) -> None:
    lab = make_lab(
        "embedded", models={"small": {"context_length": 512}, "other": {"context_length": 1024}}, profile=ROOM
    )
    with lab.serve() as service:
        assert service.chat(model="small").status_code == 200
        assert service.chat(model="other").status_code == 200
        assert [service.model(key)["state"] for key in ("small", "other")] == ["ready", "ready"]


def test_model_that_was_idle_goes_where_only_one_fits(make_lab: MakeLab) -> None:
    narrow = ROOM | {"memory": {"ram": "260MiB"}}
    lab = make_lab(
        "embedded", models={"small": {"context_length": 512}, "other": {"context_length": 1024}}, profile=narrow
    )
    with lab.serve() as service:
        assert service.chat(model="small").status_code == 200
        fit = service.http.get("/models/other/fit").json()
        assert service.chat(model="other").status_code == 200
        assert [service.model(key)["state"] for key in ("small", "other")] == ["stopped", "ready"]

    assert (fit["fits"], fit["fits_beside_others"]) == (True, False)
    assert "once other models have made room" in fit["message"]


def test_model_that_cannot_fit_is_refused_at_once_and_the_loaded_one_stays(make_lab: MakeLab) -> None:
    models = {"small": {"context_length": 512}, "wide": {"context_length": 262_144, "parallel": 4}}
    lab = make_lab("embedded", models=models, profile=ROOM)
    with lab.serve() as service:
        assert service.chat(model="small").status_code == 200
        refused = service.chat(model="wide")
        fit = service.http.get("/models/wide/fit").json()
        assert service.model("small")["state"] == "ready"

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "insufficient_memory")
    assert "KV cache of 4 x 262144 tokens 22.5 GiB" in error["message"]
    assert "to fix: a shorter context_length, fewer parallel, cache_type: q8_0" in error["message"]
    assert (fit["fits"], fit["message"]) == (False, error["message"])


def test_other_numbers_are_judged_without_a_start(make_lab: MakeLab) -> None:
    lab = make_lab("embedded", models={"small": {"context_length": 262_144}}, profile=ROOM)
    with lab.serve() as service:

        def fit(**asked: object) -> dict[str, object]:
            answer: dict[str, object] = service.http.get("/models/small/fit", params=asked).json()  # type: ignore[arg-type]
            return answer

        assert fit()["fits"] is False
        assert fit(context_length=1024, parallel=3, cache_type="q8_0")["fits"] is True
        assert fit(context_length=1024, parallel=3)["parallel"] == 3
        assert service.http.get("/models/nobody/fit").status_code == 404
        assert service.model()["state"] == "stopped"


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("context_length=8k", "a whole number from 512 to 1048576 (tokens, for each conversation), and not '8k'"),
        ("context_length=5", "a whole number from 512 to 1048576 (tokens, for each conversation), and not '5'"),
        ("parallel=", "a whole number from 1 to 64 (conversations at once), and not ''"),
        ("cache_type=q9", "one of f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1, and not 'q9'"),
        (f"within_s={'9' * 500}", f"a number from 0 to 10 (seconds to wait for a hub's answer), and not '{'9' * 40}'"),
    ],
)
def test_number_that_cannot_be_asked_for_is_told_with_what_can(fake: Service, query: str, told: str) -> None:
    """In words: a type of the program's says nothing to whoever wrote the query."""
    answer = fake.http.get(f"/models/small/fit?{query}")
    name = query.partition("=")[0]

    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": f"{name} must be {told}",
        "type": "invalid_request_error",
        "param": name,
        "code": None,
    }


def test_open_numbers_are_found_at_the_start_and_shown(make_lab: MakeLab) -> None:
    models = {"small": {"context_length": "auto", "parallel": "auto"}}
    lab = make_lab("embedded", models=models, profile=ROOM)
    with lab.serve() as service:
        assert service.chat().status_code == 200
        (entry,) = service.http.get("/v1/models").json()["data"]
        assert entry["context_length"] == 8192
        assert service.model()["slots"] > 1


def test_model_without_a_file_is_answered_honestly(make_lab: MakeLab) -> None:
    lab = make_lab("embedded", models={"small": {}, "far": {}}, missing=["far"], profile=ROOM)
    with lab.serve() as service:
        answer = service.http.get("/models/far/fit").json()
    assert (answer["fits"], answer["message"]) == (
        None,
        "the file of far is not on disk, so nobody knows what it takes",
    )
