"""Whole manifests, good and broken: what they load as, and exactly what people read when they do not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from app.errors import ManifestError
from app.manifest.load import MAX_BYTES, Loaded, parse_manifest, read_manifest, read_sidecar
from app.manifest.problems import MAX_PROBLEMS, ManifestProblems, Problem

SHIPPED = Path(__file__).parents[2] / "airlab.yaml"

GOOD = """\
version: 1
default_model: qwen3-8b
models:
  qwen3-8b:
    filename: qwen3-8b.gguf
    context_length: 8k
    aliases: [gpt-4o-mini]
"""


def load(text: str) -> Loaded:
    return parse_manifest(text.encode(), name="airlab.yaml")


def refusal(text: str | bytes) -> ManifestProblems:
    with pytest.raises(ManifestProblems) as caught:
        parse_manifest(text.encode() if isinstance(text, str) else text, name="airlab.yaml")
    return caught.value


def check(text: str | bytes) -> tuple[Problem, ...]:
    return refusal(text).problems


def only(text: str | bytes) -> Problem:
    problems = check(text)
    assert len(problems) == 1, refusal(text).message
    return problems[0]


def test_the_shipped_manifest_loads() -> None:
    loaded = read_manifest(SHIPPED)

    assert loaded.manifest.default_model == "smollm2-135m"
    assert loaded.manifest.models["qwen2.5-7b-q4"].idle_timeout == 900
    assert loaded.digest == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert loaded.text == SHIPPED.read_text()


def test_a_byte_order_mark_changes_nothing_but_the_digest() -> None:
    """Some editors on Windows write one."""
    plain = load(GOOD)
    marked = parse_manifest(b"\xef\xbb\xbf" + GOOD.encode(), name="airlab.yaml")

    assert (marked.manifest, marked.text) == (plain.manifest, plain.text)
    assert marked.positions.key(("version",)) == plain.positions.key(("version",))
    assert marked.digest != plain.digest


def test_an_alias_is_read_as_what_its_anchor_marks() -> None:
    text = GOOD + "  other: &o {filename: a.gguf, parallel: 3}\n  third: *o\n"

    assert load(text).manifest.models["third"] == load(text).manifest.models["other"]


def test_a_problem_shows_place_line_range_and_way_out() -> None:
    assert refusal(GOOD.replace("8k", "200")).message == (
        "airlab.yaml:6:21: models.qwen3-8b.context_length: 200 is below what is allowed\n"
        "     6 |     context_length: 200\n"
        "       |                     ^^^\n"
        "  allowed: 512 to 1048576 tokens\n"
        "  to fix:  use 512 or more, or delete the line\n"
        "\n"
        "1 problem in airlab.yaml."
    )


def test_every_kind_of_mistake_is_reported_at_once_in_the_order_of_the_file() -> None:
    text = """\
version: 1
server: {port: 80800, hosts: [a b]}
profiles:
  generic:
    paralel: 2
    max_loaded: 'x'
models:
  qwen3-8b:
    filename: ../secret.gguf
    preload: no
    preload: true
"""
    assert (
        refusal(text).message
        == """\
airlab.yaml:1:1: default_model: is missing
     1 | version: 1
       | ^
  to fix:  add `default_model: ...` (The model that serves when a request names none.)

airlab.yaml:2:16: server.port: 80800 is above what is allowed
     2 | server: {port: 80800, hosts: [a b]}
       |                ^^^^^
  allowed: 0 to 65535
  to fix:  use 65535 or less, or delete the line

airlab.yaml:2:31: server.hosts[0]: 'a b' is not written as it has to be
     2 | server: {port: 80800, hosts: [a b]}
       |                               ^^^
  allowed: a host name such as lab.example, without a port
  to fix:  write it in that form

airlab.yaml:5:5: profiles.generic.paralel: no such setting; did you mean `parallel`?
     5 |     paralel: 2
       |     ^^^^^^^
  to fix:  rename it to `parallel`, or delete the line

airlab.yaml:6:17: profiles.generic.max_loaded: the text 'x' is not a whole number
     6 |     max_loaded: 'x'
       |                 ^^^
  allowed: a whole number
  to fix:  write it like `8`

airlab.yaml:9:15: models.qwen3-8b.filename: must be a .gguf file below models/, \
written with forward slashes, without . or ..
     9 |     filename: ../secret.gguf
       |               ^^^^^^^^^^^^^^
  to fix:  change it, or delete the line

airlab.yaml:10:14: models.qwen3-8b.preload: the text 'no' is neither true nor false
    10 |     preload: no
       |              ^^
  allowed: true or false
  to fix:  write false

airlab.yaml:11:5: models.qwen3-8b.preload: stands twice, on line 10 and again on line 11
    11 |     preload: true
       |     ^^^^^^^
  to fix:  keep one of the two

8 problems in airlab.yaml."""
    )


def test_unknown_key_names_the_nearest_allowed_key() -> None:
    """A typo in airlab.yaml is answered with the key the user most likely meant."""
    problems = check(GOOD.replace("context_length", "contxt_length"))

    assert [(p.line, p.column, p.suggestion) for p in problems] == [(6, 5, "context_length")]


def test_a_bad_key_and_its_bad_value_are_two_problems() -> None:
    problems = check(GOOD + "  a b: 3\n")

    assert [(p.line, p.column, p.message) for p in problems] == [
        (8, 3, "'a b' is not written as it has to be"),
        (8, 8, "3 is not a mapping"),
    ]


def test_unknown_key_far_from_every_other_lists_what_there_is() -> None:
    problem = only("zzz: 1\n" + GOOD)

    assert problem.suggestion is None
    assert (
        problem.allowed == "version, server, defaults, chat, default_model, profiles, models, finetuned, tools, policy"
    )


def test_more_problems_than_anybody_reads_are_counted() -> None:
    error = refusal(GOOD + "".join(f"    k{n}: 1\n" for n in range(MAX_PROBLEMS + 50)))

    assert len(error.problems) == MAX_PROBLEMS
    assert error.message.endswith("\n150 problems in airlab.yaml; these are the first 100.")


def test_escape_sequences_in_the_file_do_not_reach_the_terminal() -> None:
    error = refusal('version: 1\n"\\e[31mred": "\\e[31m"\n')

    assert "\x1b" not in error.message


def test_a_very_long_line_is_shown_around_the_mistake_only() -> None:
    error = refusal("{version: 1, default_model: a, models: {a: {description: '" + "x" * 5000 + "', filename: 3}}}")

    shown = error.message.splitlines()[1:3]
    assert max(map(len, shown)) < 140
    assert shown[0][shown[1].index("^")] == "3"


def test_fault_001_empty_file_is_refused() -> None:
    assert refusal(b"").message.startswith("airlab.yaml: top level must be a mapping\n")
    assert only("# nothing but this\n").message == "top level must be a mapping"
    assert only("---\n").message == "top level must be a mapping"


def test_fault_002_file_truncated_in_the_middle_is_refused() -> None:
    assert only("- na").message == "top level must be a mapping"
    assert [p.path for p in check("version: 1\ndefault_model: a\nmodels:\n  a:\n    alia")] == [("models", "a")]


def test_fault_013_two_mebibytes_are_refused_before_parsing() -> None:
    """Shown by the bytes: they are no UTF-8, which parsing would have said."""
    assert only(b"\xff" * 2 * MAX_BYTES).message == "is larger than 1024 KiB"
    assert load(GOOD + "#" * (MAX_BYTES - len(GOOD))).manifest.version == 1


def test_fault_014_unknown_section_is_refused_with_did_you_mean() -> None:
    problem = only(GOOD.replace("models:", "profles: {}\nmodels:"))

    assert problem.message == "no such setting; did you mean `profiles`?"


def test_fault_026_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ManifestProblems) as caught:
        read_manifest(tmp_path / "airlab.yaml")

    assert caught.value.message == (
        f"{tmp_path}/airlab.yaml: does not exist\n"
        "  to fix:  create it, or name another with AIRLAB_MANIFEST\n\n"
        f"1 problem in {tmp_path}/airlab.yaml."
    )


def test_fault_026_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read: Is a directory"):
        read_manifest(tmp_path)


def test_fault_026_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    """Nobody ever writes to it: waiting would show as a test that never ends."""
    os.mkfifo(tmp_path / "airlab.yaml")

    with pytest.raises(ManifestError, match="is not a regular file"):
        read_manifest(tmp_path / "airlab.yaml")


def test_fault_026_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the system call and not by chmod, which does not stop root."""

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("app.manifest.load.os.open", denied)

    with pytest.raises(ManifestError, match="cannot be read: Permission denied"):
        read_manifest(tmp_path / "airlab.yaml")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ManifestError, match="cannot be read: embedded null byte"):
        read_manifest(Path("air\0lab.yaml"))


def test_folder_for_finetunes_lies_below_models() -> None:
    assert load(GOOD).manifest.finetuned.directory == "models/custom"
    assert load(GOOD + "finetuned: {directory: models/my/own}\n").manifest.finetuned.directory == "models/my/own"


@pytest.mark.parametrize(
    "directory", ["models", "models/", "custom", "/models/a", "models/../a", "models/.a", "models\\a"]
)
def test_folder_for_finetunes_elsewhere_is_refused(directory: str) -> None:
    """What lies in it is read, and its names are shown."""
    problem = only(GOOD + f"finetuned: {{directory: '{directory}'}}\n")

    assert problem.path == ("finetuned", "directory")
    assert "must be a folder below models/, such as models/custom" in problem.message


def test_sidecar_is_read_as_strictly_as_a_model_in_the_manifest(tmp_path: Path) -> None:
    file = tmp_path / "custom" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("description: Mine\ncontext_length: 8k\nbase_model: other\n")
    section = read_sidecar(file)
    assert (section.description, section.context_length, section.base_model) == ("Mine", 8192, "other")

    file.write_text("context_length: 1\nparalel: 2\nfilename: a.gguf\n")
    with pytest.raises(ManifestProblems) as caught:
        read_sidecar(file)
    assert [(p.path, p.line) for p in caught.value.problems] == [(("context_length",), 1), (("paralel",), 2)]
    assert "custom/mine.yaml:1:17: context_length: 1 is below" in caught.value.message
    assert str(tmp_path) not in caught.value.message, "it is shown to whoever may list models"

    file.write_text("filename: a.gguf\n")
    with pytest.raises(ManifestProblems, match=r"mine.yaml:1:1: filename: may not stand in a file beside a model"):
        read_sidecar(file)
