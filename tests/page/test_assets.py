"""The status page's three files: open, from memory, locked in by their headers; everything else is as it was."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, BOUND_S, Service

FILES = {
    "/": "text/html",
    "/page.css": "text/css",
    "/page.js": "text/javascript",
}


def ask(service: Service, method: str, path: str, **headers: str) -> httpx.Response:
    """Without the service's key."""
    return httpx.request(method, f"{service.url}{path}", headers=headers, timeout=BOUND_S)


@pytest.mark.parametrize("path", FILES)
def test_file_needs_no_key_and_lets_nothing_else_run(fake: Service, path: str) -> None:
    """It is the same for everybody; what it shows is asked for with a key."""
    answer = ask(fake, "GET", path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, f"{FILES[path]}; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", FILES)
def test_browser_that_has_the_file_gets_it_once(fake: Service, path: str) -> None:
    first, head = ask(fake, "GET", path), ask(fake, "HEAD", path)
    assert first.headers["cache-control"] == "no-cache"
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])
    again = ask(fake, "GET", path, **{"if-none-match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert ask(fake, "GET", path, **{"if-none-match": '"other"'}).status_code == 200


def test_page_names_no_file_of_another_server_and_no_script_or_style_of_its_own(fake: Service) -> None:
    """Its policy would keep them out; so nobody may begin to rely on them."""
    text = "".join(ask(fake, "GET", path).text for path in FILES)
    addresses = set(re.findall(r"\bhttps?://[^\s'\"]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not addresses
    html = ask(fake, "GET", "/").text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage|cookie", text)


def test_other_paths_and_methods_are_still_answered_in_json(fake: Service) -> None:
    for method, path, status in (("GET", "/page.html", 404), ("GET", "/index.html", 404), ("POST", "/", 405)):
        answer = ask(fake, method, path)
        assert (answer.status_code, "error" in answer.json()) == (status, True), path


def test_page_may_change_something_from_its_own_origin_alone(make_lab: MakeLab) -> None:
    """Without keys on loopback, any page in the same browser could otherwise load and unload models."""
    with make_lab().serve() as service:
        elsewhere = {"origin": "http://evil.example", "sec-fetch-site": "cross-site"}
        assert ask(service, "POST", "/models/small/load", **elsewhere).status_code == 403
        assert ask(service, "DELETE", "/models/small/pull", **elsewhere).status_code == 403
        own = {"origin": service.url, "sec-fetch-site": "same-origin"}
        assert ask(service, "POST", "/models/small/load", **own).status_code == 200


def test_memory_that_models_share_is_told_with_their_states(make_lab: MakeLab) -> None:
    with make_lab(profile={"memory": {"ram": "2GiB"}}).serve() as service:
        service.http.post("/models/small/load").raise_for_status()
        [share] = service.http.get("/ps").json()["memory"]
        assert share["device"] == "RAM"
        assert 0 < share["promised_bytes"] <= share["limit_bytes"] <= 2 * 2**30
        service.http.post("/models/small/unload").raise_for_status()
        assert service.http.get("/ps").json()["memory"][0]["promised_bytes"] == 0


def test_head_says_whether_a_key_may_change_anything(fake: Service) -> None:
    """The page hides its buttons by this."""
    assert ask(fake, "HEAD", "/manifest").status_code == 401
    assert ask(fake, "HEAD", "/manifest", authorization=f"Bearer {ADMIN_KEY}").status_code == 200
