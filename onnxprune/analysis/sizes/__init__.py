"""The size of every axis as an expression of the open input axes.

infer         the analysis of a model
walk, node    node by node, bodies included; one node as its rule sees it
operators     the rules, one file a family; asking: operators without one
facts         what is learnt of symbols; conditions: what is demanded of them
inputs        the open axes: names, and numbers given for them
arithmetic    small tensors, element by element

The algebra, imported as `onnxprune.algebra.sizes.algebra`:

polynomial    sums of products, each held once
bounds        limits, by interval arithmetic
proofs        what is never negative
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
