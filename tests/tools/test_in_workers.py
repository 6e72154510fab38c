"""The tools behind the kernel's walls: that each still does its work there, and says the same."""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path, PurePosixPath

import pytest

from app.errors import ToolError
from app.tools.base import Confinement
from app.tools.toolbox import Toolbox
from tests.tools.servers import FINE, certificate_in, serving
from tests.tools.shed import BOUND_S, SPECS, workers_of


def to_this_machine(port: int) -> Confinement:
    return Confinement("net", allow_private=("127.0.0.0/8",), ports=(port,))


async def said(
    toolbox: Toolbox, name: str, inside: Confinement, *, may_destroy: bool = False, **given: object
) -> object:
    """What a tool answers, or the code of its no."""
    try:
        return json.loads(await toolbox.run(SPECS[name], given, inside, BOUND_S, may_destroy=may_destroy))
    except ToolError as exc:
        return exc.code


async def test_tools_that_change_files_do_so_and_overwrite_with_permission_only(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    root = tmp_path / "ws"
    root.mkdir()
    inside = Confinement("fs_write", read=(PurePosixPath(root),), write=(PurePosixPath(root),))
    ok = {"status": "ok"}
    a, b, moved = f"{root}/a/b/a.txt", f"{root}/a/b.txt", f"{root}/moved.txt"

    assert await said(toolbox, "create_directory", inside, path=f"{root}/a/b", parents=True) == {
        **ok,
        "path": f"{root}/a/b",
    }
    assert await said(toolbox, "write_file", inside, path=a, lines=["a"]) == {**ok, "bytes_written": 2}
    assert await said(toolbox, "copy_file", inside, source=a, dest=b) == ok
    assert await said(toolbox, "move_file", inside, source=a, dest=moved) == ok
    for name, given in (
        ("write_file", {"path": b, "lines": "b"}),
        ("copy_file", {"source": moved, "dest": b, "overwrite": True}),
        ("move_file", {"source": moved, "dest": b, "overwrite": True}),
        ("delete_file", {"path": f"{root}/a", "recursive": True}),
    ):
        assert await said(toolbox, name, inside, **given) == "needs_permission"
        assert isinstance(await said(toolbox, name, inside, may_destroy=True, **given), dict)
    assert list(root.iterdir()) == []


async def test_tools_that_look_find_what_is_there(toolbox: Toolbox, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("one\ntwo needle")
    inside = Confinement("fs_read", read=(PurePosixPath(tmp_path),))
    found = f"{tmp_path}/deep/a.txt"

    assert await said(toolbox, "search_files", inside, path=str(tmp_path), pattern="*.txt") == {
        "files": [found],
        "count": 1,
    }
    assert await said(toolbox, "find_in_files", inside, path=str(tmp_path), search_text="needle") == {
        "matches": [{"path": found, "line": 2, "text": "two needle"}],
        "count": 1,
    }
    assert await said(toolbox, "calculate_directory_size", inside, path=str(tmp_path)) == {
        "size_bytes": 14,
        "size_human": "14 B",
    }
    info = await said(toolbox, "get_file_info", inside, path=found)
    assert isinstance(info, dict)
    assert info["size"] == 14
    assert info.keys() == {"size", "created", "modified", "permissions"}


async def test_server_is_timed_and_then_nothing_is_left(toolbox: Toolbox) -> None:
    with serving(lambda connection: connection.sendall(FINE)) as port:
        inside = to_this_machine(port)
        timed = await said(toolbox, "measure_http_latency", inside, hostname=f"http://localhost:{port}")

    assert isinstance(timed, dict)
    assert timed.keys() == {"latency_ms"}


async def test_certificates_are_checked_where_no_file_can_be_read(toolbox: Toolbox, tmp_path: Path) -> None:
    """They are read ahead; the answer would be another one with none at all."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate_in(tmp_path))
    with serving(lambda connection: connection.sendall(FINE), tls) as port:
        inside = to_this_machine(port)
        answer = await said(toolbox, "measure_http_latency", inside, hostname=f"localhost:{port}")

    assert answer in {"certificate_not_trusted", "no_certificates"}
    if ssl.create_default_context().cert_store_stats()["x509_ca"]:
        assert answer == "certificate_not_trusted"


async def test_fault_070_server_that_never_ends_its_answer_ends_with_the_call(toolbox: Toolbox) -> None:
    """Whatever the other side does, no worker outlives its time."""
    ended: list[bytes] = []
    with serving(lambda connection: ended.append(connection.recv(4096) and connection.recv(4096))) as port:
        inside = to_this_machine(port)
        with pytest.raises(ToolError) as caught:
            await toolbox.run(SPECS["measure_http_latency"], {"hostname": f"http://127.0.0.1:{port}"}, inside, 2.0)
        await toolbox.close()

    assert caught.value.code == "timeout"
    assert ended == [b""], "the connection was closed"
    assert workers_of(os.getpid()) == []
