"""``airlab explain``: the schema answers, and a mistyped key is met with the right one."""

from __future__ import annotations

import argparse
import json

import pytest

from app.cli import explain as command
from app.manifest.reference import settings_tree
from tests.cli.conftest import Call
from tests.conftest import MakeLab
from tests.manifest.shapes import Shapes


def test_setting_is_explained_with_its_range_unit_default_and_an_example(make_lab: MakeLab, call: Call) -> None:
    done = call(make_lab(), "explain", "models.qwen2.5-7b.context_length")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "models.NAME.context_length\n"
        "  Context in tokens, for each conversation; auto: as long as the model was\n"
        "  trained for, as memory allows.\n"
        "\n"
        "  value    whole number or text, 512 to 1048576 or auto\n"
        "  unit     tokens, or text such as 8k\n"
        "  default  4096\n"
        "  example  context_length: 8k\n"
    )


def test_section_is_explained_with_all_that_it_takes(make_lab: MakeLab, call: Call) -> None:
    done = call(make_lab(), "explain", "server")

    assert done.returncode == 0
    assert "keys of server:" in done.stdout
    assert all(f"\n    {key} " in done.stdout for key in ("host", "port", "hosts", "cors_origins"))
    assert "example" not in done.stdout


def test_without_a_key_the_top_level_is_explained(make_lab: MakeLab, call: Call) -> None:
    done = call(make_lab(), "explain")

    assert done.stdout.startswith("airlab.yaml\n")
    assert all(f"\n    {key} " in done.stdout for key in ("version", "models", "policy"))


@pytest.mark.parametrize("key", [setting.path for setting in settings_tree().walk()])
def test_every_answer_fits_on_a_terminal_of_80_columns(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.explain(argparse.Namespace(key=key, json=False)) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    # A value that holds no blank, such as a list of defaults, cannot be wrapped.
    assert [line for line in lines if len(line) > 80 and " " in line.strip().split("  ", 1)[-1].strip()] == []


def test_unknown_key_names_the_nearest_one_and_exits_2(make_lab: MakeLab, call: Call) -> None:
    for asked in (("explain", "models.small.contxt_length"), ("explain", "models.small.contxt_length", "--json")):
        done = call(make_lab(), *asked)

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "airlab: 'models.small.contxt_length': no such setting; did you mean `models.NAME.context_length`?\n"
        )


def test_answer_as_json_has_the_same_facts(make_lab: MakeLab, call: Call) -> None:
    [setting] = json.loads(call(make_lab(), "explain", "chat.tool_mode", "--json").stdout)["settings"]

    assert setting["key"] == "chat.tool_mode"
    assert (setting["value"], setting["default"], setting["example"]) == (
        "auto or native or guided",
        "auto",
        "tool_mode: native",
    )
    [section] = json.loads(call(make_lab(), "explain", "policy.roots", "--json").stdout)["settings"][0]["sections"]
    assert (section["key"], list(section["keys"])) == ("policy.roots[]", ["path", "access"])


def test_example_of_a_cache_type_is_the_one_that_saves_memory(make_lab: MakeLab, call: Call) -> None:
    """The first choice of the list takes twice the memory, and who reads this has too little."""
    [setting, *_] = json.loads(call(make_lab(), "explain", "models.NAME.cache_type", "--json").stdout)["settings"]

    assert setting["example"] == "cache_type: q8_0"


def test_sections_of_several_kinds_are_shown_one_by_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "settings_tree", lambda: settings_tree(Shapes))

    assert command.explain(argparse.Namespace(key="engine", json=False)) == 0
    printed = capsys.readouterr().out
    assert "  where kind: docker: In a container.\n  keys of engine:\n    kind   The kind. (required)\n" in printed
    assert "  where kind: native: A process.\n  keys of engine:\n    kind      The kind.\n" in printed

    assert command.explain(argparse.Namespace(key="engine.kind", json=False)) == 0
    printed = capsys.readouterr().out
    assert "engine.kind (where kind: docker)\n" in printed
    assert "engine.kind (where kind: native)\n" in printed


def test_manifest_is_not_needed_to_explain_it(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    lab.write_manifest("no: [manifest")

    assert call(lab, "explain", "models").returncode == 0
