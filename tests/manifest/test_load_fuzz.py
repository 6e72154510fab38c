"""Whatever the bytes are: a manifest, or problems with places inside the file, and never anything else."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ManifestError
from app.manifest.load import parse_manifest
from app.manifest.problems import ManifestProblems, Source

SHIPPED = (Path(__file__).parents[2] / "airlab.yaml").read_bytes()
TOKENS = (
    *(b":", b": ", b"\n", b"\r", b"\t", b"-", b"- ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"!!int ", b"<<: ", b"%"),
    *(b"'", b'"', b"|", b">", b"#", b"?", b",", b"---\n", b"...\n", b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8"),
    *(b"null", b"no", b"-1", b"1e99", b"9" * 30, b"\\x00", b"\xf0\x9f\x98\x80", b"models:\n", b"\0", b"\xff\xfe"),
)
PIECES = st.one_of(st.binary(max_size=8), st.sampled_from(TOKENS))


@st.composite
def mutated_manifests(draw: st.DrawFn) -> bytes:
    """The shipped manifest with a few stretches replaced, moved or dropped."""
    data = SHIPPED
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        data = data[:start] + draw(PIECES) + data[end:]
    return data


def refusal(data: bytes) -> ManifestProblems | None:
    """Any exception but ManifestError ends the test."""
    try:
        parse_manifest(data, name="airlab.yaml")
    except ManifestError as exc:
        if isinstance(exc, ManifestProblems):
            return exc
        raise
    return None


def check_that_problems_lie_inside(data: bytes) -> None:
    error = refusal(data)
    if error is None:
        return
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
    source = Source("airlab.yaml", text)
    assert error.problems
    for problem in error.problems:
        assert problem.line >= 1
        assert 1 <= problem.column <= len(source.line(problem.line)) + 1
        assert problem.width >= 1
        assert problem.render(source) in error.message


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=30).map(b"".join)))
def test_arbitrary_bytes_give_problems_inside_the_file(data: bytes) -> None:
    check_that_problems_lie_inside(data)


@settings(max_examples=300, deadline=None)
@given(mutated_manifests())
def test_mutated_manifests_give_problems_inside_the_file(data: bytes) -> None:
    check_that_problems_lie_inside(data)
