"""Writes the package configuration to a file for ``olive run --package-config`` and prints its name."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from onnxprune.olive import package_config

USAGE = "usage: python -m onnxprune.olive [FILE]"


def main(arguments: list[str]) -> int:
    """Write the configuration.

    Args:
        arguments: The file to write; without one a new file in the folder for temporary files.

    Returns:
        The exit status: 0 written; 1 Olive is not installed, or there is such a file; 2 usage.
    """
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        text = json.dumps(package_config(), indent=4)
    except ModuleNotFoundError:
        print("error: Olive is not installed\nhint: pip install olive-ai", file=sys.stderr)
        return 1
    path = Path(
        arguments[0] if arguments else Path(tempfile.mkdtemp(prefix="onnxprune-olive-"), "config.json")
    )
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        print(f"error: cannot write {path}: {error.strerror}\nhint: name a new file", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
