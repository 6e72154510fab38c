"""Fixtures of the tests that run tools in real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.journal import Fact
from app.tools.base import Confinement
from app.tools.toolbox import Toolbox
from tests.tools.shed import toolbox_noting, within


@pytest.fixture
async def facts() -> list[Fact]:
    """What the toolbox noted."""
    return []


@pytest.fixture
async def toolbox(facts: list[Fact]) -> AsyncIterator[Toolbox]:
    """A toolbox of a test's own."""
    async with toolbox_noting(facts.append) as toolbox:
        yield toolbox


@pytest.fixture
def inside(tmp_path: Path) -> Confinement:
    """To read below the test's folder."""
    return within("fs_read", tmp_path)
