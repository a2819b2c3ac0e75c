"""What size the results of each operator have: one file a family.

A rule is given a `Node` and says what its results are; `onnxprune.ops.sizes.table` finds it by domain and
operator. What no rule knows is asked of onnx and of onnxruntime.
"""

import importlib

_FAMILIES = (
    "attention control convolution creation detection elementwise fused indexing joining layout linear "
    "quantization recurrent reduction sampling sequences signal"
).split()


def load() -> None:
    """Enter the rules of all families into the table."""
    for family in _FAMILIES:
        importlib.import_module(f"{__name__}.{family}")
