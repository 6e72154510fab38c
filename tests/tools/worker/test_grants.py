"""What a worker can really do below its roots, and beside what is protected there: the kernel's rules, not ours."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath

import pytest

from app.tools.base import Confinement, Protected
from app.tools.toolbox import Toolbox
from app.tools.walls import KINDS
from app.tools.worker import grants
from tests.tools.shed import CANARIES, attempt, code_of, within


@pytest.fixture(autouse=True)
async def walls_were_tried(toolbox: Toolbox) -> None:
    """Other tests do that; here it would only take time."""
    toolbox._walls = dict.fromkeys(KINDS)
    toolbox._trying = asyncio.create_task(asyncio.sleep(0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with folders two deep, and a folder beside it."""
    for name in ("ws/a/deep/ok.txt", "ws/a/ok.txt", "ws/secrets/key.txt", "ws/b/ok.txt", "ws/top.txt", "beside/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "ws"


def writing(root: Path, *protected: Protected, read: tuple[Path, ...] = ()) -> Confinement:
    return Confinement("fs_write", tuple(map(PurePosixPath, read)), (PurePosixPath(root),), protected)


def move_away(root: Path) -> None:
    root.rename(root.with_name("old"))


def make_anew(root: Path) -> None:
    root.mkdir()
    (root / "top.txt").write_text("new")


def make_link(root: Path, to: Path) -> None:
    root.symlink_to(to)


def tree(path: Path) -> Protected:
    return Protected(PurePosixPath(path), "tree")


async def test_writable_root_can_be_changed_and_nothing_beside_it(toolbox: Toolbox, root: Path) -> None:
    inside = writing(root)
    for action, path in (("write", "a/new.txt"), ("rename", "a/new.txt"), ("make folder", "c"), ("remove folder", "c")):
        assert await attempt(toolbox, inside, action, root / path) == "done"
    assert await attempt(toolbox, inside, "delete", root / "a/new.txt-renamed") == "done"
    assert await attempt(toolbox, inside, "move up", root / "a/deep/ok.txt") == "done"
    assert await attempt(toolbox, inside, "move up", root / "top.txt") == "EACCES"
    for action in ("read", "write", "delete", "rename"):
        assert await attempt(toolbox, inside, action, root.parent / "beside/x.txt") == "EACCES"
    assert await attempt(toolbox, inside, "list", root.parent) == "EACCES"
    assert (root.parent / "beside/x.txt").read_text() == "beside/x.txt"


async def test_reading_worker_changes_nothing_even_below_a_writable_root(toolbox: Toolbox, root: Path) -> None:
    """The kind of the worker decides, whatever policy grants to others."""
    inside = Confinement("fs_read", write=(PurePosixPath(root),))
    assert await attempt(toolbox, inside, "read", root / "top.txt") == "done"
    for action in ("write", "delete", "rename"):
        assert await attempt(toolbox, inside, action, root / "top.txt") in {"EACCES", "EPERM"}
    assert (root / "top.txt").read_text() == "ws/top.txt"


async def test_fault_080_protected_folder_is_closed_and_what_lies_beside_it_is_not(
    toolbox: Toolbox, root: Path
) -> None:
    inside = writing(root, tree(root / "secrets"))
    for action in ("read", "write", "delete", "rename"):
        assert await attempt(toolbox, inside, action, root / "secrets/key.txt") == "EACCES"
    for action in ("list", "rename", "remove folder"):
        assert await attempt(toolbox, inside, action, root / "secrets") == "EACCES"
    assert await attempt(toolbox, inside, "write", root / "a/new.txt") == "done"
    assert await attempt(toolbox, inside, "write", root / "top.txt") == "done"
    assert await attempt(toolbox, inside, "list", root / "b") == "done"
    # The price: where a protected thing is, nothing is made, and the root as a whole is not listed.
    assert await attempt(toolbox, inside, "write", root / "new.txt") == "EACCES"
    assert (root / "secrets/key.txt").read_text() == "ws/secrets/key.txt"


async def test_protection_deep_below_closes_only_the_way_to_it(toolbox: Toolbox, root: Path) -> None:
    inside = writing(root, tree(root / "a" / "deep"))
    assert await attempt(toolbox, inside, "read", root / "a/deep/ok.txt") == "EACCES"
    assert await attempt(toolbox, inside, "read", root / "a/ok.txt") == "done"
    assert await attempt(toolbox, inside, "write", root / "b/new.txt") == "done"
    assert await attempt(toolbox, inside, "write", root / "a/new.txt") == "EACCES"


async def test_exactly_protected_place_is_closed_and_what_is_below_it_is_not(toolbox: Toolbox, root: Path) -> None:
    inside = writing(root, Protected(PurePosixPath(root / "a"), "exact"))
    assert await attempt(toolbox, inside, "list", root / "a") == "EACCES"
    assert await attempt(toolbox, inside, "rename", root / "a") == "EACCES"
    assert await attempt(toolbox, inside, "read", root / "a/deep/ok.txt") == "done"
    assert await attempt(toolbox, inside, "write", root / "a/deep/new.txt") == "done"


async def test_what_is_protected_and_not_there_yet_cannot_be_made(toolbox: Toolbox, root: Path) -> None:
    inside = writing(root, tree(root / "b" / "later"))
    assert await attempt(toolbox, inside, "make folder", root / "b/later") == "EACCES"
    assert await attempt(toolbox, inside, "read", root / "b/ok.txt") == "done"


async def test_protection_holds_by_whatever_name_it_is_written(toolbox: Toolbox, root: Path) -> None:
    """A link to what is meant, or a link on the way to it, protects what it leads to."""
    (root.parent / "same").symlink_to(root)
    (root / "alias").symlink_to("secrets")
    for way in (root.parent / "same" / "secrets", root / "alias"):
        inside = writing(root, tree(way))
        assert await attempt(toolbox, inside, "read", root / "secrets/key.txt") == "EACCES"
        assert await attempt(toolbox, inside, "read", root / "a/ok.txt") == "done"


async def test_protection_above_a_root_closes_it(toolbox: Toolbox, root: Path) -> None:
    assert await attempt(toolbox, writing(root, tree(root.parent)), "read", root / "top.txt") == "EACCES"


async def test_root_for_reading_below_one_for_writing_stays_for_reading(toolbox: Toolbox, root: Path) -> None:
    inside = writing(root, read=(root / "a",))
    assert await attempt(toolbox, inside, "read", root / "a/ok.txt") == "done"
    assert await attempt(toolbox, inside, "list", root / "a") == "done"
    for action in ("write", "delete", "rename"):
        assert await attempt(toolbox, inside, action, root / "a/ok.txt") == "EACCES"
    assert await attempt(toolbox, inside, "write", root / "b/new.txt") == "done"


async def test_link_and_what_is_no_file_get_no_rule_of_their_own(toolbox: Toolbox, root: Path) -> None:
    """Beside a protected thing each entry has its own rule; one on a link would open what it leads to."""
    (root / "out").symlink_to(root.parent / "beside")
    (root / "out.txt").symlink_to(root.parent / "beside/x.txt")
    inside = writing(root, tree(root / "secrets"))
    assert await attempt(toolbox, inside, "read", root / "out/x.txt") == "EACCES"
    assert await attempt(toolbox, inside, "read", root / "out.txt") == "EACCES"


async def test_root_that_was_replaced_while_workers_waited_is_seen_by_the_next_call(
    toolbox: Toolbox, root: Path
) -> None:
    """Rules point to the folder that was there: without a second look, a prewarmed worker would see an empty world."""
    inside = within("fs_read", root)
    toolbox.keep([inside])
    await toolbox.ready()
    move_away(root)
    assert await attempt(toolbox, inside, "read", root / "top.txt") == "ENOENT"
    make_anew(root)

    assert await attempt(toolbox, inside, "read", root / "top.txt") == "done"
    assert await attempt(toolbox, inside, "read", root.with_name("old") / "top.txt") == "EACCES"


async def test_root_that_became_a_link_opens_nothing(toolbox: Toolbox, root: Path) -> None:
    inside = within("fs_read", root)
    move_away(root)
    make_link(root, root.parent / "beside")

    assert await attempt(toolbox, inside, "read", root / "x.txt") == "EACCES"


async def test_what_appears_beside_something_protected_is_open_to_the_next_call(toolbox: Toolbox, root: Path) -> None:
    inside = writing(root, tree(root / "secrets"))
    toolbox.keep([inside])
    await toolbox.ready()
    (root / "new.txt").write_text("by the user")

    assert await attempt(toolbox, inside, "read", root / "new.txt") == "done"


async def test_root_that_is_not_there_opens_nothing_and_harms_nothing(toolbox: Toolbox, root: Path) -> None:
    both = Confinement("fs_read", read=(PurePosixPath(root / "none"), PurePosixPath(root)))

    assert await attempt(toolbox, both, "read", root / "top.txt") == "done"


async def test_more_entries_than_rules_are_refused_with_what_to_do(toolbox: Toolbox, root: Path) -> None:
    """Silently leaving some out would be read as files that are not there."""
    for number in range(grants.MOST_RULES):
        (root / str(number)).touch()
    inside = writing(root, tree(root / "secrets"))

    assert await code_of(toolbox, CANARIES["attempt"], inside, action="read", path="x") == "tools_unavailable"
    assert "move what is protected, or the root, elsewhere" in (toolbox.why_not(inside) or "")
