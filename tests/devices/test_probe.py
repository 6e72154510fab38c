"""The probe puts together what its sources say; none of them can keep AirLab from starting."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.devices.gpus import Answer, Gpu
from app.devices.probe import probe_host
from tests.devices.recorded import lay_out, write_program

LISTED = "Available devices:\n  CUDA0: Tesla T4 (14912 MiB, 14807 MiB free)\n"


def says(source: str, *gpus: Gpu) -> Answer:
    return Answer(source, gpus)


def cannot_say() -> Answer:
    return Answer("the oracle", None, "is silent")


def test_this_host_is_seen() -> None:
    """Whatever runs the tests has a processor with a name and some memory."""
    host = probe_host(can_offload=False, gpu_sources=())
    assert host.cores >= 1
    assert host.logical_cores is not None
    assert host.logical_cores >= host.cores
    assert host.memory_bytes is not None
    assert host.memory_bytes > 2**28
    assert host.gpus is None


def test_host_without_proc_and_sys_is_unknown_and_no_error(tmp_path: Path) -> None:
    host = probe_host(can_offload=False, gpu_sources=(), root=tmp_path)
    assert host.cores >= 1
    assert (host.cpu_model, host.sockets, host.numa_nodes, host.isa) == (None, None, (), frozenset())


def test_no_source_that_can_say_is_unknown_and_not_none() -> None:
    host = probe_host(can_offload=True, gpu_sources=(cannot_say,))
    assert host.gpus is None
    assert host.notes == ("the oracle is silent",)


def test_one_source_that_sees_none_is_none_and_the_silent_one_is_named() -> None:
    host = probe_host(can_offload=True, gpu_sources=(cannot_say, lambda: says("docker")))
    assert host.gpus == ()
    assert host.notes == ("the oracle is silent",)


def test_sources_of_any_kind_are_put_together() -> None:
    """Docker's daemon will be one more."""
    host = probe_host(
        can_offload=True,
        gpu_sources=(
            lambda: says("smi", Gpu("T4", 1, None, "550")),
            lambda: says("docker", Gpu("T4", 2, 7.5), Gpu("A2")),
        ),
    )
    assert host.gpus == (Gpu("T4", 1, 7.5, "550"), Gpu("A2"))


@pytest.mark.parametrize(
    ("script", "can_offload"),
    [
        (f"printf '{LISTED}'", True),
        ("printf 'Available devices:\\n  (none)\\n'", False),
        ("exit 3", True),
        ("echo surprise", True),
    ],
)
def test_engine_that_lists_no_device_cannot_offload_and_a_silent_one_may(
    tmp_path: Path, script: str, can_offload: bool
) -> None:
    """A page that says "GPU (all layers)" of a build without any part for GPUs would be a lie."""
    engine = tmp_path / "llama-server"
    write_program(engine, script)
    assert probe_host(can_offload=True, engine=[str(engine)], gpu_sources=()).can_offload is can_offload


def test_engine_without_a_part_for_gpus_is_not_asked(tmp_path: Path) -> None:
    engine = tmp_path / "llama-server"
    write_program(engine, f"touch {tmp_path}/asked")
    assert not probe_host(can_offload=False, engine=[str(engine)], gpu_sources=()).can_offload
    assert not (tmp_path / "asked").exists()


def test_affinity_to_half_of_a_core_is_a_core(tmp_path: Path) -> None:
    """Two threads of one core are one core's work, though the kernel counts two processors."""
    machine = lay_out("dl380", tmp_path)
    (machine.root / "proc/self/status").write_text("Name:\tx\nCpus_allowed_list:\t3,31\n")
    host = probe_host(can_offload=False, gpu_sources=(), root=machine.root)
    assert (host.cores, host.logical_cores) == (1, 2)


def test_container_on_one_node_has_the_cores_of_one_processor(tmp_path: Path) -> None:
    machine = lay_out("dl380", tmp_path)
    (machine.root / "proc/self/status").write_text("Cpus_allowed_list:\t0-13,28-41\n")
    assert probe_host(can_offload=False, gpu_sources=(), root=machine.root).cores == 14


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 28), ("400000 100000", 4), ("150000 100000", 1), ("5000 100000", 1), ("9900000 100000", 28),
     ("nonsense", 28), ("1 0", 28)],
)  # fmt: skip
def test_quota_of_the_cgroup_counts_in_whole_cores(tmp_path: Path, quota: str, cores: int) -> None:
    machine = lay_out("dl380", tmp_path)
    (machine.root / "sys/fs/cgroup").mkdir(parents=True)
    (machine.root / "sys/fs/cgroup/cpu.max").write_text(f"{quota}\n")
    assert probe_host(can_offload=False, gpu_sources=(), root=machine.root).cores == cores
