"""What two keys of a manifest have to agree on."""

from __future__ import annotations

import pytest

from app.manifest.load import parse_manifest
from app.manifest.problems import ManifestProblems, Problem

GOOD = """\
version: 1
default_model: qwen3-8b
profiles:
  generic: {default_model: qwen3-8b}
models:
  qwen3-8b: {filename: qwen3-8b.gguf, aliases: [gpt-4o-mini]}
  smollm2: {filename: smollm2.gguf, base_model: qwen3-8b, not_with: [qwen3-8b]}
"""


def check(text: str) -> list[Problem]:
    try:
        parse_manifest(text.encode(), name="airlab.yaml")
    except ManifestProblems as exc:
        return list(exc.problems)
    return []


def where(problems: list[Problem]) -> list[tuple[int, int]]:
    return [(problem.line, problem.column) for problem in problems]


def test_names_that_agree_are_no_problem() -> None:
    assert check(GOOD) == []


@pytest.mark.parametrize(
    ("right", "wrong", "line", "column"),
    [
        ("default_model: qwen3-8b\np", "default_model: qwen-8b\np", 2, 16),
        ("generic: {default_model: qwen3-8b}", "generic: {default_model: qwen-8b}", 4, 28),
        ("base_model: qwen3-8b", "base_model: qwen-8b", 7, 49),
        ("not_with: [qwen3-8b]", "not_with: [qwen-8b]", 7, 70),
    ],
)
def test_fault_015_a_reference_to_no_model_names_the_nearest(right: str, wrong: str, line: int, column: int) -> None:
    [problem] = check(GOOD.replace(right, wrong))

    assert (problem.line, problem.column, problem.suggestion) == (line, column, "qwen3-8b")
    assert problem.message == "no model has the key 'qwen-8b'; did you mean `qwen3-8b`?"
    assert problem.allowed == "qwen3-8b, smollm2"


def test_a_reference_to_an_alias_names_the_model_behind_it() -> None:
    [problem] = check(GOOD.replace("default_model: qwen3-8b\np", "default_model: gpt-4o-mini\np"))

    assert problem.message == "'gpt-4o-mini' is an alias; did you mean `qwen3-8b`?"


def test_fault_015_two_models_with_the_same_key_are_refused_with_their_path() -> None:
    [problem] = check(GOOD + "  smollm2: {filename: a.gguf}\n")

    assert problem.path == ("models", "smollm2")
    assert problem.message == "stands twice, on line 7 and again on line 8"


@pytest.mark.parametrize("alias", ["qwen3-8b", "QWEN3-8B", "gpt-4o-mini", "Gpt-4o-Mini"])
def test_fault_015_a_name_that_is_taken_is_refused_whatever_its_case(alias: str) -> None:
    [problem] = check(GOOD.replace("smollm2.gguf", f"smollm2.gguf, aliases: [x, {alias}]"))

    assert problem.path == ("models", "smollm2", "aliases", 1)
    assert (problem.line, problem.column) == (7, 50)
    assert problem.message.startswith(f"the name '{alias}' is taken already, by models.qwen3-8b")


def test_keys_that_differ_in_case_only_clash() -> None:
    assert where(check(GOOD + "  SmolLM2: {filename: a.gguf}\n")) == [(8, 3)]


def test_default_is_no_name_for_a_model() -> None:
    """Clients write it to mean whichever model is the default."""
    text = GOOD.replace("gpt-4o-mini", "Default") + "  default: {filename: a.gguf}\n"

    assert where(check(text)) == [(6, 49), (8, 3)]


def test_a_model_without_weights_is_refused() -> None:
    [problem] = check(GOOD + "  bare: {description: nothing}\n")

    assert (problem.line, problem.column, problem.allowed) == (8, 3, "filename, hf_repo, download_url or remote")


@pytest.mark.parametrize(
    "source", ["hf_repo: a/b", "download_url: 'https://a.example/b.gguf'", "filename: qwen3-8b.gguf"]
)
def test_any_one_source_of_weights_is_enough(source: str) -> None:
    """Two models may share one file: the same weights with other settings."""
    assert check(GOOD + f"  other: {{{source}}}\n") == []


def test_names_are_checked_only_once_the_schema_is_satisfied() -> None:
    """Until then nobody knows which models there are."""
    problems = check(GOOD.replace("default_model: qwen3-8b\np", "default_model: x\np") + "  other: 3\n")

    assert where(problems) == [(8, 10)]
