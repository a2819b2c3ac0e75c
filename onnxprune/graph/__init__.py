"""A model in memory.

model       the file's own message, and quick ways through it
attributes  what a node holds, made when it is asked for
interface   inputs and outputs whose axes may shrink
reading     from a file, external data included
meaning     forms that some writers use, brought into the usual one
functions   local functions put in the places of their calls
damage      what is wrong with a file that cannot be read
"""

from onnxprune.graph.attributes import Attributes, attributes
from onnxprune.graph.interface import OPEN_KEY, fixed_axes, open_values, opened
from onnxprune.graph.model import (
    OLDEST_OPSET,
    Model,
    bodies,
    captured,
    check,
    check_weights,
    flat,
    goes_on,
    label,
    load,
    skeleton,
    subgraphs,
)

__all__ = [
    "OLDEST_OPSET",
    "OPEN_KEY",
    "Attributes",
    "Model",
    "attributes",
    "bodies",
    "captured",
    "check",
    "check_weights",
    "fixed_axes",
    "flat",
    "goes_on",
    "label",
    "load",
    "open_values",
    "opened",
    "skeleton",
    "subgraphs",
]
