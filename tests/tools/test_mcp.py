"""MCP servers, real ones: kept connected whatever they do, and nothing of what they say is believed unchecked."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.errors import ToolError
from app.gate import Gate
from app.journal import Fact, Journal
from app.live.guards import Joined
from app.policy.rules import Policy, judge
from app.tools.mcp import McpLost, McpServers, _Server
from tests.support.declared import section
from tests.support.gate import House
from tests.support.ports import held_port
from tests.tools.shed import lives

BOUND_S = 60
SERVER = str(Path(__file__).parents[1] / "support" / "mcp_server.py")
HOSTILE = str(Path(__file__).parents[1] / "support" / "hostile_mcp.py")
STDIO = {"command": [sys.executable, SERVER]}


@pytest.fixture
async def facts() -> list[Fact]:
    return []


@pytest.fixture
async def servers(facts: list[Fact]) -> AsyncIterator[McpServers]:
    journal = Journal()
    journal.subscribe(facts.append)
    servers = McpServers(journal, first_wait_s=0.05)
    before = set(psutil.Process().children(recursive=True))
    yield servers
    async with asyncio.timeout(BOUND_S):
        await servers.close()
    left = set(psutil.Process().children(recursive=True)) - before
    assert [child for child in left if lives(child)] == []


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not holds():  # noqa: ASYNC110 # servers come and go without an announcement
            await asyncio.sleep(0.01)


async def connected(servers: McpServers, **settings: Any) -> None:
    servers.keep({"docs": section("mcp", **settings)})
    await until(lambda: servers.status()["docs"].startswith("connected"))


async def call(servers: McpServers, tool: str, *, timeout_s: float = BOUND_S, **arguments: object) -> Any:
    return json.loads(await servers.call(servers.specs()[f"docs__{tool}"], arguments, timeout_s))


async def code_of(servers: McpServers, tool: str, *, timeout_s: float = BOUND_S) -> str:
    with pytest.raises(ToolError) as caught:
        await call(servers, tool, timeout_s=timeout_s)
    return caught.value.code


@contextmanager
def listening(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The same server at a port."""
    with subprocess.Popen([sys.executable, SERVER, str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_only_tools_that_are_allowed_are_offered(servers: McpServers) -> None:
    await connected(servers, **STDIO, allow=["search"])

    assert list(servers.specs()) == ["docs__search"]
    assert "die (not in `allow`)" in servers.status()["docs"]
    assert await call(servers, "search", text="hi") == {"content": {"result": "1 times hi"}}


async def test_server_that_others_wrote_works_and_comes_back_after_it_was_killed(
    servers: McpServers, facts: list[Fact]
) -> None:
    """One from PyPI, as a user would declare it."""
    await connected(servers, command=[sys.executable, "-m", "mcp_server_time"], allow=["convert_time"])
    spec = servers.specs()["docs__convert_time"]
    assert {"source_timezone", "time", "target_timezone"} <= set(spec.parameters["properties"])
    asked: dict[str, Any] = {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    before = await call(servers, "convert_time", **asked)
    assert "Asia/Tokyo" in json.dumps(before)

    [process] = [child for child in psutil.Process().children() if "mcp_server_time" in child.cmdline()]
    process.kill()
    await until(lambda: any(isinstance(fact, McpLost) for fact in facts))
    await until(servers.specs)

    after = await call(servers, "convert_time", **asked)
    assert "Asia/Tokyo" in json.dumps(after)


async def test_nothing_is_offered_unless_it_is_allowed(servers: McpServers) -> None:
    await connected(servers, **STDIO)

    assert servers.specs() == {}


async def test_hint_that_a_tool_only_reads_counts_where_the_manifest_says_so(servers: McpServers) -> None:
    await connected(servers, **STDIO, allow=["search", "table"])
    assert {spec.risk for spec in servers.specs().values()} == {"destructive"}

    servers.keep({"docs": section("mcp", **STDIO, allow=["search", "table"], trust_hints=True)})
    await until(lambda: servers.specs() and servers.specs()["docs__search"].risk == "net")
    assert servers.specs()["docs__table"].risk == "destructive"


async def test_server_gets_no_more_of_the_environment_than_is_named(
    servers: McpServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLAB_ADMIN_KEY", "s3cret")
    monkeypatch.setenv("DOCS_KEY", "for the server")
    await connected(servers, **STDIO, allow="all", environment=["DOCS_KEY"])

    names = set((await call(servers, "environment"))["content"]["result"])

    assert "allow: all" in servers.status()["docs"]
    assert names - {"LC_CTYPE"} == {"PATH", "HOME", "DOCS_KEY"} & set(os.environ)


async def test_server_that_dies_is_connected_again(servers: McpServers, facts: list[Fact]) -> None:
    await connected(servers, **STDIO, allow=["die", "search"])

    assert await code_of(servers, "die") in ("tool_error", "not_connected")
    await until(lambda: [fact for fact in facts if isinstance(fact, McpLost)])
    await until(servers.specs)

    assert await call(servers, "search", text="hi") == {"content": {"result": "1 times hi"}}


async def test_change_of_its_list_is_seen(servers: McpServers) -> None:
    await connected(servers, **STDIO, allow="all")
    before = servers.specs()

    await call(servers, "add_tool")
    await until(lambda: "docs__later" in servers.specs())

    assert servers.specs() is not before
    assert await call(servers, "later") == {"content": {"result": "late"}}


async def test_call_has_a_deadline_and_the_server_goes_on(servers: McpServers) -> None:
    await connected(servers, **STDIO, allow=["never", "fail", "search"])

    assert await code_of(servers, "never", timeout_s=0.3) == "timeout"
    assert await code_of(servers, "fail") == "tool_error"
    assert await call(servers, "search", text="hi") == {"content": {"result": "1 times hi"}}


async def test_long_answer_is_cut_and_one_beyond_all_measure_ends_the_connection(
    servers: McpServers, facts: list[Fact]
) -> None:
    await connected(servers, **STDIO, allow=["huge", "flood", "search"], max_answer=500)

    answer = await call(servers, "huge")
    assert (len(answer["content"]), answer["truncated"]) == (500, True)
    assert await code_of(servers, "flood") in ("tool_error", "not_connected")
    await until(lambda: [fact for fact in facts if isinstance(fact, McpLost)])
    await until(servers.specs)
    assert await call(servers, "search", text="hi")


@pytest.fixture
def port() -> Iterator[int]:
    """Where the server is to listen, before and after its death."""
    with held_port() as port:
        yield port


async def test_server_over_http_through_its_death_and_return(servers: McpServers, port: int) -> None:
    with listening(port):
        await connected(servers, url=f"http://127.0.0.1:{port}/mcp", allow="all")
        assert await call(servers, "search", text="hi") == {"content": {"result": "1 times hi"}}
        await call(servers, "add_tool")
        await until(lambda: "docs__later" in servers.specs())
        assert await code_of(servers, "flood") in ("tool_error", "not_connected")
        await until(servers.specs)
        assert await code_of(servers, "die") in ("tool_error", "not_connected")
    await until(lambda: not servers.specs())
    with listening(port):
        await until(servers.specs)
        assert await call(servers, "search", text="hi") == {"content": {"result": "1 times hi"}}
        assert "docs__later" not in servers.specs()


async def test_hostile_list_of_tools_offers_what_is_left_of_it(servers: McpServers) -> None:
    """Schemas without measure, names that no model can call, the same name twice, a description without an end."""
    await connected(servers, command=[sys.executable, HOSTILE], allow="all")

    assert list(servers.specs()) == ["docs__fine"]
    assert len(servers.specs()["docs__fine"].description) < 1100
    status = servers.status()["docs"]
    assert "its name is none that a model can call" in status
    assert "a second one of that name" in status
    assert "`$ref`" in status
    assert status.isprintable()


@pytest.mark.parametrize("what", ["silent", "garbage", "endless", "gone"])
async def test_server_that_never_gets_through_blocks_nobody(servers: McpServers, what: str) -> None:
    hostile = section("mcp", command=[sys.executable, HOSTILE, what], allow="all")
    servers.keep({"docs": hostile, "fine": section("mcp", **STDIO, allow=["search"])})

    await until(servers.specs)

    assert list(servers.specs()) == ["fine__search"]
    assert not servers.status()["docs"].startswith("connected")


@pytest.mark.parametrize("steps", range(6))
async def test_servers_are_closed_in_whatever_moment_one_ends_by_itself(
    servers: McpServers, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many steps of the event loop after its end was heard; the fixture closes them, and waits for it."""
    has_ended = asyncio.Event()
    hear_of_it = _Server._ended

    def ended(server: _Server) -> None:
        hear_of_it(server)
        has_ended.set()

    monkeypatch.setattr(_Server, "_ended", ended)
    servers.keep({"docs": section("mcp", command=[sys.executable, HOSTILE, "gone"], allow="all")})

    async with asyncio.timeout(BOUND_S):
        await has_ended.wait()
        for _ in range(steps):
            await asyncio.sleep(0)


async def test_program_that_is_not_there_is_said(servers: McpServers) -> None:
    servers.keep({"docs": section("mcp", command=["no-such-program"])})

    await until(lambda: servers.status()["docs"].startswith("not connected"))


async def test_server_that_is_removed_ends_and_its_tools_with_it(servers: McpServers) -> None:
    await connected(servers, **STDIO, allow=["search"])
    spec = servers.specs()["docs__search"]

    servers.keep({})

    assert servers.specs() == {}
    with pytest.raises(ToolError, match="not offered"):
        await servers.call(spec, {"text": "hi"}, BOUND_S)


async def test_policy_judges_a_servers_tools_as_any_other(servers: McpServers) -> None:
    await connected(servers, **STDIO, allow=["search"])
    joined = Joined(servers.specs)
    policy = Policy({}, destructive="deny")
    spec = servers.specs()["docs__search"]

    assert judge(joined(policy), spec, {"text": "hi"}).answer == "deny"
    assert joined(policy) is joined(policy)
    closed = Policy({}, closed="switched off")
    assert joined(closed) is closed
    servers.keep({})
    assert joined(policy) is policy


async def test_servers_tool_goes_through_the_gate(servers: McpServers, tmp_path: Path) -> None:
    """Offered though no wall holds it, arguments checked, refused where nobody can be asked, audited, answered."""
    await connected(servers, **STDIO, allow=["search"])
    house = House(tmp_path)
    joined = Joined(servers.specs)
    house.gate = Gate(lambda: joined(house.policy), house.toolbox, house.audit, Journal(), servers=servers)

    wrong, _ = await house.call("docs__search", {"words": 1})
    denied, _ = await house.call("docs__search", {"text": "hi"})
    granted, said = await house.call("docs__search", {"text": "hi"}, approvals=house.person(grant=True))
    await house.close()

    assert "docs__search" in {offer.spec.name for offer in house.gate.offers() if offer.why_not is None}
    assert (wrong.status, denied.status, granted.status) == ("error", "denied", "ok")
    assert said == {"content": {"result": "1 times hi"}}
    assert house.audit.rows == [("docs__search", "ask", None, "denied"), ("docs__search", "ask", "admin-key", "ok")]
