"""How a changed input comes into force, and what stays as it was when it cannot."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from app.devices.probe import Host
from app.errors import AirLabError, ConfirmationNeededError, PreconditionFailedError
from app.fleet.fleet import Fleet
from app.fleet.memory import Budget
from app.fleet.spec import ModelSpec
from app.journal import Fact, Journal
from app.live.inputs import first_inputs
from app.live.lastgood import last_good_file, read_last_good
from app.live.reload import LastGoodNotKept, ManifestCommitted, ManifestRefused, Reload
from app.live.snapshot import Overrides
from app.manifest.load import read_manifest
from app.manifest.problems import ManifestProblems
from app.manifest.settle import Quiet
from app.settings import Settings
from app.tools.base import Confinement
from app.tools.mcp import McpServers
from app.tools.toolbox import Toolbox
from app.weights.inventory import Inventory
from app.weights.look import look_for_weights
from tests.support.gguf import minimal_gguf

QUIET = Quiet(renamed_s=0.0, written_s=0.0, missing_s=0.0, most_s=20.0)
BOUND_S = 20.0
HOST = Host(cores=8, can_offload=True)


class RememberingFleet:
    """Takes what it is told to want."""

    def __init__(self) -> None:
        self.wanted: list[Mapping[str, ModelSpec]] = []

    def want(self, models: Mapping[str, ModelSpec], *, max_loaded: int | None, budget: Budget) -> None:
        assert max_loaded is None or max_loaded >= 1
        self.wanted.append(models)


class RememberingToolbox:
    """Takes what it is told to keep; becoming ready can be held up, and can fail."""

    def __init__(self) -> None:
        self.kept: list[frozenset[Confinement]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.asked = asyncio.Event()
        self.failure: AirLabError | None = None

    def keep(self, confinements: Collection[Confinement], *, degraded: bool = False) -> None:
        assert not degraded
        self.kept.append(frozenset(confinements))

    async def ready(self) -> None:
        self.asked.set()
        await self.may_go_on.wait()
        if self.failure is not None:
            raise self.failure


class RememberingServers:
    """Takes what it is told to keep."""

    def __init__(self) -> None:
        self.kept: list[Mapping[str, object]] = []

    def keep(self, servers: Mapping[str, object]) -> None:
        self.kept.append(servers)


class House:
    """A Reload on a manifest in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "models").mkdir()
        for name in ("a", "b"):
            (folder / "models" / f"{name}.gguf").write_bytes(minimal_gguf())
        self.file = folder / "airlab.yaml"
        self.settings = Settings(manifest=self.file, profile=None, n_gpu_layers=None, state_dir=folder / "state")
        (folder / "state").mkdir()
        self.manifest: dict[str, Any] = {
            "version": 1,
            "default_model": "a",
            "models": {"a": {"filename": "a.gguf"}, "b": {"filename": "b.gguf"}},
        }
        self.write()
        self.fleet, self.toolbox, self.servers = RememberingFleet(), RememberingToolbox(), RememberingServers()
        self.journal = Journal()
        self.facts: list[Fact] = []
        self.journal.subscribe(self.facts.append)
        self.reload = Reload(
            first_inputs(read_manifest(self.file), self.settings, HOST),
            cast(Fleet, self.fleet),
            cast(Toolbox, self.toolbox),
            cast(McpServers, self.servers),
            self.journal,
            quiet=QUIET,
        )

    def write(self, **changes: Any) -> None:
        """Save the manifest with these sections changed."""
        self.manifest |= changes
        self.save(json.dumps(self.manifest, indent=1))

    def save(self, text: str) -> None:
        """Save as an editor does: beside, and renamed over."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def models(self, **changes: Any) -> dict[str, Any]:
        """The models section with these models changed; None takes one out."""
        merged = self.manifest["models"] | changes
        return {key: model for key, model in merged.items() if model is not None}

    @property
    def generation(self) -> int:
        return self.reload.live.current.generation

    def noted(self, kind: type[Fact]) -> list[Fact]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.reload.begin()
    yield house
    await house.reload.close()


async def test_edit_comes_into_force_in_one_step(house: House) -> None:
    house.write(models=house.models(c={"filename": "b.gguf"}), default_model="c")
    attempt = await house.reload.read_again()

    current = house.reload.live.current
    assert (attempt.result, current.generation, current.chosen_model) == ("committed", 2, "c")
    assert house.fleet.wanted[-1] is current.models
    assert attempt.plan is not None
    assert attempt.plan.add == ("c",)
    assert len(house.noted(ManifestCommitted)) == 1


async def test_file_that_was_saved_unchanged_changes_nothing(house: House) -> None:
    before, wanted = house.reload.live.current, len(house.fleet.wanted)
    house.write()
    assert (await house.reload.read_again()).result == "unchanged"
    assert house.reload.live.current is before
    assert len(house.fleet.wanted) == wanted


async def test_comment_changes_the_digest_and_restarts_nothing(house: House) -> None:
    runs = {key: spec.run for key, spec in house.reload.live.current.models.items()}
    house.save(f"# mine\n{json.dumps(house.manifest)}")
    attempt = await house.reload.read_again()

    assert attempt.plan is not None
    assert attempt.plan.is_empty
    assert {key: spec.run for key, spec in house.reload.live.current.models.items()} == runs


async def test_fault_023_valid_invalid_valid_gives_generations_1_1_2(house: House) -> None:
    house.save("version: 1\nmodels: 3\n")
    with pytest.raises(ManifestProblems):
        await house.reload.read_again()
    assert (house.generation, house.reload.last.result) == (1, "failed")
    assert house.reload.last.problems
    assert len(house.noted(ManifestRefused)) == 1

    house.write(default_model="b")
    await house.reload.read_again()
    assert (house.generation, house.reload.last.result) == (2, "committed")
    assert dict(house.reload.counts) == {"failed": 1, "committed": 1}


async def test_policy_that_cannot_come_into_force_is_refused_with_its_line(house: House) -> None:
    """What only shows when the file meets this machine is answered in the same voice."""
    house.write(policy={"roots": [{"path": "/"}]})
    with pytest.raises(ManifestProblems) as refused:
        await house.reload.read_again()
    (problem,) = refused.value.problems
    assert problem.path == ("policy", "roots", 0, "path")
    assert house.file.read_text().splitlines()[problem.line - 1].strip() == '"path": "/"'
    assert house.generation == 1


async def test_unknown_tool_is_named_with_the_nearest_one(house: House) -> None:
    house.write(tools={"builtin": ["raed_file"]})
    with pytest.raises(ManifestProblems, match="did you mean `read_file`"):
        await house.reload.read_again()


async def test_dry_run_says_what_would_happen_and_does_nothing(house: House) -> None:
    before = house.reload.live.current
    house.write(models=house.models(b=None))
    attempt = await house.reload.read_again(dry_run=True)

    assert attempt.plan is not None
    assert attempt.plan.remove == ("b",)
    assert house.reload.live.current is before
    assert house.reload.last.result == "committed"


async def test_dry_run_of_a_broken_file_leaves_no_trace(house: House) -> None:
    house.save("models: [")
    with pytest.raises(ManifestProblems):
        await house.reload.read_again(dry_run=True)
    assert house.reload.last.error is None


async def test_fault_029_of_ten_who_saw_the_same_manifest_one_commits(house: House) -> None:
    seen = house.reload.live.current.digest
    house.write(default_model="b")
    outcomes = await asyncio.gather(
        *(house.reload.read_again(if_match=seen) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(outcome, PreconditionFailedError) for outcome in outcomes) == 9
    assert house.generation == 2


async def test_change_during_a_reload_is_not_lost(house: House) -> None:
    """The newest wins, and nothing has to be saved twice."""
    house.toolbox.may_go_on.clear()
    house.write(policy={"roots": [{"path": "one"}]})
    house.reload.wake()
    async with asyncio.timeout(BOUND_S):
        await house.toolbox.asked.wait()
        house.write(policy={"roots": [{"path": "two"}]})
        house.reload.wake()
        done = _committed(house, 2)
        house.toolbox.may_go_on.set()
        await done
    (root,) = house.reload.live.current.policy.roots
    assert root.path.name == "two"
    assert house.generation == 3


def _committed(house: House, times: int) -> asyncio.Future[None]:
    """Done once so many commits more were noted."""
    done = asyncio.get_running_loop().create_future()
    left = [times]

    def note(fact: Fact) -> None:
        left[0] -= isinstance(fact, ManifestCommitted)
        if left[0] == 0 and not done.done():
            done.set_result(None)

    house.journal.subscribe(note)
    return done


async def test_preparing_that_fails_changes_nothing_and_keeps_the_old_workers(house: House) -> None:
    before = house.reload.live.current
    house.toolbox.failure = AirLabError("no worker comes up")
    house.write(policy={"roots": [{"path": "elsewhere"}]})
    with pytest.raises(AirLabError, match="no worker comes up"):
        await house.reload.read_again()
    assert house.reload.live.current is before
    assert house.toolbox.kept[-1] == house.toolbox.kept[0]
    assert house.reload.last.error == "no worker comes up"


async def test_new_workers_are_up_before_the_old_ones_go(house: House) -> None:
    house.write(policy={"roots": [{"path": "elsewhere"}]})
    await house.reload.read_again()
    first, both, second = house.toolbox.kept
    assert both == first | second
    assert first != second


async def test_root_that_cannot_be_made_is_refused(house: House) -> None:
    (house.file.parent / "taken").write_text("a file, no folder")
    house.write(policy={"roots": [{"path": "taken"}]})
    with pytest.raises(ManifestProblems, match="cannot be made"):
        await house.reload.read_again()


async def test_removing_most_models_asks_for_confirmation_where_the_owner_wants_it(house: House) -> None:
    models = {key: {"filename": "a.gguf"} for key in "abcde"}
    house.write(models=models, policy={"reload_guard": True})
    await house.reload.read_again()
    house.write(models={"a": models["a"], "b": models["b"]})
    with pytest.raises(ConfirmationNeededError, match="3 of 5 models would be removed") as asked:
        await house.reload.read_again()
    assert list(house.reload.live.current.models) == list("abcde")

    digest = asked.value.message.rpartition("=")[2]
    await house.reload.read_again(confirm=digest)
    assert list(house.reload.live.current.models) == ["a", "b"]


async def test_an_edit_cannot_switch_off_its_own_guard(house: House) -> None:
    house.write(policy={"reload_guard": True, "roots": []})
    await house.reload.read_again()
    house.write(policy={"reload_guard": False, "roots": [{"path": "more"}]})
    with pytest.raises(ConfirmationNeededError, match="tools would reach"):
        await house.reload.read_again()


async def test_what_was_set_by_request_holds_until_its_key_is_edited(house: House) -> None:
    house.reload.override(Overrides("b", "Be brief.", 7, tools_on=False))
    house.write(chat={"max_tool_iterations": 3})
    await house.reload.read_again()
    assert house.reload.overrides == Overrides("b", "Be brief.", 7, tools_on=False)

    house.write(defaults={"system_prompt": "Be polite."})
    await house.reload.read_again()
    assert house.reload.overrides == Overrides("b", None, 7, tools_on=False)
    assert house.reload.live.current.system_prompt == "Be polite."

    house.write(models=house.models(a={"filename": "a.gguf", "n_gpu_layers": 3}), default_model="b")
    house.write(tools={"builtin": []})
    await house.reload.read_again()
    assert house.reload.overrides == Overrides()


async def test_what_came_into_force_is_kept_on_disk(house: House) -> None:
    house.write(default_model="b")
    await house.reload.read_again()
    kept = read_last_good(house.settings)
    assert kept is not None
    assert kept.digest == house.reload.live.current.digest


async def test_fault_116_last_good_that_cannot_be_written_is_said_and_stops_nothing(house: House) -> None:
    """A full disk must not keep an edit from coming into force."""
    last_good_file(house.settings).unlink()
    last_good_file(house.settings).mkdir()
    house.write(default_model="b")
    await house.reload.read_again()
    assert house.reload.live.current.chosen_model == "b"
    assert len(house.noted(LastGoodNotKept)) == 1
    assert [path.name for path in house.settings.state.iterdir()] == ["last_good.yaml"]


async def test_broken_file_is_never_kept_as_last_good(house: House) -> None:
    house.save("version: 2\n")
    with pytest.raises(ManifestProblems):
        await house.reload.read_again()
    kept = read_last_good(house.settings)
    assert kept is not None
    assert kept.manifest.version == 1


async def test_file_that_stands_in_for_a_broken_one_opens_no_tool_until_that_is_right(tmp_path: Path) -> None:
    house = House(tmp_path)
    loaded = read_manifest(house.file)
    reload = Reload(
        first_inputs(loaded, house.settings, HOST, closed="the file is broken"),
        cast(Fleet, house.fleet),
        cast(Toolbox, house.toolbox),
        cast(McpServers, house.servers),
        house.journal,
        quiet=QUIET,
    )
    await reload.begin(trouble=ManifestProblems([], loaded.positions.source))
    try:
        assert not reload.live.current.policy.tools
        assert reload.live.current.policy.closed == "the file is broken"
        assert read_last_good(house.settings) is None, "what only stands in is no last good"
        await reload.read_again()
        assert reload.live.current.policy.tools
    finally:
        await reload.close()


async def test_guard_asks_nothing_of_a_file_that_was_in_force_already(house: House) -> None:
    """A file that was broken at start and is what it was before opens its tools again without a second word."""
    house.write(policy={"reload_guard": True})
    await house.reload.read_again()
    closed = replace(house.reload.live.current.policy, tools={}, roots=(), closed="the file was broken at start")
    house.reload._inputs = replace(house.reload._inputs, policy=closed)
    house.reload.live.current = replace(house.reload.live.current, policy=closed)
    assert (await house.reload.read_again()).result == "committed"
    assert house.reload.live.current.policy.tools


async def test_file_that_breaks_our_own_code_is_refused_and_the_next_one_is_read(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad edit must not make AirLab deaf to all later ones, a tightened policy among them."""
    with monkeypatch.context() as broken:
        broken.setattr("app.live.reload.make_plan", None)
        house.write(default_model="b")
        with pytest.raises(AirLabError, match="its log has the reason"):
            await house.reload.read_again()
    assert (house.generation, house.reload.last.result) == (1, "failed")
    await house.reload.read_again()
    assert house.generation == 2


async def test_look_that_finds_nothing_new_changes_nothing(house: House) -> None:
    before = house.reload.live.current
    await house.reload.look_again()
    assert house.reload.live.current is before


async def test_file_that_comes_is_in_force_and_the_fleet_hears_of_it(house: House) -> None:
    weights = house.file.parent / "models" / "b.gguf"
    weights.unlink()
    await house.reload.look_again()
    assert house.reload.live.current.models["b"].run.weights is None
    weights.write_bytes(minimal_gguf())
    await house.reload.look_again()
    found = house.reload.live.current.models["b"].run.weights
    assert found is not None
    assert found.size_bytes == len(minimal_gguf())
    assert house.fleet.wanted[-1] is house.reload.live.current.models


async def test_look_that_began_earlier_and_ends_later_takes_back_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that has ended looks, while a request's look is on its way through 200 files."""
    weights = house.file.parent / "models" / "b.gguf"
    weights.unlink()
    has_looked, may_go_on = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> Inventory:
        found = look_for_weights(*arguments)
        has_looked.set()
        assert may_go_on.wait(BOUND_S)
        return found

    monkeypatch.setattr("app.live.reload.look_for_weights", slowly)
    slow = asyncio.create_task(house.reload.look_again())
    assert await asyncio.to_thread(has_looked.wait, BOUND_S)
    monkeypatch.setattr("app.live.reload.look_for_weights", look_for_weights)
    weights.write_bytes(minimal_gguf())
    await house.reload.look_again()
    may_go_on.set()
    await slow

    assert house.reload.live.current.models["b"].run.weights is not None


async def test_file_that_comes_while_an_edit_is_prepared_is_in_force_with_it(house: House) -> None:
    weights = house.file.parent / "models" / "b.gguf"
    weights.unlink()
    house.toolbox.may_go_on.clear()
    house.write(policy={"roots": [{"path": "one"}]})
    edit = asyncio.create_task(house.reload.read_again())
    await asyncio.wait_for(house.toolbox.asked.wait(), BOUND_S)
    weights.write_bytes(minimal_gguf())
    await house.reload.look_again()
    house.toolbox.may_go_on.set()
    await edit

    assert house.reload.live.current.models["b"].run.weights is not None


async def test_folder_in_the_place_of_a_file_counts_as_missing(house: House) -> None:
    weights = house.file.parent / "models" / "b.gguf"
    weights.unlink()
    weights.mkdir()
    await house.reload.look_again()
    assert house.reload.live.current.models["b"].run.weights is None


async def test_switch_changes_the_default_and_restarts_nothing(house: House) -> None:
    runs = {key: spec.run for key, spec in house.reload.live.current.models.items()}
    house.reload.choose_model("b")
    assert house.reload.live.current.key_of(None) == "b"
    assert {key: spec.run for key, spec in house.reload.live.current.models.items()} == runs
