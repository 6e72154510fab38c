"""The file tools on real folders, called as the worker calls them."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path, PurePosixPath

import pytest

from app.tools.base import Confinement, Limits, Protected, ToolProblem
from app.tools.builtin.get_current_directory import get_current_directory
from app.tools.builtin.get_current_time import get_current_time
from app.tools.builtin.list_contents import list_contents
from app.tools.builtin.read_file import read_file
from tests.tools.places import SECRET, root_beside_a_secret


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return root_beside_a_secret(tmp_path)


@pytest.fixture
def inside(root: Path) -> Confinement:
    return Confinement("fs_read", read=(PurePosixPath(root),))


def code_of(path: Path | str, inside: Confinement) -> str:
    with pytest.raises(ToolProblem) as caught:
        read_file(str(path), inside=inside)
    assert SECRET not in caught.value.message
    return caught.value.code


def test_text_comes_with_its_number_of_lines(root: Path, inside: Confinement) -> None:
    for text, lines in (("", 0), ("a", 1), ("a\nb\n", 2), ("a\r\nb", 2)):
        (root / "a.txt").write_bytes(text.encode())

        assert read_file(str(root / "a.txt"), inside=inside) == {"content": text, "lines": lines}


def test_fault_075_links_that_lead_out_are_refused(root: Path, inside: Confinement) -> None:
    outside = root.parent / "outside"
    (root / "absolute").symlink_to(outside / "secret.txt")
    (root / "relative").symlink_to("../outside/secret.txt")
    (root / "folder").symlink_to(outside, target_is_directory=True)
    (root / "dangling").symlink_to("/no/such/place")
    (root / "magic").symlink_to("/proc/self/environ")
    (root / "chain0").symlink_to("relative")
    for number in range(1, 51):
        (root / f"chain{number}").symlink_to(f"chain{number - 1}")

    for name in ("absolute", "relative", "folder/secret.txt", "dangling", "magic", "chain3", "chain50"):
        assert code_of(root / name, inside) == "denied"


def test_links_that_stay_inside_work(root: Path, inside: Confinement) -> None:
    (root / "a.txt").write_text("hello")
    (root / "b.txt").symlink_to("a.txt")

    assert read_file(str(root / "b.txt"), inside=inside)["content"] == "hello"


def test_root_that_has_become_a_link_is_not_followed(root: Path) -> None:
    """Policy resolves a root's links when it comes into force; one put there later could lead anywhere."""
    (root / "a.txt").write_text("hello")
    link = root.parent / "link"
    link.symlink_to(root)
    inside = Confinement("fs_read", read=(PurePosixPath(link),))

    with pytest.raises(ToolProblem):
        read_file(str(link / "a.txt"), inside=inside)


def test_link_to_a_protected_place_inside_the_root_is_refused(root: Path) -> None:
    """Policy saw the link's name only."""
    (root / "private").mkdir()
    (root / "private" / "key").write_text(SECRET)
    (root / "way").symlink_to("private")
    protected = (Protected(PurePosixPath(root / "private"), "tree"),)
    inside = Confinement("fs_read", read=(PurePosixPath(root),), protected=protected)

    assert code_of(root / "way" / "key", inside) == "denied"
    assert code_of(root / "private" / "key", inside) == "denied"


def test_path_outside_and_ill_formed_paths_are_refused_here_too(root: Path, inside: Confinement) -> None:
    """The worker trusts no judgement made elsewhere."""
    assert code_of(root.parent / "outside" / "secret.txt", inside) == "denied"
    assert code_of(f"{root}-evil/x", inside) == "denied"
    assert code_of(f"{root}/../outside/secret.txt", inside) == "invalid_path"


def test_refusal_says_what_to_try(root: Path, inside: Confinement) -> None:
    with pytest.raises(ToolProblem, match=f"Choose a path under {root}"):
        read_file("/etc/passwd", inside=inside)
    with pytest.raises(ToolProblem, match="list_contents"):
        read_file(str(root / "nope"), inside=inside)


def test_fault_079_what_is_no_regular_file_is_refused_at_once(root: Path, inside: Confinement) -> None:
    """A FIFO without a writer would hold a plain open for ever."""
    os.mkfifo(root / "fifo")
    (root / "folder").mkdir()
    here = Path.cwd()
    os.chdir(root)  # a socket's whole path may be too long for its address
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            codes = {name: code_of(root / name, inside) for name in ("fifo", "folder", "socket")}
    finally:
        os.chdir(here)

    assert set(codes.values()) == {"not_regular_file"}
    devices = Confinement("fs_read", read=(PurePosixPath("/dev"),))
    assert code_of("/dev/zero", devices) == "not_regular_file"


@pytest.mark.parametrize("raw", [b"a\0b", "text".encode("utf-16"), b"\xff\xfe", b"caf\xe9", b"\xe2\x82"])
def test_fault_084_what_is_no_text_is_refused(root: Path, inside: Confinement, raw: bytes) -> None:
    (root / "a.bin").write_bytes(raw)

    assert code_of(root / "a.bin", inside) == "not_text"


def test_fault_084_long_file_is_cut_with_a_marker(root: Path, inside: Confinement) -> None:
    size = 10 * 1024**2
    (root / "long.txt").write_text("x" * size)

    content = str(read_file(str(root / "long.txt"), inside=inside)["content"])

    shown = content.index("\n[truncated: the first ")
    assert 255_000 < shown <= 256 * 1024
    assert content.endswith(f"[truncated: the first {shown} of {size} bytes]")


def test_cut_inside_a_character_does_not_make_a_file_binary(root: Path) -> None:
    (root / "a.txt").write_text("a€€")
    inside = Confinement("fs_read", read=(PurePosixPath(root),), limits=Limits(read_bytes=5))

    assert str(read_file(str(root / "a.txt"), inside=inside)["content"]).startswith("a€\n[truncated")


def test_text_full_of_escapes_still_fits_into_an_answer(root: Path, inside: Confinement) -> None:
    (root / "a.txt").write_bytes(b"x" * 8192 + b"\x1b" * 200_000)

    answer = read_file(str(root / "a.txt"), inside=inside)

    assert len(json.dumps(answer)) < 256 * 1024
    assert "[truncated" in str(answer["content"])


def test_byte_order_mark_is_not_part_of_the_text(root: Path, inside: Confinement) -> None:
    (root / "a.txt").write_text("\ufeffhello")

    assert read_file(str(root / "a.txt"), inside=inside) == {"content": "hello", "lines": 1}


def test_listing_hides_dot_files_and_marks_folders(root: Path, inside: Confinement) -> None:
    (root / "b").mkdir()
    (root / "a.txt").touch()
    (root / ".hidden").touch()
    (root / "link").symlink_to(root / "b")
    (root / os.fsdecode(b"caf\xe9")).touch()

    assert list_contents(str(root), inside=inside) == {
        "items": ["a.txt", "b/", "caf�", "link"],
        "total_items": 4,
    }
    assert list_contents(f"{root}/", show_hidden=True, inside=inside)["total_items"] == 5


def test_long_listing_is_cut_with_a_note(root: Path, inside: Confinement) -> None:
    for number in range(130):
        (root / f"{number:03}").touch()

    listing = list_contents(str(root), inside=inside)

    assert (len(listing["items"]), listing["total_items"]) == (100, 130)  # type: ignore[arg-type] # a list
    assert listing["note"] == "truncated: the first 100 of 130, by name"


def test_listing_a_file_or_a_way_out_is_refused(root: Path, inside: Confinement) -> None:
    (root / "a.txt").touch()
    (root / "out").symlink_to("/etc")

    for name, code in (("a.txt", "not_a_folder"), ("out", "denied"), ("nope", "not_found")):
        with pytest.raises(ToolProblem) as caught:
            list_contents(str(root / name), inside=inside)
        assert caught.value.code == code


def test_current_directory_is_the_first_root() -> None:
    inside = Confinement("fs_read", read=(PurePosixPath("/b"), PurePosixPath("/a")))

    assert get_current_directory(inside=inside) == {"path": "/b"}
    with pytest.raises(ToolProblem, match=r"policy\.roots"):
        get_current_directory(inside=Confinement("fs_read"))


def test_time_has_its_offset() -> None:
    assert get_current_time()["time"].endswith("+00:00")
    assert get_current_time("Asia/Kolkata")["time"].endswith("+05:30")


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "/etc/passwd", "America", "a\0b"])
def test_time_zone_that_does_not_exist_is_answered_with_one_that_does(zone: str) -> None:
    with pytest.raises(ToolProblem, match="Europe/Berlin"):
        get_current_time(zone)
