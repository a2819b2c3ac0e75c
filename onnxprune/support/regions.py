"""Regions: mapped files, and values that are computed from those of other regions when they are read."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_FOLDERS = ("/var/tmp",)
"""Folders on a disk for values that are made; the temporary folder may be one of memory."""


class Region:
    """A mapped file, or the values of one tensor in a file without a name.

    Args:
        pages: The mapping; without one it is made at its first use.

    Attributes:
        number: Number in this process.
    """

    _numbers = count(1)

    def __init__(self, pages: mmap.mmap | None = None) -> None:
        self._pages, self.number = pages, next(self._numbers)
        REGIONS[self.number] = self

    @staticmethod
    def of_file(path: Path) -> Region:
        """Map a file for reading.

        Raises:
            OSError: It cannot be read.
            ValueError: It is empty.
        """
        with path.open("rb") as stream:
            return Region(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))

    @staticmethod
    def of_blocks(blocks: Iterable[Array]) -> Region:
        """Write values into a file without a name, block by block, and map it.

        Raises:
            OSError: There is no room for it.
        """
        return Region(_mapped(blocks))

    @property
    def pages(self) -> mmap.mmap:
        """The mapping."""
        if self._pages is None:
            self._pages = self._made()
        return self._pages

    def _made(self) -> mmap.mmap:
        raise NotImplementedError

    def computed(self) -> Iterator[Array] | None:
        """Return the values in blocks where they are not mapped yet."""
        return None

    def give_back(self) -> None:
        """Give the pages back to the system, which reads them again when they are touched."""
        if self._pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)


class ComputedRegion(Region):
    """The values of one tensor, computed block by block whenever they are read.

    The first reading of all of them at once writes them into a file without a name, or into memory where
    there is no room for it.

    Args:
        compute: Function that returns the blocks, the same ones at each call. It holds the regions it reads.
    """

    def __init__(self, compute: Callable[[], Iterator[Array]]) -> None:
        super().__init__()
        self._compute: Callable[[], Iterator[Array]] | None = compute

    def computed(self) -> Iterator[Array] | None:
        """Return the values in blocks where they are not mapped yet."""
        return self._compute() if self._compute is not None else None

    def _made(self) -> mmap.mmap:
        assert self._compute is not None
        try:
            pages = _mapped(self._compute())
        except OSError:
            pages = _in_memory(self._compute())
        self._compute = None
        return pages


REGIONS: WeakValueDictionary[int, Region] = WeakValueDictionary()
"""All regions of this process by number."""


def bytes_of(values: Array) -> memoryview:
    """Return the bytes of an array in the order of its elements; nothing is copied where they lie so."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _mapped(blocks: Iterable[Array]) -> mmap.mmap:
    with tempfile.TemporaryFile(dir=_folder()) as stream:
        for block in blocks:
            stream.write(bytes_of(block))
        stream.flush()
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _in_memory(blocks: Iterable[Array]) -> mmap.mmap:
    content = b"".join(map(bytes_of, blocks))
    pages = mmap.mmap(-1, len(content))  # shared, so that pages that are given back keep their content
    pages.write(content)
    return pages


def _folder() -> str | None:
    """Return the folder for values that are made; ``None`` for the usual temporary one."""
    if os.environ.get("TMPDIR"):
        return None
    return next((folder for folder in _FOLDERS if os.access(folder, os.W_OK)), None)
