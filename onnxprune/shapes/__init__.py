"""The size of every axis of every tensor, and the small tensors that are known before the model runs.

infer      two walks with different probes: what differs follows the input
walk       node by node, bodies included
inference  what one node makes
moving     which elements of known tensors follow the input
probes     sizes to stand for symbols
"""

from onnxprune.shapes.infer import Shapes, fitting_shapes, infer

__all__ = ["Shapes", "fitting_shapes", "infer"]
