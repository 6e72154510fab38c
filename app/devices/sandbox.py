"""What this kernel offers to confine a process. Only asks: nothing here restricts anything, or changes what is there.

Asked by system call, since files that name security modules are absent where the calls work, as on WSL2.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from dataclasses import dataclass

LANDLOCK_ABI = 3
"""The least that confines files: the first to know truncation."""

# The same on every processor that Linux got after 5.0's common numbering, x86-64 and ARM64 among them.
_OPENAT2, _LANDLOCK_CREATE_RULESET = 437, 444
_LANDLOCK_VERSION = 1
_SET_SECCOMP, _SECCOMP_FILTER, _GET_NO_NEW_PRIVS = 22, 2, 39


@dataclass(frozen=True, slots=True)
class Kernel:
    """What can be used here; None where it cannot be told."""

    landlock_abi: int | None = None
    """0: there is no Landlock."""
    landlock_off: bool | None = None
    """True: it is built in, but switched off at boot."""
    seccomp: bool | None = None
    """Whether system calls can be filtered."""
    no_new_privileges: bool | None = None
    openat2: bool | None = None
    """Whether a path can be opened without leaving a folder, links included."""
    pidfd: bool | None = None
    """Whether a process can be signalled without mistaking another one for it."""

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is not there, or not known to be, and is needed to confine tools; empty where they can be."""
        needs = {
            self._landlock_words: (self.landlock_abi or 0) >= LANDLOCK_ABI,
            "seccomp filters": self.seccomp,
            "no_new_privs": self.no_new_privileges,
            "openat2": self.openat2,
            "pidfd": self.pidfd,
        }
        return tuple(name for name, there in needs.items() if not there)

    @property
    def _landlock_words(self) -> str:
        if self.landlock_off:
            return "Landlock (built in, but switched off at boot: see the kernel's lsm= argument)"
        return f"Landlock ABI {LANDLOCK_ABI}" + (f" (it has {self.landlock_abi})" if self.landlock_abi else "")


def probe_kernel() -> Kernel:
    """Ask the kernel; never raises. Outside Linux nothing is known."""
    if sys.platform != "linux":
        return Kernel()
    libc = ctypes.CDLL(None, use_errno=True)
    # A size of 0 is refused where the call is known, before anything is looked at.
    openat2 = _error_of(libc.syscall, _OPENAT2, -1, None, None, 0) == errno.EINVAL
    # Without a filter there is nothing to load: a kernel that can filter says that the address is bad.
    filters = _error_of(libc.prctl, _SET_SECCOMP, _SECCOMP_FILTER, None) == errno.EFAULT
    abi = int(libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION))
    return Kernel(
        landlock_abi=max(0, abi),
        landlock_off=abi < 0 and ctypes.get_errno() == errno.EOPNOTSUPP,
        seccomp=filters,
        no_new_privileges=libc.prctl(_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0,
        openat2=openat2,
        pidfd=_has_pidfd(),
    )


def wsl_version(osrelease: str) -> int | None:
    """1 or 2 for the kernels of the Windows Subsystem for Linux, such as ``5.15.167.4-microsoft-standard-WSL2``."""
    if found := re.search(r"-WSL(\d)", osrelease):
        return int(found[1])
    return 1 if "Microsoft" in osrelease else None


def _error_of(function: ctypes._NamedFuncPointer, *arguments: int | None) -> int:
    """The error number of a call that is meant to fail, 0 if it did not."""
    ctypes.set_errno(0)
    return ctypes.get_errno() if function(*arguments) < 0 else 0


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True
