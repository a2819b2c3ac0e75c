"""The size of every axis as an expression of the open input axes.

infer         the analysis of a model
walk          the walk over all nodes, bodies included, with the rules of `onnxprune.ops.sizes`
inputs        the open axes: names, and numbers given for them
caches        inputs that are returned with more elements
delegation    operators without a rule
result        the sizes of all tensors
solve, likely sizes to run a network with, and sizes to count its work at

The algebra, imported as `onnxprune.algebra.sizes.algebra`:

polynomial    sums of products, each held once
bounds        limits, by interval arithmetic
proofs        proofs that a size is never negative
division      floors, exact quotients
functions     minimum, comparisons, choices
evaluation    numbers for symbols
text          as people write them
"""

from onnxprune.algebra.sizes.conditions import Condition
from onnxprune.analysis.sizes.infer import infer_sizes
from onnxprune.analysis.sizes.inputs import OpenAxis
from onnxprune.analysis.sizes.result import SizeAnalysis

__all__ = ["Condition", "OpenAxis", "SizeAnalysis", "infer_sizes"]
