"""Fixtures of the tests that run AirLab's image, and its compose.yaml, in a real Docker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.compose import Project, project
from tests.support.docker import require_docker


@pytest.fixture(scope="module")
def running() -> Iterator[Project]:
    """One project for the tests of a module that leave it as they found it."""
    require_docker()
    with project() as made:
        yield made
