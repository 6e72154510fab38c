"""The stand-in loads, hangs, stalls and dies as told: a fault that stays away makes other tests pass for nothing."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.fake import grandchildren_of, starts_of, write_fault
from tests.support.fake_engine import BOUND_S, CHAT, HELLO, Engine, fake_engine, model_file
from tests.support.ports import held_port


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_file(tmp_path)


async def test_arguments_and_requests_can_be_asked_for(model: Path) -> None:
    async with fake_engine(model, "--threads", "1", "--unheard-of") as engine:
        await engine.http.post(CHAT, json=HELLO, headers={"X-Conversation-Id": "c1"})
        argv = (await engine.http.get("/fake/argv")).json()
        requests = (await engine.http.get("/fake/requests")).json()

        assert argv["argv"] == ["--model", str(model), "--host", str(engine.path), "--threads", "1", "--unheard-of"]
        assert argv["pid"] == engine.process.pid
        assert [(seen["method"], seen["path"], seen["body"]) for seen in requests] == [("POST", CHAT, HELLO)]
        assert requests[0]["headers"]["x-conversation-id"] == "c1"


async def test_health_says_loading_until_the_file_is_there(model: Path, tmp_path: Path) -> None:
    gate = tmp_path / "loaded"
    write_fault(model, load_until_file=str(gate))
    async with fake_engine(model, said="loading model") as engine:
        loading = await engine.http.get("/health")
        assert loading.status_code == 503
        assert loading.json() == {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
        assert (await engine.chat()).status_code == 503
        gate.touch()
        await engine.said("model loaded")
        assert (await engine.http.get("/health")).status_code == 200


@pytest.mark.parametrize("script", [{"load_s": 3600}, {"load_forever": True}])
async def test_health_says_loading_as_long_as_the_script_says(model: Path, script: dict[str, object]) -> None:
    write_fault(model, **script)
    async with fake_engine(model, said="loading model") as engine:
        assert (await engine.http.get("/health")).status_code == 503
        engine.process.send_signal(signal.SIGTERM)
        assert await engine.process.wait() == 0


async def test_loading_forever_with_progress_keeps_saying_so(model: Path) -> None:
    write_fault(model, load_forever=True, progress=True)
    async with fake_engine(model, said="loading model") as engine:
        await engine.said("loading more")
        await engine.said("loading more")
        assert (await engine.http.get("/health")).status_code == 503


@pytest.mark.parametrize("moment", ["start", "load"])
async def test_exit_code_and_last_words_come_at_start_or_at_the_end_of_loading(model: Path, moment: str) -> None:
    write_fault(model, exit_code=3, exit_at=moment, exit_message="CUDA error: out of memory")
    async with fake_engine(model, said="out of memory") as engine:
        assert await engine.process.wait() == 3


async def test_exit_at_the_second_request_leaves_it_unanswered(model: Path) -> None:
    write_fault(model, exit_at="request:2")
    async with fake_engine(model) as engine:
        assert (await engine.chat()).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await engine.chat()
        assert await engine.process.wait() == 1


async def test_each_start_follows_its_own_script_and_the_last_one_stays(model: Path) -> None:
    write_fault(model, exit_message="gone", starts=[{"exit_code": 7}, {}])
    async with fake_engine(model, said="gone") as engine:
        assert await engine.process.wait() == 7
    for number in (2, 3):
        async with fake_engine(model) as engine:
            assert (await engine.http.get("/fake/argv")).json()["start"] == number
    assert starts_of(model) == 3


async def test_sigterm_ends_an_idle_server_which_leaves_its_socket_file(model: Path) -> None:
    async with fake_engine(model) as engine:
        engine.process.send_signal(signal.SIGTERM)
        assert await engine.process.wait() == 0
        assert engine.path.exists()


async def test_stale_socket_file_keeps_the_next_start_from_binding(model: Path) -> None:
    """Seen on the real one: the supervisor has to clear the file."""
    async with fake_engine(model) as engine:
        engine.process.kill()
        await engine.process.wait()
        async with fake_engine(model, said="couldn't bind") as second:
            assert await second.process.wait() == 1


async def test_sigterm_hangs_while_a_plain_answer_is_awaited_until_its_client_leaves(model: Path) -> None:
    """Seen on the real one: connections have to be closed before a stop."""
    write_fault(model, stall_after_tokens=1)
    async with fake_engine(model) as engine:
        asking = asyncio.create_task(engine.chat())
        await engine.count("active", reaching=1)
        engine.process.send_signal(signal.SIGTERM)
        await engine.said("cleaning up")
        assert engine.process.returncode is None
        asking.cancel()
        assert await engine.process.wait() == 0


async def test_sigterm_cuts_a_stream_that_has_begun(model: Path) -> None:
    write_fault(model, token_s=3600)
    async with fake_engine(model) as engine:
        reading = asyncio.create_task(read_until_it_breaks(engine))
        await engine.count("active", reaching=1)
        engine.process.send_signal(signal.SIGTERM)
        assert await reading == ""
        assert await engine.process.wait() == 0


async def test_sigterm_can_be_ignored(model: Path) -> None:
    write_fault(model, ignore_sigterm=True)
    async with fake_engine(model) as engine:
        engine.process.send_signal(signal.SIGTERM)
        assert (await engine.http.get("/health")).status_code == 200


def stdout_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/fd/1").readlink()


async def test_grandchild_in_its_own_session_outlives_a_group_kill_and_holds_stdout(model: Path) -> None:
    write_fault(model, fork_setsid_grandchild=True)
    async with fake_engine(model) as engine:
        [grandchild] = grandchildren_of(model)
        assert os.getsid(grandchild) == grandchild
        assert stdout_of(grandchild) == stdout_of(engine.process.pid)
        # Not process.wait(): asyncio's waits for the pipe too, and would hang here.
        gone = os.pidfd_open(engine.process.pid)
        engine.process.kill()
        assert select.select([gone], [], [], BOUND_S)[0]
        os.close(gone)
        os.kill(grandchild, 0)  # raises if it had died with its parent


async def test_hung_server_has_green_health_and_answers_nothing_else(model: Path) -> None:
    write_fault(model, health_ok_but_hung=True)
    async with fake_engine(model) as engine:
        asking = [asyncio.create_task(engine.chat()), asyncio.create_task(engine.http.get("/slots"))]
        await engine.count("active", reaching=1)
        assert (await engine.http.get("/health")).status_code == 200
        assert not any(task.done() for task in asking)
        for task in asking:
            task.cancel()
        await engine.count("active", reaching=0)


async def read_until_it_breaks(engine: Engine) -> str:
    """What of a stream arrives before its connection ends in the middle."""
    text = ""
    async with engine.http.stream("POST", CHAT, json=HELLO | {"stream": True}) as answer:
        try:
            async for part in answer.aiter_text():
                text += part
        except httpx.RemoteProtocolError:
            return text
    raise AssertionError(f"the stream came to its end: {text}")


@pytest.mark.parametrize("tokens", [0, 3])
async def test_connection_is_closed_after_so_many_tokens(model: Path, tokens: int) -> None:
    write_fault(model, close_after_tokens=tokens)
    async with fake_engine(model) as engine:
        assert (await read_until_it_breaks(engine)).count("word") == tokens
        with pytest.raises(httpx.RemoteProtocolError):
            await engine.chat()
        assert (await engine.http.get("/health")).status_code == 200


async def test_process_kills_itself_after_so_many_tokens(model: Path) -> None:
    write_fault(model, die_after_tokens=2)
    async with fake_engine(model) as engine:
        assert (await read_until_it_breaks(engine)).count("word") == 2
        assert await engine.process.wait() == -signal.SIGKILL


async def test_stream_stalls_after_so_many_tokens_until_its_client_leaves(model: Path) -> None:
    write_fault(model, stall_after_tokens=2)
    async with fake_engine(model, "--parallel", "1") as engine:
        async with engine.http.stream("POST", CHAT, json=HELLO | {"stream": True}) as answer:
            # Kept: a generator that nobody holds is closed, and with it the connection.
            parts, text = answer.aiter_text(), ""
            while "word2" not in text:
                text += await anext(parts)
            [slot] = (await engine.http.get("/slots")).json()
            assert slot["is_processing"]
            assert slot["next_token"][0]["n_decoded"] == 2
        assert await engine.count("cancelled", reaching=1) == {"active": 0, "queued": 0, "cancelled": 1}


async def test_slots_are_held_by_generations_and_the_rest_wait_in_order(model: Path, tmp_path: Path) -> None:
    gate = tmp_path / "go"
    write_fault(model, token_gate_file=str(gate))
    async with fake_engine(model, "--parallel", "2") as engine:
        asking = [asyncio.create_task(engine.chat()) for _ in range(3)]
        assert (await engine.count("queued", reaching=1))["active"] == 2
        assert [slot["is_processing"] for slot in (await engine.http.get("/slots")).json()] == [True, True]
        gate.touch()
        assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 3
        assert (await engine.count("active"))["active"] == 0


async def test_client_that_leaves_the_queue_is_counted_and_holds_nobody_up(model: Path) -> None:
    write_fault(model, stall_after_tokens=0)
    async with fake_engine(model, "--parallel", "1") as engine:
        first = asyncio.create_task(engine.chat())
        await engine.count("active", reaching=1)
        second = asyncio.create_task(engine.chat())
        await engine.count("queued", reaching=1)
        second.cancel()
        assert await engine.count("cancelled", reaching=1) == {"active": 1, "queued": 0, "cancelled": 1}
        first.cancel()
        await engine.count("active", reaching=0)


async def test_tcp_port_serves_as_well(model: Path) -> None:
    with held_port() as port:
        async with fake_engine(model, "--host", "127.0.0.1", "--port", str(port)), httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{port}/health")).json() == {"status": "ok"}


async def test_idle_connection_is_closed_by_the_server(model: Path) -> None:
    """A pooled client meets this with the real one after 5 s."""
    write_fault(model, keep_alive_s=0.01)
    async with fake_engine(model) as engine:
        reader, writer = await asyncio.open_unix_connection(engine.path)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_connection_ends_with_a_stream_although_its_head_speaks_of_keep_alive(model: Path) -> None:
    """Seen on the real one: a pooled client that asks again at once loses its request."""
    write_fault(model, keep_alive_s=3600)
    body = json.dumps(HELLO | {"stream": True}).encode()
    async with fake_engine(model) as engine:
        reader, writer = await asyncio.open_unix_connection(engine.path)
        writer.write(b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
        answer = await reader.read()
        assert b"Keep-Alive: timeout=5" in answer
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        writer.close()
        await writer.wait_closed()


def test_misspelt_fault_is_refused_where_it_is_written(model: Path) -> None:
    with pytest.raises(ValueError, match="stall_after_token"):
        write_fault(model, starts=[{}, {"stall_after_token": 1}])
    with pytest.raises(ValueError, match="request:N"):
        write_fault(model, exit_at="later")
