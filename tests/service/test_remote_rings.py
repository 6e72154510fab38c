"""Two AirLabs that have models of each other: what goes in a ring is refused, what only comes by twice is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from tests.conftest import MakeLab
from tests.support.service import HELLO, Lab, Service, wait_until

NOWHERE = "http://127.0.0.1:9"
Two = tuple[Service, Service]


def lab_of(make_lab: MakeLab, **remotes: tuple[str, str]) -> Lab:
    """An AirLab with ``small`` of its own, and these models elsewhere; one slot each, so that a ring has no room."""
    lab = make_lab("fake", models={"small": {}})
    point(lab, **remotes)
    return lab


def point(lab: Lab, **remotes: tuple[str, str]) -> None:
    """Have these models run at these addresses, under these names."""
    manifest = json.loads(lab.manifest.read_text())
    for key, (url, name) in remotes.items():
        manifest["models"][key] = {"remote": {"url": url, "model": name}, "parallel": 1}
    lab.write_manifest(json.dumps(manifest))


@pytest.fixture
def two(make_lab: MakeLab) -> Iterator[Two]:
    """``ring`` of each is ``ring`` of the other; ``there`` of one is ``back`` of the other, and that ``small``."""
    first = lab_of(make_lab, ring=(NOWHERE, "ring"), there=(NOWHERE, "back"), own=(NOWHERE, "own"))
    with first.serve() as one:
        second = lab_of(make_lab, ring=(one.url, "ring"), back=(one.url, "small"))
        with second.serve() as other:
            point(first, ring=(other.url, "ring"), there=(other.url, "back"), own=(one.url, "own"))
            for key in ("ring", "there", "own"):
                one.until_state(key, "ready")
            for key in ("ring", "back"):
                other.until_state(key, "ready")
            yield one, other


def is_idle(service: Service) -> bool:
    return all(row["busy"] == row["waiting"] == 0 for row in service.http.get("/ps").json()["models"])


def require_ring(answer: httpx.Response) -> None:
    assert answer.status_code == 508
    error = answer.json()["error"]
    assert error["code"] == "loop_detected"
    assert "to fix: let one of them run the model itself" in error["message"]


@pytest.mark.parametrize("key", ["ring", "own"])
def test_request_in_a_ring_is_refused_and_holds_nothing(two: Two, key: str) -> None:
    """Unmarked it fed itself: all slots of both hosts were busy with one request, long after its client had left."""
    one, other = two
    require_ring(one.chat(model=key))
    with one.stream(model=key) as stream:
        stream.read()
    require_ring(stream)
    require_ring(one.http.post("/chat", json={"messages": HELLO, "model": key}))
    for service in two:
        wait_until(partial(is_idle, service), "nothing is held")
    assert other.chat(model="small").status_code == 200


def test_request_that_comes_back_to_a_model_of_our_own_is_served(two: Two) -> None:
    """A way round the house ends: only what would be passed on once more is refused."""
    one, _ = two
    assert one.chat(model="there").status_code == 200


def test_header_that_no_airlab_wrote_is_refused_where_it_would_be_passed_on(two: Two) -> None:
    one, _ = two
    for value in ("x", "0123456789abcdef,,", "0123456789ABCDEF"):
        asked = one.http.post(
            "/v1/chat/completions", json={"messages": HELLO, "model": "there"}, headers={"x-airlab-via": value}
        )
        assert asked.status_code == 400, value
        assert asked.json()["error"]["param"] == "X-AirLab-Via"
    headers = {"x-airlab-via": ", ".join(["0123456789abcdef"] * 3)}
    body = {"messages": HELLO, "max_tokens": 4}
    assert one.http.post("/v1/chat/completions", json={**body, "model": "small"}, headers=headers).status_code == 200
    too_far = one.http.post("/v1/chat/completions", json={**body, "model": "there"}, headers=headers)
    assert too_far.status_code == 508
    assert "came through 3 AirLabs already" in too_far.json()["error"]["message"]
