"""What is asked of Landlock, on kernels of every age, and what is said where there is none."""

from __future__ import annotations

import errno
import os

import pytest

from app.tools.worker import kernel, landlock


@pytest.mark.parametrize("version", range(landlock.LEAST_VERSION, 8))
def test_ruleset_asks_for_what_its_version_knows(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """A kernel refuses a request with a bit that it does not know, so that each version is asked in its own words."""
    asked: list[bytes] = []

    def remember(name: str, *arguments: object) -> int:
        assert name == "landlock_create_ruleset"
        asked.append(arguments[0] if isinstance(arguments[0], bytes) else b"")
        assert arguments[1] == len(asked[-1])
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(landlock, "version", lambda: version)
    monkeypatch.setattr(kernel, "call", remember)
    with landlock.Ruleset(tcp_ports=()):
        pass

    words = [int.from_bytes(asked[0][at : at + 8], "little") for at in range(0, len(asked[0]), 8)]
    files = 2**16 - 1 if version >= 5 else 2**15 - 1
    assert words == [files, 3, 3][: 1 if version < 4 else 2 if version < 6 else 3]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (errno.ENOSYS, "this kernel has no Landlock"),
        (errno.EOPNOTSUPP, "Landlock is switched off: add landlock to the kernel's lsm= option"),
        (errno.EPERM, "Landlock cannot be asked: Operation not permitted"),
        (-1, "this kernel's Landlock has version 1; 3 is needed"),
        (-2, "this kernel's Landlock has version 2; 3 is needed"),
    ],
)
def test_kernel_that_cannot_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch, answer: int, words: str) -> None:
    """Absent, switched off and too old have different remedies. Minus a version: that one is there."""

    def refuse(*_: object) -> int:
        if answer > 0:
            raise OSError(answer, os.strerror(answer))
        return -answer

    monkeypatch.setattr(kernel, "call", refuse)
    with pytest.raises(kernel.Unfit, match=words):
        landlock.version()
