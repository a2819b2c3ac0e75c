"""One table: how gradients flow back over every operator, spelled in operators of the standard domain.

An entry is a function from a node and a tape to nothing: it reads the gradients of the node's results from
the tape and gives the operands theirs. An operator whose pullback needs more than operands and results has a
forward form, too, which keeps it.
"""

from __future__ import annotations

from onnxprune.train.pullbacks import (
    activation,
    arithmetic,
    convolution,
    indexing,
    layout,
    long_short_term,
    loss,
    normalization,
    pooling,
    products,
    recurrent,
    reduction,
    winograd,
)
from onnxprune.train.pullbacks.registry import FORWARDS, PULLBACKS, ForwardNode, pullback_of
from onnxprune.train.pullbacks.tape import Gradient, Tape
from onnxprune.train.pullbacks.writer import Writer

__all__ = [
    "FORWARDS",
    "PULLBACKS",
    "ForwardNode",
    "Gradient",
    "Tape",
    "Writer",
    "activation",
    "arithmetic",
    "convolution",
    "indexing",
    "layout",
    "long_short_term",
    "loss",
    "normalization",
    "pooling",
    "products",
    "pullback_of",
    "recurrent",
    "reduction",
    "winograd",
]
