"""What the launcher takes for a request: nothing but a key, bounded numbers and a digest."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engines.base import Exit, Fit
from app.engines.wire import (
    AskStart,
    cut_lines,
    error_line,
    exit_of,
    exit_told,
    id_of,
    line_of,
    numbers_of,
    raise_error,
    read_ask,
)
from app.errors import EngineAwayError, EngineError, GpuUnavailableError, ImageMissingError, LauncherRefusedError

START: dict[str, Any] = {
    "id": 1,
    "op": "start",
    "key": "small",
    "instance": "1-small",
    "digest": "0" * 64,
    "gpu_layers": -1,
    "context_length": 4096,
    "slots": 1,
    "threads": 4,
    "cache_ram_mib": 256,
    "node": None,
    "gpus": ["0", "2"],
    "gpu_shares": [23_000, 12_000],
    "is_booked": True,
}


def test_start_is_read() -> None:
    ask = read_ask(json.dumps(START).encode())

    assert isinstance(ask, AskStart)
    assert (ask.key, ask.gpu_layers, ask.slots) == ("small", -1, 1)


FITS = st.builds(
    Fit,
    context_length=st.integers(512, 1_048_576),
    slots=st.integers(1, 64),
    gpu_layers=st.none() | st.integers(-1, 1000),
    threads=st.integers(1, 1024),
    cache_ram_mib=st.integers(0, 512),
    node=st.none() | st.integers(0, 1023),
)
GPUS = st.lists(st.integers(0, 99), max_size=16, unique=True).map(lambda numbers: tuple(map(str, numbers)))


@given(FITS, GPUS, st.randoms(use_true_random=False))
def test_what_was_decided_is_the_same_on_both_sides(fit: Fit, gpus: tuple[str, ...], chance: Random) -> None:
    shares = tuple(chance.randint(1, 2**31) for _ in gpus) if len(gpus) > 1 else ()
    fit = replace(fit, gpu_ids=gpus, gpu_shares=shares)
    ask = read_ask(line_of({**START, **numbers_of(fit)}))

    assert isinstance(ask, AskStart)
    assert ask.fit == fit


@pytest.mark.parametrize(
    "more",
    [
        {"image": "evil"},
        {"command": ["sh"]},
        {"mounts": ["/:/host"]},
        {"env": {"A": "b"}},
        {"privileged": True},
        {"key": "../small"},
        {"key": 7},
        {"instance": "../../etc"},
        {"instance": "1-small/.."},
        {"digest": "short"},
        {"gpu_layers": 1001},
        {"gpu_layers": "1"},
        {"context_length": 2**31},
        {"slots": 0},
        {"slots": True},
        {"threads": 100_000},
        {"cache_ram_mib": 513},
        {"cache_ram_mib": -1},
        {"node": 1024},
        {"node": "0"},
        {"cpus": [0, 1]},
        {"gpus": "all"},
        {"gpus": ["all"]},
        {"gpus": ["0", "0"]},
        {"gpus": ["../0", "1"]},
        {"gpus": [str(number) for number in range(17)], "gpu_shares": [1] * 17},
        {"gpus": []},
        {"gpu_shares": []},
        {"gpu_shares": [1, 0]},
        {"gpu_shares": [1, 1, 1]},
        {"gpu_shares": [1, "1,1 --tools all"]},
        {"gpus": ["0"], "gpu_shares": [1]},
        {"is_booked": 1},
        {"id": -1},
        {"op": "exec"},
    ],
    ids=json.dumps,
)
def test_fault_110_anything_else_in_a_request_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(LauncherRefusedError):
        read_ask(json.dumps(START | more).encode())


@pytest.mark.parametrize("line", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 10_000, b'{"id": 1}', b'"start"'])
def test_fault_110_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(LauncherRefusedError):
        read_ask(line)
    assert id_of(line) in {0, 1}


def test_missing_field_is_refused() -> None:
    for name in START:
        with pytest.raises(LauncherRefusedError):
            read_ask(json.dumps({key: value for key, value in START.items() if key != name}).encode())


@pytest.mark.parametrize(
    "kind", [EngineAwayError, GpuUnavailableError, ImageMissingError, LauncherRefusedError, EngineError]
)
def test_error_is_the_same_on_both_sides(kind: type[EngineError]) -> None:
    """A service decides by its class whether to try again."""
    with pytest.raises(kind, match="no luck") as caught:
        raise_error(json.loads(error_line(3, kind("no luck"))))
    assert type(caught.value) is kind


def test_end_is_the_same_on_both_sides() -> None:
    end = Exit(-9, ("one", "two"), out_of_memory=True)

    assert exit_of(json.loads(json.dumps(exit_told(end)))) == end


def test_last_lines_are_the_last_that_fit() -> None:
    kept = cut_lines(tuple(f"{number} {'x' * 500}" for number in range(200)))

    assert kept[-1].startswith("199 ")
    assert 10 < len(kept) < 20
