"""Who holds a port or a lock is seen without touching either."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import psutil
import pytest

from app.devices import holders
from app.devices.holders import Holder, lock_holder, parse_locks, port_holder

ME = Holder(os.getpid(), psutil.Process().name())


@pytest.mark.parametrize(
    ("listens_on", "asked_for", "holder"),
    [
        ("127.0.0.1", "127.0.0.1", ME),
        ("127.0.0.1", "0.0.0.0", ME),
        ("127.0.0.1", "127.0.0.2", None),
        ("0.0.0.0", "127.0.0.1", ME),
        ("0.0.0.0", "::1", ME),
    ],
)
def test_listener_is_found_by_port_and_address(listens_on: str, asked_for: str, holder: Holder | None) -> None:
    with socket.create_server((listens_on, 0)) as listener:
        assert port_holder(asked_for, listener.getsockname()[1]) == holder


def test_port_that_is_only_connected_from_is_held_by_nobody() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
    ):
        assert port_holder("127.0.0.1", client.getsockname()[1]) is None


def test_child_that_has_not_come_to_its_own_program_yet_is_no_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between fork and exec it has all that its parent has; psutil names whichever it saw last."""
    looks: list[list[int | None]] = [[7], [8], [os.getpid()], [os.getpid()]]
    monkeypatch.setattr(holders, "_listeners", lambda *_: looks.pop(0) if len(looks) > 1 else looks[0])
    assert port_holder("127.0.0.1", 9) == ME


def test_lock_is_seen_while_it_is_held_and_not_before_or_after(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert lock_holder(file) is None

    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    try:
        assert lock_holder(file) is None
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert lock_holder(file) == ME
        assert lock_holder(tmp_path / "." / "lock") == ME
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        assert lock_holder(file) is None
    finally:
        os.close(descriptor)


def test_only_locks_that_flock_took_are_read() -> None:
    text = (
        "1: FLOCK  ADVISORY  WRITE 709 08:02:1572 0 EOF\n"
        "1: -> FLOCK  ADVISORY  WRITE 712 08:02:1572 0 EOF\n"
        "2: POSIX  ADVISORY  READ 810 08:02:99 1073741826 1073742335\n"
        "3: FLOCK  ADVISORY  WRITE -1 08:02:1573 0 EOF\n"
        "4: FLOCK  ADVISORY  WRITE 5 <none>:0 0 EOF\n"
        "nonsense\n"
    )
    assert list(parse_locks(text)) == [(709, 1572), (5, 0)]


def test_holder_is_named_as_far_as_it_can_be_seen() -> None:
    assert str(Holder(7, "nginx")) == "nginx (pid 7)"
    assert str(Holder(7, None)) == "a process (pid 7)"
    assert str(Holder(None, None)) == "a process that this user may not see"
