"""A real browser without a window: chromium through chromedriver, spoken to over HTTP (W3C WebDriver).

Knows pages and elements; what a page should show is for the tests.
"""

from __future__ import annotations

import base64
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service import BOUND_S, wait_until

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key that WebDriver puts an element's id under."""
_PORT = re.compile(r"started successfully on port (\d+)")
_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
)


def require_browser() -> None:
    """Leave the test out where there is no browser; fail it where there should be one."""
    if shutil.which("chromium") and shutil.which("chromedriver"):
        return
    text = "chromium and chromedriver are not on PATH, so the tests of the page in a browser are left out"
    if os.environ.get("AIRLAB_TEST_REQUIRE_BROWSER") == "1":
        pytest.fail(text)
    pytest.skip(text)


@dataclass
class Element:
    """One element of the page."""

    browser: Browser
    id: str

    def click(self) -> None:
        """As with a mouse."""
        self.browser.ask("POST", f"/element/{self.id}/click", {})

    def type(self, text: str) -> None:
        """As on a keyboard."""
        self.browser.ask("POST", f"/element/{self.id}/value", {"text": text})

    @property
    def text(self) -> str:
        """What is to be read of it."""
        return str(self.browser.ask("GET", f"/element/{self.id}/text"))

    @property
    def is_shown(self) -> bool:
        """Whether it is to be seen at all."""
        return bool(self.browser.ask("GET", f"/element/{self.id}/displayed"))

    def find(self, selector: str) -> Element:
        """The first in it that a CSS selector fits."""
        asked = {"using": "css selector", "value": selector}
        return Element(self.browser, self.browser.ask("POST", f"/element/{self.id}/element", asked)[_ELEMENT])


@dataclass
class Browser:
    """One window, with nothing in it of any before."""

    http: httpx.Client

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One command of WebDriver's. Fails the test with the browser's words."""
        answer = self.http.request(method, path.lstrip("/"), json=body)
        value = answer.json()["value"]
        assert answer.is_success, f"{path}: {value['error']}: {value['message']}"
        return value

    def open(self, url: str) -> None:
        """Go to a page; returns when it is loaded."""
        self.ask("POST", "/url", {"url": url})

    def find(self, selector: str) -> Element:
        """The first element that a CSS selector fits."""
        found = self.ask("POST", "/element", {"using": "css selector", "value": selector})
        return Element(self, found[_ELEMENT])

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function with this body returns."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str, what: str) -> Any:
        """Wait until an expression is true in the page; what it is then."""
        return wait_until(lambda: self.run(f"return {script}"), what, every_s=0.1)

    def console(self) -> list[str]:
        """What was written into the console since the last call: errors, and what the content policy kept out."""
        entries = self.ask("POST", "/se/log", {"type": "browser"})
        return [f"{entry['level']} {entry['message']}" for entry in entries]

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Make the window so large, on a host of this theme."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.cdp("Emulation.setDeviceMetricsOverride", **size)
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])

    def cdp(self, command: str, **values: Any) -> Any:
        """A command of the browser's own protocol."""
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": values})

    def picture(self, file: Path) -> None:
        """What the window shows, as PNG."""
        file.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser of the block's own; at its end nothing of it is left, on disk or running."""
    with ExitStack() as stack:
        profile = tempfile.mkdtemp(prefix="airlab-browser-")
        stack.callback(shutil.rmtree, profile, ignore_errors=True)
        driver = stack.enter_context(_driver(profile))
        options = {"args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        http = stack.enter_context(httpx.Client(base_url=driver, timeout=BOUND_S, trust_env=False))
        answer = http.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
        assert "sessionId" in answer, answer
        http.base_url = httpx.URL(f"{driver}/session/{answer['sessionId']}")
        try:
            yield Browser(http)
        finally:
            http.delete(http.base_url)


@contextmanager
def _driver(profile: str) -> Iterator[str]:
    """chromedriver, in a process group of its own with all that it starts; its address."""
    process = subprocess.Popen(
        ["chromedriver", "--port=0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": profile, "TMPDIR": profile},
        start_new_session=True,
    )
    try:
        assert process.stdout
        port = None
        while port is None:
            ready, _, _ = select.select([process.stdout], [], [], BOUND_S)
            line = process.stdout.readline() if ready else ""
            assert line, "chromedriver did not say where it listens"
            port = _PORT.search(line)
        yield f"http://127.0.0.1:{port[1]}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()
