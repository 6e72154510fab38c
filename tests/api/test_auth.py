"""Who asks, by which header, and what every route needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api import openai
from app.api.auth import Actor, Auth, Scope
from app.api.routes import owner_app
from app.errors import BadRequestError, NotAuthenticatedError, NotPermittedError, TooManyFailuresError
from app.service import Service
from app.settings import Settings
from tests.support.manifest import loaded

USE, ADMIN = "use-key", "admin-key"
Headers = list[tuple[bytes, bytes]]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings read the environment; these tests speak of none."""
    for name in ("AIRLAB_API_KEY", "AIRLAB_ADMIN_KEY", "AIRLAB_STATE_DIR", "AIRLAB_PROFILE", "LLAMA_SERVER_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def auth() -> Auth:
    return two_keys()


def two_keys() -> Auth:
    return Auth(Settings(api_key=USE, admin_key=ADMIN))


def bearer(key: str) -> Headers:
    return [(b"authorization", b"Bearer " + key.encode())]


def who(auth: Auth, headers: Headers, address: str = "192.0.2.1") -> Actor:
    return auth.who(headers, address=address)


def test_without_keys_everybody_may_do_everything() -> None:
    actor = who(Auth(Settings()), bearer("anything"))

    assert actor == Actor("anonymous", Scope.ADMIN)


def test_each_key_has_its_scope_in_either_header(auth: Auth) -> None:
    for key, scope in ((USE, Scope.USE), (ADMIN, Scope.ADMIN)):
        assert who(auth, bearer(key)).scope is scope
        assert who(auth, [(b"x-api-key", key.encode())]).scope is scope
        assert who(auth, [*bearer(key), (b"x-api-key", key.encode())]).scope is scope, "twice the same is one"


def test_scheme_is_not_case_sensitive_and_spaces_do_not_count(auth: Auth) -> None:
    assert who(auth, [(b"authorization", b"  bEARER   use-key ")]).scope is Scope.USE


@pytest.mark.parametrize(
    "headers", [[], [(b"authorization", b"Bearer ")], [(b"authorization", b"Bearer")], [(b"x-api-key", b"")]]
)
def test_no_key_and_an_empty_one_are_nobody_and_no_failure(auth: Auth, headers: Headers) -> None:
    for _ in range(20):
        assert who(auth, headers) == Actor("anonymous", Scope.OPEN)


def test_two_different_keys_are_refused_and_not_the_better_one_taken(auth: Auth) -> None:
    with pytest.raises(BadRequestError):
        who(auth, [*bearer(USE), (b"x-api-key", ADMIN.encode())])


@given(st.binary(max_size=200))
def test_no_other_bytes_are_a_key(key: bytes) -> None:
    """compare_digest raises TypeError for text that is not ASCII; bytes of any kind must only be wrong."""
    if key.strip() and key.strip() not in {USE.encode(), ADMIN.encode()}:
        with pytest.raises(NotAuthenticatedError):
            who(two_keys(), [(b"x-api-key", key)])


def test_tenth_failure_closes_the_address_for_a_minute_and_no_other(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr("app.api.auth.time.monotonic", lambda: now_s[0])
    for _ in range(10):
        with pytest.raises(NotAuthenticatedError):
            who(auth, bearer("wrong"))

    with pytest.raises(TooManyFailuresError) as caught:
        who(auth, bearer("wrong"))
    assert caught.value.retry_after_s == 60
    assert who(auth, bearer(USE), address="192.0.2.2").scope is Scope.USE
    assert who(auth, []).scope is Scope.OPEN, "health stays open"

    now_s[0] += 60.5
    assert who(auth, bearer(USE)).scope is Scope.USE


def test_scopes_include_the_lower_ones(auth: Auth) -> None:
    auth.require(Actor("a", Scope.ADMIN), Scope.USE)
    auth.require(Actor("a", Scope.OPEN), Scope.OPEN)
    with pytest.raises(NotPermittedError):
        auth.require(Actor("a", Scope.USE), Scope.ADMIN)
    with pytest.raises(NotAuthenticatedError):
        auth.require(Actor("a", Scope.OPEN), Scope.USE)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service that never starts."""
    manifest = loaded("small", {"small": {"filename": "a.gguf"}})
    return Service(Settings(manifest=tmp_path / "airlab.yaml"), manifest)


def test_every_route_names_the_scope_it_needs(service: Service, auth: Auth) -> None:
    """A route without one would be open, or broken, by oversight."""
    walked = []
    for route in owner_app(service, auth).routes:
        for handler in getattr(route, "route_handlers", ()):
            methods = handler.http_methods - {"OPTIONS"}  # answered by the guard, before any route
            if methods:
                walked.append(route.path)
                assert isinstance(handler.opt.get("scope"), Scope), f"{methods} {route.path} names no scope"

    assert {"/health", "/shutdown", "/schema/openapi.json"} <= set(walked)
    assert openai.NEEDS is Scope.USE


def test_what_changes_anything_for_everybody_needs_the_admin_key(service: Service, auth: Auth) -> None:
    changing = {"/model/switch", "/models/{name:str}/load", "/models/{name:str}/unload", "/shutdown", "/command"}

    for route in owner_app(service, auth).routes:
        for handler in getattr(route, "route_handlers", ()):
            if "POST" in handler.http_methods and route.path in changing:
                changing.remove(route.path)
                assert handler.opt["scope"] is Scope.ADMIN, route.path
    assert not changing
