"""Tools that the manifest declares: what is wrong with one is said before it is offered, and each kind really runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from app.live.guards import policy_for
from app.manifest.load import parse_manifest
from app.manifest.problems import ManifestProblems
from app.policy.offer import shown
from app.tools.base import ToolSpec
from app.tools.declared import WrongToolError
from tests.support.declared import declared, takes
from tests.support.gate import House

SOURCE = """
import csv
from dataclasses import dataclass
from pathlib import Path

@dataclass
class Order:
    price: float

def total(path, start=0):
    if "none" in path:
        raise ValueError("There are no orders. Try another file.")
    with open(path) as file:
        return {"total": start + sum(Order(float(row[0])).price for row in csv.reader(file))}

def write(path):
    Path(path).write_text("written")

def call_home():
    import socket
    socket.create_connection(("127.0.0.1", 9))
"""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path, access="write")
    yield house
    await house.close()


def put(house: House, spec: ToolSpec) -> None:
    house.policy = replace(house.policy, tools={**house.policy.tools, spec.name: spec})


async def call(house: House, spec: ToolSpec, **arguments: Any) -> tuple[str, dict[str, Any]]:
    put(house, spec)
    result, said = await house.call("it", arguments)
    return result.status, said


@pytest.mark.parametrize(
    ("kind", "settings", "place", "word"),
    [
        ("http", {"url": "http://x/{a}"}, ("url",), "no parameter"),
        ("http", {"url": "http://x/{a}", "parameters": takes(a={"type": "string"})}, ("url",), "missing"),
        ("http", {"url": "http://x/{a}", "parameters": takes(a={"type": "array"})}, ("url",), "more than"),
        ("http", {"url": "http://x/{a"}, ("url",), "single"),
        ("http", {"url": "http://x:99999/"}, ("url",), "address"),
        ("http", {"url": "http://x/", "query": {"q": "{a}"}}, ("query", "q"), "no parameter"),
        ("http", {"url": "http://x/", "body": {"q": ["{a}"]}}, ("body",), "no parameter"),
        ("http", {"url": "http://x/", "parameters": {"type": "string"}}, ("parameters",), "object"),
        ("command", {"argv": ["no-such-program"]}, ("argv", 0), "installed"),
        ("command", {"argv": ["/etc/passwd"]}, ("argv", 0), "installed"),
        ("command", {"argv": ["echo"], "starts": ["no-such"]}, ("starts", 0), "installed"),
        ("command", {"argv": ["echo", "-x{a}"], "parameters": takes(a={"type": "string"})}, ("argv", 1), "missing"),
        ("command", {"argv": ["echo"], "paths": ["a"]}, ("paths", 0), "no parameter"),
        ("python", {"entry": "orders:gone"}, ("entry",), "no function"),
        ("python", {"entry": "broken:f"}, ("entry",), "cannot be used"),
    ],
)
def test_tool_that_cannot_work_is_refused_with_its_place(
    kind: str, settings: dict[str, Any], place: tuple[str | int, ...], word: str
) -> None:
    with pytest.raises(WrongToolError) as caught:
        declared(kind, read=lambda file: SOURCE if file == "orders.py" else "def f(:", **settings)

    assert (caught.value.place, word in caught.value.message) == (place, True), caught.value.message
    assert caught.value.fix


def test_problems_of_declared_tools_have_their_lines(tmp_path: Path) -> None:
    text = """version: 1
default_model: a
models: {a: {filename: a.gguf}}
tools:
  read_file: {kind: http, description: d, url: "http://x/"}
  a__b: {kind: http, description: d, url: "http://x/"}
  c:
    kind: http
    description: d
    url: "http://x/{what}"
  d: {kind: python, description: d, entry: "gone:f"}
"""
    with pytest.raises(ManifestProblems) as caught:
        policy_for(parse_manifest(text.encode(), name="airlab.yaml"), tmp_path, tmp_path / "state")

    found = [(problem.line, problem.message) for problem in caught.value.problems]
    assert [line for line, _ in found] == [5, 6, 10, 11]
    assert "built-in" in found[0][1]
    assert "`__`" in found[1][1]
    assert "tools/gone.py" in found[3][1]


def test_python_file_is_found_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "tools" / "shop").mkdir(parents=True)
    (tmp_path / "tools" / "shop" / "orders.py").write_text(SOURCE)
    text = b"""version: 1
default_model: a
models: {a: {filename: a.gguf}}
tools: {it: {kind: python, description: d, entry: "shop.orders:total"}}
"""
    policy = policy_for(parse_manifest(text, name="airlab.yaml"), tmp_path, tmp_path / "state")

    assert policy.tools["it"].kind == "fs_read"


async def test_http_tool_runs_behind_the_wall(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the gate and a real worker, with a key from the environment that nothing of AirLab's keeps."""
    monkeypatch.setenv("WEATHER_KEY", "s3cret")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"path": self.path, "key": self.headers["X-Key"]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            spec = declared(
                "http",
                url=f"http://127.0.0.1:{server.server_port}/{{place}}",
                parameters=takes("place"),
                headers={"X-Key": {"env": "WEATHER_KEY"}},
                cache="10m",
            )
            refused = await call(house, spec, place="Berlin")
            house.policy = replace(house.policy, allow_private=("127.0.0.0/8",), ports=(server.server_port,))
            answered = await call(house, spec, place="Berlin/?")
        finally:
            server.shutdown()
            thread.join()

    assert (refused[0], refused[1]["code"]) == ("error", "port_not_allowed")
    assert answered == ("ok", {"status": 200, "content": {"path": "/Berlin%2F%3F", "key": "s3cret"}})
    assert "s3cret" not in repr((house.policy, house.facts, house.audit.intents))


async def test_secret_that_is_not_set_is_said(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEATHER_KEY", raising=False)
    status, said = await call(house, declared("http", url="http://x/", headers={"X-Key": {"env": "WEATHER_KEY"}}))

    assert (status, said["code"]) == ("error", "not_configured")
    assert "WEATHER_KEY" in said["error"]


async def test_wrong_arguments_are_an_answer_to_the_model(house: House) -> None:
    spec = declared("command", argv=["echo", "{n}"], parameters=takes(n={"type": "integer", "maximum": 5}))
    put(house, spec)
    for text in ('{"n": 9}', '{"n": "1"}', '{"m": 1}', "[]", "{", '{"n": "\\ud800"}'):
        result, said = await house.call("it", text)
        assert (result.status, said["code"]) == ("error", "invalid_arguments"), text
    assert shown(house.policy, spec).parameters["properties"]["n"] == {"type": "integer"}


async def test_command_is_one_program_with_its_arguments(house: House) -> None:
    (house.root / "a.txt").write_text("hello\n")
    spec = declared("command", argv=["cat", "{path}"], parameters=takes("path"), paths=["path"])

    assert await call(house, spec, path=f"{house.root}/a.txt") == ("ok", {"output": "hello\n", "exit_code": 0})
    assert (await call(house, spec, path="/etc/passwd"))[0] == "denied"
    echo = declared("command", argv=["echo", "{text}"], parameters=takes("text"))
    assert await call(house, echo, text="$(id); a  b") == ("ok", {"output": "$(id); a  b\n", "exit_code": 0})
    assert (await call(house, echo, text="-n"))[1]["code"] == "invalid_arguments"


async def test_command_meets_the_wall(house: House, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the program is: no file beside the roots, no network, no other program, nothing of the environment."""
    secret = tmp_path_factory.mktemp("beside") / "secret"
    secret.write_text("s3cret")
    script = f"cat {secret}; ls /; env; echo x > {house.root}/made"
    spec = declared("command", argv=["sh", "-c", script], starts=["cat", "env"])

    status, said = await call(house, spec)

    assert status == "ok"
    assert "s3cret" not in said["output"]
    assert sorted(line.partition("=")[0] for line in said["output"].splitlines()) == ["HOME", "LANG", "PATH", "PWD"]
    assert "ls: Permission denied" in said["error_output"]
    assert not (house.root / "made").exists()


async def test_command_that_says_too_much_is_cut_and_one_that_never_ends_is_killed(house: House) -> None:
    assert await call(house, declared("command", argv=["yes"], max_answer=300)) == (
        "ok",
        {"output": "y\n" * 150, "truncated": True},
    )
    status, said = await call(house, declared("command", argv=["sleep", "1000"], timeout=0.5))
    assert (status, said["code"]) == ("error", "timeout")


async def test_command_that_changes_a_path_is_asked_about(house: House) -> None:
    spec = declared("command", argv=["touch", "{path}"], parameters=takes("path"), changes=["path"])
    put(house, spec)

    assert (await call(house, spec, path=f"{house.root}/new"))[0] == "denied"
    result, _ = await house.call("it", {"path": f"{house.root}/new"}, approvals=house.person(grant=True))

    assert result.status == "ok"
    assert (house.root / "new").exists()


async def test_python_function_runs_behind_the_wall_only(house: House) -> None:
    (house.root / "orders.csv").write_text("1.5\n2\n")
    spec = declared(
        "python",
        entry="orders:total",
        read=lambda _: SOURCE,
        paths=["path"],
        parameters=takes("path", start={"type": "number", "default": 1}),
    )

    assert await call(house, spec, path=f"{house.root}/orders.csv") == ("ok", {"content": {"total": 4.5}})
    assert (await call(house, spec, path="/etc/passwd"))[0] == "denied"
    status, said = await call(house, spec, path=f"{house.root}/none")
    assert (status, said["error"]) == ("error", "There are no orders. Try another file.")


async def test_python_function_reaches_no_network_and_changes_no_file_it_only_reads(house: House) -> None:
    write = declared("python", entry="orders:write", read=lambda _: SOURCE, paths=["path"], parameters=takes("path"))
    home = declared("python", entry="orders:call_home", read=lambda _: SOURCE)

    for spec, arguments in ((write, {"path": f"{house.root}/new"}), (home, {})):
        status, said = await call(house, spec, **arguments)
        assert (status, "PermissionError" in said["error"]) == ("error", True)
    assert not (house.root / "new").exists()


async def test_python_function_that_may_write_is_asked_about(house: House) -> None:
    spec = declared(
        "python",
        entry="orders:write",
        read=lambda _: SOURCE,
        access="write",
        paths=["path"],
        parameters=takes("path"),
    )

    assert (await call(house, spec, path=f"{house.root}/new"))[0] == "denied"
    house.policy = replace(house.policy, destructive="allow")
    assert (await call(house, spec, path=f"{house.root}/new"))[0] == "ok"
    assert (house.root / "new").read_text() == "written"
