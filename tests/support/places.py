"""Folders of the repository that tests read from."""

from __future__ import annotations

import os
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
CASES = TESTS / "cases"
"""Small ONNX files, each with a construct that was once read wrongly."""


def python_path(*folders: Path) -> str:
    """Return a ``PYTHONPATH`` for child processes: shared modules of tests, `folders`, the present one."""
    own = [str(SUPPORT), *map(str, folders)]
    return os.pathsep.join([*own, *filter(None, [os.environ.get("PYTHONPATH")])])
