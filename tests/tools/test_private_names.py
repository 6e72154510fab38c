"""What has a private name is closed by the kernel to programs and functions that nobody can ask to leave it alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from app.policy.rules import Root
from app.tools.base import Protected, ToolSpec
from app.tools.private_names import private_name
from app.tools.worker import private
from app.tools.worker.kernel import Unfit
from tests.support.declared import declared, takes
from tests.support.gate import House
from tests.tools.places import fingerprint

SECRETS = (
    "repo/.git/config",
    "repo/.git/hooks/post-commit",
    "repo/.ssh/id",
    "deep/er/.env",
    "deep/.env.local",
    ".envrc",
)
OPEN = ("repo/README.md", "deep/er/notes.txt", "top.txt")
WALKER = """
import os
def walk(path):
    found = {}
    for folder, _, names in os.walk(path, followlinks=True):
        for name in names:
            try:
                with open(os.path.join(folder, name)) as file:
                    found[os.path.join(folder, name)] = file.read()
            except OSError as exc:
                found[os.path.join(folder, name)] = exc.strerror
    return found
"""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    for name in (*SECRETS, *OPEN):
        (tmp_path / "ws" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ws" / name).write_text(f"in {name}")
    (tmp_path / "ws" / "way").symlink_to("repo")
    (tmp_path / "ws" / "plain").symlink_to("deep/er/.env")
    house = House(tmp_path / "ws", access="write")
    yield house
    await house.close()


async def call(house: House, spec: ToolSpec, **arguments: Any) -> tuple[str, dict[str, Any]]:
    house.policy = replace(house.policy, tools={**house.policy.tools, spec.name: spec})
    result, said = await house.call("it", arguments, approvals=house.person(grant=True))
    return result.status, said


def shell(script: str, **more: Any) -> ToolSpec:
    programs = ["cat", "find", "mv", "rm", "ls"]
    return declared("command", argv=["sh", "-c", script], starts=programs, **more)


async def test_program_that_walks_a_root_reads_nothing_private(house: House) -> None:
    """By whatever way: as a path, through a link, put together in the program, from the folder that it is in."""
    script = (
        f"find {house.root} -type f -exec cat '{{{{}}}}' +; cat way/.ssh/id plain; "
        "cd deep/er; f=.en; cat ${{f}}v ./../.env.local; cat ../../repo/.git/con*"
    )
    status, said = await call(house, shell(script))

    assert status == "ok"
    assert not [name for name in SECRETS if f"in {name}" in said["output"]], said
    assert [name for name in OPEN if f"in {name}" in said["output"]] == list(OPEN), said


async def test_function_that_walks_a_root_reads_nothing_private(house: House) -> None:
    spec = declared("python", entry="walk:walk", read=lambda _: WALKER, parameters=takes("path"), paths=["path"])
    status, said = await call(house, spec, path=str(house.root))

    found = dict(said["content"])
    assert status == "ok"
    assert not [path for path, text in found.items() if any(text == f"in {name}" for name in SECRETS)], found
    assert [name for name in OPEN if found[f"{house.root}/{name}"] == f"in {name}"] == list(OPEN)


async def test_beside_what_policy_protects_nothing_is_listed(house: House) -> None:
    """Private files may be seen by their names, since every repository has some; protected ones are not seen at all."""
    house.policy = replace(house.policy, protected=(Protected(PurePosixPath(house.root / "deep" / "er"), "tree"),))
    status, said = await call(house, shell("ls; ls deep; ls repo; cat top.txt"))

    assert (status, said["output"]) == ("ok", "README.md\nin top.txt")


async def test_program_that_may_change_files_leaves_private_ones_alone(house: House) -> None:
    """Not by their names, not by the names of the folders that hold them, and not after a yes to something else."""
    before = fingerprint(house.root / "repo"), fingerprint(house.root / "deep")
    script = (
        "echo x > repo/.git/config; echo x > repo/.git/hooks/new; echo x > way/.ssh/id; mv repo moved; "
        "mv repo/.git repo/git; mv deep/er/.env deep/er/env; rm -rf repo/.ssh deep/er/.env .envrc; "
        "echo x > deep/er/.env"
    )
    spec = shell(script + "; : {path}", parameters=takes("path"), changes=["path"])

    await call(house, spec, path=str(house.root))

    assert (fingerprint(house.root / "repo"), fingerprint(house.root / "deep")) == before
    assert (house.root / ".envrc").read_text() == "in .envrc"


async def test_yes_to_one_path_changes_no_other(house: House) -> None:
    (house.root / "out").mkdir()
    script = f"echo new > out/new.txt; echo new > {house.root}/top.txt; rm -f top.txt deep/er/notes.txt; : {{path}}"
    spec = shell(script, parameters=takes("path"), changes=["path"])

    for path in (f"{house.root}/out", f"{house.root}/out/new.txt"):
        status, _ = await call(house, spec, path=path)

        assert status == "ok"
        assert (house.root / "out" / "new.txt").read_text() == "new\n"
        assert [(house.root / name).read_text() for name in OPEN] == [f"in {name}" for name in OPEN]
        (house.root / "out" / "new.txt").unlink()


async def test_yes_to_a_call_that_names_no_path_changes_none(house: House) -> None:
    """A path that a model may leave out: what was allowed then is a call that names nothing to change."""
    (house.root / "out").mkdir()
    (house.root / "out" / "old.txt").write_text("old")
    script = "echo new > out/new.txt; echo new > out/old.txt; rm -f out/old.txt"
    spec = shell(script, parameters=takes(path={"type": "string"}), changes=["path"])

    status, _ = await call(house, spec)

    assert status == "ok"
    assert [(path.name, path.read_text()) for path in (house.root / "out").iterdir()] == [("old.txt", "old")]


async def test_what_becomes_private_while_workers_wait_is_closed_to_the_next_call(house: House) -> None:
    spec = shell("cat deep/er/late/.env; cat deep/er/notes.txt")
    assert "in deep/er/notes.txt" in (await call(house, spec))[1]["output"]
    await house.toolbox.ready()
    (house.root / "deep/er/late").mkdir()
    (house.root / "deep/er/late/.env").write_text("late secret")

    status, said = await call(house, spec)

    assert (status, said["output"]) == ("ok", "in deep/er/notes.txt")


async def test_private_name_in_a_root_to_read_below_one_to_write_is_closed(house: House) -> None:
    house.policy = replace(house.policy, roots=(*house.policy.roots, Root(PurePosixPath(house.root / "repo"), "read")))
    status, said = await call(house, shell("cat repo/.ssh/id; cat repo/README.md"))

    assert (status, said["output"]) == ("ok", "in repo/README.md")


def test_root_with_too_much_in_it_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "MOST_SEEN", 3)
    for number in range(4):
        (tmp_path / str(number)).touch()

    with pytest.raises(Unfit, match="choose a smaller root"):
        list(private.private_below(str(tmp_path), lambda _: None, changes=False))


@pytest.mark.parametrize(
    ("name", "reads", "changes"),
    [
        ("a/.env", ".env", ".env"),
        ("a/.ENV", ".env", ".env"),
        ("a/.env.production/x", ".env.production", ".env.production"),
        ("a/.envrc", ".envrc", ".envrc"),
        ("a/.environment", None, None),
        ("a/.git/modules/b/config", ".git/modules", ".git/modules"),
        ("a/.git/HEAD", None, ".git"),
        ("a/.config", None, ".config"),
        ("a/.config/fish/config.fish", ".config/fish", ".config/fish"),
        ("a/.config/other", None, None),
        ("git/config", None, None),
    ],
)
def test_private_names_are_known_by_their_parts(name: str, reads: str | None, changes: str | None) -> None:
    """A folder may not be renamed where that would give what is private in it another name."""
    path = PurePosixPath("/ws") / name

    assert (private_name(path), private_name(path, changes=True)) == (reads, changes)
