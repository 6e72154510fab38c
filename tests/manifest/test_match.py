"""What may stand below ``match`` and ``on``, and what is said of what may not."""

from __future__ import annotations

import pytest

from app.manifest.host_sections import MatchSection
from app.manifest.load import parse_manifest
from app.manifest.problems import ManifestProblems, Problem
from app.manifest.schema import OverrideSection
from app.units import GIB

TEXT = """\
version: 1
default_model: a
profiles:
  dual-xeon: {match: %s}
  generic: {match: any}
models:
  a:
    filename: a.gguf
    on: %s
"""


def read(match: str = "any", on: str = "{}") -> bytes:
    return (TEXT % (match, on)).encode()


def problem(match: str = "any", on: str = "{}") -> Problem:
    with pytest.raises(ManifestProblems) as found:
        parse_manifest(read(match, on), name="airlab.yaml")
    [one] = found.value.problems
    return one


def test_rules_are_read_with_their_units() -> None:
    manifest = parse_manifest(read("{cpu: E5-2680 v4, sockets: 2, min_vram: 4GiB, isa: [avx2]}"), name="x").manifest
    assert manifest.profiles["dual-xeon"].match == MatchSection(
        cpu="E5-2680 v4", sockets=2, min_vram=4 * GIB, isa=["avx2"]
    )
    assert manifest.profiles["generic"].match == "any"


def test_off_is_a_word_and_no_boolean() -> None:
    """YAML 1.1 read it as false."""
    on = parse_manifest(read(on="{generic: {numa: off, n_ctx: 8k}}"), name="x").manifest.models["a"].on
    assert on == {"generic": OverrideSection(numa="off", n_ctx=8192)}


@pytest.mark.parametrize(
    ("match", "column", "message"),
    [
        ("{}", 22, "names no rule; name one, or write `match: any` for every host"),
        ("{gpu: null}", 22, "names no rule; name one, or write `match: any` for every host"),
        ("RTX 5070 Ti", 22, "is neither any nor rules; write `any`, or rules such as `{gpu: Tesla T4}`"),
        ("[gpu]", 22, "a list is not a mapping"),
        ("2", 22, "2 is not a mapping"),
        ("{gpus: T4}", 23, "no such setting; did you mean `gpu`?"),
        ("{isa: [avx-2]}", 29, "'avx-2' is not one of the choices"),
        ("{isa: []}", 28, "is empty"),
        ("{sockets: 0}", 32, "0 is below what is allowed"),
        ("{min_vram: 15 gigs}", 33, "'15 gigs' has no known unit; use B, KB, MB, GB, TB, KiB, MiB, GiB or TiB"),
    ],
)
def test_mistake_in_a_match_is_shown_where_it_stands(match: str, column: int, message: str) -> None:
    """Neither the union nor what it is made of shows in the place or in the words."""
    found = problem(match)
    assert (found.line, found.column, found.message) == (4, column, message)


@pytest.mark.parametrize(
    ("on", "column", "message"),
    [
        ("{generic: {n_ctxt: 8k}}", 20, "no such setting; did you mean `n_ctx`?"),
        ("{generic: {n_ctx: 8}}", 27, "8 is below what is allowed"),
        ("{generic: {n_ctx: 8k, context_length: 9k}}", 19, "says context_length and n_ctx, which are the same; "
         "write one of the two"),
        ("{generic: {numa: per-rack}}", 26, "'per-rack' is not one of the choices"),
        ("{generic: {filename: b.gguf}}", 20, "no such setting"),
        ("{dual_xeon: {n_ctx: 8k}}", 10, "no profile is called 'dual_xeon'; did you mean `dual-xeon`?"),
        ("{laptop: {}}", 10, "no profile is called 'laptop'"),
    ],
)  # fmt: skip
def test_mistake_in_an_override_is_shown_where_it_stands(on: str, column: int, message: str) -> None:
    found = problem(on=on)
    assert (found.line, found.column) == (9, column)
    assert found.message == message


def test_override_for_no_profile_names_those_that_there_are() -> None:
    """It would never apply, and nobody would notice."""
    found = problem(on="{dual_xeon: {n_ctx: 8k}}")
    assert (found.suggestion, found.allowed) == ("dual-xeon", "dual-xeon, generic")
