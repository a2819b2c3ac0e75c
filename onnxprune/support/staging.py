"""Files that appear whole or not at all, and files that may be deleted.

A file is made in a scratch folder beside its place, flushed to the disk, and renamed. A failure before the
rename leaves no trace. A killed process leaves its scratch folder behind: the next writer beside it removes
it. A lock in each scratch folder shows whether it is in use; it is the operating system's, and gone with the
process.

Only files of this program are deleted: a scratch folder is known by the mark in its lock, and both
folders and files must belong to the user who runs it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onnxprune.support.locks import Lock

SCRATCH = ".onnxprune-"
"""Prefix of the names of scratch folders."""
_NAME = re.compile(re.escape(SCRATCH) + r"[a-z0-9_]{8}")
_LOCK = ".lock"
MARK = b"scratch folder of onnxprune, safe to delete\n"
"""Content of their locks: it distinguishes them from folders of others."""


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Provide a folder within another one, which is removed afterwards with all its files.

    Args:
        beside: The folder that the made file is to be moved into.

    Raises:
        OSError: It cannot be made.
    """
    sweep(beside)
    folder, lock = _locked_folder(beside)
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Take away the scratch folders that killed processes of this user have left in a folder."""
    for scratch in _scratch_folders(folder):
        with suppress(OSError):  # in use, or changed by another process meanwhile
            scratch.rmdir()  # killed before it was locked: it is empty
            continue
        with suppress(OSError):
            if lock := _left(scratch):
                shutil.rmtree(scratch, ignore_errors=True)
                lock.release()


def in_use(folder: Path, except_for: Path) -> bool:
    """Return whether another process is making a file in a folder.

    Args:
        folder: The folder.
        except_for: The scratch folder of this process.
    """
    return any(scratch != except_for for scratch in _scratch_folders(folder))


def publish(file: Path, folder: Path) -> None:
    """Flush a file to the disk and rename it into a folder; a file it replaces leaves it mode and owner.

    Raises:
        OSError: That is not possible.
    """
    with suppress(FileNotFoundError):
        take_after(file, (folder / file.name).stat())
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.replace(folder / file.name)
    if os.name == "posix":  # a rename is on the disk only once the folder is
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def take_after(file: Path, other: os.stat_result) -> None:
    """Give a file the mode and the owner of another one.

    Raises:
        OSError: The owner is another user, and this one may not give files away.
    """
    if os.name != "posix":
        return
    own, mode = file.stat(), stat.S_IMODE(other.st_mode)
    if own.st_uid != other.st_uid:
        if os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
        os.chown(file, other.st_uid, other.st_gid)
    elif own.st_gid != other.st_gid:
        try:
            os.chown(file, -1, other.st_gid)
        except PermissionError:  # a group that this user is not in: it must not be another one that may read
            mode &= ~stat.S_IRWXG
    file.chmod(mode)


def may_replace(path: Path) -> bool:
    """Return whether an existing file could keep its owner if it were replaced."""
    found = path.stat()
    if os.name != "posix" or found.st_uid == os.geteuid() or not os.geteuid():
        return True
    with scratch_folder(path.parent) as scratch:  # some file systems know one owner only
        return scratch.stat().st_uid == found.st_uid


def is_own_file(path: Path) -> bool:
    """Return whether a path is a regular file, no link, of the user who runs the program."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and _is_own(found)


def _is_own(found: os.stat_result) -> bool:
    return os.name != "posix" or found.st_uid == os.geteuid()


def _scratch_folders(folder: Path) -> Iterator[Path]:
    """Yield the folders of this user that are named like scratch folders; links to such are none."""
    for found in folder.glob(f"{SCRATCH}*"):
        with suppress(OSError):
            held = found.lstat()
            if _NAME.fullmatch(found.name) and stat.S_ISDIR(held.st_mode) and _is_own(held):
                yield found


def _locked_folder(beside: Path) -> tuple[Path, Lock]:
    """Make a scratch folder; begin again if it is swept away before it is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=beside))
        try:
            lock = _taken(folder)
        except FileNotFoundError:
            continue
        if lock:
            if folder.exists():
                lock.mark(MARK)
                return folder, lock
            lock.release()


def _left(scratch: Path) -> Lock | None:
    """Return the lock of a scratch folder that a killed process has left; ``None`` if it is no such one."""
    if not is_own_file(scratch / _LOCK):  # opening the lock would make one
        return None
    lock = _taken(scratch)
    if lock and lock.content != MARK and (lock.content or len(list(scratch.iterdir())) > 1):
        lock.release()
        return None
    return lock


def _taken(scratch: Path) -> Lock | None:
    """Return the lock of a scratch folder, taken; ``None`` if another process holds it."""
    lock = Lock(scratch / _LOCK)
    try:
        if lock.take():
            return lock
    except OSError:
        lock.release()
        raise
    lock.release()
    return None
