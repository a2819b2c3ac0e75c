"""The size of every axis as an expression of the open input axes.

infer           the analysis of a model
walk            the walk over all nodes, bodies included, with the rules of `onnxprune.ops.sizes`
inputs          the open axes: names, and numbers given for them
caches          inputs that are returned with more elements
delegation      operators without a rule
result          the sizes of all tensors
likely          likely sizes of open axes, by the kind of input they are of
runnable_sizes  sizes of the inputs that a network runs with
solve, likely sizes to run a network with, and sizes to count its work at

The algebra is that of `onnxprune.algebra.sizes`.
"""

from onnxprune.algebra.sizes.conditions import Condition
from onnxprune.analysis.sizes.infer import infer_sizes
from onnxprune.analysis.sizes.inputs import OpenAxis
from onnxprune.analysis.sizes.result import SizeAnalysis

__all__ = ["Condition", "OpenAxis", "SizeAnalysis", "infer_sizes"]
