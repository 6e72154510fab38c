"""Real workers on real folders: what they are given, how they end, and that none is left."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
import pytest

from app.errors import ToolError
from app.journal import Fact
from app.tasks import all_ended
from app.tools.base import Confinement, Limits
from app.tools.nursery import ZygoteDied
from app.tools.toolbox import Toolbox, ToolBroke, WallsTried, WorkerDied
from app.tools.workers import Worker
from tests.tools.shed import BOUND_S, CANARIES, SPECS, begun, code_of, gone, run, spins, within, workers_of, zygotes_of

ROOT = Path(__file__).resolve().parents[2]


async def test_every_kind_of_builtin_tool_runs_in_its_worker(toolbox: Toolbox, tmp_path: Path) -> None:
    reading, writing = within("fs_read", tmp_path), within("fs_write", tmp_path)

    await run(toolbox, SPECS["write_file"], writing, path=f"{tmp_path}/a.txt", lines=["one", "two"])
    said = await run(toolbox, SPECS["read_file"], reading, path=f"{tmp_path}/a.txt")
    found = await run(toolbox, SPECS["lookup_hostname"], Confinement("net"), hostname="127.0.0.1")

    assert said == {"content": "one\ntwo\n", "lines": 2}
    assert isinstance(found, dict)
    assert found["ip"] == "127.0.0.1"


async def test_tools_own_no_is_handed_on_with_its_code(toolbox: Toolbox, inside: Confinement) -> None:
    assert await code_of(toolbox, SPECS["read_file"], inside, path="/etc/passwd") == "denied"


async def test_permission_to_destroy_comes_with_the_call_and_shares_the_pool(
    toolbox: Toolbox, inside: Confinement
) -> None:
    """A worker is prewarmed before anybody was asked, so the permission cannot be part of what it waits with."""
    said = [
        json.loads(await toolbox.run(CANARIES["may_destroy"], {}, inside, BOUND_S, may_destroy=may))
        for may in (True, False)
    ]

    assert said == [True, False]
    assert len(toolbox._pools) == 1


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


@pytest.mark.parametrize("canary", ["crash", "abort"])
async def test_fault_089_tool_that_crashes_is_an_answer_and_the_next_call_works(
    toolbox: Toolbox, inside: Confinement, facts: list[Fact], canary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.tools.workers._LAST_WORDS_S", BOUND_S)  # a busy zygote tells later how it ended
    assert await code_of(toolbox, CANARIES[canary], inside) == "worker_died"
    assert await run(toolbox, SPECS["get_current_directory"], inside)
    # A worker may send no signal, not even to itself: abort() ends by a forbidden instruction.
    assert [fact.why for fact in facts if isinstance(fact, WorkerDied)] == [
        "the worker ended without an answer (exit code -11)"
    ]


async def test_fault_089_tool_that_takes_too_much_is_told_so(
    toolbox: Toolbox, inside: Confinement, tmp_path: Path
) -> None:
    assert await code_of(toolbox, CANARIES["allocate"], inside) == "out_of_memory"
    with pytest.raises(ToolError, match="Too many open files"):
        await run(toolbox, CANARIES["open_many"], inside)
    with pytest.raises(ToolError, match="Permission denied"):
        await run(toolbox, CANARIES["write"], inside, path=str(tmp_path / "new"))
    with pytest.raises(ToolError, match="Operation not permitted"):
        await run(toolbox, CANARIES["fork_without_end"], inside)
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 # a folder of the test
    assert await code_of(toolbox, CANARIES["shout"], inside) == "too_large"


async def test_fault_089_file_beyond_the_policys_limit_is_cut_off_by_the_kernel(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    """Below the limit the tool itself says no; this is for a tool that has lost its way."""
    inside = Confinement("fs_write", write=(PurePosixPath(tmp_path),), limits=Limits(write_bytes=1024))
    with pytest.raises(ToolError, match="File too large"):
        await run(toolbox, CANARIES["write_much"], inside, path=str(tmp_path / "new"))

    assert (tmp_path / "new").stat().st_size < 128 * 1024


async def test_fault_089_program_that_starts_programs_ends_with_all_of_them(toolbox: Toolbox, tmp_path: Path) -> None:
    """Also those that it put into the background, and one that is nobody's child any more."""
    inside = within("command", tmp_path)
    toolbox.keep([inside])
    await toolbox.ready()
    shell = "(sleep 600 &); sleep 600 & echo started > started; sleep 600"
    call = asyncio.create_task(toolbox.run(CANARIES["run_shell"], {"text": f"cd {tmp_path}; {shell}"}, inside, BOUND_S))
    async with asyncio.timeout(BOUND_S):
        while not (tmp_path / "started").exists():  # noqa: ASYNC110 # the shell cannot tell us otherwise
            await asyncio.sleep(0.005)
    [zygote] = zygotes_of(os.getpid())
    programs = [process for process in zygote.children(recursive=True) if process.name() in {"sh", "sleep"}]
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(programs) >= 3
    assert await gone(programs)
    assert await run(toolbox, CANARIES["run_shell"], inside, text="echo fine") == {"code": 0, "said": "fine\n"}


@pytest.mark.parametrize("canary", ["forge", "nest", "not_a_number"])
async def test_worker_that_forges_its_answer_is_an_error(toolbox: Toolbox, inside: Confinement, canary: str) -> None:
    assert await code_of(toolbox, CANARIES[canary], inside) in {"worker_died", "tool_failed"}


async def test_tool_that_fails_unforeseen_leaves_its_trace_in_the_log_only(
    toolbox: Toolbox, inside: Confinement, facts: list[Fact]
) -> None:
    with pytest.raises(ToolError, match="The tool failed: KeyError: 'unforeseen'"):
        await run(toolbox, CANARIES["fail"], inside)

    [broke] = [fact for fact in facts if isinstance(fact, ToolBroke)]
    assert "in fail" in broke.trace


async def test_half_a_character_becomes_one_that_can_be_stored(toolbox: Toolbox, inside: Confinement) -> None:
    assert await run(toolbox, CANARIES["half_a_character"], inside) == "?"


async def test_cancelled_call_ends_its_worker(toolbox: Toolbox, inside: Confinement) -> None:
    toolbox.keep([inside])
    await toolbox.ready()
    [waiting] = workers_of(os.getpid())
    call = asyncio.create_task(toolbox.run(CANARIES["spin"], {}, inside, BOUND_S))
    await begun(toolbox)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert await gone([waiting])


async def test_many_calls_at_once_all_get_their_answer(toolbox: Toolbox, inside: Confinement) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(run(toolbox, SPECS["get_current_time"], inside)) for _ in range(50)]

    assert all(call.result() for call in calls)


async def test_worker_that_died_while_it_waited_is_replaced(toolbox: Toolbox, inside: Confinement) -> None:
    toolbox.keep([inside])
    await toolbox.ready()
    [waiting] = workers_of(os.getpid())
    waiting.kill()
    assert await gone([waiting])

    assert await run(toolbox, SPECS["get_current_directory"], inside)


async def test_workers_of_a_policy_that_is_gone_end(toolbox: Toolbox, inside: Confinement) -> None:
    """A worker made under old rules must not serve under new ones."""
    toolbox.keep([inside])
    await toolbox.ready()
    before = workers_of(os.getpid())

    toolbox.keep([Confinement("fs_read", read=inside.read, limits=Limits(results=5))])
    await toolbox.ready()

    assert len(before) == 1
    assert await gone(before)
    assert len(workers_of(os.getpid())) == 1


async def test_killed_zygote_takes_its_workers_along_and_gets_a_successor(
    toolbox: Toolbox, inside: Confinement, facts: list[Fact]
) -> None:
    """Also a call that was in one of them is answered, and the next one works."""
    toolbox.keep([inside])
    await toolbox.ready()
    [zygote], [worker] = zygotes_of(os.getpid()), workers_of(os.getpid())
    call = asyncio.create_task(code_of(toolbox, CANARIES["spin"], inside))
    await spins(worker)  # a call that its worker had not heard of would be made again
    zygote.kill()

    assert await call == "worker_died"
    assert await gone([worker])
    assert await run(toolbox, SPECS["get_current_directory"], inside)
    async with asyncio.timeout(BOUND_S):
        while not any(isinstance(fact, ZygoteDied) for fact in facts):  # noqa: ASYNC110 # nobody waits for its burial
            await asyncio.sleep(0.005)
    assert [fact.why for fact in facts if isinstance(fact, ZygoteDied)] == ["the tool zygote ended (exit code -9)"]
    assert [other.pid for other in zygotes_of(os.getpid())] != [zygote.pid]


async def test_zygote_that_dies_between_two_calls_is_replaced_before_the_second(
    toolbox: Toolbox, inside: Confinement, caplog: pytest.LogCaptureFixture
) -> None:
    assert await run(toolbox, SPECS["get_current_directory"], inside)
    [zygote] = zygotes_of(os.getpid())
    watch = os.pidfd_open(zygote.pid)
    zygote.kill()
    # Nothing else goes on here meanwhile. A worker that still lived would take the call along with it.
    assert select.select([watch], [], [], BOUND_S)[0]
    os.close(watch)

    assert await run(toolbox, SPECS["get_current_directory"], inside)
    gc.collect()
    assert "asyncio" not in {record.name for record in caplog.records}, "a failure that nobody was told"


async def test_worker_that_is_killed_with_its_zygote_before_its_call_is_made_again(
    toolbox: Toolbox, inside: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing ran in it, so the call need not know."""
    assert await run(toolbox, SPECS["get_current_directory"], inside)
    # The worker that was begun for the next call, too: the one of the call is to meet the death.
    toolbox.keep([])
    async with asyncio.timeout(BOUND_S):
        await all_ended(toolbox._ending)
    [zygote], deaths = zygotes_of(os.getpid()), itertools.count()
    get_ready = Worker.get_ready

    async def after_a_death(worker: Worker) -> None:
        if next(deaths) == 0:
            zygote.kill()
            assert await gone([zygote])
            select.select([worker._watch], [], [], BOUND_S)  # it goes with its zygote, and not at the same moment
        await get_ready(worker)

    monkeypatch.setattr(Worker, "get_ready", after_a_death)

    assert await run(toolbox, SPECS["get_current_directory"], inside)
    assert next(deaths) >= 2


@pytest.mark.parametrize("is_seen", [True, False])
async def test_worker_that_is_gone_before_it_hears_of_its_call_is_replaced(
    toolbox: Toolbox, inside: Confinement, monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    """It was ready, and died while nobody looked: nothing was done, so the call need not know."""
    assert await run(toolbox, SPECS["get_current_directory"], inside)
    ask, deaths = Worker.ask, itertools.count()

    async def after_a_death(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
        if next(deaths) == 0:
            os.kill(worker.pid, signal.SIGKILL)
            select.select([worker._watch], [], [], BOUND_S)
            if is_seen:
                wait = asyncio.create_task(worker._reader.read(1))
                assert await asyncio.wait_for(wait, BOUND_S) == b""
        return await ask(worker, request)

    monkeypatch.setattr(Worker, "ask", after_a_death)

    assert await run(toolbox, SPECS["get_current_directory"], inside)
    assert next(deaths) == 2


async def test_stopped_zygote_does_not_hold_up_the_end(toolbox: Toolbox, inside: Confinement) -> None:
    toolbox.keep([inside])
    await toolbox.ready()
    [zygote], workers = zygotes_of(os.getpid()), workers_of(os.getpid())
    os.kill(zygote.pid, signal.SIGSTOP)

    async with asyncio.timeout(BOUND_S):
        await toolbox.close()

    assert await gone([zygote, *workers])


async def test_toolbox_without_tools_starts_nothing(toolbox: Toolbox) -> None:
    toolbox.keep([])
    await toolbox.ready()

    assert zygotes_of(os.getpid()) == []


async def test_closed_toolbox_ends_running_calls_and_takes_no_more(toolbox: Toolbox, inside: Confinement) -> None:
    call = asyncio.create_task(toolbox.run(CANARIES["spin"], {}, inside, BOUND_S))
    await begun(toolbox)
    async with asyncio.timeout(BOUND_S):
        await toolbox.close()

    with pytest.raises(ToolError, match="shutting down"):
        await call
    assert await code_of(toolbox, SPECS["get_current_time"], inside) == "shutting_down"
    assert zygotes_of(os.getpid()) == []


async def test_toolbox_closed_while_it_begins_leaves_nothing(
    toolbox: Toolbox, inside: Confinement, facts: list[Fact]
) -> None:
    """A service that is told to stop in its first tenth of a second."""
    toolbox.keep([inside])
    await asyncio.sleep(0)
    async with asyncio.timeout(BOUND_S):
        await toolbox.close()

    assert zygotes_of(os.getpid()) == []
    assert facts == []


async def test_walls_are_tried_once_before_the_first_call(
    toolbox: Toolbox, inside: Confinement, facts: list[Fact]
) -> None:
    before = toolbox.enforced()
    await asyncio.gather(*(run(toolbox, SPECS["get_current_time"], inside) for _ in range(3)))

    assert set(before.values()) == {"its wall has not been tried yet"}
    assert set(toolbox.enforced().values()) == {None}
    assert [fact.hold for fact in facts if isinstance(fact, WallsTried)] == ["fs_read, fs_write, net, command"]


SERVICE = """
import asyncio, sys
from pathlib import PurePosixPath
from app.journal import Journal
from app.tools.base import Confinement
from app.tools.toolbox import Toolbox
from app.tools.workers import Worker
from tests.tools.canaries import run_shell, spin

async def main():
    toolbox = Toolbox(Journal(), [spin.spec.entry, run_shell.spec.entry], warm=2)
    reading, running = (Confinement(kind, write=(PurePosixPath(sys.argv[1]),)) for kind in ("fs_read", "command"))
    toolbox.keep([reading, running])
    await toolbox.ready()
    shell = f"cd {sys.argv[1]}; (sleep 600 &); sleep 600 & echo > started; sleep 600"
    calls = [
        asyncio.create_task(toolbox.run(spin.spec, {}, reading, 600)),
        asyncio.create_task(toolbox.run(run_shell.spec, {"text": shell}, running, 600)),
    ]
    while len(toolbox._running) < 2:
        await asyncio.sleep(0)
    print("busy", flush=True)
    await asyncio.gather(*calls)

asyncio.run(main())
"""


def test_killed_service_takes_everything_along(tmp_path: Path) -> None:
    """The zygote, workers that wait, workers in the middle of a call, and what a program started in the background."""
    command = [sys.executable, "-c", SERVICE, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"busy\n"
        over = threading.Event()
        while not (tmp_path / "started").exists() and not over.wait(0.005):
            assert service.poll() is None
        ends_s = time.monotonic() + BOUND_S
        left: list[psutil.Process] = []
        # The shell says that it has started while its last program is on its way.
        while len(left) < 1 + 4 + 4 and not over.wait(0.005):
            left = psutil.Process(service.pid).children(recursive=True)
            assert time.monotonic() < ends_s, "the zygote, four workers, a shell and its three programs"
        watches = [os.pidfd_open(process.pid) for process in left]
        service.kill()

    for watch in watches:
        assert select.select([watch], [], [], BOUND_S)[0], "something outlived its service"
        os.close(watch)
