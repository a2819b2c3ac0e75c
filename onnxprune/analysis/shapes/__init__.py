"""The shapes of a network as the other rooms read them: sizes, known values, types, reference numbers.

shape_inference  one object for all tensors of a model
reference        a number for each open size, for costs and for runs
node_evaluation  one node, run on known operands by onnx's reference implementation
"""

from onnxprune.analysis.shapes.shape_inference import Shapes, fitting_shapes, infer

__all__ = ["Shapes", "fitting_shapes", "infer"]
