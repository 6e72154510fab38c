"""Whatever happens to the file: what is in force follows from a right one, or stays exactly what it was."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from hypothesis import assume, event, given, settings

from app.errors import SettingsError
from app.live.inputs import first_inputs
from app.live.lastgood import read_last_good
from app.live.reload import Result
from app.live.resolve import resolve
from app.manifest.load import parse_manifest
from app.manifest.problems import ManifestProblems
from tests.live.test_reload import HOST, House
from tests.manifest.clumsy import EXAMPLES, RICH, SHIPPED, clumsy_edits

_ABSOLUTE_ROOT = re.compile(r"path\W{0,4}/")


def test_edits_change_what_is_in_force_to_what_the_file_says_or_not_at_all(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with asyncio.Runner() as runner:
        house = runner.run(_began(home))

        @settings(max_examples=EXAMPLES, deadline=None)
        @given(clumsy_edits())
        def edit(text: str) -> None:
            assume(not _ABSOLUTE_ROOT.search(text))  # a right one would be made, outside of the test's folder
            event(runner.run(_edit(house, text)))

        for text in (RICH, SHIPPED):
            runner.run(_edit(house, text))
        edit()
        runner.run(house.reload.close())


async def _began(folder: Path) -> House:
    house = House(folder)
    await house.reload.begin()
    return house


async def _edit(house: House, text: str) -> Result:
    """Save it, and have it read; what came of that."""
    before, attempts = house.reload.live.current, house.reload.counts.total()
    house.save(text)
    try:
        await house.reload.read_again()
    except ManifestProblems:
        assert house.reload.live.current is before
        assert house.reload.last.problems
    else:
        _require_in_force(house, text, before.generation + (house.reload.last.result == "committed"))
    assert house.reload.counts.total() == attempts + 1
    kept = read_last_good(house.settings)
    assert kept is not None
    assert kept.manifest == house.reload.live.current.manifest, "what was last in force is what is kept"
    return house.reload.last.result


def _require_in_force(house: House, text: str, generation: int) -> None:
    """What is in force is what a start with this file would put in force, and the fleet has been told of it."""
    current = house.reload.live.current
    inputs = first_inputs(parse_manifest(text.encode(), name=str(house.file)), house.settings, HOST)
    assert current == resolve(inputs, generation=generation)
    assert house.fleet.wanted[-1] == current.models


def test_edit_that_this_host_refuses_is_refused_like_any_other(tmp_path: Path) -> None:
    """No profile fits: nothing is wrong with the file, and what was in force stays all the same."""
    home = tmp_path / "home"
    home.mkdir()
    with asyncio.Runner() as runner:
        house = runner.run(_began(home))
        before = house.reload.live.current
        house.write(profiles={"elsewhere": {"match": {"sockets": 64}}})
        with pytest.raises(SettingsError, match="no profile of the manifest matches this host") as refused:
            runner.run(house.reload.read_again())
        assert house.reload.last.error == refused.value.message
        assert house.reload.live.current is before
        runner.run(house.reload.close())
