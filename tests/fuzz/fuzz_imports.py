"""Import all that commands import when they first need it: children that are forked have it then."""

import importlib
import pkgutil

import onnxruntime  # noqa: F401

import onnxprune

for _module in pkgutil.walk_packages(onnxprune.__path__, "onnxprune."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)
