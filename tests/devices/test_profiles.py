"""Which profile is taken, and the reason for it and against every other."""

from __future__ import annotations

from typing import Any

import pytest

from app.devices.gpus import Gpu
from app.devices.probe import Host
from app.devices.profiles import ProfileChoice, choose_profile
from app.errors import SettingsError
from app.manifest.schema import ProfileSection
from app.units import GIB

T4 = Gpu("Tesla T4", 15 * GIB, 7.5, "550")
GT = Gpu("NVIDIA GeForce GT 1030", 2 * GIB, 6.1, "550")
XEON = Host(
    cores=28,
    can_offload=True,
    cpu_model="Intel(R) Xeon(R) CPU  E5-2680 v4 @ 2.40GHz",
    sockets=2,
    isa=frozenset({"avx2", "fma"}),
    memory_bytes=251 * GIB,
    gpus=(GT, T4),
)
UNKNOWN = Host(cores=2, can_offload=True, notes=("nvidia-smi did not answer within 5 s", "the oracle is silent"))


def choose(host: Host, *, forced: str | None = None, **matches: Any) -> ProfileChoice:
    profiles = {name: ProfileSection.model_validate({"match": match}) for name, match in matches.items()}
    return choose_profile(profiles, host, forced=forced)


def outcome(host: Host, **rules: Any) -> tuple[bool, str]:
    """Whether a profile with these rules matches, and its reason."""
    profile = choose(host, asked=rules, fallback="any").considered[0]
    return profile.matched, profile.why


HOLD: list[tuple[dict[str, Any], str]] = [
    ({"cpu": "e5-2680 V4"}, "cpu: 'e5-2680 V4' is in 'Intel(R) Xeon(R) CPU  E5-2680 v4 @ 2.40GHz'"),
    ({"cpu": "CPU E5-2680"}, "cpu: 'CPU E5-2680' is in 'Intel(R) Xeon(R) CPU  E5-2680 v4 @ 2.40GHz'"),
    ({"sockets": 2}, "sockets: there are 2, as asked"),
    ({"min_memory": "240GiB"}, "min_memory: the host has 251.0 GiB, at least 240.0 GiB"),
    ({"isa": ["avx2", "fma"]}, "isa: it has avx2, fma"),
    ({"gpu": "tesla"}, "gpu: 'tesla' is in 'Tesla T4'"),
    ({"min_vram": "15GiB"}, "min_vram: 'Tesla T4' has 15.0 GiB, at least 15.0 GiB"),
    ({"min_compute_capability": 7.5}, "min_compute_capability: 'Tesla T4' has 7.5, at least 7.5"),
    ({"sockets": 2, "gpu": "T4"}, "sockets: there are 2, as asked; gpu: 'T4' is in 'Tesla T4'"),
]
MISS: list[tuple[dict[str, Any], str]] = [
    ({"cpu": "E5-2680 v3"}, "cpu: 'E5-2680 v3' is not in 'Intel(R) Xeon(R) CPU  E5-2680 v4 @ 2.40GHz'"),
    ({"sockets": 1}, "sockets: there are 2, not 1"),
    ({"min_memory": "256GiB"}, "min_memory: the host has 251.0 GiB, less than 256.0 GiB"),
    ({"isa": ["avx2", "avx512f", "amx_int8"]}, "isa: the processor does not show avx512f, amx_int8"),
    ({"gpu": "RTX"}, "gpu: 'RTX' is not in 'NVIDIA GeForce GT 1030', 'RTX' is not in 'Tesla T4'"),
    ({"min_compute_capability": 12}, "min_compute_capability: 'NVIDIA GeForce GT 1030' has 6.1, less than 12.0, "
     "'Tesla T4' has 7.5, less than 12.0"),
    ({"gpu": "1030", "min_vram": "4GiB"}, "min_vram: 'NVIDIA GeForce GT 1030' has 2.0 GiB, less than 4.0 GiB"),
    ({"gpu": "RTX", "min_vram": "1GiB"}, "gpu: 'RTX' is not in 'NVIDIA GeForce GT 1030', 'RTX' is not in 'Tesla T4'; "
     "min_vram: the rules above leave no GPU"),
    ({"sockets": 2, "cpu": "EPYC"}, "cpu: 'EPYC' is not in 'Intel(R) Xeon(R) CPU  E5-2680 v4 @ 2.40GHz'"),
]  # fmt: skip
NOT_KNOWN: list[tuple[dict[str, Any], str]] = [
    ({"cpu": "E5"}, "cpu: the processor's name is unknown"),
    ({"sockets": 1}, "sockets: their number is unknown"),
    ({"min_memory": "1B"}, "min_memory: the host's memory is unknown"),
    ({"isa": ["avx2"]}, "isa: the processor does not show avx2"),
    ({"gpu": "T4"}, "gpu: unknown, because nvidia-smi did not answer within 5 s; the oracle is silent"),
    ({"min_vram": "1B"}, "min_vram: unknown, because nvidia-smi did not answer within 5 s; the oracle is silent"),
]


@pytest.mark.parametrize(("rules", "why"), HOLD)
def test_rules_that_hold(rules: dict[str, Any], why: str) -> None:
    assert outcome(XEON, **rules) == (True, why)


@pytest.mark.parametrize(("rules", "why"), MISS)
def test_rules_that_do_not_hold_say_why_and_those_that_do_are_left_out(rules: dict[str, Any], why: str) -> None:
    """Rules for GPUs look at one and the same: a slow card's name and a large card's memory make no match."""
    assert outcome(XEON, **rules) == (False, why)


@pytest.mark.parametrize(("rules", "why"), NOT_KNOWN)
def test_what_is_not_known_matches_nothing(rules: dict[str, Any], why: str) -> None:
    assert outcome(UNKNOWN, **rules) == (False, why)


def test_figures_that_a_gpu_has_not_got_match_nothing() -> None:
    card = Host(cores=2, can_offload=True, gpus=(Gpu("Intel UHD"),))
    assert outcome(card, min_vram="1B") == (False, "min_vram: the memory of 'Intel UHD' is unknown")
    assert outcome(card, min_compute_capability=7) == (
        False,
        "min_compute_capability: the compute capability of 'Intel UHD' is unknown",
    )


def test_host_without_a_gpu_matches_no_rule_for_one() -> None:
    assert outcome(Host(cores=2, can_offload=True, gpus=()), gpu="T4") == (False, "gpu: no GPU was seen")


def test_first_that_matches_is_taken_and_the_others_are_judged_all_the_same() -> None:
    choice = choose(XEON, a={"sockets": 1}, b={"gpu": "T4"}, c={"sockets": 2}, d="any")
    assert (choice.name, choice.reason) == ("b", "the first that matches (gpu: 'T4' is in 'Tesla T4')")
    assert [(profile.name, profile.matched) for profile in choice.considered] == [
        ("a", False),
        ("b", True),
        ("c", True),
        ("d", True),
    ]


def test_forced_profile_is_taken_though_it_does_not_match() -> None:
    choice = choose(XEON, forced="b", a="any", b={"sockets": 1})
    assert (choice.name, choice.reason) == ("b", "forced by AIRLAB_PROFILE or --profile")
    assert [profile.why for profile in choice.considered] == ["any: every host is fine", "sockets: there are 2, not 1"]


def test_forced_profile_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(SettingsError, match="AIRLAB_PROFILE=c: no such profile; the manifest has a, b"):
        choose(XEON, forced="c", a="any", b="any")


def test_no_match_names_every_miss_and_the_line_that_helps() -> None:
    with pytest.raises(SettingsError) as refused:
        choose(XEON, a={"sockets": 1}, b={"gpu": "RTX 5070 Ti", "min_memory": "1TiB"})
    assert refused.value.message.splitlines() == [
        "no profile of the manifest matches this host:",
        "  a: sockets: there are 2, not 1",
        "  b: min_memory: the host has 251.0 GiB, less than 1.0 TiB; gpu: 'RTX 5070 Ti' is not in "
        "'NVIDIA GeForce GT 1030', 'RTX 5070 Ti' is not in 'Tesla T4'",
        "Add one for every host as the last below `profiles:`",
        "  generic: {match: any}",
        "or force one with AIRLAB_PROFILE or --profile.",
    ]
