"""llama-server as a child process: which program it is, whose folder its socket lies in, what a stop leaves."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.engines.base import Fit, Launch, WeightsId
from app.engines.command import launch_for
from app.engines.native import NativeEngine, NativeRunning
from app.errors import EngineError
from tests.fakes import run_spec
from tests.support.fake import fake_llama_server_command, grandchildren_of, write_fault

BOUND_S = 20.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket's may have 107 bytes, and pytest's own are long."""
    with tempfile.TemporaryDirectory(prefix="al-", ignore_cleanup_errors=False) as name:
        yield Path(name)


@pytest.fixture
def model(folder: Path) -> Path:
    file = folder / "m.gguf"
    file.write_bytes(b"GGUF")
    return file


@pytest.fixture
async def native(folder: Path) -> AsyncIterator[NativeEngine]:
    """An engine on the scripted llama-server; nothing of it is left."""
    engine = NativeEngine(folder / "run", fake_llama_server_command(folder))
    yield engine
    await engine.sweep()


def launch(native: NativeEngine, model: Path, number: int = 1) -> Launch:
    run = run_spec(weights=WeightsId(model, 4, 1))
    return launch_for("m", run, socket=native.run_dir / f"{number}-m.sock", environment=os.environ)


async def up(running: NativeRunning) -> NativeRunning:
    """The same, once it says that its model is loaded."""
    return await said(running, "model loaded")


async def said(running: NativeRunning, text: str) -> NativeRunning:
    async with asyncio.timeout(BOUND_S):
        while not any(text in line for line in running.last_lines()):  # noqa: ASYNC110 # a log tail makes no event
            await asyncio.sleep(0.01)
    return running


def test_program_that_was_named_is_taken(folder: Path) -> None:
    command = fake_llama_server_command(folder)
    link = folder / "link"
    link.symlink_to(command)
    assert NativeEngine(folder, link).program() == (str(command.resolve()),)


@pytest.mark.parametrize("kind", ["missing", "folder", "not executable"])
def test_named_program_that_cannot_run_is_refused_and_not_replaced_by_another(folder: Path, kind: str) -> None:
    named = folder / "named"
    if kind == "folder":
        named.mkdir()
    elif kind == "not executable":
        named.touch(mode=0o644)
    with pytest.raises(EngineError, match=f"LLAMA_SERVER_PATH={named} is no executable file; correct it, or unset it"):
        NativeEngine(folder, named).program()


def test_program_on_the_path_comes_before_the_embedded_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    assert NativeEngine(folder, None).program() == (sys.executable, "-m", "app.engines.embedded")
    command = fake_llama_server_command(folder)
    assert NativeEngine(folder, None).program() == (str(command),)


async def test_stop_leaves_neither_process_nor_socket(native: NativeEngine, model: Path) -> None:
    running = await up(await native.start(launch(native, model)))
    assert running.socket.exists()
    assert running.pid is not None
    assert psutil.pid_exists(running.pid)
    assert await running.stop(grace_s=BOUND_S)
    assert not running.socket.exists()
    assert not psutil.pid_exists(running.pid)
    assert (await running.exited()).code == 0


async def test_sockets_lie_in_a_folder_that_only_we_can_enter(native: NativeEngine, model: Path) -> None:
    running = await native.start(launch(native, model))
    assert native.run_dir.stat().st_mode & 0o777 == 0o700
    assert await running.stop(grace_s=BOUND_S)


async def test_stale_socket_of_a_dead_server_is_no_hindrance(native: NativeEngine, model: Path) -> None:
    first = await up(await native.start(launch(native, model)))
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    assert (await first.exited()).code == -signal.SIGKILL
    assert first.socket.exists()
    second = await up(await native.start(launch(native, model)))
    assert await second.stop(grace_s=BOUND_S)


async def test_end_comes_with_the_last_lines(native: NativeEngine, model: Path) -> None:
    write_fault(model, exit_code=1, exit_message="error: invalid argument: --wrong")
    running = await native.start(launch(native, model))
    async with asyncio.timeout(BOUND_S):
        end = await running.exited()
    assert end.code == 1
    assert end.last_lines[-1] == "error: invalid argument: --wrong"
    assert await running.stop(grace_s=0)


async def test_stop_ends_a_grandchild_in_a_session_of_its_own_too(native: NativeEngine, model: Path) -> None:
    write_fault(model, fork_setsid_grandchild=True, ignore_sigterm=True)
    running = await up(await native.start(launch(native, model)))
    (grandchild,) = grandchildren_of(model)
    assert psutil.pid_exists(grandchild)
    assert await running.stop(grace_s=0.1)
    assert (await running.exited()).code == -signal.SIGKILL
    with suppress(psutil.NoSuchProcess):  # whoever adopted it may bury it at any moment
        assert psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


async def test_sweep_ends_what_a_predecessor_left_and_nothing_else(native: NativeEngine, model: Path) -> None:
    other = NativeEngine(native.run_dir.with_name("run2"), native._llama_server_path)
    left = await up(await native.start(launch(native, model)))
    kept = await up(await other.start(launch(other, model)))
    try:
        await native.sweep()
        async with asyncio.timeout(BOUND_S):
            assert (await left.exited()).code == -signal.SIGKILL
        assert list(native.run_dir.iterdir()) == []
        assert kept.socket.exists()
    finally:
        assert await kept.stop(grace_s=BOUND_S)
        assert await left.stop(grace_s=0)


async def test_folder_is_made_again_when_something_cleared_it_away(native: NativeEngine, model: Path) -> None:
    await native.sweep()
    shutil.rmtree(native.run_dir)
    running = await up(await native.start(launch(native, model)))
    assert await running.stop(grace_s=BOUND_S)


async def test_folder_behind_a_link_is_refused(native: NativeEngine, model: Path, folder: Path) -> None:
    """In /tmp anybody may have been there first, to have our sockets where others can reach them."""
    (folder / "theirs").mkdir()
    native.run_dir.symlink_to(folder / "theirs")
    with pytest.raises(EngineError, match="belongs to somebody else"):
        await native.start(launch(native, model))
    with pytest.raises(EngineError, match="set TMPDIR to another folder"):
        await native.sweep()
    native.run_dir.unlink()


async def test_folder_that_cannot_be_made_is_an_engine_error(native: NativeEngine, model: Path) -> None:
    """Anything else would leave the model starting for ever, and whoever waits for it waiting."""
    native.run_dir.write_text("a file is in the way")
    with pytest.raises(EngineError, match="make room for it, or set TMPDIR"):
        await native.start(launch(native, model))
    native.run_dir.unlink()


async def test_socket_of_an_engine_that_would_not_die_stays(native: NativeEngine, model: Path) -> None:
    """Its path must not be given to another while it may still listen."""
    running = await up(await native.start(launch(native, model)))

    async def survive(*, grace_s: float) -> bool:
        return False

    real, running._child.stop = running._child.stop, survive  # type: ignore[method-assign]
    assert not await running.stop(grace_s=0)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(running.socket))
    running._child.stop = real  # type: ignore[method-assign]
    assert await running.stop(grace_s=BOUND_S)


async def test_program_is_kept_to_the_processors_of_its_node(native: NativeEngine, model: Path) -> None:
    """Its memory then comes from that node, since it is taken where it is first touched."""
    (cpu, *_) = sorted(os.sched_getaffinity(0))
    running = await up(await native.start(replace(launch(native, model), fit=Fit(512, 1, 0, 1, cpus=(cpu,)))))
    try:
        assert running.pid is not None
        assert os.sched_getaffinity(running.pid) == {cpu}
    finally:
        assert await running.stop(grace_s=5)


async def test_node_without_a_way_to_keep_to_it_is_an_error_with_a_way_out(
    native: NativeEngine, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(EngineError, match="install util-linux, or write numa: distribute"):
        await native.start(replace(launch(native, model), fit=Fit(512, 1, 0, 1, cpus=(0,))))
