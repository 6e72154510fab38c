"""Changes what lies below the writable roots: writes, renames, removes, each on a Place and whole or not at all.

Overwrites nothing unless it is told to, and then regular files only. What it makes has no special rights: no set-id
bits, no group's or other's right to write beyond what the replaced file gave.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from app.tools.base import Confinement, ToolProblem
from app.tools.worker import calls, fs
from app.tools.worker.text import size_in_words
from app.tools.worker.walk import Walk

FILE_MODE, FOLDER_MODE = 0o644, 0o755
"""What new files and folders get, less what the umask takes."""

_ADVICE = {
    errno.ENOENT: ("not_found", "{path} is not there any more. Look at what there is with list_contents."),
    errno.EEXIST: ("exists", "There is something at {path} already. Choose another name."),
    errno.ENOTEMPTY: ("not_empty", "The folder {path} is not empty. Set recursive to true, or empty it first."),
    errno.EISDIR: ("not_regular_file", "{path} is a folder. Choose the name of a file."),
    errno.ENOTDIR: ("not_a_folder", "{path} is not a folder."),
    errno.EACCES: ("denied", "The system does not let AirLab change {path}. Choose another place."),
    errno.EPERM: ("denied", "The system does not let AirLab change {path}. Choose another place."),
    errno.EBUSY: ("denied", "{path} is in use by the system, for example as a mount point. Choose something else."),
    errno.EROFS: ("read_only", "{path} lies on a file system that cannot be written to. Choose another place."),
    errno.ENOSPC: ("no_space", "There is no room left for {path}. Write less, or ask the user to make room."),
    errno.EDQUOT: ("no_space", "There is no room left for {path}. Write less, or ask the user to make room."),
    errno.EFBIG: ("too_large", "{path} would become too large. Write less."),
    errno.EXDEV: (
        "other_file_system",
        "{path} lies on another file system. Use copy_file, then delete_file for a file that is not needed any more.",
    ),
    errno.ELOOP: ("busy", "Links on the way to {path} are being changed. Try once more."),
    errno.EAGAIN: ("busy", "Folders on the way to {path} are being renamed. Try once more."),
    errno.EINVAL: ("not_possible", "{path} cannot be put there: a folder does not fit into itself."),
    errno.ENAMETOOLONG: ("invalid_path", "{path} is too long for its file system. Use shorter names."),
}


@contextmanager
def answering(path: str) -> Iterator[None]:
    """Make of what the system says no to an answer to the model.

    Raises:
        ToolProblem: In place of an OSError.
    """
    try:
        yield
    except OSError as exc:
        code, advice = _ADVICE.get(exc.errno or 0, ("failed", "{path} cannot be changed: " + str(exc.strerror)))
        raise ToolProblem(code, advice.format(path=path)) from exc


def existing_file(inside: Confinement, place: fs.Place, path: str) -> os.stat_result | None:
    """The regular file at ``place`` that is to be overwritten, which is allowed; None when nothing is there.

    Raises:
        ToolProblem: ``needs_permission`` to overwrite it; or there is what is never overwritten.
    """
    there = place.look()
    if there is None:
        return None
    if stat.S_ISDIR(there.st_mode):
        raise ToolProblem("not_regular_file", f"{path} is a folder, which is not overwritten. Choose another name.")
    if not stat.S_ISREG(there.st_mode):
        raise ToolProblem("not_regular_file", f"{path} is a link or no regular file. Choose another name.")
    if not inside.may_destroy:
        size = size_in_words(there.st_size)
        raise ToolProblem("needs_permission", f"{path} exists ({size}) and would be overwritten. Choose another name.")
    return there


def write(place: fs.Place, content: bytes, *, mode: int, overwrite: bool) -> None:
    """Put a file at ``place``: with all its content, or not at all.

    Args:
        place: Where.
        content: What.
        mode: Its permissions; the umask takes from them.
        overwrite: Whether a regular file there is replaced.

    Raises:
        OSError: Nothing was changed; EEXIST: something is there.
    """
    new = fs.Place(place.folder, f".airlab-{os.urandom(8).hex()}.tmp", place.path.parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new.name, flags, mode, dir_fd=new.folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        rename(new, place, overwrite=overwrite)
    except BaseException:
        # The first failure is the one to tell of.
        with suppress(OSError):
            os.unlink(new.name, dir_fd=new.folder)
        raise


def rename(source: fs.Place, dest: fs.Place, *, overwrite: bool) -> None:
    """Rename a file or folder; ``overwrite`` puts a file in the place of another.

    Raises:
        OSError: Nothing was changed; EEXIST: something is there.
    """
    try:
        _rename_unless_there(source, dest)
    except FileExistsError:
        if not overwrite:
            raise
        os.rename(source.name, dest.name, src_dir_fd=source.folder, dst_dir_fd=dest.folder)


def remove_folder(inside: Confinement, place: fs.Place, path: str, *, recursive: bool) -> None:
    """Remove an empty folder; ``recursive``: any folder with all below it, once all has been looked at and may go.

    Raises:
        ToolProblem: It holds what stays, or more than one call removes: nothing was removed. ``incomplete``: it changed
            meanwhile, or the system said no: a part is gone.
        OSError: Nothing was removed.
    """
    try:
        # First, since a mount point says so, and is not to be looked into.
        os.rmdir(place.name, dir_fd=place.folder)
    except OSError as exc:
        if not recursive or exc.errno != errno.ENOTEMPTY:
            raise
    else:
        return
    top = fs.Opened(fs.open_below(place.folder, place.name, os.O_RDONLY | os.O_DIRECTORY), place.path)
    try:
        files = _all_below(inside, top, path)
        with _in_part(path):
            _remove_all(top.descriptor, files)
            os.rmdir(place.name, dir_fd=place.folder)
    finally:
        os.close(top.descriptor)


def _all_below(inside: Confinement, top: fs.Opened, path: str) -> dict[str, list[str]]:
    """The folders below ``top``, outer before inner, itself as ``.``; for each the names of what is no folder."""
    files: dict[str, list[str]] = {".": []}
    walk = Walk(inside, top)
    for seen in walk:
        if seen.is_folder:
            files[seen.below] = []
        elif seen.is_file or seen.entry.is_symlink():
            files[seen.below.rpartition("/")[0] or "."].append(seen.entry.name)
        else:
            raise ToolProblem("denied", f"{path} holds what is no file, folder or link, so nothing was deleted.")
    if walk.unseen:
        raise ToolProblem("denied", f"{path} holds {walk.unseen}, so nothing was deleted. Delete less at a time.")
    return files


def _remove_all(top: int, files: dict[str, list[str]]) -> None:
    # From the innermost on; each by its way from the top, so that a folder swapped for a link leads nowhere.
    for below in reversed(files):
        with _open_below(top, below) as folder:
            for name in files[below]:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
        if below != ".":
            parent, _, name = below.rpartition("/")
            with _open_below(top, parent or ".") as folder:
                os.rmdir(name, dir_fd=folder)


@contextmanager
def _open_below(top: int, below: str) -> Iterator[int]:
    folder = fs.open_below(top, below, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _in_part(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        sentence = f"{path} was deleted in part only: {exc.strerror}. Look at what is left with list_contents."
        raise ToolProblem("incomplete", sentence) from exc


def _rename_unless_there(source: fs.Place, dest: fs.Place) -> None:
    try:
        calls.rename_unless_there(source.folder, source.name, dest.folder, dest.name)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    else:
        return
    # Some file systems, such as Windows folders under WSL2, cannot promise it: take the name first, with nothing in
    # it, which fails when it is taken; then replace that.
    is_folder = stat.S_ISDIR(os.stat(source.name, dir_fd=source.folder, follow_symlinks=False).st_mode)
    if is_folder:
        os.mkdir(dest.name, FOLDER_MODE, dir_fd=dest.folder)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(dest.name, flags, FILE_MODE, dir_fd=dest.folder))
    try:
        os.rename(source.name, dest.name, src_dir_fd=source.folder, dst_dir_fd=dest.folder)
    except OSError:
        with suppress(OSError):
            (os.rmdir if is_folder else os.unlink)(dest.name, dir_fd=dest.folder)
        raise
