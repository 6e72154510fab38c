"""What ``airlab check`` says of a manifest that is right, and may not be meant."""

from __future__ import annotations

import pytest

from app.manifest.cautions import cautions
from app.manifest.problems import ManifestProblems
from tests.support.manifest import loaded


@pytest.mark.parametrize(
    ("url", "is_told"),
    [
        ("http://vllm.example.com/v1", True),
        ("http://8.8.8.8:8000/v1", True),
        ("http://[2600::1]/v1", True),
        ("https://vllm.example.com/v1", False),
        ("http://ray-head:8000/v1", False),
        ("http://nas.lan:8000", False),
        ("http://vllm.models.svc.cluster.local", False),
        ("http://127.0.0.1:8000", False),
        ("http://10.0.0.7", False),
        ("http://100.64.0.1", False),
        ("http://[::1]:8080", False),
        ("http://[fd00::1]:8080", False),
    ],
)
def test_key_that_would_cross_the_internet_in_the_clear_is_told(url: str, is_told: bool) -> None:
    models = {"far": {"remote": {"url": url, "key_env": "FAR_KEY"}}, "open": {"remote": {"url": url}}}
    told = cautions(loaded("far", models).manifest)
    assert len(told) == is_told
    assert all(f"the key in FAR_KEY is sent to {url} without encryption" in line for line in told)


@pytest.mark.parametrize(
    "url",
    [
        "http://a..b/v1",
        f"http://{'x' * 64}.example/v1",
        f"http://{'a.' * 127}a/v1",
        "http://[::::::]/v1",
        "http://[1.2]",
    ],
)
def test_host_that_could_never_be_looked_up_is_a_problem(url: str) -> None:
    with pytest.raises(ManifestProblems, match=r"models\.far\.remote\.url"):
        loaded("far", {"far": {"remote": {"url": url}}})


@pytest.mark.parametrize(
    "url", ["http://lab.", f"http://{'x' * 63}.example/v1", "http://a-b_c.d/v1", "http://[fe80::1]:80"]
)
def test_host_that_could_be_looked_up_is_none(url: str) -> None:
    assert loaded("far", {"far": {"remote": {"url": url}}}).manifest.models["far"].remote
