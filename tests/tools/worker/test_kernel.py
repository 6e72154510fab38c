"""The numbers of system calls are the kernel's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.tools.worker import kernel

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
"""arm64 took the numbers that are common to all newer machines."""


def numbers_in(header: Path) -> dict[str, int]:
    defined = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text(), re.MULTILINE)
    return {name: int(number) for name, number in defined}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    """One wrong number would allow another call, and refuse the one that is needed."""
    if not HEADERS[machine].exists():
        pytest.skip(f"no kernel headers for {machine} here")
    header = numbers_in(HEADERS[machine])
    # The header's name for calls that 32-bit machines have twice.
    renamed = {"newfstatat": "fstatat"} if machine == "aarch64" else {}
    known = {name: number for name in every_name() if (number := kernel.number(name, machine)) is not None}
    compared = {name: number for name, number in known.items() if renamed.get(name, name) in header}

    assert compared == {name: header[renamed.get(name, name)] for name in compared}
    assert {name for name in known if name not in compared} <= {name for name in known if known[name] > 440}
    missing = {name for name in every_name() if kernel.number(name, machine) is None}
    assert not missing & header.keys()


@pytest.mark.parametrize("machine", HEADERS)
def test_no_number_stands_for_two_calls(machine: str) -> None:
    numbers = [number for name in every_name() if (number := kernel.number(name, machine)) is not None]

    assert len(numbers) == len(set(numbers))
    assert max(numbers) == kernel.CEILING


def every_name() -> set[str]:
    return {*kernel.CALM, *kernel.WRITE, *kernel.NET, *kernel.REFUSED}


def test_call_that_fails_says_so_as_the_functions_of_os_do() -> None:
    with pytest.raises(FileNotFoundError):
        kernel.call("openat2", -100, b"/nowhere", bytes(24), 24)


def test_unknown_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Better no tools than a filter of wrong numbers."""
    riscv = type("Uname", (), {"machine": "riscv64"})
    kernel.machine.cache_clear()
    monkeypatch.setattr("os.uname", riscv)
    try:
        with pytest.raises(kernel.Unfit, match="x86-64 and arm64, 64 bit; this is riscv64"):
            kernel.number("read")
    finally:
        kernel.machine.cache_clear()
