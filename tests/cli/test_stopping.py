"""A service that is told to stop ends, whatever fails on its way."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from app.cli.server import Server
from app.errors import StorageError
from app.manifest.load import read_manifest
from app.service import Service
from app.settings import Settings
from tests.support.service import ROOT


async def test_stop_that_fails_ends_the_server_all_the_same() -> None:
    """It would answer for ever with nothing behind it, and only SIGKILL would help."""

    async def stop(**_: Any) -> bool:
        raise StorageError("the disk is full")

    service = cast("Service", SimpleNamespace(stop=stop, request_exit=None))
    with socket.socket() as listener:
        server = Server(uvicorn.Config("unused"), service, listener)
        server.begin_exit()
        assert server._draining is not None
        with pytest.raises(StorageError):
            await server._draining

    assert server.should_exit
    assert not server.clean


async def test_store_that_cannot_be_closed_does_not_keep_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost with it: the next start folds SQLite's log in."""
    (tmp_path / "airlab.yaml").write_text((ROOT / "airlab.yaml").read_text().replace("preload: true", "preload: false"))
    settings = Settings(manifest=tmp_path / "airlab.yaml", state_dir=tmp_path / "state")
    service = Service(settings, read_manifest(settings.manifest))
    await service.start()

    async def close() -> None:
        await closing()
        raise StorageError("the disk is full")

    closing = service.database.close
    monkeypatch.setattr(service.database, "close", close)
    async with asyncio.timeout(20):
        assert await service.stop(drain_s=0)

    assert "store not folded" in caplog.text
    again = Service(settings, read_manifest(settings.manifest))
    await again.start()  # its lock is free
    assert await again.stop(drain_s=0)
