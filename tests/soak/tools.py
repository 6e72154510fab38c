"""Two long looks at the tools' workers: ``python -m tests.soak.tools [SECONDS [CALLS]]``, 30 s and 1,000 calls.

First a folder and a link that leads out of the root are swapped without a pause, from outside, while workers read and,
by whatever ``attack`` is given, write through them: nothing of the other side may be read or changed. Then calls follow
each other, and descriptors, processes and memory stay as they were. Exits 1 where something leaked.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.tasks import all_ended
from app.tools.base import Confinement, WorkerKind
from app.tools.toolbox import Toolbox
from tests.soak.ending import end_when_told
from tests.tools.shed import BOUND_S, CANARIES, SPECS, run, toolbox_noting, within, zygotes_of

READS_A_CALL = 500
WARM_UP_CALLS = 20
_GROWN_BYTES = 4 * 1024**2

Attack = Callable[[Toolbox, Confinement, Path], Awaitable[Counter[str]]]
"""Goes once through ``<root>/d/x`` by tools, and counts what came of it by name."""


@contextmanager
def swapping(root: Path) -> Iterator[None]:
    """``d`` is a folder of the root one moment and a link out of it the next, as fast as one thread can."""
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            (root / "d").rename(root / "d1")
            (root / "link").rename(root / "d")
            (root / "d").rename(root / "link")
            (root / "d1").rename(root / "d")

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        yield
    finally:
        over.set()
        attacker.join()


async def read_through(toolbox: Toolbox, inside: Confinement, root: Path) -> Counter[str]:
    """Read the file again and again in one worker."""
    said = await run(toolbox, CANARIES["read_many"], inside, path=f"{root}/d/x", times=READS_A_CALL)
    assert isinstance(said, dict)
    return Counter(said)


async def race(seconds: float, kind: WorkerKind = "fs_read", attack: Attack = read_through) -> Counter[str]:
    """Attack for so long.

    Returns:
        How often each thing came of it. ``leaked`` is the text of the file outside; ``decoys changed`` counts files
        outside that are not what they were.
    """
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root, outside = Path(folder, "ws"), Path(folder, "outside")
        await asyncio.to_thread(_lay_out, root, outside)
        before = await asyncio.to_thread(_prints, outside)
        async with toolbox_noting(lambda fact: None, warm=2) as toolbox:
            await toolbox.check()
            end_s = time.monotonic() + seconds
            with swapping(root):
                while time.monotonic() < end_s:
                    seen += await attack(toolbox, within(kind, root), root)
        after = await asyncio.to_thread(_prints, outside)
    seen["decoys changed"] = len({*before.items()} ^ {*after.items()})
    return +seen


def _lay_out(root: Path, outside: Path) -> None:
    for folder, text in ((root / "d", "harmless"), (outside, "leaked")):
        folder.mkdir(parents=True)
        (folder / "x").write_text(text)
    for number in range(20):
        (outside / f"decoy-{number}").write_text(f"leaked {number}")
    (root / "link").symlink_to(outside)


def _prints(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@dataclass
class Load:
    """What calls cost, and what they left."""

    took_ms: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    """Of the service and the zygote, before and after."""
    processes: list[int] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)

    def troubles(self) -> Iterator[str]:
        """What grew, in words."""
        for name, (before, after) in (("descriptors", self.descriptors), ("processes", self.processes)):
            if after != before:
                yield f"{name}: {before} before, {after} after"
        before, after = self.resident_bytes
        if after - before > _GROWN_BYTES:
            yield f"memory grew by {(after - before) / 1024**2:.1f} MiB"

    def __str__(self) -> str:
        cuts = statistics.quantiles(self.took_ms, n=100)
        return f"{len(self.took_ms)} calls: p50 {cuts[49]:.2f}, p95 {cuts[94]:.2f}, p99 {cuts[98]:.2f} ms"


async def load(calls: int) -> Load:
    """Make calls one after the other, every tenth of them one that dies or is ended."""
    found, others = Load(), {*psutil.Process().children()}
    with tempfile.TemporaryDirectory() as folder:
        inside = within("fs_read", folder)
        async with toolbox_noting(lambda fact: None, warm=2) as toolbox:
            toolbox.keep([inside])
            for number in range(WARM_UP_CALLS + calls):
                if number == WARM_UP_CALLS:
                    await _measure(toolbox, found, others)
                begin_s = time.perf_counter()
                await run(toolbox, SPECS["get_current_directory"], inside)
                if number >= WARM_UP_CALLS:
                    found.took_ms.append((time.perf_counter() - begin_s) * 1000)
                if number % 10 == 0:
                    await asyncio.gather(run(toolbox, CANARIES["crash"], inside), return_exceptions=True)
            await _measure(toolbox, found, others)
    return found


async def _measure(toolbox: Toolbox, found: Load, others: Collection[psutil.Process]) -> None:
    """Once nothing is in the middle of beginning or ending; without ``others``, which tests before this one share."""
    async with asyncio.timeout(BOUND_S):
        await all_ended(toolbox._ending)
        await toolbox.ready()
        [zygote] = zygotes_of(os.getpid())
        # A worker that ended is buried a moment later.
        while len(zygote.children()) != toolbox._size:  # noqa: ASYNC110 # the zygote tells nobody
            await asyncio.sleep(0.005)
    gc.collect()
    both = (psutil.Process(), zygote)
    found.descriptors.append(sum(process.num_fds() for process in both))
    ours = [child for child in psutil.Process().children() if child not in others]
    found.processes.append(len(ours) + sum(len(child.children(recursive=True)) for child in ours))
    found.resident_bytes.append(sum(process.memory_info().rss for process in both))


def main() -> int:
    """Both, in full."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30
    calls = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    seen = asyncio.run(race(seconds))
    print(f"race of {seconds:g} s: {dict(seen)}")
    found = asyncio.run(load(calls))
    print(found)
    troubles = [*found.troubles(), *(f"{name}: {seen[name]}" for name in ("leaked", "decoys changed") if seen[name])]
    print("\n".join(troubles) or "nothing leaked, nothing grew")
    return 1 if troubles else 0


if __name__ == "__main__":
    end_when_told()
    sys.exit(main())
