"""A model in memory.

model    the file's own message, and quick ways through it
reading  from a file, external data included
damage   what is wrong with a file that cannot be read
"""

from onnxprune.graph.model import (
    OLDEST_OPSET,
    Model,
    attributes,
    bodies,
    captured,
    check,
    check_weights,
    flat,
    label,
    load,
    skeleton,
    subgraphs,
)

__all__ = [
    "OLDEST_OPSET",
    "Model",
    "attributes",
    "bodies",
    "captured",
    "check",
    "check_weights",
    "flat",
    "label",
    "load",
    "skeleton",
    "subgraphs",
]
