"""The status page in a real browser: what it shows, what its buttons do, and that text of others stays text."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import MakeLab
from tests.support.browser import Browser, Element, running_browser
from tests.support.gguf import minimal_gguf
from tests.support.hub import Hub, running_hub
from tests.support.service import ADMIN_KEY, BOUND_S, KEYS, USE_KEY, Lab, Service, wait_until

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="window.ran = 1"><script>window.ran = 1</script>'
WEIGHTS = minimal_gguf() + bytes(200_000)


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    """A page that writes nothing into the console: neither an error nor what the content policy kept out."""
    window.look()
    window.console()
    yield window
    # A request that was refused is a line there, too, and that is right.
    assert [line for line in window.console() if "Failed to load resource" not in line] == []
    window.open("about:blank")


@pytest.fixture
def port() -> Iterator[str]:
    """A port that nobody else is given, also while no AirLab listens there."""
    with socket.socket() as kept:
        # As AirLab has it: who wants this port gets it as long as nobody listens, who wants any free one does not.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield str(kept.getsockname()[1])


def row(browser: Browser, key: str) -> Element:
    return browser.find(f'#rows li[data-name="{key}"]')


def until_state(browser: Browser, key: str, state: str) -> None:
    words = f"document.querySelector('#rows li[data-name=\"{key}\"] .badge')?.textContent === '{state}'"
    browser.until(words, f"the page shows {key} as {state}")


def until_said(browser: Browser, words: str) -> None:
    until_text(browser, "words", words)


def until_text(browser: Browser, element: str, words: str) -> None:
    script = f"document.getElementById({json.dumps(element)}).textContent.includes({json.dumps(words)})"
    browser.until(script, f"the page says {words}")


def shown_buttons(browser: Browser, key: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].filter(b => !b.hidden).map(b => b.textContent)"
    found: list[str] = browser.run(script, f'#rows li[data-name="{key}"] .buttons button')
    return found


def test_model_is_loaded_and_unloaded_by_its_buttons(browser: Browser, make_lab: MakeLab) -> None:
    lab = make_lab("fake", models={"small": {}, "other": {}}, profile={"parallel": 2})
    gate = lab.folder / "loaded"
    lab.fault("small", load_until_file=str(gate), progress=True)
    with lab.serve() as service:
        browser.open(service.url)
        until_state(browser, "small", "stopped")
        assert shown_buttons(browser, "small") == ["Load", "Log"]
        row(browser, "small").find("[data-does=load]").click()
        until_state(browser, "small", "starting")
        browser.until("document.activeElement.dataset.does === 'unload'", "the keyboard's focus stays in the row")
        gate.touch()
        until_state(browser, "small", "ready")
        until_said(browser, "small is ready")
        assert "0 of 2 slots busy" in row(browser, "small").text
        assert len(browser.run("return [...document.querySelectorAll('#rows .slots i')]")) == 2
        browser.until("document.querySelector('#devices progress')?.value > 0", "the memory that was promised is drawn")

        row(browser, "small").find("[data-does=log]").click()
        browser.until("document.querySelector('#rows .log').textContent !== ''", "its log is shown")
        row(browser, "small").find("[data-does=unload]").click()
        until_state(browser, "small", "stopped")
        assert service.model()["pid"] is None


def test_download_moves_is_cancelled_and_goes_on(browser: Browser, make_lab: MakeLab, hub: Hub) -> None:
    with lab_with_hub(make_lab, hub).serve() as service:
        browser.open(service.url)
        until_state(browser, "tiny", "stopped")
        assert shown_buttons(browser, "tiny") == ["Download"]
        row(browser, "tiny").find("[data-does=pull]").click()
        assert hub.held.wait(BOUND_S)
        bar = "document.querySelector('#jobs li[data-name=tiny] progress')"
        browser.until(f"{bar}?.value === 50000 && {bar}.max === {len(WEIGHTS)}", "the bar has moved")
        assert "24 %, 48.8 KiB of" in browser.find("#jobs li").text

        browser.find("#jobs button").click()
        until_said(browser, "the download of tiny is cancelled")
        browser.until("document.getElementById('downloads').hidden", "no download is left")
        assert service.http.get("/models/tiny/pull").json()["state"] == "cancelled"

        hub.hold_after = None
        hub.released.set()
        row(browser, "tiny").find("[data-does=pull]").click()
        browser.until("!document.querySelector('li[data-name=tiny] [data-does=load]').hidden", "it is there")
        assert hub.files_asked[-1].range == "bytes=50000-"


def test_downloads_that_fail_while_the_page_is_open_are_news(browser: Browser, make_lab: MakeLab, hub: Hub) -> None:
    """What failed last week stands in its model's row, and is not shown anew each time that somebody opens the page."""
    hub.repos.clear()
    with lab_with_hub(make_lab, hub).serve() as service:
        service.http.post("/models/tiny/pull").raise_for_status()
        wait_until(lambda: service.http.get("/models/tiny/pull").json()["state"] == "failed", "the download has failed")
        browser.open(service.url)
        until_state(browser, "tiny", "stopped")
        assert "its last download failed: " in row(browser, "tiny").text
        assert not browser.find("#downloads").is_shown

        asked = len(hub.asked)
        row(browser, "tiny").find("[data-does=pull]").click()
        browser.until("document.querySelector('#jobs li[data-name=tiny]')", "it is tried again")
        browser.until("document.querySelector('#jobs .figures')?.textContent.includes('has no org')", "it fails again")
        assert browser.find("#downloads").is_shown
        assert "download failed" not in row(browser, "tiny").text

        # What the page showed may have been the first failure, as news since the button was pressed.
        wait_until(
            lambda: len(hub.asked) > asked and service.http.get("/models/tiny/pull").json()["state"] == "failed",
            "the second download has failed",
        )
        browser.open(service.url)
        until_state(browser, "tiny", "stopped")
        assert not browser.find("#downloads").is_shown


def test_text_of_others_stays_text(browser: Browser, make_lab: MakeLab) -> None:
    """Names, descriptions, log lines and errors may come from anybody; the page holds a key."""
    hostile = {"name": HOSTILE, "description": HOSTILE, "usage": HOSTILE}
    lab = make_lab("fake", models={"small": hostile})
    lab.fault("small", exit_code=1, exit_message=HOSTILE)
    with lab.serve() as service:
        browser.open(service.url)
        until_state(browser, "small", "stopped")
        row(browser, "small").find("[data-does=load]").click()
        until_state(browser, "small", "failed")
        row(browser, "small").find("[data-does=log]").click()
        browser.until("document.querySelector('#rows .log').textContent.includes('onerror')", "the log is shown")
        lab.write_manifest(lab.manifest.read_text().replace('"version"', json.dumps(HOSTILE) + ': 1, "version"'))
        browser.until("!document.getElementById('reload').hidden", "the manifest's trouble is shown")
        until_said(browser, "<img src=x onerror=")

        for selector in ("#rows h3", "#rows .description", "#rows .problem", "#rows .log", "#reload-error", "#words"):
            assert "<img src=x onerror=" in browser.find(selector).text, selector
        assert browser.run("return document.querySelectorAll('img, body script, main script').length") == 0
        assert browser.run("return window.ran ?? null") is None


def test_policy_keeps_out_what_text_could_have_brought_and_the_console_says_so(browser: Browser, fake: Service) -> None:
    """The second wall, and the proof that the tests here would see it being touched."""
    browser.open(fake.url)
    browser.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x'}))")
    browser.until("document.images.length === 1", "an image of another server was asked for")
    refused = "try { document.body.innerHTML = '<b>x</b>'; return 'done' } catch (error) { return error.name }"
    assert browser.run(refused) == "TypeError"
    said: list[str] = []

    def are_told() -> bool:
        said.extend(browser.console())
        return all(any(wall in line for line in said) for wall in ("img-src", "TrustedHTML"))

    wait_until(are_told, "the console tells of both")


def test_keys_are_asked_for_kept_for_the_tab_and_decide_what_is_offered(browser: Browser, make_lab: MakeLab) -> None:
    lab = make_lab("fake", environment=KEYS)
    with lab.serve(key=ADMIN_KEY) as service:
        browser.open(service.url)
        enter_key(browser, "a wrong one")
        until_text(browser, "ask-why", "no blanks")
        enter_key(browser, "wrong")
        until_text(browser, "ask-why", "no key of this AirLab")
        assert not browser.find("#models").is_shown

        enter_key(browser, USE_KEY)
        until_state(browser, "small", "stopped")
        assert shown_buttons(browser, "small") == []
        browser.open(service.url)
        until_state(browser, "small", "stopped")

        browser.find("#key-button").click()
        browser.until("document.getElementById('ask').open", "a key is asked for")
        shown = "return document.querySelectorAll('#rows li, #devices li').length"
        assert browser.run(shown) == 0, "what the last key showed is gone from the page"
        enter_key(browser, ADMIN_KEY)
        until_state(browser, "small", "stopped")
        browser.until("!document.querySelector('#rows [data-does=load]').hidden", "the admin key may load")
        row(browser, "small").find("[data-does=load]").click()
        until_state(browser, "small", "ready")
        stored = "return [localStorage.length, document.cookie, Object.keys(sessionStorage)]"
        assert browser.run(stored) == [0, "", ["airlab-key"]]


def test_two_hundred_models_are_filtered_by_name_and_state(browser: Browser, make_lab: MakeLab) -> None:
    lab = make_lab("fake", models={f"model-{number:03}": {} for number in range(200)})
    with lab.serve() as service:
        service.http.post("/models/model-042/load").raise_for_status()
        browser.open(service.url)
        browser.until("document.getElementById('rows').children.length === 200", "all are listed")
        browser.find("#filter").type("ready")
        browser.until("document.getElementById('count').textContent === '1 of 200'", "one is ready")
        assert row(browser, "model-042").is_shown
        assert not row(browser, "model-041").is_shown
        browser.look(width=390, height=844)
        browser.until("document.documentElement.scrollWidth <= 390", "it fits into a narrow window")


def test_page_outlives_airlab_and_shows_its_successor(browser: Browser, make_lab: MakeLab, port: str) -> None:
    lab = make_lab("fake", environment={"AIRLAB_PORT": port})
    with lab.serve() as service:
        browser.open(service.url)
        until_state(browser, "small", "stopped")
    until_text(browser, "message", "does not answer")
    with lab.serve():
        browser.until("document.getElementById('status').textContent === 'ok'", "it is there again")


def test_airlab_that_stands_still_is_shown_as_away(browser: Browser, make_lab: MakeLab) -> None:
    """It takes connections and answers none."""
    with make_lab("fake").serve() as service:
        browser.open(service.url)
        until_state(browser, "small", "stopped")
        service.signal(signal.SIGSTOP)
        try:
            until_text(browser, "message", "does not answer")
        finally:
            service.signal(signal.SIGCONT)
        browser.run("document.dispatchEvent(new Event('visibilitychange'))")  # as when the tab is looked at again
        browser.until("document.getElementById('status').textContent === 'ok'", "it goes on")


def test_what_a_key_may_do_is_asked_again_of_an_airlab_that_comes_back(
    browser: Browser, make_lab: MakeLab, port: str
) -> None:
    lab = make_lab("fake", environment=KEYS | {"AIRLAB_PORT": port})
    with lab.serve(key=ADMIN_KEY) as service:
        browser.open(service.url)
        enter_key(browser, USE_KEY)
        until_state(browser, "small", "stopped")
        assert shown_buttons(browser, "small") == []
    until_text(browser, "message", "does not answer")
    # What was the use key is the admin key now.
    lab.environment = {"AIRLAB_ADMIN_KEY": USE_KEY, "AIRLAB_PORT": port}
    with lab.serve(key=USE_KEY):
        browser.run("document.dispatchEvent(new Event('visibilitychange'))")  # as when the tab is looked at again
        browser.until("!document.querySelector('#rows [data-does=load]').hidden", "it may load now")


def test_loads_that_take_long_leave_the_page_connections_to_look_with(browser: Browser, make_lab: MakeLab) -> None:
    """A browser has six to one server."""
    names = [f"model-{number}" for number in range(6)]
    # Room for all: one that leaves for the next may be gone before anybody has looked.
    lab = make_lab("fake", models={name: {} for name in names}, profile={"max_loaded": len(names)})
    gate = lab.folder / "loaded"
    for name in names:
        lab.fault(name, load_until_file=str(gate), progress=True)
    with lab.serve() as service:
        browser.open(service.url)
        until_state(browser, names[-1], "stopped")
        for name in names:
            browser.run("document.querySelector(arguments[0]).click()", f"li[data-name={name}] [data-does=load]")
        until_said(browser, "4 others are not done yet")
        until_state(browser, names[0], "starting")
        gate.touch()
        for name in names[:4]:
            until_state(browser, name, "ready")


def enter_key(browser: Browser, key: str) -> None:
    browser.until("document.getElementById('ask').open", "a key is asked for")
    browser.find("#key").type(key)
    browser.find("#ask-form [type=submit]").click()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub(hold_after=50_000) as running:
        running.repos["org/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": WEIGHTS}
        yield running


def lab_with_hub(make_lab: MakeLab, hub: Hub) -> Lab:
    models: dict[str, dict[str, Any]] = {"small": {}, "tiny": {"hf_repo": "org/tiny-GGUF:Q4_K_M"}}
    lab = make_lab("fake", models=models, missing=("tiny",), environment={"HF_ENDPOINT": hub.url})
    manifest = json.loads(lab.manifest.read_text())
    del manifest["models"]["tiny"]["filename"]
    lab.write_manifest(json.dumps(manifest))
    return lab
