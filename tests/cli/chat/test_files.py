"""Files that go along with a message, and files that are written for a person."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.cli.chat.files import MOST_BYTES, Attachment, read_attachment, with_attachments
from app.cli.chat.paths import local_path, new_file
from app.errors import AirLabError


def test_file_goes_along_as_text_in_a_fence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("buy milk\n")

    attached = [read_attachment(tmp_path / "notes.txt")]
    assert with_attachments("What is to do?", attached) == "What is to do?\n\nnotes.txt:\n```\nbuy milk\n```"


def test_nothing_in_a_file_closes_its_fence() -> None:
    text = with_attachments("Look.", [Attachment("a.md", "```\ncode\n```\n`````")])

    assert text == "Look.\n\na.md:\n``````\n```\ncode\n```\n`````\n``````"


def test_message_without_files_is_as_it_was_typed() -> None:
    assert with_attachments("Look.", []) == "Look."


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"a" * (MOST_BYTES + 1), "is larger than 256.0 KiB"),
        (b"\xff\xfe", r"is no UTF-8 text \(byte 0\)"),
        (b"a\0b", "holds NUL bytes"),
    ],
    ids=["large", "binary", "nul"],
)
def test_what_is_no_short_text_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(AirLabError, match=why):
        read_attachment(tmp_path / "x")


def test_only_regular_files_go_along(tmp_path: Path) -> None:
    """A pipe would be waited for without end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nope"):
        with pytest.raises(AirLabError, match="is no file"):
            read_attachment(path)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("notes.txt", "notes.txt"), ("'my notes.txt'", "my notes.txt"), ("my\\ notes.txt", "my notes.txt")],
)
def test_paths_are_read_as_people_type_and_paste_them(typed: str, meant: str) -> None:
    assert local_path(typed) == Path(meant)
    assert local_path("my notes.txt") == Path("my notes.txt")


def test_home_is_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert local_path("~/notes.txt") == Path("/home/ada/notes.txt")


def test_path_with_an_open_quote_is_refused() -> None:
    with pytest.raises(AirLabError, match="No closing quotation"):
        local_path("'notes")


def test_written_files_are_named_after_what_is_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert new_file("", named_after="my/talk: one", suffix=".md") == Path("my-talk-one.md")
    assert new_file("", named_after="../..", suffix=".md") == Path("conversation.md")


def test_nothing_is_overwritten_and_no_folder_made(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("mine")
    with pytest.raises(AirLabError, match="nothing is overwritten"):
        new_file(str(tmp_path / "a.md"), named_after="x", suffix=".md")
    with pytest.raises(AirLabError, match="there is no folder"):
        new_file(str(tmp_path / "b" / "a.md"), named_after="x", suffix=".md")
