"""Fixtures of the tests that run a whole AirLab: labs of a test's own, and services that many tests share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.support.browser import require_browser
from tests.support.docker import require_docker
from tests.support.service import ADMIN_KEY, KEYS, EngineKind, Lab, Service, require_real_engine, temporary_lab

# A busy machine is no failure: nothing here may depend on how long an example takes.
hypothesis_settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("unhurried")

MakeLab = Callable[..., Lab]
_SHARED = {"small": {"kind": ["chat", "embedding"], "aliases": ["org/small:q4"]}}


def pytest_configure() -> None:
    """In the background SIGINT is ignored, under nohup SIGHUP, by all that is started here too: tests send both."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``llama`` need the real llama-server, those marked ``docker`` or ``browser`` what they say."""
    if item.get_closest_marker("docker"):
        require_docker()
    if item.get_closest_marker("browser"):
        require_browser()
    if item.get_closest_marker("llama"):
        require_real_engine()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, with a failure, what the services of the test's fixtures wrote."""
    report = yield
    if report.failed and report.when == "call":
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Service):
                report.sections.append((f"log of {name}", value.log[-8000:]))
    return report


@pytest.fixture
def make_lab() -> Iterator[MakeLab]:
    """Makes labs as ``temporary_lab`` does, that go when the test ends."""
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(temporary_lab(*args, **more))


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests that are to be open while the test goes on."""
    with ThreadPoolExecutor(64) as pool:
        yield pool


def _shared(engine: EngineKind) -> Iterator[Service]:
    lab = temporary_lab(engine, models=_SHARED, profile={"parallel": 2}, environment=KEYS)
    with lab as laid, laid.serve(key=ADMIN_KEY) as service:
        yield service


@pytest.fixture(scope="session")
def fake() -> Iterator[Service]:
    """A service with keys on the scripted engine, without faults; for tests that leave it as they found it."""
    yield from _shared("fake")


@pytest.fixture(scope="session")
def embedded() -> Iterator[Service]:
    """The same on the embedded engine."""
    yield from _shared("embedded")


@pytest.fixture(scope="session")
def real() -> Iterator[Service]:
    """The same on the real llama-server."""
    require_real_engine()
    yield from _shared("real")


REAL_ENGINES = ["embedded", pytest.param("real", marks=pytest.mark.llama)]


@pytest.fixture(params=REAL_ENGINES)
def served(request: pytest.FixtureRequest) -> Service:
    """A shared service on an engine that really generates: embedded, and the real llama-server."""
    service: Service = request.getfixturevalue(request.param)
    return service


@pytest.fixture(params=["fake", *REAL_ENGINES])
def anything(request: pytest.FixtureRequest) -> Service:
    """A shared service on any engine, the scripted one included."""
    service: Service = request.getfixturevalue(request.param)
    return service


@pytest.fixture(params=REAL_ENGINES)
def engine_kind(request: pytest.FixtureRequest) -> str:
    """An engine that really generates, for a lab of the test's own."""
    return str(request.param)
