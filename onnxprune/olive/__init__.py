"""A pass for Microsoft's Olive (https://github.com/microsoft/Olive): structured pruning in an Olive workflow.

olive run --config workflow.json --package-config "$(python -m onnxprune.olive)"

The package configuration lists Olive's own passes and `OnnxPrune`. From Python:
``olive.run(workflow, package_config=onnxprune.olive.package_config())``.
"""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def package_config() -> dict[str, Any]:
    """Return the package configuration of the installed Olive with the pass of this package in it.

    Raises:
        ModuleNotFoundError: Olive is not installed.
    """
    spec = find_spec("olive")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("Olive is not installed")
    found: dict[str, Any] = json.loads(Path(spec.origin).with_name("olive_config.json").read_text("utf-8"))
    own: dict[str, Any] = json.loads(files(__name__).joinpath("package_config.json").read_text("utf-8"))
    found["passes"] |= own["passes"]
    found.setdefault("extra_dependencies", {}).update(own["extra_dependencies"])
    return found
