"""How long models took is kept from run to run, newest first to stay, and a spoilt file is as none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fleet import paces
from app.fleet.eta import Pace
from app.fleet.paces import Paces, keep_paces, read_paces

KNOWN = {"a": Pace(load_s=20.5, held_s=4.0), "b": Pace(load_s=3.0)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "paces.json"


def test_what_was_kept_is_read(file: Path) -> None:
    keep_paces(file, KNOWN)
    assert read_paces(file) == KNOWN


def test_nothing_is_known_at_first(file: Path) -> None:
    assert read_paces(file) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "nonsense",
        '{"a": 1}',
        '{"a": {"load_s": 1}}',
        '{"a": {"load_s": "1", "held_s": null}}',
        '{"a": {"load_s": true, "held_s": null}}',
        '{"a": {"load_s": -1, "held_s": null}}',
        '{"a": {"load_s": NaN, "held_s": null}}',
        "[" * 100_000,
        "\xff",
        " " * 1_000_001,
    ],
)
def test_file_that_cannot_be_used_is_as_none(file: Path, text: str) -> None:
    file.write_text(text, encoding="latin-1")
    assert read_paces(file) == {}


def test_time_that_nobody_would_wait_is_a_day(file: Path) -> None:
    """Whatever stands there, what is said of a wait is a number that a client can show."""
    file.write_text('{"a": {"load_s": Infinity, "held_s": 1' + "0" * 400 + "}}")
    assert read_paces(file) == {"a": Pace(86_400.0, 86_400.0)}


def _lists_or_paces(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner) | st.dictionaries(st.sampled_from(["a", "load_s", "held_s"]), inner)


@given(said=st.recursive(st.none() | st.booleans() | st.floats() | st.text(), _lists_or_paces))
def test_whatever_json_stands_there_nothing_is_raised(tmp_path_factory: pytest.TempPathFactory, said: object) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(said))
    for pace in read_paces(file).values():
        assert all(seconds is None or 0 <= seconds <= 86_400 for seconds in (pace.load_s, pace.held_s))


async def test_a_load_is_kept_and_a_request_with_the_next_or_at_the_end(file: Path) -> None:
    first = Paces(quiet_s=2, file=file)
    first.loaded("a", 20.0)
    first.served("a", 4.0)
    first.loaded("b", 3.0)
    first.served("b", 1.0)
    await first.close()

    assert read_paces(file) == {"a": Pace(20.0, 4.0), "b": Pace(3.0, 1.0)}


async def test_models_gone_from_the_manifest_are_forgotten_with_the_next_load(file: Path) -> None:
    keep_paces(file, KNOWN)
    known = Paces(quiet_s=2, file=file)
    known.only(["b", "c"])
    known.loaded("c", 1.0)
    await known.close()

    assert read_paces(file) == {"b": KNOWN["b"], "c": Pace(load_s=1.0)}


async def test_newest_models_are_those_that_are_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paces, "_MOST", 2)
    known = Paces(quiet_s=2, file=file)
    for key in "abca":
        known.loaded(key, 1.0)
    await known.close()

    assert list(read_paces(file)) == ["c", "a"]


async def test_disk_that_refuses_is_said_and_harms_no_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = Paces(quiet_s=2, file=tmp_path / "none" / "paces.json")
    known.loaded("a", 1.0)
    await known.close()

    assert "cannot be kept" in caplog.text
