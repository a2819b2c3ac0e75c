"""Outputs whose width is opened: an identity product behind each reads the width and keeps the output's.

The caller of a model reads the width of an output, so no channel of the tensor may go, nor any of those
coupled with it, such as a whole residual stream. Behind the identity the output has its width, and the tensor
before is free to lose channels. Multiplication by one and addition of zeros are exact for finite numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from onnxprune.algebra.sizes.algebra import Extent
from onnxprune.analysis.shapes import Shapes
from onnxprune.errors import UsageError
from onnxprune.ir import Model

_SPATIAL = 4
"""Axes from which the channels lie on axis 1, as behind a convolution."""


def freed(model: Model, names: Sequence[str], shapes: Shapes) -> Model:
    """Return the model with an identity product behind some of its outputs.

    Args:
        model: The model; it stays as it is.
        names: Names of outputs.
        shapes: Inferred shapes.

    Raises:
        UsageError: There is no such output, or its width is not fixed.
    """
    model = model.copy()
    for name in names:
        output = next((value for value in model.outputs if value.name == name), None)
        if output is None:
            known = ", ".join(repr(value.name) for value in model.outputs)
            raise UsageError(f"{model.name} has no output {name!r}", f"it has {known}")
        _free(model, name, _width(model, output, shapes.sizes.get(name, ())))
    return model


def _width(model: Model, output: onnx.ValueInfoProto, shape: Sequence[Extent]) -> tuple[int, int]:
    """Return the number of axes of an output, and the size of its axis of channels."""
    name, kind = output.name, output.type.tensor_type
    if name not in model.main.producers:
        raise UsageError(f"output {name!r} is no result of a node", "there is nothing to prune before it")
    if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
        raise UsageError(f"output {name!r} is not of a floating type", "its channels cannot be multiplied")
    rank = len(shape)
    if rank < 2:
        raise UsageError(f"output {name!r} has no axis of channels", f"its shape is {list(shape)}")
    axis = 1 if rank >= _SPATIAL else rank - 1
    size = shape[axis]
    if not isinstance(size, int):
        raise UsageError(f"axis {axis} of output {name!r} has no fixed size", "only fixed widths can shrink")
    return rank, size


def _free(model: Model, name: str, width: tuple[int, int]) -> None:
    """Rename the result of a node, and let an identity product have its name."""
    rank, channels = width
    number = model.main.producers[name]
    inner = model.fresh(f"{name}__inner")
    for node in model.all_nodes:
        for place, operand in enumerate(node.input):
            if operand == name:
                node.input[place] = inner
    output = next(value for value in model.outputs if value.name == name)
    kind = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
    identity = np.eye(channels, dtype=kind)
    operator = "Conv" if rank >= _SPATIAL else "MatMul"
    weight = identity.reshape(channels, channels, *[1] * (rank - 2)) if operator == "Conv" else identity
    constant = model.add_constant(f"{name}__identity", weight)
    producer = model.nodes[number]
    producer.output[list(producer.output).index(name)] = inner
    made = helper.make_node(operator, [inner, constant], [name], name=model.fresh(f"{name}__free"))
    model.proto.graph.node.append(made)
    model.edited()
