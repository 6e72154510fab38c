"""Fixtures of the tests that run AirLab's image, and its compose.yaml, in a real Docker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.compose import Project, project, require_docker


def pytest_runtest_setup(item: pytest.Item) -> None:
    """All tests of this folder need Docker and the image."""
    if item.get_closest_marker("docker"):
        require_docker()


@pytest.fixture(scope="module")
def running() -> Iterator[Project]:
    """One project for the tests of a module that leave it as they found it; without the launcher."""
    require_docker()
    with project("airlab") as made:
        yield made
