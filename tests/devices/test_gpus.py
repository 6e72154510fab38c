"""What nvidia-smi and llama-server print of GPUs, read; what they do not say is None."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from app.devices import gpus
from app.devices.gpus import Gpu, list_devices, merged, nvidia_smi, parse_list_devices, parse_nvidia_smi
from app.units import MIB
from tests.devices.recorded import write_program

T4 = Gpu("Tesla T4", 15_360 * MIB, 7.5, "550.127.05")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Tesla T4, 15360, 7.5, 550.127.05\n", (T4,)),
        ("Tesla T4, 15360, 7.5, 550.127.05\nTesla T4, 15360, 7.5, 550.127.05\n", (T4, T4)),
        ("NVIDIA Odd, Name, [N/A], [N/A], [N/A]\n", (Gpu("NVIDIA Odd, Name"),)),
        ("NVIDIA GB10, [Not Supported], 12.1, 580.95.05\n", (Gpu("NVIDIA GB10", None, 12.1, "580.95.05"),)),
        ("No devices were found\n", ()),
        ("", ()),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", None),
        ('Field "compute_cap" is not a valid field to query.\n', None),
        ("Tesla T4, 15360, 7.5, 550.127.05\nUnable to determine the device handle: Unknown Error\n", None),
    ],
)
def test_rows_of_nvidia_smi(text: str, found: tuple[Gpu, ...] | None) -> None:
    assert parse_nvidia_smi(text) == found


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("  (none)\n", ()),
        ("", ()),
        ("  CUDA0: Tesla T4 (14912 MiB, 14807 MiB free)\n", (Gpu("Tesla T4", 14_912 * MIB),)),
        ("  Vulkan0: Intel(R) Arc(tm) A770 Graphics (DG2) (16288 MiB, 15000 MiB free)\n",
         (Gpu("Intel(R) Arc(tm) A770 Graphics (DG2)", 16_288 * MIB),)),
        ("  ROCm0: AMD Radeon RX 7900 (20464 MiB, 20000 MiB free)\n", (Gpu("AMD Radeon RX 7900", 20_464 * MIB),)),
        ("  MTL0: Apple M4 Max (110100 MiB, 110099 MiB free)\n  BLAS: Accelerate (0 MiB, 0 MiB free)\n",
         (Gpu("Apple M4 Max", 110_100 * MIB),)),
        ("  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n", ()),
        ("  GPUOpenCL: QUALCOMM Adreno(TM) (0 MiB, 0 MiB free)\n", (Gpu("QUALCOMM Adreno(TM)"),)),
        ("  CUDA0: Tesla T4\n", (Gpu("Tesla T4"),)),
    ],
)  # fmt: skip
def test_devices_that_llama_server_lists(listed: str, found: tuple[Gpu, ...]) -> None:
    assert parse_list_devices(f"some line of a log\nAvailable devices:\n{listed}") == found


def test_card_that_two_backends_list_is_one_card() -> None:
    listed = (
        "Available devices:\n  CUDA0: Tesla T4 (14912 MiB, 1 MiB free)\n  CUDA1: Tesla T4 (14912 MiB, 1 MiB free)\n"
        "  Vulkan0: Tesla T4 (15360 MiB, 1 MiB free)\n  Vulkan1: Tesla T4 (15360 MiB, 1 MiB free)\n"
        "  Vulkan2: Intel UHD (9 MiB, 1 MiB free)\n"
    )
    t4 = Gpu("Tesla T4", 14_912 * MIB)
    assert parse_list_devices(listed) == (t4, t4, Gpu("Intel UHD", 9 * MIB))


def test_compute_capability_is_read_from_the_log_where_a_build_prints_it() -> None:
    """Each card's own: CUDA orders cards by speed, and two of them need not be alike."""
    text = (
        "ggml_cuda_init: found 2 CUDA devices:\n"
        "  Device 0: NVIDIA GeForce RTX 5070 Ti, compute capability 12.0, VMM: yes\n"
        "  Device 1: Tesla T4, compute capability 7.5, VMM: yes\n"
        "Available devices:\n"
        "  CUDA0: NVIDIA GeForce RTX 5070 Ti (15842 MiB, 9 MiB free)\n"
        "  CUDA1: Tesla T4 (14912 MiB, 9 MiB free)\n"
    )
    assert [gpu.compute_capability for gpu in parse_list_devices(text) or ()] == [12.0, 7.5]


@pytest.mark.parametrize(
    "text", ["", "error: unknown argument: --list-devices\n", "CUDA0: Tesla T4 (1 MiB, 1 MiB free)\n"]
)
def test_answer_without_a_list_is_no_answer(text: str) -> None:
    assert parse_list_devices(text) is None


def test_first_answer_counts_and_later_ones_fill_its_gaps() -> None:
    assert merged([[Gpu("T4", 5, None, "550")], [Gpu("t4", 4, 7.5), Gpu("A2", 3)], [Gpu("A2", 9, 8.6)]]) == (
        Gpu("T4", 5, 7.5, "550"),
        Gpu("A2", 3, 8.6),
    )


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PATH to put programs on."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "_WSL_FOLDER", str(tmp_path / "wsl"))
    return tmp_path


def test_host_without_nvidia_smi_says_so(programs: Path) -> None:
    assert list(programs.iterdir()) == []
    assert nvidia_smi().note == "nvidia-smi is not installed"


def test_nvidia_smi_is_found_where_windows_lays_it(programs: Path) -> None:
    """In WSL2 it is not on the PATH of a service."""
    (programs / "wsl").mkdir()
    write_program(programs / "wsl" / "nvidia-smi", "echo Tesla T4, 15360, 7.5, 550.127.05")
    assert nvidia_smi().gpus == (T4,)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo; echo NVIDIA-SMI has failed; exit 9", "failed with exit code 9: NVIDIA-SMI has failed"),
        ("echo something new", "gave no answer that AirLab can read"),
    ],
)
def test_nvidia_smi_that_cannot_answer_leaves_gpus_unknown_with_the_reason(
    programs: Path, script: str, why: str
) -> None:
    write_program(programs / "nvidia-smi", script)
    answer = nvidia_smi()
    assert (answer.gpus, answer.note) == (None, f"nvidia-smi {why}")


def test_nvidia_smi_is_asked_for_exactly_this(programs: Path) -> None:
    write_program(programs / "nvidia-smi", 'echo "$*" >"$0.asked"')
    nvidia_smi()
    asked = (programs / "nvidia-smi.asked").read_text()
    assert asked == "--query-gpu=name,memory.total,compute_cap,driver_version --format=csv,noheader,nounits\n"


@pytest.mark.llama
def test_real_llama_server_gives_a_list() -> None:
    """With or without a GPU here: its answer can be read."""
    program = os.environ["AIRLAB_TEST_LLAMA_SERVER"]
    printed = subprocess.run([program, "--list-devices"], capture_output=True, text=True, timeout=30, check=True).stdout
    answer = list_devices([program])
    assert answer.gpus is not None
    assert printed.startswith("Available devices:\n")
    assert bool(answer.gpus) == ("(none)" not in printed)
