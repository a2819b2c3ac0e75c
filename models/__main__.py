"""Write the bundled networks, and one of each kind, into a folder: ``python -m onnxprune.models FOLDER``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx

from onnxprune.models import bundled
from onnxprune.models.kinds import KINDS


def main(words: Sequence[str]) -> int:
    """Write the networks and samples and print a line for each; a file that exists already stays.

    Args:
        words: The folder, `models` by default.

    Returns:
        The exit code: 0, or 2 for more than one word.
    """
    if len(words) > 1 or any(word.startswith("-") for word in words):
        print("usage: python -m onnxprune.models [FOLDER]", file=sys.stderr)
        return 2
    folder = Path(words[0] if words else "models")
    folder.mkdir(parents=True, exist_ok=True)
    for file in bundled():
        target = folder / file.name
        if not target.exists():
            shutil.copyfile(file, target)
        print(target)
    for name, build in KINDS.items():
        target = folder / f"{name}.onnx"
        if not target.exists():
            onnx.save(build(), target)
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
