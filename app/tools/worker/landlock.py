"""Which files and ports a worker may reach: Landlock, by its system calls. What this kernel cannot hold is said.

A ruleset names what it holds, so everything of that kind is forbidden from then on, and then what is allowed. Rules
are laid on opened files and folders, and hold for all below. Landlock does not see stat, chmod and its like, nor
sockets other than TCP: for those there is seccomp.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from app.tools.worker import kernel

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))

READ = READ_FILE | READ_DIR
CHANGE = READ | WRITE_FILE | TRUNCATE | MAKE_REG | MAKE_DIR | REMOVE_FILE | REMOVE_DIR | REFER
"""Links, FIFOs, sockets and devices are never made: no tool needs one, and each is a way to somewhere else."""
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""The rights that a rule on a single file can grant."""

LEAST_VERSION = 3
"""The first that holds truncation (Linux 6.2); with less, what may not be written could still be emptied."""
_TCP_VERSION, _IOCTL_VERSION, _SCOPE_VERSION = 4, 5, 6
_BIND_TCP, _CONNECT_TCP = 1, 2
_ABSTRACT_SOCKETS_AND_SIGNALS = 3
_BENEATH, _PORT = 1, 2


def version() -> int:
    """The version of Landlock's interface on this kernel, at least 3; asked of the kernel, since files may hide it.

    Raises:
        Unfit: There is none, it is switched off, or it is too old.
    """
    try:
        found = kernel.call("landlock_create_ruleset", None, 0, 1)
    except OSError as exc:
        why = {
            errno.ENOSYS: "this kernel has no Landlock, or what AirLab runs in hides it (Linux 6.2 or newer has it)",
            errno.EOPNOTSUPP: "Landlock is switched off: add landlock to the kernel's lsm= option",
        }.get(exc.errno or 0, f"Landlock cannot be asked: {exc.strerror}")
        raise kernel.Unfit(why) from exc
    if found < LEAST_VERSION:
        raise kernel.Unfit(
            f"this kernel's Landlock has version {found}; {LEAST_VERSION} is needed (Linux 6.2 or newer)"
        )
    return found


class Ruleset:
    """What is going to be allowed; nothing is held before ``enforce``."""

    def __init__(self, *, tcp_ports: Iterable[int] | None = None, only: int | None = None) -> None:
        """Forbid everything; or, of files, ``only`` these rights.

        Args:
            tcp_ports: May be connected to, where the kernel can hold ports (Linux 6.7); None leaves connecting alone.
            only: Rights to files.

        Raises:
            Unfit: As ``version`` says.
        """
        known = version()
        self._files = only or (IOCTL_DEV << (known >= _IOCTL_VERSION)) - 1
        holds_tcp = known >= _TCP_VERSION and only is None
        tcp = _BIND_TCP | (_CONNECT_TCP if tcp_ports is not None else 0)
        scope = _ABSTRACT_SOCKETS_AND_SIGNALS if only is None else 0
        asked = struct.pack("=QQQ", self._files, tcp if holds_tcp else 0, scope)
        size = 8 if known < _TCP_VERSION else 16 if known < _SCOPE_VERSION else 24
        self._rules = kernel.call("landlock_create_ruleset", asked[:size], size, 0)
        for port in tcp_ports or () if holds_tcp else ():
            self._add(_PORT, struct.pack("=QQ", _CONNECT_TCP, port))

    def allow(self, opened: int, rights: int) -> None:
        """Allow this with an opened file, or with an opened folder and all below it; O_PATH is enough."""
        self._add(_BENEATH, struct.pack("=Qi", rights & self._files, opened))

    def allow_path(self, path: str, rights: int) -> None:
        """The same, where there is something at the path; links are followed."""
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                is_folder = stat.S_ISDIR(os.fstat(opened).st_mode)
                self.allow(opened, rights if is_folder else rights & OF_A_FILE)
            finally:
                os.close(opened)

    def enforce(self) -> None:
        """Hold this thread to it, for good; needs ``kernel.give_up_new_privileges``."""
        kernel.call("landlock_restrict_self", self._rules, 0)

    def __enter__(self) -> Ruleset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._rules)

    def _add(self, kind: int, rule: bytes) -> None:
        kernel.call("landlock_add_rule", self._rules, kind, rule, 0)
