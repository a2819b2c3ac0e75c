"""A budget from outside the package: the bytes of all activations of one run."""

import onnx

from onnxprune.algebra.kept_axes import at_numbers
from onnxprune.analysis.groups.cost import Polynomial


def activation_memory(channels):
    """Return the bytes of all results of nodes, as a polynomial in the channels that remain."""
    typing, free = channels.typing, {group.factor for group in channels.groups}
    products = []
    for name in {name for node in typing.nodes for name in node.output}:
        if name in typing.axes and name not in channels.model.constants:
            kind = onnx.helper.tensor_dtype_to_np_dtype(typing.shapes.types[name])
            sizes = [at_numbers(dim, typing.shapes.number) for dim in typing.axes[name]]
            products.append((float(kind.itemsize), sizes))
    return Polynomial(products, free)
