"""The rules, by families of operators.

node_pair       two nodes; the table of rules
layers          linear layers, and the biases and groups of their channels
convolutions, products, einsum    sums of products
elementwise, quantisation    operators element by element
moves, windows, reductions    tensors rearranged, and elements taken together
picking         elements picked, ordered or replaced at computed places
recurrent, bodies    operators with steps, and with graphs inside
"""

from onnxprune.certify.rules import (
    bodies,
    convolutions,
    einsum,
    elementwise,
    moves,
    picking,
    products,
    quantisation,
    recurrent,
    reductions,
    windows,
)
from onnxprune.certify.rules.node_pair import RULES, NodePair

FAMILIES = (
    bodies, convolutions, einsum, elementwise, moves, picking, products, quantisation, recurrent, reductions,
    windows,
)  # fmt: skip
"""The modules that enter their rules into the table."""
__all__ = ["FAMILIES", "RULES", "NodePair"]
