"""``airlab models list`` and ``airlab tools list``: what the manifest and the files say."""

from __future__ import annotations

import json

from tests.chat.talk import configure
from tests.cli.conftest import Call
from tests.conftest import MakeLab


def test_models_are_listed_with_what_is_known_of_their_files(make_lab: MakeLab, call: Call) -> None:
    models = {"small": {"recommended": True}, "other": {"kind": ["chat", "embedding"], "context_length": 2048}}
    done = call(make_lab(models=models, missing=("other",)), "models", "list")
    titles, small, other = done.stdout.splitlines()

    assert (done.returncode, done.stderr) == (0, "")
    assert titles.split() == ["MODEL", "FILE", "SIZE", "QUANTISATION", "CONTEXT", "KIND", "NOTES"]
    assert small.split()[:2] == ["small", "small.gguf"]
    assert small.endswith("default, recommended")
    assert other.split() == ["other", "other.gguf", "2048", "chat,", "embedding", "file", "missing"]


def test_models_as_json_have_numbers_and_no_words_for_them(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(models={"small": {"aliases": ["tiny"]}, "other": {}}, missing=("other",))
    small, other = json.loads(call(lab, "models", "list", "--json").stdout)

    assert (small["key"], small["default"], small["aliases"], small["context_length"]) == (
        "small",
        True,
        ["tiny"],
        1024,
    )
    assert small["size_bytes"] == lab.weights("small").stat().st_size
    assert (other["key"], other["default"], other["size_bytes"]) == ("other", False, None)
    assert small.keys() == other.keys()


def test_file_that_was_dropped_and_file_that_is_broken_are_listed_as_such(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    (lab.folder / "models" / "custom").mkdir()
    (lab.folder / "models" / "custom" / "mine.gguf").write_bytes(lab.weights("small").read_bytes())
    lab.weights("small").write_bytes(b"no model")
    _, small, mine = call(lab, "models", "list").stdout.splitlines()

    assert "cannot start" in small
    assert mine.split()[:2] == ["mine", "custom/mine.gguf"]
    assert "not in the manifest" in mine


def test_text_of_the_manifest_does_not_steer_the_terminal(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(models={"small": {"download_url": "https://a/\x1b[31m"}}, missing=("small",))
    configure(lab, models={"small": {"download_url": "https://a/\x1b[31m"}})

    assert "\x1b" not in call(lab, "models", "list").stdout


def test_tools_are_listed_with_whether_models_are_offered_them(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    configure(lab, tools={"builtin": ["get_current_time"]})
    rows = {row["name"]: row for row in json.loads(call(lab, "tools", "list", "--json").stdout)}

    assert [name for name, row in rows.items() if row["offered"]] == ["get_current_time"]
    assert rows["lookup_hostname"]["risk"] == "net"
    listed = call(lab, "tools", "list").stdout.splitlines()
    assert len(listed) == len(rows) + 1
    assert next(line for line in listed if line.startswith("get_current_time ")).split()[1] == "yes"


def test_list_of_a_broken_manifest_exits_78(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab()
    lab.write_manifest("version: 2\n")

    assert call(lab, "models", "list").returncode == 78
    assert call(lab, "tools", "list").returncode == 78
