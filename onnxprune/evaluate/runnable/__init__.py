"""Copies of a model that this runtime can run and that compute reproducible numbers.

reproducible     dropout off, random numbers seeded, integer kernels at full accuracy
rounding         activation quantisation left out
unknown          cut before operators unknown to the runtime, and before outputs that are no tensors
widened          float16 and bfloat16 as float32
partial_session  a session of the part that the runtime can run
"""

from onnxprune.evaluate.runnable.partial_session import runnable_session
from onnxprune.evaluate.runnable.reproducible import reproducible
from onnxprune.evaluate.runnable.rounding import is_rounding, steps, without_rounding
from onnxprune.evaluate.runnable.unknown import (
    RunnableModel,
    StandIn,
    cut_before,
    shown_by,
    unknown_operators,
)
from onnxprune.evaluate.runnable.widened import widened

__all__ = [
    "RunnableModel",
    "StandIn",
    "cut_before",
    "is_rounding",
    "reproducible",
    "runnable_session",
    "shown_by",
    "steps",
    "unknown_operators",
    "widened",
    "without_rounding",
]
