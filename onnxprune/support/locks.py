"""Locks between processes: the operating system's, on an open file, and gone with the process.

Opening a lock neither follows a link nor changes the content of the file: the owner of a prepared folder
cannot have another file emptied by it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)


class Lock:
    """A file that one open descriptor at a time holds.

    Args:
        path: The file; it is made where there is none.

    Raises:
        OSError: It cannot be opened, or is a link or no regular file.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, _FLAGS, 0o600)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            raise OSError(errno.EINVAL, "not a regular file", str(path))

    def take(self) -> bool:
        """Take the lock if it is free; return whether it is now held."""
        try:
            _lock(self._descriptor)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    @property
    def content(self) -> bytes:
        """The first bytes of the file."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return os.read(self._descriptor, 256)

    def mark(self, content: bytes) -> None:
        """Write a few bytes that mark the owner of the file."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, content)

    def release(self) -> None:
        """Close the file, and so release the lock; a second call has no effect."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Hold a lock for the block, if it is free.

    Yields:
        True if it is held.

    Raises:
        OSError: As for `Lock`.
    """
    lock = Lock(path)
    try:
        yield lock.take()
    finally:
        lock.release()


if os.name == "nt":
    import msvcrt

    def _lock(descriptor: int) -> None:
        """Lock a byte far behind the content, which stays readable."""
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
