"""What the kernel, cgroups and nvidia-smi say is free, from files and words that were written for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.devices.free import FreeGpu, free_nodes, free_ram, free_vram, parse_free_vram
from app.units import KIB, MIB
from tests.devices.recorded import write_program

MEMINFO = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable:     700 kB\n"


def lay(root: Path, **files: str) -> Path:
    for path, text in files.items():
        file = root / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_free_memory_is_the_kernels_own_estimate(tmp_path: Path) -> None:
    assert free_ram(lay(tmp_path, proc__meminfo=MEMINFO)) == 700 * KIB


def test_limit_of_the_container_counts_without_pages_that_go_when_they_must(tmp_path: Path) -> None:
    root = lay(tmp_path, proc__meminfo=MEMINFO)
    cgroup = root / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.max").write_text(f"{400 * KIB}\n")
    (cgroup / "memory.current").write_text(f"{300 * KIB}\n")
    (cgroup / "memory.stat").write_text(f"anon 1\ninactive_file {50 * KIB}\n")
    assert free_ram(root) == 150 * KIB
    (cgroup / "memory.max").write_text("max\n")
    assert free_ram(root) == 700 * KIB


def test_memory_of_which_nobody_says_anything_is_unknown(tmp_path: Path) -> None:
    assert free_ram(tmp_path) is None


def test_free_memory_of_this_machine_is_some() -> None:
    assert (free_ram() or 0) > 0


def node(root: Path, number: int, cpus: str, free_kib: int) -> None:
    folder = root / f"sys/devices/system/node/node{number}"
    folder.mkdir(parents=True)
    (folder / "cpulist").write_text(f"{cpus}\n")
    lines = {"MemTotal": 1000, "MemFree": free_kib, "Active(file)": 30, "Inactive(file)": 40}
    (folder / "meminfo").write_text("".join(f"Node {number} {name}: {kib} kB\n" for name, kib in lines.items()))


def test_each_node_has_its_memory_and_its_processors(tmp_path: Path) -> None:
    node(tmp_path, 0, "0-1,4-5", 100)
    node(tmp_path, 1, "2-3,6-7", 200)
    assert free_nodes(tmp_path) == {"node 0": (170 * KIB, (0, 1, 4, 5)), "node 1": (270 * KIB, (2, 3, 6, 7))}


def test_nodes_go_by_the_kernels_numbers_and_those_without_processors_are_left_out(tmp_path: Path) -> None:
    """Numbers have holes on some hosts, and memory on an expander card is a node, too."""
    node(tmp_path, 0, "0-1", 100)
    node(tmp_path, 2, "2-3", 200)
    node(tmp_path, 3, "", 900)
    assert free_nodes(tmp_path) == {"node 0": (170 * KIB, (0, 1)), "node 2": (270 * KIB, (2, 3))}


def test_host_of_one_node_has_its_memory_in_one(tmp_path: Path) -> None:
    node(tmp_path, 0, "0-7", 100)
    assert free_nodes(tmp_path) == {}


def test_free_memory_of_gpus_goes_by_their_numbers() -> None:
    told = "0, 15500, GPU-a\n1, [N/A], GPU-b\n2, 7, GPU-c\n"
    assert parse_free_vram(told) == (FreeGpu(0, 15_500 * MIB, "GPU-a"), FreeGpu(2, 7 * MIB, "GPU-c"))
    assert parse_free_vram("No devices were found\n") == ()


def test_gpus_are_asked_through_nvidias_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path / "nvidia-smi", "echo '0, 4000, GPU-a'")
    monkeypatch.setenv("PATH", f"{tmp_path}")
    assert free_vram() == (FreeGpu(0, 4000 * MIB, "GPU-a"),)


def test_host_without_that_program_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_vram() == ()
