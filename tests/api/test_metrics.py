"""/metrics, read as strictly as Prometheus reads it, and that its figures are those of the service."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import httpx
import pytest

from app.api.metrics import _family
from tests.conftest import MakeLab
from tests.support.service import KEYS, USE_KEY, Service

_NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABELS = r'\{(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*\}'
_SAMPLE = re.compile(rf"({_NAME})({_LABELS})? ([-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|Inf)|NaN)", re.IGNORECASE)
_STATES = {"stopped", "starting", "ready", "draining", "stopping", "stuck", "cooling", "failed"}


@dataclass
class Family:
    """One metric with its samples by their labels."""

    words: str
    kind: str = ""
    samples: dict[str, float] = field(default_factory=dict)


def parsed(text: str) -> dict[str, Family]:
    """The text format 0.0.4; fails at whatever Prometheus would refuse or warn of."""
    families: dict[str, Family] = {}
    name = ""
    assert text.endswith("\n")
    for line in text.removesuffix("\n").split("\n"):
        match line.split(" ", 3):
            case ["#", "HELP", given, words]:
                assert given not in families, f"{given} twice, or not in one piece"
                assert re.fullmatch(_NAME, given)
                name, families[given] = given, Family(words)
            case ["#", "TYPE", given, kind]:
                assert (given, kind in {"counter", "gauge"}, families[name].samples) == (name, True, {})
                families[name].kind = kind
            case _:
                sample = _SAMPLE.fullmatch(line)
                assert sample, line
                assert sample[1] == name, "samples stand below their own TYPE"
                assert (sample[2] or "") not in families[name].samples, f"twice: {line}"
                families[name].samples[sample[2] or ""] = float(sample[3])
    for given, family in families.items():
        assert family.words.endswith("."), given
        assert family.kind, given
        assert (family.kind == "counter") == given.endswith("_total"), given
        assert given.startswith("airlab_"), given
    return families


def test_metrics_are_what_prometheus_reads(fake: Service) -> None:
    answer = fake.http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = parsed(answer.text)

    assert families["airlab_config_last_reload_successful"].samples == {"": 1}
    assert families["airlab_config_generation"].samples[""] >= 1
    assert families["airlab_config_last_reload_success_timestamp_seconds"].samples[""] > 1.7e9
    assert set(families["airlab_config_reloads_total"].samples) == {
        f'{{result="{result}"}}' for result in ("committed", "unchanged", "failed")
    }


def test_each_model_is_in_one_of_the_states_and_all_of_them_are_listed(fake: Service) -> None:
    """A series that comes and goes cannot be alerted on."""
    samples = parsed(fake.http.get("/metrics").text)["airlab_model_state"].samples
    assert set(samples) == {f'{{model="small",state="{state}"}}' for state in _STATES}
    assert sum(samples.values()) == 1


def test_state_and_busy_slots_follow_a_request(make_lab: MakeLab) -> None:
    lab = make_lab()
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))
    with lab.serve() as service:
        before = parsed(service.http.get("/metrics").text)
        with service.stream() as answer:
            lines = answer.iter_lines()
            next(lines)
            during = parsed(service.http.get("/metrics").text)
            gate.touch()
            assert list(lines)
    assert before["airlab_model_state"].samples['{model="small",state="stopped"}'] == 1
    assert during["airlab_model_state"].samples['{model="small",state="ready"}'] == 1
    assert before["airlab_model_busy_slots"].samples == {'{model="small"}': 0}
    assert during["airlab_model_busy_slots"].samples == {'{model="small"}': 1}
    assert during["airlab_model_waiting_requests"].samples == {'{model="small"}': 0}


def test_key_of_who_uses_models_is_enough_and_none_is_not(make_lab: MakeLab) -> None:
    with make_lab(environment=KEYS).serve(key=USE_KEY) as service:
        assert service.http.get("/metrics").status_code == 200
        with httpx.Client(base_url=service.url) as anyone:
            assert anyone.get("/metrics").status_code == 401


def test_family_without_samples_is_still_described() -> None:
    assert "".join(_family("x_total", "counter", "None yet.", [])) == (
        "# HELP airlab_x_total None yet.\n# TYPE airlab_x_total counter\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "airlab_x 1",
        "# HELP airlab_x A.\n# TYPE airlab_x gauge\nairlab_x 1\nairlab_x 2\n",
        "# HELP airlab_x A.\n# TYPE airlab_x gauge\nairlab_x True\n",
        "# HELP airlab_x A.\n# TYPE airlab_x counter\nairlab_x 1\n",
        '# HELP airlab_x A.\n# TYPE airlab_x gauge\nairlab_x{a="b"c"} 1\n',
    ],
)
def test_reader_of_these_tests_refuses_what_prometheus_refuses(text: str) -> None:
    with pytest.raises(AssertionError):
        parsed(text)
