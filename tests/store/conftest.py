"""A real database in a folder of its own, and conversations held in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.store.db import Database
from app.store.sessions import Sessions
from tests.store.talk import Talk


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "airlab.db")
    yield database
    await database.close()


@pytest.fixture
def sessions(database: Database) -> Sessions:
    return Sessions(database)


@pytest.fixture
def talk(database: Database) -> Talk:
    return Talk(database)
