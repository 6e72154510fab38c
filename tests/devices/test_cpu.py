"""The kernel's texts, also those of machines and kernels that nobody here has."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.devices.cpu import Node, allowed_cpus, numa_nodes, parse_cpu_list, parse_cpuinfo, parse_memory_bytes

ARM = """\
processor\t: 0
BogoMIPS\t: 2000.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp sve i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd4f

processor\t: 1
BogoMIPS\t: 2000.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd46

Hardware\t: some board
"""


def test_arm_says_what_it_can_and_no_name() -> None:
    """Only what every core can counts: an engine's threads move between them."""
    arm = parse_cpuinfo(ARM)
    assert (arm.model, arm.sockets, arm.core_of) == (None, None, {})
    assert arm.isa == {"asimd", "asimddp"}


def test_new_instruction_sets_are_told_by_the_kernels_names() -> None:
    new = parse_cpuinfo(
        "processor : 0\nmodel name : X\nflags : fpu avx2 avx512f avx512_vnni amx_int8 amx_tile made_up\n"
    )
    assert new.isa == {"avx2", "avx512f", "avx512_vnni", "amx_int8", "amx_tile"}


@pytest.mark.parametrize(
    "text", ["", "\n\n\n", "no colon", "processor: many\n", "processor : 0\nphysical id : x\ncore id : 1"]
)
def test_text_that_says_nothing_leaves_everything_unknown(text: str) -> None:
    nothing = parse_cpuinfo(text)
    assert (nothing.model, nothing.isa, nothing.sockets) == (None, frozenset(), None)


def test_name_of_a_processor_cannot_steer_a_terminal() -> None:
    """A virtual machine's host chooses it; it is printed by `airlab plan`."""
    assert parse_cpuinfo("processor : 0\nmodel name : Evil \x1b[2J CPU\t\t9\n").model == "Evil [2J CPU 9"
    assert len(parse_cpuinfo("processor : 0\nmodel name : " + "x" * 9999).model or "") == 200


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3\n", (0, 1, 2, 3)), ("0", (0,)), ("0-1,28-29\n", (0, 1, 28, 29)), ("\n", ())],
)
def test_lists_of_processors(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


def test_node_with_memory_and_no_processor_is_a_node(tmp_path: Path) -> None:
    """Memory on an expansion bus is a node of its own; ten nodes stay in their order."""
    for number in (0, 2, 10):
        folder = tmp_path / f"sys/devices/system/node/node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text("\n" if number == 10 else f"{number}\n")
        (folder / "meminfo").write_text(f"Node {number} MemTotal:  {number + 1} kB\n")
    assert numa_nodes(tmp_path) == (Node((0,), 1024, 0), Node((2,), 3 * 1024, 2), Node((), 11 * 1024, 10))


def test_node_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "sys/devices/system/node/node0"
    folder.mkdir(parents=True)
    (folder / "cpulist").write_text("a-b\n")
    assert numa_nodes(tmp_path) == ()


def test_memory_is_read_from_both_kinds_of_meminfo() -> None:
    assert parse_memory_bytes("MemTotal:       32780016 kB\nMemFree: 1 kB\n") == 32_780_016 * 1024
    assert parse_memory_bytes("Node 1 MemTotal:       12 kB\n") == 12 * 1024
    assert parse_memory_bytes("") is None


def test_affinity_that_the_kernel_does_not_tell_is_empty(tmp_path: Path) -> None:
    assert allowed_cpus(tmp_path) == frozenset()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Cpus_allowed_list:\tnone\n")
    assert allowed_cpus(tmp_path) == frozenset()
