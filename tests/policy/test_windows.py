"""Windows paths: one file, many spellings, and every one of them is protected or refused."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.policy import windows
from app.policy.paths import PROTECTED_UNDER_WSL
from app.tools.base import Protected


def refused(text: str) -> bool:
    """Whether no tool may touch what is written so: it is protected, or no path that anybody could judge."""
    try:
        path = windows.mounted(text)
    except ValueError:
        return True
    return windows.is_protected(path, PROTECTED_UNDER_WSL)


@pytest.mark.parametrize(
    "text",
    [
        "C:\\",
        "c:/",
        "C:\\\\",
        "C:\\Windows",
        "c:\\windows",
        "C:/WINDOWS/System32/config/SAM",
        "C:\\wInDoWs\\",
        "C:\\\\Windows//System32",
        "C:\\Windows.",
        "C:\\Windows...",
        "C:\\Windows ",
        "C:\\Windows. .\\System32",
        "C:\\Windows::$INDEX_ALLOCATION",
        "C:\\Windows:stream",
        "C:\\Windows::$INDEX_ALLOCATION\\System32",
        "C:\\Users\\me\\notes.txt:hidden",
        r"\\?\C:\Windows",
        r"\\?\c:\windows\system32",
        "//?/C:/Windows",
        r"\\.\C:\Windows",
        r"\??\C:\Windows",
        r"\\?\C:\\"[:-1],
        "C:\\Program Files",
        "C:\\PROGRAM FILES\\x\\y.exe",
        "C:\\Program Files (x86)\\x",
        "C:\\PROGRA~1",
        "c:\\progra~2\\x",
        "C:\\PR0E35~1\\x",
        "C:\\Users\\me\\LONGFI~1.TXT",
        "C:\\W\u0131ndows",  # the dotless i, whose capital is I
        "C:\\Window\u017f",  # the long s, whose capital is S
        "C:\\..\\Windows",
        "C:\\Users\\..\\Windows",
        "C:\\.\\Windows",
        "C:",
        "C:Windows",
        r"\Windows",
        r"\\localhost\C$\Windows",
        r"\\?\UNC\localhost\C$\Windows",
        r"\\?\GLOBALROOT\Device\HarddiskVolume2\Windows",
        r"\\?\Volume{b75e2c83-0000-0000-0000-602f00000000}\Windows",
        "file:///C:/Windows",
        "1:\\Windows",
        "",
    ],
)
def test_no_spelling_reaches_what_windows_needs(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "C:\\Users\\me\\notes.txt",
        "c:/users/me",
        r"\\?\C:\Users\me",
        "C:\\WindowsApps",
        "C:\\Window",
        "C:\\Users\\Windows",
        "C:\\Program Files (x64)",
        "C:\\Program",
        "D:\\Windows",
        "C:\\Users\\me\\a~b",
        "C:\\Users\\me\\notes~",
        "C:\\Users\\me\\~1",
    ],
)
def test_what_is_beside_it_is_not_protected(text: str) -> None:
    assert not refused(text)


def test_path_lies_where_wsl_mounts_its_drive() -> None:
    assert windows.mounted(r"\\?\D:\Data\My Notes") == PurePosixPath("/mnt/d/Data/My Notes")
    assert windows.mounted("C:\\") == PurePosixPath("/mnt/c")


@pytest.mark.parametrize(
    ("path", "protected"),
    [
        ("/mnt/c", True),
        ("/mnt/c/WINDOWS/win.ini", True),
        ("/mnt/c/PROGRA~1/x", True),
        ("/mnt/c/Users/me/a:b", True),
        ("/mnt/c/Users/me", False),
        ("/mnt/C/windows", False),  # no drive: Linux tells the case of /mnt/c
        ("/mnt/cd/windows", False),
        ("/mnt", False),
        ("/home/me/PROGRA~1", False),
        ("/home/me/a:b", False),
    ],
)
def test_only_drives_are_judged_by_the_rules_of_windows(path: str, *, protected: bool) -> None:
    assert windows.is_protected(PurePosixPath(path), PROTECTED_UNDER_WSL) is protected


@pytest.mark.parametrize(
    ("root", "place"),
    [
        ("/mnt", "/mnt/c"),
        ("/mnt/c/Users", "/mnt/c/Users/Me/Secret"),
        ("/mnt/c/USERS/me", "/mnt/c/Users/Me/Secret"),
        ("/mnt/c/Users/Me/Secret", None),
        ("/mnt/c/Users/Meg", None),
        ("/home", None),
    ],
)
def test_protected_place_below_a_folder_is_found_in_any_case(root: str, place: str | None) -> None:
    entries = (*PROTECTED_UNDER_WSL, Protected(PurePosixPath("/mnt/c/Users/Me/Secret"), "tree"))
    assert windows.held(PurePosixPath(root), entries) == (PurePosixPath(place) if place else None)


SPELT = st.sampled_from(["Windows", "Program Files", "Program Files (x86)"]).flatmap(
    lambda name: st.tuples(*(st.sampled_from([char.upper(), char.lower()]) for char in name)).map("".join)
)
BREAK = st.sampled_from(["\\", "/", "\\\\", "\\/"])
PREFIX = st.sampled_from(["", "\\\\?\\", "//?/", "\\\\.\\"])


WRITTEN = st.tuples(PREFIX, st.sampled_from(["C:", "c:"]), BREAK, SPELT, st.sampled_from(["", ".", " ", ". ."]))


@given(WRITTEN.map("".join), BREAK, st.text(max_size=12))
def test_no_mix_of_case_breaks_prefixes_and_trailing_dots_gets_through(folder: str, slash: str, below: str) -> None:
    assert refused(folder)
    assert refused(f"{folder}{slash}{below}")
