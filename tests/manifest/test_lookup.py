"""A key is found however people write it, and a mistyped one is answered with the one they meant."""

from __future__ import annotations

import pytest

from app.manifest.lookup import find, unknown_words
from app.manifest.reference import Setting, settings_tree
from tests.manifest.shapes import Shapes

TREE = settings_tree()


def found(key: str) -> list[str]:
    return [setting.path for setting in find(TREE, key)]


@pytest.mark.parametrize("setting", list(TREE.walk()), ids=lambda setting: setting.path or "top level")
def test_every_path_finds_its_setting(setting: Setting) -> None:
    path = setting.path
    # Several where kinds of a section differ in it, all of the same path.
    assert set(found(path)) == {path}
    assert set(found(path.replace("[]", "[0]").replace("NAME", "qwen2.5-7b"))) == {path}
    assert set(found(path.replace("[]", ""))) in ({path}, {path.replace("[]", "")})


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("models.context_length", "models.NAME.context_length"),
        ("models.qwen.context_length", "models.NAME.context_length"),
        ("models.qwen2.5-7b-q4.context_length", "models.NAME.context_length"),
        ("models.qwen2.5-7b-q4", "models.NAME"),
        ("models.llama-3.2-1b.Q4_K_M", "models.NAME"),
        ("models.name", "models.NAME.name"),
        ("models.my_model", "models.NAME"),
        ("profiles.match", "profiles.NAME.match"),
        ("profiles.engine.engine.image", "profiles.NAME.engine.image"),
        ("policy.roots.path", "policy.roots[].path"),
        ("policy.roots.0.path", "policy.roots[].path"),
        ("policy.roots[17]", "policy.roots[]"),
        (".policy.", "policy"),
        ("", ""),
    ],
)
def test_names_and_positions_may_stand_in_a_key_or_be_left_out(key: str, path: str) -> None:
    assert found(key) == [path]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("polcy", "`policy`"),
        ("models.contxt_length", "`models.NAME.context_length`"),
        ("models.qwen.contxt_length", "`models.NAME.context_length`"),
        ("models.qwen2.5-7b.contxt", "`models.NAME.context_length`"),
        ("policy.root.path", "`policy.roots`"),
        ("policy.roots[0].pth", "`policy.roots[].path`"),
        ("max_tool_iterations", "`chat.max_tool_iterations`"),
        ("server.temperature", "`defaults.temperature`"),
    ],
)
def test_mistyped_or_misplaced_key_is_answered_with_the_one_that_was_meant(key: str, meant: str) -> None:
    assert found(key) == []
    assert unknown_words(TREE, key) == f"{key!r}: no such setting; did you mean {meant}?"


def test_key_that_is_like_none_is_answered_with_those_that_there_are() -> None:
    assert unknown_words(TREE, "zzz").startswith("'zzz': no such setting; the top level has version, server, ")
    assert unknown_words(TREE, "server.zzz").endswith("; `server` has host, port, hosts, cors_origins")
    assert unknown_words(TREE, "server.port.zzz").endswith("; `server.port` holds no other settings")


def test_hostile_key_is_shown_harmlessly_and_at_once() -> None:
    assert "\x1b" not in unknown_words(TREE, "server.\x1b[2J")
    assert len(unknown_words(TREE, "zzz." * 200)) < 400


def test_setting_of_several_kinds_is_found_in_each_where_they_differ() -> None:
    tree = settings_tree(Shapes)

    assert [(each.path, each.where) for each in find(tree, "engine.kind")] == [
        ("engine.kind", "kind: docker"),
        ("engine.kind", "kind: native"),
    ]
    assert [each.where for each in find(tree, "engine.image")] == ["kind: docker"]
    assert [each.path for each in find(tree, "tools.weather.image")] == ["tools.NAME.image"]
    assert [each.path for each in find(tree, "tools.builtin")] == ["tools.builtin"]
    assert [each.path for each in find(tree, "variables.PATH")] == ["variables.NAME"]
    assert [each.path for each in find(tree, "by_two.a.b.gpu")] == ["by_two.NAME.NAME.gpu"]
