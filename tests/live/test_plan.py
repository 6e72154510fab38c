"""What an edit would do, before it does it: from two manifests to what comes, goes, restarts or changes in place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.devices.probe import Host
from app.live.inputs import first_inputs
from app.live.plan import FieldChange, Plan, make_plan
from app.live.resolve import resolve
from app.live.snapshot import Overrides, Snapshot
from app.settings import Settings
from tests.support.gguf import minimal_gguf
from tests.support.manifest import loaded

HOST = Host(cores=8, can_offload=True)
A: dict[str, Any] = {"filename": "a.gguf"}
B: dict[str, Any] = {"filename": "b.gguf"}
PROFILES: dict[str, Any] = {"first": {}, "second": {}}
NASTY = "\x1b[31mred\x1b[0m \u202egnp.exe \x9b2J"

Snap = Callable[..., Snapshot]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "models").mkdir()
    for name in ("a", "b"):
        (tmp_path / "models" / f"{name}.gguf").write_bytes(minimal_gguf())
    return Settings(manifest=tmp_path / "airlab.yaml", profile=None, n_gpu_layers=None)


@pytest.fixture
def snap(settings: Settings) -> Snap:
    """``snap(models=..., profile=..., overrides=..., SECTION=...)``: what such a manifest would put in force here."""

    def made(
        *,
        models: dict[str, Any] | None = None,
        profile: str | None = None,
        overrides: Overrides | None = None,
        **more: Any,
    ) -> Snapshot:
        here = settings.model_copy(update={"profile": profile})
        sections = {"profiles": PROFILES} | more
        default = sections.pop("default_model", "a")
        inputs = first_inputs(loaded(default, models or {"a": A, "b": B}, **sections), here, HOST)
        return resolve(replace(inputs, overrides=overrides or Overrides()), generation=1)

    return made


def only(plan: Plan) -> set[str]:
    """The parts of a plan that say something."""
    return {name for name, said in plan.to_json().items() if said}


def test_nothing_changed_is_an_empty_plan(snap: Snap) -> None:
    plan = make_plan(snap(), snap())
    assert plan.is_empty
    assert list(plan.lines()) == []


def test_model_that_comes_is_added_and_one_that_goes_is_removed(snap: Snap) -> None:
    plan = make_plan(snap(), snap(models={"a": A, "c": B}))
    assert (plan.add, plan.remove, only(plan)) == (("c",), ("b",), {"add", "remove"})
    assert list(plan.lines()) == ["add c", "remove b: finishes what it has, then stops"]


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("context_length", "8k", "context_length: 4096 -> 8192"),
        ("n_gpu_layers", "all", "gpu_layers: not set -> -1"),
        ("n_threads", 3, "threads: 7 -> 3"),
        ("parallel", 4, "slots: 1 -> 4"),
        ("cache_type", "q8_0", "cache_type: not set -> q8_0"),
        ("numa", "distribute", "numa: off -> distribute"),
        ("kind", ["chat", "embedding"], "kinds: [chat] -> [chat, embedding]"),
        ("kind", ["rerank"], "kinds: [chat] -> [rerank]"),
        ("on", {"first": {"n_ctx": "16k"}}, "context_length: 4096 -> 16384"),
    ],
)
def test_what_the_engine_is_started_with_makes_a_restart(snap: Snap, setting: str, value: Any, said: str) -> None:
    plan = make_plan(snap(), snap(models={"a": {**A, setting: value}, "b": B}))
    assert only(plan) == {"restart"}
    assert [str(change) for change in plan.restart["a"]] == [said]
    assert list(plan.lines()) == [f"restart a if it is loaded: {said}"]


def test_another_file_makes_a_restart_and_both_are_named_with_their_sizes(snap: Snap, settings: Settings) -> None:
    before = snap()
    os.utime(settings.home / "models" / "a.gguf", (1, 1))
    (settings.home / "models" / "b.gguf").unlink()
    plan = make_plan(before, snap())
    (changed,), (gone,) = plan.restart["a"], plan.restart["b"]
    size = f"{len(minimal_gguf())} B"
    assert (changed.setting, changed.new) == ("weights", f"a.gguf ({size}, 1)")
    assert (gone.old.startswith(f"b.gguf ({size}, "), gone.new) == (True, "not set")


def test_adapter_that_comes_makes_a_restart(snap: Snap) -> None:
    plan = make_plan(snap(), snap(models={"a": {**A, "adapters": ["b.gguf"]}, "b": B}))
    (change,) = plan.restart["a"]
    assert (change.setting, change.old) == ("adapters", "[]")
    assert change.new.startswith("[b.gguf (")


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("description", "new words", "description:  -> new words"),
        ("aliases", ["gpt-4o", "c"], "aliases: [] -> [gpt-4o, c]"),
        ("recommended", True, "recommended: false -> true"),
        ("idle_timeout", "15m", "idle_timeout: not set -> 900.0"),
        ("preload", True, "preload: false -> true"),
        ("tool_mode", "guided", "tool_mode: not set -> guided"),
    ],
)
def test_what_the_engine_does_not_know_of_changes_in_place(snap: Snap, setting: str, value: Any, said: str) -> None:
    plan = make_plan(snap(), snap(models={"a": {**A, setting: value}, "b": B}))
    assert only(plan) == {"update"}
    assert list(plan.lines()) == [f"update a in place: {said}"]


def test_value_that_something_stronger_overrides_changes_nothing(snap: Snap) -> None:
    """The profile in force has a word of its own for this model; the model's word was not heard before either."""
    on = {"first": {"n_threads": 2}}
    plan = make_plan(
        snap(models={"a": {**A, "on": on}, "b": B}), snap(models={"a": {**A, "on": on, "n_threads": 5}, "b": B})
    )
    assert plan.is_empty


def test_restart_and_update_of_one_model_are_told_apart(snap: Snap) -> None:
    plan = make_plan(snap(), snap(models={"a": {**A, "parallel": 2, "name": "Anna"}, "b": B}))
    assert [str(change) for change in plan.restart["a"]] == ["slots: 1 -> 2"]
    assert [str(change) for change in plan.update["a"]] == ["name: not set -> Anna"]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"defaults": {"temperature": 0.2}}, "defaults.temperature: 0.7 -> 0.2"),
        ({"chat": {"max_tool_iterations": 9}}, "chat.max_tool_iterations: 5 -> 9"),
        ({"tools": {"builtin": ["read_file"]}}, "tools.builtin: all -> [read_file]"),
        ({"policy": {"reload_guard": True}}, "policy.reload_guard: false -> true"),
        ({"policy": {"limits": {"call": "5s"}}}, "policy.limits.call: 10.0 -> 5.0"),
        ({"default_model": "b"}, "current model: a -> b"),
        ({"profiles": {"first": {"max_loaded": 2, "n_threads": 7}}}, "max_loaded: 1 -> 2"),
    ],
)
def test_setting_of_the_whole_is_set_at_once(snap: Snap, sections: dict[str, Any], said: str) -> None:
    before = snap(profiles={"first": {"n_threads": 7}}) if "profiles" in sections else snap()
    plan = make_plan(before, snap(**sections))
    assert only(plan) == {"settings"}
    assert list(plan.lines()) == [f"set {said}"]


def test_server_is_read_at_the_next_start_only_and_the_plan_says_so(snap: Snap) -> None:
    plan = make_plan(snap(), snap(server={"port": 9000, "hosts": ["lab.example"]}))
    assert only(plan) == {"at_next_start"}
    assert list(plan.lines()) == [
        "at the next start only: server.port: 8080 -> 9000",
        "at the next start only: server.hosts: [] -> [lab.example]",
    ]


def test_another_profile_is_named_with_what_it_restarts(snap: Snap) -> None:
    profiles = {"first": {"n_threads": 2}, "second": {"n_threads": 4}}
    plan = make_plan(snap(profiles=profiles), snap(profiles=profiles, profile="second"))
    assert plan.settings == (FieldChange("profile", "first", "second"),)
    assert plan.restart.keys() == {"a", "b"}


def test_what_was_set_by_request_shows_like_an_edit(snap: Snap) -> None:
    plan = make_plan(snap(), snap(overrides=Overrides("b", gpu_layers=7)))
    assert plan.settings == (FieldChange("current model", "a", "b"),)
    assert plan.restart["a"] == (FieldChange("gpu_layers", "not set", "7"),)


def test_removing_most_models_needs_care_and_removing_half_does_not(snap: Snap) -> None:
    four = snap(models=dict.fromkeys("abcd", A))
    assert make_plan(four, snap(models={"a": A, "b": A})).needs_care == ()
    plan = make_plan(four, snap(models={"a": A}))
    assert plan.needs_care == ("3 of 4 models would be removed",)
    assert "look twice: 3 of 4 models would be removed" in plan.lines()


def test_allowing_tools_more_needs_care_and_allowing_them_less_does_not(snap: Snap) -> None:
    wide = snap(policy={"roots": [{"path": "all"}]})
    narrow = snap(policy={"roots": [{"path": "all/some", "access": "read"}]}, tools={"builtin": ["read_file"]})
    assert make_plan(wide, narrow).needs_care == ()
    assert len(make_plan(narrow, wide).needs_care) == 2


def test_nothing_in_a_plan_can_command_a_terminal(snap: Snap, settings: Settings) -> None:
    """Everybody who may edit the file, or drop one, would else write on the screen of whoever runs `airlab plan`."""
    weights = "x\x9b2J\u202e.gguf"
    (settings.home / "models" / weights).write_bytes(minimal_gguf())
    model = {"filename": weights, "description": NASTY, "usage": NASTY, "name": NASTY}
    plan = make_plan(
        snap(),
        snap(models={"a": model}, defaults={"system_prompt": NASTY}, policy={"roots": [{"path": f"nasty {NASTY}"}]}),
    )
    assert {"remove", "restart", "update", "settings", "needs_care"} <= only(plan)
    assert [line for line in plan.lines() if not line.isprintable()] == []


def test_long_value_is_shown_by_its_beginning(snap: Snap) -> None:
    plan = make_plan(snap(), snap(defaults={"system_prompt": "x" * 30_000}))
    assert all(len(line) < 250 for line in plan.lines())


def test_plan_for_programs_says_the_same_as_the_one_in_words(snap: Snap) -> None:
    after = snap(
        models={"a": {**A, "parallel": 2, "name": "Anna"}, "c": B},
        server={"port": 9000},
        chat={"max_tool_iterations": 9},
        policy={"limits": {"call": "20s"}},
    )
    plan = make_plan(snap(), after)
    body = json.loads(json.dumps(plan.to_json()))
    (reason,) = body.pop("needs_care")
    assert reason.endswith("would grow from 10 to 20")
    assert body == {
        "add": ["c"],
        "remove": ["b"],
        "restart": {"a": [{"setting": "slots", "old": "1", "new": "2"}]},
        "update": {"a": [{"setting": "name", "old": "not set", "new": "Anna"}]},
        "settings": [
            {"setting": "chat.max_tool_iterations", "old": "5", "new": "9"},
            {"setting": "policy.limits.call", "old": "10.0", "new": "20.0"},
        ],
        "at_next_start": [{"setting": "server.port", "old": "8080", "new": "9000"}],
    }
    assert len(list(plan.lines())) == 8
