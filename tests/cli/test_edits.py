"""``airlab models add|rm`` and ``airlab tools add|rm``: what they change in the file, and how they say no."""

from __future__ import annotations

import json
import re

import pytest

from app.live.guards import builtin_tools
from app.manifest.load import read_manifest
from app.manifest.schema import ModelSection
from tests.cli.conftest import Call
from tests.conftest import MakeLab
from tests.support.service import Lab

TEXT = """\
# ours
version: 1
default_model: small

models:
  small:
    filename: small.gguf   # the only one

tools:
  builtin: all       # or a list
"""


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    lab = make_lab()
    lab.write_manifest(TEXT)
    return lab


def test_model_is_added_with_its_settings_and_the_lines_are_shown(lab: Lab, call: Call) -> None:
    lab.weights("new").write_bytes(lab.weights("small").read_bytes())
    options = "--filename new.gguf --context-length 8k --n-threads 4 --description 12 --preload --alias org/new:q4"
    done = call(lab, "models", "add", "new", *options.split(), "--alias", "newer", "--kind", "chat")

    lines = [
        "  new:",
        "    filename: new.gguf",
        '    description: "12"',
        "    context_length: 8k",
        "    kind: [chat]",
        '    aliases: ["org/new:q4", newer]',
        "    preload: true",
        "    n_threads: 4",
    ]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "\n".join(
        [
            f"{lab.manifest}: added models.new",
            *(f"  +{line}" for line in lines),
            "a running AirLab picks this up by itself",
            "",
        ]
    )
    assert lab.manifest.read_text() == TEXT.replace("# the only one\n", "# the only one\n" + "\n".join(lines) + "\n")


def test_model_whose_file_is_not_there_yet_is_added_with_a_word_on_it(lab: Lab, call: Call) -> None:
    done = call(lab, "models", "add", "new", "--filename", "new.gguf")
    assert done.returncode == 0
    assert f"put it at {lab.weights('new')}" in done.stdout

    done = call(lab, "models", "add", "hub", "--hf-repo", "org/repo:Q4_K_M")
    assert done.returncode == 0
    assert "downloads org/repo:Q4_K_M" in done.stdout


def test_removed_model_takes_its_lines_with_it(lab: Lab, call: Call) -> None:
    call(lab, "models", "add", "new", "--filename", "new.gguf")
    done = call(lab, "models", "rm", "new")

    assert (done.returncode, done.stderr) == (0, "")
    assert "  -    filename: new.gguf\n" in done.stdout
    assert lab.manifest.read_text() == TEXT


def test_file_that_is_json_stays_json(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    before = json.loads(lab.manifest.read_text())
    assert call(lab, "models", "add", "new", "--filename", "new.gguf").returncode == 0
    assert call(lab, "tools", "rm", "read_file").returncode == 0
    after = json.loads(lab.manifest.read_text())

    assert after["models"] == {**before["models"], "new": {"filename": "new.gguf"}}
    assert "read_file" not in after["tools"]["builtin"]


def test_tools_become_a_list_when_one_goes_and_the_comment_stays(lab: Lab, call: Call) -> None:
    assert call(lab, "tools", "rm", "read_file").returncode == 0

    offered = read_manifest(lab.manifest).manifest.tools.builtin
    assert offered == [name for name in builtin_tools() if name != "read_file"]
    assert "  # or a list\n" in lab.manifest.read_text()


def test_tools_of_a_list_are_added_and_removed(lab: Lab, call: Call) -> None:
    lab.write_manifest(TEXT.replace("all       #", "[read_file]  #"))
    done = call(lab, "tools", "add", "get_current_time")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{lab.manifest}: added get_current_time to tools.builtin",
        "  -  builtin: [read_file]  # or a list",
        "  +  builtin: [read_file, get_current_time]  # or a list",
        "a running AirLab picks this up by itself",
    ]
    assert call(lab, "tools", "rm", "get_current_time").returncode == 0
    assert lab.manifest.read_text() == TEXT.replace("all       #", "[read_file]  #")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("models add small --filename a.gguf", "there is a model 'small' already"),
        ("models rm smal", "did you mean `small`?"),
        ("models rm small", "models: is empty"),
        ("models add new", "says nowhere where its weights are"),
        ("models add new --filename ../a.gguf", "must be a .gguf file below models/"),
        ("models add new --filename a.gguf --context-length 8", "512 to 1048576"),
        ("models add new --filename a.gguf --context-length many", "'many' is no token count"),
        ("models add new --filename a.gguf --base-model smal", "did you mean `small`?"),
        ("models add new/q4 --filename a.gguf", "letters, digits"),
        ("models add default --filename a.gguf", "reserved"),
        ("tools add read_fil", "did you mean `read_file`?"),
        ("tools add read_file", "tools.builtin is all"),
        ("tools rm nothing_like_it", "there are "),
    ],
)
def test_what_cannot_be_is_refused_with_exit_1_and_the_file_untouched(
    lab: Lab, call: Call, arguments: str, words: str
) -> None:
    done = call(lab, *arguments.split())

    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert done.stderr.startswith("airlab: ")
    assert lab.manifest.read_text() == TEXT


def test_default_model_is_not_removed_and_the_reason_shows_its_line(lab: Lab, call: Call) -> None:
    call(lab, "models", "add", "new", "--filename", "new.gguf")
    done = call(lab, "models", "rm", "small")

    assert done.returncode == 1
    assert f"{lab.manifest}:3:16: default_model: no model has the key 'small'" in done.stderr


def test_broken_manifest_is_not_edited(lab: Lab, call: Call) -> None:
    lab.write_manifest(TEXT + "contxt: 1\n")
    done = call(lab, "models", "add", "new", "--filename", "new.gguf")

    assert (done.returncode, done.stdout) == (78, "")
    assert "contxt: no such setting" in done.stderr


def test_another_manifest_can_be_named(lab: Lab, call: Call) -> None:
    other = lab.folder / "other.yaml"
    other.write_text(TEXT)
    assert call(lab, "models", "add", "new", "--filename", "a.gguf", "--manifest", str(other)).returncode == 0

    assert lab.manifest.read_text() == TEXT
    assert "a.gguf" in other.read_text()


def test_guarded_reload_is_mentioned(lab: Lab, call: Call) -> None:
    lab.write_manifest(TEXT + "policy: {reload_guard: true}\n")

    assert "policy.reload_guard" in call(lab, "tools", "rm", "read_file").stdout


def test_every_setting_of_a_model_can_be_given_but_those_for_single_profiles(make_lab: MakeLab, call: Call) -> None:
    """A setting that is new in the schema is an option at once."""
    told = call(make_lab(), "models", "add", "--help").stdout
    options = set(re.findall(r"^  --([a-z0-9-]+)", told, re.MULTILINE)) - {"manifest"}
    named = {name.replace("-", "_") for name in options}

    assert named - {"alias", "adapter"} == ModelSection.model_fields.keys() - {"on", "remote", "aliases", "adapters"}


@pytest.mark.parametrize("arguments", ["models", "tools", "models nope", "models add", "tools rm", "models rm a b"])
def test_misuse_exits_2_with_the_usage(lab: Lab, call: Call, arguments: str) -> None:
    done = call(lab, *arguments.split())

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: airlab ")
