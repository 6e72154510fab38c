"""What ``make test-arm64`` runs inside its machine: the self-test and the tests of the walls, as two users.

``python -m tests.arm64 TEST...``; needs root, to become somebody else, and runs on any machine.
"""

from __future__ import annotations

import compileall
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from app.tools.worker import landlock
from tests.tools.elsewhere import ROOT, as_it_is, as_ordinary_user, elsewhere

TESTS = (
    "tests/tools/worker",
    "tests/tools/test_walls.py",
    "tests/tools/test_private_names.py",
    "tests/tools/test_declared.py",
    "tests/tools/test_files.py",
)
_ANOTHER_USER = "tests/tools/test_walls.py::test_tools_run_for_an_ordinary_user_too"
"""Left out: what it does is done here, and it gives it less time than an emulator may take."""
_LIMIT_S = 1600


def main(tests: Sequence[str]) -> int:
    """Zero when every wall holds and every test passes, for root and for somebody without rights."""
    begin_s = time.monotonic()
    lsm = Path("/sys/kernel/security/lsm").read_text()
    print(f"{platform.release()} {platform.machine()}, Landlock {landlock.version()}, lsm={lsm}", flush=True)
    # Workers compile nothing, and are given up when they take too long.
    compileall.compile_dir(ROOT / "app" / "tools", quiet=2)
    failed = [_failed(tests, ordinary=ordinary) for ordinary in (False, True)]
    print(f"both users: {time.monotonic() - begin_s:.0f} s", flush=True)
    return int(any(failed))


def _failed(tests: Sequence[str], *, ordinary: bool) -> bool:
    said = elsewhere("walls", ordinary=ordinary)
    print(f"user {said['user']}: self-test (None where the wall holds): {said['enforced']}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        pytest_itself = [sys.executable, "-m", "pytest", "-v", "--color=no", "-p", "no:cacheprovider"]
        command = [*pytest_itself, "--deselect", _ANOTHER_USER, "--basetemp", f"{folder}/t", *tests]
        with as_ordinary_user(command) if ordinary else as_it_is(command) as wrapped:
            done = subprocess.run(wrapped, cwd=ROOT, check=False, timeout=_LIMIT_S)
    return done.returncode != 0 or any(said["enforced"].values()) or (said["user"] == 0) == ordinary


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or TESTS))
