"""What the kernel offers is asked without taking it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.devices.sandbox import Kernel, probe_kernel, wsl_version

ALL = Kernel(landlock_abi=7, landlock_off=False, seccomp=True, no_new_privileges=True, openat2=True, pidfd=True)


def restrictions() -> list[str]:
    status = Path("/proc/self/status").read_text()
    return [line for line in status.splitlines() if line.startswith(("Seccomp", "NoNewPrivs", "Cap"))]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
def test_asking_the_kernel_answers_everything_and_restricts_nothing() -> None:
    before, open_before = restrictions(), len(list(Path("/proc/self/fd").iterdir()))

    kernel = probe_kernel()

    assert None not in (kernel.landlock_abi, kernel.landlock_off, kernel.seccomp, kernel.no_new_privileges)
    assert None not in (kernel.openat2, kernel.pidfd)
    assert restrictions() == before
    # Threads that other tests left may close theirs meanwhile.
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before
    assert Path("/etc/passwd").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
def test_landlock_is_said_to_be_there_where_its_own_file_says_so() -> None:
    modules = Path("/sys/kernel/security/lsm")
    if not modules.is_file():
        pytest.skip("this kernel does not list its security modules")
    assert ((probe_kernel().landlock_abi or 0) > 0) == ("landlock" in modules.read_text().split(","))


def test_kernel_that_has_everything_lacks_nothing_and_an_unknown_one_all() -> None:
    assert ALL.lacks == ()
    assert Kernel().lacks == ("Landlock ABI 3", "seccomp filters", "no_new_privs", "openat2", "pidfd")


def test_why_landlock_does_not_do_is_said() -> None:
    old = Kernel(landlock_abi=2, seccomp=True, no_new_privileges=True, openat2=True, pidfd=True)
    off = Kernel(landlock_abi=0, landlock_off=True, seccomp=True, no_new_privileges=True, openat2=True, pidfd=True)

    assert old.lacks == ("Landlock ABI 3 (it has 2)",)
    assert off.lacks == ("Landlock (built in, but switched off at boot: see the kernel's lsm= argument)",)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("5.15.167.4-microsoft-standard-WSL2", 2),
        ("6.6.87.2-microsoft-standard-WSL2+", 2),
        ("4.4.0-19041-Microsoft", 1),
        ("6.12.9-amd64", None),
        ("", None),
    ],
)
def test_kernels_of_windows_are_told_from_others(release: str, version: int | None) -> None:
    assert wsl_version(release) == version
