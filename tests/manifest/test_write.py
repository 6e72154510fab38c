"""The manifest's file under an edit: the old one or the new one, nobody's change lost, and nothing left beside it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.errors import (
    AirLabError,
    ManifestBusyError,
    ManifestReadOnlyError,
    ManifestRefusedError,
    SettingsError,
    StorageError,
    StorageFullError,
)
from app.manifest.changes import add_model
from app.manifest.edit import set_value
from app.manifest.load import Loaded, read_manifest
from app.manifest.problems import ManifestProblems
from app.manifest.write import rewrite
from tests.support.service import BOUND_S, ROOT

TEXT = "version: 1\r\ndefault_model: a  # é\r\nmodels:\r\n  a: {filename: a.gguf}\r\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "airlab.yaml"
    file.write_bytes(TEXT.encode())
    return file


def fine(_loaded: Loaded) -> None:
    """No objection."""


def adding(key: str) -> Callable[[Loaded], str]:
    return lambda loaded: add_model(loaded, key, {"filename": f"{key}.gguf"})


def keys(file: Path) -> list[str]:
    return list(read_manifest(file).manifest.models)


def alone(file: Path) -> bool:
    """Whether nothing was left beside the file."""
    return [path.name for path in file.parent.iterdir()] == [file.name]


def test_edit_is_written_and_what_is_there_now_comes_back(file: Path) -> None:
    after = rewrite(file, adding("b"), check=fine)

    assert after.digest == read_manifest(file).digest
    assert file.read_bytes() == TEXT.encode() + b"  b:\r\n    filename: b.gguf\r\n"
    assert alone(file)


def test_permissions_and_byte_order_mark_stay(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    file.chmod(0o640)
    rewrite(file, adding("b"), check=fine)

    assert file.read_bytes().startswith(b"\xef\xbb\xbfversion")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owner_stays(file: Path) -> None:
    os.chown(file, 12345, 23456)
    rewrite(file, adding("b"), check=fine)

    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 23456)


def test_link_stays_and_what_it_leads_to_is_replaced(file: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "one.yaml").symlink_to("../airlab.yaml")
    (tmp_path / "etc" / "two.yaml").symlink_to("one.yaml")
    rewrite(tmp_path / "etc" / "two.yaml", adding("b"), check=fine)

    assert (tmp_path / "etc" / "two.yaml").readlink() == Path("one.yaml")
    assert (tmp_path / "etc" / "one.yaml").readlink() == Path("../airlab.yaml")
    assert keys(file) == ["a", "b"]
    assert len(list((tmp_path / "etc").iterdir())) == 2


def test_edit_that_changes_nothing_writes_nothing(file: Path) -> None:
    before = file.stat()
    rewrite(file, lambda loaded: loaded.text, check=fine)

    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_result_with_problems_is_refused_with_its_lines_and_not_written(file: Path) -> None:
    with pytest.raises(ManifestRefusedError) as caught:
        rewrite(file, lambda loaded: set_value(loaded, ("default_model",), "gone"), check=fine)

    assert "nothing was written" in caught.value.message
    assert f"{file}:2:16: default_model: no model has the key 'gone'" in caught.value.message
    assert isinstance(caught.value.__cause__, ManifestProblems)
    assert file.read_bytes() == TEXT.encode()
    assert alone(file)


def test_result_that_cannot_come_into_force_here_is_refused(file: Path) -> None:
    def check(loaded: Loaded) -> None:
        raise SettingsError(f"no profile for {', '.join(loaded.manifest.models)}")

    with pytest.raises(ManifestRefusedError, match="no profile for a, b"):
        rewrite(file, adding("b"), check=check)
    assert file.read_bytes() == TEXT.encode()


def test_file_that_has_problems_already_is_left_to_its_owner(file: Path) -> None:
    file.write_text("version: 2\n")
    with pytest.raises(ManifestProblems, match="version"):
        rewrite(file, adding("b"), check=fine)
    file.unlink()
    for missing in (file, file.parent / "nowhere" / "airlab.yaml"):
        with pytest.raises(ManifestProblems, match="does not exist"):
            rewrite(missing, adding("b"), check=fine)


def test_edits_at_the_same_time_are_all_kept(file: Path) -> None:
    """Each reads what the one before it wrote: without the lock, the last one would win."""
    together, failures = threading.Barrier(8), []

    def edit(key: str) -> None:
        together.wait(BOUND_S)
        try:
            rewrite(file, adding(key), check=fine, wait_s=BOUND_S)  # a disk that others use takes its time
        except AirLabError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=edit, args=(f"b{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND_S)

    assert failures == []
    assert sorted(keys(file)) == ["a", *(f"b{number}" for number in range(8))]
    assert alone(file)


def test_editor_that_is_kept_waiting_for_too_long_says_so(file: Path) -> None:
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(ManifestBusyError, match="somebody else has been editing the manifest"):
            rewrite(file, adding("b"), check=fine, wait_s=0)
    finally:
        os.close(folder)
    rewrite(file, adding("b"), check=fine, wait_s=0)


@pytest.mark.parametrize("in_place", [True, False])
def test_change_by_another_program_while_an_edit_is_made_is_not_lost(file: Path, in_place: bool) -> None:
    """An editor in a window knows nothing of the lock."""
    theirs = [TEXT.replace("# é", "# theirs").encode()]

    def check(_loaded: Loaded) -> None:
        if theirs:
            draft = file if in_place else file.with_suffix(".swp")
            draft.write_bytes(theirs.pop())
            draft.replace(file)

    rewrite(file, adding("b"), check=check)

    assert b"# theirs" in file.read_bytes()
    assert keys(file) == ["a", "b"]
    assert alone(file)


def test_file_that_changes_all_the_time_is_left_as_it_is(file: Path) -> None:
    writes: list[bytes] = []

    def check(_loaded: Loaded) -> None:
        writes.append(TEXT.replace("# é", f"# {len(writes)}").encode())
        file.write_bytes(writes[-1])

    with pytest.raises(ManifestBusyError, match="changes all the time"):
        rewrite(file, adding("b"), check=check)
    assert file.read_bytes() == writes[-1]
    assert alone(file)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StorageFullError),
        (errno.EDQUOT, StorageFullError),
        (errno.EIO, StorageError),
        (errno.EROFS, ManifestReadOnlyError),
    ],
)
def test_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[AirLabError]
) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(error, match=str(file)):
        rewrite(file, adding("b"), check=fine)

    assert file.read_bytes() == TEXT.encode()
    assert alone(file)


@contextmanager
def nobody() -> Iterator[Path]:
    """A folder that an ordinary user can reach, as that user: root may write everywhere."""
    folder = Path(tempfile.mkdtemp(prefix="airlab-test-"))
    try:
        (folder / "airlab.yaml").write_bytes(TEXT.encode())
        folder.chmod(0o777)
        (folder / "airlab.yaml").chmod(0o666)
        yield folder
    finally:
        os.seteuid(os.getuid())
        folder.chmod(0o777)
        shutil.rmtree(folder)


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o555, 0o666), (0o777, 0o444)])
def test_folder_or_file_without_write_permission_is_read_only(folder_mode: int, file_mode: int) -> None:
    """A folder that may be written would let a file be replaced that was made read-only on purpose."""
    with nobody() as folder:
        file = folder / "airlab.yaml"
        file.chmod(file_mode)
        folder.chmod(folder_mode)
        if os.getuid() == 0:
            os.seteuid(65534)
        with pytest.raises(ManifestReadOnlyError, match="must be writable for the user that this runs as"):
            rewrite(file, adding("b"), check=fine)
        assert file.read_bytes() == TEXT.encode()
        assert alone(file)


MOUNTS = {
    "read-only": ("mount --bind . . && mount -o remount,ro,bind . ", "Read-only file system"),
    "single file": ("mount --bind airlab.yaml airlab.yaml", "mounted as a single file. Mount its folder instead"),
    "full": (
        "mount -t tmpfs -o size=64k tmpfs full && cp airlab.yaml full && cd full && "
        "{ dd if=/dev/zero of=rest bs=4k 2>/dev/null || true; }",
        "No space left on device",
    ),
}


@pytest.mark.parametrize("kind", MOUNTS)
def test_mount_that_does_not_take_the_edit_is_told_with_what_to_do(file: Path, kind: str) -> None:
    """As containers have them; in a mount namespace of its own, which ends with its process."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine lets nobody make mount namespaces")
    mount, words = MOUNTS[kind]
    (file.parent / "full").mkdir()
    script = f'set -e; {mount}; "$0" -m app models add b --filename b.gguf || echo "exit $?"; cat airlab.yaml; ls -A'
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "AIRLAB_MANIFEST": "airlab.yaml"}
    done = subprocess.run(
        [*unshare, "sh", "-c", script, sys.executable],
        cwd=file.parent,
        env=environment,
        capture_output=True,
        timeout=BOUND_S,
        check=False,
    )

    assert words in done.stderr.decode(), done
    assert done.stdout.startswith(b"exit 1\n" + TEXT.encode()), done
    assert b"tmp" not in done.stdout, done
    assert file.read_bytes() == TEXT.encode()
