"""Real workers on real folders: what they are given, how they end, and that none is left."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import psutil
import pytest

from app.errors import ToolError
from app.journal import Fact, Journal
from app.tools.base import Confinement, Limits, ToolSpec, discover
from app.tools.pool import ToolsUnavailable
from app.tools.toolbox import Toolbox, WorkerDied
from tests.tools import canaries

BOUND_S = 30
SPECS = discover()
CANARIES = {
    name: made.spec for name in dir(canaries) if (made := getattr(canaries, name)) and type(made).__name__ == "Tool"
}


def workers_of(pid: int) -> list[psutil.Process]:
    # Its own only: a service that other tests share has workers too.
    children = psutil.Process(pid).children()
    return [child for child in children if any("worker/entry.py" in word for word in child.cmdline())]


@pytest.fixture
async def facts() -> list[Fact]:
    return []


@pytest.fixture
async def toolbox(facts: list[Fact]) -> AsyncIterator[Toolbox]:
    journal = Journal()
    journal.subscribe(facts.append)
    entries = [spec.entry for spec in (*SPECS.values(), *CANARIES.values())]
    toolbox = Toolbox(journal, entries, warm=1)
    yield toolbox
    async with asyncio.timeout(BOUND_S):
        await toolbox.close()
    assert workers_of(os.getpid()) == []


@pytest.fixture
def inside(tmp_path: Path) -> Confinement:
    return Confinement("fs_read", read=(PurePosixPath(tmp_path),))


async def run(toolbox: Toolbox, spec: ToolSpec, inside: Confinement, **arguments: object) -> object:
    async with asyncio.timeout(BOUND_S):
        return json.loads(await toolbox.run(spec, arguments, inside, BOUND_S))


async def code_of(toolbox: Toolbox, spec: ToolSpec, inside: Confinement, **arguments: object) -> str:
    with pytest.raises(ToolError) as caught:
        await run(toolbox, spec, inside, **arguments)
    return caught.value.code


async def spinning(toolbox: Toolbox) -> None:
    """Wait until a call has its worker."""
    async with asyncio.timeout(BOUND_S):
        while not toolbox._running:  # noqa: ASYNC110 # the toolbox has no reason to announce it
            await asyncio.sleep(0.001)


async def test_every_builtin_tool_runs_in_a_worker(toolbox: Toolbox, inside: Confinement, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")

    assert await run(toolbox, SPECS["read_file"], inside, path=f"{tmp_path}/a.txt") == {"content": "hello", "lines": 1}
    assert await run(toolbox, SPECS["list_contents"], inside, path=str(tmp_path)) == {
        "items": ["a.txt"],
        "total_items": 1,
    }
    assert await run(toolbox, SPECS["get_current_directory"], inside) == {"path": str(tmp_path)}
    assert await run(toolbox, SPECS["get_current_time"], inside, timezone="Europe/Berlin")
    found = await run(toolbox, SPECS["lookup_hostname"], Confinement("net"), hostname="127.0.0.1")
    assert isinstance(found, dict)
    assert found["ip"] == "127.0.0.1"


async def test_tools_own_no_is_handed_on_with_its_code(toolbox: Toolbox, inside: Confinement) -> None:
    assert await code_of(toolbox, SPECS["read_file"], inside, path="/etc/passwd") == "denied"


async def test_worker_is_given_nothing(
    toolbox: Toolbox, inside: Confinement, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No key in the environment, no database, socket or file of the service, no package but Python's own."""
    monkeypatch.setenv("AIRLAB_API_KEY", "secret")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        seen = await run(toolbox, CANARIES["look_around"], inside)

    assert isinstance(seen, dict)
    assert seen.pop("pid") != os.getpid()
    assert seen == {
        "environment": {},
        "descriptors": [0, 1, 2],
        "third_party": [],
        "core_bytes": 0,
        "flags": [1, 1],
    }


async def test_every_call_has_a_worker_of_its_own(toolbox: Toolbox, inside: Confinement) -> None:
    """What one call did to its process cannot colour the answer of the next."""
    seen = [await run(toolbox, CANARIES["look_around"], inside) for _ in range(3)]

    assert len({one["pid"] for one in seen if isinstance(one, dict)}) == 3


async def test_fault_089_tool_that_spins_is_ended_in_time(toolbox: Toolbox, inside: Confinement) -> None:
    with pytest.raises(ToolError, match="took longer than 300 ms") as caught:
        await toolbox.run(CANARIES["spin"], {}, inside, 0.3)

    assert caught.value.code == "timeout"


async def test_fault_089_tool_that_crashes_is_an_answer_and_the_next_call_works(
    toolbox: Toolbox, inside: Confinement, facts: list[Fact]
) -> None:
    assert await code_of(toolbox, CANARIES["crash"], inside) == "worker_died"
    assert await run(toolbox, SPECS["get_current_directory"], inside)
    assert [fact.why for fact in facts if isinstance(fact, WorkerDied)] == [
        "the worker ended without an answer (exit code -11)"
    ]


async def test_fault_089_tool_that_takes_too_much_is_told_so(
    toolbox: Toolbox, inside: Confinement, tmp_path: Path
) -> None:
    assert await code_of(toolbox, CANARIES["allocate"], inside) == "out_of_memory"
    with pytest.raises(ToolError, match="Too many open files"):
        await run(toolbox, CANARIES["open_many"], inside)
    with pytest.raises(ToolError, match="File too large"):
        await run(toolbox, CANARIES["write"], inside, path=str(tmp_path / "new"))
    assert (tmp_path / "new").stat().st_size == 0
    assert await code_of(toolbox, CANARIES["shout"], inside) == "too_large"


async def test_worker_that_forges_its_channel_is_an_error(toolbox: Toolbox, inside: Confinement) -> None:
    assert await code_of(toolbox, CANARIES["forge"], inside) == "worker_died"


async def test_half_a_character_becomes_one_that_can_be_stored(toolbox: Toolbox, inside: Confinement) -> None:
    assert await run(toolbox, CANARIES["half_a_character"], inside) == "?"


async def test_fault_075_folder_swapped_for_a_link_meanwhile_leaks_nothing(
    toolbox: Toolbox, inside: Confinement, tmp_path: Path
) -> None:
    """Checking a path and then opening it lost this race in 8 % of reads (measured)."""
    root, outside = tmp_path / "ws", tmp_path / "outside"
    for folder, text in ((root / "d", "harmless"), (outside, "leaked")):
        folder.mkdir(parents=True)
        (folder / "x").write_text(text)
    (root / "link").symlink_to(outside)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            (root / "d").rename(root / "d1")
            (root / "link").rename(root / "d")
            (root / "d").rename(root / "link")
            (root / "d1").rename(root / "d")

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        inside = Confinement("fs_read", read=(PurePosixPath(root),))
        seen = await run(toolbox, CANARIES["read_many"], inside, path=f"{root}/d/x", times=5000)
    finally:
        over.set()
        attacker.join()

    assert isinstance(seen, dict)
    assert seen.keys() <= {"harmless", "denied", "not_found", "busy"}
    assert {"harmless", "denied"} <= seen.keys(), "the attack did not hit both moments"


async def test_cancelled_call_ends_its_worker(toolbox: Toolbox, inside: Confinement) -> None:
    toolbox.keep([inside])
    await toolbox.ready()
    [waiting] = workers_of(os.getpid())
    call = asyncio.create_task(toolbox.run(CANARIES["spin"], {}, inside, BOUND_S))
    await spinning(toolbox)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await asyncio.to_thread(psutil.wait_procs, [waiting], timeout=BOUND_S))[1] == []


async def test_many_calls_at_once_all_get_their_answer(toolbox: Toolbox, inside: Confinement) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(run(toolbox, SPECS["get_current_time"], inside)) for _ in range(12)]

    assert all(call.result() for call in calls)


async def test_worker_that_died_while_it_waited_is_replaced(toolbox: Toolbox, inside: Confinement) -> None:
    toolbox.keep([inside])
    await toolbox.ready()
    [waiting] = toolbox._pools[inside]._warm
    os.kill(waiting.result().child.pid, signal.SIGKILL)
    await waiting.result().child.exited()

    assert await run(toolbox, SPECS["get_current_directory"], inside)


async def test_workers_of_a_policy_that_is_gone_end(toolbox: Toolbox, inside: Confinement) -> None:
    """A worker made under old rules must not serve under new ones."""
    toolbox.keep([inside])
    await toolbox.ready()
    before = workers_of(os.getpid())

    toolbox.keep([Confinement("fs_read", read=inside.read, limits=Limits(results=5))])
    await toolbox.ready()

    assert len(before) == 1
    assert (await asyncio.to_thread(psutil.wait_procs, before, timeout=BOUND_S))[1] == []
    assert len(workers_of(os.getpid())) == 1


async def test_system_that_cannot_confine_paths_is_said_loudly(
    toolbox: Toolbox, inside: Confinement, facts: list[Fact], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without openat2 (an old kernel, or a filter that hides it) no file tool may be offered."""
    worker = tmp_path / "old_kernel.py"
    worker.write_text(
        "import os, sys, json\n"
        "os.dup2(int(sys.argv[1]), 0)\n"
        "os.read(0, 100000)\n"
        "os.write(0, json.dumps({'ready': False, 'why': 'no openat2'}).encode() + b'\\n')\n"
    )
    monkeypatch.setattr("app.tools.pool._ENTRY", worker)
    toolbox.keep([inside])
    await toolbox.ready()

    assert toolbox.why_not(inside) == "no openat2"
    assert facts == [ToolsUnavailable("fs_read", "no openat2")]
    assert await code_of(toolbox, SPECS["get_current_directory"], inside) == "tools_unavailable"


async def test_closed_toolbox_ends_running_calls_and_takes_no_more(toolbox: Toolbox, inside: Confinement) -> None:
    call = asyncio.create_task(toolbox.run(CANARIES["spin"], {}, inside, BOUND_S))
    await spinning(toolbox)
    async with asyncio.timeout(BOUND_S):
        await toolbox.close()

    with pytest.raises(ToolError, match="shutting down"):
        await call
    assert await code_of(toolbox, SPECS["get_current_time"], inside) == "shutting_down"
    assert workers_of(os.getpid()) == []


SERVICE = """
import asyncio
from pathlib import PurePosixPath
from app.journal import Journal
from app.tools.base import Confinement
from app.tools.toolbox import Toolbox
from tests.tools.canaries import spin

async def main():
    toolbox = Toolbox(Journal(), [spin.spec.entry])
    inside = Confinement("fs_read", read=(PurePosixPath("/tmp"),))
    toolbox.keep([inside])
    await toolbox.ready()
    call = asyncio.create_task(toolbox.run(spin.spec, {}, inside, 600))
    while not toolbox._running:
        await asyncio.sleep(0)
    print("spinning", flush=True)
    await call

asyncio.run(main())
"""


def test_killed_service_takes_its_workers_along() -> None:
    """Those that wait and those in the middle of a call."""
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", SERVICE], cwd=root, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"spinning\n"
        watches = [os.pidfd_open(worker.pid) for worker in workers_of(service.pid)]
        service.kill()

    assert len(watches) == 2
    for watch in watches:
        assert select.select([watch], [], [], BOUND_S)[0], "a worker outlived its service"
        os.close(watch)
