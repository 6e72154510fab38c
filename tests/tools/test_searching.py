"""The tools that look: for names, for text, for sizes; and how far they go."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from app.tools.base import ANSWER_BYTES, Confinement, Limits
from app.tools.builtin.calculate_directory_size import calculate_directory_size
from app.tools.builtin.find_in_files import find_in_files
from app.tools.builtin.get_file_info import get_file_info
from app.tools.builtin.list_contents import list_contents
from app.tools.builtin.search_files import search_files
from app.tools.worker import calls, fs, walk
from app.tools.worker.text import json_bytes, size_in_words
from app.units import format_bytes
from tests.support.rootless import without_roots_rights
from tests.tools.places import code_of, open_to_tools, root_beside_a_secret


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return root_beside_a_secret(tmp_path)


@pytest.fixture
def inside(root: Path) -> Confinement:
    return open_to_tools(root)


def plant(root: Path, *names: str, text: str = "") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_files_are_found_by_pattern_nearest_first(root: Path, inside: Confinement) -> None:
    plant(root, "b.txt", "a.txt", "a.md", "folder.txt/deep/c.txt", ".hidden.txt", "d.TXT")

    found = [f"{root}/{name}" for name in (".hidden.txt", "a.txt", "b.txt")]
    assert search_files(str(root), "*.txt", recursive=False, inside=inside) == {"files": found, "count": 3}
    found.append(f"{root}/folder.txt/deep/c.txt")
    for pattern in ("*.txt", "**/*.txt", "*[.]t?t"):
        assert search_files(f"{root}/", pattern, inside=inside) == {"files": found, "count": 4}


def test_search_stops_at_the_number_asked_for_and_says_so(root: Path, inside: Confinement) -> None:
    plant(root, *(f"{number:03}.txt" for number in range(120)))

    found = search_files(str(root), "*", max_results=5, inside=inside)
    assert (found["count"], found["note"]) == (5, "truncated: the first 5, there are more")
    assert search_files(str(root), "*", max_results=1000, inside=inside)["count"] == 100
    assert "note" not in search_files(str(root), "00?.txt", max_results=10, inside=inside)
    assert code_of(search_files, str(root), "*", max_results=0, inside=inside) == "invalid_arguments"


@pytest.mark.parametrize("pattern", ["", "a/b", "/etc/*", "**/", "*" * 256])
def test_pattern_that_is_none_for_a_name_is_refused(root: Path, inside: Confinement, pattern: str) -> None:
    assert code_of(search_files, str(root), pattern, inside=inside) == "invalid_arguments"
    assert code_of(find_in_files, str(root), "x", pattern, inside=inside) == "invalid_arguments"


def test_pattern_that_would_take_for_ever_does_not(root: Path, inside: Confinement) -> None:
    """A pattern comes from a model, too: "*a*a*a..." must not double its work with every star."""
    plant(root, "a" * 200)

    assert search_files(str(root), "*a" * 100 + "b", inside=inside)["count"] == 0


def test_text_is_found_with_its_line(root: Path, inside: Confinement) -> None:
    plant(root, "a.py", text="one\r\ntwo needle needle\r\n\r\nneedle")
    plant(root, "b/c.py", text="a needle. [a-z]+ ü")
    plant(root, "b/d.md", text="needle")

    lines = [
        {"path": f"{root}/a.py", "line": 2, "text": "two needle needle"},
        {"path": f"{root}/a.py", "line": 4, "text": "needle"},
        {"path": f"{root}/b/c.py", "line": 1, "text": "a needle. [a-z]+ ü"},
    ]
    assert find_in_files(str(root), "needle", "*.py", inside=inside) == {"matches": lines, "count": 3}
    assert find_in_files(str(root), "[a-z]+ ü", inside=inside)["matches"] == lines[2:]
    assert find_in_files(str(root), "Needle", inside=inside) == {"matches": [], "count": 0}


@pytest.mark.parametrize("needle", ["", "a\nb", "\ud800"])
def test_text_that_is_no_part_of_a_line_is_refused(root: Path, inside: Confinement, needle: str) -> None:
    assert code_of(find_in_files, str(root), needle, inside=inside) == "invalid_arguments"


def test_fault_084_what_is_no_text_is_not_searched(root: Path, inside: Confinement) -> None:
    for name, raw in (("nul", b"needle\0"), ("latin", b"needle caf\xe9"), ("utf16", "needle".encode("utf-16"))):
        (root / name).write_bytes(raw)

    assert find_in_files(str(root), "needle", inside=inside) == {"matches": [], "count": 0}


def test_fault_084_long_line_is_shown_round_the_match(root: Path, inside: Confinement) -> None:
    plant(root, "long.txt", text="ü" * 5_000_000 + "needle" + "ü" * 1_000_000)

    matches = find_in_files(str(root), "needle", inside=inside)["matches"]

    assert isinstance(matches, list)
    assert [match["line"] for match in matches] == [1]
    line = matches[0]["text"]
    assert (line[:7], line[-13:], "needle" in line) == ("[...] ü", "ü [truncated]", True)
    assert len(line.encode()) < 2100


def test_file_too_long_to_search_is_searched_in_part_and_that_is_said(
    root: Path, inside: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.tools.builtin.find_in_files._FILE_BYTES", 6)
    plant(root, "a.txt", text="needlü needle")

    assert find_in_files(str(root), "needl", inside=inside) == {
        "matches": [{"path": f"{root}/a.txt", "line": 1, "text": "needl"}],
        "count": 1,
        "partial": True,
        "left_out": "what comes after 6 B of a file",
    }


def test_matches_are_capped_and_fit_into_an_answer(root: Path) -> None:
    inside = open_to_tools(root, limits=Limits(results=1000))
    plant(root, "a.txt", text="\x01needle\n" * 1000)
    plant(root, "b/b.txt", text=("\x01" * 2000 + "\n") * 1000)

    assert find_in_files(str(root), "needle", max_results=1000, inside=inside)["count"] == 200
    long = find_in_files(f"{root}/b", "\x01", max_results=1000, inside=inside)
    assert json_bytes(long) < ANSWER_BYTES
    assert "truncated" in str(long["note"])


def test_lists_of_long_names_fit_into_an_answer(root: Path) -> None:
    inside = open_to_tools(root, limits=Limits(results=5000))
    for number in range(2000):
        (root / f"{number:04}{'x' * 250}").touch()

    for found in (
        list_contents(str(root), inside=inside),
        search_files(str(root), "*", max_results=5000, inside=inside),
    ):
        assert json_bytes(found) < ANSWER_BYTES
        assert "truncated" in str(found["note"])


def test_no_walk_follows_a_link_or_enters_a_protected_place(root: Path) -> None:
    plant(root, "a.txt", "private/key.txt", text="secret needle")
    (root / "out").symlink_to(root.parent / "outside")
    (root / "loop").symlink_to(".")
    (root / "link.txt").symlink_to("a.txt")
    inside = open_to_tools(root, protected=[root / "private"])

    left_out = {"partial": True, "left_out": "a protected place"}
    assert search_files(str(root), "*.txt", inside=inside) == {"files": [f"{root}/a.txt"], "count": 1, **left_out}
    assert find_in_files(str(root), "secret", inside=inside) == {
        "matches": [{"path": f"{root}/a.txt", "line": 1, "text": "secret needle"}],
        "count": 1,
        **left_out,
    }
    assert calculate_directory_size(str(root), inside=inside)["size_bytes"] == 13
    for tool in (calculate_directory_size, list_contents):
        assert code_of(tool, f"{root}/out", inside=inside) == "denied"
        assert code_of(tool, f"{root}/private", inside=inside) == "denied"


def test_folder_swapped_for_a_link_meanwhile_is_not_entered(root: Path, inside: Confinement) -> None:
    """The walk heard of a folder; what has its name now is another thing."""
    plant(root, "d/a.txt", text="harmless")
    (root / "b.txt").touch()
    seen = []
    with walk_of(root, inside) as way:
        for one in way:
            seen.append(one.below)
            if one.below == "d":
                (root / "d").rename(root / "d1")
                (root / "d").symlink_to(root.parent / "outside")

    assert seen == ["b.txt", "d"]
    assert way.unseen == "a folder that cannot be opened"


@contextmanager
def walk_of(root: Path, inside: Confinement) -> Iterator[walk.Walk]:
    with fs.open_folder(inside, str(root)) as top:
        yield walk.Walk(inside, top)


def test_fault_087_size_counts_every_file_once(root: Path, inside: Confinement) -> None:
    plant(root, "a.txt", "b/c.txt", "b/d/e.txt", text="x" * 1000)
    (root / "again.txt").hardlink_to(root / "a.txt")
    (root / "b" / "again.txt").hardlink_to(root / "a.txt")
    (root / "loop").symlink_to(".")

    size = calculate_directory_size(str(root), inside=inside)
    assert size == {"size_bytes": 3000, "size_human": "2.9 KiB"}
    shallow = calculate_directory_size(str(root), max_depth=1, inside=inside)
    assert shallow == {
        "size_bytes": 2000,
        "size_human": "2.0 KiB",
        "partial": True,
        "left_out": "folders below level 1",
    }
    assert calculate_directory_size(str(root), max_depth=0, inside=inside)["size_bytes"] == 1000
    assert code_of(calculate_directory_size, str(root), max_depth=-1, inside=inside) == "invalid_arguments"
    assert code_of(calculate_directory_size, f"{root}/a.txt", inside=inside) == "not_a_folder"


def test_fault_087_walk_stops_at_its_limits_and_says_so(
    root: Path, inside: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(root, *(f"{number % 7}/{number}.txt" for number in range(50)), text="x")
    monkeypatch.setattr(walk, "ENTRIES", 20)

    size = calculate_directory_size(str(root), inside=inside)
    assert size["left_out"] == "what comes after 20 entries"
    assert size["size_bytes"] == 13
    monkeypatch.setattr(walk, "TIME_S", 0.0)
    assert calculate_directory_size(str(root), inside=inside) == {
        "size_bytes": 0,
        "size_human": "0 B",
        "partial": True,
        "left_out": "what takes longer than 0 s",
    }


def test_walk_needs_few_descriptors_however_deep(root: Path, inside: Confinement) -> None:
    """A worker may hold 32, and the deepest folders have paths longer than the system takes."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("x" * 100, dir_fd=here)
        below = os.open("x" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    held = held_now()
    with walk_of(root, inside) as way:
        most = max(held_now() for _ in way)

    assert most - held < 8
    assert way.unseen == "a folder that cannot be opened"


def held_now() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_folder_that_may_not_be_opened_is_left_out_and_that_is_said(root: Path, inside: Confinement) -> None:
    plant(root, "closed/a.txt", "b.txt", text="x")
    (root / "closed").chmod(0)
    try:
        with without_roots_rights():
            size = calculate_directory_size(str(root), inside=inside)
    finally:
        (root / "closed").chmod(0o700)

    assert (size["size_bytes"], size["left_out"]) == (1, "a folder that cannot be opened")


def test_info_tells_size_times_and_permissions(root: Path, inside: Confinement) -> None:
    plant(root, "a.txt", text="abc")
    (root / "a.txt").chmod(0o640)
    os.utime(root / "a.txt", (0, 86400))
    (root / "link").symlink_to("a.txt")

    for name in ("a.txt", "link"):
        info = get_file_info(str(root / name), inside=inside)
        created = info.pop("created")
        assert info == {"size": 3, "modified": "1970-01-02T00:00:00+00:00", "permissions": "-rw-r-----"}
        assert created is None or datetime.fromisoformat(str(created)).year >= 2024
    assert str(get_file_info(str(root), inside=inside)["permissions"]).startswith("d")


def test_time_of_birth_is_unknown_where_the_file_system_keeps_none(
    root: Path, inside: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "born_s", lambda _: None)
    assert get_file_info(str(root), inside=inside)["created"] is None
    proc = open_to_tools(Path(f"/proc/{os.getpid()}"))
    monkeypatch.undo()
    assert get_file_info(f"/proc/{os.getpid()}/status", inside=proc)["created"] is None


def test_fault_079_info_of_what_is_no_file_is_refused(root: Path, inside: Confinement) -> None:
    os.mkfifo(root / "fifo")
    (root / "out").symlink_to(root.parent / "outside" / "secret.txt")

    assert code_of(get_file_info, str(root / "fifo"), inside=inside) == "not_regular_file"
    assert code_of(get_file_info, str(root / "out"), inside=inside) == "denied"
    assert code_of(get_file_info, str(root / "nope"), inside=inside) == "not_found"
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1536, 1048575, 1024**2, 1024**3, 1024**4 - 1, 10**13, 10**18])
def test_sizes_are_printed_as_everywhere_else(size: int) -> None:
    """Two functions, since what runs behind the wall shares no module with the service."""
    assert size_in_words(size) == format_bytes(size)
