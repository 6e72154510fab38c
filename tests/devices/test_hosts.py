"""AirLab's two hosts and a laptop, as recorded: what the probe says of each, which shipped profile they choose, and the
exact arguments that llama-server gets there."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.devices.cpu import Node
from app.devices.gpus import Gpu
from app.devices.probe import Host
from app.devices.profiles import ProfileChoice, choose_profile
from app.engines.base import WeightsId
from app.engines.command import launch_for
from app.fleet.spec import model_specs
from app.manifest.load import read_manifest
from app.manifest.schema import Manifest
from app.units import KIB, MIB
from app.weights.inventory import Inventory, WeightsFile
from tests.devices.recorded import HOSTS, lay_out

SHIPPED = Path(__file__).resolve().parents[2] / "airlab.yaml"
AVX2 = frozenset({"sse4_2", "avx", "f16c", "fma", "bmi2", "avx2"})


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_manifest(SHIPPED).manifest


@pytest.fixture
def host(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return lay_out(name, tmp_path).look(monkeypatch)


def choose(manifest: Manifest, host: Host) -> ProfileChoice:
    return choose_profile(manifest.profiles, host, forced=None)


def why(choice: ProfileChoice) -> dict[str, str]:
    return {outcome.name: outcome.why for outcome in choice.considered}


@pytest.mark.parametrize("name", ["gaming-pc"])
def test_gaming_pc_is_seen_as_it_is(host: Host) -> None:
    assert host == Host(
        cores=8,
        can_offload=True,
        logical_cores=16,
        cpu_model="AMD Ryzen 7 5800XT 8-Core Processor",
        sockets=1,
        numa_nodes=(Node(tuple(range(16)), 32_780_016 * KIB, 0),),
        isa=AVX2,
        memory_bytes=32_780_016 * KIB,
        gpus=(Gpu("NVIDIA GeForce RTX 5070 Ti", 16_303 * MIB, 12.0, "576.88"),),
    )


@pytest.mark.parametrize("name", ["dl380"])
def test_dl380_is_seen_with_both_processors_and_both_nodes(host: Host) -> None:
    assert (host.cpu_model, host.sockets) == ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", 2)
    assert (host.cores, host.logical_cores) == (28, 56)
    near, far = host.numa_nodes
    assert near == Node((*range(14), *range(28, 42)), 131_905_084 * KIB, 0)
    assert far == Node((*range(14, 28), *range(42, 56)), 131_933_012 * KIB, 1)
    assert host.memory_bytes == 263_838_096 * KIB
    assert host.isa == AVX2, "AVX2 and no AVX-512"
    assert (host.gpus, host.can_offload) == ((), False), "its llama-server answered that there is none"


@pytest.mark.parametrize("name", ["dl380-t4"])
def test_dl380_with_a_card_differs_by_the_card_only(
    host: Host, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.gpus == (Gpu("Tesla T4", 15_360 * MIB, 7.5, "550.127.05"),)
    bare = lay_out("dl380", tmp_path_factory.mktemp("bare")).look(monkeypatch)
    assert (host.cores, host.isa, host.numa_nodes) == (bare.cores, bare.isa, bare.numa_nodes)
    assert host.can_offload


@pytest.mark.parametrize("name", ["laptop"])
def test_gpu_of_a_laptop_is_seen_through_the_engine_alone(host: Host) -> None:
    assert host.gpus == (Gpu("Intel(R) UHD Graphics 620 (KBL GT2)", 8127 * MIB),)
    assert host.notes == ("nvidia-smi is not installed",)
    assert (host.cores, host.sockets, len(host.numa_nodes)) == (4, 1, 1)


CHOICES = {"gaming-pc": "rtx-5070ti", "dl380": "dual-xeon", "dl380-t4": "dual-xeon-gpu", "laptop": "generic"}


@pytest.mark.parametrize(("name", "profile"), CHOICES.items())
def test_host_chooses_its_shipped_profile(host: Host, profile: str, manifest: Manifest) -> None:
    assert choose(manifest, host).name == profile


@pytest.mark.parametrize("name", ["dl380"])
def test_answer_says_which_rule_matched_which_did_not_and_why(host: Host, manifest: Manifest) -> None:
    choice = choose(manifest, host)
    xeon = "cpu: 'E5-2680 v4' is in 'Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz'; sockets: there are 2, as asked"
    assert choice.reason == f"the first that matches ({xeon})"
    assert why(choice) == {
        "rtx-5070ti": "gpu: no GPU was seen",
        "dual-xeon-gpu": "min_vram: no GPU was seen",
        "dual-xeon": xeon,
        "generic": "any: every host is fine",
    }


@pytest.mark.parametrize("name", ["dl380"])
def test_dl380_is_known_by_its_processors_also_where_nobody_can_speak_of_gpus(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: Manifest
) -> None:
    """The embedded engine has no part for GPUs, nvidia-smi is not there: unknown is not none, and matches nothing."""
    host = lay_out(name, tmp_path).look(monkeypatch, embedded=True)
    choice = choose(manifest, host)

    assert (host.gpus, host.can_offload) == (None, False)
    assert choice.name == "dual-xeon"
    assert why(choice)["rtx-5070ti"] == "gpu: unknown, because nvidia-smi is not installed"


@pytest.mark.parametrize("name", CHOICES)
def test_llama_server_gets_exactly_these_arguments(name: str, host: Host, manifest: Manifest) -> None:
    """Written out in hosts/NAME/arguments.txt: a flag that changes for a host, changes there first."""
    files = [model.filename for model in manifest.models.values() if model.filename]
    weights = Inventory({file: WeightsFile(WeightsId(Path("/models") / file, 1, 1)) for file in files})
    shown = []
    for key, spec in model_specs(manifest, choose(manifest, host), host, weights, forced_gpu_layers=None).items():
        launch = launch_for(key, spec.run, socket=Path(f"/run/airlab/{key}.sock"), environment={})
        flags = " ".join(launch.arguments).replace(" --", "\n    --")
        shown.append(f"{key} ({spec.device})\n    {flags}\n")

    assert "\n".join(shown) == (HOSTS / name / "arguments.txt").read_text()
