"""Files that appear whole or not at all.

A file is made in a scratch folder beside its place, flushed to the disk, and renamed. Whatever fails before
that leaves no trace. A process that is killed cannot tidy up: whoever next writes beside it does. A lock in
each scratch folder tells whether it is in use; it is the operating system's, and gone with the process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

SCRATCH = ".onnxprune-"
"""What the names of scratch folders begin with."""
_LOCK = ".lock"


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Provide a folder within another one, which is gone afterwards with all that is left in it.

    Args:
        beside: The folder that what is made is to be moved into.

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
    """Take away the scratch folders that killed processes have left in a folder."""
    for scratch in folder.glob(f"{SCRATCH}*"):
        with suppress(OSError):  # of somebody else, or not ours to take away
            if lock := _taken(scratch):
                shutil.rmtree(scratch, ignore_errors=True)
                lock.release()


def publish(file: Path, folder: Path) -> None:
    """Flush a file to the disk and rename it into a folder.

    Raises:
        OSError: That is not possible.
    """
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.replace(folder / file.name)
    if os.name == "posix":  # a rename is on the disk only once the folder is
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _locked_folder(beside: Path) -> tuple[Path, FileLock]:
    """Make a scratch folder; begin again if it is swept away before it is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=beside))
        if lock := _taken(folder):
            if folder.exists():
                return folder, lock
            lock.release()


def _taken(scratch: Path) -> FileLock | None:
    """Return the lock of a scratch folder, taken; ``None`` if somebody else has it."""
    lock = FileLock(scratch / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock
