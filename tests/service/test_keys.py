"""Who may do what, over real HTTP: no key on loopback, two keys elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, CHAT, HELLO, KEYS, USE_KEY, Lab, Service

ADMIN_ROUTES = [
    *("/model/switch", "/models/small/load", "/models/small/unload", "/shutdown", "/command"),
    *("/manifest/reload", "/tools/write_file/call"),
]


@pytest.fixture
def guarded(make_lab: MakeLab) -> Iterator[Service]:
    """A service with keys; its client sends none."""
    with make_lab(environment=KEYS).serve() as service:
        yield service


def bearer(key: str | bytes) -> dict[str, Any]:
    return {"authorization": b"Bearer " + (key.encode() if isinstance(key, str) else key)}


def assert_is_401(answer: httpx.Response) -> None:
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


def test_on_loopback_nobody_needs_a_key_and_any_key_will_do(make_lab: MakeLab) -> None:
    """OpenAI clients insist on sending one."""
    with make_lab().serve() as service:
        assert service.http.get("/v1/models").status_code == 200
        assert service.http.get("/v1/models", headers=bearer("sk-anything")).status_code == 200
        assert service.http.post("/models/small/unload").status_code == 200


@pytest.mark.parametrize(
    ("set_keys", "missing"),
    [
        ({}, ["AIRLAB_API_KEY", "AIRLAB_ADMIN_KEY"]),
        ({"AIRLAB_API_KEY": "a"}, ["AIRLAB_ADMIN_KEY"]),
        ({"AIRLAB_ADMIN_KEY": "b"}, ["AIRLAB_API_KEY"]),
        ({"AIRLAB_API_KEY": "", "AIRLAB_ADMIN_KEY": ""}, ["AIRLAB_API_KEY", "AIRLAB_ADMIN_KEY"]),
    ],
    ids=["none", "one", "the other", "empty"],
)
def test_fault_064_wider_than_loopback_without_both_keys_is_refused_with_the_lines_to_add(
    make_lab: MakeLab, set_keys: dict[str, str], missing: list[str]
) -> None:
    done = make_lab(environment=set_keys).run("serve", "--host", "0.0.0.0")

    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert [line.strip().partition("=")[0] for line in lines if "export" in line] == [f"export {m}" for m in missing]
    assert "Traceback" not in done.stderr


def test_wider_host_in_the_manifest_is_refused_too(make_lab: MakeLab) -> None:
    done = make_lab(server={"host": "::"}).run("serve")

    assert done.returncode == 1
    assert "server.host is ::" in done.stderr


def test_wider_than_loopback_with_both_keys_serves_those_who_have_one(make_lab: MakeLab) -> None:
    with make_lab(environment={**KEYS, "AIRLAB_HOST": "0.0.0.0"}).serve() as service:
        here = service.url.replace("0.0.0.0", "127.0.0.1")
        assert_is_401(httpx.get(f"{here}/v1/models"))
        assert httpx.get(f"{here}/v1/models", headers=bearer(USE_KEY)).status_code == 200


def test_every_route_but_health_needs_a_key(fake: Service) -> None:
    paths = fake.http.get("/schema").json()["paths"]
    routes = [(method, path.replace("{name}", "small")) for path, methods in paths.items() for method in methods]
    routes += [("get", "/schema"), ("get", "/v1/models"), ("get", "/v1/models/small"), ("get", "/v1/nope")]
    routes += [("post", path) for path in (CHAT, "/v1/completions", "/v1/embeddings", "/v1/rerank")]
    assert ("post", "/shutdown") in routes

    for method, path in routes:
        answer = httpx.request(method, f"{fake.url}{path}", json={} if method == "post" else None)
        if path == "/health":
            assert answer.status_code == 200
        else:
            assert_is_401(answer)


@pytest.mark.parametrize("path", ADMIN_ROUTES)
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_fault_059_use_key_is_not_enough_for_an_admin_route_in_either_header(
    fake: Service, path: str, header: str
) -> None:
    value = f"Bearer {USE_KEY}" if header == "authorization" else USE_KEY
    body = {} if path.endswith("/call") else {"model_key": "small", "command": "mem"}
    answer = httpx.post(f"{fake.url}{path}", json=body, headers={header: value})

    assert answer.status_code == 403, answer.text
    assert answer.json()["error"]["type"] == "permission_error"


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_keys_are_good_for_what_they_are_for_in_either_header(fake: Service, header: str) -> None:
    for key, path in ((USE_KEY, "/ps"), (ADMIN_KEY, "/ps")):
        value = f"Bearer {key}" if header == "authorization" else key
        assert httpx.get(f"{fake.url}{path}", headers={header: value}).status_code == 200
    chat = httpx.post(
        f"{fake.url}{CHAT}", json={"messages": HELLO, "max_tokens": 1}, headers={"x-api-key": USE_KEY}, timeout=30
    )
    assert chat.status_code == 200


def test_health_shows_three_fields_without_a_key_and_more_with_one(fake: Service) -> None:
    assert httpx.get(f"{fake.url}/health").json().keys() == {"status", "message", "model_key"}
    assert httpx.get(f"{fake.url}/health", headers=bearer(USE_KEY)).json().keys() == {
        *("status", "message", "model_key", "state", "device", "loaded", "generation", "reload_error")
    }


def test_fault_058_wrong_keys_of_any_kind_get_the_same_401(guarded: Service) -> None:
    wrong: list[str | bytes] = ["wrong", USE_KEY[:-1], USE_KEY + "x", "schlüssel", b"\xff\xfe", "k" * 10_240]

    answers = [guarded.http.get("/v1/models", headers=bearer(key)) for key in wrong]
    answers.append(guarded.http.get("/health", headers=bearer("wrong")))

    for answer in answers:
        assert_is_401(answer)
    assert len({answer.json()["error"]["message"] for answer in answers}) == 1


def test_fault_062_eleventh_wrong_key_is_a_429_that_says_when_to_come_back(guarded: Service) -> None:
    statuses = [guarded.http.get("/v1/models", headers=bearer(f"guess {n}")).status_code for n in range(10)]
    refused = guarded.http.get("/v1/models", headers=bearer("guess 10"))

    assert statuses == [401] * 10
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert guarded.http.get("/health").status_code == 200
    # Behind a proxy all clients have one address: a right key is never refused for the wrong ones of others.
    assert guarded.http.get("/v1/models", headers=bearer(USE_KEY)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Basic dXNlOmtleQ=="}, {"authorization": f"Bearer {USE_KEY}", "x-api-key": ADMIN_KEY}],
    ids=["basic", "two keys"],
)
def test_credentials_that_are_unclear_are_a_400(fake: Service, headers: dict[str, str]) -> None:
    assert httpx.get(f"{fake.url}/v1/models", headers=headers).status_code == 400


def test_key_in_the_query_is_no_key(fake: Service) -> None:
    """It would end up in the logs of proxies."""
    assert_is_401(httpx.get(f"{fake.url}/v1/models", params={"api_key": USE_KEY, "key": USE_KEY}))


def test_no_key_is_ever_written_to_the_log(make_lab: MakeLab) -> None:
    lab: Lab = make_lab(environment={**KEYS, "AIRLAB_LOG_LEVEL": "debug"})
    with lab.serve(key=ADMIN_KEY) as service:
        assert service.chat().status_code == 200
        service.http.get("/v1/models", headers=bearer("wrong-key-of-a-guest"))
        log = service.log

    assert not [key for key in (USE_KEY, ADMIN_KEY, "wrong-key-of-a-guest") if key in log]
