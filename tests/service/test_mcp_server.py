"""/mcp over real HTTP, asked by the SDK's own client: the tools of an AirLab, for agents elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import httpx2
import psutil
import pytest
from anyio import BrokenResourceError, ClosedResourceError
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, BOUND_S, KEYS, ROOT, USE_KEY, Lab, Service, temporary_lab, wait_until

Mode = Literal["auto", "legacy"]
BOTH = pytest.mark.parametrize("mode", ["auto", "legacy"])
"""The protocol since 2026-07-28, and with the handshake before it."""
MOST_CALLS = 16
FEW = 10
"""More descriptors and threads than at a moment before: what the service opens when it first needs it."""
REQUEST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def declare(lab: Lab, *, tools: dict[str, Any] | None = None, **policy: Any) -> None:
    """The manifest, with this policy and these tools."""
    more = {"policy": {"mcp_server": True, **policy}, "tools": tools or {}}
    new = lab.manifest.with_name("new.yaml")
    new.write_text(json.dumps(json.loads(lab.manifest.read_text()) | more))
    new.replace(lab.manifest)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One service for the tests of this file; each works on files of its own."""
    with temporary_lab("fake", environment=KEYS) as lab:
        declare(lab)
        with lab.serve(key=ADMIN_KEY) as service:
            yield service


@pytest.fixture
def precious(service: Service, request: pytest.FixtureRequest) -> Path:
    """A file that is asked about before it goes."""
    file = service.log_file.parent / "workspace" / f"{request.node.name[:60]}.txt"
    file.write_text("precious")
    return file


@asynccontextmanager
async def agent(service: Service, key: str | None = ADMIN_KEY, mode: Mode = "auto") -> AsyncIterator[Client]:
    """An agent elsewhere, connected."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    way = httpx2.AsyncClient(headers=headers, timeout=BOUND_S, trust_env=False)
    stays = True
    try:
        wire = streamable_http_client(f"{service.url}/mcp", http_client=way)
        async with way, Client(wire, cache=None, mode=mode) as to:
            yield to
            stays = False
    except* (BrokenResourceError, ClosedResourceError):
        # The SDK's: the answer to a call that was taken back came while the agent left.
        if stays:
            raise


def there(file: Path) -> bool:
    return file.exists()


def fill(file: Path, text: str) -> None:
    file.write_text(text)


async def names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


def text_of(result: CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, TextContent)
    return block.text


async def until(look: Callable[[], Any], what: str) -> Any:
    """``wait_until``, while the agent goes on."""
    return await asyncio.to_thread(wait_until, look, what)


def pending(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.http.get("/approvals").json()["approvals"]
    return found


def audited(service: Service) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = service.http.get("/audit").json()["entries"]
    return entries


def post(service: Service, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return service.http.post("/mcp", content=content, headers=named)


@BOTH
async def test_agent_is_offered_the_tools_and_calls_one(service: Service, precious: Path, mode: Mode) -> None:
    offered = {tool["name"]: tool for tool in service.http.get("/tools").json()["tools"] if tool["offered"]}
    async with agent(service, mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        result = await client.call_tool("read_file", {"path": str(precious)})

    assert tools.keys() == offered.keys()
    for name, tool in tools.items():
        assert tool.input_schema == offered[name]["parameters"]
        assert tool.description == offered[name]["description"]
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (offered[name]["risk"] == "read")
        assert tool.annotations.destructive_hint is (offered[name]["risk"] in {"write", "destructive"})
    assert (json.loads(text_of(result)), result.is_error) == ({"content": "precious", "lines": 1}, False)
    [entry] = service.http.get("/audit", params={"tool": "read_file", "limit": 1}).json()["entries"]
    assert (entry["actor"], entry["verdict"], entry["status"]) == ("admin-key over mcp", "allow", "ok")


@BOTH
async def test_what_is_denied_or_wrong_is_an_answer_that_says_what_to_try(service: Service, mode: Mode) -> None:
    async with agent(service, mode=mode) as client:
        private = await client.call_tool("read_file", {"path": "/etc/passwd"})
        wrong = await client.call_tool("read_file", {"pth": "/a"})
        with pytest.raises(MCPError, match="did you mean read_file") as unknown:
            await client.call_tool("read_fil", {})

    assert (private.is_error, wrong.is_error, unknown.value.code) == (True, True, -32602)
    assert "Denied" in text_of(private)
    assert "did you mean `path`?" in text_of(wrong)


async def test_key_for_models_is_offered_only_what_changes_nothing(service: Service, precious: Path) -> None:
    """As POST /tools/{name}/call: nobody sees with which words an agent elsewhere was talked into a call."""
    async with agent(service, USE_KEY) as client:
        offered = await names(client)
        refused = await client.call_tool("write_file", {"path": f"{precious}.new", "lines": ["x"]})
        allowed = await client.call_tool("read_file", {"path": str(precious)})

    assert {"read_file", "get_current_time"} <= offered
    assert not {"write_file", "delete_file", "move_file", "create_directory"} & offered
    assert refused.is_error
    assert "admin key" in text_of(refused)
    assert not precious.with_name(f"{precious.name}.new").exists()
    assert not allowed.is_error


@BOTH
@pytest.mark.parametrize("grant", [True, False])
async def test_call_waits_for_the_word_of_a_person(
    service: Service, precious: Path, mode: Mode, *, grant: bool
) -> None:
    async with agent(service, mode=mode) as client:
        waiting = asyncio.create_task(client.call_tool("delete_file", {"path": str(precious)}))
        [question] = await until(lambda: pending(service), "somebody is asked")
        assert (question["actor"], there(precious)) == ("admin-key over mcp", True)
        assert str(precious) in question["words"]
        said = {"grant": grant}
        await asyncio.to_thread(service.http.post, f"/approvals/{question['id']}", json=said)
        result = await waiting

    assert (result.is_error, there(precious)) == (not grant, not grant)
    [entry] = service.http.get("/audit", params={"tool": "delete_file", "limit": 1}).json()["entries"]
    assert (entry["verdict"], entry["approved_by"]) == ("ask", "admin-key" if grant else None)


@BOTH
async def test_agent_that_gives_its_call_up_takes_the_question_along(
    service: Service, precious: Path, mode: Mode
) -> None:
    async with agent(service, mode=mode) as client:
        waiting = asyncio.create_task(client.call_tool("delete_file", {"path": str(precious)}))
        await until(lambda: pending(service), "somebody is asked")
        waiting.cancel()
        await until(lambda: not pending(service), "nobody is asked any more")
        assert await names(client)

    assert there(precious)


@BOTH
async def test_agent_that_leaves_takes_its_question_along(service: Service, precious: Path, mode: Mode) -> None:
    async with agent(service, mode=mode) as client:
        waiting = asyncio.create_task(client.call_tool("delete_file", {"path": str(precious)}))
        await until(lambda: pending(service), "somebody is asked")
    await asyncio.gather(waiting, return_exceptions=True)

    await until(lambda: not pending(service), "nobody is asked any more")
    assert there(precious)


async def test_agent_cannot_take_back_the_call_of_another_with_the_same_key(service: Service, precious: Path) -> None:
    """Every client counts its messages from nought."""
    async with agent(service, mode="legacy") as client:
        waiting = asyncio.create_task(client.call_tool("delete_file", {"path": str(precious)}))
        [question] = await until(lambda: pending(service), "somebody is asked")
        for number in range(20):
            cancelled = {"method": "notifications/cancelled", "params": {"requestId": number}}
            for label in ({}, {"mcp_session_id": "0123456789abcdef0123456789abcdef"}):
                answer = post(service, {"jsonrpc": "2.0"} | cancelled, **label)
                assert answer.status_code == 202
        assert [each["id"] for each in pending(service)] == [question["id"]]
        waiting.cancel()
        await until(lambda: not pending(service), "its own word counts")


async def test_program_of_a_call_ends_with_the_agent_that_wanted_it(make_lab: MakeLab) -> None:
    seconds = f"511.{os.getpid()}"  # nobody else's
    nap: dict[str, Any] = {"kind": "command", "description": "Sleep.", "argv": ["sleep", seconds], "timeout": "9m"}
    lab = make_lab()
    declare(lab, tools={"nap": nap})

    with lab.serve() as service:

        def naps() -> list[psutil.Process]:
            running = psutil.process_iter(["cmdline", "status"])
            mine = [each for each in running if (each.info["cmdline"] or [""])[-1] == seconds]
            return [each for each in mine if each.info["status"] != psutil.STATUS_ZOMBIE]

        async with agent(service, None) as client:
            waiting = asyncio.create_task(client.call_tool("nap", {}))
            await until(naps, "it sleeps")
            waiting.cancel()
            await until(lambda: not naps(), "nobody sleeps")
        await until(lambda: audited(service)[0]["status"] != "unfinished", "its end is written down")
        [entry] = audited(service)

    assert (entry["tool"], entry["status"]) == ("nap", "error")


def test_sdk_is_not_loaded_before_somebody_asks() -> None:
    """It would double the time that AirLab takes to start."""
    code = "import sys, app.cli.server; sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


async def test_one_agent_cannot_have_more_than_its_share_of_calls_at_once(service: Service, precious: Path) -> None:
    """What waits for a person waits long: conversations must be able to ask, too."""
    async with agent(service) as client:
        calls = [
            asyncio.create_task(client.call_tool("delete_file", {"path": str(precious)})) for _ in range(MOST_CALLS)
        ]
        await until(lambda: len(pending(service)) == MOST_CALLS, "all are asked about")
        refused = await client.call_tool("get_current_time", {})
        assert (refused.is_error, "Try again" in text_of(refused)) == (True, True)
        for call in calls:
            call.cancel()
        await until(lambda: not pending(service), "nobody is asked any more")
        assert not (await client.call_tool("get_current_time", {})).is_error


async def test_big_file_comes_cut_as_for_a_model(service: Service, precious: Path) -> None:
    fill(precious, "line of text\n" * 200_000)
    async with agent(service) as client:
        result = await client.call_tool("read_file", {"path": str(precious)})

    assert 100_000 < len(text_of(result)) < 600_000
    by_hand = service.http.post("/tools/read_file/call", json={"arguments": {"path": str(precious)}}).json()
    assert json.loads(text_of(result)) == by_hand["result"]


def test_who_has_no_key_or_another_method_is_refused(service: Service) -> None:
    for key, status in (({}, 401), ({"authorization": "Bearer wrong"}, 401)):
        assert httpx.post(f"{service.url}/mcp", json=REQUEST, headers=key).status_code == status
    for method in ("GET", "DELETE", "PUT", "HEAD"):
        refused = service.http.request(method, "/mcp")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


def call_with(arguments: bytes) -> bytes:
    whole = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read_file", "arguments": %b}}'
    return whole % arguments


HOSTILE: dict[str, tuple[bytes, set[int]]] = {
    "nothing": (b"", {400}),
    "no JSON": (b"x", {400}),
    "no UTF-8": (b'{"jsonrpc": "\xff\xfe"}', {400}),
    "no object": (b"1", {400}),
    "an empty object": (b"{}", {400}),
    "a batch": (json.dumps([REQUEST, REQUEST]).encode(), {400}),
    "another protocol": (json.dumps(REQUEST | {"jsonrpc": "1.0"}).encode(), {400}),
    "an unknown method": (json.dumps(REQUEST | {"method": "resources/list"}).encode(), {200, 400, 404}),
    "an answer that nobody asked for": (b'{"jsonrpc": "2.0", "id": 1, "result": {}}', {202, 400}),
    "deep arrays": (b"[" * 1_000_000, {400}),
    "deep objects": (b'{"a":' * 500_000, {400}),
    "deep arguments": (call_with(b'{"path": ' + b"[" * 900 + b"]" * 900 + b"}"), {200, 400}),
    "arguments that are none": (call_with(b"[1]"), {200, 400}),
    "a number without end": (call_with(b'{"path": ' + b"9" * 10_000 + b"}"), {400}),
    "no number": (call_with(b'{"path": NaN}'), {200, 400}),
    "half a character": (call_with(b'{"path": "/\\ud800"}'), {200, 400}),
    "a long name": (call_with(b"{}").replace(b"read_file", b"x" * 1_000_000), {200, 400}),
    "parameters of another kind": (json.dumps(REQUEST | {"params": {"cursor": [1]}}).encode(), {200, 400}),
    "too much": (b" " * (9 * 1024 * 1024), {413}),
}


@pytest.mark.parametrize("version", [None, "2025-06-18", "2026-07-28", "3000-01-01"])
@pytest.mark.parametrize("what", list(HOSTILE))
def test_hostile_body_is_refused_and_nothing_breaks(service: Service, what: str, version: str | None) -> None:
    """The service's log is looked at when it ends: it must hold no traceback."""
    body, allowed = HOSTILE[what]
    headers = {} if version is None else {"mcp_protocol_version": version}
    answer = post(service, body, **headers)

    assert answer.status_code in allowed
    if answer.status_code == 200:
        told = answer.json()
        assert "error" in told or told["result"]["isError"]
    assert len(answer.content) < 8192
    assert post(service, REQUEST).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"accept": "text/html"}, 406),
        ({"authorization": f"Bearer {ADMIN_KEY}", "x_api_key": USE_KEY}, 400),
    ],
)
def test_page_of_another_site_gets_nothing(service: Service, headers: dict[str, str], status: int) -> None:
    """DNS rebinding and forged requests: the edge looks at /mcp as at any route."""
    assert post(service, REQUEST, **headers).status_code == status


async def test_many_agents_leave_nothing_behind(service: Service) -> None:
    process = psutil.Process(service.process.pid)

    async def visit(mode: Mode) -> None:
        async with agent(service, USE_KEY, mode) as client:
            assert await names(client)

    await visit("auto")
    before = process.num_fds(), process.num_threads()
    for _ in range(5):
        await asyncio.gather(*(visit(mode) for mode in ("auto", "legacy") for _ in range(10)))

    def is_as_before() -> bool:
        return process.num_fds() <= before[0] + FEW and process.num_threads() <= before[1] + FEW

    await until(is_as_before, "connections and threads are gone")


def test_it_is_off_unless_the_manifest_says_so(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.serve() as service:
        off = post(service, REQUEST)
        assert off.status_code == 404
        assert "policy: {mcp_server: true}" in off.json()["error"]["message"]
        declare(lab)
        service.http.post("/manifest/reload").raise_for_status()
        assert post(service, REQUEST).status_code == 200
        declare(lab, mcp_server=False)
        service.http.post("/manifest/reload").raise_for_status()
        assert post(service, REQUEST).status_code == 404


async def test_edit_of_the_tools_is_seen_by_an_agent_that_is_connected(make_lab: MakeLab) -> None:
    lab = make_lab()
    declare(lab, tools={"builtin": ["get_current_time", "read_file"]})
    with lab.serve() as service:
        async with agent(service, None) as client:
            assert await names(client) == {"get_current_time", "read_file"}
            declare(lab, tools={"builtin": ["get_current_time"]})
            await asyncio.to_thread(service.http.post, "/manifest/reload")
            assert await names(client) == {"get_current_time"}
            with pytest.raises(MCPError, match="no tool 'read_file' is in force"):
                await client.call_tool("read_file", {"path": "/a"})
            await asyncio.to_thread(service.http.post, "/command", json={"command": "tools", "value": "off"})
            assert await names(client) == set()
            switched_off = await client.call_tool("get_current_time", {})

    assert switched_off.is_error
    assert "switched off" in text_of(switched_off)


def test_while_it_drains_nothing_new_is_begun(make_lab: MakeLab) -> None:
    lab = make_lab()
    declare(lab)
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))
    with lab.serve() as service, service.stream() as stream:
        next(stream.iter_lines())
        service.signal(signal.SIGTERM)
        wait_until(lambda: service.http.get("/health").status_code == 503, "it drains")
        refused = post(service, REQUEST)
        gate.touch()
        assert service.wait() == 0

    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1


async def test_who_waits_for_a_person_is_answered_when_it_stops(make_lab: MakeLab) -> None:
    lab = make_lab()
    declare(lab)
    with lab.serve() as service:
        file = lab.folder / "workspace" / "a.txt"
        fill(file, "precious")
        async with agent(service, None) as client:
            waiting = asyncio.create_task(client.call_tool("delete_file", {"path": str(file)}))
            await until(lambda: pending(service), "somebody is asked")
            service.signal(signal.SIGTERM)
            result = await waiting
        assert await asyncio.to_thread(service.wait) == 0
        assert there(file)

    assert result.is_error
    assert "nobody can be asked now" in text_of(result)


@BOTH
async def test_agent_that_leaves_is_told_of_to_the_server_behind(make_lab: MakeLab, mode: Mode) -> None:
    """Its call was passed on to an MCP server of ours, which must not go on with it for nobody."""
    lab = make_lab()
    server = ["/usr/bin/env", "-C", str(ROOT), sys.executable, "-m", "tests.support.mcp_server"]
    docs = {"kind": "mcp", "command": server, "allow": ["never"], "risk": "net", "timeout": "9m"}
    declare(lab, tools={"docs": docs})
    begun, taken_back = lab.folder / "begun", lab.folder / "taken back"
    with lab.serve() as service:
        await until(lambda: "docs__never" in offered_by(service), "the server's tool is offered")
        async with agent(service, None, mode) as client:
            arguments = {"begun": str(begun), "taken_back": str(taken_back)}
            waiting = asyncio.create_task(client.call_tool("docs__never", arguments))
            await until(lambda: there(begun), "it has begun")
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: there(taken_back), "it is taken back")


def server_at(url: str) -> dict[str, Any]:
    return {"kind": "mcp", "url": f"{url}/mcp", "allow": "all", "risk": "net"}


def offered_by(service: Service) -> set[str]:
    return {tool["name"] for tool in service.http.get("/tools").json()["tools"]}


def call(service: Service, tool: str, **arguments: Any) -> dict[str, Any]:
    told: dict[str, Any] = (
        service.http.post(f"/tools/{tool}/call", json={"arguments": arguments}).raise_for_status().json()
    )
    return told


async def test_airlabs_that_have_each_other_as_a_tool_go_round_no_ring(make_lab: MakeLab) -> None:
    """Unbounded, each list would hold the other's, which holds the first again; and a call could go round for ever."""
    first, second = make_lab(), make_lab()
    with first.serve() as one, second.serve() as other:
        own = {"builtin": ["get_current_time"]}
        declare(second, tools=own | {"one": server_at(one.url)})
        declare(first, tools=own | {"other": server_at(other.url), "self": server_at(one.url)})
        for service in (other, one):
            await asyncio.to_thread(service.http.post, "/manifest/reload")
        expected = {"get_current_time", "other__get_current_time", "self__get_current_time"}
        await until(lambda: offered_by(one) == expected, "the tools of the other, and its own")
        await until(lambda: offered_by(other) == {"get_current_time", "one__get_current_time"}, "the tools of the one")

        assert call(one, "other__get_current_time", timezone="Europe/Berlin")["status"] == "ok"
        assert call(one, "self__get_current_time")["status"] == "ok"
        [entry] = other.http.get("/audit").json()["entries"]
        assert (entry["tool"], entry["actor"]) == ("get_current_time", "anonymous over mcp")
        async with agent(one, None) as client:
            # For who is no AirLab, it is one way to all servers that it declares.
            assert await names(client) == expected
            assert not (await client.call_tool("other__get_current_time", {})).is_error
        passed_on = {"x_airlab_via": "0123456789abcdef"}
        asked = REQUEST | {"method": "tools/call", "params": {"name": "other__get_current_time"}}
        refused = post(one, asked, **passed_on).json()["result"]
        assert refused["isError"]
        assert "declare itself" in refused["content"][0]["text"]
        assert "other__" not in post(one, REQUEST, **passed_on).text


async def test_airlab_calls_the_tools_of_another_with_that_ones_key_and_rules(make_lab: MakeLab) -> None:
    far = make_lab()
    far.environment = KEYS
    declare(far)
    with far.serve(key=ADMIN_KEY) as there:
        near = make_lab()
        near.environment = {"FAR_KEY": USE_KEY}
        key = {"Authorization": {"env": "FAR_KEY", "prefix": "Bearer "}}
        declare(near, tools={"builtin": [], "far": server_at(there.url) | {"headers": key}})
        with near.serve() as here:
            await until(lambda: "far__read_file" in offered_by(here), "the other's tools are offered")
            assert "far__write_file" not in offered_by(here)
            inside = far.folder / "workspace" / "a.txt"
            fill(inside, "far away")
            assert "far away" in str(call(here, "far__read_file", path=str(inside))["result"])
            denied = call(here, "far__read_file", path=str(inside.with_name(".env")))
            assert (denied["status"], "Denied" in str(denied["result"])) == ("error", True)
