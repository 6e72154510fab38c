"""Nothing outside the roots is ever read or changed: random calls on random paths, and races against swapped links.

A few seconds here; ``make fuzz-tools`` makes at least 20,000 calls and races for half a minute.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.tools.base import Confinement, Tool, ToolProblem, discover, load
from tests.tools.places import SECRET, fingerprint, open_to_tools

CALLS = int(os.environ.get("AIRLAB_FUZZ_CALLS", "3000"))
RACE_S = float(os.environ.get("AIRLAB_RACE_S", "2"))
CALLS_TOGETHER, BOUND_S = 25, 60
TOOLS = {name: load(spec.entry) for name, spec in discover().items() if spec.kind != "net" and spec.paths}
HIDDEN_NAME = "only-in-the-house"


class House:
    """A root with everything round it, and in it, that leads out or must stay."""

    def __init__(self, place: Path) -> None:
        self.place, self.root = place, place / "ws"
        self.inside = open_to_tools(
            self.root, read_only=[self.root / "books"], protected=[self.root / "private", self.root / "d" / "private"]
        )

    @property
    def decoys(self) -> tuple[Path, ...]:
        """What no tool may change."""
        return (
            *(self.place / name for name in ("outside", "ws-evil", "secret.txt")),
            *(self.root / name for name in ("private", "d/private", "books")),
        )

    def build(self) -> None:
        """Make all of it anew."""
        shutil.rmtree(self.place, ignore_errors=True)
        for folder in ("outside", "ws-evil", "ws/private", "ws/d/private"):
            (self.place / folder / "deep").mkdir(parents=True)
            for name in ("secret.txt", "a.txt", f"deep/{HIDDEN_NAME}", "deep/a.txt"):
                (self.place / folder / name).write_text(SECRET)
        (self.place / "secret.txt").write_text(SECRET)
        (self.place / "outside" / "shared.txt").write_text("known on both sides")
        (self.root / "books").mkdir()
        (self.root / "books" / "a.txt").write_text("to read, not to change")
        (self.root / "d" / "e").mkdir()
        for name in ("a.txt", "d/a.txt", "d/e/b.txt"):
            (self.root / name).write_text("mine")
        (self.root / "shared.txt").hardlink_to(self.place / "outside" / "shared.txt")
        os.mkfifo(self.root / "d" / "fifo")
        for name, target in (
            *(("out", f"{self.place}/outside"), ("rel", "../outside"), ("d/up", "../../outside/deep")),
            *(("file", "../outside/secret.txt"), ("dangling", f"{self.place}/outside/new.txt"), ("self", ".")),
            *(
                ("way", "private"),
                ("d/way", "../private/deep"),
                ("shelf", "books"),
                ("top", "/"),
                ("proc", "/proc/self"),
            ),
            *(("root", "/proc/self/root"), ("loop", "loop"), ("chain", "out/deep")),
        ):
            (self.root / name).symlink_to(target)

    def seen(self) -> list[object]:
        """What of the decoys could have changed."""
        return [fingerprint(path, names_elsewhere=True) if path.is_dir() else path.read_bytes() for path in self.decoys]


NAMES = st.sampled_from(
    (
        *("a.txt", "d", "e", "b.txt", "new", "new.txt", "shared.txt", "private", "books", "secret.txt", "deep"),
        *("out", "rel", "up", "file", "dangling", "self", "way", "shelf", "top", "proc", "root", "loop", "chain"),
        *("..", ".", "", " ", "a.txt ", "d.", "outside", "fd", "environ", "fifo", "x" * 255, "x" * 256, "~", "*", "\\"),
    )
)
ODD_NAMES = st.text(max_size=8) | st.sampled_from(
    ("a\0b", "a\nb", "\udcff", "\uff0e\uff0e", "\u202etxt", "..\uff0f", "%2e%2e")
)
KNOWN = st.sampled_from(
    (
        *("a.txt", "a.txt", "d", "d/a.txt", "d/e", "d/e/b.txt", "new", "new/new.txt", "d/new.txt", "shared.txt", ""),
        *("books/a.txt", "shelf/a.txt", "self/a.txt", "out/a.txt", "rel/deep/a.txt", "d/up/a.txt", "file", "dangling"),
        *(
            "private/a.txt",
            "way/a.txt",
            "d/way/a.txt",
            "private",
            "d/private",
            "top/etc/passwd",
            "d/private/secret.txt",
        ),
    )
)


@st.composite
def paths(draw: st.DrawFn) -> str:
    """A path as a model might write it: mostly one that means something, placed by the house it is used in."""
    kind = draw(st.integers(0, 9))
    if kind < 6:
        return "{root}/" + draw(KNOWN)
    names = draw(st.lists(NAMES if kind < 9 else NAMES | ODD_NAMES, max_size=4))
    start = draw(
        st.sampled_from((*("{root}",) * 6, "{place}", "{root}-evil", "", "/", "{root}/..", "ws", "/proc/self"))
    )
    return "/".join((start, *names))


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any], bool]:
    """A tool, arguments that fit its schema, and whether it may destroy."""
    name = draw(st.sampled_from(sorted(TOOLS)))
    schema = TOOLS[name].spec.parameters
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "boolean": st.booleans(),
        "integer": st.integers(-1, 200),
        "string": st.sampled_from(("*", "*.txt", "**/*", "s*", "../*", SECRET, "secret", "e")) | st.text(max_size=5),
    }
    arguments: dict[str, Any] = {}
    for argument, about in schema["properties"].items():
        if argument in TOOLS[name].spec.paths:
            arguments[argument] = draw(paths())
        elif argument == "lines":
            arguments[argument] = draw(st.sampled_from((["by a tool"], "by a tool", [], "")) | st.text(max_size=5))
        elif argument in schema["required"] or draw(st.booleans()):
            arguments[argument] = draw(kinds[about["type"]])
    return name, arguments, draw(st.sampled_from((True, True, True, False)))


def placed(arguments: dict[str, Any], paths: tuple[str, ...], house: House) -> dict[str, Any]:
    """The arguments with their paths put into this house."""
    return {
        name: value.replace("{root}", str(house.root)).replace("{place}", str(house.place)) if name in paths else value
        for name, value in arguments.items()
    }


def outcome(tool: Tool[..., object], arguments: dict[str, Any], inside: Confinement) -> str:
    """``ok``, or the code of a no; nothing of what lies outside comes back either way."""
    code = "ok"
    try:
        said = json.dumps(tool.run(arguments, inside), ensure_ascii=False)
        assert HIDDEN_NAME not in said
    except ToolProblem as problem:
        code, said = problem.code, problem.message
        said.encode()
    assert SECRET not in said
    return code


def test_no_sequence_of_calls_reads_or_changes_anything_outside(tmp_path: Path) -> None:
    house = House(tmp_path / "house")
    seen: Counter[tuple[str, str]] = Counter()

    @settings(
        max_examples=CALLS // CALLS_TOGETHER,
        derandomize="AIRLAB_FUZZ_CALLS" not in os.environ,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls(), min_size=CALLS_TOGETHER, max_size=CALLS_TOGETHER))
    def search(sequence: list[tuple[str, dict[str, Any], bool]]) -> None:
        house.build()
        before = house.seen()
        for name, arguments, may_destroy in sequence:
            tool = TOOLS[name]
            inside = replace(house.inside, may_destroy=may_destroy)
            seen[name, outcome(tool, placed(arguments, tool.spec.paths, house), inside)] += 1
        assert house.seen() == before

    search()

    print(f"{seen.total()} calls: {sorted(seen.items())}")
    assert seen.total() >= CALLS
    done = {name for name, said in seen if said == "ok"}
    assert done == TOOLS.keys(), "a search in which a tool never gets anywhere finds nothing out about it"
    assert sum(count for (_, said), count in seen.items() if said == "denied") > CALLS // 10


ATTACKER = """
import os, sys
root, outside = sys.argv[1:]
os.chdir(root)
def attempt(step, *arguments):
    try:
        step(*arguments)
    except OSError:
        pass
print("ready", flush=True)
while True:
    for name, target in (("d", outside), ("f", outside + "/x"), ("t", outside + "/t")):
        # What the tools took away meanwhile is made again.
        attempt(os.symlink, target, name + ".link")
        if name == "f":
            attempt(lambda: os.close(os.open("f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
        else:
            attempt(os.makedirs, name + "/t/deep")
            attempt(lambda: os.close(os.open(name + "/x", os.O_CREAT | os.O_WRONLY)))
    for name in ("d", "f", "t") * 30:
        attempt(os.rename, name, name + ".real")
        attempt(os.rename, name + ".link", name)
        attempt(os.rename, name, name + ".link")
        attempt(os.rename, name + ".real", name)
"""


@contextmanager
def attacking(root: Path, outside: Path) -> Iterator[None]:
    """Somebody else in the root, who swaps folders and files for links that lead out, as fast as that goes."""
    command = [sys.executable, "-c", ATTACKER, str(root), str(outside)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:
        try:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == b"ready\n"
            yield
            assert attacker.poll() is None, "the attacker gave up"
        finally:
            attacker.kill()


def test_fault_075_links_swapped_meanwhile_lead_no_tool_out(tmp_path: Path) -> None:
    """Checking a path and then using it loses this race; what is written, moved or deleted then lies outside."""
    root, outside = tmp_path / "ws", tmp_path / "outside"
    (outside / "t" / "deep").mkdir(parents=True)
    for name in ("x", "y", "t/deep/x"):
        (outside / name).write_text(SECRET)
    root.mkdir()
    inside = open_to_tools(root)
    before = fingerprint(outside)
    attempts: tuple[tuple[str, dict[str, Any]], ...] = (
        ("write_file", {"path": "d/x", "lines": "by a tool"}),
        ("write_file", {"path": "f", "lines": "by a tool"}),
        ("write_file", {"path": "d/new", "lines": "by a tool"}),
        ("write_file", {"path": "mine", "lines": "mine"}),
        ("move_file", {"source": "mine", "dest": "d/y", "overwrite": True}),
        ("move_file", {"source": "d/x", "dest": "taken", "overwrite": True}),
        ("copy_file", {"source": "d/x", "dest": "copy", "overwrite": True}),
        ("copy_file", {"source": "copy", "dest": "d/x", "overwrite": True}),
        ("create_directory", {"path": "d/made/deep", "parents": True}),
        ("read_file", {"path": "d/x"}),
        ("find_in_files", {"path": "", "search_text": "secret"}),
        ("calculate_directory_size", {"path": "t"}),
        ("delete_file", {"path": "d/y"}),
        ("delete_file", {"path": "d/made", "recursive": True}),
        ("delete_file", {"path": "f"}),
        ("delete_file", {"path": "t", "recursive": True}),
    )
    seen: Counter[str] = Counter()
    both = {"ok", "denied"}
    begin_s = time.monotonic()
    with attacking(root, outside):
        # Until both moments were hit, on a busy machine too.
        while (took_s := time.monotonic() - begin_s) < RACE_S or (took_s < BOUND_S and not both <= seen.keys()):
            for name, arguments in attempts:
                tool = TOOLS[name]
                given = {
                    key: f"{root}/{value}" if key in tool.spec.paths else value for key, value in arguments.items()
                }
                seen[outcome(tool, given, inside)] += 1

    print(f"{seen.total()} calls in {RACE_S:.0f} s: {sorted(seen.items())}")
    assert fingerprint(outside) == before
    assert both <= seen.keys(), "the attack did not hit both moments"
    for left in root.rglob("*"):
        assert left.is_symlink() or not left.is_file() or SECRET not in left.read_text()


def test_search_would_notice_a_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is worth something: with a wall taken down, the first way out is found."""
    house = House(tmp_path / "house")
    house.build()
    monkeypatch.setattr("app.tools.worker.fs._BENEATH", 0)
    monkeypatch.setattr("app.tools.worker.fs._refuse_unless_writable", lambda *_: None)
    before = house.seen()

    outcome(TOOLS["write_file"], {"path": f"{house.root}/rel/a.txt", "lines": "x"}, house.inside)

    assert house.seen() != before
    with pytest.raises(AssertionError):
        outcome(TOOLS["read_file"], {"path": f"{house.root}/file"}, house.inside)
